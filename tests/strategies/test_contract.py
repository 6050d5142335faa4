"""What every strategy keeps to, whatever the model, the swarm and the goal."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import SwarmError
from swarm.plan import INPUT, OUTPUT, Candidate, Goal, Metric, Plan
from swarm.strategies import STRATEGIES, choose, contest, predict
from swarm.strategies.costs import Costs
from swarm.types import ModelProfile, View
from tests.strategies.worlds import fits, goal, ids, model, random_world, record, view

seeds = st.integers(0, 10**6)
metrics: st.SearchStrategy[Metric] = st.sampled_from(["latency", "throughput", "memory", "survive"])
wires = st.sampled_from([("float32",), ("float16", "int8"), ("float32", "float16", "int8")])


def proposed(name: str, costs: Costs, wish: Goal) -> list[Candidate]:
    with suppress(SwarmError):
        return STRATEGIES[name].propose(costs, wish)
    return []


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@given(seeds, metrics, wires, st.booleans())
@settings(max_examples=25, deadline=None)
def test_every_plan_is_whole_fits_and_keeps_its_promise(
    name: str, seed: int, metric: Metric, allowed: tuple[str, ...], tight: bool
) -> None:
    net, swarm = random_world(seed, tight=tight)
    costs = Costs.of(net, swarm)
    for candidate in proposed(name, costs, goal(metric=metric, wires=allowed)):
        assert candidate.title
        assert (candidate.plan is None) <= bool(candidate.verdict)
        if candidate.plan is not None:
            check_whole(candidate.plan, net, swarm)
            assert candidate.plan.strategy == name
            assert {edge.wire for edge in candidate.plan.edges} <= set(allowed)
            assert fits(candidate.plan, costs)
            assert candidate.plan.estimate == predict(candidate.plan, net, swarm)


def check_whole(plan: Plan, net: ModelProfile, swarm: View) -> None:
    """A chain from input to output through the whole model, from the requester and back to it."""
    cuts = [(step.part.start, step.part.end) for step in plan.steps]
    assert (cuts[0][0], cuts[-1][1]) == (INPUT, OUTPUT)
    assert all(end == start for (_, end), (start, _) in pairwise(cuts))
    names = [stage.name for stage in net.stages]
    ends = [names.index(end) for _, end in cuts]
    assert ends == sorted(set(ends))
    assert (plan.edges[0].sender, plan.edges[-1].receiver) == (swarm.me, swarm.me)
    assert plan.edges[0].tensor == net.input
    assert [edge.tensor for edge in plan.edges[1:]] == [net.stages[end].output for end in ends]
    assert [edge.receiver for edge in plan.edges[:-1]] == [step.peers[0] for step in plan.steps]


@given(seeds, metrics, st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_same_swarm_gets_the_same_plans_however_it_is_told(seed: int, metric: Metric, tight: bool) -> None:
    net, swarm = random_world(seed, tight=tight)
    told_otherwise = replace(
        swarm,
        stage_s=dict(reversed(list(swarm.stage_s.items()))),
        peers=tuple(
            replace(
                seen,
                record=replace(
                    seen.record,
                    profile=replace(seen.record.profile, links=dict(reversed(list(seen.record.profile.links.items())))),
                ),
            )
            for seen in swarm.peers
        ),
    )
    try:
        first = contest(net, swarm, goal(metric=metric))
    except SwarmError as error:
        with pytest.raises(type(error)):
            contest(net, told_otherwise, goal(metric=metric))
    else:
        assert first == contest(net, told_otherwise, goal(metric=metric))


@given(seeds, metrics, st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_winner_comes_first_has_a_plan_and_everybody_a_verdict(seed: int, metric: Metric, tight: bool) -> None:
    net, swarm = random_world(seed, tight=tight)
    with suppress(SwarmError):
        told = contest(net, swarm, goal(metric=metric))
        assert told[0].plan is not None
        assert told[0].verdict.startswith("chosen: ")
        assert all(candidate.verdict and not candidate.verdict.startswith("chosen") for candidate in told[1:])
        have_plans = [candidate.plan is not None for candidate in told]
        assert have_plans == sorted(have_plans, reverse=True)
        assert told[0] == choose("auto", net, swarm, goal(metric=metric))


def test_a_requester_that_declined_is_planned_around() -> None:
    """It is not in the view that is corrected then, but it still asks."""
    swarm = view(record("a", 5.0), record("b", 5.0))
    told = contest(model([1, 2, 3]), replace(swarm, me=ids("me")[0]), goal())
    assert told[0].plan is not None
    assert told[0].plan.peers() <= ids("a", "b")
    assert told[0].plan.edges[0].sender == "me"


def test_others_clients_are_never_planned_with() -> None:
    swarm = view(record("me", 1.0), record("b", 2.0), record("idle", 1000.0, client=True))
    told = contest(model([1, 2, 3]), swarm, goal())
    assert all("idle" not in candidate.plan.peers() for candidate in told if candidate.plan is not None)
