"""Real mDNS, on loopback and between network namespaces: who finds whom, and what a record gives away."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from zeroconf import IPVersion, ServiceInfo, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

import swarm
from swarm import discovery
from swarm.discovery import SERVICE, Announcement, Discovery, look_around, read_record
from swarm.mdns import Record
from swarm.transport.base import PROTOCOL
from swarm.types import Address, PeerId
from tests.lab import Lab

LOOPBACK = ["127.0.0.1"]


RUN = f"{os.getpid():016x}"


def an_id(number: int) -> PeerId:
    """Of this run: others may go on beside it, on the same loopback."""
    return PeerId(f"{RUN}{number:016x}")


class Found(dict[PeerId, tuple[Address, ...]]):
    def add(self, peer_id: PeerId, addresses: tuple[Address, ...]) -> None:
        if peer_id.startswith(RUN):
            self[peer_id] = addresses


def on_loopback(number: int, found: Found, **options: Any) -> Discovery:
    return Discovery(an_id(number), 4700 + number, LOOPBACK, interfaces=LOOPBACK, on_found=found.add, **options)


async def until(true: Callable[[], bool], timeout_s: float = 6.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():
            await asyncio.sleep(0.01)


@pytest.fixture
async def observer() -> AsyncIterator[AsyncZeroconf]:
    """Somebody else on the same network, who sees and says what he likes."""
    async with AsyncZeroconf(interfaces=LOOPBACK, ip_version=IPVersion.V4Only) as other:
        yield other


async def test_two_find_one_another_and_a_late_joiner_finds_them_at_once() -> None:
    first, second, late = Found(), Found(), Found()
    async with on_loopback(1, first), on_loopback(2, second):
        await until(lambda: an_id(2) in first and an_id(1) in second)
        assert first[an_id(2)] == (Address("127.0.0.1", 4702),)
        await asyncio.sleep(1.2)
        async with on_loopback(3, late):
            await until(lambda: {an_id(1), an_id(2)} <= late.keys(), timeout_s=0.9)
    for number, found in enumerate((first, second, late), 1):
        assert an_id(number) not in found, "oneself is not news"


async def test_records_reveal_an_opaque_id_and_where_it_listens(observer: AsyncZeroconf) -> None:
    async with on_loopback(5, Found(), tag="0123abcd"):
        info = AsyncServiceInfo(SERVICE, f"{an_id(5)}.{SERVICE}")
        await asyncio.sleep(1.0)
        assert await info.async_request(observer.zeroconf, 3000)
        await asyncio.sleep(0.3)
        said = [
            repr(record)
            for name in observer.zeroconf.cache.names()
            for record in observer.zeroconf.cache.entries_with_name(name)
        ]
    assert info.text == b"\x09txtvers=1" + b"\x23id=" + an_id(5).encode() + b"\x03v=%d" % PROTOCOL + b"\x0as=0123abcd"
    assert info.server == f"{an_id(5)}.local."
    assert info.port == 4705
    assert info.parsed_addresses() == LOOPBACK
    secrets = {socket.gethostname(), platform.node(), os.environ.get("USER", "root")} - {"", "localhost"}
    assert not [line for line in said if any(secret.lower() in line.lower() for secret in secrets)]


async def test_a_clean_leave_withdraws_the_record(observer: AsyncZeroconf) -> None:
    events: dict[str, float] = {}

    def heard(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if name.startswith(an_id(6)):
            events[state_change.name] = time.monotonic()

    AsyncServiceBrowser(observer.zeroconf, SERVICE, handlers=[heard])
    async with on_loopback(6, Found()):
        await until(lambda: "Added" in events)
        leaving = time.monotonic()
    assert time.monotonic() - leaving < 1.0
    await until(lambda: "Removed" in events, timeout_s=2.0)


async def test_leaving_before_the_record_is_out_is_quick() -> None:
    start = time.monotonic()
    async with on_loopback(7, Found()):
        pass
    assert time.monotonic() - start < 1.0


async def test_hostile_records_are_ignored(observer: AsyncZeroconf) -> None:
    found = Found()
    good = {"txtvers": "1", "id": an_id(99), "v": str(PROTOCOL), "o": "1"}
    lies: list[tuple[str, Mapping[str, str | None], list[str]]] = [
        ("no id", {"txtvers": "1", "v": str(PROTOCOL)}, LOOPBACK),
        ("a bad id", {**good, "id": f"{RUN}/../../passwd"}, LOOPBACK),
        ("a long id", {**good, "id": RUN + "a" * 200}, LOOPBACK),
        ("an empty id", {**good, "id": None}, LOOPBACK),
        ("another version", {**good, "v": "999"}, LOOPBACK),
        ("no swarm", {**good, "o": "2"}, LOOPBACK),
        ("an open swarm with a tag", {**good, "s": "01234567"}, LOOPBACK),
        ("a bad tag", {**good, "s": "0123456g"}, LOOPBACK),
        ("too many places", good, [f"10.1.1.{i}" for i in range(40)]),
        ("multicast", good, ["224.0.0.251", "255.255.255.255", "0.0.0.0"]),
        ("this peer itself", {**good, "id": an_id(8)}, ["10.6.6.6"]),
    ]
    async with on_loopback(8, found):
        for number, (name, properties, addresses) in enumerate(lies):
            lie = ServiceInfo(
                SERVICE,
                f"{name} {os.getpid()}.{SERVICE}",
                4711,
                properties=dict(properties),
                server=f"liar{number}-{os.getpid()}.local.",
                parsed_addresses=addresses,
            )
            await observer.async_register_service(lie, cooperating_responders=True)
        async with on_loopback(9, Found()):
            await until(lambda: an_id(9) in found)
            await asyncio.sleep(0.3)
    assert set(found) == {an_id(9)}


@pytest.mark.parametrize("kind", [b"_edge-swarm", b"_EDGE-swarm"])
async def test_names_that_can_be_heard_and_not_be_said_are_nobodys(
    kind: bytes, observer: AsyncZeroconf, caplog: pytest.LogCaptureFixture
) -> None:
    """Bytes that are no UTF-8 grow when they are read: zeroconf takes in such a name, and fails whenever it says it."""
    found, late = Found(), Found()
    service, rubbish = (b"_edge-swarm", b"_tcp", b"local"), b"\xff" * 63
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as liar:
        liar.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))

        def say(packet: bytes) -> None:
            liar.sendto(packet, ("224.0.0.251", 5353))

        async with on_loopback(30, found):
            async with on_loopback(32, Found()):
                await until(lambda: an_id(32) in found)
            pointer = dns_name(rubbish, *service)
            host = b"\0" * 4 + (4711).to_bytes(2) + dns_name(rubbish, b"local")
            say(dns_answer((kind, *service[1:]), 12, pointer))
            say(dns_answer((kind, *service[1:]), 12, dns_name(b"liar", *service)))
            say(dns_answer((b"liar", *service), 33, host))
            say(dns_question((rubbish, b"local"), service))  # from another port: whoever answers repeats it
            await asyncio.sleep(2.5)  # time for a question that tells what is known already
            async with on_loopback(31, late):
                await until(lambda: an_id(31) in found and an_id(30) in late)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def dns_name(*labels: bytes) -> bytes:
    return b"".join(len(label).to_bytes(1) + label for label in labels) + b"\0"


def dns_answer(name: tuple[bytes, ...], kind: int, content: bytes) -> bytes:
    head = struct.pack(">6H", 0, 0x8400, 0, 1, 0, 0) + dns_name(*name)
    return head + struct.pack(">HHIH", kind, 1, 4500, len(content)) + content


def dns_question(*names: tuple[bytes, ...]) -> bytes:
    asked = b"".join(dns_name(*name) + struct.pack(">HH", 12, 1) for name in names)
    return struct.pack(">6H", 7, 0, len(names), 0, 0, 0) + asked


def test_what_a_record_may_say() -> None:
    good: dict[bytes, bytes | None] = {b"txtvers": b"1", b"id": an_id(1).encode(), b"v": b"%d" % PROTOCOL}
    ours = {**good, b"s": b"89abcdef"}

    def read(
        properties: dict[bytes, bytes | None], port: int | None, *hosts: str, loopback: bool = False
    ) -> Announcement | None:
        return read_record(Record("name", properties, port, hosts), loopback=loopback)

    there = (Address("10.0.0.1", 1),)
    assert read(ours, 1, "10.0.0.1", "10.0.0.1") == Announcement(an_id(1), there, "89abcdef")
    assert read({**good, b"o": b"1"}, 1, "127.0.0.1", "10.0.0.1") == Announcement(an_id(1), there, None)
    assert read(ours, 1, "127.0.0.1") is None
    here = read(ours, 1, "127.0.0.1", loopback=True)
    assert here is not None
    assert here.addresses == (Address("127.0.0.1", 1),)
    assert read(ours, None, "10.0.0.1") is None
    assert read(ours, 0, "10.0.0.1") is None
    assert read(good, 1, "10.0.0.1") is None
    assert read({**ours, b"o": b"1"}, 1, "10.0.0.1") is None
    assert read({**ours, b"s": b"89ABCDEF"}, 1, "10.0.0.1") is None
    assert read({**ours, b"id": an_id(1).encode().upper() + b"\xff"}, 1, "10.0.0.1") is None
    assert read({}, 1, "10.0.0.1") is None


async def test_peers_of_another_swarm_are_counted_and_left_alone() -> None:
    ours, theirs = Found(), Found()
    async with on_loopback(30, ours, tag="aaaaaaaa") as here:
        async with on_loopback(31, theirs, tag="bbbbbbbb") as there, on_loopback(32, Found()):
            await until(lambda: {an_id(31), an_id(32)} <= here.strangers and an_id(30) in there.strangers)
            async with on_loopback(33, Found(), tag="aaaaaaaa"):
                await until(lambda: an_id(33) in ours)
            assert set(ours) == {an_id(33)}
            assert theirs == {}
        await until(lambda: not {an_id(31), an_id(32)} & here.strangers, timeout_s=3)


async def test_a_device_that_joins_no_swarm_can_look_around() -> None:
    async with on_loopback(34, Found(), tag="cccccccc"):
        seen = await look_around(LOOPBACK, 4)
    assert Announcement(an_id(34), (Address("127.0.0.1", 4734),), "cccccccc") in seen


async def test_a_twin_is_noticed_and_this_peers_own_record_is_none() -> None:
    """Two that announce one id: a configuration that was copied."""
    one: list[tuple[Address, ...]] = []
    two: list[tuple[Address, ...]] = []

    def peer(port: int, told: list[tuple[Address, ...]]) -> Discovery:
        return Discovery(
            an_id(35), port, LOOPBACK, interfaces=LOOPBACK, on_found=Found().add, tag="dddddddd", on_twin=told.append
        )

    async with peer(4801, one):
        await asyncio.sleep(1.5)
        assert one == []
        async with peer(4802, two):
            await until(lambda: bool(one) and bool(two))
    assert one == [(Address("127.0.0.1", 4802),)]
    assert two == [(Address("127.0.0.1", 4801),)]


async def test_without_multicast_the_peer_hears_why_and_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    problems: list[str] = []
    nowhere = ["203.0.113.9"]
    async with Discovery(
        an_id(10), 4710, nowhere, interfaces=nowhere, on_found=Found().add, on_problem=problems.append
    ):
        await until(lambda: bool(problems))
    assert len(problems) == 1
    assert "--peer" in problems[0]
    assert "203.0.113.9" in problems[0]


async def test_an_error_of_the_body_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with on_loopback(12, Found()):
            raise ZeroDivisionError


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a second loopback address")
async def test_it_follows_the_addresses_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[list[str]] = []
    found = Found()
    monkeypatch.setattr(discovery, "FOLLOW_S", 0.05)
    monkeypatch.setattr(discovery, "lan_addresses", lambda: ["127.0.0.2"])
    async with (
        on_loopback(13, found),
        Discovery(an_id(11), 4711, LOOPBACK, on_found=Found().add, on_moved=moved.append),
    ):
        await until(lambda: found.get(an_id(11)) == (Address("127.0.0.2", 4711),))
    assert moved == [["127.0.0.2"]]


def test_importing_it_does_not_load_zeroconf() -> None:
    code = "import sys, swarm.discovery; print('zeroconf' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=with_swarm(), timeout=30)
    assert done.stdout.strip() == "False", done.stderr


def with_swarm() -> dict[str, str]:
    """An environment in which a subprocess imports the same `swarm` as this test, installed or not."""
    return {**os.environ, "PYTHONPATH": str(Path(swarm.__file__).parent.parent)}


ON_A_DEVICE = """
import asyncio, sys
from swarm.discovery import Discovery
from swarm.interfaces import lan_addresses

async def main(peer_id: str) -> None:
    found, all_found = set(), asyncio.Event()

    def on_found(other, addresses):
        found.add((other, str(addresses[0])))
        if len(found) == 2:
            all_found.set()

    async with asyncio.timeout(8):
        async with Discovery(peer_id, 4747, lan_addresses(), on_found=on_found):
            await all_found.wait()
            print(*sorted(f"{other}={where}" for other, where in found), flush=True)
            await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main(sys.argv[1]))
"""


def test_three_devices_on_a_lan_find_one_another() -> None:
    with Lab(3) as lab:
        running = [
            lab.popen(
                device,
                [sys.executable, "-c", ON_A_DEVICE, an_id(20 + device)],
                env=with_swarm(),
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for device in range(3)
        ]
        lines = [process.stdout.readline() for process in running if process.stdout is not None]
        for process in running:
            process.communicate("\n", timeout=5)
        assert [process.returncode for process in running] == [0, 0, 0]
    for device in range(3):
        others = [f"{an_id(20 + i)}={lab.address(i)}:4747" for i in range(3) if i != device]
        assert lines[device].split() == others
