"""Channels over TCP, with TLS or without, on asyncio's own event loop or on uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final

from swarm.errors import AddressInUse, BadInput, PeerUnreachable, SwarmError
from swarm.transport.base import Hello, Limits, OnTwin, Service
from swarm.transport.channel import Channel
from swarm.transport.doorstep import Doorstep
from swarm.transport.terms import Terms
from swarm.transport.unreachable import unreachable
from swarm.types import Address, PeerId

logger = logging.getLogger(__name__)

_BACKLOG: Final = 1024
"""Enough for all that knock and dial while this process is stalled for some seconds."""
_SPEAK_FIRST_S: Final = 1
_ACCEPT_PAUSE_S: Final = 0.2
_PORT_ATTEMPTS: Final = 8

Identify = Callable[[bytes], PeerId]
"""The peer id that belongs to a certificate in DER form."""


class TcpTransport:
    """With `ssl_server` and `ssl_client` all traffic is TLS; let the latter not check host names, for in a swarm
    certificates name peers, not machines. `identify` then binds the id in a peer's hello to its certificate; without
    it anybody whom the contexts trust may claim any id. `on_twin` is told of a device that has this one's id."""

    def __init__(
        self,
        ssl_server: ssl.SSLContext | None = None,
        ssl_client: ssl.SSLContext | None = None,
        *,
        identify: Identify | None = None,
        limits: Limits | None = None,
        on_twin: OnTwin | None = None,
    ) -> None:
        self._ssl_server = ssl_server
        self._ssl_client = ssl_client
        self._identify = identify
        self._limits = limits or Limits()
        self._terms = Terms(self._limits, self._vouch if identify else None, on_twin)

    async def dial(self, address: Address, hello: Hello, service: Service, *, timeout_s: float) -> Channel:
        """See `Transport.dial`."""
        channel = Channel(hello, service, self._terms, dialled=True)
        try:
            async with asyncio.timeout(timeout_s):
                await self._connect(address, channel)
                async with asyncio.timeout(self._limits.hello_s):
                    await channel.opened()
        except (SwarmError, OSError, ValueError) as error:  # ValueError: a host name that cannot even be looked up
            channel.abort()
            raise unreachable(address, error, timeout_s) from error
        except BaseException:
            channel.abort()
            raise
        return channel

    async def listen(
        self, addresses: Sequence[Address], hello: Hello, service: Service, on_channel: Callable[[Channel], None]
    ) -> TcpListener:
        """See `Transport.listen`."""
        sockets = await _bind_all(addresses)

        def channel() -> Channel:
            return Channel(hello, service, self._terms, dialled=False, on_open=on_channel)

        return TcpListener(sockets, channel, self._ssl_server, self._limits)

    async def _connect(self, address: Address, channel: Channel) -> None:
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: channel,
            address.host,
            address.port,
            ssl=self._ssl_client,
            server_hostname="" if self._ssl_client else None,  # or the name would travel in clear, for all to read
        )
        _no_delay(transport)

    def _vouch(self, remote: Hello, transport: asyncio.BaseTransport) -> None:
        if self._identify is None:
            return
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls else None
        if not certificate or self._identify(certificate) != remote.id:
            raise PeerUnreachable(f"A peer says that it is {remote.id[:8]}, and its certificate belongs to another.")


class TcpListener:
    """Accepts on its sockets from the moment it is made."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        channel: Callable[[], Channel],
        tls: ssl.SSLContext | None,
        limits: Limits,
    ) -> None:
        self.addresses = tuple(_address_of(sock) for sock in sockets)
        self._sockets = sockets
        self._channel = channel
        self._tls = tls
        self._handshake_s = limits.hello_s
        self._doorstep = Doorstep(limits)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._accept(sock)) for sock in sockets]

    async def aclose(self) -> None:
        """Close the door and send strangers away. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sock in self._sockets:
            sock.close()
        await self._doorstep.aclose()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, where = await loop.sock_accept(listening)
            except OSError as error:  # too many open files, or a stranger who left at once
                logger.warning("A connection could not be accepted: %s", error)
                await asyncio.sleep(_ACCEPT_PAUSE_S)
            else:
                self._doorstep.welcome(self._greet(accepted), where[0])
                await asyncio.sleep(0)  # sock_accept does not wait when more are there; others must get their turn

    async def _greet(self, accepted: socket.socket) -> None:
        channel = self._channel()
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: channel,
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=self._handshake_s if self._tls else None,
            )
            _no_delay(transport)
            await channel.opened()
        except BaseException:
            channel.abort()
            raise


def _no_delay(transport: asyncio.BaseTransport) -> None:
    """Send small frames at once: asyncio's own loops do this by themselves, others may not."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _bind_all(addresses: Sequence[Address]) -> list[socket.socket]:
    """Listening sockets on all addresses. A port that is free for one may be taken for the next: then all again."""
    for _ in range(_PORT_ATTEMPTS - 1):
        try:
            return await _bind_once(addresses)
        except AddressInUse:
            if len(addresses) < 2 or addresses[0].port:
                raise
    return await _bind_once(addresses)


async def _bind_once(addresses: Sequence[Address]) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    port = 0
    try:
        for address in addresses:
            sockets.append(await _bind(Address(address.host, address.port or port)))
            port = port or _address_of(sockets[-1]).port
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


async def _bind(address: Address) -> socket.socket:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return _listening(found[0][0], found[0][4])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"Port {address.port} on {address.host} belongs to another program, or to a swarm peer that runs "
                "already; stop it, or choose another port."
            ) from error
        raise BadInput(f"Listening on {address} is not possible: {error.strerror or error}.") from error


def _listening(family: int, where: tuple[str | int, ...] | tuple[int, bytes]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if os.name == "posix":  # on Windows it would take the port away from another program
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(_BACKLOG)
        _wait_for_words(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _wait_for_words(sock: socket.socket) -> None:
    """Have the kernel hold back, for a moment, whoever connects and says nothing. Then a knock never wakes this
    process, and those that come while it is stalled do not fill its backlog, which would make it look dead."""
    if hasattr(socket, "TCP_DEFER_ACCEPT"):  # Linux
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _SPEAK_FIRST_S)


def _address_of(sock: socket.socket) -> Address:
    host, port = sock.getsockname()[:2]
    return Address(host, port)
