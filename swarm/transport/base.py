"""What every transport has in common: who is speaking, what is asked and answered, and how much of it is borne."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Protocol

import msgspec
from msgspec import Meta

from swarm.errors import UNPRINTABLE
from swarm.types import Address, PeerId
from swarm.wire import Buffer, Frame

if TYPE_CHECKING:
    from swarm.transport.channel import Channel

PROTOCOL: Final = 1
"""Version of everything that is said after the first hello; both sides must have the same."""

Purpose = Literal["control", "tensors"]


@dataclass(frozen=True, slots=True)
class Hello:
    """The first thing that each side says. Its strings end up in logs and on terminals, so they are plain ones."""

    protocol: Annotated[int, Meta(ge=0, le=2**31)]
    id: Annotated[PeerId, Meta(pattern=r"^[0-9A-Za-z_.:-]{1,64}\Z")]
    name: Annotated[str, Meta(min_length=1, max_length=128, pattern=rf"^[^{UNPRINTABLE}]*\Z")]
    purpose: Purpose
    start: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    """Drawn anew with every start of the process, so that two devices with one key are told apart; 0 tells nothing."""


class Reply(msgspec.Struct):
    """The answer to a request. A received body is a writable buffer of its own; one to be sent is not copied."""

    fields: dict[str, Any] = msgspec.field(default_factory=dict)
    body: Buffer = b""


class Call(msgspec.Struct):
    """What a peer asks or announces. `deadline` is a time on `clock`, the event loop's own; None means no hurry."""

    method: str
    fields: dict[str, Any]
    body: Buffer = b""
    deadline: float | None = None
    clock: Callable[[], float] = time.monotonic
    admitted: Any = None
    """What `Service.admit` gave back for its body; None without one."""

    def remaining_s(self) -> float | None:
        """Seconds until the deadline, at least zero; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - self.clock())


OnTwin = Callable[[Hello, Address | None], None]
"""Told of another device that runs with this one's key: its hello, and where it was met, if that is known."""

Served = Reply | None | Coroutine[Any, Any, Reply | None]


class Service(Protocol):
    """What a peer does for those who are connected to it; `Router` is the usual one."""

    def admit(self, channel: Channel, frame: Frame, nbytes: int) -> object:
        """Agree to receive the body of a request or notice, or raise the `SwarmError` that refuses it. Called before
        any memory is allocated, and only for messages with a body; must not block. Gives back `Call.admitted`."""

    def serve(self, channel: Channel, call: Call) -> Served:
        """Answer one call: at once by a plain function, which must not block and costs no task, or by a coroutine.
        None is an empty reply. A `SwarmError` goes back to the caller; anything else raised is a bug and is logged."""


class Listener(Protocol):
    """An open door. Closing it leaves the channels that came through it open; whoever was given them closes them."""

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where it is really bound."""

    async def aclose(self) -> None: ...


class Transport(Protocol):
    """A way to open channels to other peers and to let them open theirs."""

    async def dial(self, address: Address, hello: Hello, service: Service, *, timeout_s: float) -> Channel:
        """A channel on which both sides have said hello. Raises `PeerUnreachable` or `VersionMismatch`."""

    async def listen(
        self, addresses: Sequence[Address], hello: Hello, service: Service, on_channel: Callable[[Channel], None]
    ) -> Listener:
        """Accept channels on all `addresses`; port 0 takes a free one, the same for all that ask for it.

        `on_channel` is called once for each channel after both hellos, before the first call of it is served; the
        channel is then its to close. Raises `AddressInUse`, or `BadInput` for an address that cannot be bound.
        """


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient a peer is with another, and how much it takes from it: on one channel, where nothing else is said."""

    keepalive_s: float = 2.0
    """Between pings on a channel that is in use."""
    silence_s: float = 10.0
    """A peer that is pinged is lost when nothing at all was received from it for so long."""
    rest_s: float = 45.0
    """A channel that is not in use is pinged when nothing was heard on it for so long."""
    hello_s: float = 3.0
    """For everything between the connection and the end of the hello, TLS included."""
    strangers: int = 64
    """Connections of one listener, and of one loopback address, that have not said hello yet."""
    strangers_per_address: int = 4
    serving: int = 256
    """Calls of one channel that are served at once; more are refused as `Overloaded`."""
    asking: int = 1024
    inbound_bytes: int = 1024 * 1024 * 1024
    """Bodies of calls of one peer, on all its channels, that are being received or served; more are refused as
    `Overloaded`."""
    retire_s: float = 1.0
    """A channel that retires stays open so long at least, for those who were given it just before."""
    unread: int = 4096
    """Small frames written to a peer that reads nothing; then it is lost."""
    high_water_bytes: int = 256 * 1024
    """Bytes in the write buffer above which senders have to wait."""
