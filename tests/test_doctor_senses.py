"""What `swarm doctor` sees with: records, files, echoes and visits, on loopback. The LAN is in `tests/e2e`."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from swarm.doctor import examine
from swarm.doctor.collect import Question, read
from swarm.doctor.echo import echoes, question
from swarm.doctor.machine import listener, machine, trust
from swarm.doctor.visit import Visitor
from swarm.doctor.words import (
    Announced,
    Answer,
    Echo,
    Mode,
    Trust,
)
from swarm.errors import BadInput, Overloaded
from swarm.identity import Keyring
from swarm.mdns import Record
from swarm.secret import Secret
from swarm.transport import PROTOCOL, Channel, Hello, Router, TcpTransport
from swarm.trust import Authority, Credentials, credentials, ephemeral, identify, new_key
from swarm.types import Address, PeerId

PEER = Address("192.168.1.21", 4747)
TAG = "0a1b2c3d"


def an_id(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


def test_what_a_record_of_another_version_says() -> None:
    good = {b"txtvers": b"1", b"id": an_id(5).encode(), b"v": b"99\x1b", b"s": TAG.encode()}
    record = Record("x", good, 4747, ("192.168.1.21",))
    assert read(record) == Announced(an_id(5), (PEER,), TAG, "99\N{REPLACEMENT CHARACTER}")
    assert read(Record("x", good | {b"id": b"../../etc"}, 4747, ("192.168.1.21",))) is None
    assert read(Record("x", good | {b"s": b"secret"}, 4747, ("192.168.1.21",))) is None
    assert read(Record("x", good, 4747, ("127.0.0.1",))) is None


def test_the_signs_of_a_container() -> None:
    assert machine({"container": "podman"}).container == "the variable container=podman"
    assert machine({"SSH_CONNECTION": "1 2 3 4"}).is_remote
    assert machine({}).now.tzinfo is dt.UTC


def test_the_secret_and_the_ids_of_the_keys_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWARM_SECRET", raising=False)
    keyring, secret = Keyring(tmp_path), Secret.new()
    assert trust(keyring, None, is_open=False) == (Trust(Mode.NONE), None)
    keyring.keep(secret)
    identity = keyring.identity(secret)
    assert identity is not None
    identity.release()
    held, found = trust(keyring, None, is_open=False)
    assert (held.mode, held.tag, found) == (Mode.CLOSED, Authority(secret).tag, secret)
    assert held.own_ids == {identity.credentials.id}
    assert trust(keyring, None, is_open=True)[0].mode is Mode.OPEN
    (tmp_path / "identity" / "0.pem").write_text("torn")
    keyring.secret_file.chmod(0o644)
    held, found = trust(keyring, None, is_open=False)
    assert (held.mode, held.loose, held.own_ids, found) == (
        Mode.UNUSABLE,
        (str(keyring.secret_file),),
        frozenset(),
        None,
    )


def test_the_program_behind_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert "pid" in listener(server.getsockname()[1])


def test_the_question_is_one_dns_packet() -> None:
    packet = question("00ff")
    assert struct.unpack(">6H", packet[:12]) == (0, 0, 2, 0, 0, 0)
    assert packet.count(b"\x05local\x00") == 2
    assert b"\x0bdoctor-00ff\x0b_edge-swarm\x04_tcp" in packet


async def test_an_echo_on_loopback_and_none_where_there_is_no_network() -> None:
    heard, nowhere = await echoes(["127.0.0.1", "192.0.2.77"], ["127.0.0.1"], 0.2)
    assert heard == Echo("127.0.0.1", heard=True, others=heard.others)
    assert not nowhere.heard
    assert nowhere.error


SECRET = Secret.new()
HELLO = Hello(PROTOCOL, an_id(77), "doctor", "tensors")
Years = tuple[int, int]


def issued(secret: Secret, years: Years = (2020, 2120)) -> Credentials:
    authority, key = Authority(secret), new_key()
    begin, end = (dt.datetime(year, 1, 1, tzinfo=dt.UTC) for year in years)
    return credentials(authority, key, authority.issue(key.public_key(), (begin, end)))


def visitor(mine: Credentials | None) -> Visitor:
    stranger = mine or ephemeral(Secret.new())
    return Visitor(replace(HELLO, id=stranger.id), mine.client if mine else None, stranger.client)


@asynccontextmanager
async def listening(theirs: Credentials | None, protocol: int = PROTOCOL) -> AsyncIterator[Address]:
    """A peer's door; a plain one without credentials."""
    transport = TcpTransport(theirs.server, theirs.client, identify=identify) if theirs else TcpTransport()
    hello = Hello(protocol, theirs.id if theirs else an_id(3), "bee", "control")
    channels: list[Channel] = []
    listener = await transport.listen([Address("127.0.0.1", 0)], hello, Router(), channels.append)
    try:
        yield listener.addresses[0]
    finally:
        await listener.aclose()
        for channel in channels:
            channel.abort()
            await channel.wait_closed()


