"""Peers that learn of their links: once when they meet, on demand, from real transfers, and what the others hear."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import pytest

from swarm import ranging
from swarm.errors import Overloaded
from swarm.exchange import Exchange
from swarm.linkbook import ABSENT_S, RECHECK_S
from swarm.ranging import GREATER_ID_WAITS_S, MAX_HOSTS, Ranging
from swarm.transport import (
    PROTOCOL,
    Hello,
    Links,
    MemoryNetwork,
    MemoryTransport,
    Purpose,
    Router,
    TcpTransport,
    Transport,
)
from swarm.types import Address, Link, PeerId, PeerProfile, PeerRecord, PeerState, PeerView, View

ALICE, BOB, CAROL, DAVE = (PeerId(name) for name in ("alice", "bob", "carol", "dave"))
MB = 10**6


class Lan:
    """Devices that can reach each other, who is where, and a clock that a test may push on."""

    def __init__(self, stack: AsyncExitStack, transport: Callable[[], Transport]) -> None:
        self.devices: dict[PeerId, Device] = {}
        self.clients: set[PeerId] = set()
        self.unmeasured: set[PeerId] = set()
        self.places: dict[PeerId, Address] = {}
        self.skipped_s = 0.0
        self.transport = transport
        self.stack = stack

    def now(self) -> float:
        return asyncio.get_running_loop().time() + self.skipped_s

    async def join(self, *names: PeerId, clients: Sequence[PeerId] = ()) -> list[Device]:
        joined = [Device(name, self) for name in names]
        for device in joined:
            await device.listen()
        self.clients |= set(clients)
        self.devices |= {device.id: device for device in joined}
        for device in joined:
            await self.stack.enter_async_context(device.ranging)
        return joined

    def view(self, me: PeerId) -> View:
        return View(me, tuple(PeerView(self.record(name), PeerState.ALIVE) for name in sorted(self.devices)))

    def record(self, name: PeerId) -> PeerRecord:
        rates = {} if name in self.unmeasured else {"float32": 1e9}
        return PeerRecord(name, name, (), 1, client=name in self.clients, profile=PeerProfile(flops_per_s=rates))


class Device:
    """What `Ranging` needs of a peer, and what came of it. `trials` are those that were begun by it or with it."""

    def __init__(self, name: PeerId, lan: Lan) -> None:
        self.id = name
        self.lan = lan
        self.told: list[Mapping[PeerId, Link]] = []
        self.trials: list[PeerId] = []
        self.router = Router()
        self.transport = lan.transport()
        self.links = Links(self.transport, self.hello, self.router, self.places_of)
        self.exchange = Exchange(self.hello("control"), self.links, self.router)
        self.ranging = Ranging(
            self.exchange, lambda: lan.view(name), self.told.append, rng=Random(name), clock=lan.now, tick_s=0.02
        )
        self.ranging.register(self.router)
        self._sound = self.ranging._soundings.sound
        self.ranging._soundings.sound = self.sound  # type: ignore[method-assign]

    def places_of(self, peer: PeerId) -> list[Address]:
        return [self.lan.places[peer]] if peer in self.lan.places else []

    async def sound(self, peer: PeerId) -> Any:
        self.trials.append(peer)
        return await self._sound(peer)

    def hello(self, purpose: Purpose) -> Hello:
        return Hello(PROTOCOL, self.id, self.id, purpose)

    async def listen(self) -> None:
        self.lan.stack.push_async_callback(self.links.aclose)
        here = Address(self.id, 1) if isinstance(self.transport, MemoryTransport) else Address("127.0.0.1", 0)
        listener = await self.transport.listen([here], self.hello("control"), self.router, self.links.register)
        self.lan.stack.push_async_callback(listener.aclose)
        self.lan.places[self.id] = listener.addresses[0]

    async def knows(self, *peers: PeerId) -> None:
        await self.until(lambda: set(peers) <= self.ranging.links().keys())

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not true():
                await asyncio.sleep(0.005)

    async def ticks(self, count: int = 5) -> None:
        """Wait until it has looked around so often."""
        before = self.ranging._rng.getstate()
        for _ in range(count):
            await self.until(lambda: self.ranging._rng.getstate() != before)  # noqa: B023 - called at once
            before = self.ranging._rng.getstate()


@pytest.fixture
async def lan(request: pytest.FixtureRequest) -> AsyncIterator[Lan]:
    """In memory, unless a test asks for real sockets."""
    network = MemoryNetwork()
    over_tcp = getattr(request, "param", "memory") == "tcp"
    async with AsyncExitStack() as stack:
        yield Lan(stack, TcpTransport if over_tcp else lambda: MemoryTransport(network))


def sane(link: Link) -> bool:
    return 0 < link.rtt_s < 5 and 1e4 < link.bytes_per_s <= 1e12


# Meeting


@pytest.mark.parametrize("lan", ["memory", "tcp"], indirect=True)
async def test_two_hosts_try_their_link_once(lan: Lan) -> None:
    alice, bob = await lan.join(ALICE, BOB)
    await alice.knows(BOB)
    await bob.knows(ALICE)
    assert sane(alice.ranging.links()[BOB])
    assert sane(bob.ranging.links()[ALICE])
    assert alice.ranging.links_back() == {BOB: bob.ranging.links()[ALICE]}
    await alice.ticks()
    lan.skipped_s += 10 * GREATER_ID_WAITS_S
    await alice.ticks()
    await bob.ticks()
    assert (alice.trials, bob.trials) == ([BOB], [])


async def test_several_hosts_try_every_link(lan: Lan) -> None:
    names = (ALICE, BOB, CAROL, DAVE)
    devices = await lan.join(*names)
    for device in devices:
        await device.knows(*set(names) - {device.id})
    assert {(d.id, peer) for d in devices for peer in d.trials} == {(a, b) for a in names for b in names if a < b}


async def test_trials_never_overlap_on_one_device(lan: Lan) -> None:
    going_on: set[PeerId] = set()

    def watched(device: Device) -> Callable[..., Any]:
        rate = device.exchange.request

        async def request(peer: PeerId, method: str, *rest: Any, **options: Any) -> Any:
            reply = await rate(peer, method, *rest, **options)
            going_on.update((device.id, peer))
            for other in lan.devices.values():
                sitting = other.ranging._soundings._seat._sitting
                if other.id == peer and sitting is not None:
                    assert sitting.peer == device.id
            return reply

        return request

    names = (ALICE, BOB, CAROL, DAVE)
    async with asyncio.timeout(20):
        devices = await lan.join(*names, clients=names)
        for device in devices:
            device.exchange.request = watched(device)  # type: ignore[method-assign]
        await asyncio.gather(*(device.ranging.measure(names, 20) for device in devices))
    assert going_on == set(names)
    assert all(device.ranging.links().keys() == set(names) - {device.id} for device in devices)


async def test_who_is_busy_is_tried_a_little_later(lan: Lan) -> None:
    alice, bob = await lan.join(ALICE, BOB, clients=[ALICE, BOB])
    seat = bob.ranging._soundings._seat
    seat.take_mine(CAROL, lan.now())
    measuring = asyncio.create_task(alice.ranging.measure([BOB], 20))
    await alice.until(lambda: len(alice.trials) >= 3)
    assert alice.ranging.links() == {}
    seat.leave(CAROL, is_mine=True)
    await measuring
    assert sane(alice.ranging.links()[BOB])


async def test_the_one_with_the_greater_id_tries_when_the_other_does_not(lan: Lan) -> None:
    bob, alice = await lan.join(BOB, ALICE)
    alice.ranging._next_due = lambda: None  # type: ignore[method-assign]
    await bob.until(lambda: ALICE in bob.ranging._schedule or ALICE in bob.ranging.links())
    lan.skipped_s += GREATER_ID_WAITS_S
    await bob.knows(ALICE)
    assert bob.trials == [ALICE]
    assert alice.trials == []


async def test_clients_are_tried_only_when_they_ask(lan: Lan) -> None:
    alice, bob, carol = await lan.join(ALICE, BOB, CAROL, clients=[ALICE])
    await bob.knows(CAROL)
    await bob.ticks()
    assert alice.ranging.links() == {}
    assert ALICE not in bob.ranging.links()
    await alice.ranging.measure([ALICE, BOB, CAROL], 20)
    assert alice.ranging.links().keys() == {BOB, CAROL}
    assert alice.ranging.links_back().keys() == {BOB, CAROL}
    await carol.knows(ALICE)


async def test_who_still_measures_itself_is_left_alone(lan: Lan) -> None:
    lan.unmeasured |= {ALICE, CAROL}
    alice, bob, _ = await lan.join(ALICE, BOB, CAROL)
    await alice.ticks()
    await bob.ticks()
    assert alice.trials == bob.trials == []
    lan.unmeasured.clear()
    await alice.knows(BOB, CAROL)


async def test_a_large_swarm_tries_links_only_on_demand(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranging, "MAX_HOSTS", 2)
    alice, bob, _ = await lan.join(ALICE, BOB, CAROL)
    await alice.ticks()
    await bob.ticks()
    assert alice.trials == bob.trials == []
    await alice.ranging.measure([CAROL], 20)
    assert alice.trials == [CAROL]
    assert MAX_HOSTS == 16


# On demand


async def test_what_is_known_is_not_measured_again(lan: Lan) -> None:
    alice, _ = await lan.join(ALICE, BOB, clients=[ALICE])
    await alice.ranging.measure([BOB], 20)
    await asyncio.gather(*(alice.ranging.measure([BOB], 20) for _ in range(3)))
    assert alice.trials == [BOB]


async def test_several_that_ask_at_once_share_a_trial(lan: Lan) -> None:
    alice, _ = await lan.join(ALICE, BOB, clients=[ALICE])
    await asyncio.gather(*(alice.ranging.measure([BOB], 20) for _ in range(3)))
    assert alice.trials == [BOB]


async def test_peers_that_cannot_be_reached_are_left_out(lan: Lan) -> None:
    alice, _ = await lan.join(ALICE, BOB, clients=[ALICE])
    await alice.ranging.measure([BOB, DAVE], 20)
    assert alice.ranging.links().keys() == {BOB}


async def test_measuring_ends_in_time_whatever_the_others_do(lan: Lan) -> None:
    alice, bob = await lan.join(ALICE, BOB, clients=[ALICE])
    bob.ranging._soundings._seat.take_mine(CAROL, lan.now())
    async with asyncio.timeout(20):
        await alice.ranging.measure([BOB], 0.2)
    assert alice.ranging.links() == {}


async def test_who_gives_up_measuring_leaves_nothing_behind(lan: Lan) -> None:
    alice, bob = await lan.join(ALICE, BOB, clients=[ALICE])
    measuring = asyncio.create_task(alice.ranging.measure([BOB], 20))
    while not alice.trials:
        await asyncio.sleep(0)
    measuring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await measuring
    await alice.ranging.measure([BOB], 20)
    assert sane(alice.ranging.links()[BOB])
    await bob.knows(ALICE)


# Real transfers


async def measured(lan: Lan) -> tuple[Device, Device]:
    alice, bob = await lan.join(ALICE, BOB, clients=[ALICE, BOB])
    await alice.ranging.measure([BOB], 20)
    await bob.knows(ALICE)
    return alice, bob


async def test_a_collapse_shows_within_three_transfers_and_recovery_is_noticed(lan: Lan) -> None:
    alice, _ = await measured(lan)
    before = alice.ranging.links()[BOB]
    slow = before.bytes_per_s / 100
    for _ in range(3):
        alice.ranging.observe(BOB, MB, before.rtt_s + MB / slow)
    assert alice.ranging.links()[BOB].bytes_per_s == pytest.approx(slow, rel=0.5)
    await alice.ticks()
    assert alice.trials == [BOB]
    lan.skipped_s += RECHECK_S
    await alice.until(lambda: alice.ranging.links()[BOB].bytes_per_s > 10 * slow)
    assert alice.trials == [BOB, BOB]


async def test_when_one_link_collapses_the_others_are_tried_at_once(lan: Lan) -> None:
    """It may be this device's own way to everybody."""
    alice, *_ = await lan.join(ALICE, BOB, CAROL, clients=[ALICE, BOB, CAROL])
    await alice.ranging.measure([BOB, CAROL], 20)
    before, tried = alice.ranging.links()[BOB], list(alice.trials)
    for _ in range(3):
        alice.ranging.observe(BOB, MB, before.rtt_s + 100 * MB / before.bytes_per_s)
    await alice.until(lambda: len(alice.trials) > len(tried))
    assert alice.trials[len(tried)] == CAROL


