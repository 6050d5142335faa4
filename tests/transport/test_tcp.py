"""The contract over TCP, with TLS and without; and what only sockets can do wrong."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
from hashlib import sha256
from pathlib import Path

import msgpack
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from swarm.errors import PeerLost, PeerUnreachable, SwarmError
from swarm.transport import Channel, Limits, Router, TcpTransport
from swarm.transport.base import OnTwin
from swarm.types import Address, PeerId
from swarm.wire import Frame, Kind, encode
from tests.transport.contract import ALICE, ANYWHERE, BOB, Deed, TransportContract, hello, nobody


class TestTcp(TransportContract):
    def transport(self, limits: Limits, on_twin: OnTwin | None = None) -> TcpTransport:
        return TcpTransport(limits=limits, on_twin=on_twin)


class Authority:
    """A certificate authority with one certificate, which both sides use."""

    def __init__(self, folder: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "swarm test")])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .sign(self._key, hashes.SHA256())
        )
        self._file = folder / f"{certificate.serial_number}.pem"
        self._file.write_bytes(
            self._key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )

    def context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self._file)
        context.load_verify_locations(self._file)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        return self.context(ssl.PROTOCOL_TLS_SERVER), self.context(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


class TestTls(TransportContract):
    @pytest.fixture(autouse=True)
    def _contexts(self, authority: Authority) -> None:
        self.contexts = authority.contexts()

    def transport(self, limits: Limits, on_twin: OnTwin | None = None) -> TcpTransport:
        return TcpTransport(*self.contexts, limits=limits, on_twin=on_twin)

    async def test_strangers_are_refused(self, tmp_path: Path) -> None:
        async with self.listening(self.transport(Limits()), Router(), nobody) as listener:
            foreign = TcpTransport(*Authority(tmp_path).contexts())
            without = self.contexts[1]
            for stranger in (foreign, TcpTransport()):
                with pytest.raises(PeerUnreachable):
                    await stranger.dial(listener.addresses[0], hello(ALICE), Router(), timeout_s=5)
            assert without.verify_mode is ssl.CERT_REQUIRED

    async def test_an_id_is_bound_to_its_certificate(self) -> None:
        def identify(certificate: bytes) -> PeerId:
            return PeerId(sha256(certificate).hexdigest()[:32])

        own = identify(ssl.PEM_cert_to_DER_cert(_certificate(self.contexts[0])))
        transport = TcpTransport(*self.contexts, identify=identify)
        async with self.listening(transport, Router(), nobody, hello(own)) as listener:
            with pytest.raises(PeerUnreachable, match="certificate belongs to another"):
                await transport.dial(listener.addresses[0], hello(ALICE), Router(), timeout_s=5)
        arrived: asyncio.Queue[Channel] = asyncio.Queue()
        async with self.listening(TcpTransport(*self.contexts), Router(), arrived.put_nowait, hello(own)) as listener:
            here = await transport.dial(listener.addresses[0], hello(ALICE), Router(), timeout_s=5)
            await here.aclose()
            await (await arrived.get()).aclose()


def _certificate(context: ssl.SSLContext) -> str:
    return ssl.DER_cert_to_PEM_cert(context.get_ca_certs(binary_form=True)[0])


class Raw:
    """A stranger with a bare socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def dial(cls, address: Address, words: bytes = b"") -> Raw:
        """Say `words`; whoever says nothing may be held back by the kernel for a while."""
        raw = cls(*await asyncio.open_connection(address.host, address.port))
        raw.writer.write(words)
        return raw

    def say_hello(self, peer: PeerId = ALICE) -> None:
        fields = {"protocol": 1, "id": peer, "name": "raw", "purpose": "control"}
        self.writer.write(encode(Frame(Kind.HELLO, fields=fields))[0])

    async def is_hung_up_on(self) -> bool:
        """Read until the other side closes; False when it still has not after a while."""
        try:
            await asyncio.wait_for(self.reader.read(), 5)
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True

    async def aclose(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


_PING = bytes(encode(Frame(Kind.PING, 1))[0])

NONSENSE = {
    "http": b"GET / HTTP/1.1\r\nHost: swarm\r\n\r\n",
    "zeros": bytes(100),
    "huge header": b"SWM\x01" + b"\xff" * 12,
    "not msgpack": b"SWM\x01" + (3).to_bytes(4, "big") + bytes(8) + b"\xc1\xc1\xc1",
    "wrong fields": b"SWM\x01" + (1).to_bytes(4, "big") + bytes(8) + msgpack.packb([]),
    "second hello": bytes(encode(Frame(Kind.HELLO, fields={"protocol": 1}))[0]),
    "body with a ping": _PING[:8] + (9).to_bytes(8, "big") + _PING[16:] + bytes(9),
}


class TestNonsense:
    """Bytes that make no sense end their own connection and no other."""

    @pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE.keys())
    @pytest.mark.parametrize("acquainted", [False, True], ids=["first", "after hello"])
    async def test_it_kills_only_its_own_connection(self, nonsense: bytes, acquainted: bool) -> None:
        bob, arrived = Deed(), asyncio.Queue[Channel]()
        transport = TcpTransport()
        listener = await transport.listen([ANYWHERE], hello(BOB), bob.router, arrived.put_nowait)
        honest = await transport.dial(listener.addresses[0], hello(PeerId("c" * 32)), Router(), timeout_s=5)
        raw = await Raw.dial(listener.addresses[0])
        try:
            if acquainted:
                raw.say_hello()
            raw.writer.write(nonsense)
            assert await raw.is_hung_up_on()
            assert (await honest.request("echo", {"n": 1}, timeout_s=5)).fields == {"n": 1}
        finally:
            await raw.aclose()
            await honest.aclose()
            await listener.aclose()
            while not arrived.empty():
                await arrived.get_nowait().aclose()

    async def test_dialling_what_is_no_peer(self) -> None:
        async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(web, "127.0.0.1", 0)
        async with server:
            address = Address(*server.sockets[0].getsockname())
            with pytest.raises(PeerUnreachable, match="not a swarm peer"):
                await TcpTransport().dial(address, hello(ALICE), Router(), timeout_s=5)


