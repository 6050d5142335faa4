"""`slices`: a chain of block runs over several peers.

Two peers make head and tail (after "Batching Model Slices", Mubark and Uddin); more make a pipeline. Without a wish of
the user, the cuts balance compute time: the slowest peer's share is as small as contiguous runs allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from itertools import accumulate, pairwise

from swarm.errors import CannotSplit, NoPeers
from swarm.plan import Goal, Plan
from swarm.strategies.chain import chain, present, rate
from swarm.types import ModelProfile, PeerId, View

Shares = dict[int, tuple[float, list[int]]]
"""By stages done, rising: the slowest peer's time, and the cuts."""


class Slices:
    """Peers in the goal's order, or by id; the requester takes the head when too few others are here."""

    def propose(self, model: ModelProfile, view: View, goal: Goal) -> list[Plan]:
        if model.uncut_reason is not None:
            raise CannotSplit(f"{model.name} cannot be cut: {model.uncut_reason} Run it with --strategy local.")
        peers = _peers(view, goal)
        if goal.split is None:
            peers = peers[: _most_parts(model)]
            cuts = balanced_cuts(model, [rate(view.find(peer)) for peer in peers])
        else:
            cuts = _wished_cuts(model, goal.split)
            peers = peers[: len(cuts) - 1]
        return [chain("slices", model, view, goal, peers, cuts)]


def balanced_cuts(model: ModelProfile, rates: Sequence[float]) -> list[int]:
    """Cuts before blocks that make the slowest peer's compute time least; equal speeds unless all are known.

    Dynamic programming over (peers used, stages done); of equally good cuts the earliest wins.
    """
    speeds = rates if all(rates) else [1.0] * len(rates)
    places = _places(model)
    flops_before = [0, *accumulate(stage.flops for stage in model.stages)]
    worst: Shares = {0: (0.0, [0])}
    for i, speed in enumerate(speeds):
        ends = [len(model.stages)] if i == len(speeds) - 1 else places
        best = {end: _last_share(worst, flops_before, end, speed) for end in ends}
        worst = {end: (share[0], [*share[1], end]) for end, share in best.items() if share is not None}
    return worst[len(model.stages)][1]


def _last_share(worst: Shares, flops_before: Sequence[int], end: int, speed: float) -> tuple[float, list[int]] | None:
    """The best of all ways to add a peer that runs up to `end`: the slowest time then, and the cuts before.

    From the back, for its own time grows with every stage more: once that alone is too much, nothing better comes.
    """
    best: tuple[float, list[int]] | None = None
    for start in reversed(worst):
        if start >= end:
            continue
        time = (flops_before[end] - flops_before[start]) / speed
        if best is not None and time > best[0]:
            break
        slowest, path = worst[start]
        way = (max(slowest, time), path)
        best = way if best is None else min(best, way)
    return best


def _peers(view: View, goal: Goal) -> list[PeerId]:
    parts = len(goal.split) + 1 if goal.split is not None else 2
    if goal.peers is not None:
        peers = present(view, goal.peers)
    else:
        others = [host.id for host in view.hosts() if host.id != view.me]
        me_hosts = any(host.id == view.me for host in view.hosts())
        peers = [view.me, *others] if me_hosts or len(others) < parts else others
    if len(peers) < min(parts, 2) or (goal.split is not None and len(peers) < parts):
        raise NoPeers(
            f"This split needs {parts} peers and only {len(peers)} can be used; start `swarm join` on more devices, "
            "or ask for fewer parts."
        )
    return peers


def _places(model: ModelProfile) -> list[int]:
    """Where a balanced cut may lie: between blocks, or anywhere in a model with hardly any."""
    blocks = sorted({place for place in model.blocks if 0 < place < len(model.stages)})
    return blocks if len(blocks) > 1 else list(range(1, len(model.stages)))


def _most_parts(model: ModelProfile) -> int:
    return len(_places(model)) + 1


def _wished_cuts(model: ModelProfile, split: Sequence[int | str]) -> list[int]:
    cuts = [0, *(_place(model, wish) for wish in split), len(model.stages)]
    if any(a >= b for a, b in pairwise(cuts)):
        wishes = ",".join(map(str, split))
        raise CannotSplit(
            f"A split at {wishes} leaves a part of {model.name} empty; give rising numbers between 0 and "
            f"{len(model.blocks) - 1}, the number of its blocks."
        )
    return cuts


def _place(model: ModelProfile, wish: int | str) -> int:
    """How many stages come before the place that a user named by the block after it, or by the cut itself."""
    blocks = len(model.blocks) - 1
    if isinstance(wish, int):
        if not 0 <= wish <= blocks:
            raise CannotSplit(f"{model.name} has {blocks} blocks: split before one of 0 to {blocks}, not {wish}.")
        return model.blocks[wish]
    for index, stage in enumerate(model.stages[:-1]):
        if stage.name == wish:
            return index + 1
    near = get_close_matches(wish, [stage.name for stage in model.stages[:-1]], 3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"use block numbers from 0 to {blocks}."
    raise CannotSplit(f"{model.name} has no cut called '{wish}'; {hint}")
