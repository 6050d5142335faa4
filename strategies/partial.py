"""`partial`: as `columns`, and the lead besides holds the vital fraction r of the blocks' heads and neurons.

Whoever else is lost, the lead answers with what it and the others still have, at an accuracy that is told beforehand
(after EASTER). The lead has r + (1 - r) · its share of the rest.

    one r for all      where it is known what of the model is most worth having, of all blocks together: see `vital`
    an r for each      of block i by itself, and so with one r of a model of which nothing is known: the vital heads are
                       rounded to whole ones, the rest of them are shared by speed, and the lead's neurons make up for
                       both roundings, so that its bytes are those of r to within a neuron

The others share the rest of each block's heads and neurons by speed; of some blocks nothing may be left for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from swarm.errors import UsageError
from swarm.plan import Candidate, Goal, OnLoss
from swarm.strategies.columns import backwards, holders
from swarm.strategies.costs import Costs
from swarm.strategies.grouping import Deal
from swarm.strategies.inside import Run, weight_of
from swarm.strategies.resilience import at_fraction, kept
from swarm.strategies.sharing import Holder, Load, apportion
from swarm.strategies.survival import losses_of
from swarm.strategies.teams import Team, candidates
from swarm.strategies.vital import Pairs, Table, share_rest

UNKNOWN: Final = 0.5
"""The fraction where nobody has measured how the model bears losses."""

GRID: Final = tuple(step / 20 for step in range(20))
"""Fractions to choose from. With all of a block on the lead there is nothing left to share."""

TOLERATED: Final = 0.01
"""Accuracy that may be missing after the losses."""


class Partial:
    """The fractions that the goal names, or one for all blocks that bears its losses, as far as memory goes."""

    name = "partial"

    def propose(self, costs: Costs, goal: Goal) -> list[Candidate]:
        return candidates(self, costs, goal)

    def most(self, run: Run) -> int:
        return min(run.inside.heads, run.inside.neurons)

    def deal(self, team: Team, goal: Goal) -> Deal | None:
        return _dealt(team, goal, holders(team))

    def equal(self, team: Team, goal: Goal) -> Deal:
        deal = _dealt(team, goal, [_alike(one) for one in holders(team)])
        assert deal is not None, "with room for anything there is a deal"
        return deal

    def on_loss(self, goal: Goal) -> OnLoss:
        """Who plans for losses goes on after them: that is what the replicas are for."""
        return "degrade" if losses_of(goal) else goal.on_loss


def fractions(team: Team, goal: Goal, lead_share: float) -> tuple[float, ...]:
    """r of each block. Raises `UsageError` for fractions that are none, or not as many as there are blocks."""
    blocks = team.run.blocks
    if goal.replicate is None:
        return (_by_itself(team, goal, lead_share),) * blocks
    if len(goal.replicate) not in (1, blocks):
        raise UsageError(
            f"{team.costs.model.name} has {blocks} blocks that can be shared, and {len(goal.replicate)} fractions were "
            f"given to replicate; give one for all of them, or {blocks}."
        )
    wrong = next((r for r in goal.replicate if not 0 <= r <= 1), None)
    if wrong is not None:
        raise UsageError(f"{wrong:g} cannot be replicated of a block; give a fraction from 0 to 1.")
    return goal.replicate if len(goal.replicate) == blocks else goal.replicate * blocks


def _by_itself(team: Team, goal: Goal, lead_share: float) -> float:
    """The least r with which the losses cost no more than is tolerated; less where the lead has no room for it."""
    model, others = team.costs.model, team.size - 1
    head, neuron = team.unit_bytes()
    whole = team.run.inside.heads * head + team.run.inside.neurons * neuron
    losses = min(losses_of(goal) or 1, others)

    def lead(r: float) -> float:
        return r + (1 - r) * lead_share

    def bears(r: float) -> bool:
        return at_fraction(model, kept(lead(r), others, losses)) >= at_fraction(model, 1.0) - TOLERATED

    best = next((r for r in GRID if bears(r)), GRID[-1]) if model.resilience else UNKNOWN
    room = [r for r in GRID if lead(r) * whole <= float(team.free_bytes()[0])]
    return min(best, max(room, default=0.0))


def _dealt(team: Team, goal: Goal, members: Sequence[Holder]) -> Deal | None:
    run, lead_share = team.run, _shares(team, members)[0]
    replicated = fractions(team, goal, lead_share)
    table = Table.of(team.costs.model, run) if len(goal.replicate or ()) <= 1 else None
    if table is None:
        blocks = _each(team, replicated, lead_share, members)
    else:
        blocks = share_rest(table.at(replicated[0] + (1 - replicated[0]) * lead_share), run, members)
    if blocks is None:
        return None
    shards = tuple(run.shard(*zip(*(block[i] for block in blocks), strict=True)) for i in range(team.size))
    tokens = apportion(run.inside.tokens, [Load(0.0, 1.0, run.inside.tokens)] * team.size, least=0)
    assert tokens is not None
    return Deal("columns", tokens, shards)


def _each(team: Team, replicated: Sequence[float], lead_share: float, members: Sequence[Holder]) -> list[Pairs] | None:
    """Each block with its own fraction; None where one of them cannot be shared so."""
    by_fraction = {r: _block(team, r, lead_share, members) for r in set(replicated)}
    blocks = [block for r in replicated if (block := by_fraction[r]) is not None]
    return blocks if len(blocks) == len(replicated) else None


def _block(team: Team, r: float, lead_share: float, members: Sequence[Holder]) -> Pairs | None:
    """Heads and neurons of each member of a block; None where the others have no room for the rest."""
    inside, weight = team.run.inside, weight_of(team.costs.model.stages[team.run.start])
    vital = round(r * inside.heads)
    heads = [*backwards(inside.heads - vital, [one.heads for one in members], least=0)]
    heads[0] += vital
    whole = inside.heads * weight.head + inside.neurons * weight.neuron
    own = (r + (1 - r) * lead_share) * whole - heads[0] * weight.head
    most = round(own / weight.neuron) if weight.neuron else round(r * inside.neurons)
    first = max(0, min(inside.neurons, most))
    others = [_bounded(one, n) for one, n in zip(members[1:], heads[1:], strict=True)]
    rest = apportion(inside.neurons - first, others[::-1], least=0)
    return None if rest is None else list(zip(heads, (first, *rest[::-1]), strict=True))


def _bounded(one: Holder, heads: int) -> Load:
    """As many neurons of a block as there is room for beside its heads, if all blocks have as many."""
    room = one.free_bytes - heads * one.head_bytes
    most = min(float(one.neurons.most), room / one.neuron_bytes) if one.neuron_bytes else float(one.neurons.most)
    return replace(one.neurons, most=max(0, int(most)))


def _shares(team: Team, members: Sequence[Holder]) -> list[float]:
    """Of each member, of what is shared by speed."""
    units = team.run.inside.neurons
    return [n / units for n in backwards(units, [one.neurons for one in members])]


def _alike(one: Holder) -> Holder:
    heads, neurons = (Load(0.0, 1.0, load.most) for load in (one.heads, one.neurons))
    return replace(one, heads=heads, neurons=neurons, free_bytes=float("inf"))
