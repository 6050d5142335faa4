"""One secret makes one swarm; whoever comes with anything else gets nothing."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from swarm import trust
from swarm.errors import BadInput, PeerUnreachable
from swarm.refusal import explain
from swarm.secret import PREFIX, SECRET_BYTES, Secret
from swarm.transport import PROTOCOL, Call, Channel, Hello, Reply, Router, TcpTransport
from swarm.trust import Authority, Credentials, ephemeral, identify, new_key
from swarm.types import Address, PeerId
from swarm.wire import Frame, Kind, encode

SECRET = Secret(bytes(range(32)))
ANYWHERE = Address("127.0.0.1", 0)
HOST, GUEST, STRANGER = ephemeral(SECRET), ephemeral(SECRET), ephemeral(Secret.new())
PROMISES = {"profile": "an attic full of GPUs"}


# The secret as text


@given(st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES))
def test_a_secret_is_read_as_it_was_written(raw: bytes) -> None:
    text = Secret(raw).reveal()
    assert Secret.parse(f"  {text.upper()}\n") == Secret(raw)
    assert text.isascii()
    assert text.isprintable()


@given(st.text(max_size=80) | st.text(max_size=80).map(PREFIX.__add__))
def test_anything_else_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(BadInput) as refused:
        Secret.parse(text, "The file")
    assert str(refused.value).startswith("The file ")
    assert len(text.strip()) < 8 or text.strip() not in str(refused.value)


@given(st.integers(len(PREFIX), len(SECRET.reveal()) - 1), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_one_mistyped_letter_is_noticed(place: int, letter: str) -> None:
    text = SECRET.reveal()
    other = text[:place] + letter + text[place + 1 :]
    if other != text:
        with pytest.raises(BadInput, match="mistyped"):
            Secret.parse(other)


def test_a_secret_does_not_show_itself() -> None:
    shown = f"{SECRET} {SECRET!r} {ephemeral(SECRET)!r} {Authority(SECRET)!r}"
    assert SECRET.reveal() not in shown
    assert SECRET.raw().hex() not in shown
    assert repr(SECRET.raw()) not in shown


def test_keys_for_different_purposes_differ() -> None:
    assert SECRET.derive(b"a") == SECRET.derive(b"a") != SECRET.derive(b"b")
    assert SECRET.derive(b"a") != Secret.new().derive(b"a")


# Certificates


def test_the_ca_is_byte_for_byte_the_same_in_every_process() -> None:
    code = (
        "import sys; from swarm.secret import Secret; from swarm.trust import Authority\n"
        "from cryptography.hazmat.primitives.serialization import Encoding\n"
        "print(Authority(Secret.parse(sys.argv[1])).certificate.public_bytes(Encoding.DER).hex())"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, SECRET.reveal()], capture_output=True, text=True)
    assert done.stdout.strip() == Authority(SECRET).certificate.public_bytes(Encoding.DER).hex(), done.stderr
    assert Authority(SECRET).tag != Authority(Secret.new()).tag


def test_a_leaf_says_nothing_of_its_device_and_is_an_id() -> None:
    authority, key = Authority(SECRET), new_key()
    leaf = authority.issue(key.public_key())
    der = leaf.public_bytes(Encoding.DER)
    assert identify(der) == sha256(der).hexdigest()[:32]
    assert leaf.subject.rfc4514_string() == "CN=swarm peer"
    assert authority.has_issued(leaf)
    assert not Authority(Secret.new()).has_issued(leaf)
    with pytest.raises(x509.ExtensionNotFound):
        leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_nothing_heavy_is_loaded_before_it_is_needed() -> None:
    code = "import sys, swarm.trust, swarm.secret, swarm.pairing; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


# Who gets in


class Swarm:
    """One peer that listens and tells its profile to whoever may ask."""

    def __init__(self, mine: Credentials) -> None:
        self.mine = mine
        self.router = Router()
        self.router.add("profile", self._tell)
        self.asked = 0
        self.channels: list[Channel] = []
        self.address = ANYWHERE

    def _tell(self, channel: Channel, call: Call) -> Reply:
        self.asked += 1
        return Reply(PROMISES)

    @asynccontextmanager
    async def listening(self, transport: TcpTransport | None = None) -> AsyncIterator[Swarm]:
        transport = transport or transport_of(self.mine)
        listener = await transport.listen([ANYWHERE], hello(self.mine.id), self.router, self.channels.append)
        self.address = listener.addresses[0]
        try:
            yield self
        finally:
            for channel in self.channels:
                await channel.aclose()
            await listener.aclose()


def hello(peer: PeerId, name: str = "host") -> Hello:
    return Hello(PROTOCOL, peer, name, "control")


def transport_of(mine: Credentials) -> TcpTransport:
    return TcpTransport(mine.server, mine.client, identify=identify)


async def ask(mine: Credentials, address: Address) -> Reply:
    channel = await transport_of(mine).dial(address, hello(mine.id, "guest"), Router(), timeout_s=5)
    try:
        return await channel.request("profile", {}, timeout_s=5)
    finally:
        await channel.aclose()


async def test_two_devices_with_one_secret_talk() -> None:
    async with Swarm(HOST).listening() as host:
        assert (await ask(GUEST, host.address)).fields == PROMISES
        assert host.channels[0].remote.name == "guest"


async def test_two_devices_with_different_secrets_never_see_each_others_profiles() -> None:
    async with Swarm(HOST).listening() as host, Swarm(STRANGER).listening() as other:
        for stranger, address in ((other.mine, host.address), (host.mine, other.address)):
            with pytest.raises(PeerUnreachable):
                await ask(stranger, address)
        assert (host.asked, other.asked) == (0, 0)
        assert host.channels == other.channels == []


async def test_a_peer_cannot_be_another_one() -> None:
    async with Swarm(HOST).listening() as host:
        liar = GUEST
        with pytest.raises(PeerUnreachable):
            await transport_of(liar).dial(host.address, hello(STRANGER.id), Router(), timeout_s=5)
        assert host.channels == []


def with_leaf(
    valid: tuple[dt.datetime, dt.datetime] = trust.VALID, issuer: Authority | None = None, secret: Secret = SECRET
) -> Credentials:
    authority, key = Authority(secret), new_key()
    return trust.credentials(authority, key, (issuer or authority).issue(key.public_key(), valid))


def years(first: int, last: int) -> tuple[dt.datetime, dt.datetime]:
    return dt.datetime(first, 1, 1, tzinfo=dt.UTC), dt.datetime(last, 1, 1, tzinfo=dt.UTC)


def bare() -> ssl.SSLContext:
    """A client that takes any server, and has no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def no_certificate() -> ssl.SSLContext:
    return bare()


