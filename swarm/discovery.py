"""mDNS introduces peers to one another; whether they live is for membership to say.

    this peer ──announces──▶ <id>._edge-swarm._tcp.local.  TXT txtvers, id, v   A addresses, SRV port
    others' records ──browse──▶ resolve ──check──▶ on_found(id, addresses)

A killed peer's record stays in caches for minutes, and anybody on the LAN can send one: a record is a place worth
dialling, nothing more. Ours tells an opaque id and where it listens, and no name of host, user, model or hardware.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address
from types import TracebackType
from typing import TYPE_CHECKING

from swarm.interfaces import lan_addresses
from swarm.transport.base import PROTOCOL
from swarm.types import Address, PeerId

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncZeroconf

log = logging.getLogger(__name__)

SERVICE = "_edge-swarm._tcp.local."
MAX_ADDRESSES = 16
MAX_WAITING = 256
"""Names heard and not yet resolved; more are dropped, and come back when they are announced again."""
RESOLVERS = 8
RESOLVE_S = 3.0
CLOSE_S = 1.0
FOLLOW_S = 5.0
"""How often to look whether this machine's addresses changed, and to try again where multicast failed."""

_PEER_ID = re.compile(r"[0-9a-f]{32}")


class Discovery:
    """Announces one peer on the LAN and calls `on_found` for each other peer's record, again when it changes.

    Entering returns at once: announcing takes a second of name probing and goes on in a task of its own. With
    `interfaces` (IPv4 addresses of this machine) it stays on those; without, it follows the machine's LAN addresses,
    and calls `on_moved` with the new ones. Where multicast does not work, `on_problem` gets one sentence for the
    user, and it keeps trying. All callbacks are plain functions, called in the event loop.
    """

    def __init__(
        self,
        peer_id: PeerId,
        port: int,
        addresses: Sequence[str],
        *,
        interfaces: Sequence[str] = (),
        on_found: Callable[[PeerId, tuple[Address, ...]], None],
        on_moved: Callable[[list[str]], None] | None = None,
        on_problem: Callable[[str], None] | None = None,
    ) -> None:
        self._peer_id = peer_id
        self._port = port
        self._addresses = list(addresses)
        self._interfaces = list(interfaces)
        self._on_found = on_found
        self._on_moved = on_moved
        self._on_problem = on_problem
        self._names: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING)
        self._tasks = asyncio.TaskGroup()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Discovery:
        await self._tasks.__aenter__()
        self._task = self._tasks.create_task(self._run(), name="discovery")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Withdraw the record and stop; takes at most about `2 * CLOSE_S`."""
        if self._task is not None:
            self._task.cancel()
        if isinstance(error, asyncio.CancelledError):
            await self._tasks.__aexit__(kind, error, trace)
        else:
            await self._tasks.__aexit__(None, None, None)  # the body's own error goes on as it is, in no group

    async def _run(self) -> None:
        await asyncio.to_thread(_load_zeroconf)
        from zeroconf import Error

        reported = False
        while True:
            try:
                await self._take_part()
            except* (OSError, Error) as errors:
                if not reported:
                    self._report(errors.exceptions[0])
                reported = True
                await asyncio.sleep(FOLLOW_S)

    async def _take_part(self) -> None:
        """One life of the sockets, until this machine's addresses change. Withdraws the record in the end.

        New addresses get new sockets: a socket that has joined the group through an address which is gone can neither
        leave it nor join it again through the new one.
        """
        from zeroconf import DNSQuestionType, IPVersion
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

        places = self._interfaces or self._addresses
        _check_local(places)
        responder = AsyncZeroconf(interfaces=list(places), ip_version=IPVersion.V4Only)
        try:
            await responder.zeroconf.async_wait_for_start()
            if not responder.zeroconf.engine.senders:
                raise OSError("no interface does multicast")
            # Answers by multicast: a unicast one reaches only one of several peers that share a machine's port 5353,
            # and the others would have to ask again a second later.
            AsyncServiceBrowser(responder.zeroconf, SERVICE, handlers=[self._heard], question_type=DNSQuestionType.QM)
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(self._resolve(responder.zeroconf)) for _ in range(RESOLVERS)]
                running.append(tasks.create_task(self._announce(responder)))
                await self._move()
                for task in running:
                    task.cancel()
        finally:
            await _close(responder)

    def _heard(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change.name == "Removed":
            return
        try:
            self._names.put_nowait(name)
        except asyncio.QueueFull:
            log.debug("too many names at once: dropped %r", name)

    async def _resolve(self, zeroconf: Zeroconf) -> None:
        from zeroconf import BadTypeInNameException, IPVersion
        from zeroconf.asyncio import AsyncServiceInfo

        while True:
            name = await self._names.get()
            try:
                info = AsyncServiceInfo(SERVICE, name)
            except BadTypeInNameException:
                continue
            if await info.async_request(zeroconf, RESOLVE_S * 1000):
                self._take(info.properties, info.port, info.parsed_addresses(IPVersion.V4Only))

    def _take(self, properties: Mapping[bytes, bytes | None], port: int | None, hosts: Sequence[str]) -> None:
        found = read_record(properties, port, hosts, loopback=self._is_on_loopback())
        if found is None:
            log.debug("ignored a record that is not a peer's: %r", properties)
        elif found[0] != self._peer_id:
            self._on_found(*found)

    def _is_on_loopback(self) -> bool:
        return any(IPv4Address(host).is_loopback for host in (*self._interfaces, *self._addresses))

    async def _announce(self, responder: AsyncZeroconf) -> None:
        record = self._record(f"{self._peer_id}.{SERVICE}")
        await (await responder.async_register_service(record, allow_name_change=True))

    async def _move(self) -> None:
        """Return when the machine's addresses have changed, and it was told; never with fixed interfaces."""
        addresses = self._addresses
        while addresses == self._addresses:
            await asyncio.sleep(FOLLOW_S)
            if not self._interfaces:
                addresses = await asyncio.to_thread(lan_addresses)
        self._addresses = addresses
        if self._on_moved is not None:
            self._on_moved(addresses)

    def _record(self, name: str) -> ServiceInfo:
        from zeroconf import ServiceInfo

        return ServiceInfo(
            SERVICE,
            name,
            port=self._port,
            properties={"txtvers": "1", "id": self._peer_id, "v": str(PROTOCOL)},
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


def read_record(
    properties: Mapping[bytes, bytes | None], port: int | None, hosts: Sequence[str], *, loopback: bool = False
) -> tuple[PeerId, tuple[Address, ...]] | None:
    """What a record says, or None for one that no peer of this protocol would send.

    Loopback addresses count only where this peer is on loopback itself: elsewhere they would lead back to it.
    """
    peer_id = (properties.get(b"id") or b"").decode("ascii", "replace")
    if properties.get(b"txtvers") != b"1" or properties.get(b"v") != str(PROTOCOL).encode():
        return None
    if not _PEER_ID.fullmatch(peer_id) or not port or not 0 < port < 65536 or len(hosts) > MAX_ADDRESSES:
        return None
    addresses = tuple(Address(host, port) for host in dict.fromkeys(hosts) if _is_dialable(host, loopback))
    return (PeerId(peer_id), addresses) if addresses else None


def _is_dialable(host: str, loopback: bool) -> bool:
    address = IPv4Address(host)
    if address.is_loopback:
        return loopback
    return not (address.is_multicast or address.is_unspecified or address.is_reserved)


def _check_local(hosts: Sequence[str]) -> None:
    """Raise `OSError` for an address that this machine does not have."""
    for host in hosts:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))


def _load_zeroconf() -> None:
    """Import it here, in a thread: it costs a tenth of a second, and `import swarm` must not pay."""
    quiet = logging.getLogger("zeroconf")
    if quiet.level == logging.NOTSET:
        quiet.setLevel(logging.ERROR)
    importlib.import_module("zeroconf.asyncio")


async def _close(responder: AsyncZeroconf) -> None:
    """Withdraw the record and close the sockets, each within `CLOSE_S`."""
    for step in (responder.async_unregister_all_services, responder.async_close):
        try:
            async with asyncio.timeout(CLOSE_S):
                await step()
        except (TimeoutError, OSError) as error:
            log.debug("mDNS did not close cleanly: %r", error)
