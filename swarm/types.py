"""Words about peers, tensors and models: frozen values that every floor may use.

Everything here may come from the network, so every string, list and number carries its bounds; `swarm.schema` checks
them when a message is taken in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NewType

from msgspec import Meta

from swarm.errors import BadInput

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    """A tensor in memory, of any dtype."""
else:
    Array = Any  # numpy need not be loaded to speak of one

PeerId = NewType("PeerId", str)
"""Names one peer for good; 32 hexadecimal digits."""

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Text = Annotated[str, Meta(max_length=2048)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Meta(ge=0, le=2**62)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Rate = Annotated[float, Meta(ge=0, le=1e18)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Dimension = Annotated[int, Meta(ge=0, le=2**31)]

BlockCounts = Annotated[tuple[Count, ...], Meta(max_length=1024)]
"""A number for each block of a model."""
Vital = Annotated[tuple[tuple[Fraction, BlockCounts, BlockCounts], ...], Meta(max_length=256)]
"""See `ModelProfile.vital`."""

DTYPE_BYTES: Mapping[str, int] = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float64": 8,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
}
"""Bytes per element of each dtype that parameters and tensors may have."""

RAW_PICTURE = "uint8"
"""The dtype in which pictures travel to the first step, one byte for each pixel and channel; it normalises them."""


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where a peer listens: an IP address or host name, and a TCP port."""

    host: Name
    port: Port

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `HOST:PORT` or `[IPV6]:PORT`. Raises `BadInput` when it is neither."""
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
            raise BadInput(f"'{text}' is not an address; write HOST:PORT, as in 192.168.1.20:4747.")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class PeerState(StrEnum):
    """What membership believes of a peer."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    LEFT = "left"
    DEAD = "dead"

    @property
    def is_gone(self) -> bool:
        """Left or dead; a suspect may only be busy."""
        return self in (PeerState.LEFT, PeerState.DEAD)


class Door(StrEnum):
    """What a bare TCP connection attempt at a peer's address tells: three answers of the other side, or none."""

    OPEN = "open"
    """Accepted: the kernel there lives, whatever its process does."""
    SHUT = "shut"
    """Refused: no process listens."""
    SILENT = "silent"
    """Nothing came: the host or the way to it is gone."""
    UNKNOWN = "unknown"
    """This device's own trouble: no route, no sockets left, or it was too slow itself."""


@dataclass(frozen=True, slots=True)
class PeerLoad:
    """How busy a peer is; all numbers are rounded, so that rest is silent."""

    queued: Count = 0
    """Requests that wait for its parts."""
    busy: Fraction = 0.0
    """The share of the last seconds in which its parts computed."""
    loading: Annotated[Mapping[Annotated[str, Meta(max_length=512)], Fraction], Meta(max_length=64)] = field(
        default_factory=dict
    )
    """Parts on their way into its memory, by name, and how much of each is there, in tenths."""
    wait_s: Seconds = 0.0
    """What a request lately took there beyond its own compute alone: it waited, and shared its batches."""
    at_once: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    """How many requests it has lately had at a time."""


@dataclass(frozen=True, slots=True)
class Link:
    """What a peer measured of its way to another one, on the connection that carries tensors, encryption included."""

    rtt_s: Seconds
    """Round trip of a small message; what both processes need to handle it included."""
    bytes_per_s: Rate


@dataclass(frozen=True, slots=True)
class PeerProfile:
    """What a peer measured of itself and of its links. A rate that was not measured is 0 or missing."""

    device: Name = "cpu"
    platform: Name = "unknown"
    threads: Count = 1
    memory_total_bytes: Count = 0
    memory_free_bytes: Count = 0
    """What a new part may use: the machine's free memory, or what is left of `--memory`."""
    flops_per_s: Mapping[Name, Rate] = field(default_factory=dict)
    """Sustained rate of matrix products by dtype; empty until measured."""
    memory_bytes_per_s: Rate = 0.0
    """Sustained rate of reading memory."""
    ask_s: Seconds = 0.0
    """What a request costs its requester beside its steps."""
    step_s: Seconds = 0.0
    """What a step takes beside its compute and its tensors: the way to the worker thread and back, and bookkeeping."""
    wire_elements_per_s: Mapping[Name, Rate] = field(default_factory=dict)
    """By wire dtype: float32 elements encoded, or decoded, in a second (the mean of the two)."""
    links: Annotated[Mapping[PeerId, Link], Meta(max_length=64)] = field(default_factory=dict)
    """Its ways to peers with which it has exchanged tensors, or has tried the link."""


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """What gossip spreads of one peer. `incarnation` grows with every start, `version` with every change."""

    id: PeerId
    name: Name
    addresses: Annotated[tuple[Address, ...], Meta(max_length=16)]
    incarnation: Count
    version: Count = 0
    client: bool = False
    """A client asks and takes part in its own plans; others never plan with it."""
    profile: PeerProfile = PeerProfile()
    load: PeerLoad = PeerLoad()
    holds: Annotated[tuple[Annotated[str, Meta(max_length=512)], ...], Meta(max_length=256)] = ()

    def is_called(self, name: str) -> bool:
        """By its name, or by its id or the first eight digits or more of it."""
        return name == self.name or (len(name) >= 8 and self.id.startswith(name))


