"""An open door for one device: shows a code, is announced, and pairs with whoever knows that code.

    Invitation ──announces──▶ _swarm-invite._tcp.local.   TXT d = the code's first two letters
    accepting ──looks for d, or is told where──▶ TLS 1.3 ──▶ pairing.Exchange

An invitation listens on a port of its own with a certificate that is made for it alone, so that a stranger who knocks
learns nothing of the swarm, not even which one it is.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, Final

from swarm.errors import AddressInUse, BadInput, DoorClosed, SwarmError
from swarm.interfaces import lan_addresses
from swarm.mdns import announce, multicast
from swarm.pairing import MAX_MESSAGE_BYTES, MAX_PLACES, OPEN_S, Admission, Code, Exchange, Gift
from swarm.secret import Secret
from swarm.trust import Authority, credentials, fingerprint, new_key
from swarm.types import Address

log = logging.getLogger(__name__)

SERVICE: Final = "_swarm-invite._tcp.local."
DEFAULT_PORT: Final = 4748
MESSAGE_S: Final = 3.0
LIFE_S: Final = 12.0
"""One exchange from the first packet to the last."""
GUESTS: Final = 16
"""Connections at once; a guest needs one, for some tenths of a second."""
GUESTS_PER_ADDRESS: Final = 4
"""Of which one at a time is talked to."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A device that came in, by the name that it gives itself."""

    name: str
    host: str


class Invitation:
    """An open door for one device, while entered. `code` and `addresses` are there once it is.

    :param places: where peers of the swarm were last seen; the guest gets them with the secret.
    :param interfaces: local IPv4 addresses to listen on; all of the LAN's by default.
    :param port: None takes 4748, or any free one when that is taken.
    :param on_attempt: called with the attempts that are left and the host whenever a code was tried and was wrong.
    """

    def __init__(
        self,
        secret: Secret,
        *,
        places: Sequence[Address] = (),
        interfaces: Sequence[str] = (),
        port: int | None = None,
        mdns: bool = True,
        on_attempt: Callable[[int, str], None] = lambda left, host: None,
        on_problem: Callable[[str], None] = log.warning,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.code = Code.new()
        self._gift = Gift(secret.raw(), tuple(places)[:MAX_PLACES])
        self._interfaces = list(dict.fromkeys(interfaces))
        self._port = port
        self._mdns = mdns
        self._on_attempt = on_attempt
        self._on_problem = on_problem
        self._clock = clock
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._exchanges: set[Exchange] = set()
        self._hosts: dict[str, int] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._thinking = asyncio.Lock()
        self._guest: asyncio.Future[Guest] = asyncio.get_running_loop().create_future()
        self._sockets: list[socket.socket] = []

    async def __aenter__(self) -> Invitation:
        hosts = self._interfaces or await asyncio.to_thread(lan_addresses)
        self._context, own = await asyncio.to_thread(_own_certificate)
        self._admission = Admission(self.code, self._gift, own, self._clock())
        self._sockets = _listen(hosts, self._port)
        self.addresses = tuple(Address(*sock.getsockname()[:2]) for sock in self._sockets)
        await self._tasks.__aenter__()
        for sock in self._sockets:
            self._spawn(self._accept(sock))
        if self._mdns:
            self._spawn(self._announce(hosts))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running:
            task.cancel()
        if not self._guest.cancel() and not self._guest.cancelled():
            self._guest.exception()  # seen, even when nobody waited for it
        try:
            if isinstance(error, asyncio.CancelledError):
                await self._tasks.__aexit__(kind, error, trace)
            else:
                await self._tasks.__aexit__(None, None, None)  # the body's own error goes on as it is, in no group
        finally:
            for sock in self._sockets:
                sock.close()

    @property
    def left(self) -> int:
        """Attempts that are left."""
        return self._admission.left

    async def guest(self) -> Guest:
        """The device that came in. Raises `DoorClosed` when none did in time, or none knew the code."""
        try:
            async with asyncio.timeout(max(0.0, self._admission.closes_at - self._clock())):
                return await asyncio.shield(self._guest)
        except TimeoutError:
            if self._admission.guest is None:
                raise DoorClosed(
                    f"Nobody came in within {OPEN_S / 60:g} minutes, so the invitation is over; run `swarm invite` "
                    "again."
                ) from None
        return await asyncio.shield(self._guest)  # who is hanging up still, for `LIFE_S` at most

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, (host, *_) = await loop.sock_accept(listening)
            except OSError as error:  # too many open files, or a stranger who left at once
                log.warning("A connection could not be accepted: %s", error)
                await asyncio.sleep(0.2)
                continue
            if sum(self._hosts.values()) >= GUESTS or self._hosts.get(host, 0) >= GUESTS_PER_ADDRESS:
                sock.close()
                continue
            self._hosts[host] = self._hosts.get(host, 0) + 1
            self._spawn(self._welcome(sock, host))

    async def _welcome(self, sock: socket.socket, host: str) -> None:
        exchange = Exchange(self._admission)
        self._exchanges.add(exchange)
        try:
            turn = self._turns.setdefault(host, asyncio.Lock())
            async with asyncio.timeout(LIFE_S), _stream(sock, self._context) as (reader, writer), turn:
                await self._exchange(exchange, reader, writer)
        except (SwarmError, OSError) as error:  # TimeoutError and ssl.SSLError are OSErrors
            log.info("A device at %s did not come in: %s", host, str(error) or "it was too slow")
        finally:
            self._exchanges.discard(exchange)
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]
                self._turns.pop(host, None)
            self._judge(exchange, host)

    async def _exchange(self, exchange: Exchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not exchange.is_over:
            async with asyncio.timeout(MESSAGE_S):
                while not (reply := await self._think(exchange, await read(reader))):
                    pass
                writer.write(reply)
                await writer.drain()

    async def _think(self, exchange: Exchange, data: bytes) -> bytes:
        async with self._thinking:
            return await asyncio.to_thread(exchange.received, data, self._clock())

    def _judge(self, exchange: Exchange, host: str) -> None:
        """What the end of an exchange means for the invitation."""
        if exchange.was_let_in and not self._guest.done():
            self._guest.set_result(Guest(self._admission.guest or "a device", host))
        elif exchange.has_tried and not self._guest.done():
            self._on_attempt(self._admission.left, host)
            if self._admission.left == 0 and not any(other.has_tried for other in self._exchanges):
                self._guest.set_exception(
                    DoorClosed("Three wrong codes were tried, so the invitation is over; run `swarm invite` again.")
                )

    async def _announce(self, hosts: Sequence[str]) -> None:
        name = secrets.token_hex(8)
        try:
            async with multicast(hosts) as responder:
                from zeroconf import ServiceInfo

                info = ServiceInfo(
                    SERVICE,
                    f"{name}.{SERVICE}",
                    port=self.addresses[0].port,
                    properties={"txtvers": "1", "d": self.code.door},
                    server=f"{name}.local.",
                    parsed_addresses=list(hosts),
                )
                await announce(responder, info)
                await asyncio.Event().wait()
        except OSError as error:
            self._on_problem(
                f"The other device will not find this invitation by itself, because multicast failed ({error}). Name "
                f"it there: --peer {self.addresses[0]}"
            )

    def _spawn(self, work: Any) -> None:
        task = self._tasks.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)


