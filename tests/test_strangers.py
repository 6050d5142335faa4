"""What a stranger gets: nothing, and nobody waits because of it.

Each stranger does its worst while an honest peer dials, asks and is answered. Whatever it receives is looked at, and
when it is gone, so are its sockets and its memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest

from swarm.errors import PeerUnreachable
from swarm.transport import Channel, Limits, Router, TcpTransport
from swarm.transport.doorstep import Doorstep
from swarm.types import Address, PeerId
from swarm.wire import Frame, Kind, encode
from tests.transport.contract import ALICE, ANYWHERE, BOB, Deed, hello
from tests.transport.test_tcp import Authority

QUICK = Limits(hello_s=1.0)
OURS = (b"name-b", b"b" * 32, b"SWM\x01", b"swarm's protocol")
HELLO = bytes(encode(Frame(Kind.HELLO, fields={"protocol": 1, "id": ALICE, "name": "x", "purpose": "control"}))[0])
CLAIMS_4_GB = b"SWM\x01" + (64).to_bytes(4, "big") + (2**32).to_bytes(8, "big")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("theirs"))


@dataclass
class Home:
    """A peer that listens, and an honest one that comes to it."""

    transport: TcpTransport
    address: Address
    arrived: list[Channel] = field(default_factory=list)

    async def is_open(self) -> None:
        """An honest peer dials, asks and is answered."""
        channel = await self.transport.dial(self.address, hello(PeerId("c" * 32)), Router(), timeout_s=2)
        assert (await channel.request("echo", {"n": 1}, timeout_s=2)).fields == {"n": 1}
        await channel.aclose()


@asynccontextmanager
async def home(authority: Authority | None, limits: Limits = QUICK) -> AsyncIterator[Home]:
    transport = TcpTransport(*(authority.contexts() if authority else ()), limits=limits)
    here = Home(transport, ANYWHERE)
    listener = await transport.listen([ANYWHERE], hello(BOB), Deed().router, here.arrived.append)
    here.address = listener.addresses[0]
    try:
        yield here
    finally:
        await listener.aclose()
        for channel in here.arrived:
            await channel.aclose()


class Stranger:
    """A bare socket, and all that it ever received."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received = b""
        self._reader, self._writer = reader, writer

    @classmethod
    async def come(cls, home: Home, tls: ssl.SSLContext | None = None) -> Stranger:
        there = home.address
        opened = asyncio.open_connection(there.host, there.port, ssl=tls, server_hostname="" if tls else None)
        return cls(*await opened)

    async def say(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._writer.write(data)
            await self._writer.drain()

    async def is_sent_away(self) -> bool:
        """Read until the end of it, which must come."""
        try:
            async with asyncio.timeout(8):
                while data := await self._reader.read(65536):
                    self.received += data
        except TimeoutError:
            return False
        except OSError:  # a reset, or an alert
            pass
        return True

    async def leave(self) -> None:
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def client_hello(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """The first bytes of an honest handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = context.maximum_version = version
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


Misdeed = Callable[[Stranger], Coroutine[Any, Any, None]]


async def slowly(stranger: Stranger) -> None:
    for byte in client_hello()[:8]:
        await stranger.say(bytes([byte]))
        await asyncio.sleep(0.1)


def says(data: bytes) -> Misdeed:
    return lambda stranger: stranger.say(data)


HANDSHAKE_OF_16_MB = (
    b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(16380) + (b"\x16\x03\x03\x40\x00" + bytes(16384)) * 200
)
DEEDS: dict[str, Misdeed] = {
    "slow bytes": slowly,
    "4 GB header": says(CLAIMS_4_GB),
    "huge header": says(b"SWM\x01" + b"\xff" * 12),
    "garbage": says(bytes(range(256)) * 40),
    "http": says(b"GET / HTTP/1.1\r\nHost: swarm\r\n\r\n"),
    "half a handshake": says(client_hello()[:100]),
    "half-open handshake": says(client_hello()),
    "TLS 1.2": says(client_hello(ssl.TLSVersion.TLSv1_2)),
    "endless handshake": says(HANDSHAKE_OF_16_MB),
    "body before hello": says(HELLO[:8] + (9).to_bytes(8, "big") + HELLO[16:] + bytes(9)),
    "lengthy hello": says(b"SWM\x01" + (5000).to_bytes(4, "big") + bytes(8) + bytes(5000)),
}


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS.keys())
@pytest.mark.parametrize("secured", [True, False], ids=["tls", "open"])
async def test_it_gets_nothing_and_holds_up_nobody(secured: bool, deed: Misdeed, ours: Authority) -> None:
    async with home(ours if secured else None) as here:
        await here.is_open()
        fds = psutil.Process().num_fds()
        strangers = [await Stranger.come(here) for _ in range(5)]
        deeds = [asyncio.create_task(deed(stranger)) for stranger in strangers]
        await here.is_open()
        assert all(await asyncio.gather(*(stranger.is_sent_away() for stranger in strangers)))
        for doing in deeds:
            doing.cancel()
        await asyncio.gather(*deeds, return_exceptions=True)
        for stranger in strangers:
            assert stranger.received == b"" or (secured and stranger.received[0] in b"\x15\x16")
            assert not [word for word in OURS if word in stranger.received]
            await stranger.leave()
        await here.is_open()
        await until(lambda: psutil.Process().num_fds() <= fds)


async def test_a_plain_hello_to_a_secured_door(ours: Authority) -> None:
    async with home(ours) as here:
        stranger = await Stranger.come(here)
        await stranger.say(HELLO)
        assert await stranger.is_sent_away()
        assert stranger.received[:1] in (b"", b"\x15")  # an alert at most
        assert len(stranger.received) <= 7
        await here.is_open()
        await stranger.leave()


async def test_no_certificate_another_swarms_and_an_old_version(ours: Authority, theirs: Authority) -> None:
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    foreign = theirs.context(ssl.PROTOCOL_TLS_CLIENT)
    foreign.verify_mode = ssl.CERT_NONE  # it does not care who it talks to
    old = ours.context(ssl.PROTOCOL_TLS_CLIENT)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with home(ours) as here:
        for context in (bare, foreign, old):
            try:
                stranger = await Stranger.come(here, context)
            except (ssl.SSLError, ConnectionError):
                assert context is old
                continue
            await stranger.say(HELLO)  # TLS 1.3: a client that is refused learns of it only when it reads
            await here.is_open()
            assert await stranger.is_sent_away()
            assert stranger.received == b""
            await stranger.leave()
        assert all(channel.remote.id == "c" * 32 for channel in here.arrived)


async def test_a_replayed_conversation(ours: Authority) -> None:
    async with home(ours) as here:
        said: list[bytes] = []
        async with relay(here.address, said) as middle:
            channel = await here.transport.dial(middle, hello(ALICE), Router(), timeout_s=2)
            await channel.request("echo", {}, timeout_s=2)
            await channel.aclose()
        came = len(here.arrived)
        stranger = await Stranger.come(here)
        await stranger.say(b"".join(said))
        assert await stranger.is_sent_away()
        assert not [word for word in OURS if word in stranger.received]
        assert len(here.arrived) == came
        await stranger.leave()


async def test_a_stranger_that_is_dialled_never_hears_our_hello(theirs: Authority, ours: Authority) -> None:
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            heard.append(await reader.read(65536))
        writer.transport.abort()

    for tls in (None, theirs.context(ssl.PROTOCOL_TLS_SERVER)):
        server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=tls)
        async with server:
            there = Address("localhost", server.sockets[0].getsockname()[1])
            with pytest.raises(PeerUnreachable):
                await TcpTransport(*ours.contexts()).dial(there, hello(ALICE), Router(), timeout_s=2)
    assert len(heard) == 1  # under TLS it did not come that far
    assert heard[0][:1] == b"\x16"
    assert b"localhost" not in heard[0]  # nor is a name of a host in the first bytes, which travel in clear
    assert b"name-a" not in heard[0]


@pytest.mark.parametrize("secured", [True, False], ids=["tls", "open"])
@pytest.mark.parametrize("words", [b"", b"S"], ids=["idle", "one byte"])
async def test_500_sockets(secured: bool, words: bytes, ours: Authority) -> None:
    async with home(ours if secured else None, Limits(hello_s=1.0)) as here:
        await here.is_open()
        gc.collect()
        fds = psutil.Process().num_fds()
        tracemalloc.start()
        try:
            strangers = []
            for n in range(500):
                strangers.append(await Stranger.come(here))
                await strangers[-1].say(words)
                if n % 100 == 0:
                    await here.is_open()
            assert psutil.Process().num_fds() - fds <= 500 + Limits().strangers + 8
            await here.is_open()
            assert all(await asyncio.gather(*(stranger.is_sent_away() for stranger in strangers)))
            assert {stranger.received for stranger in strangers} == {b""}
            for stranger in strangers:
                await stranger.leave()
            strangers.clear()
            del stranger
            await here.is_open()
            await until(lambda: psutil.Process().num_fds() <= fds)
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] < 2 * 1024 * 1024
        finally:
            tracemalloc.stop()


async def test_an_address_has_four_and_a_crowd_makes_room_for_others() -> None:
    doorstep, turned_away = Doorstep(Limits(hello_s=60, strangers=8)), list[str]()

    async def stand(who: str) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            turned_away.append(who)
            raise

    async def come(host: str, *whos: str) -> None:
        for who in whos:
            doorstep.welcome(stand(who), host)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    await come("10.0.0.1", "a1", "a2", "a3", "a4")
    assert turned_away == []
    await come("10.0.0.1", "a5")
    assert turned_away == ["a1"]
    await come("fe80::1%eth0", "b1")
    await come("10.0.0.3", "c1", "c2", "c3")
    assert turned_away == ["a1"]
    await come("10.0.0.4", "d1", "d2")  # it is full: whoever has most loses its oldest
    assert turned_away == ["a1", "a2", "a3"]
    await doorstep.aclose()
    assert sorted(turned_away[3:]) == ["a4", "a5", "b1", "c1", "c2", "c3", "d1", "d2"]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(8):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def relay(there: Address, said: list[bytes]) -> AsyncIterator[Address]:
    """Stands between, and remembers what whoever dials says."""
    tasks = set[asyncio.Task[None]]()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                heard.append(data)
                writer.write(data)
        writer.close()

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner = await asyncio.open_connection(there.host, there.port)
        tasks.add(asyncio.create_task(pump(inner[0], writer, [])))
        await pump(reader, inner[1], said)

    server = await asyncio.start_server(between, "127.0.0.1", 0)
    async with server:
        yield Address(*server.sockets[0].getsockname())
    await asyncio.gather(*tasks)
