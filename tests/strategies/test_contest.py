"""Who wins the contest, who loses it, and what each is told."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from swarm.errors import NoFit, NoPeers
from swarm.plan import INPUT, OUTPUT, Candidate, Goal
from swarm.strategies import choose, contest
from swarm.types import Link, ModelProfile, PeerRecord, TensorSpec, View
from tests.strategies.worlds import fast_links, goal, ids, model, record, spans, view

MB = 10**6
NET = model([10, 10, 10, 10], nbytes=50 * MB)


def told(net: ModelProfile, swarm: View, wish: Goal | None = None) -> dict[str, str]:
    return {candidate.title: candidate.verdict for candidate in contest(net, swarm, wish or goal())}


def found(told: dict[str, str], pattern: str) -> str:
    return next(verdict for title, verdict in told.items() if re.fullmatch(pattern, title))


def test_alone_there_is_nothing_to_compare() -> None:
    [winner, *others] = contest(NET, view(record("a", 10.0)), goal())
    assert (winner.title, winner.verdict) == ("local: here (a)", "chosen: the only one that can be")
    assert [other.title for other in others] == ["slices"]


def test_a_weak_device_ships_its_picture_to_the_strongest() -> None:
    swarm = view(record("pi", 1.0, links=fast_links("pc", "mac")), record("pc", 100.0), record("mac", 50.0))
    verdicts = told(NET, swarm)
    assert next(iter(verdicts)) == "whole on pc"
    assert verdicts["whole on pc"].startswith("chosen: ")
    assert verdicts["whole on mac"] == "2.0 times slower: mac computes for 800 of 800 ms"
    assert verdicts["local: here (pi)"] == "100 times slower: pi computes for 40000 of 40000 ms"


def test_a_split_that_gains_less_than_measurements_vary_is_not_chosen() -> None:
    """b is 1 % faster in one of four stages, over a link that costs nothing."""
    swarm = view(
        record("a", links=fast_links("b")), record("b"), stage_s={"a": [1, 1, 1, 1], "b": [1.5, 1.5, 1.5, 0.96]}
    )
    verdicts = told(NET, swarm)
    assert next(iter(verdicts)) == "local: here (a)"
    assert verdicts["local: here (a)"] == "chosen: a split would be only 1 % faster"
    assert found(verdicts, "slices: a 0–1, b .*") == "only 1 % faster: too little to be sure of"


def test_a_split_that_gains_more_is() -> None:
    swarm = view(record("a", links=fast_links("b")), record("b"), stage_s={"a": [1, 1, 1, 1], "b": [3, 3, 0.1, 0.1]})
    winner, *_ = contest(NET, swarm, goal())
    assert winner.title == "slices: a 0, b 1"
    assert winner.verdict == "chosen: 1.8 times faster than the next best, local: here (a)"


def test_losers_hear_what_takes_longest() -> None:
    swarm = view(
        record("me", 1.0, links={"far": Link(1.0, 10.0), "busy": Link(0.0, 1e12), "near": Link(0.0, 1e12)}),
        record("far", 100.0),
        record("busy", 100.0, wait_s=1.8, links={"far": Link(1.0, 10.0)}),
        record("near", 90.0, links={"far": Link(1.0, 10.0), "busy": Link(1.0, 10.0)}),
    )
    verdicts = told(NET, swarm)
    assert found(verdicts, "whole on near").startswith("chosen")
    assert found(verdicts, "whole on far").endswith("the tensors on the way take 3000 of 3400 ms")
    assert re.search(r"busy is busy: a request waits there 1800 of 2200 ms", found(verdicts, "whole on busy"))
    assert "is the slowest step" in found(verdicts, "slices, equal shares.*")


def test_for_throughput_the_loser_hears_of_the_slowest_device_or_link() -> None:
    net = model([10, 10, 10, 10], spec=TensorSpec((1000,)))
    swarm = view(
        record("me", 10.0, links={"a": Link(0.0, 100.0)}), record("a", 10.0), stage_s={"me": [1] * 4, "a": [1] * 4}
    )
    verdicts = told(net, swarm, goal(metric="throughput"))
    assert verdicts["local: here (me)"].startswith("chosen")
    assert verdicts["whole on a"].endswith("the link from a to me bears 0.025 a second")
    quick = view(record("me", 10.0, links=fast_links("a")), record("a", 30.0))
    verdicts = told(net, quick, goal(metric="throughput"))
    assert next(iter(verdicts)).startswith("slices: ")
    assert verdicts["local: here (me)"].endswith("fewer answers a second: me bears 0.25 a second")


def test_for_memory_the_smallest_largest_share_wins() -> None:
    swarm = view(record("a", 10.0), record("b", 10.0), record("c", 10.0))
    verdicts = told(model([1, 1, 1], nbytes=100 * MB), swarm, goal(metric="memory"))
    assert len(next(iter(verdicts)).split(",")) == 3
    assert verdicts["local: here (a)"] == "3.0 times more memory: 300 MB on a"


def test_what_has_no_room_stands_last_with_the_reason() -> None:
    swarm = view(record("a", 10.0, free=120 * MB), record("b", 10.0, free=500 * MB), record("c", 99.0, free=10))
    candidates = contest(NET, swarm, goal())
    unable = {candidate.title: candidate.verdict for candidate in candidates if candidate.plan is None}
    assert unable["local: here (a)"] == "needs 200 MB on a, which has 120 MB free"
    assert unable["whole on c"] == "needs 200 MB on c, which has 1e-05 MB free"
    assert candidates[0].plan is not None


def test_a_device_behind_a_dead_link_is_out_of_reach() -> None:
    dead = Link(0.001, 0.0)
    swarm = view(record("a", 1.0, links={"b": dead}), record("b", 99.0, links={"a": dead}))
    verdicts = told(NET, swarm)
    assert verdicts["whole on b"] == "nothing gets through from a to b"
    assert next(iter(verdicts)) == "local: here (a)"


def test_devices_of_one_name_are_all_told_of() -> None:
    twins = [record(name, 10.0) for name in "abc"]
    same = [type(twin)(twin.id, "pi", (), 1, profile=twin.profile) for twin in twins]
    titles = [candidate.title for candidate in contest(NET, view(*same), goal())]
    assert titles.count("whole on pi") == 2


def test_unasked_only_measured_devices_are_used() -> None:
    swarm = view(record("me", 1.0), record("b", 0), record("c", 50.0))
    planned = [candidate.plan for candidate in contest(NET, swarm, goal()) if candidate.plan is not None]
    assert planned
    assert all("b" not in plan.peers() for plan in planned)


def test_before_anything_is_measured_everybody_gets_an_equal_share_that_fits() -> None:
    [winner, *_] = contest(NET, view(*(record(name, 0) for name in "abcd")), goal())
    assert winner.title == "slices, equal shares: a to blocks.0, b 0, c 1, d to output"
    assert winner.verdict == "chosen: no device was measured yet"
    tight = view(record("a", 0, free=50 * MB), record("b", 0, free=150 * MB))
    plan = contest(NET, tight, goal())[0].plan
    assert plan is not None
    assert plan.estimate.peak_memory_bytes == {"a": 50 * MB, "b": 150 * MB}


def spans_of(candidate: Candidate) -> list[tuple[str, str, str]]:
    assert candidate.plan is not None
    return spans(candidate.plan)


def test_an_unmeasured_client_leaves_the_work_to_measured_hosts() -> None:
    swarm = view(record("me", 0, client=True), record("a", 5.0), record("b", 9.0))
    candidates = contest(NET, swarm, goal())
    assert candidates[0].plan is not None
    assert candidates[0].plan.peers() == ids("b")
    verdicts = {candidate.title: candidate.verdict for candidate in candidates}
    assert verdicts["local: here (me)"] == "not measured yet: me"


@pytest.mark.parametrize("name", ["auto", "slices"])
def test_wishes_are_planned_as_they_are(name: str) -> None:
    swarm = view(record("a", 1.0), record("b", 99.0), record("c", 99.0))
    chosen = choose(name, NET, swarm, goal(split=(0,), peers=ids("c", "a")))
    assert spans_of(chosen) == [("c", INPUT, "blocks.0"), ("a", "blocks.0", OUTPUT)]
    assert chosen.verdict == "chosen: as you asked"


def test_one_named_peer_runs_the_whole() -> None:
    swarm = view(record("a", 1.0), record("b", 99.0), record("c", 99.0, free=10))
    assert spans_of(choose("auto", NET, swarm, goal(peers=ids("c")))) == [("c", INPUT, OUTPUT)]
    assert choose("local", NET, swarm, goal(peers=ids("b"))).title == "whole on b"
    assert choose("local", NET, swarm, goal()).title == "local: here (a)"


# Nothing fits


def test_what_is_missing_is_said_in_megabytes() -> None:
    swarm = view(record("a", 1.0, free=30 * MB), record("b", 1.0, free=50 * MB), record("c", 1.0, free=40 * MB))
    with pytest.raises(NoFit) as error:
        contest(NET, swarm, goal())
    assert str(error.value) == (
        "net needs 200 MB, and the 3 devices here have 120 MB free together: 80 MB are missing. "
        "Add a device, or give one more memory with --memory."
    )


def test_a_piece_that_is_too_large_for_everybody_is_named() -> None:
    swarm = view(record("a", 1.0, free=120 * MB), record("b", 1.0, free=130 * MB))
    lumpy = model([1, 30, 1], nbytes=0)
    with pytest.raises(NoFit, match=r"the part that ends with blocks\.1 needs 300 MB, .* than b with 170 MB"):
        contest(_scaled(lumpy, MB), view(record("a", 1.0, free=160 * MB), record("b", 1.0, free=170 * MB)), goal())
    with pytest.raises(NoFit, match="it cannot be cut, and needs 200 MB"):
        contest(model([10] * 4, uncut="It loops.", nbytes=50 * MB), swarm, goal())
    with pytest.raises(NoFit, match=r"cannot be shared out over a \(120 MB free\), b \(130 MB free\): no cuts leave"):
        contest(model([1, 1, 1], nbytes=80 * MB), swarm, goal())


def _scaled(net: ModelProfile, factor: int) -> ModelProfile:
    stages = tuple(replace(stage, parameter_bytes=stage.parameter_bytes * factor) for stage in net.stages)
    return replace(net, stages=stages)


def test_a_strategy_by_name_says_why_it_cannot() -> None:
    swarm = view(record("a", 1.0, free=30 * MB), record("b", 1.0, free=500 * MB))
    with pytest.raises(NoFit, match=r"local: here \(a\): needs 200 MB on a, which has 30 MB free\."):
        choose("local", NET, swarm, goal())
    with pytest.raises(NoPeers, match="needs 2 peers and only 1"):
        choose("slices", NET, view(record("a", 1.0)), goal())


# Losses


def crowd(*names: str, free: int = 500) -> list[PeerRecord]:
    return [record(name, 100.0 - i, free=free * MB) for i, name in enumerate(names)]


def peers_of(candidate: Candidate) -> list[tuple[str, ...]]:
    assert candidate.plan is not None
    return [plan.peers() for plan in (candidate.plan, *candidate.standbys)]


def test_standbys_share_no_peer_and_each_is_the_best_that_is_left() -> None:
    client = record("me", 0, client=True)
    swarm = view(client, *crowd("a", "b", "c"))
    winner = choose("auto", NET, swarm, goal(survive=2))
    assert peers_of(winner) == [("a",), ("b",), ("c",)]
    assert winner.verdict.endswith("; stands by: b 0–1; stands by: c 0–1")
    assert winner.plan is not None
    assert [plan.estimate.losses_survived for plan in (winner.plan, *winner.standbys)] == [2, 2, 2]
    assert choose("auto", NET, swarm, goal(metric="survive")).standbys != ()


def test_the_requester_alone_outlives_everybody() -> None:
    swarm = view(record("me", 1000.0), *crowd("a", "b"))
    winner = choose("auto", NET, swarm, goal(survive=2))
    assert (peers_of(winner), winner.plan and winner.plan.estimate.losses_survived) == ([("me",)], 2)
    slow = view(record("me", 1.0), *crowd("a", "b"))
    assert peers_of(choose("auto", NET, slow, goal(survive=5))) == [("a",), ("b",), ("me",)]


def test_the_requester_may_be_in_several_plans_as_far_as_its_memory_goes() -> None:
    def swarm(free: int) -> View:
        return view(record("me", 90.0, free=free * MB), *crowd("a", "b", free=100))

    assert peers_of(choose("auto", NET, swarm(150), goal(survive=0)))
    both = choose("slices", NET, swarm(250), goal(survive=1))
    assert len(both.standbys) == 1
    with pytest.raises(NoFit, match="no loss can be borne; add a device"):
        choose("auto", NET, swarm(100), goal(survive=1))


def test_where_the_best_plan_takes_too_much_the_hosts_are_dealt_out() -> None:
    """The two roomiest together answer soonest, but the other two could not hold the model then."""
    client = record("me", 0, client=True)
    swarm = view(
        client,
        record("a", 100.0, free=150 * MB),
        record("b", 100.0, free=150 * MB),
        record("c", 1.0, free=50 * MB),
        record("d", 1.0, free=50 * MB),
    )
    winner = choose("auto", NET, swarm, goal(survive=1))
    assert sorted(map(len, peers_of(winner))) == [2, 2]
    others = contest(NET, swarm, goal(survive=1))[1:]
    assert "leaves too little for 1 plan beside it" in {other.verdict for other in others}


def test_what_cannot_be_survived_is_said_with_the_nearest_that_can() -> None:
    swarm = view(record("me", 0, client=True), *crowd("a", "b", "c"))
    with pytest.raises(NoFit) as error:
        choose("auto", NET, swarm, goal(survive=3))
    assert str(error.value) == (
        "No plan of net survives the loss of 3 peers: with the 4 devices here at most survive=2 can be had; "
        "add a device or ask for --goal survive=2."
    )


def test_a_wish_is_kept_for_the_primary_and_nothing_else_stands_in_for_it() -> None:
    swarm = view(record("me", 0, client=True), *crowd("a", "b", "c"))
    assert peers_of(choose("auto", NET, swarm, goal(survive=1, peers=ids("c", "b")))) == [("b", "c"), ("a",)]
    with pytest.raises(NoFit, match="no loss can be borne"):
        choose("auto", NET, swarm, goal(survive=1, peers=ids("a", "b", "c")))


def test_before_anything_is_measured_standbys_are_found_too() -> None:
    swarm = view(record("me", 0, client=True, free=0), *(record(name, 0, free=120 * MB) for name in "abcd"))
    winner = choose("auto", NET, swarm, goal(survive=1))
    first, second = peers_of(winner)
    assert not set(first) & set(second)