class TestStrangers:
    async def test_whoever_says_nothing_is_dropped(self) -> None:
        listener = await TcpTransport(limits=Limits(hello_s=0.05)).listen([ANYWHERE], hello(BOB), Router(), nobody)
        raw = await Raw.dial(listener.addresses[0])
        assert await raw.is_hung_up_on()
        await raw.aclose()
        await listener.aclose()

    async def test_only_so_many_at_once(self) -> None:
        arrived: asyncio.Queue[Channel] = asyncio.Queue()
        transport = TcpTransport(limits=Limits(hello_s=60, strangers=3))
        listener = await transport.listen([ANYWHERE], hello(BOB), Router(), arrived.put_nowait)
        idle = [await Raw.dial(listener.addresses[0], b"S") for _ in range(4)]
        assert await idle[0].is_hung_up_on()
        for _ in range(3):  # and however many stand there, whoever says hello comes in
            honest = await transport.dial(listener.addresses[0], hello(ALICE), Router(), timeout_s=5)
            await honest.aclose()
            await (await arrived.get()).aclose()
        for raw in idle:
            await raw.aclose()
        await listener.aclose()

    async def test_closing_the_door_sends_strangers_away(self) -> None:
        listener = await TcpTransport().listen([ANYWHERE], hello(BOB), Router(), nobody)
        raw = await Raw.dial(listener.addresses[0], b"S")
        await asyncio.sleep(0.05)
        await listener.aclose()
        assert await raw.is_hung_up_on()
        await raw.aclose()

    async def test_a_stranger_may_not_be_lengthy(self) -> None:
        listener = await TcpTransport().listen([ANYWHERE], hello(BOB), Router(), nobody)
        raw = await Raw.dial(listener.addresses[0])
        raw.writer.write(encode(Frame(Kind.HELLO, fields={"protocol": 1, "more": "x" * 5000}))[0])
        assert await raw.is_hung_up_on()
        await raw.aclose()
        await listener.aclose()


class TestSockets:
    async def test_ipv6(self) -> None:
        if not socket.has_ipv6:
            pytest.skip("no IPv6 here")
        arrived: asyncio.Queue[Channel] = asyncio.Queue()
        transport = TcpTransport()
        try:
            listener = await transport.listen([ANYWHERE, Address("::1", 0)], hello(BOB), Router(), arrived.put_nowait)
        except SwarmError:
            pytest.skip("no IPv6 here")
        assert listener.addresses[0].port == listener.addresses[1].port
        here = await transport.dial(listener.addresses[1], hello(ALICE), Router(), timeout_s=5)
        await here.aclose()
        await (await arrived.get()).aclose()
        await listener.aclose()

    async def test_an_address_of_another_machine(self) -> None:
        with pytest.raises(SwarmError, match="is not possible"):
            await TcpTransport().listen([Address("192.0.2.1", 0)], hello(BOB), Router(), nobody)

    async def test_a_killed_connection_names_the_peer(self) -> None:
        bob, arrived = Deed(), asyncio.Queue[Channel]()
        transport = TcpTransport()
        listener = await transport.listen([ANYWHERE], hello(BOB), bob.router, arrived.put_nowait)
        raw = await Raw.dial(listener.addresses[0])
        raw.say_hello()
        channel = await arrived.get()
        asking = asyncio.create_task(channel.request("anything", {}, timeout_s=60))
        await asyncio.sleep(0)
        raw.writer.transport.abort()
        with pytest.raises(PeerLost, match="'raw'"):
            await asking
        await channel.wait_closed()
        await raw.aclose()
        await listener.aclose()
