"""What the strategies decide, on models and swarms made of numbers."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import CannotSplit, NoFit, NoPeers, UsageError
from swarm.plan import INPUT, OUTPUT, Goal, Plan
from swarm.strategies import choose
from swarm.strategies.balance import equal_cuts
from swarm.strategies.slices import places
from swarm.types import ModelProfile, PeerId, PeerRecord, View
from tests.strategies.worlds import fast_links, goal, ids, model, record, spans, view

CLIENT = record("z-client", client=True)
UNMEASURED = record("z-client", rate=0, client=True)
NET = model([1, 5, 5, 5, 5, 1])


def unmeasured(*names: str) -> list[PeerRecord]:
    return [record(name, rate=0) for name in names]


def made(name: str, net: ModelProfile, swarm: View, wish: Goal) -> Plan:
    plan = choose(name, net, swarm, wish).plan
    assert plan is not None
    return plan


def test_before_anything_is_measured_a_client_leaves_the_work_to_the_hosts() -> None:
    plan = made("auto", NET, view(UNMEASURED, *unmeasured("a", "b")), goal())
    assert spans(plan) == [("a", INPUT, "blocks.2"), ("b", "blocks.2", OUTPUT)]
    assert plan.strategy == "slices"


def test_a_client_with_one_host_runs_the_head_itself() -> None:
    plan = made("slices", NET, view(UNMEASURED, *unmeasured("a")), goal(split=(1,)))
    assert [row[0] for row in spans(plan)] == ["z-client", "a"]


def test_a_host_that_asks_takes_part() -> None:
    plan = made("slices", NET, view(*unmeasured("m", "a", "b")), goal())
    assert [row[0] for row in spans(plan)] == ["m", "a", "b"]


def test_edges_go_from_peer_to_peer_and_only_the_answer_comes_back() -> None:
    plan = made("slices", NET, view(UNMEASURED, *unmeasured("a", "b", "c")), goal(wires=("float16",)))
    assert [(edge.sender, edge.receiver) for edge in plan.edges] == [
        ("z-client", "a"),
        ("a", "b"),
        ("b", "c"),
        ("c", "z-client"),
    ]
    assert {edge.wire for edge in plan.edges} == {"float16"}
    assert plan.fragment(PeerId("b")).edges == plan.edges[1:3]


def test_a_wished_split_cuts_before_those_blocks_on_those_peers_in_that_order() -> None:
    swarm = view(CLIENT, record("a"), record("b"), record("c"))
    plan = made("slices", NET, swarm, goal(split=(1, 3), peers=(PeerId("c"), PeerId("a"), PeerId("b"))))
    assert spans(plan) == [("c", INPUT, "blocks.1"), ("a", "blocks.1", "blocks.3"), ("b", "blocks.3", OUTPUT)]


def test_auto_alone_runs_the_whole_model_here() -> None:
    plan = made("auto", NET, view(record("a")), goal())
    assert (plan.strategy, spans(plan)) == ("local", [("a", INPUT, OUTPUT)])


def test_what_cannot_be_cut_runs_whole_and_says_why_when_a_split_was_asked_for() -> None:
    swarm, rigid = view(CLIENT, record("a"), record("b")), model([1, 2], uncut="it loops over its data.")
    assert made("auto", rigid, swarm, goal()).strategy == "local"
    with pytest.raises(CannotSplit, match="it loops over its data"):
        choose("auto", rigid, swarm, goal(split=(1,)))


def test_a_cut_can_be_wished_by_name() -> None:
    plan = made("slices", NET, view(UNMEASURED, *unmeasured("a", "b")), goal(split=("blocks.3",)))
    assert spans(plan) == [("a", INPUT, "blocks.3"), ("b", "blocks.3", OUTPUT)]
    with pytest.raises(CannotSplit, match=r"blocks\.3"):
        choose("slices", NET, view(CLIENT, record("a"), record("b")), goal(split=("block.3",)))


@pytest.mark.parametrize("split", [(9,), (-1,), (2, 2), (3, 1)])
def test_an_impossible_split_is_refused_with_the_number_of_blocks(split: tuple[int, ...]) -> None:
    with pytest.raises(CannotSplit, match=r"4 blocks|0 and 4"):
        choose("slices", NET, view(CLIENT, record("a"), record("b")), goal(split=split))


def test_too_few_peers_and_lost_peers_are_named() -> None:
    with pytest.raises(NoPeers, match="needs 4 peers and only 2"):
        choose("slices", NET, view(CLIENT, record("a")), goal(split=(1, 2, 3)))
    with pytest.raises(NoPeers, match="gone"):
        choose("slices", NET, view(CLIENT, record("a")), goal(peers=(PeerId("a"), PeerId("gone"))))


def test_unknown_strategies_and_contradictions_are_refused() -> None:
    with pytest.raises(UsageError, match="auto, columns, local, partial, slices, tokens"):
        choose("magic", NET, view(CLIENT), goal())
    with pytest.raises(UsageError, match="does not split"):
        choose("local", NET, view(CLIENT), goal(split=(1,)))


@given(st.lists(st.integers(1, 50), min_size=4, max_size=9), st.integers(2, 3))
def test_equal_shares_are_as_equal_as_the_best_of_all(flops: list[int], parts: int) -> None:
    inner = range(1, len(flops) - 1 + 1)

    def largest(cuts: tuple[int, ...] | list[int]) -> int:
        return max(sum(flops[start:end]) for start, end in pairwise(cuts))

    best = min(largest((0, *cuts, len(flops))) for cuts in combinations(inner, parts - 1))
    assert largest(equal_cuts(model(flops), parts)) == best


def test_many_stages_on_many_peers_give_everybody_a_part() -> None:
    cuts = equal_cuts(model([i % 7 + 1 for i in range(200)]), 100)
    assert len(set(cuts)) == 101
    assert (cuts[0], cuts[-1]) == (0, 200)


def test_one_peer_that_was_not_measured_makes_equal_shares_of_all_that_are_named() -> None:
    swarm = view(CLIENT, record("a", rate=0), record("b", rate=8))
    plan = made("slices", model([1, 1, 1, 1]), swarm, goal(peers=ids("a", "b")))
    assert spans(plan) == [("a", INPUT, "blocks.1"), ("b", "blocks.1", OUTPUT)]
    assert plan.estimate.latency_s == plan.estimate.throughput_per_s == 0
    assert plan.estimate.peak_memory_bytes == {"a": 20, "b": 20}


def test_named_peers_share_by_their_speed_and_memory() -> None:
    quick, slow = record("a", rate=3, links=fast_links("b", "z-client")), record("b", rate=1)
    wish = goal(metric="throughput", peers=ids("b", "a"))
    assert spans(made("auto", model([1, 1, 1, 1]), view(CLIENT, quick, slow), wish)) == [
        ("b", INPUT, "blocks.0"),
        ("a", "blocks.0", OUTPUT),
    ]
    small = record("a", rate=3, links=fast_links("b", "z-client"), free=20)
    assert spans(made("auto", model([1, 1, 1, 1]), view(CLIENT, small, slow), wish))[1] == ("a", "blocks.1", OUTPUT)
    with pytest.raises(NoFit, match=r"net needs .*MB, and the 2 devices here have"):
        made("auto", NET, view(CLIENT, record("a", free=1), record("b", free=1)), wish)


def test_a_wished_split_goes_to_the_peers_and_in_the_order_that_suit_it_best() -> None:
    swarm = view(
        record("z", rate=0, client=True, links=fast_links("a", "b", "c")),
        record("a", rate=1, links=fast_links("b", "c")),
        record("b", rate=9, links=fast_links("c")),
        record("c", rate=2),
    )
    assert [row[0] for row in spans(made("auto", NET, swarm, goal(split=(1,), metric="throughput")))] == ["c", "b"]
    with pytest.raises(NoFit, match="the part that ends with output needs"):
        made("slices", NET, view(UNMEASURED, record("a", free=150), record("b", free=150)), goal(split=(1,)))


def test_a_model_of_very_many_stages_is_cut_between_blocks_and_of_too_many_blocks_at_some() -> None:
    stages = model([1] * 80)
    assert places(replace(stages, blocks=(1, 30, 60, 79))) == (0, 1, 30, 60, 79, 80)
    assert len(places(model([1] * 200))) <= 66
    assert places(model([1] * 4)) == (0, 1, 2, 3, 4)
