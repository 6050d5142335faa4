"""How well a group still answers without some of its members, by what was measured of the model (EASTER's question).

The lead is never missing: without it nobody is answered. It holds the most important heads and neurons first, so that
what is left is taken for the fraction of the model that it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from swarm.plan import Group, Plan
from swarm.strategies.inside import Span, weight_of
from swarm.types import ModelProfile


def accuracy(plan: Plan, model: ModelProfile, spans: Mapping[str, Span]) -> tuple[float, ...]:
    """While none, one, two… of the other members are missing, whichever they are; empty where none may be, where the
    plan has more groups than one, or where nobody has measured the model."""
    steps = [step for step in plan.steps if step.group is not None]
    if len(steps) != 1 or not model.resilience or steps[0].group is None:
        return ()
    group, others = steps[0].group, len(steps[0].peers) - 1
    if group.split != "columns" or not (group.on_loss == "degrade" or plan.strategy == "partial"):
        return ()
    lead = lead_fraction(group, model, spans[steps[0].id])
    return tuple(at_fraction(model, kept(lead, others, missing)) for missing in range(others + 1))


def kept(lead: float, others: int, missing: int) -> float:
    """The fraction that is left, on average over who of the others are missing."""
    return 1.0 - (1.0 - lead) * missing / max(1, others)


def at_fraction(model: ModelProfile, fraction: float) -> float:
    """Accuracy with that much of all blocks; between measurements on a straight line."""
    fractions, accuracies = zip(*model.resilience, strict=True)
    return float(np.interp(fraction, fractions, accuracies))


def lead_fraction(group: Group, model: ModelProfile, span: Span) -> float:
    """Of the heads and neurons of all blocks, by their bytes, what the lead has."""
    held = [0.0, 0.0]
    for i, stage in enumerate(model.stages[slice(*span)]):
        weight = weight_of(stage)
        for which, members in enumerate((group.members[:1], group.members)):
            shards = [member.part.shard for member in members if member.part.shard is not None]
            held[which] += sum(weight.head * shard.heads[i] + weight.neuron * shard.neurons[i] for shard in shards)
    return min(1.0, held[0] / held[1]) if held[1] else 1.0


def may_lose(plan: Plan) -> int:
    """How many of its peers a plan answers without, if less well: all but the requester, where it leads every group and
    the groups go on; else none, for it might be just the one that nobody can do without."""
    others = [peer for peer in plan.peers() if peer != plan.requester]
    return len(others) if all(map(plan.spares, others)) else 0
