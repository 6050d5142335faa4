"""What a plan should take: the same figures that the search for plans adds up, for any DAG of steps.

    latency      the longest path: input ─▶ wire ─▶ queue ─▶ compute ─▶ wire ─▶ … ─▶ output
    throughput   with requests in flight, the slowest CPU or direction of a link sets the pace (PipeEdge, equation 1)
    memory       each peer's distinct parts, and the most activations of any one of its steps

A step of a group takes what `lockstep` says; what goes to its members from one sender leaves it one after the other.

PipeEdge: Hu et al., "PipeEdge: Pipeline Parallelism for Large-Scale Model Inference on Heterogeneous Edge Devices",
DSD 2022. Requests are of one sample.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from swarm.errors import CannotSplit
from swarm.plan import INPUT, OUTPUT, Edge, Estimate, Plan, Shard, Step, StepEstimate
from swarm.strategies.costs import Costs
from swarm.strategies.inside import Span, shard_bytes
from swarm.strategies.links import Cargo, cargo, raw_cargo
from swarm.strategies.lockstep import Lockstep, came_bytes, moved_bytes
from swarm.strategies.resilience import accuracy, may_lose
from swarm.types import ModelProfile, PeerId, View

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
    spans = spans_of(plan, costs.model)
    moved = sum(load_of(edge).nbytes for edge in plan.edges if edge.sender != edge.receiver)
    bare = Estimate(
        moved_bytes=moved + sum(moved_bytes(step.group) for step in plan.steps if step.group is not None),
        peak_memory_bytes=_memory(plan, costs, spans),
        losses_survived=_others(plan, costs) or may_lose(plan),
        accuracy=accuracy(plan, costs.model, spans),
    )
    if not all(costs.knows(peer) for step in plan.steps for peer in step.peers):
        return bare
    timing = Timing.of(plan, costs)
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
    locksteps: Mapping[str, Lockstep]
    """Of the steps that groups run."""

    @classmethod
    def of(cls, plan: Plan, costs: Costs) -> Timing:
        spans = spans_of(plan, costs.model)
        shared = [step for step in plan.steps if step.group is not None]
        return cls(plan, costs, spans, {step.id: Lockstep.of(costs, step, spans[step.id]) for step in shared})

    def done_s(self) -> dict[str, float]:
        """When each step ends, and when the answer is there, after the request."""
        done = {INPUT: self.costs.ask_s}
        for target in (*(step.id for step in _in_order(self.plan)), OUTPUT):
            edges = self.plan.inputs(target)
            arrived = max(done[sent[0].source] + self._bundle_s(sent) for sent in self._bundles(edges))
            step = self.plan.step(target)
            done[target] = arrived + (self._spent_s(step) if step else 0.0)
        return done

    def estimate(self, step: Step) -> StepEstimate:
        """What a step takes beside its compute counts as queueing, as it does when it is measured."""
        edges = self.plan.inputs(step.id)
        came = sum(load_of(edge).nbytes for edge in edges if edge.sender != edge.receiver)
        lockstep = self.locksteps.get(step.id)
        return StepEstimate(
            step.id,
            self._compute_s(step),
            self.wire_s(edges),
            self._queue_s(step),
            came + (came_bytes(step.group) if step.group is not None else 0),
            lockstep.exchange_s if lockstep is not None else 0.0,
        )

    def wire_s(self, edges: Sequence[Edge]) -> float:
        """Tensors for one step travel at the same time; those for members of a group leave their sender in turn."""
        return max(self._bundle_s(sent) for sent in self._bundles(edges))

    def busiest_s(self) -> float:
        return max((*self.devices_s().values(), *self.links_s().values(), *self.interfaces_s().values()))

    def devices_s(self) -> dict[PeerId, float]:
        """Of each CPU: it computes, and codes what its steps take in and give out. Reading the answer is no step's."""
        busy: dict[PeerId, float] = defaultdict(float)
        for step in self.plan.steps:
            for peer in step.peers:
                lockstep, row = self.locksteps.get(step.id), self.costs.index[peer]
                busy[peer] += lockstep.busy_s[peer] if lockstep is not None else self._compute_s(step)
                busy[peer] += float(self.costs.step_s[row])
                for edge in (*self.plan.inputs(step.id), *self.plan.outputs(step.id)):
                    if edge.sender != edge.receiver and peer == (
                        edge.receiver if edge.target == step.id else edge.sender
                    ):
                        busy[peer] += float(self.costs.links.encoding_s(load_of(edge), row))
        return dict(busy)

    def interfaces_s(self) -> dict[PeerId, float]:
        """Of each member of a group, in the busier direction of its network interface: all its links share it."""
        taken: dict[PeerId, float] = defaultdict(float)
        for lockstep in self.locksteps.values():
            for peer, taken_s in lockstep.taken_s.items():
                taken[peer] += taken_s
        return dict(taken)

    def links_s(self) -> dict[tuple[PeerId, PeerId], float]:
        """Of each direction of a link."""
        taken: dict[tuple[PeerId, PeerId], float] = defaultdict(float)
        for edge in self.plan.edges:
            if edge.sender != edge.receiver:
                ends = self.costs.index[edge.sender], self.costs.index[edge.receiver]
                taken[edge.sender, edge.receiver] += float(self.costs.links.occupied_s(load_of(edge), *ends))
        for lockstep in self.locksteps.values():
            for ends_of, taken_s in lockstep.links_s.items():
                taken[ends_of] += taken_s
        return dict(taken)

    def _bundles(self, edges: Sequence[Edge]) -> list[list[Edge]]:
        """Edges that leave one step together, for members of a group; any other stands alone."""
        if not edges or edges[0].target not in self.locksteps:
            return [[edge] for edge in edges]
        sources: dict[tuple[str, PeerId], list[Edge]] = defaultdict(list)
        for edge in edges:
            sources[edge.source, edge.sender].append(edge)
        return list(sources.values())

    def _bundle_s(self, edges: Sequence[Edge]) -> float:
        """One after the other through the sender's codec and interface; the last one's delay and decoding count."""
        last_s = leaving_s = 0.0
        for edge in edges:
            ends = self.costs.index[edge.sender], self.costs.index[edge.receiver]
            crossing_s = float(self.costs.links.crossing_s(load_of(edge), *ends))
            last_s = max(last_s, leaving_s + crossing_s)
            if ends[0] != ends[1]:
                leaving_s += float(self.costs.links.occupied_s(load_of(edge), *ends))
                leaving_s += float(self.costs.links.encoding_s(load_of(edge), ends[0]))
        return last_s

    def _spent_s(self, step: Step) -> float:
        lockstep = self.locksteps.get(step.id)
        return self._queue_s(step) + self._compute_s(step) + (lockstep.exchange_s if lockstep is not None else 0.0)

    def _compute_s(self, step: Step) -> float:
        if step.id in self.locksteps:
            return self.locksteps[step.id].compute_s
        start, end = self.spans[step.id]
        done_s = self.costs.done_s[self._row(step)]
        return float(done_s[end] - done_s[start])

    def _queue_s(self, step: Step) -> float:
        """A group waits for whoever of it is busiest."""
        rows = [self.costs.index[peer] for peer in step.peers]
        return float((self.costs.step_s[rows] + self.costs.wait_s[rows]).max())

    def _row(self, step: Step) -> int:
        return self.costs.index[step.lead]


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


