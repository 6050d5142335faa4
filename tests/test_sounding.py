"""Trials of links: on links of known speed in virtual time, and what those get who ask for too much."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from swarm.errors import DeadlineExceeded, FrameTooLarge, MalformedFrame, Overloaded, SwarmError
from swarm.exchange import Exchange
from swarm.sounding import (
    BYTES_EACH,
    BYTES_IN_ALL,
    CALL_BYTES,
    MAX_BYTES,
    MINUTE_S,
    QUIET_S,
    SEAT_S,
    SIZES_BYTES,
    STEP_TIMEOUT_S,
    Seat,
    Soundings,
)
from swarm.transport import PROTOCOL, Hello, Links, MemoryNetwork, MemoryTransport, Purpose, Reply, Router
from swarm.types import Address, Link, PeerId

ALICE, BOB, CAROL = PeerId("alice"), PeerId("bob"), PeerId("carol")
WINDOW_BYTES = 14_480


@dataclass
class SimulatedExchange:
    """A link of known speed to one peer. With `slow_start` each message may send only a window at first, which doubles
    with every round trip and is kept."""

    rtt_s: float
    up: float
    down: float
    slow_start: bool = False
    now: float = 0.0
    me: PeerId = ALICE
    window_bytes: float = WINDOW_BYTES
    sent_bytes: int = 0
    notices: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def request(
        self, peer: PeerId, method: str, fields: dict[str, Any], body: Any, *, timeout_s: float, **_: Any
    ) -> Reply:
        reply_bytes = fields["reply_bytes"]
        nbytes = len(body) + reply_bytes
        self.sent_bytes += nbytes
        seconds = self.rtt_s + len(body) / self.up + reply_bytes / self.down + self._growing_s(nbytes)
        self.now += min(seconds, timeout_s)
        if seconds > timeout_s:
            raise DeadlineExceeded("too slow")
        return Reply({}, bytes(reply_bytes))

    def _growing_s(self, nbytes: int) -> float:
        trips, room = 0, self.window_bytes
        while self.slow_start and room < nbytes:
            trips, self.window_bytes = trips + 1, self.window_bytes * 2
            room += self.window_bytes
        return trips * self.rtt_s

    async def notify(self, peer: PeerId, method: str, fields: dict[str, Any], *, timeout_s: float) -> None:
        self.notices.append((method, fields))


async def sounded(exchange: SimulatedExchange) -> tuple[Link, Link]:
    soundings = Soundings(exchange, lambda peer, link: None, lambda: exchange.now)  # type: ignore[arg-type]
    found = await soundings.sound(BOB)
    return found.there, found.back


# What a trial finds


@pytest.mark.parametrize("up", [20e3, 125e3, 1e6, 12.5e6, 125e6, 2e9])
@pytest.mark.parametrize("down", [125e3, 125e6])
@pytest.mark.parametrize("rtt_s", [0.0001, 0.002, 0.05])
async def test_it_finds_what_the_link_is_like_each_way(up: float, down: float, rtt_s: float) -> None:
    there, back = await sounded(SimulatedExchange(rtt_s, up, down))
    assert there.rtt_s == back.rtt_s == pytest.approx(rtt_s)
    assert there.bytes_per_s == pytest.approx(min(up, 10 * MAX_BYTES / rtt_s), rel=0.03)
    assert back.bytes_per_s == pytest.approx(min(down, 10 * MAX_BYTES / rtt_s), rel=0.03)


@pytest.mark.parametrize("rate", [125e3, 1e6, 12.5e6])
async def test_a_young_connections_slow_start_does_not_mislead(rate: float) -> None:
    there, _ = await sounded(SimulatedExchange(0.05, rate, rate, slow_start=True))
    assert there.bytes_per_s == pytest.approx(rate, rel=0.35)


async def test_a_slow_link_costs_little_and_a_fast_one_some_megabytes() -> None:
    slow, fast = SimulatedExchange(0.002, 125e3, 125e3), SimulatedExchange(0.0002, 125e6, 125e6)
    await sounded(slow)
    await sounded(fast)
    assert slow.sent_bytes == 2 * SIZES_BYTES[0]
    assert fast.sent_bytes == 2 * sum(SIZES_BYTES)
    assert max(slow.now, fast.now) < 1.0


async def test_a_link_that_is_too_slow_to_try_is_as_slow_as_that() -> None:
    there, back = await sounded(SimulatedExchange(0.002, 1e3, 1e6))
    assert there.bytes_per_s == pytest.approx(SIZES_BYTES[0] / STEP_TIMEOUT_S)
    assert back.bytes_per_s == pytest.approx(1e6, rel=0.01)


async def test_the_other_is_told_of_its_way_here() -> None:
    exchange = SimulatedExchange(0.001, 1e6, 2e6)
    await sounded(exchange)
    [(method, fields)] = exchange.notices
    assert method == "ranged"
    assert fields["rtt_s"] == pytest.approx(0.001)
    assert fields["bytes_per_s"] == pytest.approx(2e6, rel=0.01)


# Who may ask for how much


def test_one_trial_at_a_time() -> None:
    seat = Seat()
    seat.take(BOB, 0, 0, 0.0)
    seat.take(BOB, 100, 100, 1.0)
    with pytest.raises(Overloaded):
        seat.take(CAROL, 0, 0, 1.0)
    with pytest.raises(Overloaded):
        seat.take_mine(CAROL, 1.0)
    assert seat.leave(CAROL, is_mine=False) == 0
    assert seat.leave(BOB, is_mine=True) == 0
    assert seat.leave(BOB, is_mine=False) == 100
    seat.take_mine(CAROL, 1.0)
    with pytest.raises(Overloaded):
        seat.take(CAROL, 0, 0, 1.0)  # both began at once: both step back


def test_whoever_stays_silent_or_stays_too_long_gives_way() -> None:
    seat = Seat()
    seat.take(BOB, 0, 0, 0.0)
    seat.take(CAROL, 0, 0, QUIET_S)
    for second in range(int(SEAT_S) + 1):
        seat.take(CAROL, 0, 0, QUIET_S + second)
    seat = Seat()
    seat.take(BOB, 0, 0, 0.0)
    for second in range(1, int(SEAT_S)):
        seat.take(BOB, 0, 0, float(second))
    with pytest.raises(Overloaded):
        seat.take(CAROL, 0, 0, SEAT_S - 0.5)
    seat.take(CAROL, 0, 0, SEAT_S)
    with pytest.raises(Overloaded):
        seat.take(BOB, 0, 0, SEAT_S)


def test_nobody_makes_this_peer_send_for_ever() -> None:
    seat = Seat()
    for _ in range(BYTES_EACH // (MAX_BYTES + CALL_BYTES)):
        seat.take(BOB, 0, MAX_BYTES, 1.0)
    with pytest.raises(Overloaded):
        seat.take(BOB, 0, MAX_BYTES, MINUTE_S - 1)
    seat.take(BOB, 0, MAX_BYTES, MINUTE_S)


def test_many_together_do_not_either() -> None:
    seat = Seat()
    for number in range(BYTES_IN_ALL // (MAX_BYTES + CALL_BYTES)):
        seat.take(PeerId(f"peer{number}"), MAX_BYTES, 0, 1.0)
        seat.leave(PeerId(f"peer{number}"), is_mine=False)
    with pytest.raises(Overloaded):
        seat.take(BOB, MAX_BYTES, 0, 1.0)


# What a stranger to the rules gets, over real channels


class Device:
    """A peer that can be tried, and whatever was found of its ways to others."""

    def __init__(self, name: PeerId, network: MemoryNetwork) -> None:
        self.id = name
        self.found: list[tuple[PeerId, Link]] = []
        self.router = Router()
        self.transport = MemoryTransport(network)
        self.links = Links(self.transport, self.hello, self.router, lambda peer: [Address(peer, 1)])
        self.exchange = Exchange(self.hello("control"), self.links, self.router)
        self.soundings = Soundings(self.exchange, lambda peer, link: self.found.append((peer, link)))
        self.soundings.register(self.router)

    def hello(self, purpose: Purpose) -> Hello:
        return Hello(PROTOCOL, self.id, self.id, purpose)

    async def ask(self, peer: PeerId, fields: dict[str, Any], body: bytes = b"", reply_bytes: int = 0) -> Reply:
        return await self.exchange.request(
            peer, "range", fields, body, timeout_s=5, purpose="tensors", reply_bytes=reply_bytes
        )

    async def tell(self, peer: PeerId, **fields: Any) -> None:
        """A final notice, and a round trip on its connection, so that it was heard."""
        await self.exchange.notify(peer, "ranged", fields, timeout_s=5)
        with pytest.raises(SwarmError, match="does not know"):
            await self.exchange.request(peer, "no such method", {}, timeout_s=5)


@asynccontextmanager
async def devices(*names: PeerId) -> AsyncIterator[list[Device]]:
    network = MemoryNetwork()
    made = [Device(name, network) for name in names]
    listeners = [
        await one.transport.listen([Address(one.id, 1)], one.hello("control"), one.router, one.links.register)
        for one in made
    ]
    try:
        yield made
    finally:
        for one, listener in zip(made, listeners, strict=True):
            await one.links.aclose()
            await listener.aclose()


async def test_both_ends_learn_of_their_way() -> None:
    async with devices(ALICE, BOB) as (alice, bob):
        found = await alice.soundings.sound(BOB)
        await alice.tell(BOB)
        assert found.there.bytes_per_s > 0
        assert bob.found == [(ALICE, found.back)]
        assert alice.found == []


async def test_who_is_being_tried_refuses_others_until_it_is_over() -> None:
    async with devices(ALICE, BOB, CAROL) as (alice, _bob, carol):
        await alice.ask(BOB, {"reply_bytes": SIZES_BYTES[0]}, reply_bytes=SIZES_BYTES[0])
        with pytest.raises(Overloaded):
            await carol.soundings.sound(BOB)
        await alice.tell(BOB, rtt_s=0.001, bytes_per_s=1e8)
        await carol.soundings.sound(BOB)


@pytest.mark.parametrize(
    ("fields", "body", "error"),
    [
        ({}, bytes(MAX_BYTES + 1), FrameTooLarge),
        ({"reply_bytes": MAX_BYTES + 1}, b"", MalformedFrame),
        ({"reply_bytes": MAX_BYTES + 1}, b"x", MalformedFrame),
        ({"reply_bytes": -1}, b"", MalformedFrame),
        ({"reply_bytes": 1e3}, b"", MalformedFrame),
        ({"reply_bytes": "many"}, b"", MalformedFrame),
    ],
)
async def test_hostile_sizes(fields: dict[str, Any], body: bytes, error: type[SwarmError]) -> None:
    async with devices(ALICE, BOB) as (alice, bob):
        with pytest.raises(error):
            await alice.ask(BOB, fields, body, 2 * MAX_BYTES)
        await bob.soundings.sound(ALICE)  # nothing of it remains


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"rtt_s": 0.001},
        {"rtt_s": 0.0, "bytes_per_s": 1e8},
        {"rtt_s": -1.0, "bytes_per_s": 1e8},
        {"rtt_s": 60.0, "bytes_per_s": 1e8},
        {"rtt_s": float("nan"), "bytes_per_s": 1e8},
        {"rtt_s": 0.001, "bytes_per_s": 10.0},
        {"rtt_s": 0.001, "bytes_per_s": 2e12},
        {"rtt_s": 0.001, "bytes_per_s": float("nan")},
        {"rtt_s": 0.001, "bytes_per_s": float("inf")},
        {"rtt_s": "0.001", "bytes_per_s": 1e8},
    ],
)
async def test_hostile_findings_are_not_kept(fields: dict[str, Any]) -> None:
    async with devices(ALICE, BOB) as (alice, bob):
        await alice.ask(BOB, {"reply_bytes": SIZES_BYTES[0]}, reply_bytes=SIZES_BYTES[0])
        await alice.tell(BOB, **fields)
        assert bob.found == []


async def test_a_finding_is_taken_once_and_only_from_who_measured() -> None:
    async with devices(ALICE, BOB, CAROL) as (alice, bob, carol):
        await alice.tell(BOB, rtt_s=0.001, bytes_per_s=1e8)
        await alice.ask(BOB, {"reply_bytes": 10}, reply_bytes=10)
        await alice.tell(BOB, rtt_s=0.001, bytes_per_s=1e8)
        assert bob.found == []
        await alice.ask(BOB, {"reply_bytes": SIZES_BYTES[0]}, reply_bytes=SIZES_BYTES[0])
        await carol.tell(BOB, rtt_s=0.001, bytes_per_s=1e3)
        await alice.tell(BOB, rtt_s=0.001, bytes_per_s=1e8)
        await alice.tell(BOB, rtt_s=0.001, bytes_per_s=1e3)
        assert bob.found == [(ALICE, Link(0.001, 1e8))]


async def test_a_peer_that_answers_with_another_length_is_no_measure() -> None:
    async with devices(ALICE, BOB) as (alice, bob):
        bob.router._routes["range"] = (lambda channel, call: Reply({}, b""), bob.router._routes["range"][1])
        with pytest.raises(MalformedFrame):
            await alice.soundings.sound(BOB)
