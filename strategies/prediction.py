"""What a plan should take: the same figures that the search for plans adds up, for any DAG of one-peer steps.

    latency      the longest path: input ─▶ wire ─▶ queue ─▶ compute ─▶ wire ─▶ … ─▶ output
    throughput   with requests in flight, the slowest CPU or direction of a link sets the pace (PipeEdge, equation 1)
    memory       each peer's distinct parts, and the most activations of any one of its steps

PipeEdge: Hu et al., "PipeEdge: Pipeline Parallelism for Large-Scale Model Inference on Heterogeneous Edge Devices",
DSD 2022. Requests are of one sample.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from swarm.errors import CannotSplit
from swarm.plan import INPUT, OUTPUT, Edge, Estimate, Plan, Step, StepEstimate
from swarm.strategies.costs import Costs
from swarm.strategies.links import Cargo, cargo, raw_cargo
from swarm.types import ModelProfile, PeerId, View

Span = tuple[int, int]

LONGEST_S: Final = 1e9
"""Nobody waits longer; and no more can be said in a `StepEstimate`."""


def predict(plan: Plan, model: ModelProfile, view: View) -> Estimate:
    """What `plan` should take in the swarm as `view` shows it.

    Latency and throughput are 0 when a peer of it was not measured, or cannot be reached. Raises `CannotSplit` for a
    plan of another model.
    """
    return forecast(plan, Costs.of(model, view))


def forecast(plan: Plan, costs: Costs) -> Estimate:
    """`predict`, for who has the costs at hand."""
    timing = Timing.of(plan, costs)
    moved = sum(load_of(edge).nbytes for edge in plan.edges if edge.sender != edge.receiver)
    bare = Estimate(
        moved_bytes=moved,
        peak_memory_bytes=_memory(timing),
        losses_survived=_others(plan, costs),
    )
    if not all(costs.knows(step.peers[0]) for step in plan.steps):
        return bare
    latency_s, busiest_s = timing.done_s()[OUTPUT], timing.busiest_s()
    if not latency_s <= LONGEST_S:
        return bare
    return replace(
        bare,
        latency_s=latency_s,
        throughput_per_s=1 / busiest_s if busiest_s > 0 else 0.0,
        steps=tuple(timing.estimate(step) for step in plan.steps),
        answer_s=timing.wire_s(plan.inputs(OUTPUT)),
        ask_s=costs.ask_s,
    )


def load_of(edge: Edge) -> Cargo:
    """What travels on an edge; the first one carries the picture, whatever its `wire` says of arrays."""
    return raw_cargo(edge.tensor) if edge.source == INPUT else cargo(edge.tensor, edge.wire)


@dataclass(frozen=True, slots=True)
class Timing:
    """What one request on a plan takes, and takes up. Every peer of the plan must have been measured."""

    plan: Plan
    costs: Costs
    spans: Mapping[str, Span]

    @classmethod
    def of(cls, plan: Plan, costs: Costs) -> Timing:
        return cls(plan, costs, {step.id: _span(costs.model, step) for step in plan.steps})

    def done_s(self) -> dict[str, float]:
        """When each step ends, and when the answer is there, after the request."""
        done = {INPUT: self.costs.ask_s}
        for target in (*(step.id for step in _in_order(self.plan)), OUTPUT):
            arrived = max(done[edge.source] + self._crossing_s(edge) for edge in self.plan.inputs(target))
            step = self.plan.step(target)
            done[target] = arrived + (self._queue_s(step) + self._compute_s(step) if step else 0.0)
        return done

    def estimate(self, step: Step) -> StepEstimate:
        """What a step takes beside its compute counts as queueing, as it does when it is measured."""
        edges = self.plan.inputs(step.id)
        came = sum(load_of(edge).nbytes for edge in edges if edge.sender != edge.receiver)
        return StepEstimate(step.id, self._compute_s(step), self.wire_s(edges), self._queue_s(step), came)

    def wire_s(self, edges: Iterable[Edge]) -> float:
        """Tensors for one step travel at the same time."""
        return max(self._crossing_s(edge) for edge in edges)

    def busiest_s(self) -> float:
        return max((*self.devices_s().values(), *self.links_s().values()))

    def devices_s(self) -> dict[PeerId, float]:
        """Of each CPU: it computes, and codes what its steps take in and give out. Reading the answer is no step's."""
        busy: dict[PeerId, float] = defaultdict(float)
        for step in self.plan.steps:
            busy[step.peers[0]] += self._compute_s(step) + float(self.costs.step_s[self._row(step)])
            for edge in (*self.plan.inputs(step.id), *self.plan.outputs(step.id)):
                if edge.sender != edge.receiver:
                    busy[step.peers[0]] += float(self.costs.links.encoding_s(load_of(edge), self._row(step)))
        return dict(busy)

    def links_s(self) -> dict[tuple[PeerId, PeerId], float]:
        """Of each direction of a link."""
        taken: dict[tuple[PeerId, PeerId], float] = defaultdict(float)
        for edge in self.plan.edges:
            if edge.sender != edge.receiver:
                ends = self.costs.index[edge.sender], self.costs.index[edge.receiver]
                taken[edge.sender, edge.receiver] += float(self.costs.links.occupied_s(load_of(edge), *ends))
        return dict(taken)

    def _crossing_s(self, edge: Edge) -> float:
        ends = self.costs.index[edge.sender], self.costs.index[edge.receiver]
        return float(self.costs.links.crossing_s(load_of(edge), *ends))

    def _compute_s(self, step: Step) -> float:
        start, end = self.spans[step.id]
        done_s = self.costs.done_s[self._row(step)]
        return float(done_s[end] - done_s[start])

    def _queue_s(self, step: Step) -> float:
        row = self._row(step)
        return float(self.costs.step_s[row] + self.costs.wait_s[row])

    def _row(self, step: Step) -> int:
        return self.costs.index[step.peers[0]]


