"""Gives membership its senses: dials, exchanges and goodbyes over real links, in real time.

    Discovery ──introduce──▶                      ──▶ changes(): views, for everybody who cares
    seeds, last-known peers ▶  Gossip ⇄ Membership
    Links: opened, closed  ──▶   │ dial, exchange, goodbye
                                 ▼
                          control channels

An exchange sends all that one knows and gets back all that the other knows, as the body of a `gossip` request; between
the few hundred peers of a LAN that is less than one tensor.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import msgspec

from swarm.acquaintances import Action, Dial
from swarm.errors import FrameTooLarge, MalformedFrame, PeerUnreachable, SwarmError
from swarm.known import MAX_KNOWN, read_known, write_known
from swarm.membership import MAX_PEERS, Entry, Membership
from swarm.transport import Call, Channel, Links, Reply, Router
from swarm.types import Address, PeerId, PeerRecord, PeerState, View

log = logging.getLogger(__name__)

MAX_GOSSIP_BYTES = 4 * 1024 * 1024
TICK_S = 0.1
DIAL_S = 2.0
EXCHANGE_TIMEOUT_S = 5.0
GOODBYE_S = 0.5
REMEMBER_S = 5.0

_Entries = Annotated[list[tuple[PeerRecord, PeerState]], msgspec.Meta(max_length=MAX_PEERS + 1)]
_decoder = msgspec.msgpack.Decoder(_Entries)
_encoder = msgspec.msgpack.Encoder()


class Gossip:
    """Keeps one peer in the swarm while entered; says goodbye on leaving.

    `seeds` are tried for ever; `known` is a file of last-known addresses, read on entering and kept up to date. Takes
    the methods `gossip` and `goodbye` of `router`. Enter it once, when `links` can be used, and leave it before they
    are closed.
    """

    def __init__(
        self,
        membership: Membership,
        links: Links,
        router: Router,
        *,
        seeds: Iterable[Address] = (),
        known: Path | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._membership = membership
        self._links = links
        self._seeds = tuple(seeds)
        self._known = known
        self._clock = clock
        self._view = membership.view()
        self._changed = asyncio.Event()
        self._wake = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._exchanging: set[PeerId] = set()
        self._again: set[PeerId] = set()
        self._turn = 0
        self._remembered: list[Address] = []
        self._is_over = False
        router.add("gossip", self._answer, _admit)
        router.add("goodbye", self._hear_goodbye)

    def view(self) -> View:
        """The swarm as this peer sees it now."""
        return self._view

    async def changes(self) -> AsyncIterator[View]:
        """The view now, and again after every change; a slow consumer gets the latest only. Ends on leaving."""
        seen: View | None = None
        while not self._is_over:
            changed = self._changed
            if self._view is not seen:
                seen = self._view
                yield seen
            else:
                await changed.wait()

    def update(self, **changes: Any) -> None:
        """Change the own record and tell everybody; see `Membership.update`."""
        self._membership.update(self._now(), **changes)
        self._publish()
        self._wake.set()

    def introduce(self, peer_id: PeerId | None, addresses: Sequence[Address]) -> None:
        """Somebody, mDNS mostly, says that this peer (None: any) is there. It is dialled, and must prove who it is."""
        self._membership.introduce(addresses, self._now(), peer_id)
        self._wake.set()

    async def __aenter__(self) -> Gossip:
        await self._tasks.__aenter__()
        for seed in self._seeds:
            self._membership.introduce((seed,), self._now(), seed=True)
        self._links.on_register.append(self._opened)
        for channel in self._links.channels():
            self._opened(channel)
        self._spawn(self._run())
        if self._known is not None:
            self._spawn(self._remember(self._known))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and say goodbye to all connected peers at once; takes at most about `GOODBYE_S`."""
        self._membership.leave(self._now())
        self._is_over = True
        self._publish()
        for task in self._running:
            task.cancel()
        try:
            if isinstance(error, asyncio.CancelledError):
                await self._tasks.__aexit__(kind, error, trace)
            else:
                await self._tasks.__aexit__(None, None, None)  # the body's own error goes on as it is, in no group
        finally:
            await self._say_goodbye()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            for action in self._membership.tick(self._now()):
                self._start(action)
            self._publish()
            try:
                async with asyncio.timeout(TICK_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _start(self, action: Action) -> None:
        if isinstance(action, Dial):
            self._spawn(self._dial(action))
        elif action.peer_id in self._exchanging:
            self._again.add(action.peer_id)
        else:
            self._exchanging.add(action.peer_id)
            self._spawn(self._exchange(action.peer_id))

    async def _dial(self, dial: Dial) -> None:
        try:
            channel = await self._reach(dial)
        except SwarmError as error:
            log.debug("%s", error)
            self._membership.failed(dial, self._now())
        else:
            self._membership.connected(channel.remote.id, self._now(), dial)
        self._publish()

    async def _reach(self, dial: Dial) -> Channel:
        """A channel with the peer that is meant, or with anybody where none is."""
        if not dial.addresses:
            raise PeerUnreachable("It has no address; it has to dial itself.")
        if dial.peer_id is not None:
            return await self._links.get(dial.peer_id, "control", DIAL_S, dial.addresses)
        return await self._links.dial(dial.addresses[0], "control", DIAL_S)

    async def _exchange(self, peer_id: PeerId) -> None:
        try:
            channel = await self._links.get(peer_id, "control", DIAL_S)
            reply = await channel.request(
                "gossip", {}, self._pack(), timeout_s=EXCHANGE_TIMEOUT_S, reply_bytes=MAX_GOSSIP_BYTES
            )
            self._merge(reply.body)
        except SwarmError as error:
            log.debug("no exchange with %s: %s", peer_id, error)
        finally:
            self._exchanging.discard(peer_id)
        if peer_id in self._again and not self._is_over:
            self._again.discard(peer_id)
            self._exchanging.add(peer_id)
            self._spawn(self._exchange(peer_id))

    def _answer(self, channel: Channel, call: Call) -> Reply:
        """The other half of an exchange. Who has left says nothing more, lest it refute its own goodbye."""
        if self._is_over:
            return Reply(body=_encoder.encode([]))
        self._merge(call.body)
        return Reply(body=self._pack())

    def _merge(self, body: bytes | bytearray | memoryview) -> None:
        self._membership.merge(_unpack(body), self._now())
        self._publish()
        self._wake.set()

    def _pack(self) -> bytes:
        """Own record and as many others as fit, beginning elsewhere each time, so that all get their turn."""
        mine, *others = self._membership.entries()
        start = self._turn % max(1, len(others))
        packed, room = [msgspec.Raw(_encoder.encode(mine))], MAX_GOSSIP_BYTES - MAX_PEERS
        for entry in (*others[start:], *others[:start]):
            raw = _encoder.encode(entry)
            room -= len(raw)
            if room < 0:
                self._turn += len(packed) - 1
                break
            packed.append(msgspec.Raw(raw))
        return _encoder.encode(packed)

    def _hear_goodbye(self, channel: Channel, call: Call) -> None:
        self._membership.said_goodbye(channel.remote.id, self._now())
        self._publish()

    async def _say_goodbye(self) -> None:
        async def say(channel: Channel) -> None:
            try:
                await channel.request("goodbye", {}, timeout_s=GOODBYE_S)
            except SwarmError as error:
                log.debug("no goodbye to %s: %s", channel.remote.id, error)

        async with asyncio.TaskGroup() as goodbyes:
            for channel in self._controls().values():
                goodbyes.create_task(say(channel))

    def _opened(self, channel: Channel) -> None:
        if channel.purpose == "control" and not self._is_over:
            channel.on_close.append(self._closed)
            self._membership.connected(channel.remote.id, self._now())
            self._publish()
            self._wake.set()

    def _closed(self, channel: Channel, error: SwarmError | None) -> None:
        if not self._is_over and channel.remote.id not in self._controls():
            self._membership.disconnected(channel.remote.id, self._now())
            self._publish()

    def _controls(self) -> dict[PeerId, Channel]:
        return {channel.remote.id: channel for channel in self._links.channels() if channel.purpose == "control"}

    async def _remember(self, file: Path) -> None:
        """Try the last-known peers, then keep the file up to date: a killed process writes no last words."""
        for address in await asyncio.to_thread(read_known, file):
            self._membership.introduce((address,), self._now())
        self._wake.set()
        while True:
            await asyncio.sleep(REMEMBER_S)
            addresses = self._worth_remembering()
            if addresses and addresses != self._remembered:
                self._remembered = addresses
                try:
                    await asyncio.to_thread(write_known, file, addresses)
                except OSError as error:
                    log.warning("The addresses of peers cannot be remembered in %s: %s", file, error)

    def _worth_remembering(self) -> list[Address]:
        others = [record for record in self._view.alive() if record.id != self._view.me]
        return [address for record in others for address in record.addresses[:2]][:MAX_KNOWN]

    def _publish(self) -> None:
        """Wake those who wait for changes, when there are any."""
        view = self._membership.view()
        if view is not self._view or self._is_over:
            self._view = view
            self._changed.set()
            self._changed = asyncio.Event()

    def _spawn(self, work: Any) -> None:
        task = self._tasks.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _now(self) -> float:
        return self._clock() if self._clock is not None else asyncio.get_running_loop().time()


def _admit(_channel: Channel, _fields: dict[str, Any], nbytes: int) -> None:
    if nbytes > MAX_GOSSIP_BYTES:
        raise FrameTooLarge(f"Gossip of {nbytes} bytes is too long; {MAX_GOSSIP_BYTES} are allowed.")


def _unpack(body: bytes | bytearray | memoryview) -> list[Entry]:
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedFrame(f"Gossip was not a list of peers: {error}.") from error
