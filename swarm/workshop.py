"""What a host needs of whoever knows models; `swarm.models` provides it, `Peer` hands it in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from swarm.plan import Group, Part, Step
from swarm.types import Array, Location, ModelProfile, TensorRef, TensorSpec, Vital

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


Post = Callable[[int, Mapping[int, Any]], None]
"""Hands over what one member sends in an exchange: a buffer for each receiver, by its place in the group. The buffers
must not change any more. Returns at once; called in the worker thread."""

Turns = Generator[int, Sequence[memoryview | None], Array | None]
"""A request at one member of a group. It yields the number of an exchange when it can do nothing more without what the
others sent in that, and is given a buffer from each member, by its place: None for itself, for who sends nothing then,
and for who is missing. In the end it gives back the output, at the lead, or None."""


class RunnableShard(Protocol):
    """A part with a shard in memory."""

    @property
    def part(self) -> Part: ...
    def turns(self, group: Group, me: int, x: Array, post: Post) -> Turns:
        """Begin a request `x` `[B, tokens, width]` float32: with `tokens` one's own tokens, with `columns` all. Every
        call of the generator is made in the worker thread."""
        ...


@dataclass(frozen=True, slots=True)
class Shards:
    """The tensors of a group's members, cut out of the model's."""

    digests: Sequence[Sequence[str]]
    """SHA-256 of each of a member's tensors, in the order of `Blueprint.tensors_of` for its part."""
    locations: Mapping[str, Location]
    """Where those that were not there before now lie on this device."""


class Importance(Protocol):
    """How much each head and neuron of a model matters."""

    @property
    def resilience(self) -> tuple[tuple[float, float], ...]:
        """See `ModelProfile.resilience`."""

    @property
    def vital(self) -> Vital:
        """See `ModelProfile.vital`."""


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

    def shard(
        self, blueprint: Any, part: Part, digests: Sequence[str], locate: Callable[[str], Location]
    ) -> RunnableShard:
        """The same for a part with a `shard`."""
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

    async def importance(self, blueprint: Any, manifest: Any) -> Importance | None:
        """What was found out about a model with these weights on this device; None where nothing was."""
        ...

    async def cut(self, blueprint: Any, manifest: Any, step: Step, importance: Any) -> Shards:
        """The shards of a group's members: heads and neurons dealt out by importance, or in their own order. A lead
        has the most important ones; what the others have is of equal weight, so that it does not matter who is lost.

        Raises `CannotSplit` for blocks that do not come apart, or shares that are not there.
        """
        ...
