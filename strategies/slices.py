"""`slices`: a chain of block runs over several peers.

Two peers make head and tail (after "Batching Model Slices", Mubark and Uddin); more make a pipeline (after PipeEdge).
Peers, cuts and wire dtypes are chosen together, for the goal; `optimum` says how, and what "best" is among.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from swarm.errors import CannotSplit, NoFit
from swarm.plan import Candidate, Goal, Plan
from swarm.strategies.balance import between_blocks, equal_cuts
from swarm.strategies.chain import draft
from swarm.strategies.costs import Costs
from swarm.strategies.optimum import Found, first_fit, in_order, optimum, shortlist
from swarm.strategies.scope import Scope
from swarm.strategies.shortage import shortage
from swarm.strategies.strategy import fitting, shares
from swarm.strategies.wishes import wished_cuts, wished_peers
from swarm.types import ModelProfile, PeerId

MOST_DEVICES: Final = 12
"""The search over sets of devices doubles with each one more: 12 are 24 576 rows."""

MOST_PLACES: Final = 64
"""Cuts to choose from; a model with more stages is cut between its blocks."""

MOST_LISTED: Final = 4
"""Plans for exactly two, three and four devices stand in the contest beside the best of all."""


class Slices:
    """What the goal insists on, or the best chain, its rivals with few devices, and equal shares for everybody."""

    def propose(self, costs: Costs, goal: Goal) -> list[Candidate]:
        if costs.model.uncut_reason is not None:
            raise CannotSplit(
                f"{costs.model.name} cannot be cut: {costs.model.uncut_reason} Run it with --strategy local."
            )
        if goal.split is not None or goal.peers is not None:
            plan = _as_wished(costs, goal)
            return [Candidate(f"slices: {shares(plan, costs)}", plan)]
        if costs.is_blind or len(costs.devices) < 2:
            return _unmeasured(costs, goal)
        equal = _equal(costs, goal, [costs.records[row].id for row in costs.devices])
        best = _distinct(costs, goal, _searched(costs, goal)) or [Candidate("slices", None, verdict=shortage(costs))]
        return sorted([*best, equal], key=lambda candidate: candidate.plan is None)


def _searched(costs: Costs, goal: Goal) -> list[Found]:
    """The best of all first."""
    scope = Scope(costs, strongest(costs), places(costs.model), goal.wires)
    found = optimum(scope, goal.metric)
    if found is not None:
        return [found, *shortlist(scope, goal.metric, MOST_LISTED)]
    everybody = replace(scope, devices=_by_speed(costs, costs.devices))
    found = first_fit(everybody) if len(everybody.devices) > MOST_DEVICES else None
    return [] if found is None else [found]


def _distinct(costs: Costs, goal: Goal, found: Sequence[Found]) -> list[Candidate]:
    plans = [_plan(costs, goal, one) for one in dict.fromkeys(found)]
    first = {plan.steps: plan for plan in reversed(plans)}
    return [Candidate(f"slices: {shares(plan, costs)}", plan) for plan in plans if first[plan.steps] is plan]


def _unmeasured(costs: Costs, goal: Goal) -> list[Candidate]:
    """Equal shares; where somebody has too little memory for that, the evenest ones that fit."""
    equal = _equal(costs, goal, wished_peers(costs, goal))
    if equal.plan is not None or len(costs.devices) < 2:
        return [equal]
    found = optimum(Scope(costs, strongest(costs), places(costs.model), goal.wires), "memory")
    return [*_distinct(costs, goal, [found]), equal] if found else [equal]


def _equal(costs: Costs, goal: Goal, peers: Sequence[PeerId]) -> Candidate:
    peers = peers[: len(between_blocks(costs.model)) + 1]
    plan = draft("slices", costs, goal, peers, equal_cuts(costs.model, len(peers)))
    return fitting(f"slices, equal shares: {shares(plan, costs)}", plan, costs)


def _as_wished(costs: Costs, goal: Goal) -> Plan:
    if goal.split is None:
        return _on_these(costs, goal)
    cuts = wished_cuts(costs.model, goal.split)
    scope = Scope(costs, strongest(costs), tuple(cuts), goal.wires, at_every_place=True)
    if goal.peers is None and not costs.is_blind and 1 < len(cuts) - 1 <= len(scope.devices):
        found = optimum(scope, goal.metric)
        if found is None:
            raise NoFit(shortage(costs, cuts=cuts))
        return _plan(costs, goal, found)
    return draft("slices", costs, goal, wished_peers(costs, goal)[: len(cuts) - 1], cuts)


def _on_these(costs: Costs, goal: Goal) -> Plan:
    """The best cuts for the peers that the goal names, in its order; equal shares unless all are measured."""
    peers = wished_peers(costs, goal)[: len(between_blocks(costs.model)) + 1]
    if not all(map(costs.knows, peers)):
        return draft("slices", costs, goal, peers, equal_cuts(costs.model, len(peers)))
    rows = tuple(costs.index[peer] for peer in peers)
    found = in_order(Scope(costs, rows, places(costs.model), goal.wires), goal.metric)
    if found is None:
        raise NoFit(shortage(costs, rows))
    return _plan(costs, goal, found)


def _plan(costs: Costs, goal: Goal, found: Found) -> Plan:
    peers = [costs.records[row].id for row in found.devices]
    return draft("slices", costs, goal, peers, found.cuts, found.wires)


def strongest(costs: Costs) -> tuple[int, ...]:
    """At most `MOST_DEVICES` rows, quick ones first.

    Those that would answer soonest with the whole model, times as many of their like as it takes to hold it: speed,
    link and memory in one figure. A requester that computes is always among them.
    """
    needed = costs.span_bytes(0, len(costs.model.stages))
    whole_s = costs.whole_s()

    def burden(row: int) -> tuple[bool, float, int]:
        alike = max(1.0, needed / max(1.0, float(costs.limit_bytes[row])))
        return row != costs.me, float(whole_s[row]) * alike, row

    kept = sorted(costs.devices, key=burden)[:MOST_DEVICES]
    return _by_speed(costs, kept)


def _by_speed(costs: Costs, rows: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(rows, key=lambda row: (costs.done_s[row, -1], row)))


def places(model: ModelProfile) -> tuple[int, ...]:
    """Where the search may cut: anywhere between stages; between blocks where that is too much; else at every
    second, third, … block."""
    stages = len(model.stages)
    inner = list(range(1, stages)) if stages <= MOST_PLACES else between_blocks(model)
    return (0, *inner[:: -(-len(inner) // MOST_PLACES) or 1], stages)
