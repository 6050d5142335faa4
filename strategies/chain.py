"""A chain of parts from the requester through some peers and back, as a plan."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from swarm.errors import NoPeers
from swarm.plan import INPUT, OUTPUT, Edge, Estimate, Goal, Part, Plan, Step
from swarm.types import DTYPE_BYTES, ModelProfile, PeerId, PeerRecord, View


def chain(
    strategy: str, model: ModelProfile, view: View, goal: Goal, peers: Sequence[PeerId], cuts: Sequence[int]
) -> Plan:
    """The plan in which `peers[i]` runs the stages from `cuts[i]` up to `cuts[i + 1]`.

    `cuts` starts with 0 and ends with the number of stages.
    """
    spans = list(pairwise(cuts))
    steps = tuple(
        Step(str(i), _part(model, span), (peer,)) for i, (span, peer) in enumerate(zip(spans, peers, strict=True))
    )
    specs = [model.input, *(model.stages[end - 1].output for _, end in spans)]
    stops = [(INPUT, view.me), *((step.id, step.peers[0]) for step in steps), (OUTPUT, view.me)]
    edges = tuple(
        Edge(source, target, sender, receiver, spec, goal.wires[0])
        for ((source, sender), (target, receiver)), spec in zip(pairwise(stops), specs, strict=True)
    )
    estimate = _estimate(model, view, spans, peers, edges)
    return Plan("proposal", strategy, view.me, steps, edges, goal.max_batch, estimate)


def present(view: View, peers: Sequence[PeerId]) -> list[PeerId]:
    """`peers`, if all of them are alive. Raises `NoPeers` that names the first which is not."""
    alive = {record.id for record in view.alive()}
    for peer in peers:
        if peer not in alive:
            raise NoPeers(f"The peer {peer[:8]} is not in the swarm now, and this plan insists on it.")
    return list(peers)


def rate(record: PeerRecord | None) -> float:
    """Measured float32 operations per second; 0 when nothing was measured."""
    return record.profile.flops_per_s.get("float32", 0.0) if record else 0.0


def span_flops(model: ModelProfile, span: tuple[int, int]) -> int:
    return sum(stage.flops for stage in model.stages[slice(*span)])


def span_bytes(model: ModelProfile, span: tuple[int, int]) -> int:
    return sum(stage.parameter_bytes for stage in model.stages[slice(*span)])


def _part(model: ModelProfile, span: tuple[int, int]) -> Part:
    start = INPUT if span[0] == 0 else model.stages[span[0] - 1].name
    end = OUTPUT if span[1] == len(model.stages) else model.stages[span[1] - 1].name
    return Part(model.name, model.digest, start, end)


def _estimate(
    model: ModelProfile, view: View, spans: Sequence[tuple[int, int]], peers: Sequence[PeerId], edges: Sequence[Edge]
) -> Estimate:
    rates = [rate(view.find(peer)) for peer in peers]
    known = all(rates)
    times = [span_flops(model, span) / r for span, r in zip(spans, rates, strict=True)] if known else [0.0]
    memory: dict[PeerId, int] = {}
    for span, peer in zip(spans, peers, strict=True):
        memory[peer] = memory.get(peer, 0) + span_bytes(model, span)
    moved = sum(edge.tensor.elements * DTYPE_BYTES[edge.wire] for edge in edges if edge.sender != edge.receiver)
    return Estimate(sum(times), 1 / max(times) if max(times) else 0.0, moved, memory, 0)
