"""Plans in which a group shares every block: their shape, and what each member holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.collectives import flaw, misfit
from swarm.errors import NoFit, NoPeers, SwarmError, UsageError
from swarm.plan import INPUT, OUTPUT, Goal, Group, Metric, Plan, Step
from swarm.strategies import STRATEGIES, choose, predict
from swarm.strategies.costs import Costs
from swarm.strategies.inside import run_of, shard_bytes, weight_of
from swarm.types import Link, ModelProfile, PeerId, View
from tests.strategies.worlds import fits, goal, ids, lan, model, random_group_world, record, view, vit

NET = vit()
GIGABIT = Link(0.001, 125e6)
GROUPS = ["columns", "partial", "tokens"]
EQUALS = view(*lan("abcd", [40e9] * 4, GIGABIT))
MB = 10**6


def made(name: str, wish: Goal | None = None, swarm: View = EQUALS, net: ModelProfile = NET) -> Plan:
    plan = choose(name, net, swarm, wish or goal()).plan
    assert plan is not None
    return plan


def shared(plan: Plan) -> tuple[Step, Group]:
    [step] = [step for step in plan.steps if step.group is not None]
    assert step.group is not None
    return step, step.group


def check_whole(plan: Plan, net: ModelProfile) -> None:
    """Every step is sound, the parts follow on each other, and each member's edges fit it."""
    places = {stage.name: i for i, stage in enumerate(net.stages, 1)} | {INPUT: 0, OUTPUT: len(net.stages)}
    ends = [(places[step.part.start], places[step.part.end]) for step in plan.steps]
    assert [start for start, _ in ends] == [0, *(end for _, end in ends[:-1])]
    assert ends[-1][1] == len(net.stages)
    for step in plan.steps:
        assert flaw(step) is None
        assert [edge.receiver for edge in plan.inputs(step.id)] == list(step.peers)
        if step.group is not None:
            assert misfit(step, net, plan.inputs(step.id)) is None
            assert all(member.part.weights == "" for member in step.group.members)
    lead = plan.steps[0].lead
    assert [(edge.source, edge.sender, edge.receiver) for edge in plan.inputs(OUTPUT)] == [
        (plan.steps[-1].id, lead, plan.requester)
    ]
    assert all(edge.sender == (plan.requester if edge.source == INPUT else lead) for edge in plan.edges)


