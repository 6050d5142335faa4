"""What travels beside a tensor from peer to peer, and what is said of a request that cannot go on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import monotonic
from typing import Annotated

from msgspec import Meta

from swarm import tensors
from swarm.errors import BadInput
from swarm.exchange import Caller
from swarm.plan import Edge, Plan, StepTrace
from swarm.types import RAW_PICTURE, Array, Count, Dimension, Name, Seconds, Text


@dataclass(frozen=True, slots=True)
class TensorHead:
    """Shape, dtype and wire dtype of a tensor on the wire."""

    shape: Annotated[tuple[Dimension, ...], Meta(min_length=1, max_length=9)]
    dtype: Name
    wire: Name


@dataclass(frozen=True, slots=True)
class Arrival:
    """What comes before the bytes of a tensor. `sent_s` is the sender's monotonic clock."""

    plan: Name
    request: Count
    source: Name
    target: Name
    sent_s: float
    tensor: TensorHead
    trace: Annotated[tuple[StepTrace, ...], Meta(max_length=256)] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """A host's word to the requester that a request cannot go on."""

    plan: Name
    request: Count
    code: Name
    sentence: Text
    retry_after_s: Seconds = 0.0
    culprit: Annotated[str, Meta(max_length=64)] = ""


@dataclass(frozen=True, slots=True)
class Cancellation:
    plan: Name
    request: Count


def agreed(edge: Edge, tensor: TensorHead, *, takes_pixels: bool) -> tuple[str, str, int]:
    """Dtype, wire dtype and bytes of a tensor on this edge. Pictures may come as the pixels they are, where a model
    begins."""
    spec = replace(edge.tensor, dtype=RAW_PICTURE) if takes_pixels and tensor.dtype == RAW_PICTURE else edge.tensor
    wire = edge.wire if spec.dtype == "float32" else spec.dtype
    return spec.dtype, wire, tensors.wire_bytes(spec, tensor.shape[0], edge.wire)


def part_of(edge: Edge, x: Array) -> Array:
    """What of a tensor `[B, tokens, width]` goes along an edge."""
    return x if edge.tokens is None else x[:, edge.tokens[0] : edge.tokens[1]]


def check_input(plan: Plan, edge: Edge, x: Array) -> None:
    if x.ndim == 0 or x.shape[1:] != edge.tensor.shape:
        wanted = ", ".join(["B", *map(str, edge.tensor.shape)])
        raise BadInput(f"The input has shape {list(x.shape)}, and this model takes [{wanted}].")
    if not 1 <= len(x) <= plan.max_batch:
        raise BadInput(f"The input holds {len(x)} samples; this session takes 1 to {plan.max_batch} at once.")


def wire_s(caller: Caller, arrival: Arrival) -> float:
    """Seconds since the sender sent it, by this peer's clock; 0 while the two clocks have not been compared."""
    return 0.0 if caller.rtt_s is None else max(0.0, monotonic() - (arrival.sent_s - caller.clock_offset_s))
