"""An installed plan as its tensors need it: what is looked up for each of them is found once."""

from __future__ import annotations

from collections.abc import Mapping

from swarm.collectives import expected
from swarm.plan import Edge, Plan, Step
from swarm.types import PeerId


class Way:
    """A plan, or this peer's fragment of it."""

    __slots__ = ("_expected", "_into", "_out", "_steps", "plan")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._steps: Mapping[str, Step] = {step.id: step for step in plan.steps}
        self._out: dict[str, tuple[Edge, ...]] = {}
        for edge in plan.edges:
            self._out[edge.source] = (*self._out.get(edge.source, ()), edge)
        self._expected: dict[tuple[str, PeerId], tuple[dict[int, int], ...]] = {}
        self._into = {(edge.source, edge.target, edge.sender, edge.receiver): edge for edge in plan.edges}

    def step(self, step_id: str) -> Step | None:
        return self._steps.get(step_id)

    def outputs(self, step_id: str) -> tuple[Edge, ...]:
        """Edges that leave a step; of `INPUT` those that leave the requester."""
        return self._out.get(step_id, ())

    def edge(self, source: str, target: str, sender: PeerId, receiver: PeerId) -> Edge | None:
        return self._into.get((source, target, sender, receiver))

    def expected(self, step: Step, peer: PeerId) -> tuple[dict[int, int], ...]:
        """What a member of a group gets in each exchange: by the sender's place, the bytes of one sample."""
        found = self._expected.get((step.id, peer))
        if found is None:
            assert step.group is not None
            found = self._expected[step.id, peer] = expected(step.group, step.peers.index(peer))
        return found
