"""Which peers make a group, and who of them leads: the part that `tokens`, `columns` and `partial` have in common.

The requester leads wherever it computes, since the input and the answer are there, and it cannot be lost; else the peer
that alone would answer soonest. The quickest of the others join it, two in all, then three, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from swarm.errors import NoPeers, UsageError
from swarm.plan import Candidate, Goal, OnLoss, Plan
from swarm.strategies.chain import present
from swarm.strategies.costs import Costs
from swarm.strategies.grouping import Deal, together
from swarm.strategies.inside import Run, run_of, weight_of
from swarm.strategies.links import Floats
from swarm.strategies.lockstep import seconds_of
from swarm.strategies.merit import by_merit
from swarm.strategies.sharing import alike
from swarm.strategies.strategy import counted, fitting, shares
from swarm.types import PeerId

MOST_MEMBERS: Final = 12
"""Unasked; each message costs time, and there are as many as pairs."""

MOST_NAMED: Final = 64
"""A step's peers, by its own bounds."""

MOST_LISTED: Final = 4
"""Groups of exactly two, three and four stand in the contest beside the best of all."""


@dataclass(frozen=True, slots=True, eq=False)
class Team:
    """Peers that may share a run, the lead first, in the numbers that a deal takes."""

    costs: Costs
    run: Run
    rows: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.rows)

    def whole_s(self) -> Floats:
        """`[D]`: all the blocks on each of them alone."""
        rows = np.array(self.rows)
        return alike(seconds_of(self.costs, rows, (self.run.start, self.run.end)).sum(axis=0))

    def apart_bytes(self) -> Floats:
        """`[D]`: what each holds whatever its shares: activations, norms, and for the lead what is around the run."""
        costs, run = self.costs, self.run
        stages = costs.model.stages
        fixed = sum(weight_of(stage).fixed for stage in stages[run.start : run.end])
        around = costs.held_bytes[-1] - costs.held_bytes[run.end] + costs.held_bytes[run.start]
        apart = np.full(self.size, fixed + float(costs.working_bytes[run.start : run.end].max()))
        apart[0] = fixed + float(around) + float(costs.working_bytes.max())
        return apart

    def unit_bytes(self) -> tuple[float, float]:
        """Of a head of every block, and of a neuron of every block."""
        weights = [weight_of(stage) for stage in self.costs.model.stages[self.run.start : self.run.end]]
        return sum(weight.head for weight in weights), sum(weight.neuron for weight in weights)

    def free_bytes(self) -> Floats:
        """`[D]`: for heads and neurons."""
        free: Floats = self.costs.limit_bytes[list(self.rows)] - self.apart_bytes()
        return free


class Way(Protocol):
    """One way to share the blocks of a run."""

    name: str

    def most(self, run: Run) -> int:
        """How many members it can have at most."""

    def deal(self, team: Team, goal: Goal) -> Deal | None:
        """The best shares; None where memory has no room for any. Raises `UsageError` for what cannot be asked."""

    def equal(self, team: Team, goal: Goal) -> Deal:
        """As if all were alike, and had room for anything."""

    def on_loss(self, goal: Goal) -> OnLoss:
        """What becomes of a request under which a member goes."""


def candidates(way: Way, costs: Costs, goal: Goal) -> list[Candidate]:
    """As a strategy proposes them: the best for the goal first, its rivals of few members, then equal shares."""
    if goal.split is not None:
        raise UsageError(
            f"The strategy '{way.name}' shares every block and cuts nowhere; leave --split out, or use --strategy "
            "slices."
        )
    run = run_of(costs.model)
    if run is None:
        reason = costs.model.inside_reason or f"no block of {costs.model.name} can be shared out"
        return [Candidate(way.name, None, verdict=reason)]
    if goal.peers is not None:
        plan = _as_wished(way, costs, goal, run, goal.peers)
        return [Candidate(f"{way.name}: {shares(plan, costs)}", plan)]
    rows = _in_turn(costs)
    if len(rows) < 2:
        raise NoPeers(
            f"The strategy '{way.name}' needs 2 peers and only {len(rows)} can be used; start `swarm join` on more "
            "devices."
        )
    rows = rows[: min(MOST_NAMED, way.most(run))]
    if len(rows) < 2:
        raise UsageError(_too_many(way, run, costs, 2))
    return _unasked(way, costs, goal, run, rows)