def _in_order(plan: Plan) -> list[Step]:
    """Every step after those that feed it."""
    waiting, done, ordered = list(plan.steps), {INPUT}, list[Step]()
    while waiting:
        ready = [step for step in waiting if all(edge.source in done for edge in plan.inputs(step.id))]
        assert ready, "a plan has no cycles"
        ordered += ready
        done |= {step.id for step in ready}
        waiting = [step for step in waiting if step.id not in done]
    return ordered


def _span(model: ModelProfile, step: Step) -> Span:
    """The places between which a step's part lies."""
    places = {stage.name: place for place, stage in enumerate(model.stages, 1)} | {INPUT: 0, OUTPUT: len(model.stages)}
    for cut in (step.part.start, step.part.end):
        if cut not in places:
            raise CannotSplit(f"{model.name} has no cut called '{cut}'; the plan was made for another model.")
    return places[step.part.start], places[step.part.end]


def _memory(timing: Timing) -> dict[PeerId, int]:
    parts: dict[PeerId, set[Span]] = defaultdict(set)
    for step in timing.plan.steps:
        parts[step.peers[0]].add(timing.spans[step.id])
    return {peer: int(together_bytes(timing.costs, held)) for peer, held in parts.items()}


def together_bytes(costs: Costs, spans: Iterable[Span]) -> float:
    """What one peer needs for several parts: all their parameters, and the activations of one at a time."""
    held, working = 0.0, 0.0
    for start, end in spans:
        held += float(costs.held_bytes[end] - costs.held_bytes[start])
        working = max(working, float(costs.working_bytes[start:end].max()))
    return held + working


def _others(plan: Plan, costs: Costs) -> int:
    """A plan on the requester alone needs nobody: it outlives every host."""
    if plan.peers() != (costs.view.me,):
        return 0
    return sum(record.id != costs.view.me for record in costs.view.hosts())
