"""What a trace tells of each node; pure words between `trace` (with torch) and `cuts` (without)."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.types import TensorSpec


@dataclass(frozen=True, slots=True)
class Fact:
    """What is known of a node, besides what it computes."""

    name: str
    modules: tuple[str, ...]
    """Paths of the modules in whose forward it stands, outermost first."""
    tensor: TensorSpec | None
    """Set when it is a float32 tensor `[batch, *static]`."""
