"""The load generator for HTTP, the same for all servers, as a process: raw asyncio on uvloop, bytes made beforehand.

{"do": "probe", "server", "port", "answers"}                     one request; {"ready": whether it was answered}
{"do": "closed", "server", "port", "answers", "n", "seconds", "warm"}
{"do": "open", "server", "port", "answers", "n", "rate", "seconds", "deadline"}     over n connections at most

Of the last two, `rows` may say how often a request holds its picture.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sys
from struct import Struct
from time import perf_counter
from typing import Any

import uvloop

from tests.bench.serving.subject import ANSWER_BYTES, CLASSES, pictures
from tests.bench.serving.tally import Tally, arrivals
from tests.bench.serving.web import message_bytes, request, says_when

CONNECT_S = 10.0
PROBE_S = 30.0
_ROW = Struct(f"<{CLASSES}f")
_OUTCOMES = {200: "ok", 429: "refused", 503: "refused", 408: "late", 504: "late"}


class Load:
    """The connections of one measurement to one server. `goes_on`: each sends again when it is answered."""

    def __init__(self, wish: dict[str, Any], timeout_s: float | None = None) -> None:
        self.tally = Tally(wish["answers"])
        self.goes_on = False
        self.without_room = 0
        self.idle: list[Connection] = []
        self._all: list[Connection] = []
        self._port = wish["port"]
        self._is_trivial = wish["server"] == "trivial"
        self._requests = [
            request(wish["server"], self._port, one[None].repeat(wish.get("rows", 1), 0), timeout_s)
            for one in pictures()
        ]
        self._turns = itertools.cycle(range(len(self._requests)))
        self._reopened: set[asyncio.Task[None]] = set()

    async def open(self, n: int) -> None:
        for _ in range(n):
            await self._connect()

    async def _connect(self) -> None:
        async with asyncio.timeout(CONNECT_S):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self), "127.0.0.1", self._port
            )
        self._all.append(connection)
        self._free(connection)

    def send(self) -> None:
        """On a connection that is free; what finds none is counted, and lost."""
        if self.idle:
            turn = next(self._turns)
            self.idle.pop().send(turn, self._requests[turn])
        else:
            self.without_room += 1

    def answered(self, connection: Connection, answer: bytes) -> None:
        status = int(answer[9:12])
        outcome = _OUTCOMES.get(status, "failed")
        self.tally.add(outcome, connection.sent, "" if status == 200 else str(status))
        if outcome == "ok" and not self._is_trivial:
            self.tally.check(connection.turn, _ROW.unpack(answer[-ANSWER_BYTES:]))
        elif outcome == "refused" and not says_when(answer):
            self.tally.notes += 1
        self._free(connection)

    def _free(self, connection: Connection) -> None:
        self.idle.append(connection)
        if self.goes_on:
            self.send()

    def lost(self, connection: Connection) -> None:
        """By the server: a request that was on it has failed; another connection takes its place."""
        self._all.remove(connection)
        if connection in self.idle:
            self.idle.remove(connection)
        else:
            self.tally.add("failed", connection.sent, "connection lost")
        task = asyncio.create_task(self._connect())
        self._reopened.add(task)
        task.add_done_callback(self._reopened.discard)

    def close(self) -> None:
        self.goes_on = False
        for connection in self._all:
            connection.close()


class Connection(asyncio.Protocol):
    def __init__(self, load: Load) -> None:
        self.turn, self.sent = 0, 0.0
        self._load = load
        self._buffer = b""
        self._is_closed = False
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, turn: int, what: bytes) -> None:
        self.turn, self.sent = turn, perf_counter()
        self._transport.write(what)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        nbytes = message_bytes(self._buffer)
        if nbytes and len(self._buffer) >= nbytes:
            answer, self._buffer = self._buffer, b""
            self._load.answered(self, answer)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_closed:
            self._load.lost(self)

    def close(self) -> None:
        self._is_closed = True
        self._transport.abort()


async def closed(wish: dict[str, Any]) -> dict[str, Any]:
    load = Load(wish)
    try:
        await load.open(wish["n"])
        load.goes_on = True
        for _ in range(wish["n"]):
            load.send()
        await asyncio.sleep(wish["warm"])
        load.tally.begin()
        await asyncio.sleep(wish["seconds"])
        load.tally.end()
    finally:
        load.close()
    return load.tally.summary()


async def opened(wish: dict[str, Any]) -> dict[str, Any]:
    load = Load(wish, wish["deadline"])
    try:
        await load.open(wish["n"])
        load.tally.begin()
        skipped = await arrivals(wish["rate"], wish["seconds"], load.send)
        load.tally.end()
    finally:
        load.close()
    return load.tally.summary(skipped=skipped + load.without_room)


async def probe(wish: dict[str, Any]) -> dict[str, Any]:
    """One request; with its answer, as text, where that is not 200."""
    body = request(wish["server"], wish["port"], pictures()[:1])
    try:
        async with asyncio.timeout(PROBE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", wish["port"])
            writer.write(body)
            answer = await reader.read(4096)
            writer.transport.abort()
    except OSError as error:  # a TimeoutError is one, too
        return {"ready": False, "why": str(error)}
    is_ready = answer.startswith(b"HTTP/1.1 200")
    return {"ready": is_ready, "why": "" if is_ready else answer.decode("latin-1")}


async def main() -> None:
    gc.disable()
    works = {"probe": probe, "closed": closed, "open": opened}
    while line := await asyncio.to_thread(sys.stdin.readline):
        wish = json.loads(line)
        print(json.dumps(await works[wish["do"]](wish)), flush=True)
        gc.collect()


if __name__ == "__main__":
    uvloop.run(main())
