"""What the lead of a `partial` plan holds where it is known what of the model is most worth having."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import SwarmError
from swarm.plan import Plan, Shard
from swarm.strategies import STRATEGIES, choose, predict
from swarm.strategies.costs import Costs
from swarm.strategies.inside import run_of, shard_bytes, weight_of
from swarm.strategies.vital import Table
from swarm.types import Link, ModelProfile
from tests.strategies.test_grouping import check_whole, shared
from tests.strategies.worlds import fits, goal, ids, lan, random_group_world, record, view, vit

GIGABIT = Link(0.001, 125e6)
FRACTIONS = (0.0, 0.33, 0.53, 0.77, 1.0)
STEPS = 64


def with_vital(net: ModelProfile, seed: int) -> ModelProfile:
    """Some blocks matter much more than others, and so do some heads and neurons."""
    random, weights = np.random.default_rng(seed), [weight_of(net.stages[stage]) for stage in net.blocks[:-1]]
    worth, cost, where = [], [], []
    for block, (stage, weight) in enumerate(zip(net.blocks[:-1], weights, strict=True)):
        inside = net.stages[stage].inside
        for kind, (count, nbytes) in enumerate(
            [] if inside is None else [(inside.heads, weight.head), (inside.neurons, weight.neuron)]
        ):
            worth.append(random.lognormal(sigma=2) * random.random(count))
            cost.append(np.full(count, nbytes))
            where.append(np.full(count, 2 * block + kind))
    ranked = np.argsort(-np.concatenate(worth))
    held = np.concatenate([[0], np.cumsum(np.concatenate(cost)[ranked])])
    places, rows = np.concatenate(where)[ranked], []
    for end in np.unique(np.searchsorted(held, np.linspace(0, held[-1], STEPS + 1), "right") - 1):
        counts = np.bincount(places[:end], minlength=2 * len(weights)).reshape(-1, 2)
        rows.append((float(held[end] / held[-1]), tuple(counts[:, 0].tolist()), tuple(counts[:, 1].tolist())))
    return replace(net, vital=tuple(rows))


NET = with_vital(vit(), 0)


def shards_of(plan: Plan) -> list[Shard]:
    return [member.part.shard for member in shared(plan)[1].members if member.part.shard is not None]


def check_dealt(plan: Plan, net: ModelProfile) -> None:
    """Everything once."""
    run, shards = run_of(net), shards_of(plan)
    assert run is not None
    for block in range(run.blocks):
        assert sum(shard.heads[block] for shard in shards) == run.inside.heads
        assert sum(shard.neurons[block] for shard in shards) == run.inside.neurons


def fraction_of(shard: Shard, net: ModelProfile) -> float:
    """Of the heads and neurons of its run, by bytes."""
    run = run_of(net)
    assert run is not None
    span, nothing = (run.start, run.end), Shard((0,) * run.blocks, (0,) * run.blocks)
    fixed = shard_bytes(net, span, nothing)
    return (shard_bytes(net, span, shard) - fixed) / (shard_bytes(net, span, run.whole()) - fixed)


@pytest.mark.parametrize("rate", [40e9, 0.0])
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("r", FRACTIONS)
def test_the_requester_holds_r_of_all_blocks_together_and_its_share_of_the_rest(
    size: int, r: float, rate: float
) -> None:
    """Of peers that nobody has measured, too: they share alike."""
    names = "abcd"[:size]
    wish = goal(peers=ids(*names), replicate=(r,))
    plan = choose("partial", NET, view(*lan(names, [rate] * size, GIGABIT)), wish).plan
    assert plan is not None
    assert fraction_of(shards_of(plan)[0], NET) == pytest.approx(r + (1 - r) / size, rel=0.03)
    check_dealt(plan, NET)
    check_whole(plan, NET)


def test_it_has_what_is_most_worth_having_and_others_may_get_nothing_of_a_block() -> None:
    wish = goal(peers=ids(*"abcd"), replicate=(0.33,))
    plan = choose("partial", NET, view(*lan("abcd", [40e9] * 4, GIGABIT)), wish).plan
    assert plan is not None
    lead, *others = shards_of(plan)
    _, heads, neurons = min(NET.vital, key=lambda row: abs(row[0] - fraction_of(lead, NET)))
    assert max(abs(a - b) for a, b in zip(lead.heads, heads, strict=True)) <= 1
    assert max(abs(a - b) for a, b in zip(lead.neurons, neurons, strict=True)) <= 3072 / 8
    assert max(lead.heads) == 12
    assert min(lead.heads) < 3
    assert all(shard.heads[lead.heads.index(12)] == 0 for shard in others)
    assert max(sum(shard.neurons) for shard in others) - min(sum(shard.neurons) for shard in others) <= 12


def test_fractions_for_each_block_are_kept_to_and_so_is_one_where_nobody_knows() -> None:
    swarm = view(*lan("abcd", [40e9] * 4, GIGABIT))
    wish = goal(peers=ids(*"abcd"), replicate=tuple(block / 11 for block in range(12)))
    assert choose("partial", NET, swarm, wish) == choose("partial", vit(), swarm, wish)
    plan = choose("partial", vit(), swarm, replace(wish, replicate=(0.33,))).plan
    assert plan is not None
    assert all(len(set(shard.heads)) == len(set(shard.neurons)) == 1 for shard in shards_of(plan))


def test_left_to_itself_it_takes_the_least_that_bears_the_loss() -> None:
    net = replace(NET, resilience=((0.0, 0.1), (0.5, 0.8), (0.7, 0.9), (1.0, 0.9)))
    plan = choose("partial", net, view(*lan("ab", [40e9] * 2, GIGABIT)), goal(peers=ids("a", "b"))).plan
    assert plan is not None
    assert plan.estimate.accuracy[1] >= 0.89
    assert fraction_of(shards_of(plan)[0], net) == pytest.approx(0.7, abs=0.03)


def test_of_a_run_that_is_not_all_blocks_only_its_own_rows_count() -> None:
    stages = tuple(replace(stage, inside=None) if place < 5 else stage for place, stage in enumerate(vit().stages))
    net = with_vital(replace(vit(), stages=stages), 1)
    net = replace(net, vital=tuple((f, (9, *heads[1:]), (9, *neurons[1:])) for f, heads, neurons in net.vital))
    wish = goal(peers=ids("a", "b"), replicate=(0.4,))
    plan = choose("partial", net, view(*lan("ab", [40e9] * 2, GIGABIT)), wish).plan
    assert plan is not None
    assert fraction_of(shards_of(plan)[0], net) == pytest.approx(0.7, rel=0.03)
    check_dealt(plan, net)
    check_whole(plan, net)


def test_who_has_less_room_gets_less_of_the_rest() -> None:
    swarm = view(
        *lan("a", [40e9], GIGABIT, free=250 * 10**6),
        *lan("b", [40e9], GIGABIT, free=60 * 10**6),
        *lan("c", [40e9], GIGABIT, free=200 * 10**6),
    )
    plan = choose("partial", NET, swarm, goal(peers=ids(*"abc"), replicate=(0.2,))).plan
    assert plan is not None
    check_dealt(plan, NET)
    assert fits(plan, Costs.of(NET, swarm))
    _, less, more = shards_of(plan)
    assert sum(less.neurons) < sum(more.neurons)


@given(st.integers(0, 10**6), st.floats(0, 1), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_plan_is_whole_fits_and_keeps_its_promise(seed: int, r: float, tight: bool) -> None:
    bare, swarm = random_group_world(seed, tight=tight)
    net = with_vital(bare, seed)
    costs = Costs.of(net, swarm)
    for wish in (goal(), goal(replicate=(r,))):
        try:
            proposed = STRATEGIES["partial"].propose(costs, wish)
        except SwarmError:
            return
        for plan in [candidate.plan for candidate in proposed if candidate.plan is not None]:
            check_dealt(plan, net)
            check_whole(plan, net)
            assert fits(plan, costs)
            assert plan.estimate == predict(plan, net, swarm)


@given(st.integers(0, 10**6), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_what_a_fraction_buys_is_its_bytes_as_far_as_neurons_can_make_up_for_heads(seed: int, fraction: float) -> None:
    bare, _ = random_group_world(seed)
    net = with_vital(bare, seed)
    run = run_of(net)
    assert run is not None
    table = Table.of(net, run)
    assert table is not None
    counts = table.at(fraction)
    heads, neurons = (sum(of) for of in zip(*counts, strict=True))
    assert all(0 <= h <= run.inside.heads and 0 <= n <= run.inside.neurons for h, n in counts)
    off = (
        heads * table.head
        + neurons * table.neuron
        - fraction * float(table.heads[-1].sum() * table.head + (table.neurons[-1].sum() * table.neuron))
    )
    is_bound = neurons in (0, run.blocks * run.inside.neurons)
    assert abs(off) <= (table.head if is_bound else table.neuron / 2) + 1e-6


def test_before_anything_is_measured_plans_are_made_all_the_same() -> None:
    plan = choose("partial", NET, view(record("a", 0), record("b", 0)), goal(replicate=(0.5,))).plan
    assert plan is not None
    assert fraction_of(shards_of(plan)[0], NET) == pytest.approx(0.75, rel=0.03)
