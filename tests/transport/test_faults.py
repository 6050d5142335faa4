"""The contract behind harmless faults, and what harmful ones do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from swarm.errors import DeadlineExceeded, PeerLost, PeerUnreachable
from swarm.transport import Channel, Faults, FaultyTransport, Limits, MemoryNetwork, MemoryTransport, Router
from swarm.transport.base import OnTwin
from tests.transport.contract import ALICE, ANYWHERE, BOB, Deed, TransportContract, hello


class TestHarmlessFaults(TransportContract):
    def transport(self, limits: Limits, on_twin: OnTwin | None = None) -> FaultyTransport:
        return FaultyTransport(
            MemoryTransport(MemoryNetwork(), limits=limits, on_twin=on_twin), Faults(jitter_s=0.0005)
        )


@asynccontextmanager
async def faulty(faults: Faults, limits: Limits | None = None) -> AsyncIterator[tuple[Channel, Deed]]:
    transport, bob = FaultyTransport(MemoryTransport(MemoryNetwork(), limits=limits), faults), Deed()
    arrived: asyncio.Queue[Channel] = asyncio.Queue()
    listener = await transport.listen([ANYWHERE], hello(BOB), bob.router, arrived.put_nowait)
    here = await transport.dial(listener.addresses[0], hello(ALICE), Router(), timeout_s=5)
    try:
        yield here, bob
    finally:
        await here.aclose()
        await (await arrived.get()).aclose()
        await listener.aclose()


async def test_what_is_dropped_never_arrives() -> None:
    faults = Faults(drop=1.0)
    async with faulty(faults) as (here, bob):
        with pytest.raises(DeadlineExceeded):
            await here.request("echo", {}, timeout_s=0.02)
        faults.drop = 0.0
        assert (await here.request("echo", {"n": 1}, timeout_s=5)).fields == {"n": 1}
        assert bob.notices.empty()


async def test_the_same_seed_drops_the_same() -> None:
    async def arrived(seed: int) -> list[int]:
        faults = Faults(seed)
        async with faulty(faults) as (here, bob):
            faults.drop = 0.5
            for n in range(40):
                await here.notify("tell", {"n": n})
            faults.drop = 0.0
            await here.request("echo", {}, timeout_s=5)
            return [bob.notices.get_nowait().fields["n"] for _ in range(bob.notices.qsize())]

    first = await arrived(3)
    assert 5 < len(first) < 35
    assert first == await arrived(3) != await arrived(4)


async def test_a_cut_connection_is_lost() -> None:
    faults = Faults()
    async with faulty(faults) as (here, bob):
        asking = asyncio.create_task(here.request("wait", {}, timeout_s=60))
        await bob.started.wait()
        faults.sever(ALICE, BOB)
        with pytest.raises(PeerLost):
            await asking


async def test_one_direction_is_blocked_until_it_heals() -> None:
    faults = Faults()
    async with faulty(faults) as (here, bob):
        faults.block(BOB, ALICE)
        with pytest.raises(DeadlineExceeded):
            await here.request("wait", {}, timeout_s=0.02)
        assert bob.started.is_set()
        faults.heal()
        assert (await here.request("echo", {"n": 1}, timeout_s=5)).fields == {"n": 1}


async def test_a_partition_is_noticed_by_silence() -> None:
    faults = Faults()
    async with faulty(faults, Limits(keepalive_s=0.02, silence_s=0.08, rest_s=0.1)) as (here, _):
        faults.partition(ALICE, BOB)
        await asyncio.wait_for(here.wait_closed(), 5)


async def test_a_partitioned_peer_cannot_be_dialled() -> None:
    faults, met = Faults(), list[Channel]()
    transport = FaultyTransport(MemoryTransport(MemoryNetwork()), faults)
    listener = await transport.listen([ANYWHERE], hello(BOB), Router(), met.append)
    faults.block(ALICE, BOB)
    with pytest.raises(PeerUnreachable, match="did not answer"):
        await transport.dial(listener.addresses[0], hello(ALICE), Router(), timeout_s=0.02)
    assert met == []
    await listener.aclose()
