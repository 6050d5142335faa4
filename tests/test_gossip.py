"""Peers that gossip over real channels: who learns what of whom, how fast, and what a lost peer looks like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swarm import gossip
from swarm.gossip import Gossip
from swarm.known import read_known, write_known
from swarm.membership import MAX_MESSAGE_BYTES, Membership, encode
from swarm.membership.messages import Changes, News, Tell
from swarm.transport import (
    PROTOCOL,
    Channel,
    Faults,
    FaultyTransport,
    Hello,
    Limits,
    Links,
    MemoryNetwork,
    MemoryTransport,
    Purpose,
    Router,
)
from swarm.types import Address, Door, PeerId, PeerProfile, PeerRecord, PeerState, View

ALIVE, SUSPECT, LEFT, DEAD = PeerState.ALIVE, PeerState.SUSPECT, PeerState.LEFT, PeerState.DEAD
QUICK = Limits(keepalive_s=0.1, silence_s=0.5)


def an_id(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


def place(number: int) -> Address:
    return Address(f"10.0.0.{number}", 4747)


class Device:
    """What a peer's floors look like without the others: listener, links, membership, gossip."""

    def __init__(self, network: MemoryNetwork, number: int, faults: Faults, incarnation: int = 10) -> None:
        self.id = an_id(number)
        self.place = place(number)
        self.network = network
        self.faults = faults
        self.membership = Membership(PeerRecord(self.id, f"peer {number}", (self.place,), incarnation))
        self.router = Router()
        self.transport = FaultyTransport(MemoryTransport(network, limits=QUICK), faults)
        self.links = Links(self.transport, self.hello, self.router, self.addresses_of)
        self.gossip: Gossip
        self.stack = AsyncExitStack()

    def hello(self, purpose: Purpose = "control") -> Hello:
        return Hello(PROTOCOL, self.id, self.membership.me.name, purpose)

    def addresses_of(self, peer_id: PeerId) -> tuple[Address, ...]:
        record = self.membership.view().find(peer_id)
        return record.addresses if record else ()

    async def start(self, seeds: Iterable[Address], known: Path | None) -> None:
        self.stack.push_async_callback(self.links.aclose)
        listener = await self.transport.listen([self.place], self.hello(), self.router, self.links.register)
        self.stack.push_async_callback(listener.aclose)
        self.gossip = Gossip(self.membership, self.links, self.router, seeds=seeds, known=known, knock=self.knock)
        await self.stack.enter_async_context(self.gossip)

    async def knock(self, addresses: Sequence[Address], timeout_s: float) -> Door:
        """What a TCP connection would find out on this network."""
        [where] = addresses
        number = int(where.host.rpartition(".")[2])
        if self.faults.is_blocked(self.id, an_id(number)) or self.faults.is_blocked(an_id(number), self.id):
            await asyncio.sleep(timeout_s)
            return Door.SILENT
        try:
            self.network.door(where)
        except ConnectionRefusedError:
            return Door.SHUT
        return Door.OPEN

    async def kill(self) -> None:
        """As SIGKILL would: no goodbye, and every connection breaks."""
        self.gossip._say_goodbye = _say_nothing  # type: ignore[method-assign]
        for channel in self.links.channels():
            channel.abort()
        await self.stack.aclose()

    def states(self) -> dict[int, PeerState]:
        return {int(p.record.id, 16): p.state for p in self.gossip.view().peers}

    async def until(self, true: Callable[[View], bool], timeout_s: float = 5.0) -> View:
        async with asyncio.timeout(timeout_s), aclosing(self.gossip.changes()) as changes:  # type: ignore[type-var]
            async for view in changes:
                if true(view):
                    return view
        raise AssertionError("left before it came true")

    async def sees(self, expected: dict[int, PeerState], timeout_s: float = 5.0) -> None:
        await self.until(lambda view: {int(p.record.id, 16): p.state for p in view.peers} == expected, timeout_s)


async def _say_nothing() -> None:
    return


