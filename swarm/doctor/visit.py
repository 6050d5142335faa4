"""A visit to one address, as a peer would make it: knock, agree on encryption, say hello; and what stopped it.

knock ──▶ open ──▶ TLS, or plain with --open ──▶ hello
  │                      ╲── the other way, when this one failed: does that side run --open, or this one?
  └──▶ shut, silent, no route: told by the kernels in between
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Final

from swarm.background import in_daemon_thread
from swarm.doctor.machine import is_on_link
from swarm.doctor.words import Answer, Visit
from swarm.errors import PeerError, SwarmError, VersionMismatch, plain
from swarm.refusal import explain
from swarm.transport import Hello
from swarm.transport.greeting import MAX_HELLO_BYTES, greeting, read_greeting
from swarm.transport.knock import knock
from swarm.trust import identify
from swarm.types import Address, Door
from swarm.wire import Decoder, Frame, encode

RESOLVE_S: Final = 1.0
KNOCK_S: Final = 1.2
HELLO_S: Final = 3.0
"""For everything after the knock, as a peer itself would wait."""

_DOORS: Final = {Door.SHUT: Answer.SHUT, Door.SILENT: Answer.SILENT}
_ERRORS: Final = {
    errno.ENETUNREACH: Answer.NO_ROUTE,
    errno.EHOSTUNREACH: Answer.SILENT,
    errno.EADDRNOTAVAIL: Answer.NO_ROUTE,
    errno.EINVAL: Answer.NO_ROUTE,
    errno.EACCES: Answer.FORBIDDEN,
    errno.EPERM: Answer.FORBIDDEN,
}
_NOT_VALID_NOW: Final = (9, 10)
"""X509_V_ERR_CERT_NOT_YET_VALID and …_HAS_EXPIRED."""


class Visitor:
    """Visits with one set of credentials; `client` None speaks without encryption, as `--open` does, and then
    `stranger` is used to find out whether the other side is encrypted."""

    def __init__(self, hello: Hello, client: ssl.SSLContext | None, stranger: ssl.SSLContext) -> None:
        self._hello = hello
        self._client = client
        self._stranger = stranger

    async def visit(self, address: Address) -> Visit:
        """Takes at most `RESOLVE_S + KNOCK_S + HELLO_S`, and never raises for what a network does."""
        start = monotonic()
        place = await _resolve(address)
        if place is None:
            return Visit(address, Answer.NO_NAME)
        door = await knock([place], KNOCK_S)
        if door is Door.OPEN:
            answer, detail, remote = await self._say_hello(place)
            name, peer_id = (remote.name, remote.id) if remote else ("", None)
            return Visit(address, answer, detail, name, peer_id, monotonic() - start, place.host)
        answer = _DOORS.get(door) or await _why_unknown(place)
        on_link = await asyncio.to_thread(is_on_link, place.host) if answer is Answer.SILENT else None
        return Visit(address, answer, ip=place.host, on_link=on_link)

    async def _say_hello(self, place: Address) -> tuple[Answer, str, Hello | None]:
        """In this device's own way, and where nobody understands that, in the other."""
        try:
            async with asyncio.timeout(HELLO_S):
                answer, detail, remote = await self._ask(place, self._client)
                if answer is Answer.NOT_SWARM:
                    answer, detail = await self._ask_otherwise(place, detail)
                return answer, detail, remote
        except TimeoutError:
            return Answer.BUSY, "", None

    async def _ask_otherwise(self, place: Address, detail: str) -> tuple[Answer, str]:
        if self._client is None:
            answer, _, _ = await self._ask(place, self._stranger)
            return (Answer.SECURED_THERE if answer is not Answer.NOT_SWARM else Answer.NOT_SWARM), detail
        answer, _, _ = await self._ask(place, None)
        return (Answer.OPEN_THERE if answer in (Answer.HELLO, Answer.VERSION) else Answer.NOT_SWARM), detail

    async def _ask(self, place: Address, tls: ssl.SSLContext | None) -> tuple[Answer, str, Hello | None]:
        try:
            return Answer.HELLO, "", await _hello(place, tls, self._hello)
        except VersionMismatch as error:
            return Answer.VERSION, plain(str(error)), None
        except PeerError as error:  # it said so itself, by the protocol
            return Answer.TURNED_AWAY, plain(str(error)), None
        except _HungUp:
            return Answer.CLOCK_THERE, "it hung up when it had seen this device's certificate", None
        except ssl.SSLError as error:
            return _judge_tls(error), plain(explain(error)), None
        except (SwarmError, EOFError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            return Answer.NOT_SWARM, plain(str(error)), None


def _judge_tls(error: ssl.SSLError) -> Answer:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Answer.CLOCK_HERE if error.verify_code in _NOT_VALID_NOW else Answer.OTHER_SWARM
    reason = error.reason or ""
    if "ALERT" not in reason or "PROTOCOL_VERSION" in reason or "HANDSHAKE_FAILURE" in reason:
        return Answer.NOT_SWARM
    if "EXPIRED" in reason or "BAD_CERTIFICATE" in reason:
        return Answer.CLOCK_THERE
    return Answer.OTHER_SWARM


class _HungUp(Exception):
    """The other side showed a certificate of this swarm, and went without a word when it had seen this device's: in
    TLS 1.3 a refusal comes so late, and asyncio does not send its reason."""


async def _hello(place: Address, tls: ssl.SSLContext | None, mine: Hello) -> Hello:
    """Say hello and hear the other side's. Raises what is said or done instead."""
    reader, writer = await asyncio.open_connection(place.host, place.port, ssl=tls)
    try:
        for part in encode(greeting(mine)):
            writer.write(part)
        try:
            remote = read_greeting(await _first_frame(reader), mine)
        except (EOFError, ConnectionError) as error:
            raise (_HungUp() if tls else error) from error
        wire: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
        certificate = wire.getpeercert(binary_form=True) if wire else None
    finally:
        writer.transport.abort()
    if certificate is not None and identify(certificate) != remote.id:
        raise EOFError("it says that it is a peer whose certificate it does not have")
    return remote


async def _first_frame(reader: asyncio.StreamReader) -> Frame:
    decoder = Decoder(lambda _frame, _nbytes: None, first_header_bytes=MAX_HELLO_BYTES)
    while (frame := decoder.next()) is None:
        room = decoder.get_buffer()
        data = await reader.read(min(len(room), MAX_HELLO_BYTES))
        if not data:
            raise EOFError("it hung up before saying hello")
        room[: len(data)] = data
        decoder.received(len(data))
    return frame


async def _resolve(address: Address) -> Address | None:
    """The same by number. In a thread that nobody waits for: a name server may take its time."""

    def look_up() -> Address | None:
        try:
            found = socket.getaddrinfo(address.host, None, type=socket.SOCK_STREAM)
            return Address(str(found[0][4][0]), address.port)
        except (OSError, ValueError):
            return None

    try:
        async with asyncio.timeout(RESOLVE_S):
            return await in_daemon_thread(look_up)
    except TimeoutError:
        return None


async def _why_unknown(place: Address) -> Answer:
    """What this device's own kernel says to an attempt that did not even leave it."""

    def attempt() -> int:
        with socket.socket(_family(place.host), socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            return sock.connect_ex((place.host, place.port))

    return _ERRORS.get(await _in_thread(attempt), Answer.UNKNOWN)


async def _in_thread(attempt: Callable[[], int]) -> int:
    try:
        return await asyncio.to_thread(attempt)
    except OSError as error:
        return error.errno or 0


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
