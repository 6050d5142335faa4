"""mDNS introduces peers to one another; whether they live is for membership to say.

    this peer ──announces──▶ <id>._edge-swarm._tcp.local.  TXT txtvers, id, v, s or o   A addresses, SRV port
    others' records ──browse──▶ resolve ──check──▶ on_found(id, addresses)

A killed peer's record stays in caches for minutes, and anybody on the LAN can send one: a record is a place worth
dialling, nothing more. Ours tells an opaque id, an opaque tag of the swarm (or that it is an open one) and where it
listens, and no name of host, user, model or hardware. Peers of another swarm are counted, and left alone.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from swarm.interfaces import lan_addresses, own_addresses
from swarm.mdns import MAX_ADDRESSES, MAX_RECORDS, Browser, Record, announce, is_loopback, look, multicast
from swarm.transport.base import PROTOCOL
from swarm.types import Address, PeerId

if TYPE_CHECKING:
    from zeroconf import ServiceInfo
    from zeroconf.asyncio import AsyncZeroconf

log = logging.getLogger(__name__)

SERVICE = "_edge-swarm._tcp.local."
FOLLOW_S = 5.0
"""How often to look whether this machine's addresses changed, and to try again where multicast failed."""
MAX_TWINS = 8
"""Different places of twins that are told of; somebody who makes them up is not worth more."""

_PEER_ID = re.compile(r"[0-9a-f]{32}")
_TAG = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Announcement:
    """A peer that somebody says is there."""

    id: PeerId
    addresses: tuple[Address, ...]
    tag: str | None
    """Of its swarm; None for a peer of an open one."""


