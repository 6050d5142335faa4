"""`columns`: every member holds some heads and some neurons of each block, and runs all tokens through them.

For tight memory: the weights are shared out, too (after Megatron-LM; by speed and memory, after Hepti). Attention and
the MLP end in sums of their own, so heads and neurons are each balanced for themselves; heads are whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarm.plan import Candidate, Goal, OnLoss
from swarm.strategies.costs import Costs
from swarm.strategies.grouping import Deal
from swarm.strategies.inside import Run, parts_of_block
from swarm.strategies.sharing import Holder, Load, apportion, divide, load
from swarm.strategies.teams import Team, candidates


class Columns:
    """Shares by speed, as far as memory goes; for the least memory, shares by what each holds in all."""

    name = "columns"

    def propose(self, costs: Costs, goal: Goal) -> list[Candidate]:
        return candidates(self, costs, goal)

    def most(self, run: Run) -> int:
        return min(run.inside.heads, run.inside.neurons)

    def deal(self, team: Team, goal: Goal) -> Deal | None:
        inside = team.run.inside
        if goal.metric == "memory":
            return _dealt(team, *evenly_held(team))
        shares = divide(inside.heads, inside.neurons, holders(team))
        return None if shares is None else _dealt(team, *shares)

    def equal(self, team: Team, goal: Goal) -> Deal:
        return _dealt(team, *equally(team))

    def on_loss(self, goal: Goal) -> OnLoss:
        return goal.on_loss


def holders(team: Team) -> list[Holder]:
    """Seconds and bytes of every member, for all blocks together."""
    inside, bytes_of = team.run.inside, team.unit_bytes()
    keys_values, attention, mlp = parts_of_block(inside)
    return [
        Holder(
            load((keys_values + attention) * float(whole_s), inside.heads),
            load(mlp * float(whole_s), inside.neurons),
            *bytes_of,
            float(free),
        )
        for whole_s, free in zip(team.whole_s(), team.free_bytes(), strict=True)
    ]


def evenly_held(team: Team) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """So that the largest share of memory is the smallest: heads first, and neurons to make up for them."""
    inside, apart = team.run.inside, [float(nbytes) for nbytes in team.apart_bytes()]
    head, neuron = team.unit_bytes()
    heads = backwards(inside.heads, [Load(nbytes, head, inside.heads) for nbytes in apart])
    loads = [Load(nbytes + n * head, neuron, inside.neurons) for nbytes, n in zip(apart, heads, strict=True)]
    return heads, backwards(inside.neurons, loads)


def equally(team: Team) -> tuple[tuple[int, ...], tuple[int, ...]]:
    inside = team.run.inside
    heads, neurons = (backwards(n, [Load(0.0, 1.0, n)] * team.size) for n in (inside.heads, inside.neurons))
    return heads, neurons


def backwards(units: int, loads: Sequence[Load], least: int = 1) -> tuple[int, ...]:
    """Of equals the last gets more: the first leads, and holds what is around the blocks besides."""
    shares = apportion(units, loads[::-1], least)
    assert shares is not None, "each may have all of them, and there are enough for everybody"
    return shares[::-1]


def _dealt(team: Team, heads: tuple[int, ...], neurons: tuple[int, ...]) -> Deal:
    run = team.run
    shards = tuple(run.shard([h] * run.blocks, [n] * run.blocks) for h, n in zip(heads, neurons, strict=True))
    tokens = apportion(run.inside.tokens, [Load(0.0, 1.0, run.inside.tokens)] * team.size, least=0)
    assert tokens is not None
    return Deal("columns", tokens, shards)