KEYS = pytest.mark.may_block("keys are made and read")


@KEYS
@pytest.mark.parametrize(
    ("mine", "theirs", "answer"),
    [
        (lambda: issued(SECRET), lambda: issued(SECRET), Answer.HELLO),
        (lambda: None, lambda: None, Answer.HELLO),
        (lambda: issued(SECRET), lambda: issued(Secret.new()), Answer.OTHER_SWARM),
        (lambda: issued(SECRET), lambda: issued(SECRET, (2001, 2002)), Answer.CLOCK_HERE),
        (lambda: issued(SECRET), lambda: issued(SECRET, (2090, 2100)), Answer.CLOCK_HERE),
        (lambda: issued(SECRET, (2001, 2002)), lambda: issued(SECRET), Answer.CLOCK_THERE),
        (lambda: issued(SECRET, (2090, 2100)), lambda: issued(SECRET), Answer.CLOCK_THERE),
        (lambda: issued(SECRET), lambda: None, Answer.OPEN_THERE),
        (lambda: None, lambda: issued(SECRET), Answer.SECURED_THERE),
    ],
)
async def test_visits(
    mine: Callable[[], Credentials | None], theirs: Callable[[], Credentials | None], answer: Answer
) -> None:
    async with listening(theirs()) as address:
        visit = await visitor(mine()).visit(address)
    assert visit.answer is answer, visit
    if answer is Answer.HELLO:
        assert visit.name == "bee"
        assert 0 < visit.hello_s < 1


@KEYS
async def test_a_peer_of_another_version_and_one_without_the_key_to_its_id() -> None:
    mine, theirs = issued(SECRET), issued(SECRET)
    async with listening(theirs, PROTOCOL + 1) as address:
        assert (await visitor(mine).visit(address)).answer is Answer.VERSION
    async with listening(replace(theirs, id=an_id(3))) as address:
        visit = await visitor(mine).visit(address)
    assert visit.answer is Answer.NOT_SWARM
    assert "certificate" in visit.detail


async def answering(data: bytes) -> asyncio.Server:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(say, "127.0.0.1", 0)


@KEYS
@pytest.mark.parametrize("data", [b"", b"220 mail.example\r\n", b"SWM\x01" + b"\xff" * 12, b"\x16\x03\x03\xff\xff"])
@pytest.mark.parametrize("is_open", [False, True])
async def test_what_is_no_peer(data: bytes, is_open: bool) -> None:
    async with await answering(data) as server:
        port = server.sockets[0].getsockname()[1]
        visit = await visitor(None if is_open else issued(SECRET)).visit(Address("127.0.0.1", port))
    assert visit.answer is Answer.NOT_SWARM, visit


@KEYS
async def test_a_peer_that_turns_a_visitor_away() -> None:
    from swarm.transport.serving import failure
    from swarm.wire import encode

    refusal = b"".join(encode(failure(0, Overloaded("Too many are at the door."))))
    async with await answering(refusal) as server:
        visit = await visitor(None).visit(Address("127.0.0.1", server.sockets[0].getsockname()[1]))
    assert (visit.answer, visit.detail) == (Answer.TURNED_AWAY, "Too many are at the door.")


@KEYS
async def test_doors_that_do_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.doctor.visit.HELLO_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        assert (await visitor(None).visit(Address(*mute.getsockname()))).answer is Answer.BUSY
        address = Address(*mute.getsockname())
    assert (await visitor(None).visit(address)).answer is Answer.SHUT
    assert (await visitor(None).visit(Address("nobody.invalid", 1))).answer is Answer.NO_NAME
    assert (await visitor(None).visit(Address("no\0body", 1))).answer is Answer.NO_NAME


@KEYS
async def test_a_whole_examination_on_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWARM_SECRET", raising=False)
    keyring = Keyring(tmp_path)
    keyring.keep(SECRET)
    async with listening(issued(SECRET)) as address:
        report = await examine(
            Question(interfaces=["127.0.0.1"], peers=[address], mdns=False, keyring=keyring, port=address.port)
        )
    assert report.is_well
    assert [visit.name for visit in report.seen] == ["bee"]
    with pytest.raises(BadInput, match=r"192\.0\.2\.200"):
        await examine(Question(interfaces=["192.0.2.200"], keyring=keyring))
