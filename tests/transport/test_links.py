"""One channel for each peer and purpose, however many ask for it at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from swarm.errors import PeerLost, PeerUnreachable, SwarmError
from swarm.transport import (
    PROTOCOL,
    Channel,
    Hello,
    Limits,
    Links,
    Listener,
    MemoryNetwork,
    MemoryTransport,
    Purpose,
    Service,
    links,
)
from swarm.types import Address, PeerId
from tests.transport.contract import Deed

ALICE, BOB, CAROL = (PeerId(letter * 32) for letter in "abc")
DEAD = Address("dead", 1)


@dataclass
class Counting(MemoryTransport):
    """Counts how often it dials; whoever is at `DEAD` never answers."""

    network: MemoryNetwork
    limits: Limits
    dialled: list[Address] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.network, limits=self.limits)

    async def dial(self, address: Address, hello: Hello, service: Service, *, timeout_s: float) -> Channel:
        self.dialled.append(address)
        if address == DEAD:
            await asyncio.Event().wait()
        return await super().dial(address, hello, service, timeout_s=timeout_s)


@dataclass
class World:
    """A few peers who can all find each other."""

    limits: Limits
    network: MemoryNetwork = field(default_factory=MemoryNetwork)
    addresses: dict[PeerId, list[Address]] = field(default_factory=dict)
    transports: dict[PeerId, Counting] = field(default_factory=dict)
    links: dict[PeerId, Links] = field(default_factory=dict)
    listeners: list[Listener] = field(default_factory=list)

    async def add(self, peer: PeerId) -> None:
        def me(purpose: Purpose) -> Hello:
            return Hello(PROTOCOL, peer, peer[0], purpose)

        transport = self.transports[peer] = Counting(self.network, self.limits)
        service = Deed().router
        links = self.links[peer] = Links(transport, me, service, lambda other: self.addresses.get(other, []))
        listener = await transport.listen([Address(peer[0], 0)], me("control"), service, links.register)
        self.addresses[peer] = list(listener.addresses)
        self.listeners.append(listener)


@asynccontextmanager
async def world(limits: Limits | None = None) -> AsyncIterator[World]:
    here = World(limits or Limits())
    for peer in (ALICE, BOB, CAROL):
        await here.add(peer)
    try:
        yield here
    finally:
        for links in here.links.values():
            await links.aclose()
        for listener in here.listeners:
            await listener.aclose()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_gets_at_once_share_one_dial() -> None:
    async with world() as here:
        channels = await asyncio.gather(*(here.links[ALICE].get(BOB, "control", 5) for _ in range(10)))
        assert len(set(map(id, channels))) == 1
        assert len(here.transports[ALICE].dialled) == 1
        assert here.links[ALICE].channels() == [channels[0]]


async def test_each_purpose_has_its_own() -> None:
    async with world() as here:
        control = await here.links[ALICE].get(BOB, "control", 5)
        tensors = await here.links[ALICE].get(BOB, "tensors", 5)
        assert control is not tensors
        assert here.links[ALICE].channels() == [control, tensors]


async def test_whoever_dialled_it() -> None:
    async with world() as here:
        one = await here.links[ALICE].get(BOB, "tensors", 5)
        await until(lambda: bool(here.links[BOB].channels()))
        other = await here.links[BOB].get(ALICE, "tensors", 5)
        assert here.transports[BOB].dialled == []
        assert (one.remote.id, other.remote.id) == (BOB, ALICE)
        assert (await other.request("later", {"turns": 1}, timeout_s=5)).fields == {"turns": 1}


async def test_a_lost_channel_is_dialled_again() -> None:
    async with world() as here:
        first = await here.links[ALICE].get(BOB, "control", 5)
        first.abort()
        assert here.links[ALICE].channels() == []
        second = await here.links[ALICE].get(BOB, "control", 5)
        assert second is not first
        assert not second.is_closed


async def test_a_dead_address_does_not_hold_up_the_next() -> None:
    async with world() as here:
        here.addresses[BOB].insert(0, DEAD)
        channel = await here.links[ALICE].get(BOB, "control", 5)
        assert channel.remote.id == BOB
        assert here.transports[ALICE].dialled == here.addresses[BOB]


async def test_somebody_else_answers() -> None:
    async with world() as here:
        here.addresses[BOB] = here.addresses[CAROL]
        with pytest.raises(PeerUnreachable, match="belongs to another peer now, 'c'"):
            await here.links[ALICE].get(BOB, "control", 5)
        assert here.links[ALICE].channels() == []


async def test_no_address_and_no_answer() -> None:
    async with world() as here:
        here.addresses[BOB] = []
        with pytest.raises(PeerUnreachable, match="No address"):
            await here.links[ALICE].get(BOB, "control", 5)
        here.addresses[BOB] = [DEAD]
        with pytest.raises(PeerUnreachable, match="did not answer at dead:1 within"):
            await here.links[ALICE].get(BOB, "control", 0.02)


async def test_both_dial_at_once() -> None:
    async with world() as here:
        one, other = await asyncio.gather(
            here.links[ALICE].get(BOB, "control", 5), here.links[BOB].get(ALICE, "control", 5)
        )
        for channel in (one, other, *here.links[ALICE].channels(), *here.links[BOB].channels()):
            assert (await channel.request("echo", {"n": 1}, timeout_s=5)).fields == {"n": 1}


async def test_of_two_dialled_at_once_one_remains() -> None:
    async with world(Limits(retire_s=0.05)) as here:
        ended: list[SwarmError | None] = []
        for peer in (ALICE, BOB):
            here.links[peer].on_register.append(
                lambda channel: channel.on_close.append(lambda _, error: ended.append(error))
            )
        one, other = await asyncio.gather(
            here.links[ALICE].get(BOB, "control", 5), here.links[BOB].get(ALICE, "control", 5)
        )
        assert one.dialled
        assert other.dialled
        replies = asyncio.gather(  # calls of both sides go on for longer than a retiring channel has to stay
            *(channel.request("later", {"turns": 20_000}, timeout_s=10) for channel in (one, other)),
            other.notify("tell", {"n": 1}),
        )
        await until(lambda: len(here.links[ALICE].channels()) == len(here.links[BOB].channels()) == 1)
        await replies
        await until(lambda: len(ended) == 2)
        assert ended == [None, None]
        (kept,) = here.links[ALICE].channels()
        assert (await here.links[BOB].get(ALICE, "control", 5)).remote.id == ALICE
        assert (await kept.request("echo", {"n": 1}, timeout_s=5)).fields == {"n": 1}
        assert len(here.transports[ALICE].dialled) == len(here.transports[BOB].dialled) == 1


async def test_a_retiring_channel_whose_peer_is_gone_is_lost() -> None:
    async with world(Limits(retire_s=60, keepalive_s=0.02, silence_s=0.1)) as here:
        channel = await here.links[ALICE].get(BOB, "control", 5)
        await until(lambda: bool(here.links[BOB].channels()))
        here.links[BOB].channels()[0].outlet = lambda buffers: None
        ended: list[SwarmError | None] = []
        channel.on_close.append(lambda _, error: ended.append(error))
        channel.retire()
        await until(lambda: bool(ended))
        assert isinstance(ended[0], PeerLost)


async def test_an_insider_may_open_only_a_few() -> None:
    async with world() as here:
        for _ in range(20):
            await here.links[BOB].dial(here.addresses[ALICE][0], "tensors", 5)
        await here.links[CAROL].get(ALICE, "tensors", 5)
        assert sum(len(channels) for channels in here.links[ALICE]._live.values()) <= 5
        assert [channel.remote.id for channel in here.links[ALICE].channels()] == [BOB, CAROL]


async def test_one_who_is_many_opens_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_MOST_IN_ALL", 2)
    async with world() as here:
        purposes: tuple[Purpose, ...] = ("control", "tensors")
        for purpose in purposes:
            await here.links[BOB].dial(here.addresses[ALICE][0], purpose, 5)
        with pytest.raises(PeerUnreachable):
            await here.links[CAROL].dial(here.addresses[ALICE][0], "control", 5)
        assert [channel.remote.id for channel in here.links[ALICE].channels()] == [BOB, BOB]


async def test_closing_ends_dials_and_channels() -> None:
    async with world() as here:
        live = await here.links[ALICE].get(CAROL, "control", 5)
        here.addresses[BOB] = [DEAD]
        getting = asyncio.create_task(here.links[ALICE].get(BOB, "control", 60))
        await until(lambda: DEAD in here.transports[ALICE].dialled)
        await here.links[ALICE].aclose()
        with pytest.raises(PeerLost):
            await getting
        with pytest.raises(PeerLost):
            await here.links[ALICE].get(CAROL, "control", 5)
        assert live.is_closed
