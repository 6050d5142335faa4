"""Frames: how anything at all is said on a connection. Pure: bytes in, frames out, no sockets and no clocks.

    ┌───────┬───────────────┬─────────────┬──────────────────┬─────────────────┐
    │ magic │ header length │ body length │ header (msgpack) │ body, raw bytes │
    │  4    │  u32          │  u64        │  <= 64 KiB       │  <= 1 GiB       │
    └───────┴───────────────┴─────────────┴──────────────────┴─────────────────┘
    header = [kind, id, method, fields, timeout_s]

A tensor is megabytes, so its bytes are never joined, copied or allocated without need: `encode` hands out the body as
it came, and `Decoder` has the socket write it straight into its final buffer, after `admit` has agreed to its size. A
body that is refused is read past, and the connection lives on; bytes that make no sense end it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from typing import Annotated, Any, Final, Never

import msgpack
import msgspec
import numpy as np
from msgspec import Meta

from swarm.errors import FrameTooLarge, MalformedFrame, Overloaded, ProtocolError, SwarmError

Buffer = bytes | bytearray | memoryview

MAGIC: Final = b"SWM\x01"
MAX_HEADER_BYTES: Final = 64 * 1024
MAX_BODY_BYTES: Final = 1024 * 1024 * 1024
MAX_ITEMS: Final = 4096
"""Most entries of one list or map in a header: msgpack allocates a list before it reads it, at every level."""
MAX_METHOD_LENGTH: Final = 128
MAX_TIMEOUT_S: Final = 1e9
JOINED_BYTES: Final = 16 * 1024
"""A body up to this size is copied behind its header, so that one write carries both."""

_PREFIX = struct.Struct(">4sIQ")
_PREFIX_BYTES: Final = _PREFIX.size
_SCRATCH_BYTES: Final = _PREFIX_BYTES + MAX_HEADER_BYTES


class Kind(IntEnum):
    """What a frame is for."""

    HELLO = 0
    REQUEST = 1
    REPLY = 2
    FAILURE = 3
    NOTICE = 4
    CANCEL = 5
    PING = 6
    PONG = 7
    RETIRE = 8


class Frame(msgspec.Struct):
    """One message. `id` ties a reply to its request; `timeout_s` is what remains of the sender's deadline.

    A received body is a writable buffer of its own. `refused` is why a body was read past instead of kept. A struct,
    for two are made of each message, and a dataclass takes three times as long.
    """

    kind: Kind
    id: int = 0
    method: str = ""
    fields: dict[str, Any] = msgspec.field(default_factory=dict)
    body: Buffer = b""
    timeout_s: float | None = None
    refused: SwarmError | None = None


Admit = Callable[[Frame, int], None]
"""Agrees to receive a body of so many bytes, or raises the `SwarmError` with which it is refused."""


def encode(frame: Frame) -> list[Buffer]:
    """The bytes of a frame, as one buffer or as two: the second is the body itself, not to be changed until it is sent.

    Its fields are plain values: maps of names, lists, strings, bytes, numbers. Raises `FrameTooLarge` when its fields
    or body are longer than any peer would take.
    """
    header = _pack((frame.kind, frame.id, frame.method, frame.fields, frame.timeout_s))
    body = frame.body
    nbytes = body.nbytes if isinstance(body, memoryview) else len(body)
    if len(header) > MAX_HEADER_BYTES or nbytes > MAX_BODY_BYTES:
        raise FrameTooLarge(
            f"A '{frame.method}' message with {len(header)} bytes of fields and {nbytes} of body cannot be sent; "
            f"the limits are {MAX_HEADER_BYTES} and {MAX_BODY_BYTES}. Send it in smaller pieces."
        )
    prefix = _PREFIX.pack(MAGIC, len(header), nbytes)
    if nbytes <= JOINED_BYTES:
        return [b"".join((prefix, header, body))]
    return [prefix + header, memoryview(body).cast("B")]


class Decoder:
    """Turns a stream of bytes into frames: a socket fills `get_buffer()`, and `received(n)` says how much of it.

    `admit(frame, nbytes)` is asked before the body of a frame gets any memory. `first_header_bytes` bounds the first
    header: strangers have to be brief. After a `ProtocolError` the stream is lost; it is raised again each time.
    """

    def __init__(self, admit: Admit, *, first_header_bytes: int = MAX_HEADER_BYTES) -> None:
        self._admit = admit
        self._header_limit = min(first_header_bytes, MAX_HEADER_BYTES)
        self._received = bytearray(_SCRATCH_BYTES)
        self._scratch = memoryview(self._received)
        self._start = self._end = 0
        self._frame: Frame | None = None  # the frame whose body is being received
        self._body: memoryview | None = None  # where it goes; None while a refused one is read past
        self._missing = 0  # bytes of it still to come
        self._broken: ProtocolError | None = None

    def get_buffer(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self._body is not None:
            return self._body[-self._missing :]
        if self._frame is not None:
            return self._scratch[: self._missing]
        if self._start == self._end:
            self._start = self._end = 0
            return self._scratch
        if self._start:
            self._compact()
        return self._scratch[self._end :]

    def received(self, nbytes: int) -> None:
        """Take note of `nbytes` more in the buffer. Then call `next` until it gives None."""
        if self._frame is not None:
            self._missing -= nbytes
        else:
            self._end += nbytes

    def next(self) -> Frame | None:
        """A frame that is complete; None when more bytes are needed. Act upon each before the next: the body of that
        one may be there already, and `admit` is asked only now."""
        if self._frame is not None:
            return None if self._missing else self._completed(self._frame)
        if self._broken is not None:
            raise self._broken
        if self._end - self._start < _PREFIX_BYTES:
            return None
        try:
            return self._parsed()
        except ProtocolError as error:
            self._broken = error
            raise

    def _compact(self) -> None:
        kept = self._end - self._start
        self._scratch[:kept] = self._scratch[self._start : self._end]
        self._start, self._end = 0, kept

    def _parsed(self) -> Frame | None:
        """The next frame, a prefix being there; None when more bytes are needed."""
        start = self._start
        magic, header_bytes, body_bytes = _PREFIX.unpack_from(self._received, start)
        if magic != MAGIC:
            raise MalformedFrame("The other side does not speak the swarm's protocol; check the port.")
        if header_bytes > self._header_limit or body_bytes > MAX_BODY_BYTES:
            raise FrameTooLarge(f"A frame declares {header_bytes} bytes of header and {body_bytes} of body.")
        head_end = start + _PREFIX_BYTES + header_bytes
        if self._end < head_end:
            return None
        frame = _read_header(self._received[start + _PREFIX_BYTES : head_end])
        self._start = head_end
        self._header_limit = MAX_HEADER_BYTES
        return self._begin_body(frame, body_bytes) if body_bytes else frame

    def _begin_body(self, frame: Frame, nbytes: int) -> Frame | None:
        """Take what is here of a body; the frame at once when that is all of it."""
        start, end = self._start, self._start + nbytes
        if end > self._end:
            self._begin_long_body(frame, nbytes)
            return None
        self._start = end
        if self._admits(frame, nbytes):
            frame.body = memoryview(self._received[start:end])
        return frame

    def _begin_long_body(self, frame: Frame, nbytes: int) -> None:
        here = self._scratch[self._start : self._end]
        self._start = self._end = 0
        self._frame, self._body, self._missing = frame, self._allocate(frame, nbytes), nbytes - len(here)
        if self._body is not None:
            self._body[: len(here)] = here
            frame.body = self._body

    def _allocate(self, frame: Frame, nbytes: int) -> memoryview | None:
        try:  # numpy leaves the memory untouched; a bytearray would be filled with zeros first
            return np.empty(nbytes, np.uint8).data if self._admits(frame, nbytes) else None
        except MemoryError:
            frame.refused = Overloaded(f"No memory is left for a message of {nbytes} bytes; try a smaller batch.")
        return None

    def _admits(self, frame: Frame, nbytes: int) -> bool:
        try:
            self._admit(frame, nbytes)
        except SwarmError as error:
            frame.refused = error
            return False
        return True

    def _completed(self, frame: Frame) -> Frame:
        self._frame = self._body = None
        return frame


def _refuse_extension(code: int, _data: bytes) -> Never:
    raise ValueError(f"extension type {code}")


class _Header(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The types and bounds of a header, checked while it is read. What its fields are is seen to afterwards."""

    kind: Kind
    id: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    method: Annotated[str, Meta(max_length=MAX_METHOD_LENGTH)]
    fields: msgspec.Raw
    timeout_s: Annotated[float, Meta(ge=0, le=MAX_TIMEOUT_S)] | None