class Devices:
    """A LAN in memory."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.network = MemoryNetwork()
        self.faults = Faults()
        self._stack = stack

    async def join(self, number: int, *seeds: int, incarnation: int = 10, known: Path | None = None) -> Device:
        device = Device(self.network, number, self.faults, incarnation)
        self._stack.push_async_callback(device.stack.aclose)
        await device.start([place(seed) for seed in seeds], known)
        return device

    async def three(self) -> list[Device]:
        devices = [await self.join(1), await self.join(2, 1), await self.join(3, 1)]
        for device in devices:
            await device.sees(dict.fromkeys((1, 2, 3), ALIVE))
        return devices


@pytest.fixture
async def lan() -> AsyncIterator[Devices]:
    async with AsyncExitStack() as stack:
        yield Devices(stack)


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_three_converge_through_one_seed(lan: Devices) -> None:
    start = now()
    devices = await lan.three()
    assert now() - start < 1.0
    async with asyncio.timeout(2.0):  # those with the greater id give way at first
        for device in devices:
            while {c.remote.id for c in device.links.channels()} != {d.id for d in devices if d is not device}:
                await asyncio.sleep(0.02)


async def test_ten_who_start_at_once_converge(lan: Devices) -> None:
    start = now()
    devices = await asyncio.gather(*(lan.join(i, 1) for i in range(1, 11)))
    for device in devices:
        await device.sees(dict.fromkeys(range(1, 11), ALIVE))
    assert now() - start < 2.0


async def test_a_late_joiner_learns_all_through_one_seed(lan: Devices) -> None:
    await lan.three()
    late = await lan.join(4, 2)
    await late.sees(dict.fromkeys((1, 2, 3, 4), ALIVE), timeout_s=1.0)
    assert late.states() == dict.fromkeys((1, 2, 3, 4), ALIVE)


async def test_introduced_by_mdns(lan: Devices) -> None:
    one, two = await lan.join(1), await lan.join(2)
    one.gossip.introduce(an_id(2), [place(2)])
    await one.sees({1: ALIVE, 2: ALIVE}, timeout_s=1.0)
    await two.sees({1: ALIVE, 2: ALIVE}, timeout_s=1.0)
    assert one.states() == two.states() == {1: ALIVE, 2: ALIVE}


async def test_an_introduction_to_somebody_else_is_not_believed(lan: Devices) -> None:
    one, _ = await lan.join(1), await lan.join(2)
    one.gossip.introduce(an_id(77), [place(2)])
    await asyncio.sleep(0.3)
    assert one.states() == {1: ALIVE}


async def test_a_changed_profile_spreads_at_once(lan: Devices) -> None:
    one, two, three = await lan.three()
    profile = PeerProfile(device="cuda", flops_per_s={"float32": 1e12})
    two.gossip.update(profile=profile, holds=("a part",))
    start = now()
    for device in (one, three):
        view = await device.until(lambda view: view.find(an_id(2)) == two.membership.me)
        record = view.find(an_id(2))
        assert record is not None
        assert record.profile == profile
    assert now() - start < 0.5


async def test_changes_of_the_membership_beside_gossip_are_noticed(lan: Devices) -> None:
    one, two, _ = await lan.three()
    two.membership.update(now(), holds=("a part",))
    await one.until(lambda view: view.find(an_id(2)) == two.membership.me, timeout_s=0.5)
    record = one.gossip.view().find(an_id(2))
    assert record is not None
    assert record.holds == ("a part",)


async def test_goodbye_is_left_at_once(lan: Devices) -> None:
    one, two, three = await lan.three()
    start = now()
    await three.stack.aclose()
    assert now() - start < 1.0
    for device in (one, two):
        await device.sees({1: ALIVE, 2: ALIVE, 3: LEFT}, timeout_s=0.5)
    await asyncio.sleep(0.5)
    assert one.states()[3] is LEFT, "and it does not refute it"


async def test_a_killed_peer_is_suspect_then_dead(lan: Devices) -> None:
    one, two, three = await lan.three()
    seen: list[PeerState] = []

    def note(view: View) -> bool:
        seen.append(one.states()[3])
        return seen[-1] is DEAD

    watching = asyncio.create_task(one.until(note))
    await asyncio.sleep(0)
    start = now()
    await three.kill()
    await watching
    assert list(dict.fromkeys(seen)) == [ALIVE, SUSPECT, DEAD]
    assert now() - start < 2.0
    await two.sees({1: ALIVE, 2: ALIVE, 3: DEAD}, timeout_s=1.0)


async def test_a_pulled_cable_is_noticed_and_heals(lan: Devices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip, "DIAL_S", 0.2)
    one, two, three = await lan.three()
    for other in (one, two):
        lan.faults.partition(three.id, other.id)
    await one.sees({1: ALIVE, 2: ALIVE, 3: DEAD})
    await three.sees({1: DEAD, 2: DEAD, 3: ALIVE})
    lan.faults.heal()
    for device in (one, two, three):
        await device.sees(dict.fromkeys((1, 2, 3), ALIVE), timeout_s=8.0)
        assert device.states() == dict.fromkeys((1, 2, 3), ALIVE)


async def test_a_broken_connection_alone_kills_nobody(lan: Devices) -> None:
    one, two, three = await lan.three()
    lan.faults.sever(one.id, two.id)
    await one.sees({1: ALIVE, 2: SUSPECT, 3: ALIVE}, timeout_s=1.0)
    await one.sees(dict.fromkeys((1, 2, 3), ALIVE), timeout_s=1.0)
    assert three.states() == dict.fromkeys((1, 2, 3), ALIVE)


async def test_who_only_some_can_reach_lives_for_those(lan: Devices) -> None:
    one, two = await lan.join(1), await lan.join(2, 1)
    await two.sees({1: ALIVE, 2: ALIVE})
    lan.faults.partition(an_id(2), an_id(3))
    three = await lan.join(3, 1)
    await one.sees(dict.fromkeys((1, 2, 3), ALIVE))
    await three.until(lambda view: view.find(an_id(2)) is not None)
    await asyncio.sleep(0.5)
    assert one.states() == dict.fromkeys((1, 2, 3), ALIVE)
    assert two.membership.me.incarnation == 10, "nobody accused it"


async def test_a_restarted_peer_is_the_same_peer(lan: Devices) -> None:
    one, two, three = await lan.three()
    await three.kill()
    await one.sees({1: ALIVE, 2: ALIVE, 3: DEAD})
    again = await lan.join(3, 1, incarnation=20)
    for device in (one, two, again):
        await device.sees(dict.fromkeys((1, 2, 3), ALIVE))
    record = one.gossip.view().find(three.id)
    assert record is not None
    assert record.incarnation == 20


async def test_a_restart_with_an_older_clock_is_refuted_and_wins(lan: Devices) -> None:
    one, _, three = await lan.three()
    await three.stack.aclose()
    again = await lan.join(3, 1, incarnation=4)
    await one.sees(dict.fromkeys((1, 2, 3), ALIVE))
    assert again.membership.me.incarnation > 10


async def test_several_see_every_change_and_the_slow_see_the_latest(lan: Devices) -> None:
    one = await lan.join(1)
    quick: list[int] = []
    slow: list[int] = []

    async def follow(versions: list[int], pause_s: float) -> None:
        async for view in one.gossip.changes():
            versions.append(view.peers[0].record.version)
            await asyncio.sleep(pause_s)

    followers = [asyncio.create_task(follow(quick, 0)), asyncio.create_task(follow(slow, 0.2))]
    for version in range(1, 11):
        one.gossip.update(holds=(f"part {version}",))
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.25)
    await one.stack.aclose()
    await asyncio.gather(*followers)
    assert quick == sorted(set(quick))
    assert len(slow) < len(quick)
    assert slow[-1] == quick[-1] == 20


async def test_last_known_peers_are_the_way_back_in(
    lan: Devices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gossip, "REMEMBER_S", 0.05)
    file = tmp_path / "known.json"
    await lan.join(1)
    two = await lan.join(2, 1, known=file)
    await two.sees({1: ALIVE, 2: ALIVE})
    async with asyncio.timeout(2):
        while await asyncio.to_thread(read_known, file) != [place(1)]:
            await asyncio.sleep(0.02)
    await two.kill()
    back = await lan.join(2, known=file, incarnation=11)
    await back.sees({1: ALIVE, 2: ALIVE}, timeout_s=1.0)
    assert back.states() == {1: ALIVE, 2: ALIVE}


async def test_clients_are_not_worth_remembering(lan: Devices) -> None:
    one, two = await lan.join(1), await lan.join(2, 1)
    await one.sees({1: ALIVE, 2: ALIVE})
    assert one.gossip._worth_remembering() == [place(2)]
    two.gossip.update(client=True)
    await one.until(lambda view: len(view.hosts()) == 1)
    assert one.gossip._worth_remembering() == []


async def test_a_file_of_known_peers_that_are_gone_does_no_harm(lan: Devices, tmp_path: Path) -> None:
    await asyncio.to_thread(write_known, tmp_path / "known", [place(i) for i in range(100, 160)])
    one = await lan.join(1, known=tmp_path / "known")
    await lan.join(2, 1)
    await one.sees({1: ALIVE, 2: ALIVE}, timeout_s=1.0)
    assert one.states() == {1: ALIVE, 2: ALIVE}


async def test_an_error_of_the_body_comes_out_as_it_is(lan: Devices) -> None:
    one = Device(lan.network, 1, lan.faults)
    with pytest.raises(ZeroDivisionError):
        async with Gossip(one.membership, one.links, one.router):
            raise ZeroDivisionError


class Hostile:
    """A member that says whatever it likes."""

    def __init__(self, device: Device, channel: Channel) -> None:
        self._device = device
        self._channel = channel

    @classmethod
    async def among(cls, lan: Devices, victim: Device) -> Hostile:
        device = Device(lan.network, 66, lan.faults)
        channel = await device.transport.dial(victim.place, device.hello(), device.router, timeout_s=1.0)
        return cls(device, channel)

    async def say(self, body: bytes) -> None:
        await self._channel.notify("gossip", {}, body, timeout_s=2.0)

    def close(self) -> None:
        self._channel.abort()


def first_news(number: int, **changes: Any) -> News:
    who = Changes(name=f"peer {number}", addresses=(), **changes)
    return News(an_id(number), 1, ALIVE, version=1, changes=who)


async def test_nonsense_is_refused_and_the_peer_lives_on(lan: Devices) -> None:
    one = await lan.join(1)
    hostile = await Hostile.among(lan, one)
    for body in (
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,
        msgspec.msgpack.encode({"news": []}),
        msgspec.msgpack.encode([4, [[an_id(7), 1, "immortal"]]]),
        msgspec.msgpack.encode([4, [["x", 1, "alive"]]]),
        msgspec.msgpack.encode([99, []]),
        encode(Tell((first_news(7),) * 2000)),
        b"x" * (MAX_MESSAGE_BYTES + 1),
        encode(Tell((first_news(8, holds=("bell\x07",)),))),
    ):
        await hostile.say(body)
    await hostile.say(encode(Tell((first_news(7),))))
    await one.until(lambda view: view.find(an_id(7)) is not None)
    assert 8 not in one.states()
    hostile.close()


async def test_a_flood_of_peers_does_not_drown_the_others(lan: Devices) -> None:
    one, two = await lan.join(1), await lan.join(2, 1)
    await two.sees({1: ALIVE, 2: ALIVE})
    hostile = await Hostile.among(lan, one)
    holds = tuple(f"{i:03}" + "x" * 120 for i in range(250))
    for start in range(100, 2100, 20):
        await hostile.say(encode(Tell(tuple(first_news(start + i, holds=holds) for i in range(20)))))
    two.gossip.update(holds=("a part",))
    await one.until(lambda view: view.find(an_id(2)) == two.membership.me, timeout_s=30.0)
    assert len(one.gossip.view().peers) <= 1024
    hostile.close()


async def test_somebody_with_the_same_key_is_noticed(lan: Devices) -> None:
    one = await lan.join(1)
    told: list[tuple[Address, ...]] = []
    one.gossip._on_twin = told.append
    hostile = await Hostile.among(lan, one)
    elsewhere = Changes(name="copy", addresses=(place(99),))
    for _ in range(4):
        version = one.membership.me.version + 5
        await hostile.say(encode(Tell((News(an_id(1), version, ALIVE, version=version, changes=elsewhere),))))
        await asyncio.sleep(1.0)
    assert told == [(place(99),)]
    hostile.close()
