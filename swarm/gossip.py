"""Gives membership its senses and its hands: dials, knocks, messages and goodbyes over real links, in real time.

    Discovery ──introduce──▶                      ──▶ changes(): views, for everybody who cares
    seeds, last-known peers ▶  Gossip ⇄ Membership
    Links: opened, closed  ──▶   │ dial, knock, send
                                 ▼
                          control channels

Each message travels as the body of a `gossip` notice; who sent it is what its connection has proved.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from swarm.errors import FrameTooLarge, PeerUnreachable, SwarmError
from swarm.known import MAX_KNOWN, read_known, write_known
from swarm.membership import MAX_MESSAGE_BYTES, Action, Dial, Drop, Knock, Membership, Send, decode, encode
from swarm.transport import Call, Channel, Links, Router
from swarm.transport.knock import knock
from swarm.types import Address, Door, PeerId, PeerState, View

log = logging.getLogger(__name__)

TICK_S = 0.1
DIAL_S = 2.0
SEND_S = 2.0
GOODBYE_S = 0.5
REMEMBER_S = 5.0

KnockAt = Callable[[Sequence[Address], float], Awaitable[Door]]
"""Tries a bare connection to any of the addresses, for so many seconds."""


class Gossip:
    """Keeps one peer in the swarm while entered; says goodbye on leaving.

    `seeds` are tried for ever; `known` is a file of last-known addresses, read on entering and kept up to date;
    `on_twin` is told, once, where another device speaks with this peer's key. Takes the methods `gossip` and `goodbye`
    of `router`. Enter it once, when `links` can be used, and leave it before they are closed.
    """

    def __init__(
        self,
        membership: Membership,
        links: Links,
        router: Router,
        *,
        seeds: Iterable[Address] = (),
        known: Path | None = None,
        knock: KnockAt = knock,
        on_twin: Callable[[tuple[Address, ...]], None] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._membership = membership
        self._links = links
        self._seeds = tuple(seeds)
        self._known = known
        self._knock_at = knock
        self._on_twin = on_twin
        self._clock = clock
        self._view = membership.view()
        self._changed = asyncio.Event()
        self._wake = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._remembered: list[Address] = []
        self._is_over = False
        router.add("gossip", self._hear, _admit)
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
        match action:
            case Dial():
                self._spawn(self._dial(action))
            case Knock():
                self._spawn(self._knock(action))
            case Send():
                self._spawn(self._send(action))
            case Drop():
                self._drop(action)

    async def _dial(self, dial: Dial) -> None:
        try:
            channel = await self._reach(dial)
        except SwarmError as error:
            log.debug("%s", error)
            self._membership.failed(dial, self._now())
        else:
            self._membership.connected(channel.remote.id, self._now(), dial)
        self._wake.set()

    async def _reach(self, dial: Dial) -> Channel:
        """A channel with the peer that is meant, or with anybody where none is."""
        if not dial.addresses:
            raise PeerUnreachable("It has no address; it has to dial itself.")
        if dial.peer_id is not None:
            return await self._links.get(dial.peer_id, "control", DIAL_S, dial.addresses)
        return await self._links.dial(dial.addresses[0], "control", DIAL_S)

    async def _knock(self, action: Knock) -> None:
        door = await self._knock_at(action.addresses, action.timeout_s)
        self._membership.knocked(action.peer_id, door, self._now())
        self._wake.set()

    async def _send(self, action: Send) -> None:
        """Nobody waits for a message: one that cannot be sent is lost."""
        try:
            channel = await self._links.get(action.peer_id, "control", DIAL_S)
            await channel.notify("gossip", {}, encode(action.message), timeout_s=SEND_S)
        except SwarmError as error:
            log.debug("nothing said to %s: %s", action.peer_id, error)

    def _drop(self, action: Drop) -> None:
        for channel in self._links.channels():
            if channel.remote.id == action.peer_id:
                channel.abort()

    def _hear(self, channel: Channel, call: Call) -> None:
        if not self._is_over:
            self._membership.received(channel.remote.id, decode(call.body), self._now())
            self._wake.set()  # what came at once is looked at, and made known, at once

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
        others = [record for record in self._view.hosts() if record.id != self._view.me]  # clients are gone soon
        return [address for record in others for address in record.addresses[:2]][:MAX_KNOWN]

    def _publish(self) -> None:
        """Wake those who wait for changes, when there are any."""
        view, before = self._membership.view(), self._view
        if view is not before or self._is_over:
            self._view = view
            self._changed.set()
            self._changed = asyncio.Event()
            self._cut_off_the_dead(before, view)
        if self._membership.twin is not None and self._on_twin is not None:
            self._on_twin(self._membership.twin)
            self._on_twin = None

    def _cut_off_the_dead(self, before: View, view: View) -> None:
        """No packet will tell that a dead host's connections are broken; whoever waits for an answer must hear it."""
        dead = {seen.record.id for seen in view.peers if seen.state is PeerState.DEAD}
        dead -= {seen.record.id for seen in before.peers if seen.state is PeerState.DEAD}
        for channel in self._links.channels() if dead else ():
            if channel.remote.id in dead:
                channel.abort()

    def _spawn(self, work: Any) -> None:
        task = self._tasks.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _now(self) -> float:
        return self._clock() if self._clock is not None else asyncio.get_running_loop().time()


def _admit(_channel: Channel, _fields: dict[str, Any], nbytes: int) -> None:
    if nbytes > MAX_MESSAGE_BYTES:
        raise FrameTooLarge(f"Gossip of {nbytes} bytes is too long; {MAX_MESSAGE_BYTES} are allowed.")
