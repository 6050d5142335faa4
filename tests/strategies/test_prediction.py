"""What a plan should take, against sums done by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from swarm.errors import CannotSplit
from swarm.plan import INPUT, OUTPUT, Edge, Part, Plan, Step
from swarm.strategies import predict
from swarm.strategies.chain import chain
from swarm.strategies.costs import Costs
from swarm.strategies.links import GUESSED_LINK, Links, cargo, raw_cargo
from swarm.tensors import WIRE_DTYPES, wire_bytes
from swarm.types import Link, ModelProfile, Stage, TensorSpec
from tests.strategies.worlds import DIGEST, goal, ids, model, record, view

PICTURE = TensorSpec((3, 10, 10))
HIDDEN = TensorSpec((10, 20))
NET = ModelProfile(
    "net",
    DIGEST,
    PICTURE,
    (
        Stage("stem", 1000, 100, HIDDEN, (), 50),
        Stage("blocks.0", 3000, 200, HIDDEN, (0,), 70),
        Stage(OUTPUT, 500, 40, TensorSpec((5,)), (1,), 10),
    ),
    (1, 2),
)
SWARM = view(
    record("me", 0, client=True, links={"a": Link(0.010, 1000.0)}, coding={"int8": 50.0}),
    record("a", 1000, links={"b": Link(0.020, 2000.0)}, wait_s=2.0, step_s=0.001, coding={"int8": 1000.0}),
    record("b", 500, links={"me": Link(0.040, 4000.0)}, step_s=0.002, coding={"int8": 400.0}),
)


def test_a_chain_by_hand() -> None:
    plan = chain("slices", NET, SWARM, goal(wires=("int8",)), ids("a", "b"), (0, 2, 3))
    estimate = plan.estimate
    there = 0.005 + 300 / 1000  # raw pixels, and no codec
    first = 0.001 + 4.0 + 2.0  # the step, 4000 operations, and what other requests cost it
    between = 0.010 + (200 + 4 * 10) / 2000 + 200 / 1000 + 200 / 400
    second = 0.002 + 1.0
    back = 0.020 + (5 + 4) / 4000 + 5 / 400 + 5 / 50
    assert estimate.latency_s == pytest.approx(there + first + between + second + back)
    assert estimate.answer_s == pytest.approx(back)
    assert estimate.throughput_per_s == pytest.approx(1 / (4.0 + 0.001 + 200 / 1000))
    assert estimate.moved_bytes == 300 + 240 + 9
    assert estimate.peak_memory_bytes == {"a": 370, "b": 50}
    a, b = estimate.steps
    assert (a.compute_s, a.wire_s, a.queue_s) == pytest.approx((4.0, there, 2.001))
    assert (b.compute_s, b.wire_s, b.queue_s, b.bytes) == pytest.approx((1.0, between, 0.002, 240))


def test_the_steps_and_the_way_back_add_up_to_the_latency_of_a_chain() -> None:
    estimate = chain("slices", NET, SWARM, goal(), ids("a", "b", "a"), (0, 1, 2, 3)).estimate
    steps = sum(step.compute_s + step.wire_s + step.queue_s for step in estimate.steps)
    assert steps + estimate.answer_s == pytest.approx(estimate.latency_s)
    assert estimate.peak_memory_bytes == {"a": 190, "b": 270}


def test_stages_that_were_measured_count_for_more_than_a_rate() -> None:
    swarm = replace(SWARM, stage_s={**dict.fromkeys(ids("a"), (1.0, 7.0, 2.0)), **dict.fromkeys(ids("b"), (1.0,))})
    estimate = chain("slices", NET, swarm, goal(), ids("a", "b"), (0, 2, 3)).estimate
    assert [step.compute_s for step in estimate.steps] == [8.0, 1.0]


def test_on_a_dag_the_longest_path_counts() -> None:
    def part(start: str, end: str) -> Part:
        return Part("net", DIGEST, start, end)

    me, a, b = ids("me", "a", "b")
    steps = (
        Step("tail", part("blocks.0", OUTPUT), (a,)),
        Step("short", part(INPUT, "stem"), (a,)),
        Step("long", part(INPUT, "blocks.0"), (b,)),
    )
    edges = (
        Edge("short", "tail", a, a, HIDDEN),
        Edge("long", "tail", b, a, HIDDEN),
        Edge(INPUT, "short", me, a, PICTURE),
        Edge(INPUT, "long", me, b, PICTURE),
        Edge("tail", OUTPUT, a, me, TensorSpec((5,))),
    )
    estimate = predict(Plan("p", "made", me, steps, edges), NET, SWARM)
    there, long = 0.020 + 300 / 4000, 0.002 + 8.0
    between, tail, back = 0.010 + 800 / 2000, 0.001 + 0.5 + 2.0, 0.005 + 20 / 1000
    assert estimate.latency_s == pytest.approx(there + long + between + tail + back)
    assert estimate.steps[0].wire_s == pytest.approx(between)
    assert estimate.throughput_per_s == pytest.approx(1 / 8.002)


def test_what_was_not_measured_or_cannot_be_reached_is_not_predicted() -> None:
    unknown = chain("slices", NET, SWARM, goal(), ids("a", "me"), (0, 2, 3)).estimate
    dead = view(record("me", 1.0, links={"a": Link(0.0, 0.0)}), record("a", 1.0))
    for estimate in (unknown, chain("local", NET, dead, goal(), ids("a"), (0, 3)).estimate):
        assert (estimate.latency_s, estimate.throughput_per_s, estimate.steps) == (0.0, 0.0, ())
        assert estimate.moved_bytes
        assert estimate.peak_memory_bytes


def test_a_peer_that_is_gone_makes_a_plan_unpredictable_not_impossible() -> None:
    plan = chain("slices", NET, SWARM, goal(), ids("a", "b"), (0, 2, 3))
    without_b = replace(SWARM, peers=tuple(seen for seen in SWARM.peers if seen.record.id != "b"))
    assert predict(plan, NET, without_b).latency_s == 0.0
    with pytest.raises(CannotSplit, match=r"no cut called 'blocks\.0'"):
        predict(plan, model([1]), SWARM)


def test_only_a_plan_on_the_requester_alone_outlives_the_others() -> None:
    assert chain("local", NET, SWARM, goal(), ids("me"), (0, 3)).estimate.losses_survived == 2
    assert chain("local", NET, SWARM, goal(), ids("a"), (0, 3)).estimate.losses_survived == 0


# Links


@pytest.mark.parametrize("wire", WIRE_DTYPES)
@pytest.mark.parametrize("shape", [(), (7,), (3, 7), (2, 3, 7), (0, 7), (7, 0)])
@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8"])
def test_bytes_are_those_that_the_codec_makes(wire: str, shape: tuple[int, ...], dtype: str) -> None:
    spec = TensorSpec(shape, dtype)
    assert cargo(spec, wire).nbytes == wire_bytes(spec, 1, wire)


def test_pictures_travel_as_pixels_and_other_inputs_as_they_are() -> None:
    assert raw_cargo(TensorSpec((3, 224, 224))).nbytes == 150528
    assert raw_cargo(TensorSpec((128,), "int64")).nbytes == 1024


def test_a_link_is_known_from_either_end_and_else_taken_for_the_median() -> None:
    a, b, c = record("a", links={"b": Link(0.2, 100.0)}), record("b"), record("c", links={"d": Link(0.4, 300.0)})
    links = Links.of([a, b, c, record("d")])
    assert (links.delay_s[1, 0], links.byte_s[1, 0]) == (0.1, 0.01)
    assert (links.delay_s[0, 3], links.byte_s[0, 3]) == (pytest.approx(0.15), 1 / 200)
    alone = Links.of([record("a"), record("b")])
    assert (alone.delay_s[0, 1], alone.byte_s[0, 1]) == (GUESSED_LINK.rtt_s / 2, 1 / GUESSED_LINK.bytes_per_s)


def test_a_dead_link_is_dead_one_way_unless_the_other_end_knows_nothing() -> None:
    dead, alive = Link(0.1, 0.0), Link(0.1, 10.0)
    links = Links.of([record("a", links={"b": dead}), record("b", links={"a": alive}), record("c", links={"a": dead})])
    assert [bool(links.reaches(*pair)) for pair in ((0, 1), (1, 0), (2, 0), (0, 2))] == [False, True, False, False]
    assert links.crossing_s(cargo(TensorSpec((0,)), "float32"), 0, 1) == float("inf")
    assert links.crossing_s(cargo(TensorSpec((9,)), "float32"), 0, 0) == 0.0


@pytest.mark.parametrize("rate", [5e-324, 1e-300, 1e18])
def test_absurd_rates_of_one_peer_spoil_no_figure_of_the_others(rate: float) -> None:
    odd = record("odd", rate, links={"me": Link(1e9, rate)}, coding={"float32": rate, "int8": rate}, step_s=1e9)
    swarm = view(record("me", 10.0, links={"b": Link(0.0, 10.0)}), record("b", 20.0), odd)
    costs = Costs.of(NET, swarm)
    assert np.isfinite(costs.done_s).all()
    assert np.isfinite(costs.links.byte_s).all()
    assert predict(chain("local", NET, swarm, goal(), ids("b"), (0, 3)), NET, swarm).latency_s == pytest.approx(
        225.0 + 32
    )
