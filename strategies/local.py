"""`local`: the whole model on one device; the baseline every table shows."""

from __future__ import annotations

from swarm.errors import UsageError
from swarm.plan import Goal, Plan
from swarm.strategies.chain import chain, present
from swarm.types import ModelProfile, View


class Local:
    """One step: on the requester, or on the one peer that the goal names."""

    def propose(self, model: ModelProfile, view: View, goal: Goal) -> list[Plan]:
        if goal.split:
            raise UsageError("The strategy 'local' does not split; leave --split out, or use --strategy slices.")
        if goal.peers is not None and len(goal.peers) != 1:
            raise UsageError(f"The strategy 'local' runs on one peer, and {len(goal.peers)} were named; name one.")
        [peer] = present(view, goal.peers or (view.me,))
        return [chain("local", model, view, goal, [peer], [0, len(model.stages)])]