class Discovery:
    """Announces one peer on the LAN and calls `on_found` for each other peer's record, again when it changes.

    `tag` names the swarm, None an open one; peers of others are only counted, in `strangers`. Entering returns at
    once: announcing takes a second of name probing and goes on in a task of its own. With `interfaces` (IPv4
    addresses of this machine) it stays on those; without, it follows the machine's LAN addresses, and calls `on_moved`
    with the new ones. Where multicast does not work, `on_problem` gets one sentence for the user, and it keeps trying.
    `on_twin` gets the places of somebody else who announces this peer's own id. All callbacks are plain functions,
    called in the event loop.
    """

    def __init__(
        self,
        peer_id: PeerId,
        port: int,
        addresses: Sequence[str],
        *,
        tag: str | None = None,
        interfaces: Sequence[str] = (),
        on_found: Callable[[PeerId, tuple[Address, ...]], None],
        on_moved: Callable[[list[str]], None] | None = None,
        on_problem: Callable[[str], None] | None = None,
        on_twin: Callable[[tuple[Address, ...]], None] | None = None,
    ) -> None:
        self._peer_id = peer_id
        self._port = port
        self._addresses = list(addresses)
        self._tag = tag
        self._interfaces = list(interfaces)
        self._on_found = on_found
        self._on_moved = on_moved
        self._on_problem = on_problem
        self._on_twin = on_twin
        self._strangers: dict[str, Announcement] = {}
        self._mine = set(addresses)
        self._twins: set[tuple[Address, ...]] = set()
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()

    @property
    def strangers(self) -> frozenset[PeerId]:
        """Peers of other swarms that are announced on this network now."""
        return frozenset(stranger.id for stranger in self._strangers.values())

    async def __aenter__(self) -> Discovery:
        await self._tasks.__aenter__()
        self._spawn(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Withdraw the record and stop; takes at most about `2 * CLOSE_S`."""
        for task in self._running:
            task.cancel()
        if isinstance(error, asyncio.CancelledError):
            await self._tasks.__aexit__(kind, error, trace)
        else:
            await self._tasks.__aexit__(None, None, None)  # the body's own error goes on as it is, in no group

    async def _run(self) -> None:
        reported = False
        while True:
            try:
                await self._take_part()
            except* OSError as errors:
                if not reported:
                    self._report(errors.exceptions[0])
                reported = True
                await asyncio.sleep(FOLLOW_S)

    async def _take_part(self) -> None:
        """One life of the sockets, until this machine's addresses change. Withdraws the record in the end."""
        async with multicast(self._interfaces or self._addresses) as responder, asyncio.TaskGroup() as tasks:
            browser = Browser(SERVICE, self._take, self._withdrawn)
            running = [tasks.create_task(browser.run(responder)), tasks.create_task(self._announce(responder))]
            await self._move()
            for task in running:
                task.cancel()

    def _take(self, record: Record) -> None:
        found = read_record(record, loopback=is_loopback([*self._interfaces, *self._addresses]))
        if found is None:
            log.debug("ignored a record that is not a peer's: %r", record.properties)
        elif found.id == self._peer_id:
            self._meet_myself(found.addresses)
        elif found.tag == self._tag:
            self._strangers.pop(record.name, None)
            self._on_found(found.id, found.addresses)
        elif len(self._strangers) < MAX_RECORDS:
            self._strangers[record.name] = found

    def _withdrawn(self, name: str) -> None:
        self._strangers.pop(name, None)

    def _meet_myself(self, addresses: tuple[Address, ...]) -> None:
        """Usually it is this peer's own record, as the network gives it back."""
        own = all(address.host in self._mine and address.port == self._port for address in addresses)
        if not own and self._on_twin is not None and addresses not in self._twins and len(self._twins) < MAX_TWINS:
            self._twins.add(addresses)
            self._spawn(self._check_twin(addresses))

    async def _check_twin(self, addresses: tuple[Address, ...]) -> None:
        here = self._mine | await asyncio.to_thread(own_addresses)
        there = tuple(address for address in addresses if address.host not in here or address.port != self._port)
        if there and self._on_twin is not None:
            self._on_twin(there)

    async def _announce(self, responder: AsyncZeroconf) -> None:
        await announce(responder, self._record())

    async def _move(self) -> None:
        """Return when the machine's addresses have changed, and it was told; never with fixed interfaces."""
        addresses = self._addresses
        while addresses == self._addresses:
            await asyncio.sleep(FOLLOW_S)
            if not self._interfaces:
                addresses = await asyncio.to_thread(lan_addresses)
        self._addresses = addresses
        self._mine.update(addresses)
        if self._on_moved is not None:
            self._on_moved(addresses)

    def _record(self) -> ServiceInfo:
        from zeroconf import ServiceInfo

        swarm = {"o": "1"} if self._tag is None else {"s": self._tag}
        return ServiceInfo(
            SERVICE,
            f"{self._peer_id}.{SERVICE}",
            port=self._port,
            properties={"txtvers": "1", "id": self._peer_id, "v": str(PROTOCOL), **swarm},
            server=f"{self._peer_id}.local.",
            parsed_addresses=self._addresses[:MAX_ADDRESSES],
        )

    def _report(self, error: Exception) -> None:
        places = ", ".join(self._interfaces or self._addresses)
        sentence = (
            f"Peers cannot find one another by themselves, because multicast failed on {places}: {error}. "
            "Name one with --peer HOST:PORT, or the network to use with --interface IP."
        )
        log.warning("%s", sentence)
        if self._on_problem is not None:
            self._on_problem(sentence)

    def _spawn(self, work: Any) -> None:
        task = self._tasks.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)


async def look_around(hosts: Sequence[str], timeout_s: float) -> list[Announcement]:
    """The peers of any swarm that are announced on these networks; returns soon after the first one of a swarm that
    is not open was heard, or when `timeout_s` is over."""
    loopback = is_loopback(hosts)

    def is_secured(record: Record) -> bool:
        found = read_record(record, loopback=loopback)
        return found is not None and found.tag is not None

    records = await look(SERVICE, hosts, timeout_s, enough=is_secured)
    return [found for record in records if (found := read_record(record, loopback=loopback)) is not None]


def read_record(record: Record, *, loopback: bool = False) -> Announcement | None:
    """What a record says, or None for one that no peer of this protocol would send."""
    peer_id, tag = record.text("id"), record.text("s")
    if record.text("txtvers") != "1" or record.text("v") != str(PROTOCOL) or not _PEER_ID.fullmatch(peer_id):
        return None
    if not (_TAG.fullmatch(tag) if tag else record.text("o") == "1") or (tag and record.text("o")):
        return None
    addresses = record.addresses(loopback=loopback)
    return Announcement(PeerId(peer_id), addresses, tag or None) if addresses else None
