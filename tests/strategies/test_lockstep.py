"""What a group's step should take, against sums done by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swarm.collectives import exchanges, message_bytes
from swarm.plan import INPUT, OUTPUT, Edge, Goal, Group, Member, Plan, Shard, Step, StepEstimate
from swarm.strategies import choose, predict, sharing
from swarm.strategies.costs import Costs
from swarm.strategies.inside import part, parts_of_block
from swarm.strategies.lockstep import PACKED, Lockstep
from swarm.strategies.strategy import shares
from swarm.types import Inside, Link, TensorSpec, View
from tests.strategies.worlds import goal, ids, lan, view, vit

NET = vit(2, 4, 8, 10, 8)
INSIDE = Inside(4, 8, 10, 8, 8)
BLOCK = NET.stages[1].flops
LINK = Link(0.2, 1000.0)


def affine(share: float) -> float:
    """Of a block that takes a second as part of a whole model, in a group."""
    return PACKED * sharing.affine(share)


def world(step_s: float = 0.0, **more: object) -> View:
    return view(*lan("abc", [BLOCK, BLOCK / 2, BLOCK / 4], LINK, step_s=step_s, **more))


def made(name: str, swarm: View, wish: Goal | None = None) -> Plan:
    plan = choose(name, NET, swarm, wish or goal(peers=ids("a", "b"))).plan
    assert plan is not None
    return plan


def shared(plan: Plan) -> StepEstimate:
    return next(step for step in plan.estimate.steps if step.step == "1")


def group_of(plan: Plan) -> Group:
    [group] = [step.group for step in plan.steps if step.group is not None]
    return group


def test_the_slowest_member_of_each_block_and_of_each_exchange_counts() -> None:
    plan = made("tokens", world())
    assert [member.tokens for member in group_of(plan).members] == [7, 3]
    keys_values, attention, mlp = parts_of_block(INSIDE)
    assert keys_values + attention + mlp == pytest.approx(1)
    whole = max(affine(0.7), 2 * affine(0.3))
    last = max(keys_values * affine(0.7) + (1 - keys_values) * affine(0.1), 2 * keys_values * affine(0.3))
    assert shared(plan).compute_s == pytest.approx(whole + last)
    a_sends, b_sends = 7 * 16 * 4, 3 * 16 * 4
    assert shared(plan).exchange_s == pytest.approx((0.1 + a_sends / 1000) + (0.1 + b_sends / 1000))
    assert shared(plan).wire_s == pytest.approx(0.1 + 3 * 8 * 4 / 1000)
    assert shared(plan).bytes == 3 * 8 * 4 + 2 * b_sends
    assert plan.estimate.moved_bytes == 3 * 8 * 4 + a_sends + 2 * b_sends


def test_columns_wait_for_each_other_after_attention_and_after_the_mlp() -> None:
    plan = made("columns", world(), goal(peers=ids("a", "b"), on_loss="degrade"))
    shards = [member.part.shard for member in group_of(plan).members]
    assert [shard and (shard.heads[0], shard.neurons[0]) for shard in shards] == [(3, 6), (1, 2)]
    keys_values, attention, mlp = parts_of_block(INSIDE)
    heads, neurons = max(affine(3 / 4), 2 * affine(1 / 4)), max(affine(6 / 8), 2 * affine(2 / 8))
    first = (keys_values + attention) * heads + mlp * neurons
    last = (keys_values + attention / 10) * heads + mlp / 10 * neurons
    assert shared(plan).compute_s == pytest.approx(first + last)
    assert shared(plan).exchange_s == pytest.approx(2 * (0.1 + 10 * 8 * 4 / 1000) + 2 * (0.1 + 8 * 4 / 1000))


def test_every_message_and_every_exchange_costs_its_members_time() -> None:
    """Of two: one message out, one in, and the exchange itself; the lead alone is told at the end."""
    handled = shared(made("tokens", world(0.5))).exchange_s - shared(made("tokens", world())).exchange_s
    assert handled == pytest.approx(0.5 * (2 * 0.5 + 1) + 0.5 * (1 * 0.5 + 1))
    three = goal(peers=ids("a", "b", "c"))
    handled = shared(made("tokens", world(0.5), three)).exchange_s - shared(made("tokens", world(), three)).exchange_s
    assert handled == pytest.approx(0.5 * (4 * 0.5 + 1) + 0.5 * (2 * 0.5 + 1))


def test_a_member_has_one_network_interface_for_all_it_sends_and_codes_a_share_once() -> None:
    coding = {"float16": 100.0}
    plan = made("tokens", world(coding=coding), goal(peers=ids("a", "b", "c"), wires=("float16",)))
    group = group_of(plan)
    tokens = [member.tokens for member in group.members]
    costs = Costs.of(NET, world(coding=coding))
    step = next(step for step in plan.steps if step.group is not None)
    lockstep = Lockstep.of(costs, step, (1, 3))
    a, b, _ = step.peers
    row = 16 * 2 / 1000
    out = [2 * n * row for n in tokens]
    into = [(10 - n) * row for n in tokens]
    coded = [10 * 16 / 100] * 3
    first = max(max(o, i) + 0.1 + c for o, i, c in zip(out, into, coded, strict=True))
    others = tokens[1] + tokens[2]
    second = max(others * row + 0.1 + others * 16 / 100, tokens[1] * row + tokens[1] * 16 / 100)
    assert lockstep.exchange_s == pytest.approx(first + second)
    assert lockstep.taken_s[a] == pytest.approx(max(out[0], into[0] + others * row))
    assert lockstep.links_s[a, b] == pytest.approx(tokens[0] * row)


@pytest.mark.parametrize("scatters", [False, True])
@pytest.mark.parametrize("name", ["tokens", "columns"])
def test_moved_bytes_are_those_of_all_messages(name: str, scatters: bool) -> None:
    net = vit(4, 6, 24, 11, 12)
    swarm = view(*lan("abc", [1e6] * 3, LINK))
    plan = choose(name, net, swarm, goal(peers=ids("a", "b", "c"))).plan
    assert plan is not None
    steps = tuple(
        replace(s, group=replace(s.group, scatters=scatters and name == "columns")) if s.group else s
        for s in plan.steps
    )
    plan = replace(plan, steps=steps)
    group = group_of(plan)
    sent = sum(message_bytes(group, n, i, j, 1) for n in range(exchanges(group)) for i in range(3) for j in range(3))
    entering = sum(edge.tensor.elements * 4 for edge in plan.inputs("1")[1:])
    assert predict(plan, net, swarm).moved_bytes == sent + entering


def test_the_steps_and_the_way_back_add_up_to_the_latency() -> None:
    for name in ("tokens", "columns", "partial"):
        estimate = made(name, world(0.01, wait_s=0.2), goal(peers=ids("b", "c"))).estimate
        steps = sum(step.compute_s + step.wire_s + step.queue_s + step.exchange_s for step in estimate.steps)
        assert steps + estimate.answer_s == pytest.approx(estimate.latency_s)
        assert estimate.throughput_per_s > 0


def test_the_busiest_member_sets_the_pace_of_many_requests() -> None:
    quick = view(*lan("ab", [BLOCK, BLOCK / 2], Link(0.0, 1e12)))
    plan = made("tokens", quick, goal(peers=ids("a", "b")))
    keys_values, *_ = parts_of_block(INSIDE)
    b_works = 2 * (affine(0.3) + keys_values * affine(0.3))
    a_works = affine(0.7) + keys_values * affine(0.7) + (1 - keys_values) * affine(0.1)
    around = (NET.stages[0].flops + NET.stages[-1].flops) / BLOCK
    assert plan.estimate.throughput_per_s == pytest.approx(1 / max(b_works, a_works + around))


def test_the_memory_of_tokens_is_all_of_it_and_of_columns_a_share() -> None:
    weights = NET.stages[1].parameter_bytes
    tokens, columns = (made(name, world()).estimate.peak_memory_bytes for name in ("tokens", "columns"))
    a, b = ids("a", "b")
    assert tokens[a] == NET.parameter_bytes + max(stage.working_bytes for stage in NET.stages)
    assert tokens[b] == 2 * weights + NET.stages[1].working_bytes
    assert columns[b] < tokens[b]


def test_a_chain_of_groups_can_be_told_of() -> None:
    """Nobody proposes it yet: two groups, each with a block, whose leads hand over."""
    me, a, b, c = ids("a", "a", "b", "c")
    hidden = NET.stages[1].output

    def tokens(name: str, span: tuple[int, int], peers: tuple[str, ...], counts: tuple[int, ...], needed: int) -> Step:
        shard = Shard((4,), (8,))
        members = tuple(Member(part(NET, span, shard), count) for count in counts)
        return Step(name, part(NET, span), ids(*peers), Group("tokens", members, 10, 8, 8, needed))

    first, second = tokens("1", (1, 2), ("a", "b"), (5, 5), 10), tokens("2", (2, 3), ("c", "b"), (6, 4), 1)
    steps = (Step("0", part(NET, (0, 1)), (a,)), first, second, Step("3", part(NET, (3, 4)), (c,)))
    edges = (
        Edge(INPUT, "0", me, a, NET.input),
        Edge("0", "1", a, a, TensorSpec((5, 8)), tokens=(0, 5)),
        Edge("0", "1", a, b, TensorSpec((5, 8)), tokens=(5, 10)),
        Edge("1", "2", a, c, TensorSpec((6, 8)), tokens=(0, 6)),
        Edge("1", "2", a, b, TensorSpec((4, 8)), tokens=(6, 10)),
        Edge("2", "3", c, c, hidden),
        Edge("3", OUTPUT, c, me, NET.stages[-1].output),
    )
    plan = Plan("p", "made", me, steps, edges)
    estimate = predict(plan, NET, world())
    spent = sum(step.compute_s + step.wire_s + step.queue_s + step.exchange_s for step in estimate.steps)
    assert spent + estimate.answer_s == pytest.approx(estimate.latency_s)
    leaving = (6 * 8 * 4 + 4 * 8 * 4) / 1000
    assert estimate.steps[2].wire_s == pytest.approx(0.1 + leaving)
    assert set(estimate.peak_memory_bytes) == {a, b, c}
    assert shares(plan, Costs.of(NET, world())) == "a 5, b 5 tokens in 0; c 6, b 4 tokens in 1"
