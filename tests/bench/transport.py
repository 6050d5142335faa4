"""Our channel on uvloop against blocking sockets in threads: `python tests/bench/transport.py [rounds]`.

Two processes on loopback; both ways send the same frames. The rounds are interleaved, so that a busy machine slows
both; each figure is the median of the rounds. Bars: 8 MB one way at least 0.8 of the sockets' rate; a round trip of
1 KB at most 2.0 times theirs. That ratio is at its worst when both processes share a core, as under `taskset -c 0`:
there the time to wake another core, the same for both ways, is not in it. And TLS: from dialling to the first answer.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from swarm.secret import Secret
from swarm.transport import PROTOCOL, Call, Channel, Hello, Reply, Router, TcpTransport
from swarm.trust import ephemeral, identify
from swarm.types import Address, PeerId

BIG, SMALL = 8_000_000, 1024
BIG_FRAMES, ROUND_TRIPS = 60, 3000
PREFIX = 8


def read_frame(sock: socket.socket, buffer: bytearray) -> memoryview:
    """One length-prefixed frame, into a buffer of its own when it is long."""
    head = memoryview(bytearray(PREFIX))
    read_into(sock, head)
    nbytes = int.from_bytes(head, "big")
    body = memoryview(buffer)[:nbytes] if nbytes <= len(buffer) else memoryview(bytearray(nbytes))
    read_into(sock, body)
    return body


def read_into(sock: socket.socket, view: memoryview) -> None:
    while view:
        got = sock.recv_into(view)
        if not got:
            raise ConnectionError
        view = view[got:]


def send_frame(sock: socket.socket, body: bytes | memoryview) -> None:
    prefix = len(body).to_bytes(PREFIX, "big")
    if len(body) <= SMALL:
        sock.sendall(prefix + bytes(body))
    else:
        sock.sendall(prefix)
        sock.sendall(body)


def serve_sockets(listening: socket.socket) -> None:
    """Echo small frames; count big ones, and answer the last of them."""
    sock, _ = listening.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer, big = bytearray(BIG), 0
    try:
        while True:
            body = read_frame(sock, buffer)
            if len(body) <= SMALL:
                send_frame(sock, body)
            else:
                big += 1
                if big % BIG_FRAMES == 0:
                    send_frame(sock, b"done")
    except ConnectionError:
        sock.close()


async def serve_channel(report: Callable[[int], None]) -> None:
    router, big, done = Router(), 0, asyncio.Event()

    def tell(_: Channel, call: Call) -> None:
        nonlocal big
        big += 1
        if big % BIG_FRAMES == 0:
            done.set()

    async def wait(_: Channel, call: Call) -> Reply:
        await done.wait()
        done.clear()
        return Reply()

    gone = asyncio.Event()
    router.add("echo", lambda _, call: Reply({}, call.body), lambda *_: None)
    router.add("tell", tell, lambda *_: None)
    router.add("wait", wait)
    hello = Hello(PROTOCOL, PeerId("b" * 32), "server", "tensors")
    listener = await TcpTransport().listen(
        [Address("127.0.0.1", 0)], hello, router, lambda channel: channel.on_close.append(lambda *_: gone.set())
    )
    report(listener.addresses[0].port)
    await gone.wait()
    await listener.aclose()


def server(pipe: Connection) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    pipe.send(listening.getsockname()[1])
    thread = threading.Thread(target=serve_sockets, args=(listening,))
    thread.start()
    uvloop.run(serve_channel(pipe.send))
    thread.join()


class Sockets:
    """The anchor."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray(SMALL)

    def big_per_s(self) -> float:
        body, start = bytes(BIG), time.perf_counter()
        for _ in range(BIG_FRAMES):
            send_frame(self.sock, body)
        read_frame(self.sock, self.buffer)
        return BIG_FRAMES * BIG / (time.perf_counter() - start)

    def round_trip_s(self) -> float:
        body, taken = bytes(SMALL), []
        for _ in range(ROUND_TRIPS):
            start = time.perf_counter()
            send_frame(self.sock, body)
            read_frame(self.sock, self.buffer)
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)


async def channel_big_per_s(channel: Channel) -> float:
    body, start = bytes(BIG), time.perf_counter()
    for _ in range(BIG_FRAMES):
        await channel.notify("tell", {}, body)
    await channel.request("wait", {}, timeout_s=60)
    return BIG_FRAMES * BIG / (time.perf_counter() - start)


async def channel_round_trip_s(channel: Channel) -> float:
    body, taken = bytes(SMALL), []
    for _ in range(ROUND_TRIPS):
        start = time.perf_counter()
        await channel.request("echo", {}, body, timeout_s=10, reply_bytes=SMALL)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


async def measure(sockets: Sockets, port: int, rounds: int) -> dict[str, list[float]]:
    hello = Hello(PROTOCOL, PeerId("a" * 32), "client", "tensors")
    channel = await TcpTransport().dial(Address("127.0.0.1", port), hello, Router(), timeout_s=5)
    found: dict[str, list[Any]] = {"their rate": [], "our rate": [], "their trip": [], "our trip": []}
    for _ in range(rounds):
        found["their rate"].append(sockets.big_per_s())
        found["our rate"].append(await channel_big_per_s(channel))
        found["their trip"].append(sockets.round_trip_s())
        found["our trip"].append(await channel_round_trip_s(channel))
    await channel.aclose()
    return found


async def secured_s(times: int) -> float:
    """From the first packet to the first answer under TLS 1.3, both sides on one core's event loop."""
    secret, router, taken = Secret.new(), Router(), []
    one, other = ephemeral(secret), ephemeral(secret)
    router.add("echo", lambda _, call: Reply(call.fields))
    home = TcpTransport(one.server, one.client, identify=identify)
    guest = TcpTransport(other.server, other.client, identify=identify)
    arrived: list[Channel] = []
    listener = await home.listen(
        [Address("127.0.0.1", 0)], Hello(PROTOCOL, one.id, "home", "control"), router, arrived.append
    )
    for _ in range(times):
        start = time.perf_counter()
        hello = Hello(PROTOCOL, other.id, "guest", "control")
        channel = await guest.dial(listener.addresses[0], hello, Router(), timeout_s=5)
        await channel.request("echo", {}, timeout_s=5)
        taken.append(time.perf_counter() - start)
        await channel.aclose()
    for channel in arrived:
        await channel.aclose()
    await listener.aclose()
    return statistics.median(taken)


def main(rounds: int) -> None:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=server, args=(there,))
    process.start()
    sockets = Sockets(here.recv())
    found = uvloop.run(measure(sockets, here.recv(), rounds))
    sockets.sock.close()
    process.join()
    middle = {name: statistics.median(values) for name, values in found.items()}
    rate, trip = middle["our rate"] / middle["their rate"], middle["our trip"] / middle["their trip"]
    sys.stdout.write(
        f"8 MB one way, GB/s   sockets {middle['their rate'] / 1e9:5.2f}   channel {middle['our rate'] / 1e9:5.2f}   "
        f"ratio {rate:.2f} (bar: at least 0.80)\n"
        f"1 KB round trip, us  sockets {middle['their trip'] * 1e6:5.1f}   channel {middle['our trip'] * 1e6:5.1f}   "
        f"ratio {trip:.2f} (bar: at most 2.00)\n"
        f"TLS connect and first answer, ms   {uvloop.run(secured_s(20 * rounds)) * 1e3:.2f} (bar: below 10)\n"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
