"""Why a candidate was chosen or lost, in a sentence with numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from swarm.plan import Candidate, Goal, Plan
from swarm.strategies.costs import Costs
from swarm.strategies.merit import ratio
from swarm.strategies.prediction import Timing
from swarm.strategies.strategy import megabytes, shares

BETTER = {"throughput": "more answers a second", "memory": "smaller in its largest share"}


def of_winner(winner: Candidate, others: Sequence[Candidate], costs: Costs, goal: Goal) -> str:
    """`others` are the ones that lost, the best first; only those with a plan count."""
    backed = "".join(f"; stands by: {shares(plan, costs)}" for plan in winner.standbys)
    return f"chosen: {_reason(winner, others, costs, goal)}{backed}"


def _reason(winner: Candidate, others: Sequence[Candidate], costs: Costs, goal: Goal) -> str:
    if goal.split is not None or goal.peers is not None:
        return "as you asked"
    if costs.is_blind:
        return "no device was measured yet"
    rivals = [other for other in others if other.plan is not None]
    if not rivals:
        return "the only one that can be" if others else "there is no other"
    gain = ratio(rivals[0], winner, goal)
    if math.isnan(gain):
        return "the others were not measured yet"
    if gain < 1:
        return f"a split would be only {_factor(1 / gain)} {_better(goal)}"
    if round(gain, 3) == 1:
        return f"as good as the next best, {rivals[0].title}, and simpler"
    return f"{_factor(gain)} {_better(goal)} than the next best, {rivals[0].title}"


def of_loser(loser: Candidate, winner: Candidate, costs: Costs, goal: Goal) -> str:
    """By how much it lost, and what of it takes longest."""
    if loser.plan is None:
        return loser.verdict
    lost = ratio(loser, winner, goal)
    if math.isnan(lost):
        return "not all of it was measured"
    if lost < 1:
        return f"only {_factor(1 / lost)} {_better(goal)}: too little to be sure of"
    if round(lost, 3) == 1:
        return "just as good, but no better"
    if goal.metric == "memory":
        return f"{_times(lost, 'more')} memory: {_largest_share(loser.plan, costs)}"
    if goal.metric == "throughput":
        return f"{_times(lost, 'fewer')} answers a second: {_bottleneck(loser.plan, costs)}"
    return f"{_times(lost, 'slower')}: {_longest(loser.plan, costs)}"


def _better(goal: Goal) -> str:
    return BETTER.get(goal.metric, "faster")


def _times(lost: float, what: str) -> str:
    return f"{_factor(lost)} {what}"


def _factor(gain: float) -> str:
    if gain >= 1.1:
        return f"{gain:.1f} times" if gain < 10 else f"{gain:.0f} times"
    return f"{max(0.1, (gain - 1) * 100):.2g} %"


def _longest(plan: Plan, costs: Costs) -> str:
    """What of a request's time goes where: the wire, a queue, or one slow device."""
    estimate = plan.estimate
    on_wire = sum(step.wire_s for step in estimate.steps) + estimate.answer_s
    queued = max(estimate.steps, key=lambda step: step.queue_s)
    slowest = max(estimate.steps, key=lambda step: step.compute_s)
    whole = estimate.latency_s
    names = {step.id: costs.name(step.peers[0]) for step in plan.steps}
    if on_wire >= max(slowest.compute_s, queued.queue_s):
        return f"the tensors on the way take {_part_of(on_wire, whole)}"
    if queued.queue_s > slowest.compute_s:
        return f"{names[queued.step]} is busy: a request waits there {_part_of(queued.queue_s, whole)}"
    if len(plan.steps) == 1:
        return f"{names[slowest.step]} computes for {_part_of(slowest.compute_s, whole)}"
    return f"{names[slowest.step]} is the slowest step: {_part_of(slowest.compute_s, whole)}"


def _bottleneck(plan: Plan, costs: Costs) -> str:
    timing = Timing.of(plan, costs)
    device, busy_s = max(sorted(timing.devices_s().items()), key=lambda item: item[1])
    ways = sorted(timing.links_s().items(), key=lambda item: (-item[1], item[0]))
    if ways and ways[0][1] > busy_s:
        (sender, receiver), taken_s = ways[0]
        return f"the link from {costs.name(sender)} to {costs.name(receiver)} bears {1 / taken_s:.3g} a second"
    return f"{costs.name(device)} bears {1 / busy_s:.3g} a second"


def _largest_share(plan: Plan, costs: Costs) -> str:
    peer, nbytes = max(sorted(plan.estimate.peak_memory_bytes.items()), key=lambda item: item[1])
    return f"{megabytes(nbytes)} on {costs.name(peer)}"


def _part_of(some_s: float, whole_s: float) -> str:
    digits = 0 if whole_s >= 0.02 else 2
    return f"{some_s * 1e3:.{digits}f} of {whole_s * 1e3:.{digits}f} ms"
