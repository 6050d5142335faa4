"""A channel is quiet at rest, attentive in use, and knows when it last heard anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from swarm.transport import Channel, Limits, MemoryNetwork, MemoryTransport, Purpose, Router
from swarm.wire import Buffer
from tests.transport.contract import ALICE, ANYWHERE, BOB, Deed, hello

LIMITS = Limits(keepalive_s=0.01, silence_s=0.2, rest_s=60)


@asynccontextmanager
async def pair(purpose: Purpose) -> AsyncIterator[tuple[Channel, list[int], Deed]]:
    """A channel, and the sizes of the frames that its dialler sends."""
    transport, bob = MemoryTransport(MemoryNetwork(), limits=LIMITS), Deed()
    arrived, sent = list[Channel](), list[int]()
    listener = await transport.listen([ANYWHERE], hello(BOB), bob.router, arrived.append)
    here = await transport.dial(listener.addresses[0], hello(ALICE, purpose=purpose), Router(), timeout_s=5)
    send = here.outlet

    def counted(buffers: Sequence[Buffer]) -> None:
        sent.append(sum(len(buffer) for buffer in buffers))
        send(buffers)

    here.outlet = counted
    try:
        yield here, sent, bob
    finally:
        bob.release.set()
        for channel in (here, *arrived):
            await channel.aclose()
        await listener.aclose()


async def until_quiet(sent: list[int]) -> None:
    """Return when nothing is sent for ten times as long as there is between two pings."""
    async with asyncio.timeout(10):
        before = -1
        while before != len(sent):
            before = len(sent)
            await asyncio.sleep(10 * LIMITS.keepalive_s)


async def until_more(sent: list[int], more: int) -> None:
    wanted = len(sent) + more
    async with asyncio.timeout(10):
        while len(sent) < wanted:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("purpose", ["control", "tensors"])
async def test_it_comes_to_rest_and_knows_the_way_by_then(purpose: Purpose) -> None:
    async with pair(purpose) as (here, sent, _):
        await until_quiet(sent)
        assert here.rtt_s is not None
        assert all(nbytes < 40 for nbytes in sent)
        assert asyncio.get_running_loop().time() - here.heard_at >= 5 * LIMITS.keepalive_s


async def test_a_short_call_on_a_control_channel_costs_no_pings() -> None:
    async with pair("control") as (here, sent, _):
        await until_quiet(sent)
        pings, before = len(sent), here.heard_at
        for _ in range(3):
            await here.request("echo", {}, timeout_s=5)
        await until_quiet(sent)
        assert len(sent) < pings + 3 + 10  # each would cost twenty, if it lingered
        assert here.heard_at > before


async def test_a_long_call_keeps_it_awake() -> None:
    async with pair("control") as (here, sent, bob):
        await until_quiet(sent)
        asking = asyncio.create_task(here.request("wait", {}, timeout_s=60))
        await bob.started.wait()
        await until_more(sent, 10)
        bob.release.set()
        await asking
        await until_quiet(sent)


async def test_tensors_keep_it_awake_for_a_while_after() -> None:
    async with pair("tensors") as (here, sent, _):
        await until_quiet(sent)
        await here.notify("tell", {}, bytes(1000), timeout_s=5)
        await until_more(sent, 5)
        await until_quiet(sent)