async def read(reader: asyncio.StreamReader) -> bytes:
    """What comes next. Raises `ConnectionError` when nothing does any more."""
    data = await reader.read(MAX_MESSAGE_BYTES)
    if not data:
        raise ConnectionError("the other side hung up")
    return data


@asynccontextmanager
async def _stream(
    sock: socket.socket, context: ssl.SSLContext
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """TLS on an accepted socket, within `MESSAGE_S`."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(MAX_MESSAGE_BYTES, loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    try:
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, sock, ssl=context, ssl_handshake_timeout=MESSAGE_S
        )
    except BaseException:
        sock.close()
        raise
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    try:
        yield reader, writer
    finally:
        writer.close()
        try:
            async with asyncio.timeout(MESSAGE_S):
                await writer.wait_closed()
        except OSError as error:
            writer.transport.abort()
            log.debug("a device left without a word: %s", error)


def _own_certificate() -> tuple[ssl.SSLContext, bytes]:
    """A server context with a certificate that belongs to no swarm, and that certificate's fingerprint."""
    nobody, key = Authority(Secret.new()), new_key()
    leaf = nobody.issue(key.public_key())
    context = credentials(nobody, key, leaf).server
    context.verify_mode = ssl.CERT_NONE
    return context, fingerprint(leaf)


def _listen(hosts: Sequence[str], port: int | None) -> list[socket.socket]:
    if port is not None:
        return _bind(hosts, port)
    try:
        return _bind(hosts, DEFAULT_PORT)
    except AddressInUse:
        return _bind(hosts, 0)


def _bind(hosts: Sequence[str], port: int) -> list[socket.socket]:
    """Listening sockets, with one port for all. Raises `AddressInUse`, or `BadInput` for what cannot be."""
    sockets: list[socket.socket] = []
    try:
        for host in hosts:
            sockets.append(socket.create_server((host, port), backlog=GUESTS))
            sockets[-1].setblocking(False)
            port = sockets[-1].getsockname()[1]
    except OSError as error:
        for sock in sockets:
            sock.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(f"Port {port} belongs to another program; choose another with --port.") from error
        raise BadInput(f"Listening on {', '.join(hosts)} is not possible: {error.strerror or error}.") from error
    return sockets
