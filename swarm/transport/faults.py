"""A bad network around any transport: frames are dropped and delayed, connections cut, directions blocked.

Faults act upon what a side sends, so give both sides a `FaultyTransport` with the same `Faults`. Hellos pass; a peer
that is blocked either way cannot be dialled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from random import Random

from swarm.errors import PeerUnreachable
from swarm.transport.base import Hello, Listener, Service, Transport
from swarm.transport.channel import Channel
from swarm.types import Address, PeerId
from swarm.wire import Buffer


class Faults:
    """What goes wrong, for all transports that share it. The rates may be changed at any time.

    `drop` and `cut` are chances per frame, `delay_s` is what each frame takes, and `jitter_s` up to how much more.
    """

    def __init__(
        self, seed: int = 0, *, drop: float = 0.0, cut: float = 0.0, delay_s: float = 0.0, jitter_s: float = 0.0
    ) -> None:
        self.drop = drop
        self.cut = cut
        self.delay_s = delay_s
        self.jitter_s = jitter_s
        self._rng = Random(seed)
        self._blocked: set[tuple[PeerId, PeerId]] = set()
        self._channels: set[Channel] = set()

    def block(self, sender: PeerId, receiver: PeerId) -> None:
        """Nothing that `sender` sends reaches `receiver` any more; the connection itself seems to stand."""
        self._blocked.add((sender, receiver))

    def partition(self, one: PeerId, other: PeerId) -> None:
        """Block both directions, like a pulled cable."""
        self.block(one, other)
        self.block(other, one)

    def heal(self) -> None:
        """Unblock everything."""
        self._blocked.clear()

    def is_blocked(self, sender: PeerId, receiver: PeerId) -> bool:
        return (sender, receiver) in self._blocked

    def sever(self, one: PeerId, other: PeerId) -> None:
        """Break all connections between two peers, now; both notice."""
        for channel in list(self._channels):
            if {channel.hello.id, channel.remote.id} == {one, other}:
                channel.abort()

    def drops(self) -> bool:
        return self._rng.random() < self.drop

    def cuts(self) -> bool:
        return self._rng.random() < self.cut

    def draw_delay_s(self) -> float:
        return self.delay_s + self.jitter_s * self._rng.random()

    def infect(self, channel: Channel) -> None:
        """Send everything on `channel` through these faults from now on."""
        self._channels.add(channel)
        channel.on_close.append(lambda closed, _: self._channels.discard(closed))
        channel.outlet = _FaultyOutlet(self, channel)


class _FaultyOutlet:
    """Stands where a channel's frames go out. Delayed frames keep their order."""

    def __init__(self, faults: Faults, channel: Channel) -> None:
        self._faults = faults
        self._channel = channel
        self._send = channel.outlet
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, list[bytes]]] = deque()  # (when, frame), in the order of sending

    def __call__(self, buffers: Sequence[Buffer]) -> None:
        if self._faults.cuts():
            self._loop.call_soon(self._channel.abort)
        elif not self._is_blocked() and not self._faults.drops():
            self._delay(buffers)

    def _is_blocked(self) -> bool:
        return self._faults.is_blocked(self._channel.hello.id, self._channel.remote.id)

    def _delay(self, buffers: Sequence[Buffer]) -> None:
        delay_s = self._faults.draw_delay_s()
        if not delay_s and not self._waiting:
            self._send(buffers)
            return
        self._waiting.append((self._loop.time() + delay_s, [bytes(buffer) for buffer in buffers]))
        if len(self._waiting) == 1:
            self._loop.call_at(self._waiting[0][0], self._arrive)

    def _arrive(self) -> None:
        now = self._loop.time()
        while self._waiting and self._waiting[0][0] <= now and not self._channel.is_closed:
            _, buffers = self._waiting.popleft()
            if not self._is_blocked():
                self._send(buffers)
        if self._waiting and not self._channel.is_closed:
            self._loop.call_at(self._waiting[0][0], self._arrive)


class FaultyTransport:
    """`inner`, and everything that `faults` does to it."""

    def __init__(self, inner: Transport, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    async def dial(self, address: Address, hello: Hello, service: Service, *, timeout_s: float) -> Channel:
        """See `Transport.dial`. To a blocked peer it takes the whole `timeout_s`, as with a pulled cable."""
        channel = await self._inner.dial(address, hello, service, timeout_s=timeout_s)
        if self._is_cut_off(channel):
            channel.abort()
            await asyncio.sleep(timeout_s)
            raise PeerUnreachable(f"{address} did not answer within {timeout_s:.3g} s; the network between is cut.")
        self._faults.infect(channel)
        return channel

    async def listen(
        self, addresses: Sequence[Address], hello: Hello, service: Service, on_channel: Callable[[Channel], None]
    ) -> Listener:
        """See `Transport.listen`. A blocked peer that dials is never heard of."""

        def infected(channel: Channel) -> None:
            self._faults.infect(channel)
            if self._is_cut_off(channel):
                asyncio.get_running_loop().call_soon(channel.abort)  # once its hello is out, or the dialler blames us
            else:
                on_channel(channel)

        return await self._inner.listen(addresses, hello, service, infected)

    def _is_cut_off(self, channel: Channel) -> bool:
        one, other = channel.hello.id, channel.remote.id
        return self._faults.is_blocked(one, other) or self._faults.is_blocked(other, one)