async def test_a_transfer_that_hangs_counts_at_once_and_the_link_is_tried_again(lan: Lan) -> None:
    alice, _ = await measured(lan)
    alice.ranging.suspect(BOB, 20e3)
    assert alice.ranging.links()[BOB].bytes_per_s == 20e3
    lan.skipped_s += RECHECK_S
    await alice.until(lambda: alice.ranging.links()[BOB].bytes_per_s > 1e6)


async def test_nobody_has_a_link_to_itself(lan: Lan) -> None:
    (alice,) = await lan.join(ALICE)
    alice.ranging.observe(ALICE, MB, 0.1)
    alice.ranging.suspect(ALICE, 1e3)
    await alice.ranging.measure([ALICE], 20)
    assert alice.ranging.links() == {}


# Telling


async def test_others_hear_of_a_link_and_then_of_nothing(lan: Lan) -> None:
    alice, bob = await lan.join(ALICE, BOB)
    await alice.until(lambda: bool(alice.told))
    await bob.until(lambda: bool(bob.told))
    await alice.ticks()
    [told] = alice.told
    known = alice.ranging.links()[BOB]
    assert told[BOB].bytes_per_s == pytest.approx(known.bytes_per_s, rel=0.06)
    assert told[BOB].bytes_per_s == float(f"{told[BOB].bytes_per_s:.1e}")


async def test_a_peer_that_is_gone_is_forgotten_and_others_hear_of_it(lan: Lan) -> None:
    alice, _ = await lan.join(ALICE, BOB)
    await alice.until(lambda: bool(alice.told))
    del lan.devices[BOB]
    await alice.ticks()
    assert BOB in alice.ranging.links()
    lan.skipped_s += ABSENT_S
    await alice.until(lambda: len(alice.told) > 1)
    assert alice.told[-1] == {}
    assert alice.ranging.links() == alice.ranging.links_back() == {}


async def test_a_device_that_is_tried_says_that_it_is_overloaded(lan: Lan) -> None:
    alice, bob = await lan.join(ALICE, BOB, clients=[ALICE, BOB])
    bob.ranging._soundings._seat.take_mine(CAROL, lan.now())
    with pytest.raises(Overloaded):
        await alice.sound(BOB)