def another_swarms_certificate() -> ssl.SSLContext:
    context = ephemeral(Secret.new()).client
    context.verify_mode = ssl.CERT_NONE
    return context


def an_expired_leaf() -> ssl.SSLContext:
    return with_leaf(years(2020, 2024)).client


def a_leaf_of_the_future() -> ssl.SSLContext:
    return with_leaf(years(2119, 2120)).client


def a_leaf_made_by_another_ca() -> ssl.SSLContext:
    context = with_leaf(issuer=Authority(Secret.new())).client
    context.verify_mode = ssl.CERT_NONE
    return context


def tls_1_2() -> ssl.SSLContext:
    context = ephemeral(SECRET).client
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def plain_text() -> None:
    return None


@pytest.mark.may_block("contexts read a file")
@pytest.mark.parametrize(
    "stranger",
    [
        no_certificate,
        another_swarms_certificate,
        an_expired_leaf,
        a_leaf_of_the_future,
        a_leaf_made_by_another_ca,
        tls_1_2,
        plain_text,
    ],
)
async def test_a_stranger_gets_nothing(stranger: Callable[[], ssl.SSLContext | None]) -> None:
    """Not one byte of the protocol: the client may think that the handshake went well, and then hears the alert."""
    context = stranger()
    async with Swarm(HOST).listening() as host:
        got = await whatever_comes(host.address, context)
        assert got == b"" or context is None, "only TLS itself may answer"
        assert b"attic" not in got
        assert host.channels == []
        assert host.asked == 0
        assert (await ask(GUEST, host.address)).fields == PROMISES, "and nobody else is disturbed"


