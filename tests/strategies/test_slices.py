"""What the strategies decide, on models and swarms made of numbers."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import CannotSplit, NoPeers, UsageError
from swarm.plan import INPUT, OUTPUT, Goal, Plan
from swarm.strategies import choose
from swarm.strategies.chain import span_flops
from swarm.strategies.slices import balanced_cuts
from swarm.types import ModelProfile, PeerId, PeerProfile, PeerRecord, PeerState, PeerView, Stage, TensorSpec, View

DIGEST = "a" * 64
SPEC = TensorSpec((4,))


def model(flops: list[int], uncut: str | None = None) -> ModelProfile:
    """A chain with one block for each stage but the first and the last."""
    last = len(flops) - 1
    names = [f"blocks.{i}" for i in range(last)] + [OUTPUT]
    stages = tuple(
        Stage(name, cost, cost * 10, SPEC, (i - 1,) if i else ())
        for i, (name, cost) in enumerate(zip(names, flops, strict=True))
    )
    return ModelProfile("net", DIGEST, SPEC, stages, tuple(range(1, last + 1)), uncut)


def record(name: str, rate: float = 1.0, client: bool = False) -> PeerRecord:
    return PeerRecord(
        PeerId(name), name, (), 1, client=client, profile=PeerProfile(flops_per_s={"float32": rate} if rate else {})
    )


def view(*records: PeerRecord) -> View:
    return View(records[0].id, tuple(PeerView(r, PeerState.ALIVE) for r in sorted(records, key=lambda r: r.id)))


def goal(**more: object) -> Goal:
    return Goal(**more)  # type: ignore[arg-type]


CLIENT = record("z-client", client=True)
NET = model([1, 5, 5, 5, 5, 1])


def spans(plan: Plan) -> list[tuple[str, str, str]]:
    return [(step.peers[0], step.part.start, step.part.end) for step in plan.steps]


def test_a_client_leaves_the_work_to_the_hosts() -> None:
    plan = choose("auto", NET, view(CLIENT, record("a"), record("b")), goal())
    assert spans(plan) == [("a", INPUT, "blocks.2"), ("b", "blocks.2", OUTPUT)]
    assert plan.strategy == "slices"


def test_a_client_with_one_host_runs_the_head_itself() -> None:
    plan = choose("slices", NET, view(CLIENT, record("a")), goal(split=(1,)))
    assert [row[0] for row in spans(plan)] == ["z-client", "a"]


def test_a_host_that_asks_takes_part() -> None:
    plan = choose("slices", NET, view(record("m"), record("a"), record("b")), goal())
    assert [row[0] for row in spans(plan)] == ["m", "a", "b"]


def test_edges_go_from_peer_to_peer_and_only_the_answer_comes_back() -> None:
    plan = choose("slices", NET, view(CLIENT, record("a"), record("b"), record("c")), goal(wires=("float16",)))
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
    plan = choose("slices", NET, swarm, goal(split=(1, 3), peers=(PeerId("c"), PeerId("a"), PeerId("b"))))
    assert spans(plan) == [("c", INPUT, "blocks.1"), ("a", "blocks.1", "blocks.3"), ("b", "blocks.3", OUTPUT)]


def test_auto_alone_runs_the_whole_model_here() -> None:
    plan = choose("auto", NET, view(record("a")), goal())
    assert (plan.strategy, spans(plan)) == ("local", [("a", INPUT, OUTPUT)])


def test_what_cannot_be_cut_runs_whole_and_says_why_when_a_split_was_asked_for() -> None:
    swarm, rigid = view(CLIENT, record("a"), record("b")), model([1, 2], uncut="it loops over its data.")
    assert choose("auto", rigid, swarm, goal()).strategy == "local"
    with pytest.raises(CannotSplit, match="it loops over its data"):
        choose("auto", rigid, swarm, goal(split=(1,)))


def test_a_cut_can_be_wished_by_name() -> None:
    plan = choose("slices", NET, view(CLIENT, record("a"), record("b")), goal(split=("blocks.3",)))
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
    with pytest.raises(UsageError, match="auto, local, slices"):
        choose("magic", NET, view(CLIENT), goal())
    with pytest.raises(UsageError, match="does not split"):
        choose("local", NET, view(CLIENT), goal(split=(1,)))


@given(
    st.lists(st.integers(1, 50), min_size=4, max_size=9),
    st.lists(st.sampled_from([1.0, 2.0, 5.0]), min_size=2, max_size=3),
)
def test_balanced_cuts_are_as_good_as_the_best_of_all(flops: list[int], rates: list[float]) -> None:
    net = model(flops)
    inner = range(1, len(flops) - 1 + 1)

    def slowest(cuts: tuple[int, ...] | list[int]) -> float:
        return max(span_flops(net, span) / rate for span, rate in zip(pairwise(cuts), rates, strict=True))

    best = min(slowest((0, *cuts, len(flops))) for cuts in combinations(inner, len(rates) - 1))
    assert slowest(balanced_cuts(net, rates)) == pytest.approx(best)


def test_many_stages_on_many_peers_give_everybody_a_part() -> None:
    net, rates = model([i % 7 + 1 for i in range(200)]), [1.0 + i % 3 for i in range(100)]
    cuts = balanced_cuts(net, rates)
    assert len(set(cuts)) == 101
    assert (cuts[0], cuts[-1]) == (0, 200)


def test_unmeasured_peers_get_equal_shares() -> None:
    assert balanced_cuts(model([1, 1, 1, 1]), [0.0, 8.0]) == [0, 2, 4]