@dataclass(frozen=True, slots=True)
class PeerView:
    """One peer as another one sees it."""

    record: PeerRecord
    state: PeerState


@dataclass(frozen=True, slots=True)
class View:
    """The swarm as one peer sees it now: immutable, itself included, sorted by peer id."""

    me: PeerId
    peers: tuple[PeerView, ...]
    stage_s: Mapping[PeerId, Sequence[float]] = field(default_factory=dict)
    """For planning: the seconds that one sample takes in each stage of the model in question, on the peers that have
    measured it. Not gossiped: a planner asks for it."""

    def find(self, peer: PeerId) -> PeerRecord | None:
        return next((p.record for p in self.peers if p.record.id == peer), None)

    def alive(self) -> tuple[PeerRecord, ...]:
        return tuple(p.record for p in self.peers if p.state is PeerState.ALIVE)

    def called(self, name: str) -> tuple[PeerRecord, ...]:
        """The living peers of that name or id."""
        return tuple(record for record in self.alive() if record.is_called(name))

    def missing(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if not self.called(name)]

    def hosts(self) -> tuple[PeerRecord, ...]:
        """Peers, this one included, that hold parts for others."""
        return tuple(record for record in self.alive() if not record.client)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and dtype of a tensor, without its batch dimension: `[B, *shape]` travels."""

    shape: Annotated[tuple[Dimension, ...], Meta(max_length=8)]
    dtype: Name = "float32"

    @property
    def elements(self) -> int:
        """Elements per sample."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class TensorRef:
    """One parameter or buffer, named by its place in the model and by its content."""

    name: Annotated[str, Meta(max_length=512)]
    shape: Annotated[tuple[Dimension, ...], Meta(max_length=16)]
    dtype: Name
    sha256: Digest

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Location:
    """Where the raw little-endian bytes of one tensor lie on this device's disk. Never travels."""

    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Inside:
    """What may be shared out inside a stage that is a transformer block: attention by heads, an MLP by neurons, both by
    tokens."""

    heads: Count
    neurons: Count
    tokens: Count
    """Of one sample."""
    width: Count
    """Elements of a token between blocks."""
    keys: Count
    """Elements of a token's keys, of all heads; its values have as many."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What lies between two neighbouring cuts of a model. Costs are per sample."""

    name: Name
    """The cut that ends it: the module path that produced the one live tensor there; `output` for the last."""
    flops: Count
    """Floating point operations, two per multiply-add."""
    parameter_bytes: Count
    output: TensorSpec
    inputs: tuple[int, ...]
    """Indices of the stages that feed it; empty for the first, which takes the model's input."""
    working_bytes: Count = 0
    """Most bytes of activations that live at once inside it, its input and output included."""
    kind: Annotated[str, Meta(max_length=64)] = ""
    """Stages of one kind do the same operations on the same shapes, so one's measured time stands for all."""
    inside: Inside | None = None
    """None where only the whole stage can run."""


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """A model as planners see it: a DAG of stages, in topological order."""

    name: Name
    digest: Digest
    input: TensorSpec
    stages: tuple[Stage, ...]
    blocks: tuple[int, ...]
    """`blocks[k]` stages come before block k; the last entry stands for the end of the last block."""
    uncut_reason: Text | None = None
    """Why the model cannot be cut; None when it can."""
    needed: Count = 0
    """How many tokens of the last block's output, the first ones, have any influence on the model's."""
    inside_reason: Text | None = None
    """Why no block can be shared out; None when some can."""
    resilience: Annotated[tuple[tuple[Fraction, Fraction], ...], Meta(max_length=256)] = ()
    """Accuracy with only a fraction of all blocks' heads and neurons, by bytes, those that are most worth having, all
    blocks weighed against each other: pairs by rising fraction, the last of them (1, the whole model's). Empty when
    nobody has measured it."""
    vital: Vital = ()
    """For rising fractions of all blocks' heads and neurons, by bytes, how many heads and neurons of each block are the
    most worth having, all blocks weighed against each other; none of a block that does not come apart. From (0, none)
    to (1, all), and no count ever falls. Empty when nobody knows."""

    @property
    def parameter_bytes(self) -> int:
        return sum(stage.parameter_bytes for stage in self.stages)
