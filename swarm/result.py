"""What a request gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from swarm.plan import StepTrace
from swarm.types import Array


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
