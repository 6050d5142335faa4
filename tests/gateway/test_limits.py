"""What clients cannot do to a gateway: too much, too slow, or gone in the middle."""

from __future__ import annotations

import asyncio
import json
from time import monotonic
from typing import Any

import pytest

from swarm.gateway.bodies import Bodies
from swarm.gateway.connections import Connections
from tests.gateway.fakes import INFER, FakePeer, ask, numbers, response, send, served, until


async def test_a_large_body_is_refused_before_it_is_read() -> None:
    async with served(FakePeer()) as gateway:
        head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {100 * 2**20}\r\n\r\n"
        found = await send(gateway, head.encode())  # not a byte of the body
        assert (found.status, "67108864" in found.error) == (413, True)


async def test_a_client_that_asks_first_need_not_send_a_large_body() -> None:
    async with served(FakePeer(), bodies=Bodies(1000)) as gateway:
        ask_first = "Host: localhost\r\nExpect: 100-continue\r\n"
        found = await send(gateway, f"POST {INFER} HTTP/1.1\r\n{ask_first}Content-Length: 1001\r\n\r\n".encode())
        assert found.status == 413
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)
        body = json.dumps(numbers()).encode()
        writer.write(f"POST {INFER} HTTP/1.1\r\n{ask_first}Content-Length: {len(body)}\r\n\r\n".encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await response(reader)).status == 200
        writer.close()


async def test_a_body_of_unknown_length_is_bounded_while_it_is_read() -> None:
    async with served(FakePeer(), bodies=Bodies(100_000)) as gateway:
        head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        assert (await send(gateway, head + chunk * 2)).status == 413
        body = json.dumps(numbers()).encode()
        found = await send(gateway, head + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
        assert found.status == 200
        for broken in (b"xyz\r\n", b"5\r\n123456789\r\n"):
            assert (await send(gateway, head + broken)).status == 400


async def test_bodies_share_the_memory() -> None:
    peer = FakePeer()
    async with served(peer, bodies=Bodies(1000, 2000)) as gateway:
        peer.session.gate = asyncio.Event()
        slow = [asyncio.create_task(ask(gateway, "POST", INFER, numbers() | {"id": "x" * 250})) for _ in range(5)]
        await until(lambda: peer.session.waiting == 5)
        found = await ask(gateway, "POST", INFER, numbers() | {"id": "x" * 250})
        assert (found.status, found.headers["retry-after"]) == (503, "1")
        peer.session.gate.set()
        assert {(await task).status for task in slow} == {200}
        assert (await ask(gateway, "POST", INFER, numbers())).status == 200


async def test_a_body_that_does_not_come_in_time() -> None:
    async with served(FakePeer(), bodies=Bodies(read_s=0.2)) as gateway:
        began = monotonic()
        found = await send(
            gateway, f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{{".encode()
        )
        assert found.status == 408
        assert monotonic() - began < 2


async def test_a_head_that_does_not_come_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.gateway.connections.IDLE_S", 0.3)
    async with served(FakePeer()) as gateway:
        for begun in (b"", b"GET /v2 HTTP/1.1\r\nHost: loc"):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)
            writer.write(begun)
            async with asyncio.timeout(5):
                assert await reader.read() == b""
            writer.close()


async def test_a_client_that_does_not_read_is_dropped() -> None:
    gone = asyncio.Event()

    async def flood(request: Any) -> Any:
        from aiohttp import web

        try:
            return web.Response(body=b"x" * 50_000_000)
        finally:
            gone.set()

    connections = Connections(flood, stuck_s=0.4)
    listener = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    watching = asyncio.create_task(connections.watch())
    _, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await gone.wait()
    assert len(connections.connections) == 1, "its answer is still on the way"
    await until(lambda: not connections.connections)
    assert not watching.done()
    watching.cancel()
    writer.close()
    listener.close()


async def test_only_so_many_connections() -> None:
    async with served(FakePeer()) as gateway:
        gateway._connections._most = 3
        held = [await asyncio.open_connection("127.0.0.1", gateway.address.port) for _ in range(3)]
        found = await send(gateway, b"")
        assert (found.status, found.error[:8]) == (503, "Too many")
        held.pop()[1].close()
        await until(lambda: len(gateway._connections.connections) < 3)
        assert (await ask(gateway, "GET", "/v2")).status == 200
        for _, writer in held:
            writer.close()


async def test_a_client_that_vanishes_cancels_its_request() -> None:
    peer = FakePeer()
    async with served(peer) as gateway:
        peer.session.gate = asyncio.Event()
        for abruptly in (True, False):
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)
            body = json.dumps(numbers()).encode()
            head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await until(lambda: peer.session.waiting == 1)
            writer.transport.abort() if abruptly else writer.close()
            await until(lambda: peer.session.waiting == 0)
        assert peer.session.cancelled == 2
        assert gateway._bodies.free == Bodies().free
