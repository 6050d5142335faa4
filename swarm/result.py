"""What a request gives back."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.plan import StepTrace
from swarm.types import Array


@dataclass(frozen=True, slots=True)
class Label:
    """One class and its probability."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one request of `B` samples."""

    output: Array
    """The model's raw output, `[B, ...]` float32."""
    labels: tuple[tuple[Label, ...], ...]
    """For each sample the likeliest classes, best first; empty when the output is not `[B, classes]`."""
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