async def whatever_comes(address: Address, context: ssl.SSLContext | None) -> bytes:
    """All that a server says to one that says hello, until it hangs up."""
    got = b""
    with contextlib.suppress(OSError):
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(
                address.host, address.port, ssl=context, server_hostname=None if context is None else ""
            )
            try:
                fields = {"protocol": PROTOCOL, "id": "0" * 32, "name": "x", "purpose": "control"}
                writer.write(encode(Frame(Kind.HELLO, fields=fields))[0])
                while data := await reader.read(4096):
                    got += data
            finally:
                writer.transport.abort()
    return got


@pytest.mark.may_block("a context reads a file")
async def test_a_leaf_cannot_issue_others(tmp_path: Path) -> None:
    """A certificate that a peer signs with its own key is none."""
    authority, key, deputy = Authority(SECRET), new_key(), Authority(SECRET)
    middle = authority.issue(key.public_key())
    deputy._key = key
    end_key = new_key()
    end = deputy.issue(end_key.public_key())
    file = tmp_path / "chain.pem"
    file.write_bytes(trust.to_pem(end_key, end) + middle.public_bytes(Encoding.PEM))
    client = bare()
    client.load_cert_chain(file)
    async with Swarm(HOST).listening() as host:
        assert await whatever_comes(host.address, client) == b""
        assert host.channels == []


async def test_a_recorded_hello_opens_nothing() -> None:
    """TLS 1.3 without tickets: what somebody recorded is of no use the next time."""
    async with Swarm(HOST).listening() as host:
        async with Relay(host.address) as relay:
            await ask(GUEST, relay.address)
        before = host.asked
        reader, writer = await asyncio.open_connection(host.address.host, host.address.port)
        writer.write(relay.sent)
        with contextlib.suppress(OSError):
            async with asyncio.timeout(5):
                while await reader.read(4096):
                    pass
        writer.transport.abort()
        assert host.asked == before


async def test_there_is_nothing_to_resume() -> None:
    mine = GUEST
    async with Swarm(HOST).listening() as host:
        channel = await transport_of(mine).dial(host.address, hello(mine.id), Router(), timeout_s=5)
        await channel.request("profile", {}, timeout_s=5)
        assert channel._mover is not None
        tls = channel._mover.get_extra_info("ssl_object")
        assert tls.version() == "TLSv1.3"
        assert not tls.session_reused
        assert tls.session is None or not tls.session.has_ticket
        await channel.aclose()


async def test_a_capture_shows_no_name_and_no_tensor() -> None:
    """Dialled by the device's name, as people do."""
    mine = GUEST
    async with Swarm(HOST).listening() as host, Relay(host.address) as relay:
        host.router.add("step", lambda channel, call: Reply(), lambda channel, fields, nbytes: None)
        address = Address("localhost", relay.address.port)
        channel = await transport_of(mine).dial(address, hello(mine.id, "attic-pi"), Router(), timeout_s=5)
        await channel.request("step", {"model": "fashion-vit"}, b"tensor " * 1000, timeout_s=5)
        await channel.aclose()
    captured = relay.sent + relay.received
    assert len(captured) > 7000
    for word in (b"localhost", b"attic-pi", b"fashion-vit", b"tensor ", b"guest", mine.id.encode(), b"swarm"):
        assert word not in captured


