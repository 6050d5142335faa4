"""What the roles of a peer make of an insider gone mad: messages of a real conversation, with something wrong in each.

Loading, running and fetching are real; only the model is made of numbers. A handler may refuse with a sentence. It may
not fail, and afterwards the peer still does its work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from swarm.errors import FrameTooLarge
from swarm.plan import Plan
from swarm.transport import Channel, Limits
from swarm.transport.terms import Terms
from swarm.wire import Buffer, Decoder, Frame, Kind, encode
from tests.fuzz.frames import Sink, anything
from tests.toy import Node, agree, chain_of, swarm_of

FRAMES = 2500


async def converse(me: Node, ant: Node) -> list[Frame]:
    """All calls of `me` at `ant`: an offer, weights, requests, a refusal, a renewal, the end."""
    said: list[Frame] = []

    def tap(channel: Channel) -> None:
        if channel.remote.id != ant.id:
            return
        send, decoder = channel.outlet, Decoder(lambda frame, nbytes: None)

        def heard(buffers: Sequence[Buffer]) -> None:
            for buffer in buffers:
                room = decoder.get_buffer()
                room[: len(buffer)] = buffer
                decoder.received(len(buffer))
                said.extend(frame for frame in iter(decoder.next, None) if frame.method)
            send(buffers)

        channel.outlet = heard

    me.links.on_register.append(tap)
    plan = await load(me, ant, "plan")
    await run(me, plan)
    for method in ("renew", "release"):
        await me.exchange.request(ant.id, method, {"plan": plan.id}, timeout_s=5)
    await load(me, ant, "plan")
    return said


async def load(me: Node, ant: Node, name: str) -> Plan:
    plan = chain_of(me, ant, plan_id=name)
    me.dataflow.install(plan)
    return await agree(me, plan, ant)


async def run(me: Node, plan: Plan) -> None:
    loop = asyncio.get_running_loop()
    outcome = await me.dataflow.ask(plan, np.ones((1, 4), np.float32), loop.time() + 10)
    assert outcome.output.tolist() == [[1112.0] * 4]


def twisted(rng: Random, frame: Frame) -> Frame:
    """The same, with a few values replaced, dropped or repeated somewhere within, or another body."""
    fields, body = deepcopy(frame.fields), bytes(frame.body)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        twist(rng, fields)
    if rng.random() < 0.2:
        body = rng.choice((b"", body[:-1], body + b"x", rng.randbytes(len(body)), rng.randbytes(64)))
    return Frame(frame.kind, frame.id, frame.method, fields, body, rng.choice((frame.timeout_s, 0.0, 0.01, None)))


def twist(rng: Random, where: Any) -> None:
    """Change one value in a map or list, at any depth."""
    places = list(where) if isinstance(where, dict) else list(range(len(where)))
    if not places:
        return
    place = rng.choice(places)
    inner = where[place]
    if isinstance(inner, dict | list) and inner and rng.random() < 0.8:
        twist(rng, inner)
    elif rng.random() < 0.15:
        del where[place]
    elif isinstance(where, list) and rng.random() < 0.2:
        where.extend([inner] * rng.choice((1, 2, 300)))
    elif isinstance(inner, str) and rng.random() < 0.5:
        where[place] = rng.choice((inner[:-1], inner + "x", inner.upper(), inner * 40, "../../x", ""))
    elif type(inner) is int and rng.random() < 0.5:
        where[place] = rng.choice((inner + 1, inner - 1, -inner, 2**31, 2**62, inner * 10**9))
    else:
        where[place] = anything(rng, 2)


class Insider:
    """Speaks to `ant` as `me`, on a channel of its own that it may have to open again."""

    def __init__(self, me: Node, ant: Node) -> None:
        self._me, self._ant, self._terms = me, ant, Terms(Limits())
        self._channel = self._open()

    def say(self, frame: Frame) -> None:
        try:
            data = b"".join(bytes(buffer) for buffer in encode(frame))
        except (TypeError, ValueError, OverflowError, FrameTooLarge):  # nothing that can be said at all
            return
        if self._channel.is_closed:
            self.leave()
            self._channel = self._open()
        feed(self._channel, data)

    def leave(self) -> None:
        self._channel.abort()
        self._channel.connection_lost(None)

    def _open(self) -> Channel:
        channel = Channel(self._ant.hello("tensors"), self._ant.router, self._terms, dialled=False)
        channel.connection_made(Sink())
        hello = self._me.hello("tensors")
        data = b"".join(
            bytes(b) for b in encode(Frame(Kind.HELLO, 0, "", {k: getattr(hello, k) for k in HELLO_FIELDS}))
        )
        feed(channel, data)
        return channel


def feed(channel: Channel, data: bytes) -> None:
    while data and not channel.is_closed:
        room = channel.get_buffer(-1)
        n = min(len(room), len(data))
        room[:n] = data[:n]
        channel.buffer_updated(n)
        data = data[n:]


HELLO_FIELDS = ("protocol", "id", "name", "purpose")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of numbers that nobody meant
@pytest.mark.parametrize("seed", range(2))
async def test_a_mad_insider_breaks_nothing(seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = Random(seed)
    caplog.set_level(logging.ERROR)
    async with swarm_of(tmp_path, "me", "ant", ant=10_000) as [me, ant]:
        said = await converse(me, ant)
        assert {frame.method for frame in said} >= {"offer", "commit", "tensor", "renew", "release"}
        insider = Insider(me, ant)
        for n in range(FRAMES):
            frame = twisted(rng, rng.choice(said))
            frame.id = n
            insider.say(frame)
            if n % 4 == 0:
                await asyncio.sleep(0)
            assert not caplog.records, caplog.text
        insider.leave()
        await asyncio.sleep(0.05)
        assert not caplog.records, caplog.text
        for name in ("plan", "afterwards"):
            await me.exchange.request(ant.id, "release", {"plan": name}, timeout_s=5)
        await run(me, await load(me, ant, "afterwards"))