def spans_of(plan: Plan, model: ModelProfile) -> dict[str, Span]:
    """Of each step; raises `CannotSplit` for a plan of another model."""
    return {step.id: _span(model, step) for step in plan.steps}


def _span(model: ModelProfile, step: Step) -> Span:
    """The places between which a step's part lies."""
    places = {stage.name: place for place, stage in enumerate(model.stages, 1)} | {INPUT: 0, OUTPUT: len(model.stages)}
    for cut in (step.part.start, step.part.end):
        if cut not in places:
            raise CannotSplit(f"{model.name} has no cut called '{cut}'; the plan was made for another model.")
    return places[step.part.start], places[step.part.end]


def _memory(plan: Plan, costs: Costs, spans: Mapping[str, Span]) -> dict[PeerId, int]:
    parts: dict[PeerId, set[tuple[Span, Shard | None]]] = defaultdict(set)
    for step in plan.steps:
        for peer in step.peers:
            parts[peer].add((spans[step.id], step.part_of(peer).shard))
    return {peer: int(_held_bytes(costs, held)) for peer, held in parts.items()}


def together_bytes(costs: Costs, spans: Iterable[Span]) -> float:
    """What one peer needs for several parts: all their parameters, and the activations of one at a time."""
    return _held_bytes(costs, [(span, None) for span in spans])


def _held_bytes(costs: Costs, parts: Iterable[tuple[Span, Shard | None]]) -> float:
    held, working = 0.0, 0.0
    for (start, end), shard in parts:
        whole = float(costs.held_bytes[end] - costs.held_bytes[start])
        held += whole if shard is None else shard_bytes(costs.model, (start, end), shard)
        working = max(working, float(costs.working_bytes[start:end].max()))
    return held + working


def _others(plan: Plan, costs: Costs) -> int:
    """A plan on the requester alone needs nobody: it outlives every host."""
    if plan.peers() != (costs.view.me,):
        return 0
    return sum(record.id != costs.view.me for record in costs.view.hosts())
