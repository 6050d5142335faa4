"""The search finds what trying everything finds, on small swarms in which nothing is like anything else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.plan import Goal, Metric, Plan
from swarm.strategies.chain import draft
from swarm.strategies.costs import Costs
from swarm.strategies.merit import cost_of
from swarm.strategies.optimum import SAME, in_order
from swarm.strategies.scope import Scope
from swarm.strategies.search import search, subsets
from swarm.strategies.slices import Slices, places
from tests.strategies.worlds import (
    every_chain,
    fast_links,
    fits,
    goal,
    ids,
    model,
    random_world,
    record,
    spans,
    view,
)

WIRES = ("float32", "int8")
seeds = st.integers(0, 10**6)


def found(costs: Costs, goal: Goal) -> Plan | None:
    return Slices().propose(costs, goal)[0].plan


def by(metric: Metric, plans: list[Plan]) -> float:
    return min(cost_of(plan, metric) for plan in plans)


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_no_chain_answers_sooner_where_memory_is_no_matter(seed: int) -> None:
    costs, quick = Costs.of(*random_world(seed)), goal(wires=WIRES)
    plan, rivals = found(costs, quick), list(every_chain(costs, goal(wires=("int8",)), returning=True))
    rivals += list(every_chain(costs, quick))
    if not rivals:
        assert plan is None
        return
    assert plan is not None
    assert cost_of(plan, "latency") <= by("latency", rivals) * (1 + 1e-9)


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_no_chain_that_fits_and_uses_each_device_once_answers_sooner(seed: int) -> None:
    costs, quick = Costs.of(*random_world(seed, tight=True)), goal(wires=WIRES)
    plan, rivals = found(costs, quick), list(every_chain(costs, quick))
    assert plan is None or fits(plan, costs)
    if rivals:
        assert plan is not None
        assert cost_of(plan, "latency") <= by("latency", rivals) * (1 + 1e-9)


@given(seeds, st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_chain_bears_more_requests(seed: int, tight: bool) -> None:
    costs, busy = Costs.of(*random_world(seed, tight=tight)), goal(metric="throughput", wires=WIRES)
    plan, rivals = found(costs, busy), list(every_chain(costs, busy))
    assert (plan is None) == (not rivals)
    if plan is not None:
        assert fits(plan, costs)
        assert cost_of(plan, "throughput") <= by("throughput", rivals) * SAME


@given(seeds, st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_chain_has_a_smaller_largest_share_and_of_those_that_have_none_is_quicker(seed: int, tight: bool) -> None:
    costs, even = Costs.of(*random_world(seed, tight=tight)), goal(metric="memory", wires=WIRES)
    plan, rivals = found(costs, even), list(every_chain(costs, even))
    assert (plan is None) == (not rivals)
    if plan is not None:
        least = by("memory", rivals)
        assert cost_of(plan, "memory") <= least
        assert cost_of(plan, "latency") <= by("latency", [r for r in rivals if cost_of(r, "memory") == least]) + 1e-9


@given(seeds, st.sampled_from(["latency", "throughput", "memory"]))
@settings(max_examples=40, deadline=None)
def test_devices_in_a_given_order_get_the_best_cuts(seed: int, metric: Metric) -> None:
    costs, wish = Costs.of(*random_world(seed, tight=seed % 2 == 0)), goal(metric=metric, wires=WIRES)
    rows = costs.devices
    chain = in_order(Scope(costs, rows, places(costs.model), WIRES), metric)
    order = tuple(costs.records[row].id for row in rows)
    rivals = [p for p in every_chain(costs, wish) if tuple(step.peers[0] for step in p.steps) == order]
    assert (chain is None) == (not rivals)
    if chain is not None:
        peers = [costs.records[row].id for row in chain.devices]
        from_search = [p for p in rivals if _cuts(p, costs) == chain.cuts and _is_wired(p, chain.wires)]
        assert [step.peers[0] for step in from_search[0].steps] == peers
        assert by(metric, from_search) <= by(metric, rivals) * (1 + 1e-9)


def _cuts(plan: Plan, costs: Costs) -> tuple[int, ...]:
    names = [stage.name for stage in costs.model.stages]
    return (0, *(names.index(step.part.end) + 1 for step in plan.steps))


def _is_wired(plan: Plan, wires: tuple[str, ...] | None) -> bool:
    return wires is None or tuple(edge.wire for edge in plan.edges[1:]) == wires


@given(seeds, st.sampled_from(["latency", "throughput"]))
@settings(max_examples=60, deadline=None)
def test_what_is_searched_for_is_what_is_promised(seed: int, metric: Metric) -> None:
    """The costs on the boards add up to the prediction, for every length, order, cut and wire that comes out."""
    costs = Costs.of(*random_world(seed))
    scope = Scope(costs, costs.devices, places(costs.model), WIRES)
    board = scope.latency() if metric == "latency" else scope.throughput()
    for way in search(board, subsets(len(scope.devices)), rivals=True):
        peers = [costs.records[scope.devices[device]].id for device in way.devices]
        wires = [WIRES[wire] for wire in way.wires]
        plan = draft("slices", costs, goal(wires=WIRES), peers, [scope.places[place] for place in way.places], wires)
        assert cost_of(plan, metric) == pytest.approx(way.cost)


def test_a_device_comes_back_where_it_is_best_at_both_ends() -> None:
    """One is quick with what is at the ends, the other with the middle."""
    swarm = view(
        record("a", links=fast_links("b")),
        record("b"),
        stage_s={"a": [0.01, 1.0, 1.0, 0.01], "b": [1.0, 0.01, 0.01, 1.0]},
    )
    plan = found(Costs.of(model([1, 1, 1, 1]), swarm), goal())
    assert plan is not None
    assert [row[0] for row in spans(plan)] == ["a", "b", "a"]


def test_where_memory_forbids_the_way_back_each_device_is_used_once() -> None:
    net = model([1, 1, 1, 1], nbytes=100)
    stage_s = {"a": [0.01, 1.0, 1.0, 0.01], "b": [1.0, 0.01, 0.01, 1.0], "c": [9.0] * 4}
    swarm = view(
        record("a", links=fast_links("b", "c"), free=100),
        record("b", free=200),
        record("c", free=100),
        stage_s=stage_s,
    )
    plan = found(Costs.of(net, swarm), goal())
    assert plan is not None
    assert sorted(row[0] for row in spans(plan)) == ["a", "b", "c"]


@pytest.mark.parametrize("devices", [1, 2, 5, 12])
def test_every_set_with_each_of_its_members_last_has_one_row(devices: int) -> None:
    rows = sum(len(layer.device) for layer in subsets(devices))
    assert rows == devices * 2 ** (devices - 1)


def test_of_more_devices_than_can_be_searched_the_requester_and_the_best_are_kept() -> None:
    quick = [record(f"p{i:02}", 100.0 + i) for i in range(20)]
    swarm = view(record("me", 5000.0, client=True), *quick)
    plan = found(Costs.of(model([100] * 30), swarm), goal(metric="throughput"))
    assert plan is not None
    assert set(plan.peers()) <= set(ids("me", *(f"p{i:02}" for i in range(9, 20))))


def test_small_devices_in_great_number_hold_together_what_twelve_cannot() -> None:
    swarm = view(*(record(f"p{i:02}", 10.0, free=100) for i in range(20)))
    plan = found(Costs.of(model([1] * 20, nbytes=100), swarm), goal())
    assert plan is not None
    assert len(plan.peers()) == 20
