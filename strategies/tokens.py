"""`tokens`: every member holds all the weights of the blocks and runs its own tokens; keys and values are gathered.

For devices with ample memory: of the ways to share a block it sends least (after Voltage, Hu and Li 2024).
"""

from __future__ import annotations

from swarm.plan import Candidate, Goal, OnLoss
from swarm.strategies.costs import Costs
from swarm.strategies.grouping import Deal
from swarm.strategies.inside import Run
from swarm.strategies.sharing import Load, apportion, load
from swarm.strategies.teams import Team, candidates


class Tokens:
    """Shares by speed. Memory has no say in them: each member holds the same."""

    name = "tokens"

    def propose(self, costs: Costs, goal: Goal) -> list[Candidate]:
        return candidates(self, costs, goal)

    def most(self, run: Run) -> int:
        return run.inside.tokens

    def deal(self, team: Team, goal: Goal) -> Deal | None:
        if goal.metric == "memory":
            return self.equal(team, goal)
        return _dealt(team, [load(float(seconds), team.run.inside.tokens) for seconds in team.whole_s()])

    def equal(self, team: Team, goal: Goal) -> Deal:
        deal = _dealt(team, [Load(0.0, 1.0, team.run.inside.tokens)] * team.size)
        assert deal is not None, "there are as many tokens as members"
        return deal

    def on_loss(self, goal: Goal) -> OnLoss:
        return goal.on_loss


def _dealt(team: Team, loads: list[Load]) -> Deal | None:
    tokens = apportion(team.run.inside.tokens, loads)
    return None if tokens is None else Deal("tokens", tokens, (team.run.whole(),) * team.size)
