"""What a request gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from swarm.plan import Group, Member, Plan, StepTrace
from swarm.types import Array, PeerId


@dataclass(frozen=True, slots=True)
class Label:
    """One class and its probability."""

    label: str
    score: float


Naming = Callable[[Array], Sequence[Sequence[tuple[str, float]]]]
"""Names and probabilities of the likeliest classes of each sample, best first."""


@dataclass(frozen=True)
class Result:
    """The answer to one request of `B` samples."""

    output: Array
    """The model's raw output, `[B, ...]` float32."""
    naming: Naming = field(repr=False, compare=False)
    """What makes `labels`, if anybody looks at them."""
    trace: tuple[StepTrace, ...]
    """One row a step: queue, compute, and the wire that its input came over."""
    degraded: str | None
    """What was missing from the answer, or None."""
    latency_s: float
    answer_wire_s: float
    """What the way back from the last step took."""
    answer_bytes: int
    attempts: int = 1
    """How often it was asked: more than once when a peer was lost under it, or was late."""

    @cached_property
    def labels(self) -> tuple[tuple[Label, ...], ...]:
        """For each sample the likeliest classes, best first; empty when the output is not `[B, classes]`."""
        return tuple(tuple(Label(*pair) for pair in row) for row in self.naming(self.output))


def degradation(plan: Plan | None, trace: Iterable[StepTrace], name_of: Callable[[PeerId], str]) -> str | None:
    """What is missing from an answer, as a sentence; None for nothing."""
    said = []
    for row in trace:
        step = plan.step(row.step) if plan is not None else None
        if not row.missing or step is None or step.group is None:
            continue
        lost = [member for peer, member in zip(step.peers, step.group.members, strict=True) if peer in row.missing]
        names = " and ".join(name_of(peer) for peer in row.missing)
        said.append(f"{names} {'was' if len(row.missing) == 1 else 'were'} lost: {_lack(step.group, lost)} missing")
    return ". ".join(said) + "." if said else None


def _lack(group: Group, lost: Sequence[Member]) -> str:
    if group.split == "tokens":
        tokens = sum(member.tokens for member in lost)
        return f"{tokens} of {group.tokens} tokens ({tokens / group.tokens:.0%}) are"
    shards = [[member.part.shard for member in members if member.part.shard] for members in (lost, group.members)]
    heads, all_heads = (sum(sum(shard.heads) for shard in some) for some in shards)
    neurons, all_neurons = (sum(sum(shard.neurons) for shard in some) for some in shards)
    return (
        f"{heads} of {all_heads} heads ({heads / max(1, all_heads):.0%}) and {neurons} of {all_neurons} neurons "
        f"({neurons / max(1, all_neurons):.0%}) are"
    )
