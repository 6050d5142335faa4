"""The body of a request, within bounds of size, time and memory; what does not fit is refused before it is read."""

from __future__ import annotations

import asyncio
import zlib
from typing import Final, Protocol

from swarm.gateway.statuses import RETRY_AFTER_S, Reply, refused

MAX_BODY_BYTES: Final = 64 * 2**20
MAX_HELD_BYTES: Final = 4 * MAX_BODY_BYTES
"""Of all requests that are being read or answered."""
READ_S: Final = 30.0
MIN_BYTES_PER_S: Final = 1_000_000
"""A large body may take longer than `READ_S`, at this rate."""
IN_LOOP_BYTES: Final = 2**18
"""What is larger is unpacked in a thread."""
FULL: Final = "The requests that are being answered fill the memory; try again later."
_ENCODINGS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""What zlib calls them."""


class Stream(Protocol):
    """What a server has of a request's body so far; aiohttp's `StreamReader`."""

    async def readany(self) -> bytes: ...
    def at_eof(self) -> bool: ...
    def is_eof(self) -> bool: ...


class Bodies:
    """Reads bodies, and counts the memory that all of them take together."""

    def __init__(self, max_bytes: int = MAX_BODY_BYTES, max_held: int = MAX_HELD_BYTES, read_s: float = READ_S) -> None:
        self._max = max_bytes
        self.free = max(max_held, 2 * max_bytes)
        self._read_s = read_s

    def refusal(self, length: int | None, encoding: str | None) -> Reply | None:
        """What is refused by its headers alone."""
        if encoding not in (None, "identity") and encoding not in _ENCODINGS:
            return refused(415, f"Bodies may be {', '.join(_ENCODINGS)} or plain, not '{encoding[:50]}'.", closes=True)
        return self._too_large() if length is not None and length > self._max else None

    def hold(self) -> Hold:
        """For one request; release it when that is answered."""
        return Hold(self)

    async def read(
        self, stream: Stream, length: int | None, encoding: str | None, hold: Hold
    ) -> bytes | bytearray | Reply:
        """The whole body, unpacked; `hold` has its bytes then."""
        if stream.is_eof():
            body: bytes | bytearray | Reply = await self._all(stream, hold)  # it is here already
        else:
            try:
                async with asyncio.timeout(max(self._read_s, (length or 0) / MIN_BYTES_PER_S)):
                    body = await self._all(stream, hold)
            except TimeoutError:
                return refused(408, "The request did not come in time.", closes=True)
        if isinstance(body, Reply) or encoding not in _ENCODINGS:
            return body
        if not hold.to(len(body) + self._max):
            return _full()
        if len(body) <= IN_LOOP_BYTES // 16:
            plain = self._unpacked(body, encoding)
        else:
            plain = await asyncio.to_thread(self._unpacked, body, encoding)
        if not isinstance(plain, Reply):
            hold.to(len(plain))
        return plain

    async def _all(self, stream: Stream, hold: Hold) -> bytes | bytearray | Reply:
        """Memory is counted as bytes come: who announces much and sends nothing takes nothing from others."""
        first = await stream.readany()
        if not hold.to(len(first)):
            return _full()
        if stream.at_eof():
            return first if len(first) <= self._max else self._too_large()
        body = bytearray(first)
        while len(body) <= self._max and not stream.at_eof():
            body += await stream.readany()
            if not hold.to(len(body)):
                return _full()
        return body if len(body) <= self._max else self._too_large()

    def _unpacked(self, body: bytes | bytearray, encoding: str) -> bytes | Reply:
        unpacker = zlib.decompressobj(_ENCODINGS[encoding])
        try:
            plain = unpacker.decompress(body, self._max + 1)
        except zlib.error:
            return refused(400, f"The body is not {encoding}, as its Content-Encoding says.")
        if len(plain) > self._max:
            return self._too_large()
        if not unpacker.eof or unpacker.unused_data:
            return refused(400, f"The body is not one whole {encoding} stream.")
        return plain

    def _too_large(self) -> Reply:
        return refused(413, f"A request may have {self._max} bytes; send fewer rows at once.", closes=True)


class Hold:
    """The memory that one request takes of what `bodies` may take together."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._bytes = 0

    def to(self, nbytes: int) -> bool:
        """Have so much, more or less than before; False when there is no room for it."""
        more = nbytes - self._bytes
        if more > self._bodies.free:
            return False
        self._bodies.free -= more
        self._bytes = nbytes
        return True

    def release(self) -> None:
        self.to(0)


def _full() -> Reply:
    return refused(503, FULL, {"Retry-After": str(RETRY_AFTER_S)}, closes=True)