class Relay:
    """Somebody between two devices, who writes down what passes."""

    def __init__(self, to: Address) -> None:
        self._to = to
        self.sent = self.received = b""

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.address = Address(*self._server.sockets[0].getsockname()[:2])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(self._to.host, self._to.port)

        async def pump(
            source: asyncio.StreamReader, sink: asyncio.StreamWriter, record: Callable[[bytes], None]
        ) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    record(data)
                    sink.write(data)
            sink.close()

        def sent(data: bytes) -> None:
            self.sent += data

        def received(data: bytes) -> None:
            self.received += data

        try:
            await asyncio.gather(pump(reader, there_writer, sent), pump(there_reader, writer, received))
        finally:
            there_writer.transport.abort()
            writer.transport.abort()


# Why not, in words


async def refusal_of(client: ssl.SSLContext, address: Address) -> str:
    with pytest.raises(ssl.SSLError) as refused:
        await asyncio.open_connection(address.host, address.port, ssl=client, server_hostname="")
    return explain(refused.value)


async def test_another_swarm_is_told_apart() -> None:
    async with Swarm(STRANGER).listening() as other:
        sentence = await refusal_of(GUEST.client, other.address)
    assert "another swarm" in sentence
    assert "swarm invite" in sentence


@pytest.mark.parametrize(("valid", "words"), [((2020, 2024), "not valid any more"), ((2119, 2120), "not valid yet")])
async def test_a_wrong_clock_is_told(valid: tuple[int, int], words: str) -> None:
    theirs = await asyncio.to_thread(with_leaf, years(*valid))
    async with Swarm(theirs).listening() as other:
        sentence = await refusal_of(GUEST.client, other.address)
    assert words in sentence
    assert dt.datetime.now(dt.UTC).date().isoformat() in sentence


async def test_a_program_that_does_not_encrypt_is_told() -> None:
    async def chatter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2p1\r\n" * 20)
        await writer.drain()
        writer.transport.abort()

    server = await asyncio.start_server(chatter, "127.0.0.1", 0)
    async with server:
        sentence = await refusal_of(GUEST.client, Address(*server.sockets[0].getsockname()[:2]))
    assert "--open" in sentence


def alert(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """What a client hears that the server refuses; in memory, for asyncio's servers hang up without the alert."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours, theirs = client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)
    with contextlib.suppress(ssl.SSLWantReadError):
        ours.do_handshake()
    with contextlib.suppress(ssl.SSLWantReadError):
        theirs.do_handshake()
    ours.do_handshake()
    with pytest.raises(ssl.SSLError):
        theirs.do_handshake()
    with pytest.raises(ssl.SSLError) as refused:
        ours.read()
    return explain(refused.value)


def test_what_the_other_side_says_of_this_ones_certificate() -> None:
    assert "another swarm" in alert(HOST.server, another_swarms_certificate())
    assert "clock" in alert(HOST.server, an_expired_leaf())


def test_errors_that_nobody_has_seen_yet_have_a_sentence_too() -> None:
    assert explain(ssl.SSLError(1, "odd")).endswith("?")
    for reason in ("TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "WRONG_VERSION_NUMBER", "SSLV3_ALERT_ODD"):
        error = ssl.SSLError(1, "odd")
        error.reason = reason
        assert len(explain(error)) > 30


@pytest.mark.parametrize("in_memory", [True, False])
def test_no_key_stays_on_disk(in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if not in_memory:
        monkeypatch.setattr(trust, "_memory", lambda: None)
    ephemeral(SECRET)
    assert list(tmp_path.iterdir()) == []


def test_without_room_for_a_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    if sys.platform == "linux":
        ephemeral(SECRET)
    monkeypatch.setattr(trust, "_memory", lambda: None)
    with pytest.raises(BadInput, match="TMPDIR"):
        ephemeral(SECRET)
