"""Channels inside one process, for tests and demonstrations: every byte is still encoded, moved and decoded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Final

from swarm.errors import AddressInUse, SwarmError
from swarm.transport.base import Hello, Limits, OnTwin, Service
from swarm.transport.channel import Channel
from swarm.transport.doorstep import Doorstep
from swarm.transport.terms import Terms
from swarm.transport.unreachable import unreachable
from swarm.types import Address
from swarm.wire import Buffer

_MOVED_AT_ONCE: Final = 256 * 1024


class MemoryNetwork:
    """Who listens where. All that share one can reach each other."""

    def __init__(self) -> None:
        self._doors: dict[Address, MemoryListener] = {}
        self._ports = count(49152)

    def free_port(self) -> int:
        return next(self._ports)

    def open(self, address: Address, door: MemoryListener) -> None:
        if address in self._doors:
            raise AddressInUse(f"{address} is in use already on this network; choose another port.")
        self._doors[address] = door

    def close(self, door: MemoryListener) -> None:
        self._doors = {address: other for address, other in self._doors.items() if other is not door}

    def door(self, address: Address) -> MemoryListener:
        try:
            return self._doors[address]
        except KeyError:
            raise ConnectionRefusedError from None


class MemoryTransport:
    """The same interface as TCP's, on a network that is a dictionary."""

    def __init__(self, network: MemoryNetwork, *, limits: Limits | None = None, on_twin: OnTwin | None = None) -> None:
        self._network = network
        self._limits = limits or Limits()
        self._terms = Terms(self._limits, on_twin=on_twin)

    async def dial(self, address: Address, hello: Hello, service: Service, *, timeout_s: float) -> Channel:
        """See `Transport.dial`."""
        channel = Channel(hello, service, self._terms, dialled=True)
        try:
            async with asyncio.timeout(min(timeout_s, self._limits.hello_s)):
                join(channel, self._network.door(address).knock())
                await channel.opened()
        except (SwarmError, OSError) as error:
            channel.abort()
            raise unreachable(address, error, timeout_s) from error
        except BaseException:
            channel.abort()
            raise
        return channel

    async def listen(
        self, addresses: Sequence[Address], hello: Hello, service: Service, on_channel: Callable[[Channel], None]
    ) -> MemoryListener:
        """See `Transport.listen`."""

        def channel() -> Channel:
            return Channel(hello, service, self._terms, dialled=False, on_open=on_channel)

        return MemoryListener(self._network, addresses, channel, self._limits)


class MemoryListener:
    """Stands in the network from the moment it is made."""

    def __init__(
        self, network: MemoryNetwork, addresses: Sequence[Address], channel: Callable[[], Channel], limits: Limits
    ) -> None:
        self._network = network
        self._channel = channel
        self._doorstep = Doorstep(limits)
        port = next((address.port for address in addresses[:1]), 0) or network.free_port()
        self.addresses = tuple(Address(address.host, address.port or port) for address in addresses)
        try:
            for address in self.addresses:
                network.open(address, self)
        except AddressInUse:
            network.close(self)
            raise

    def knock(self) -> Channel:
        """A channel for somebody who dials, not joined to theirs yet."""
        channel = self._channel()
        self._doorstep.welcome(_greet(channel))
        return channel

    async def aclose(self) -> None:
        """Close the door and send strangers away. Idempotent."""
        self._network.close(self)
        await self._doorstep.aclose()


async def _greet(channel: Channel) -> None:
    try:
        await channel.opened()
    except BaseException:
        channel.abort()
        raise


class Pipe(asyncio.Transport):
    """What one side writes, on its way to the other; moved piece by piece, one turn of the loop each."""

    def __init__(self, owner: asyncio.BufferedProtocol) -> None:
        super().__init__()
        self.owner = owner
        self.other: Pipe
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[memoryview] = deque()
        self._queued = 0
        self._high = 64 * 1024
        self._is_moving = self._is_paused = self._is_closing = self._is_lost = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = self._high if high is None else high

    def is_closing(self) -> bool:
        return self._is_closing

    def write(self, data: Buffer) -> None:
        if self._is_closing:
            return
        self._pieces.append(memoryview(data).cast("B"))
        self._queued += len(self._pieces[-1])
        if self._queued > self._high and not self._is_paused:
            self._is_paused = True
            self.owner.pause_writing()
        self._go_on()

    def close(self) -> None:
        self._is_closing = True
        self._go_on()

    def abort(self) -> None:
        self._pieces.clear()
        self._queued = 0
        self.close()

    def hang_up(self) -> None:
        """The connection is gone, for this side."""
        if not self._is_lost:
            self._is_closing = self._is_lost = True
            self._pieces.clear()
            self.owner.connection_lost(None)

    def _go_on(self) -> None:
        if not self._is_moving and not self._is_lost:
            self._is_moving = True
            self._loop.call_soon(self._move)

    def _move(self) -> None:
        self._is_moving = False
        try:
            budget = _MOVED_AT_ONCE
            while self._pieces and budget > 0 and not self._is_lost:
                budget -= self._move_piece()
        except BaseException:
            self.abort()
            raise
        if self._is_paused and self._queued <= self._high // 4:
            self._is_paused = False
            self.owner.resume_writing()
        if self._pieces:
            self._go_on()
        elif self._is_closing:
            self.hang_up()
            self.other.hang_up()

    def _move_piece(self) -> int:
        piece = self._pieces.popleft()
        room = memoryview(self.other.owner.get_buffer(-1))
        nbytes = min(len(room), len(piece))
        room[:nbytes] = piece[:nbytes]
        if nbytes < len(piece):
            self._pieces.appendleft(piece[nbytes:])
        self._queued -= nbytes
        self.other.owner.buffer_updated(nbytes)
        return nbytes


def join(one: asyncio.BufferedProtocol, other: asyncio.BufferedProtocol) -> None:
    """Connect two protocols with a pipe each way."""
    there, back = Pipe(one), Pipe(other)
    there.other, back.other = back, there
    other.connection_made(back)
    one.connection_made(there)
