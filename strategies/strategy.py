"""What every strategy is, and the words in which its candidates are told."""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

from swarm.plan import Candidate, Goal, Plan
from swarm.strategies.costs import Costs
from swarm.strategies.prediction import Timing
from swarm.types import ModelProfile


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
    for edge in plan.edges:
        if not costs.links.reaches(costs.index[edge.sender], costs.index[edge.receiver]):
            reason = f"nothing gets through from {costs.name(edge.sender)} to {costs.name(edge.receiver)}"
            return Candidate(title, None, verdict=reason)
    return Candidate(title, plan)


def shares(plan: Plan, costs: Costs) -> str:
    """Who runs which blocks: `kitchen 0–5, attic 6–11`; a part without a whole block goes by its last cut."""
    spans = Timing.of(plan, costs).spans
    return ", ".join(f"{costs.name(s.peers[0])} {_run(costs.model, *spans[s.id])}" for s in plan.steps)


def megabytes(nbytes: float) -> str:
    return f"{nbytes / 1e6:.0f} MB" if nbytes >= 10e6 else f"{nbytes / 1e6:.2g} MB"


def counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _run(model: ModelProfile, start: int, end: int) -> str:
    inside = [block for block, (first, _) in enumerate(pairwise(model.blocks)) if start <= first < end]
    if not inside:
        return f"to {model.stages[end - 1].name}"
    return str(inside[0]) if len(inside) == 1 else f"{inside[0]}–{inside[-1]}"
