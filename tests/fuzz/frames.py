"""Frames that nobody in their right mind would send, and a real channel that has to live with them.

A frame begins as a good one of any kind, then its values, its lengths or its bytes are changed. What must hold: no
exception leaves the channel, no handler meets anything that it cannot refuse in a sentence, and no body gets memory
that nobody agreed to.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgpack
import numpy as np
import pytest

from swarm import schema, tensors, wire
from swarm.errors import FrameTooLarge
from swarm.transport import PROTOCOL, Call, Channel, Hello, Limits, Reply, Router
from swarm.transport.terms import Terms
from swarm.types import PeerId, PeerRecord
from swarm.wire import Buffer, Kind

ME = Hello(PROTOCOL, PeerId("b" * 32), "me", "tensors", 1)
THEM = Hello(PROTOCOL, PeerId("a" * 32), "them", "tensors", 2)
MOST_BYTES = 64 * 1024
"""The largest body that the services and requests here agree to."""
FRAMES_A_CHANNEL = 200

_NUMBERS = (0, 1, -1, 2, 7, 8, 127, 128, 255, 2**16, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -(2**63))
_VALUES: tuple[Any, ...] = (*_NUMBERS, None, True, 0.0, -0.0, 1.5, float("nan"), float("inf"), -float("inf"), 1e308)
_TEXTS = ("", "tensor", "x" * 129, "\x00", "\u202e", "🦜", "peer-lost", "a" * 32)


class Sink(asyncio.Transport):
    """Swallows what the channel says."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def write(self, data: Buffer) -> None:
        self.nbytes += len(data)

    def close(self) -> None: ...
    def abort(self) -> None: ...


@dataclass
class Ledger:
    """Every body's memory, and who agreed to it."""

    agreed: int = 0
    given: int = 0
    bugs: list[str] = field(default_factory=list)

    def admit(self, _channel: Channel, _fields: dict[str, Any], nbytes: int) -> None:
        if nbytes > MOST_BYTES:
            raise FrameTooLarge("Too long.")
        self.agreed += nbytes

    def empty(self, nbytes: int, dtype: Any) -> Any:
        assert nbytes <= MOST_BYTES, f"{nbytes} bytes were given to a body"
        self.given += nbytes
        return np.zeros(nbytes, dtype)

    def emit(self, record: logging.LogRecord) -> None:
        self.bugs.append(logging.Formatter().format(record))


def router(ledger: Ledger) -> Router:
    """Handlers that take everything apart that comes."""

    def tensor(_: Channel, call: Call) -> Reply:
        array = tensors.decode(call.fields, call.body)
        return Reply({"shape": list(array.shape)})

    async def later(_: Channel, call: Call) -> Reply:
        await asyncio.sleep(0)
        return Reply(call.fields, call.body)

    def record(_: Channel, call: Call) -> Reply:
        return Reply(schema.pack(schema.unpack(PeerRecord, call.fields)))

    made = Router()
    for name, handler in (("tensor", tensor), ("later", later), ("record", record)):
        made.add(name, handler, ledger.admit)
    return made


class Target:
    """A channel with an honest past, or none at all."""

    def __init__(self, ledger: Ledger, acquainted: bool) -> None:
        limits = Limits(serving=64, asking=16, inbound_bytes=4 * MOST_BYTES)
        self.channel = Channel(ME, router(ledger), Terms(limits), dialled=False)
        self.sink = Sink()
        self.channel.connection_made(self.sink)
        if acquainted:
            self.feed(packed(Kind.HELLO, 0, "", schema.pack(THEM)))
            assert self.channel.remote == THEM
        self.waiting = [self.channel._asking.open("m", 3600, n * 1000) for n in range(8)] if acquainted else []

    def feed(self, data: bytes, sizes: Callable[[], int] = lambda: 1 << 20) -> None:
        view = memoryview(data)
        while view and not self.channel.is_closed:
            room = self.channel.get_buffer(-1)
            assert 0 < len(room) <= MOST_BYTES + 2 * wire.MAX_HEADER_BYTES
            n = min(len(room), len(view), max(1, sizes()))
            room[:n] = view[:n]
            self.channel.buffer_updated(n)
            view = view[n:]

    def has_ended(self) -> bool:
        return self.channel.is_closed

    def drop(self) -> None:
        self.channel.abort()
        self.channel.connection_lost(None)
        for asked in self.waiting:
            self.channel._asking.close(asked)


def packed(
    kind: int,
    number: Any,
    method: Any,
    fields: Any,
    body: bytes = b"",
    timeout_s: Any = None,
    claims: int | None = None,
) -> bytes:
    """A frame of anything at all."""
    header = msgpack.packb([kind, number, method, fields, timeout_s])
    return struct.pack(">4sIQ", wire.MAGIC, len(header), len(body) if claims is None else claims) + header + body


def tensor_fields(rng: Random) -> tuple[dict[str, Any], bytes]:
    array = np.zeros([rng.choice((0, 1, 2, 5)) for _ in range(rng.randint(1, 4))], rng.choice(("f4", "i8", "u1")))
    fields, body = tensors.encode(array, rng.choice(tensors.WIRE_DTYPES))
    return fields, bytes(body)


