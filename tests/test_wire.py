"""Frames survive any chunking, and no bytes whatever do harm."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import Declined, FrameTooLarge, MalformedFrame, ProtocolError
from swarm.wire import JOINED_BYTES, MAX_BODY_BYTES, MAX_HEADER_BYTES, Decoder, Frame, Kind, encode

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
bodies = st.binary(max_size=50) | st.integers(0, 4 * JOINED_BYTES).map(lambda n: bytes(range(256)) * (n // 256))
frames = st.builds(
    Frame,
    kind=st.sampled_from(Kind),
    id=st.integers(0, 2**63 - 1),
    method=st.text(max_size=40),
    fields=st.dictionaries(st.text(max_size=8), plain, max_size=5),
    body=bodies,
    timeout_s=st.none() | st.floats(0, 1e9),
)


def anything(_frame: Frame, _nbytes: int) -> None:
    pass


def refuse(_frame: Frame, _nbytes: int) -> None:
    raise Declined("no")


def feed(decoder: Decoder, data: bytes, sizes: Iterable[int] = ()) -> list[Frame]:
    """What comes out when `data` arrives in pieces of these sizes, the rest as it fits."""
    found: list[Frame] = []
    position, wanted = 0, iter(sizes)
    while position < len(data):
        room = decoder.get_buffer()
        size = min(len(room), len(data) - position, next(wanted, len(data)))
        assert len(room) > 0
        room[:size] = data[position : position + size]
        decoder.received(size)
        found += iter(decoder.next, None)
        position += size
    return found


def joined(*some: Frame) -> bytes:
    return b"".join(bytes(buffer) for frame in some for buffer in encode(frame))


def comparable(frame: Frame) -> tuple[Any, ...]:
    return frame.kind, frame.id, frame.method, frame.fields, bytes(frame.body), frame.timeout_s


@given(st.lists(frames, max_size=5), st.lists(st.integers(1, 70_000), max_size=40))
def test_any_chunking_gives_the_same_frames(sent: list[Frame], sizes: list[int]) -> None:
    received = feed(Decoder(anything), joined(*sent), sizes)
    assert [comparable(frame) for frame in received] == [comparable(frame) for frame in sent]


@given(st.binary(max_size=3000), st.lists(st.integers(1, 100)))
def test_random_bytes_only_ever_raise_protocol_errors(data: bytes, sizes: list[int]) -> None:
    for prefixed in (data, b"SWM\x01" + data, b"SWM\x01" + len(data).to_bytes(4, "big") + bytes(8) + data):
        with contextlib.suppress(ProtocolError):
            feed(Decoder(anything), prefixed, sizes)


@given(st.lists(frames, min_size=1, max_size=3), st.data())
def test_damaged_frames_only_ever_raise_protocol_errors(sent: list[Frame], draw: st.DataObject) -> None:
    data = bytearray(joined(*sent))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError):
        feed(Decoder(refuse), bytes(data))


@given(st.lists(plain, min_size=4, max_size=6))
def test_headers_of_wrong_types_are_malformed(header: list[object]) -> None:
    packed = msgpack.packb(header)
    data = b"SWM\x01" + len(packed).to_bytes(4, "big") + bytes(8) + packed
    try:
        (frame,) = feed(Decoder(anything), data)
    except MalformedFrame:
        return
    assert type(frame.id) is int
    assert type(frame.method) is str
    assert type(frame.fields) is dict


@pytest.mark.parametrize(
    "evil",
    [
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\x91" * 5000,
        b"\xdc\x0f\xff" * 2000,
        b"\xc7\x00\x05",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\x95\x01\x01\xa0\x81\x01\x01\xc0",
        b"\x95\x01\x01\xa0\x81\xc4\x01a\x01\xc0",
        b"\x95\x01\x01\xa1\xff\x80\xc0",
        b"\x95\x01\x01\xa0\x80\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",
        b"\x95\x01\x01\xa0\x80\xc0\xc0",
        b"\x95\x01\x01\xa0\x81\x91\x01\x01\xc0",
        b"\x95\xc3\x01\xa0\x80\xc0",
        b"\x95\x09\x01\xa0\x80\xc0",
        b"\x94\x01\x01\xa0\x80",
        b"\x96\x01\x01\xa0\x80\xc0\xc0",
        b"\x95\x01\x01\xa0\x80\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
        b"\x95\x01\x01\xa0\x80\xd6\xff\x00\x00\x00\x00",
        b"\x95\x01\xcf" + b"\xff" * 8 + b"\xa0\x80\xc0",
        b"\x95\x01\x01\xd9\x81" + b"m" * 129 + b"\x80\xc0",
        *(
            b"\x95\x01\x01\xa0" + fields + b"\xc0"
            for fields in (
                b"\xc0",
                b"\x00",
                b"\x90",
                b"\xa0",
                b"\xc1",
                b"\xdd\xff\xff\xff\xff",
                b"\xdf\xff\xff\xff\xff",
                b"\xc6\xff\xff\xff\xff",
                b"\x91" * 60_000,
                b"\x81\xa1a" * 20_000 + b"\x80",
                b"\x81\xa1a\x81\x01\x01",
                b"\x81\xa1a\xd6\xff\x00\x00\x00\x00",
                b"\x81\xa1a\xa1\xff",
                b"\x81\xa1a\xdc\x10\x01" + b"\xc0" * 4097,
            )
        ),
    ],
)
def test_evil_headers_are_malformed(evil: bytes) -> None:
    with pytest.raises(MalformedFrame):
        feed(Decoder(anything), b"SWM\x01" + len(evil).to_bytes(4, "big") + bytes(8) + evil)


def test_nothing_is_allocated_before_it_is_admitted() -> None:
    asked: list[tuple[str, int]] = []

    def admit(frame: Frame, nbytes: int) -> None:
        asked.append((frame.method, nbytes))
        raise Declined("no")

    decoder = Decoder(admit)
    head = joined(Frame(Kind.REQUEST, 1, "m"))
    declared = head[:8] + MAX_BODY_BYTES.to_bytes(8, "big") + head[16:]
    assert feed(decoder, declared) == []
    assert asked == [("m", MAX_BODY_BYTES)]
    scratch = decoder.get_buffer()
    assert len(scratch) <= MAX_HEADER_BYTES + 16
    decoder.received(len(scratch))
    assert decoder.next() is None


@pytest.mark.parametrize("nbytes", [1, 1000, JOINED_BYTES, 1_000_000])
def test_a_refused_body_is_read_past(nbytes: int) -> None:
    def odd_only(frame: Frame, _nbytes: int) -> None:
        if frame.id % 2 == 0:
            raise Declined(f"not {frame.id}")

    sent = [Frame(Kind.REQUEST, n, "m", {}, bytes([n]) * nbytes) for n in range(4)]
    received = feed(Decoder(odd_only), joined(*sent))
    assert [frame.id for frame in received] == [0, 1, 2, 3]
    assert [str(frame.refused) for frame in received] == ["not 0", "None", "not 2", "None"]
    assert [bytes(frame.body) for frame in received] == [b"", b"\1" * nbytes, b"", b"\3" * nbytes]


def test_a_large_body_is_not_copied_on_its_way_out() -> None:
    body = bytearray(10 * JOINED_BYTES)
    head, sent = encode(Frame(Kind.NOTICE, 1, "m", {}, body))
    body[0] = 42
    assert sent[0] == 42
    assert len(head) < 100


def test_a_large_body_goes_straight_into_its_buffer() -> None:
    decoder = Decoder(anything)
    head, body = encode(Frame(Kind.NOTICE, 1, "m", {}, bytes(1_000_000)))
    assert feed(decoder, bytes(head)) == []
    room = decoder.get_buffer()
    assert len(room) == 1_000_000
    room[:] = body
    decoder.received(len(room))
    frame = decoder.next()
    assert frame is not None
    room[5] = 7
    assert memoryview(frame.body)[5] == 7


@pytest.mark.parametrize(
    ("header", "body"), [(MAX_HEADER_BYTES + 1, 0), (0, MAX_BODY_BYTES + 1), (2**32 - 1, 2**64 - 1)]
)
def test_declared_sizes_are_bounded(header: int, body: int) -> None:
    with pytest.raises(FrameTooLarge):
        feed(Decoder(anything), b"SWM\x01" + header.to_bytes(4, "big") + body.to_bytes(8, "big"))


def test_the_first_header_may_be_bounded_more() -> None:
    long = joined(Frame(Kind.HELLO, fields={"x": "y" * 5000}))
    short = joined(Frame(Kind.HELLO))
    assert len(feed(Decoder(anything, first_header_bytes=4096), short + long)) == 2
    with pytest.raises(FrameTooLarge):
        feed(Decoder(anything, first_header_bytes=4096), long)


def test_a_broken_stream_stays_broken() -> None:
    decoder = Decoder(anything)
    good = joined(Frame(Kind.PING, 1))
    with pytest.raises(MalformedFrame):
        feed(decoder, bytes(50))
    with pytest.raises(MalformedFrame):
        feed(decoder, good)


def test_what_nobody_would_take_is_not_encoded() -> None:
    with pytest.raises(FrameTooLarge, match="smaller pieces"):
        encode(Frame(Kind.REQUEST, 1, "m", {"x": "y" * MAX_HEADER_BYTES}))
