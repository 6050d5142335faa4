"""What a host needs of whoever knows models; `swarm.models` provides it, `Peer` hands it in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from swarm.plan import Part
from swarm.types import Array, Location, ModelProfile, TensorRef, TensorSpec

Progress = Callable[[str, float | None], None]
"""Told of a long step: what it is, and the fraction done if that is known."""


class TensorSlot(Protocol):
    """A tensor that a part needs, before its content is known."""

    @property
    def name(self) -> str: ...
    @property
    def nbytes(self) -> int: ...


class Blueprint(Protocol):
    """How one model comes apart, as this peer found it for itself."""

    @property
    def profile(self) -> ModelProfile: ...
    def tensors_of(self, part: Part) -> Sequence[TensorSlot]:
        """In a fixed order. Raises `CannotSplit` for a part that the model does not have."""
        ...

    def boundary(self, cut: str) -> TensorSpec: ...


class RunnablePart(Protocol):
    """A part in memory: `[B, ...]` in, `[B, ...]` out, in the worker thread. What `enter` and `run` give stays on its
    device, for the next part."""

    @property
    def part(self) -> Part: ...
    def __call__(self, x: Array) -> Array: ...
    def enter(self, pieces: Sequence[Any]) -> Any: ...
    def run(self, x: Any) -> Any: ...
    def leave(self, x: Any) -> Array: ...


class Manifest(Protocol):
    """All tensors of a model with given weights, and where their bytes lie on this device."""

    @property
    def digest(self) -> str: ...
    @property
    def refs(self) -> Mapping[str, TensorRef]: ...
    @property
    def locations(self) -> Mapping[str, Location]: ...


class Workshop(Protocol):
    """Studies models, finds their weights and builds their parts."""

    async def study(self, model: str, progress: Progress | None = None) -> Blueprint: ...

    async def resolve(self, blueprint: Any, source: str, progress: Progress | None = None) -> Manifest: ...

    def build(
        self, blueprint: Any, part: Part, digests: Sequence[str], locate: Callable[[str], Location]
    ) -> RunnablePart:
        """Blocking; called in the worker thread."""
        ...

    async def time_stages(
        self, blueprint: Any, in_worker: Callable[[Callable[[], Any]], Awaitable[Any]], free_bytes: int | None = None
    ) -> tuple[float, ...] | None:
        """Seconds of one sample in each stage, as real runs have it by now; what was never timed on this device is
        timed in the worker thread, within `free_bytes` of memory. None where that is impossible."""
        ...

    def learn(self, part: Part, rows: int, seconds: float) -> None:
        """A real run of a part with so many samples took so long. Microseconds; called in the worker thread."""
        ...
