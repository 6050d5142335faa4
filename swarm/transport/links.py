"""One connection for control and one for tensors with each peer, whoever dialled it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from swarm.errors import PeerLost, PeerUnreachable, SwarmError
from swarm.transport.base import Hello, Purpose, Service, Transport
from swarm.transport.channel import Channel
from swarm.types import Address, PeerId

_HEAD_START_S: Final = 0.25
"""How long one address has to itself before the next is tried beside it (RFC 8305)."""

_MOST_CHANNELS: Final = 4
"""With one peer for one purpose, those that retire included; beyond, its oldest goes."""

_MOST_IN_ALL: Final = 1024
"""Whoever holds the secret can be as many peers as it likes; files to open are not without end."""

_Key = tuple[PeerId, Purpose]


class Links:
    """All channels of one peer. `me` makes the hello for a purpose, `address_of` tells a peer's addresses, the most
    likely first. Links owns every channel it dialled or was given by `register`."""

    def __init__(
        self,
        transport: Transport,
        me: Callable[[Purpose], Hello],
        service: Service,
        address_of: Callable[[PeerId], Sequence[Address]],
    ) -> None:
        self._transport = transport
        self._me = me
        self._service = service
        self._address_of = address_of
        self._live: dict[_Key, list[Channel]] = {}  # the oldest first; all but the last are retiring, or soon will be
        self._dials: dict[_Key, asyncio.Task[Channel]] = {}
        self._is_closed = False
        self.on_register: list[Callable[[Channel], None]] = []
        """Called with every channel that is taken over, whoever dialled it."""

    def register(self, channel: Channel) -> None:
        """Take over an open channel, usually one that another peer dialled; give it to `Transport.listen`.

        When both sides dial at once, there are two for a moment. The peer with the smaller id keeps the younger and
        retires the other; that one decides is enough, and it can be only one.
        """
        if self._is_closed or sum(map(len, self._live.values())) >= _MOST_IN_ALL:
            channel.abort()
        if channel.is_closed:
            return
        self._live.setdefault(_key(channel), []).append(channel)
        channel.on_close.append(self._forget)
        self._thin_out(_key(channel))
        for callback in self.on_register:
            callback(channel)

    async def dial(self, address: Address, purpose: Purpose, timeout_s: float) -> Channel:
        """A new channel with whoever listens at `address`, for a peer that is not known yet. Raises as `get` does."""
        if self._is_closed:
            raise PeerLost("This peer has left the swarm; it dials nobody any more.")
        channel = await self._transport.dial(address, self._me(purpose), self._service, timeout_s=timeout_s)
        self.register(channel)
        return channel

    async def get(self, peer: PeerId, purpose: Purpose, timeout_s: float, addresses: Sequence[Address] = ()) -> Channel:
        """A live channel with that peer for that purpose; dials when there is none, at `addresses` or else where
        `address_of` says. Calls at the same time share one dial. Raises `PeerUnreachable` or `VersionMismatch`, and
        `PeerLost` after `aclose`."""
        if (channel := self._newest((peer, purpose))) is not None:
            return channel
        if self._is_closed:
            raise PeerLost("This peer has left the swarm; it dials nobody any more.")
        dial = self._dials.get((peer, purpose)) or self._begin((peer, purpose), timeout_s, addresses)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(dial)
        except TimeoutError:
            raise self._no_answer(peer, timeout_s) from None

    def at_hand(self, peer: PeerId, purpose: Purpose) -> Channel | None:
        """A live channel, if there is one now."""
        return self._newest((peer, purpose))

    def channels(self) -> list[Channel]:
        """All live channels, sorted by peer and purpose; not those that are retiring."""
        return [channel for key in sorted(self._live) for channel in self._live[key] if not channel.is_retiring]

    async def aclose(self) -> None:
        """Give up dialling and close all channels. Idempotent."""
        self._is_closed = True
        dials = list(self._dials.values())
        for dial in dials:
            dial.cancel()
        if dials:
            await asyncio.wait(dials)
        await asyncio.gather(*(channel.aclose() for channels in list(self._live.values()) for channel in channels))

    def _newest(self, key: _Key) -> Channel | None:
        """Of two, the younger: the older may belong to a peer that has been restarted since."""
        return next((channel for channel in reversed(self._live.get(key, ())) if not channel.is_retiring), None)

    def _thin_out(self, key: _Key) -> None:
        channels = list(self._live[key])
        while len(channels) > _MOST_CHANNELS:
            channels.pop(0).abort()
        *older, _youngest = channels
        for channel in older:
            if channel.hello.id < channel.remote.id:
                channel.retire()

    def _begin(self, key: _Key, timeout_s: float, addresses: Sequence[Address]) -> asyncio.Task[Channel]:
        dialling = self._dial(key, timeout_s, addresses or self._address_of(key[0]))
        dial = self._dials[key] = asyncio.get_running_loop().create_task(dialling)

        def ended(dial: asyncio.Task[Channel]) -> None:
            del self._dials[key]
            if not dial.cancelled():
                dial.exception()  # seen, even when nobody waits any more

        dial.add_done_callback(ended)
        return dial

    def _forget(self, channel: Channel, _error: SwarmError | None) -> None:
        key = _key(channel)
        others = [other for other in self._live.get(key, ()) if other is not channel]
        if others:
            self._live[key] = others
        else:
            self._live.pop(key, None)

    async def _dial(self, key: _Key, timeout_s: float, addresses: Sequence[Address]) -> Channel:
        """Try the peer's addresses, each a little after the one before or as soon as that has failed."""
        waiting = list(dict.fromkeys(addresses))
        if not waiting:
            raise PeerUnreachable(f"No address of peer {key[0][:8]} is known; has it left?")
        attempts: set[asyncio.Task[Channel]] = set()
        failure: SwarmError | None = None
        try:
            while waiting or attempts:
                if waiting:
                    attempts.add(asyncio.create_task(self._attempt(waiting.pop(0), key, timeout_s)))
                done, attempts = await asyncio.wait(
                    attempts, timeout=_HEAD_START_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                for attempt in done:
                    failure = failure or await self._take(attempt)
                if (found := self._newest(key)) is not None:
                    return found
        except asyncio.CancelledError:
            raise PeerLost("This peer left the swarm while it was dialling.") from None  # only `aclose` cancels a dial
        finally:
            for attempt in attempts:
                attempt.cancel()
            for attempt in attempts:
                await self._take(attempt)
        raise failure or self._no_answer(key[0], timeout_s)

    async def _take(self, attempt: asyncio.Task[Channel]) -> SwarmError | None:
        """Register what an attempt came to, or tell why it came to nothing."""
        try:
            self.register(await attempt)
        except SwarmError as error:
            return error
        except asyncio.CancelledError:
            if not attempt.cancelled():
                raise
        return None

    async def _attempt(self, address: Address, key: _Key, timeout_s: float) -> Channel:
        peer, purpose = key
        channel = await self._transport.dial(address, self._me(purpose), self._service, timeout_s=timeout_s)
        if channel.remote.id != peer:
            channel.abort()
            raise PeerUnreachable(
                f"{address} belongs to another peer now, '{channel.remote.name}' ({channel.remote.id[:8]}), not to "
                f"{peer[:8]}."
            )
        return channel

    def _no_answer(self, peer: PeerId, timeout_s: float) -> SwarmError:
        addresses = ", ".join(str(address) for address in self._address_of(peer))
        return PeerUnreachable(f"Peer {peer[:8]} did not answer at {addresses} within {timeout_s:.3g} s.")


def _key(channel: Channel) -> _Key:
    return channel.remote.id, channel.purpose
