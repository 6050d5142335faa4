"""When groups win the contest, when they lose it, and what survives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swarm.errors import NoFit
from swarm.plan import Candidate, Goal, Plan
from swarm.strategies import choose, contest
from swarm.strategies.resilience import at_fraction
from swarm.types import Link, View
from tests.strategies.worlds import goal, ids, lan, record, view, vit

MB = 10**6
CURVE = ((0.0, 0.001), (0.3, 0.5), (0.5, 0.8), (0.7, 0.89), (0.9, 0.905), (1.0, 0.91))
NET = vit(resilience=CURVE)
GIGABIT, FAST_ETHERNET = Link(0.001, 125e6), Link(0.001, 12.5e6)


def swarm(rates: list[float], link: Link = GIGABIT, free: int | None = None) -> View:
    names = "abcdefgh"[: len(rates)]
    return view(*lan(names, rates, link, step_s=0.0005, free=None if free is None else free * MB))


def strategy(candidate: Candidate) -> str:
    return candidate.plan.strategy if candidate.plan is not None else ""


def planned(told: tuple[Candidate, ...], title: str) -> Plan:
    plan = next(candidate.plan for candidate in told if candidate.title.startswith(title))
    assert plan is not None
    return plan


def test_on_a_fast_network_with_ample_memory_tokens_win() -> None:
    told = contest(NET, swarm([40e9] * 4), goal())
    assert told[0].title == "tokens: a 50, b 49, c 49, d 49 tokens"
    assert told[0].verdict.startswith("chosen: ")
    titles = [candidate.title for candidate in told]
    assert "columns: a 3+768, b 3+768, c 3+768, d 3+768 heads and neurons" in titles
    assert any(title.startswith("partial: ") for title in titles)
    assert len(titles) == len(set(titles))


def test_on_a_slow_network_no_group_wins_and_each_hears_why() -> None:
    told = contest(NET, swarm([40e9, 20e9, 20e9, 10e9], FAST_ETHERNET), goal())
    assert strategy(told[0]) in ("local", "slices")
    losers = {candidate.title: candidate.verdict for candidate in told[1:]}
    assert next(v for t, v in losers.items() if t.startswith("tokens: a ")).endswith("% of its time is exchange")
    quick = contest(NET, swarm([40e9, 20e9, 20e9, 10e9]), goal())
    for name in ("tokens: ", "columns: "):
        slow_s, quick_s = (planned(one, name).estimate.latency_s for one in (told, quick))
        assert slow_s > quick_s


def test_unequal_devices_share_by_speed_and_gain_much_over_equal_shares() -> None:
    told = contest(NET, swarm([40e9, 20e9, 20e9, 10e9]), goal())
    for name, gain in (("tokens", 0.31), ("columns", 0.31)):
        best = planned(told, f"{name}: ").estimate.latency_s
        equal = planned(told, f"{name}, equal shares: ").estimate.latency_s
        assert best <= (1 - gain) * equal


def test_where_nobody_has_room_for_a_whole_block_run_columns_share_it() -> None:
    told = contest(NET, swarm([40e9] * 8, free=60), goal())
    assert strategy(told[0]) == "columns"
    assert max(planned(told, "columns").estimate.peak_memory_bytes.values()) <= 60 * MB


def test_for_the_least_memory_columns_win() -> None:
    assert strategy(contest(NET, swarm([40e9] * 8), goal(metric="memory"))[0]) == "columns"


def test_for_throughput_a_pipeline_does_more_than_any_group() -> None:
    told = contest(NET, swarm([40e9] * 4, FAST_ETHERNET), goal(metric="throughput"))
    assert strategy(told[0]) == "slices"
    verdicts = [candidate.verdict for candidate in told if candidate.title.startswith("columns")]
    assert any("the network interface of" in verdict for verdict in verdicts)


def test_a_model_whose_blocks_cannot_be_shared_says_why() -> None:
    rigid = replace(
        NET, stages=tuple(replace(s, inside=None) for s in NET.stages), inside_reason="its windows are shifted"
    )
    told = contest(rigid, swarm([40e9] * 2), goal())
    assert {c.title: c.verdict for c in told if c.title in ("tokens", "columns", "partial")} == dict.fromkeys(
        ("tokens", "columns", "partial"), "its windows are shifted"
    )
    with pytest.raises(NoFit, match=r"tokens: its windows are shifted\."):
        choose("tokens", rigid, swarm([40e9] * 2), goal())


def test_a_split_that_was_asked_for_is_made_of_slices() -> None:
    assert choose("auto", NET, swarm([40e9] * 3), goal(split=(6,))).title.startswith("slices: ")


# Losses


def chosen(name: str, free: int, wish: Goal, devices: int = 4) -> Candidate:
    return choose(name, NET, swarm([40e9] * devices, free=free), wish)


def on_loss(candidate: Candidate) -> set[str]:
    assert candidate.plan is not None
    return {step.group.on_loss for step in candidate.plan.steps if step.group is not None}


def test_exact_answers_after_a_loss_come_before_any_others() -> None:
    winner, *losers = contest(NET, swarm([40e9] * 4), goal(survive=2))
    assert strategy(winner) != "partial"
    assert winner.standbys
    verdicts = [loser.verdict for loser in losers if strategy(loser) == "partial"]
    assert any("survives 2 losses at" in verdict for verdict in verdicts)
    assert not any(strategy(loser) == "partial" and "retry" in on_loss(loser) for loser in losers)


def test_where_nothing_exact_outlives_the_losses_a_partial_plan_does_and_tells_how_well() -> None:
    winner, *losers = contest(NET, swarm([40e9] * 4, free=280), goal(survive=2))
    assert (strategy(winner), winner.standbys, on_loss(winner)) == ("partial", (), {"degrade"})
    assert "chosen: nothing exact outlives as many losses; survives 2 losses at " in winner.verdict
    assert winner.verdict.endswith("% instead of 91.0%")
    assert winner.plan is not None
    assert winner.plan.estimate.losses_survived == len(winner.plan.peers()) - 1 >= 2
    assert all(loser.plan is None or strategy(loser) == "partial" for loser in losers)
    weak = {loser.verdict for loser in losers if loser.title.startswith("partial: a") and loser.plan is None}
    assert weak == {"survives only the loss of 1 peer"}


def test_more_losses_than_members_cannot_be_borne() -> None:
    with pytest.raises(NoFit, match="at most survive=3 can be had"):
        chosen("auto", 110, goal(survive=4))


def test_asked_for_by_name_it_stands_alone_and_its_fraction_is_the_least_that_bears_the_losses() -> None:
    plan = chosen("partial", 400, goal(survive=1)).plan
    assert plan is not None
    accuracy = plan.estimate.accuracy
    assert accuracy[0] == 0.91
    assert accuracy[1] >= 0.9
    assert list(accuracy) == sorted(accuracy, reverse=True)
    assert len(accuracy) == len(plan.peers())
    less = choose("partial", NET, swarm([40e9] * 4), goal(replicate=(0.0,), peers=ids("a", "b", "c", "d"))).plan
    assert less is not None
    assert less.estimate.accuracy[1] < 0.9


def test_who_goes_on_without_columns_knows_how_well_and_who_does_not_has_nothing_to_say() -> None:
    wish = goal(peers=ids("a", "b", "c", "d"))
    assert choose("columns", NET, swarm([40e9] * 4), wish).plan.estimate.accuracy == ()  # type: ignore[union-attr]
    plan = choose("columns", NET, swarm([40e9] * 4), replace(wish, on_loss="degrade")).plan
    assert plan is not None
    quarter = plan.estimate.accuracy[3]
    assert quarter == pytest.approx(at_fraction(NET, 0.25), abs=0.05)
    assert choose("tokens", NET, swarm([40e9] * 4), replace(wish, on_loss="degrade")).plan.estimate.accuracy == ()  # type: ignore[union-attr]


def test_without_measurements_of_the_model_half_is_replicated_as_far_as_there_is_room() -> None:
    def lead_neurons(free: int | None) -> int:
        plan = choose("partial", vit(), swarm([40e9] * 4, free=free), goal(peers=ids("a", "b", "c", "d"))).plan
        assert plan is not None
        group = plan.steps[1].group
        assert group is not None
        shard = group.members[0].part.shard
        assert shard is not None
        return shard.heads[0] * 64 * 4 + shard.neurons[0] * 2

    assert lead_neurons(None) == pytest.approx((12 * 64 * 4 + 3072 * 2) * 0.625, rel=0.01)
    assert lead_neurons(150) < lead_neurons(None)


def test_a_lead_that_can_be_lost_bears_nothing_by_itself() -> None:
    client = view(record("z", 0, client=True), *lan("abc", [40e9] * 3, GIGABIT))
    plan = choose("partial", NET, client, goal()).plan
    assert plan is not None
    assert plan.estimate.losses_survived == 0
    with pytest.raises(NoFit, match="no loss can be borne"):
        choose("partial", NET, client, goal(survive=1, peers=ids("a", "b", "c")))
