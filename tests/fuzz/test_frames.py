"""Mutated frames, seeded and few; `python -P tests/fuzz/million.py` sends a million."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.transport import Channel, Limits
from swarm.transport.terms import Terms
from swarm.wire import Frame, Kind, encode
from tests.fuzz.frames import ME, Ledger, Sink, Target, bombard, packed, router

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    ["protocol", "id", "name", "purpose", "start", "code", "sentence", "clock", "shape", "dtype", "wire", "incarnation"]
)
maps = st.dictionaries(names | st.text(max_size=5), values, max_size=6)
methods = st.sampled_from(["", "tensor", "later", "record"]) | st.text(max_size=5)
said = st.tuples(st.integers(0, 9), st.integers(0, 9) | values, methods | values, maps | values, st.binary(max_size=20))


@pytest.mark.parametrize("seed", range(4))
async def test_twelve_thousand_mutated_frames(seed: int) -> None:
    ended, given_bytes = await bombard(seed, 12_000)
    assert ended < 6000  # most of what is sent is plausible enough to be looked at
    assert given_bytes > 100_000


@settings(max_examples=150, deadline=None)
@given(st.lists(said, max_size=6), st.lists(st.integers(1, 80), min_size=1, max_size=20), st.booleans())
def test_whatever_is_said_the_channel_lives_or_ends(some: list[Any], sizes: list[int], acquainted: bool) -> None:
    async def say() -> None:
        ledger = Ledger()
        target = Target(ledger, acquainted)
        for kind, number, method, fields, body in some:
            target.feed(packed(kind, number, method, fields, body), partial(next, iter(sizes), 1000))
            await asyncio.sleep(0)
        target.drop()
        await target.channel.wait_closed()
        assert not ledger.bugs

    asyncio.run(say())


@settings(max_examples=200, deadline=None)
@given(maps)
def test_a_hello_of_any_fields(fields: dict[str, Any]) -> None:
    async def say() -> None:
        target = Target(Ledger(), acquainted=False)
        target.feed(
            packed(Kind.HELLO, 0, "", {"protocol": 1, "id": "a" * 32, "name": "x", "purpose": "control"} | fields)
        )
        if not target.has_ended():
            remote = target.channel.remote
            assert (type(remote.id), type(remote.name), type(remote.start)) == (str, str, int)
            assert remote.name.isprintable()
            assert 0 <= remote.start < 2**63
        target.drop()

    asyncio.run(say())


@pytest.mark.parametrize("clock", [math.nan, math.inf, "1", None, 1, [1.0]])
async def test_a_pong_that_tells_no_time_ends_it(clock: object) -> None:
    target = Target(Ledger(), acquainted=True)
    target.feed(packed(Kind.PONG, 1, "", {"clock": clock}))
    assert target.has_ended()
    target.drop()


async def test_to_retire_twice_ends_it() -> None:
    target = Target(Ledger(), acquainted=True)
    retire = bytes(encode(Frame(Kind.RETIRE))[0])
    target.feed(retire)
    assert not target.has_ended()
    target.feed(retire)
    assert target.has_ended()
    target.drop()


async def test_a_flood_of_calls_makes_no_more_tasks_than_the_limit() -> None:
    target = Target(Ledger(), acquainted=True)
    for number in range(2000):
        target.feed(packed(Kind.REQUEST, number, "later", {}))
    assert len(asyncio.all_tasks()) <= 64 + 2
    target.drop()
    await target.channel.wait_closed()


async def test_a_dialler_survives_any_listener() -> None:
    for first in (Kind.FAILURE, Kind.REPLY, Kind.RETIRE, Kind.PING, Kind.HELLO):
        channel = Channel(ME, router(Ledger()), Terms(Limits()), dialled=True)
        channel.connection_made(Sink())
        data = packed(first, 0, "", {"code": 1})
        channel.get_buffer(-1)[: len(data)] = data
        channel.buffer_updated(len(data))
        assert channel.is_closed
        channel.connection_lost(None)