def _unasked(way: Way, costs: Costs, goal: Goal, run: Run, rows: Sequence[int]) -> list[Candidate]:
    everybody = Team(costs, run, tuple(rows[:MOST_MEMBERS]))
    equal = _candidate(way, everybody, goal, way.equal(everybody, goal), ", equal shares")
    if costs.is_blind:
        return [equal]
    tried = _tried(way, costs, goal, run, rows, range(2, min(len(rows), MOST_MEMBERS) + 1))
    if all(one.plan is None for one in tried):
        tried += _tried(way, costs, goal, run, rows, range(MOST_MEMBERS + 1, len(rows) + 1))
    ranked = by_merit(tried, goal)
    few = [one for one in ranked[1:] if one.plan is not None and _members(one.plan) <= MOST_LISTED]
    best = [*ranked[:1], *few] or tried[-1:]
    known = {one.plan.steps for one in best if one.plan is not None}
    equals = [] if equal.plan is not None and equal.plan.steps in known else [equal]
    return sorted([*best, *equals], key=lambda candidate: candidate.plan is None)


def _tried(way: Way, costs: Costs, goal: Goal, run: Run, rows: Sequence[int], sizes: range) -> list[Candidate]:
    found = list[Candidate]()
    for size in sizes:
        team = Team(costs, run, tuple(rows[:size]))
        deal = way.deal(team, goal)
        found.append(_candidate(way, team, goal, deal or way.equal(team, goal), ""))
    return found


def _candidate(way: Way, team: Team, goal: Goal, deal: Deal, kind: str) -> Candidate:
    plan = _plan(way, team, goal, deal)
    return fitting(f"{way.name}{kind}: {shares(plan, team.costs)}", plan, team.costs)


def _plan(way: Way, team: Team, goal: Goal, deal: Deal) -> Plan:
    """Nobody goes on without the lead: where it can be lost, a loss is met as the goal has it."""
    on_loss = way.on_loss(goal) if team.rows[0] == team.costs.me else goal.on_loss
    return together(way.name, team.costs, goal, team.run, team.rows, deal, on_loss)


def _as_wished(way: Way, costs: Costs, goal: Goal, run: Run, named: Sequence[PeerId]) -> Plan:
    """On exactly these; equal shares unless all of them are measured and have room for better ones."""
    peers = present(costs.view, named)
    if len(set(peers)) < 2 or len(set(peers)) < len(peers):
        raise UsageError(f"The strategy '{way.name}' needs two peers or more, each named once.")
    if len(peers) > min(MOST_NAMED, way.most(run)):
        raise UsageError(_too_many(way, run, costs, len(peers)))
    lead = costs.view.me if costs.view.me in peers else peers[0]
    rows = tuple(costs.index[peer] for peer in [lead, *(peer for peer in peers if peer != lead)])
    team = Team(costs, run, rows)
    deal = way.deal(team, goal) if all(map(costs.knows, peers)) else None
    return _plan(way, team, goal, deal or way.equal(team, goal))


def _too_many(way: Way, run: Run, costs: Costs, named: int) -> str:
    what = "tokens" if way.name == "tokens" else "heads"
    have = run.inside.tokens if what == "tokens" else run.inside.heads
    most = min(MOST_NAMED, way.most(run))
    return (
        f"A block of {costs.model.name} has {have} {what}, so that at most {counted(most, 'peer')} can share it by "
        f"'{way.name}', and {named} were named; name fewer."
    )


def _members(plan: Plan) -> int:
    return max(len(step.peers) for step in plan.steps)


def _in_turn(costs: Costs) -> list[int]:
    """The lead, then the others that it reaches and that reach it, the quickest first."""
    devices = list(costs.devices)
    if not devices:
        return []
    whole_s = costs.whole_s()
    lead = costs.me if costs.me in devices else min(devices, key=lambda row: (whole_s[row], row))
    others = [
        row for row in devices if row != lead and costs.links.reaches(lead, row) and costs.links.reaches(row, lead)
    ]
    return [lead, *sorted(others, key=lambda row: (costs.done_s[row, -1], row))]
