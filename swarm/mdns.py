"""Multicast DNS on chosen addresses: what others announce, resolved and bounded, and what is announced for them.

Anybody on the LAN can announce anything. A record here is checked for its shape alone; what it means is for the caller.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, cast

from swarm.types import Address

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncZeroconf

log = logging.getLogger(__name__)

MAX_ADDRESSES = 16
MAX_WAITING = 256
"""Names heard and not yet resolved; more are dropped, and come back when they are announced again."""
MAX_RECORDS = 256
RESOLVERS = 8
RESOLVE_S = 3.0
CLOSE_S = 1.0
LINGER_S = 0.3
"""When the first answer is in, how long `look` waits for others."""
MAX_LABEL_BYTES = 63

_NAMES = ("name", "alias", "server", "next_name")
"""Of questions and records, PTR, SRV and NSEC."""


@dataclass(frozen=True, slots=True)
class Record:
    """What somebody announced, as it came."""

    name: str
    properties: Mapping[bytes, bytes | None]
    port: int | None
    hosts: tuple[str, ...]
    """IPv4 addresses."""

    def text(self, key: str) -> str:
        """A TXT value, empty when it is missing."""
        return (self.properties.get(key.encode("ascii")) or b"").decode("ascii", "replace")

    def addresses(self, *, loopback: bool) -> tuple[Address, ...]:
        """Where it may be dialled; nowhere, when the record has no port or too many places.

        Loopback addresses count only where this peer is on loopback itself: elsewhere they would lead back to it.
        """
        if not self.port or not 0 < self.port < 65536 or len(self.hosts) > MAX_ADDRESSES:
            return ()
        return tuple(Address(host, self.port) for host in dict.fromkeys(self.hosts) if _is_dialable(host, loopback))


class Browser:
    """Calls `on_record` for each record of a service, again when it changes, and `on_gone` with the name of one that
    was withdrawn. Plain functions, called in the event loop while `run` runs."""

    def __init__(
        self, service: str, on_record: Callable[[Record], None], on_gone: Callable[[str], None] | None = None
    ) -> None:
        self._service = service
        self._on_record = on_record
        self._on_gone = on_gone
        self._names: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING)

    async def run(self, responder: AsyncZeroconf) -> None:
        """Browse until cancelled."""
        from zeroconf import DNSQuestionType
        from zeroconf.asyncio import AsyncServiceBrowser

        # Answers by multicast: a unicast one reaches only one of several peers that share a machine's port 5353,
        # and the others would have to ask again a second later.
        browser = AsyncServiceBrowser(
            responder.zeroconf, self._service, handlers=[self._heard], question_type=DNSQuestionType.QM
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(RESOLVERS):
                    tasks.create_task(self._resolve(responder.zeroconf))
        finally:
            await browser.async_cancel()

    def _heard(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change.name == "Removed":
            if self._on_gone is not None:
                self._on_gone(name)
            return
        try:
            self._names.put_nowait(name)
        except asyncio.QueueFull:
            log.debug("too many names at once: dropped %r", name)

    async def _resolve(self, zeroconf: Zeroconf) -> None:
        from zeroconf import Error, IPVersion
        from zeroconf.asyncio import AsyncServiceInfo

        while True:
            name = await self._names.get()
            try:
                info = AsyncServiceInfo(self._service, name)
                is_whole = await info.async_request(zeroconf, RESOLVE_S * 1000)
            except Error as error:  # a name, of it or of its host, that can be heard and not be asked for
                log.debug("cannot ask for %r: %r", name, error)
                continue
            if is_whole:
                hosts = tuple(info.parsed_addresses(IPVersion.V4Only))
                self._on_record(Record(name, info.properties, info.port, hosts))


@asynccontextmanager
async def multicast(hosts: Sequence[str]) -> AsyncIterator[AsyncZeroconf]:
    """Sockets on these addresses of this machine; what was announced on them is withdrawn in the end.

    Raises `OSError` where there is no multicast. New addresses need a new one: a socket that has joined the group
    through an address which is gone can neither leave it nor join it again through the new one.
    """
    await asyncio.to_thread(_load_zeroconf)
    from zeroconf import IPVersion
    from zeroconf.asyncio import AsyncZeroconf

    _check_local(hosts)
    responder = AsyncZeroconf(interfaces=list(hosts), ip_version=IPVersion.V4Only)
    try:
        await responder.zeroconf.async_wait_for_start()
        if not responder.zeroconf.engine.senders:
            raise OSError("no interface does multicast")
        _put_sieves(responder)
        yield responder
    finally:
        await _close(responder)


class _Sieve(asyncio.DatagramProtocol):
    """Keeps from zeroconf what can be heard and not be said again, a name of bytes that are no UTF-8 above all. It
    would keep it, fail at every question that tells what is known already, and so be deaf after one packet."""

    def __init__(self, listener: asyncio.DatagramProtocol) -> None:
        self._listener = listener

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        if _can_be_said(data):
            self._listener.datagram_received(data, addr)

    def error_received(self, exc: Exception) -> None:
        self._listener.error_received(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.connection_lost(exc)


def _put_sieves(responder: AsyncZeroconf) -> None:
    """In front of all its sockets; before anything was heard, for `multicast` gives it away only afterwards."""
    for reader in responder.zeroconf.engine.readers:
        listener = cast(asyncio.DatagramProtocol, reader.transport.get_protocol())  # it behaves as one
        reader.transport.set_protocol(_Sieve(listener))


def _can_be_said(packet: bytes) -> bool:
    from zeroconf._protocol.incoming import DNSIncoming

    message = DNSIncoming(packet)
    said = [*message.questions, *message.answers()]
    names = (getattr(each, place, "") for each in said for place in _NAMES)
    return all(len(label.encode("utf-8")) <= MAX_LABEL_BYTES for name in names for label in name.split("."))


async def announce(responder: AsyncZeroconf, info: ServiceInfo) -> None:
    """Announce it until the responder closes; returns after the second or so of name probing. Raises `OSError`."""
    from zeroconf import Error

    try:
        await (await responder.async_register_service(info, allow_name_change=True))
    except Error as error:
        raise OSError(f"nothing could be announced ({type(error).__name__} {error})") from error


async def look(
    service: str, hosts: Sequence[str], timeout_s: float, *, enough: Callable[[Record], bool] = lambda _: True
) -> list[Record]:
    """What is announced on these networks: all that is heard until `LINGER_S` after the first record that is
    `enough`, or else until `timeout_s`. Nothing where multicast fails, which the log tells."""
    from_name: dict[str, Record] = {}
    found = asyncio.Event()

    def take(record: Record) -> None:
        if len(from_name) < MAX_RECORDS:
            from_name[record.name] = record
        if enough(record):
            found.set()

    try:
        async with multicast(hosts) as responder:
            browsing = asyncio.create_task(Browser(service, take).run(responder))
            try:
                async with asyncio.timeout(timeout_s):
                    await found.wait()
                    await asyncio.sleep(LINGER_S)
            except TimeoutError:
                log.debug("nothing more was announced within %s s", timeout_s)
            finally:
                browsing.cancel()
                await asyncio.gather(browsing, return_exceptions=True)
    except OSError as error:
        log.warning("Multicast failed on %s: %s", ", ".join(hosts), error)
    return list(from_name.values())


def is_loopback(hosts: Sequence[str]) -> bool:
    """Whether any of these IPv4 addresses is one of this machine's alone."""
    return any(IPv4Address(host).is_loopback for host in hosts)


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