def good(rng: Random) -> list[Any]:
    """The arguments of `packed` for a frame that an honest peer might send."""
    number = rng.choice((0, 1, 2, 3, 5, 8, rng.getrandbits(62)))
    match rng.choice(tuple(Kind)):
        case Kind.HELLO:
            return [Kind.HELLO, 0, "", schema.pack(THEM)]
        case (Kind.REQUEST | Kind.NOTICE) as kind:
            method = rng.choice(("tensor", "later", "record", "nothing"))
            fields, body = tensor_fields(rng)
            if method == "record":
                fields, body = schema.pack(PeerRecord(THEM.id, "them", (), 1)), b""
            return [kind, number, method, fields, body, rng.choice((None, 0.0, 5.0))]
        case Kind.REPLY:
            return [Kind.REPLY, number, "", {"ok": 1}, bytes(rng.choice((0, 10, 1000, 4000, 20_000)))]
        case Kind.FAILURE:
            return [Kind.FAILURE, number or 1, "", {"code": rng.choice(_TEXTS), "sentence": "It was so."}]
        case Kind.PONG:
            return [Kind.PONG, number, "", {"clock": 1.5}]
        case kind:
            return [kind, number, "", {}]


def frame(rng: Random) -> bytes:
    """A good frame, and then something done to it."""
    return rng.choice(_DEEDS)(rng, good(rng))


def _as_it_is(_: Random, parts: list[Any]) -> bytes:
    return packed(*parts)


def _another_value(rng: Random, parts: list[Any]) -> bytes:
    """The right place, the wrong thing."""
    place = rng.randrange(4)
    parts[place] = anything(rng, 3) if place or rng.random() < 0.5 else rng.randrange(-1, 11)
    return packed(*parts)


def _another_field(rng: Random, parts: list[Any]) -> bytes:
    fields = parts[3] = dict(parts[3])
    for _ in range(rng.randint(1, 3)):
        fields[rng.choice((*fields, rng.choice(_TEXTS)))] = anything(rng, 3)
    return packed(*parts)


def _another_length(rng: Random, parts: list[Any]) -> bytes:
    data = bytearray(packed(*parts))
    place, width = rng.choice(((4, 4), (8, 8)))
    honest = int.from_bytes(data[place : place + width], "big")
    length = rng.choice((*_NUMBERS, honest + 1, honest - 1, MOST_BYTES, MOST_BYTES + 1)) % 256**width
    data[place : place + width] = length.to_bytes(width, "big")
    return bytes(data)


def _other_bytes(rng: Random, parts: list[Any]) -> bytes:
    """Mostly behind the prefix, for a wrong magic ends it all at once."""
    data = bytearray(packed(*parts))
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(16 if rng.random() < 0.95 else 0, len(data))
        data[place] = rng.getrandbits(8) if rng.random() < 0.7 else data[place] ^ (1 << rng.randrange(8))
    return bytes(data)


def _cut_or_grown(rng: Random, parts: list[Any]) -> bytes:
    data = packed(*parts)
    place = rng.randrange(len(data))
    return data[:place] if rng.random() < 0.5 else data[:place] + rng.randbytes(rng.randint(1, 40)) + data[place:]


def _spliced(rng: Random, parts: list[Any]) -> bytes:
    one, other = packed(*parts), packed(*good(rng))
    return one[: rng.randrange(len(one))] + other[rng.randrange(len(other)) :]


_DEEDS: Sequence[Callable[[Random, list[Any]], bytes]] = (
    *[_as_it_is] * 2,
    *[_another_value] * 4,
    *[_another_field] * 6,
    *[_another_length] * 2,
    *[_other_bytes] * 4,
    _cut_or_grown,
    _spliced,
)


def anything(rng: Random, depth: int) -> Any:
    """A value of any kind that msgpack knows."""
    match rng.randrange(8 if depth else 5):
        case 0 | 1:
            return rng.choice(_VALUES)
        case 2:
            return rng.choice(_TEXTS)
        case 3:
            return rng.randbytes(rng.randrange(10))
        case 4:
            return rng.getrandbits(64)
        case 5:
            return [anything(rng, depth - 1) for _ in range(rng.randrange(5))]
        case 6:
            return {rng.choice(_TEXTS): anything(rng, depth - 1) for _ in range(rng.randrange(4))}
        case _:
            return {_key(rng): anything(rng, depth - 1) for _ in range(rng.randrange(3))}


def _key(rng: Random) -> Any:
    return rng.choice((1, 0.5, None, b"x", "y", True))


async def bombard(seed: int, frames: int, progress: Callable[[int], object] = lambda _: None) -> tuple[int, int]:
    """Send so many frames; how many channels they ended, and how many bytes of bodies were given memory.

    Raises `AssertionError`, or whatever came out of the channel.
    """
    rng, ledger, ended = Random(seed), Ledger(), 0
    handler = logging.Handler(logging.ERROR)
    handler.emit = ledger.emit  # type: ignore[method-assign]
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: ledger.bugs.append(str(context)))
    logging.getLogger("swarm").addHandler(handler)
    target = Target(ledger, acquainted=True)
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("swarm.wire.np.empty", ledger.empty)
            for n in range(frames):
                if target.channel.is_closed or n % FRAMES_A_CHANNEL == 0:
                    target.drop()
                    await asyncio.sleep(0)
                    ended += 1
                    target = Target(ledger, acquainted=rng.random() < 0.95)
                whole = rng.random() < 0.7
                target.feed(frame(rng), (lambda: 1 << 20) if whole else (lambda: rng.randint(1, 60)))
                if n % 16 == 0:
                    await asyncio.sleep(0)
                if n % 10_000 == 0:
                    progress(n)
                assert not ledger.bugs, ledger.bugs[0]
    finally:
        target.drop()
        logging.getLogger("swarm").removeHandler(handler)
    assert ledger.given <= ledger.agreed + 8 * 8000 * (ended + 1)
    return ended, ledger.given
