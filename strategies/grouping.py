"""A plan in which a group of peers runs a model's blocks in lock-step.

input ──▶ "0" lead ──┬──▶ "1" lead    ──▶ "2" lead ──▶ output
                     └──▶ "1" member
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Final

from swarm.collectives import expected
from swarm.plan import INPUT, OUTPUT, Edge, Goal, Group, Member, OnLoss, Plan, Shard, Split, Step
from swarm.strategies.chain import fastest_wire, plain_wire
from swarm.strategies.costs import Costs
from swarm.strategies.inside import Run, part
from swarm.strategies.lockstep import Lockstep
from swarm.strategies.prediction import forecast
from swarm.types import PeerId, TensorSpec

MOST_STRAIGHT: Final = 4
"""Up to so many members send their partial sums straight to all: twice the exchanges cost more than the bytes that they
save (measured with four devices of a fifth of a core: 1.1 times the latency)."""

MOST_BYTES: Final = 64 * 2**20
"""Of one exchange at one member."""

PATIENCE: Final = 4.0
"""Times the step's predicted time; below `SHORTEST_S` a moment's stall would count as a loss."""

SHORTEST_S: Final = {"degrade": 1.0, "retry": 5.0}
"""To be asked again elsewhere costs more than to wait; kills are noticed at once, and this is for who hangs."""
LONGEST_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Deal:
    """What each member of a group gets, the lead first."""

    split: Split
    tokens: tuple[int, ...]
    shards: tuple[Shard, ...]


def together(
    strategy: str, costs: Costs, goal: Goal, run: Run, rows: Sequence[int], deal: Deal, on_loss: OnLoss
) -> Plan:
    """The plan in which these rows' peers, the lead first, share the run as dealt; the lead does what is around it."""
    model, peers = costs.model, tuple(costs.records[row].id for row in rows)
    step = _shared_step(costs, goal, run, peers, deal, on_loss)
    before = Step("0", part(model, (0, run.start)), peers[:1])
    after = Step("2", part(model, (run.end, len(model.stages))), peers[:1])
    steps = (*([before] if run.start else []), step, *([after] if run.end < len(model.stages) else []))
    most = min(goal.max_batch, _most_samples(step))
    plan = Plan("proposal", strategy, costs.view.me, steps, _edges(costs, goal, run, steps), most)
    plan = replace(plan, estimate=forecast(plan, costs))
    patient = tuple(_patient(one, plan) for one in plan.steps)
    return replace(plan, steps=patient)


def _most_samples(step: Step) -> int:
    """So that what comes in one exchange has room at each member, beside what others may have sent ahead."""
    assert step.group is not None
    most = max(sum(each.values()) for place in range(len(step.peers)) for each in expected(step.group, place))
    return max(1, MOST_BYTES // max(1, most))


def _shared_step(costs: Costs, goal: Goal, run: Run, peers: tuple[PeerId, ...], deal: Deal, on_loss: OnLoss) -> Step:
    """With the wire and the way to sum whose exchanges take least; of equal ones the wire that the goal names first."""
    span, inside = (run.start, run.end), run.inside
    members = tuple(
        Member(part(costs.model, span, shard), tokens) for shard, tokens in zip(deal.shards, deal.tokens, strict=True)
    )
    whole = part(costs.model, span)
    may_scatter = deal.split == "columns" and on_loss == "retry" and len(peers) > MOST_STRAIGHT
    steps = [
        Step(
            "1",
            whole,
            peers,
            Group(
                deal.split,
                members,
                inside.tokens,
                inside.width,
                inside.keys,
                run.needed,
                wire,
                scatters,
                on_loss=on_loss,
            ),
        )
        for wire in goal.wires
        for scatters in ((False, True) if may_scatter else (False,))
    ]
    return min(steps, key=lambda step: Lockstep.of(costs, step, span).exchange_s) if len(steps) > 1 else steps[0]


def _edges(costs: Costs, goal: Goal, run: Run, steps: Sequence[Step]) -> tuple[Edge, ...]:
    model, lead, me = costs.model, steps[0].lead, costs.view.me
    places = [
        *([0] if run.start else []),
        run.start,
        run.end,
        *([len(model.stages)] if run.end < len(model.stages) else []),
    ]
    specs = [model.input, *(model.stages[place - 1].output for place in places[1:])]
    names = [INPUT, *(step.id for step in steps), OUTPUT]
    edges = list[Edge]()
    for (source, target), spec, step in zip(pairwise(names), specs, [*steps, None], strict=True):
        sender = me if source == INPUT else lead
        if step is not None and step.group is not None:
            edges += _fan(costs, goal, source, step, sender, spec)
            continue
        receiver = me if step is None else lead
        wire = plain_wire(goal) if source == INPUT else fastest_wire(costs, goal, spec, sender, receiver)
        edges.append(Edge(source, target, sender, receiver, spec, wire))
    return tuple(edges)


def _fan(costs: Costs, goal: Goal, source: str, step: Step, sender: PeerId, spec: TensorSpec) -> list[Edge]:
    """One edge for each member: with its own tokens, where that is how they share, else with all of them."""
    assert step.group is not None
    shares = pairwise(accumulate((member.tokens for member in step.group.members), initial=0))
    edges = list[Edge]()
    for peer, (start, stop) in zip(step.peers, shares, strict=True):
        own = step.group.split == "tokens"
        sent = TensorSpec((stop - start, *spec.shape[1:]), spec.dtype) if own else spec
        wire = fastest_wire(costs, goal, sent, sender, peer)
        edges.append(Edge(source, step.id, sender, peer, sent, wire, (start, stop) if own else None))
    return edges


def _patient(step: Step, plan: Plan) -> Step:
    """An exchange waits as long as several whole steps take: by then whoever has not sent will not."""
    if step.group is None:
        return step
    expected = next((one for one in plan.estimate.steps if one.step == step.id), None)
    if expected is None:
        return step
    spent_s = expected.compute_s + expected.exchange_s + expected.queue_s
    patience_s = min(LONGEST_S, max(SHORTEST_S[step.group.on_loss], PATIENCE * spent_s))
    return replace(step, group=replace(step.group, patience_s=patience_s))
