"""A chain of parts from the requester through some peers and back, as a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from swarm.errors import NoPeers
from swarm.plan import INPUT, OUTPUT, Edge, Goal, Plan, Step
from swarm.strategies.costs import Costs
from swarm.strategies.inside import part
from swarm.strategies.links import cargo
from swarm.strategies.prediction import forecast
from swarm.types import ModelProfile, PeerId, TensorSpec, View


def chain(
    strategy: str, model: ModelProfile, view: View, goal: Goal, peers: Sequence[PeerId], cuts: Sequence[int]
) -> Plan:
    """The plan in which `peers[i]` runs the stages from `cuts[i]` up to `cuts[i + 1]`.

    `cuts` starts with 0 and ends with the number of stages.
    """
    return draft(strategy, Costs.of(model, view), goal, peers, cuts)


def draft(
    strategy: str,
    costs: Costs,
    goal: Goal,
    peers: Sequence[PeerId],
    cuts: Sequence[int],
    wires: Sequence[str] | None = None,
) -> Plan:
    """`chain`, with its estimate. `wires[i]` is how the output of `peers[i]` travels; the fastest way by default."""
    model, me = costs.model, costs.view.me
    spans = list(pairwise(cuts))
    steps = tuple(
        Step(str(i), part(model, span), (peer,)) for i, (span, peer) in enumerate(zip(spans, peers, strict=True))
    )
    outputs = [model.stages[end - 1].output for _, end in spans]
    ways = list(pairwise([*peers, me]))
    fastest = wires or [fastest_wire(costs, goal, spec, *ends) for spec, ends in zip(outputs, ways, strict=True)]
    names = pairwise([INPUT, *(step.id for step in steps), OUTPUT])
    edges = tuple(
        Edge(source, target, sender, receiver, spec, wire)
        for (source, target), (sender, receiver), spec, wire in zip(
            names, [(me, peers[0]), *ways], [model.input, *outputs], [plain_wire(goal), *fastest], strict=True
        )
    )
    plan = Plan("proposal", strategy, me, steps, edges, goal.max_batch)
    return replace(plan, estimate=forecast(plan, costs))


def present(view: View, peers: Sequence[PeerId]) -> list[PeerId]:
    """`peers`, if all of them are alive. Raises `NoPeers` that names the first which is not."""
    alive = {record.id for record in view.alive()}
    for peer in peers:
        if peer not in alive:
            raise NoPeers(f"The peer {peer[:8]} is not in the swarm now, and this plan insists on it.")
    return list(peers)


def fastest_wire(costs: Costs, goal: Goal, spec: TensorSpec, sender: PeerId, receiver: PeerId) -> str:
    """Of equally fast ones the one that the goal names first; between parts of one peer nothing is encoded."""
    if sender == receiver:
        return plain_wire(goal)
    ends = costs.index[sender], costs.index[receiver]
    return min(goal.wires, key=lambda wire: float(costs.links.crossing_s(cargo(spec, wire), *ends)))


def plain_wire(goal: Goal) -> str:
    """For arrays that need not shrink."""
    return "float32" if "float32" in goal.wires else goal.wires[0]