@pytest.mark.parametrize("name", GROUPS)
@given(st.integers(0, 10**6), st.sampled_from(["latency", "throughput", "memory", "survive"]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_every_plan_is_whole_fits_and_keeps_its_promise(name: str, seed: int, metric: Metric, tight: bool) -> None:
    net, swarm = random_group_world(seed, tight=tight)
    costs, wish = Costs.of(net, swarm), goal(metric=metric, wires=("float32", "float16", "int8"))
    try:
        proposed = STRATEGIES[name].propose(costs, wish)
    except SwarmError:
        return
    assert proposed
    for candidate in proposed:
        assert (candidate.plan is None) <= bool(candidate.verdict)
        if candidate.plan is not None:
            check_whole(candidate.plan, net)
            assert candidate.plan.strategy == name
            assert fits(candidate.plan, costs)
            assert candidate.plan.estimate == predict(candidate.plan, net, swarm)
            step, group = shared(candidate.plan)
            assert sum(member.tokens for member in group.members) == group.tokens
            if group.split == "columns":
                shards = [member.part.shard for member in group.members if member.part.shard is not None]
                run = run_of(net)
                assert run is not None
                for block in range(run.blocks):
                    assert sum(shard.heads[block] for shard in shards) == run.inside.heads
                    assert sum(shard.neurons[block] for shard in shards) == run.inside.neurons
            assert step.lead == swarm.me or swarm.me not in {costs.records[row].id for row in costs.devices}


def test_of_tokens_each_member_is_sent_its_own_alone() -> None:
    plan = made("tokens")
    step, group = shared(plan)
    assert [member.tokens for member in group.members] == [50, 49, 49, 49]
    edges = plan.inputs("1")
    assert [edge.tokens for edge in edges] == [(0, 50), (50, 99), (99, 148), (148, 197)]
    assert [edge.tensor.shape for edge in edges] == [(50, 768), (49, 768), (49, 768), (49, 768)]
    assert [edge.sender for edge in edges] == ["a"] * 4
    assert (group.tokens, group.width, group.keys, group.needed, group.wire) == (197, 768, 768, 1, "float32")
    assert (step.part.start, step.part.end) == ("stem", "blocks.11")
    assert {member.part.shard and member.part.shard.heads for member in group.members} == {(12,) * 12}
    assert [(step.id, step.peers) for step in plan.steps if step.group is None] == [("0", ("a",)), ("2", ("a",))]


def test_of_columns_each_member_is_sent_everything() -> None:
    plan = made("columns", goal(peers=ids("a", "b", "c", "d")))
    _, group = shared(plan)
    assert {(edge.tokens, edge.tensor.shape) for edge in plan.inputs("1")} == {(None, (197, 768))}
    assert [m.part.shard and (m.part.shard.heads[0], m.part.shard.neurons[0]) for m in group.members] == [(3, 768)] * 4
    assert not group.scatters, "so few send their sums straight to all"
    _, larger = shared(
        made("columns", goal(peers=ids("a", "b", "c", "d", "e")), view(*lan("abcde", [40e9] * 5, GIGABIT)))
    )
    assert larger.scatters
    assert not shared(made("columns", goal(on_loss="degrade")))[1].scatters
    assert shared(made("columns", goal(on_loss="degrade")))[1].on_loss == "degrade"


def test_the_requester_leads_if_it_computes_and_else_the_strongest() -> None:
    weak = view(*lan("d", [5e9], GIGABIT), *lan("abc", [40e9, 80e9, 40e9], GIGABIT))
    assert shared(made("tokens", swarm=weak))[0].lead == "d"
    client = view(record("z", 0, client=True), *lan("abc", [40e9, 80e9, 40e9], GIGABIT))
    plan = made("tokens", swarm=client)
    assert {step.lead for step in plan.steps} == {"b"}
    assert (plan.edges[0].sender, plan.edges[0].receiver, plan.edges[-1].receiver) == ("z", "b", "z")
    check_whole(plan, NET)


def test_named_peers_are_all_used_and_the_requester_or_the_first_of_them_leads() -> None:
    assert shared(made("columns", goal(peers=ids("c", "a", "b"))))[0].peers == ids("a", "c", "b")
    assert shared(made("tokens", goal(peers=ids("c", "b"))))[0].peers == ids("c", "b")


def test_exchanges_wait_for_several_times_what_the_step_should_take() -> None:
    patience = {
        rate: shared(made("tokens", swarm=view(*lan("ab", [rate] * 2, GIGABIT))))[1].patience_s for rate in (1e9, 4e10)
    }
    assert patience[4e10] == 5.0
    assert patience[1e9] == 30.0


def test_the_fastest_wire_is_taken_and_the_first_named_of_equal_ones() -> None:
    assert shared(made("tokens", goal(wires=("float32", "float16"))))[1].wire == "float16"
    slow_codec = view(*lan("ab", [40e9] * 2, GIGABIT, coding={"float32": 1e12, "float16": 1e5}))
    assert shared(made("tokens", goal(wires=("float32", "float16")), slow_codec))[1].wire == "float32"


def test_a_group_that_does_not_reach_the_end_of_the_last_block_finishes_all_tokens() -> None:
    net = replace(NET, stages=(*NET.stages[:6], *(replace(s, inside=None) for s in NET.stages[6:])))
    plan = made("tokens", net=net)
    step, group = shared(plan)
    assert (step.part.end, group.needed) == ("blocks.4", 197)
    check_whole(plan, net)


# What each holds


def test_a_block_weighs_what_its_heads_neurons_and_the_rest_weigh() -> None:
    weight, stage = weight_of(NET.stages[1]), NET.stages[1]
    assert weight.head == 4 * 64 * (3 * 769 + 768)
    assert weight.neuron == 4 * (2 * 768 + 1)
    assert weight.fixed == 4 * 768 * 6
    assert 12 * weight.head + 3072 * weight.neuron + weight.fixed == stage.parameter_bytes
    run = run_of(NET)
    assert run is not None
    assert shard_bytes(NET, (1, 13), run.whole()) == 12 * stage.parameter_bytes


@pytest.mark.parametrize("wish", [goal(), goal(metric="memory")])
def test_eight_equal_members_hold_at_most_a_seventh_each(wish: Goal) -> None:
    """Of the whole model's parameters, and the lead holds what is around the blocks, too."""
    eight = "abcdefgh"
    plan = made("columns", goal(peers=ids(*eight), metric=wish.metric), view(*lan(eight, [40e9] * 8, GIGABIT)))
    working = max(stage.working_bytes for stage in NET.stages)
    held = {peer: nbytes - working for peer, nbytes in plan.estimate.peak_memory_bytes.items()}
    assert max(held.values()) <= NET.parameter_bytes / 7
    assert sum(held.values()) == pytest.approx(NET.parameter_bytes, rel=0.01)


def test_for_the_least_memory_neurons_make_up_for_heads_and_for_what_only_the_lead_holds() -> None:
    eight = "abcdefgh"
    plan = made("columns", goal(peers=ids(*eight), metric="memory"), view(*lan(eight, [40e9] * 8, GIGABIT)))
    held = plan.estimate.peak_memory_bytes.values()
    assert max(held) - min(held) <= 12 * weight_of(NET.stages[1]).neuron + 1


def test_who_has_less_room_gets_less() -> None:
    swarm = view(*lan("a", [40e9], GIGABIT, free=80 * MB), *lan("bcd", [40e9] * 3, GIGABIT, free=120 * MB))
    plan = made("columns", goal(peers=ids(*"abcd")), swarm)
    assert plan.estimate.peak_memory_bytes[PeerId("a")] <= 80 * MB
    assert max(plan.estimate.peak_memory_bytes.values()) <= 120 * MB


@pytest.mark.parametrize("size", [2, 3, 4, 8])
@pytest.mark.parametrize("r", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_of_partial_the_requester_holds_r_and_its_share_of_the_rest(size: int, r: float) -> None:
    names = "abcdefgh"[:size]
    plan = made("partial", goal(peers=ids(*names), replicate=(r,)), view(*lan(names, [40e9] * size, GIGABIT)))
    shard = shared(plan)[1].members[0].part.shard
    assert shard is not None
    blocks = NET.stages[1:13]
    held = shard_bytes(NET, (1, 13), shard) / sum(stage.parameter_bytes for stage in blocks)
    assert held == pytest.approx(r + (1 - r) / size, rel=0.03)
    check_whole(plan, NET)


def test_each_block_may_have_a_fraction_of_its_own() -> None:
    fractions = tuple(block / 11 for block in range(12))
    shard = shared(made("partial", goal(replicate=fractions)))[1].members[0].part.shard
    assert shard is not None
    assert list(shard.neurons) == sorted(shard.neurons)
    assert (shard.heads[-1], shard.neurons[-1]) == (12, 3072)


# What cannot be


@pytest.mark.parametrize("name", GROUPS)
def test_what_cannot_be_asked_is_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}' shares every block and cuts nowhere; leave --split out"):
        choose(name, NET, EQUALS, goal(split=(1,)))
    with pytest.raises(NoPeers, match="needs 2 peers and only 1"):
        choose(name, NET, view(record("a", 1e9)), goal())
    with pytest.raises(UsageError, match="two peers or more"):
        choose(name, NET, EQUALS, goal(peers=ids("a")))
    with pytest.raises(NoPeers, match="gone"):
        choose(name, NET, EQUALS, goal(peers=ids("a", "gone")))
    with pytest.raises(NoFit, match="no block of net can be shared out"):
        choose(name, model([1, 2, 3]), view(record("a"), record("b")), goal())


@pytest.mark.parametrize("name", ["columns", "partial"])
def test_more_members_than_heads_are_too_many(name: str) -> None:
    five = "abcde"
    swarm = view(*lan(five, [1e9] * 5, GIGABIT))
    with pytest.raises(UsageError, match=r"has 3 heads, so that at most 3 peers .*'\w+', and 5 were named"):
        choose(name, vit(heads=3, width=192, neurons=768), swarm, goal(peers=ids(*five)))
    assert len(shared(made(name, swarm=swarm, net=vit(heads=3, width=192, neurons=768)))[0].peers) <= 3
    with pytest.raises(UsageError, match="has 1 heads"):
        choose(name, vit(heads=1), swarm, goal())


def test_fractions_that_are_none_are_refused() -> None:
    with pytest.raises(UsageError, match=r"vit has 12 blocks .*, and 2 fractions were given"):
        choose("partial", NET, EQUALS, goal(replicate=(0.1, 0.2)))
    with pytest.raises(UsageError, match=r"1\.5 cannot be replicated"):
        choose("partial", NET, EQUALS, goal(replicate=(1.5,)))


def test_what_has_no_room_is_told() -> None:
    swarm = view(*lan("ab", [1e9] * 2, GIGABIT, free=50 * MB))
    with pytest.raises(
        NoFit, match=r"columns: a 6\+1536, b 6\+1536 heads and neurons: needs 1\d\d MB on a, which has 50 MB"
    ):
        choose("columns", NET, swarm, goal())
    with pytest.raises(NoFit, match=r"tokens: .*needs 35\d MB on a"):
        choose("tokens", NET, swarm, goal())


def test_before_anything_is_measured_shares_are_equal_and_a_wish_is_kept() -> None:
    swarm = view(record("a", 0), record("b", 0))
    plan = made("tokens", swarm=swarm)
    assert [member.tokens for member in shared(plan)[1].members] == [99, 98]
    assert (plan.estimate.latency_s, plan.estimate.steps) == (0.0, ())
    assert plan.estimate.moved_bytes > 0
    mixed = view(record("a", 1e9), record("b", 0))
    assert shared(made("columns", goal(peers=ids("a", "b")), mixed))[0].peers == (PeerId("a"), PeerId("b"))
