"""Why a candidate was chosen or lost, in a sentence with numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from swarm.plan import Candidate, Goal, Plan
from swarm.strategies.costs import Costs
from swarm.strategies.merit import ratio
from swarm.strategies.prediction import Timing
from swarm.strategies.strategy import megabytes, shares
from swarm.strategies.survival import accuracy_after, bears, losses_of
from swarm.types import PeerId

BETTER = {"throughput": "more answers a second", "memory": "smaller in its largest share"}


def of_winner(winner: Candidate, others: Sequence[Candidate], costs: Costs, goal: Goal) -> str:
    """`others` are the ones that lost, the best first; only those with a plan count."""
    backed = "".join(f"; stands by: {shares(plan, costs)}" for plan in winner.standbys)
    return f"chosen: {_reason(winner, others, costs, goal)}{_bearing(winner, goal)}{backed}"


def _reason(winner: Candidate, others: Sequence[Candidate], costs: Costs, goal: Goal) -> str:
    if goal.split is not None or goal.peers is not None:
        return "as you asked"
    if costs.is_blind:
        return "no device was measured yet"
    rivals = [other for other in others if other.plan is not None]
    if not rivals:
        return "the only one that can be" if others else "there is no other"
    if losses_of(goal) and bears(winner) and not winner.standbys:
        return "nothing exact outlives as many losses"
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
    return _lost(loser, winner, loser.plan, costs, goal) + _bearing(loser, goal)


def _bearing(candidate: Candidate, goal: Goal) -> str:
    """What a plan that goes on without some of its peers is like then."""
    losses = losses_of(goal)
    if not losses or bears(candidate) < losses or candidate.standbys:
        return ""
    whole, after = accuracy_after(candidate, 0), accuracy_after(candidate, losses)
    known = "but how well nobody has measured"
    if after is not None and whole is not None:
        known = f"at {after:.1%} instead of {whole:.1%}"
    return f"; survives {losses} {'loss' if losses == 1 else 'losses'} {known}"


def _lost(loser: Candidate, winner: Candidate, plan: Plan, costs: Costs, goal: Goal) -> str:
    lost = ratio(loser, winner, goal)
    if math.isnan(lost):
        return "not all of it was measured"
    if lost < 1:
        return f"only {_factor(1 / lost)} {_better(goal)}: too little to be sure of"
    if round(lost, 3) == 1:
        return "just as good, but no better"
    if goal.metric == "memory":
        return f"{_times(lost, 'more')} memory: {_largest_share(plan, costs)}"
    if goal.metric == "throughput":
        return f"{_times(lost, 'fewer')} answers a second: {_bottleneck(plan, costs)}"
    return f"{_times(lost, 'slower')}: {_longest(plan, costs)}"


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
    names = {step.id: costs.name(step.lead) for step in plan.steps}
    exchanged = sum(step.exchange_s for step in estimate.steps)
    if exchanged >= max(slowest.compute_s, queued.queue_s, on_wire) > 0 or exchanged > whole / 3:
        return f"{exchanged / whole:.0%} of its time is exchange"
    if on_wire >= max(slowest.compute_s, queued.queue_s):
        return f"the tensors on the way take {_part_of(on_wire, whole)}"
    if queued.queue_s > slowest.compute_s:
        return f"{_busy(plan, queued.step, costs)} is busy: a request waits there {_part_of(queued.queue_s, whole)}"
    if any(step.group is not None and step.id == slowest.step for step in plan.steps):
        return f"the group computes for {_part_of(slowest.compute_s, whole)}"
    if len(plan.steps) == 1:
        return f"{names[slowest.step]} computes for {_part_of(slowest.compute_s, whole)}"
    return f"{names[slowest.step]} is the slowest step: {_part_of(slowest.compute_s, whole)}"


def _busy(plan: Plan, step_id: str, costs: Costs) -> str:
    """Of the peers of a step the one for which it waits."""
    peers = [peer for step in plan.steps if step.id == step_id for peer in step.peers]
    spent_s = costs.step_s + costs.wait_s
    return costs.name(max(peers, key=lambda peer: float(spent_s[costs.index[peer]])))


def _bottleneck(plan: Plan, costs: Costs) -> str:
    timing = Timing.of(plan, costs)
    device, busy_s = _busiest(timing.devices_s())
    ways = sorted(timing.links_s().items(), key=lambda item: (-item[1], item[0]))
    peer, taken_s = _busiest(timing.interfaces_s() or {device: 0.0})
    if taken_s > max(busy_s, ways[0][1] if ways else 0.0):
        return f"the network interface of {costs.name(peer)} bears {1 / taken_s:.3g} a second"
    if ways and ways[0][1] > busy_s:
        (sender, receiver), taken_s = ways[0]
        return f"the link from {costs.name(sender)} to {costs.name(receiver)} bears {1 / taken_s:.3g} a second"
    return f"{costs.name(device)} bears {1 / busy_s:.3g} a second"


def _busiest(by_peer: Mapping[PeerId, float]) -> tuple[PeerId, float]:
    return max(sorted(by_peer.items()), key=lambda item: item[1])


def _largest_share(plan: Plan, costs: Costs) -> str:
    peer, nbytes = max(sorted(plan.estimate.peak_memory_bytes.items()), key=lambda item: item[1])
    return f"{megabytes(nbytes)} on {costs.name(peer)}"


def _part_of(some_s: float, whole_s: float) -> str:
    digits = 0 if whole_s >= 0.02 else 2
    return f"{some_s * 1e3:.{digits}f} of {whole_s * 1e3:.{digits}f} ms"
