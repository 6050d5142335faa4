"""A peer whose sessions answer from the input alone, or wait, or fail; what the gateway's own tests ask."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from swarm.errors import BadInput, SwarmError
from swarm.gateway import Gateway
from swarm.metrics import Metrics
from swarm.peer import Peer
from swarm.plan import INPUT, OUTPUT, Edge, Plan
from swarm.result import Result
from swarm.types import Array, PeerId, PeerState, PeerView, TensorSpec, View
from swarm.types import PeerRecord as Record

INFER = "/v2/models/toy/infer"
ME = PeerId("a" * 32)
SHAPE, CLASSES, MAX_BATCH = (1, 2, 2), 6, 4
PLAN = Plan(
    "p",
    "local",
    ME,
    (),
    (
        Edge(INPUT, "s", ME, ME, TensorSpec(SHAPE)),
        Edge("s", OUTPUT, ME, ME, TensorSpec((CLASSES,))),
    ),
    MAX_BATCH,
)


class FakeSession:
    """Each row of the output is the row's sum times 1, 2, …; a picture counts as its number of bytes."""

    plan = PLAN

    def __init__(self) -> None:
        self.asked: list[int] = []
        """Rows of each call."""
        self.deadlines: list[float] = []
        self.failure: SwarmError | None = None
        self.gate: asyncio.Event | None = None
        """When it is there, requests wait for it."""
        self.waiting = self.cancelled = 0
        self.is_closed = False

    async def __call__(self, x: Array | list[bytes], *, deadline_s: float, waits: bool = True) -> Result:
        self.asked.append(len(x))
        self.deadlines.append(deadline_s)
        if self.failure is not None:
            raise self.failure
        if self.gate is not None:
            await self._wait(self.gate)
        if isinstance(x, list):
            if not all(item.startswith(b"\x89PNG") for item in x):
                raise BadInput("Picture 1 cannot be read as a picture.")
            sums = np.array([len(item) for item in x], np.float32)
        else:
            assert x.flags.writeable
            assert x.flags.aligned
            if not np.isfinite(x).all():
                raise SwarmError("The model's output is not a number.")
            sums = x.reshape(len(x), -1).sum(1, dtype=np.float32)
        return self._result(np.outer(sums, np.arange(1, CLASSES + 1)).astype(np.float32))

    async def _wait(self, gate: asyncio.Event) -> None:
        self.waiting += 1
        try:
            await gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1

    def _result(self, output: Array) -> Result:
        order = [np.argsort(-row, kind="stable")[:5] for row in output]
        names = [[(f"kind {i}", 0.2) for i in row] for row in order]
        return Result(output, lambda _: names, (), None, 0.0, 0.0, 0)

    async def aclose(self) -> None:
        self.is_closed = True


class FakePeer:
    """Loads any model but those that it has an error for."""

    id, name = ME, "fake"

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.session = FakeSession()
        self.loads: list[tuple[str, str, str, str]] = []
        self.errors: dict[str, SwarmError] = {}
        self.gate: asyncio.Event | None = None

    def view(self) -> View:
        return View(ME, (PeerView(Record(ME, "fake", (), 1), PeerState.ALIVE),))

    async def load(self, model: str, strategy: str = "auto", *, goal: str, weights: str) -> FakeSession:
        self.loads.append((model, strategy, goal, weights))
        if self.gate is not None:
            await self.gate.wait()
        if model in self.errors:
            raise self.errors[model]
        self.session = FakeSession()
        return self.session


@asynccontextmanager
async def served(peer: FakePeer, serve: Sequence[str] = ("toy",), **options: Any) -> AsyncIterator[Gateway]:
    """A gateway on a free port of loopback, with these models loaded."""
    async with Gateway(cast(Peer, peer), port=0, serve=serve, **options) as gateway:
        async with asyncio.timeout(5):
            while peer.gate is None and not all(gateway._repository.is_ready(name) for name in serve):
                await asyncio.sleep(0.001)
        yield gateway


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The protocol's error, and nothing else beside it."""
        assert list(self.json) == ["error"]
        sentence: str = self.json["error"]
        return sentence


async def ask(gateway: Gateway, method: str, path: str, body: bytes | Any = b"", **headers: str) -> Response:
    """One request on a connection of its own, byte by byte as written here."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Host": f"127.0.0.1:{gateway.address.port}", "Content-Length": str(len(raw)), "Connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return await send(gateway, f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + raw)


async def send(gateway: Gateway, raw: bytes) -> Response:
    """What comes back for these bytes until the server closes."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)
        try:
            writer.write(raw)
            return await response(reader)
        finally:
            writer.close()


async def response(reader: asyncio.StreamReader) -> Response:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return Response(int(first.split()[1]), headers, await reader.readexactly(int(headers["content-length"])))


def numbers(rows: int = 1, **more: Any) -> dict[str, Any]:
    """The JSON of a request with so many rows of ones."""
    tensor = {"name": INPUT, "datatype": "FP32", "shape": [rows, *SHAPE], "data": [1.0] * 4 * rows}
    return {"inputs": [tensor | more]}


def binary(array: Array, datatype: str = "FP32", **request: Any) -> tuple[bytes, str]:
    """A body of JSON and raw bytes, and the length of its JSON."""
    raw = array.tobytes()
    tensor = {
        "name": INPUT,
        "datatype": datatype,
        "shape": list(array.shape),
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps({"inputs": [tensor], **request}).encode()
    return head + raw, str(len(head))


def packed(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


async def until(condition: Callable[[], object]) -> None:
    """Not for ever."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)
