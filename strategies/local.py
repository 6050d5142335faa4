"""`local`: the whole model on one device; the baseline that every split has to beat.

On another device than the requester this is what is called offloading: the raw picture is shipped there.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from swarm.errors import UsageError
from swarm.plan import Candidate, Goal
from swarm.strategies.chain import draft, present
from swarm.strategies.costs import Costs
from swarm.strategies.strategy import fitting
from swarm.types import PeerId

MOST_ELSEWHERE: Final = 3


class Local:
    """One step: on the requester, or on the one peer that the goal names; and, to compare, on the best others."""

    def propose(self, costs: Costs, goal: Goal) -> list[Candidate]:
        if goal.split:
            raise UsageError("The strategy 'local' does not split; leave --split out, or use --strategy slices.")
        if goal.peers is not None:
            if len(goal.peers) != 1:
                raise UsageError(f"The strategy 'local' runs on one peer, and {len(goal.peers)} were named; name one.")
            [peer] = present(costs.view, goal.peers)
            return [Candidate(_title(costs, peer), draft("local", costs, goal, [peer], _whole(costs)))]
        rows = [costs.me, *_elsewhere(costs)]
        return [self._on(costs, goal, costs.records[row].id) for row in rows]

    def _on(self, costs: Costs, goal: Goal, peer: PeerId) -> Candidate:
        return fitting(_title(costs, peer), draft("local", costs, goal, [peer], _whole(costs)), costs)


def _elsewhere(costs: Costs) -> list[int]:
    """The hosts that would answer soonest, and always the one that computes fastest, whether it has room or not."""
    others = [row for row in costs.devices if row != costs.me]
    needed, whole_s = costs.span_bytes(0, len(costs.model.stages)), costs.whole_s()
    able = [row for row in others if needed <= costs.limit_bytes[row] and np.isfinite(whole_s[row])]
    soonest = sorted(able, key=lambda row: (whole_s[row], row))[:MOST_ELSEWHERE]
    strongest = sorted(others, key=lambda row: (costs.done_s[row, -1], row))[:1]
    return [*soonest, *(row for row in strongest if row not in soonest)]


def _whole(costs: Costs) -> list[int]:
    return [0, len(costs.model.stages)]


def _title(costs: Costs, peer: PeerId) -> str:
    return f"local: here ({costs.name(peer)})" if peer == costs.view.me else f"whole on {costs.name(peer)}"
