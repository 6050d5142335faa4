"""What a user insists on: cuts by block or by name, and peers in their order."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise

from swarm.errors import CannotSplit, NoPeers
from swarm.plan import Goal
from swarm.strategies.chain import present
from swarm.strategies.costs import Costs
from swarm.types import ModelProfile, PeerId


def wished_peers(costs: Costs, goal: Goal) -> list[PeerId]:
    """As the goal names them, else all hosts by id; the requester takes the head when too few others are here.

    :raises NoPeers: too few for the split, or one of those named is not here.
    """
    parts = len(goal.split) + 1 if goal.split is not None else 2
    peers = present(costs.view, goal.peers) if goal.peers is not None else _everybody(costs, parts)
    if len(peers) < min(parts, 2) or (goal.split is not None and len(peers) < parts):
        raise NoPeers(
            f"This split needs {parts} peers and only {len(peers)} can be used; start `swarm join` on more devices, "
            "or ask for fewer parts."
        )
    return peers


def _everybody(costs: Costs, parts: int) -> list[PeerId]:
    others = [costs.records[row].id for row in costs.hosts if row != costs.me]
    return [costs.view.me, *others] if costs.me in costs.hosts or len(others) < parts else others


def wished_cuts(model: ModelProfile, split: Sequence[int | str]) -> list[int]:
    """Places of the cuts that `split` names, with both ends. Raises `CannotSplit` where there is no such cut."""
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
