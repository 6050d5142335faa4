"""Plans that stand by: whole ones without each other's peers, so that a loss finds the next one loaded.

    primary   a, b        the loss of a or b leaves the standby whole
    standby   c, me       the requester may be in all of them: without it nobody asks

With K standbys any K peers may be lost. A plan on the requester alone outlives every peer, and ends the list.

A group that the requester leads may do without standbys, and go on without its members: it answers less well then, so
that it comes only where nothing exact can be had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from swarm.plan import Candidate, Goal
from swarm.strategies.costs import Costs
from swarm.strategies.resilience import may_lose

Best = Callable[[Costs], Candidate | None]
"""The best that can be done with what is left."""


def surviving(
    candidates: Sequence[Candidate], costs: Costs, losses: int, best: Best, *, may_deal: bool
) -> tuple[Candidate | None, int]:
    """The first candidate that stands `losses`, with its standbys, or None; and how many losses can be had at most.

    If none does and `may_deal`, the hosts are dealt out in groups, and the first group's plan is the candidate.
    """
    most = 0
    for candidate in candidates:
        backed = _backed(candidate, costs, losses, best)
        if survived(backed) >= losses:
            return backed, losses
        most = max(most, len(backed.standbys))
    hosts = sum(row != costs.me for row in costs.devices)
    for fewer in range(min(losses, hosts) if may_deal else most, most, -1):
        dealt = _dealt(costs, fewer, best)
        if dealt is not None:
            return (dealt if fewer == losses else None), fewer
    return None, most


def losses_of(goal: Goal) -> int:
    """How many the goal wants borne."""
    return max(goal.survive, int(goal.metric == "survive"))


def bears(candidate: Candidate) -> int:
    """How many losses it bears by itself, if less well."""
    return may_lose(candidate.plan) if candidate.plan is not None else 0


def degraded(candidates: Sequence[Candidate], losses: int) -> Candidate | None:
    """Of those that bear so many losses by themselves the one that answers best then; of equal ones the first."""
    able = [candidate for candidate in candidates if bears(candidate) >= losses]
    return max(able, key=lambda candidate: round(accuracy_after(candidate, losses) or 0.0, 2), default=None)


def accuracy_after(candidate: Candidate, losses: int) -> float | None:
    """None where nobody knows."""
    known = candidate.plan.estimate.accuracy if candidate.plan is not None else ()
    return known[losses] if losses < len(known) else None


def survived(candidate: Candidate) -> float:
    """How many peers may be lost; any number, once the requester can answer alone."""
    plans = [plan for plan in (candidate.plan, *candidate.standbys) if plan is not None]
    return math.inf if any(plan.peers() == (plan.requester,) for plan in plans) else len(plans) - 1


def _backed(primary: Candidate, costs: Costs, losses: int, best: Best) -> Candidate:
    """`primary` with up to `losses` standbys, each the best of what the ones before it left.

    Where they do not suffice, the requester alone does, slow as it may be, if it has the memory.
    """
    chosen, left = [primary], _beside(costs, primary)
    while len(chosen) <= losses and not _is_alone(chosen[-1]):
        found = best(left)
        if found is None:
            alone = best(_beside(costs, primary).only(()))
            return _together(chosen if alone is None else [primary, alone])
        chosen.append(found)
        left = _beside(left, found)
    return _together(chosen)


def _dealt(costs: Costs, losses: int, best: Best) -> Candidate | None:
    """Where the best plans leave too little for others: groups of hosts with equal memory, and a plan on each."""
    chosen, left = list[Candidate](), costs
    for group in _groups(costs, losses + 1):
        found = best(left.only(group))
        if found is None:
            return None
        chosen.append(found)
        left = _beside(left, found)
    return _together(chosen)


def _groups(costs: Costs, count: int) -> Iterator[list[int]]:
    """The hosts dealt out, the roomiest first, always to the group that has least memory yet."""
    whole = costs.span_bytes(0, len(costs.model.stages))
    room = {row: min(whole, float(costs.limit_bytes[row])) for row in costs.devices if row != costs.me}
    groups: list[list[int]] = [[] for _ in range(count)]
    for row in sorted(room, key=lambda row: (-room[row], row)):
        min(groups, key=lambda group: sum(room[member] for member in group)).append(row)
    yield from groups


def _beside(costs: Costs, taken: Candidate) -> Costs:
    assert taken.plan is not None
    return costs.beside(taken.plan)


def _is_alone(candidate: Candidate) -> bool:
    return candidate.plan is not None and candidate.plan.peers() == (candidate.plan.requester,)


def _together(chosen: Sequence[Candidate]) -> Candidate:
    """The first with the others standing by, each plan with what all of them survive."""
    plans = [candidate.plan for candidate in chosen if candidate.plan is not None]
    losses = max(len(plans) - 1, *(plan.estimate.losses_survived for plan in plans))
    first, *standbys = (replace(p, estimate=replace(p.estimate, losses_survived=losses)) for p in plans)
    return replace(chosen[0], plan=first, standbys=tuple(standbys))
