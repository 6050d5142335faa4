"""Which plan is better for a goal, and by how much: smaller figures are better throughout."""

from __future__ import annotations

import math
from typing import Final

from swarm.plan import Candidate, Goal, Metric, Plan

NOISE: Final = 1.03
"""A split has to beat the best single device by more: no measurement is truer than that, and one device is simpler."""


def cost_of(plan: Plan, metric: Metric) -> float:
    """Seconds of latency, seconds between answers, or bytes of the largest share; infinite when unknown."""
    if metric == "memory":
        return float(max(plan.estimate.peak_memory_bytes.values()))
    if metric == "throughput":
        return 1 / plan.estimate.throughput_per_s if plan.estimate.throughput_per_s else math.inf
    return plan.estimate.latency_s or math.inf


def by_merit(candidates: list[Candidate], goal: Goal) -> list[Candidate]:
    """The best first, without those that have no plan.

    Of equal ones the quicker answer wins, then fewer peers, then their ids.
    """
    able = [(candidate.plan, candidate) for candidate in candidates if candidate.plan is not None]
    ranked = [candidate for _, candidate in sorted(able, key=lambda pair: _order(pair[0], goal))]
    single = next((candidate for candidate in ranked if is_single(candidate)), None)
    if single is None or goal.metric == "memory" or not ratio(single, ranked[0], goal) <= NOISE:
        return ranked
    return [single, *(candidate for candidate in ranked if candidate is not single)]


def is_single(candidate: Candidate) -> bool:
    return candidate.plan is not None and len(candidate.plan.steps) == len(candidate.plan.peers()) == 1


def ratio(worse: Candidate, better: Candidate, goal: Goal) -> float:
    """How many times more the first costs; NaN where one of them is unknown."""
    assert worse.plan is not None
    assert better.plan is not None
    costs = cost_of(worse.plan, goal.metric), cost_of(better.plan, goal.metric)
    return costs[0] / costs[1] if all(map(math.isfinite, costs)) and costs[1] else math.nan


def _order(plan: Plan, goal: Goal) -> tuple[float, float, int, tuple[str, ...]]:
    return (
        cost_of(plan, goal.metric),
        cost_of(plan, "latency"),
        len(plan.peers()),
        tuple(peer for step in plan.steps for peer in step.peers),
    )