_pack = msgspec.msgpack.Encoder().encode
_unpack_header = msgspec.msgpack.Decoder(_Header).decode
# Not msgspec, which takes numbers as keys of inner maps: those can be chosen so that their hashes collide.
_unpack_fields = partial(
    msgpack.unpackb,
    strict_map_key=True,
    max_str_len=MAX_HEADER_BYTES,
    max_bin_len=MAX_HEADER_BYTES,
    max_array_len=MAX_ITEMS,
    max_map_len=MAX_ITEMS,
    max_ext_len=0,
    ext_hook=_refuse_extension,
)
_NO_FIELDS: Final = msgspec.Raw(b"\x80")


def _read_header(data: bytearray) -> Frame:
    try:
        header = _unpack_header(data)
        fields = {} if header.fields == _NO_FIELDS else _unpack_fields(header.fields)
    except (ValueError, TypeError, RecursionError, msgspec.DecodeError, msgpack.UnpackException) as error:
        raise MalformedFrame(f"A frame's header makes no sense: {error}.") from error
    if type(fields) is not dict or (fields and not all(type(key) is str for key in fields)):
        raise MalformedFrame("A frame's fields are not a map of names.")
    return Frame(header.kind, header.id, header.method, fields, b"", header.timeout_s)


def timeout_on_wire(timeout_s: float) -> float | None:
    """Of a frame: none where it is longer than any that is taken."""
    if 0.0 <= timeout_s < MAX_TIMEOUT_S:
        return timeout_s
    return 0.0 if timeout_s < 0.0 else None
