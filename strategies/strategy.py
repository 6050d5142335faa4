"""What every strategy is, and the words in which its candidates are told."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, permutations
from typing import Protocol

from swarm.plan import Candidate, Goal, Plan, Step
from swarm.strategies.costs import Costs
from swarm.strategies.prediction import spans_of
from swarm.types import ModelProfile, PeerId


class Strategy(Protocol):
    """One way to split a model."""

    def propose(self, costs: Costs, goal: Goal) -> list[Candidate]:
        """Its plans, its own choice first, and the ways that cannot be gone, with the reason in `verdict`.

        Unasked it uses only `costs.devices`, and no more memory than they have. What a user insists on is planned as
        it is: the peers themselves say whether they can. Raises `UsageError` or `NoPeers` when nothing can be proposed.
        """


def fitting(title: str, plan: Plan, costs: Costs) -> Candidate:
    """A candidate for `plan`, if everybody has the memory for it and the links let it through, and else why not."""
    for peer, needed in sorted(plan.estimate.peak_memory_bytes.items()):
        free = max(0.0, float(costs.limit_bytes[costs.index[peer]]))
        if needed > free:
            reason = f"needs {megabytes(needed)} on {costs.name(peer)}, which has {megabytes(free)} free"
            return Candidate(title, None, verdict=reason)
    for sender, receiver in _ways(plan):
        if not costs.links.reaches(costs.index[sender], costs.index[receiver]):
            reason = f"nothing gets through from {costs.name(sender)} to {costs.name(receiver)}"
            return Candidate(title, None, verdict=reason)
    return Candidate(title, plan)


def shares(plan: Plan, costs: Costs) -> str:
    """Who runs which blocks: `kitchen 0–5, attic 6–11`; a part without a whole block goes by its last cut.

    Of groups, who has what of each block: tokens, or heads and neurons, or where blocks differ how much of all.
    """
    spans = spans_of(plan, costs.model)
    groups = [step for step in plan.steps if step.group is not None]
    if groups:
        return "; ".join(_members(step, costs) + _where(costs, groups, spans[step.id]) for step in groups)
    return ", ".join(f"{costs.name(s.lead)} {_run(costs.model, *spans[s.id])}" for s in plan.steps)


def megabytes(nbytes: float) -> str:
    return f"{nbytes / 1e6:.0f} MB" if nbytes >= 10e6 else f"{nbytes / 1e6:.2g} MB"


def counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _ways(plan: Plan) -> list[tuple[PeerId, PeerId]]:
    edges = [(edge.sender, edge.receiver) for edge in plan.edges]
    return edges + [pair for step in plan.steps for pair in permutations(step.peers, 2)]


def _members(step: Step, costs: Costs) -> str:
    assert step.group is not None
    members = list(zip(map(costs.name, step.peers), step.group.members, strict=True))
    if step.group.split == "tokens":
        return ", ".join(f"{name} {member.tokens}" for name, member in members) + " tokens"
    shards = [(name, member.part.shard) for name, member in members if member.part.shard is not None]
    if all(len(set(of_blocks)) == 1 for _, shard in shards for of_blocks in (shard.heads, shard.neurons)):
        held = ", ".join(f"{name} {shard.heads[0]}+{shard.neurons[0]}" for name, shard in shards)
        return f"{held} heads and neurons"
    neurons = sum(sum(shard.neurons) for _, shard in shards)
    return ", ".join(f"{name} {sum(shard.neurons) / max(1, neurons):.0%}" for name, shard in shards) + " of the neurons"


def _where(costs: Costs, groups: Sequence[Step], span: tuple[int, int]) -> str:
    """One group has all the blocks; of several it has to be said."""
    return f" in {_run(costs.model, *span)}" if len(groups) > 1 else ""


def _run(model: ModelProfile, start: int, end: int) -> str:
    inside = [block for block, (first, _) in enumerate(pairwise(model.blocks)) if start <= first < end]
    if not inside:
        return f"to {model.stages[end - 1].name}"
    return str(inside[0]) if len(inside) == 1 else f"{inside[0]}–{inside[-1]}"
