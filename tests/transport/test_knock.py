"""What a door says of those behind it: a stalled process, a dead one, a pulled cable, and trouble of one's own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from swarm.transport import Router, TcpTransport
from swarm.transport.knock import knock
from swarm.types import Address, Door
from tests.lab import Lab
from tests.transport.contract import ALICE, hello

LISTEN = """
import asyncio, sys
from swarm.transport import *
async def main():
    me = Hello(PROTOCOL, "b" * 32, "b", "control")
    listener = await TcpTransport().listen([Address(sys.argv[1], 0)], me, Router(), lambda channel: None)
    print(listener.addresses[0].port, flush=True)
    await asyncio.Event().wait()
from swarm.types import Address
asyncio.run(main())
"""
KNOCK = """
import asyncio, sys
from swarm.transport.knock import knock
from swarm.types import Address
print(asyncio.run(knock([Address.parse(text) for text in sys.argv[2:]], float(sys.argv[1]))))
"""


@contextmanager
def listener() -> Iterator[tuple[subprocess.Popen[str], Address]]:
    """A peer in a process of its own."""
    process = subprocess.Popen([sys.executable, "-c", LISTEN, "127.0.0.1"], stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            yield process, Address("127.0.0.1", int(process.stdout.readline()))
        finally:
            process.kill()


@pytest.mark.may_block("starts a process")
async def test_a_stalled_process_is_open_however_many_knock() -> None:
    with listener() as (process, address):
        assert await knock([address], 5) is Door.OPEN
        os.kill(process.pid, signal.SIGSTOP)
        dials = [
            asyncio.create_task(TcpTransport().dial(address, hello(ALICE), Router(), timeout_s=60)) for _ in range(100)
        ]
        try:
            assert [await knock([address], 5) for _ in range(300)] == [Door.OPEN] * 300
            if hasattr(socket, "TCP_DEFER_ACCEPT"):  # then even more than the backlog holds leave no trace
                assert [await knock([address], 5) for _ in range(1500)] == [Door.OPEN] * 1500
        finally:
            os.kill(process.pid, signal.SIGCONT)
        for dial in dials:
            await (await dial).aclose()
        process.kill()
        process.wait()
        assert await knock([address], 5) is Door.SHUT


@pytest.mark.may_block("starts processes")
async def test_a_pulled_cable_is_silent_and_no_route_is_unknown() -> None:
    with Lab(2) as lab:

        def ask(*addresses: str) -> Door:
            command = [sys.executable, "-c", KNOCK, "0.5", *addresses]
            asked = lab.popen(0, command, stdout=subprocess.PIPE, text=True)
            said, _ = asked.communicate(timeout=20)
            return Door(said.strip())

        there = lab.popen(1, [sys.executable, "-c", LISTEN, lab.address(1)], stdout=subprocess.PIPE, text=True)
        assert there.stdout is not None
        address = f"{lab.address(1)}:{int(there.stdout.readline())}"
        assert ask(address) is Door.OPEN
        assert ask(f"{lab.address(1)}:9") is Door.SHUT
        assert ask("192.0.2.1:9") is Door.UNKNOWN
        lab.unplug(1)
        assert ask(address) is Door.SILENT
        assert ask("192.0.2.1:9", address) is Door.SILENT


async def test_the_best_of_several_addresses_counts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = Address(*server.getsockname())
        nobody = Address("127.0.0.1", 1)
        assert await knock([nobody], 5) is Door.SHUT
        assert await knock([nobody, there, nobody], 5) is Door.OPEN


async def test_without_an_address_nothing_is_known() -> None:
    assert await knock([], 5) is Door.UNKNOWN
    assert await knock([Address("x" * 70, 9), Address("a\0b", 9)], 5) is Door.UNKNOWN


@pytest.mark.may_block("the loop that lags is what is tested")
async def test_silence_means_nothing_to_a_loop_that_lags(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        loop.call_soon(time.sleep, 0.6)
        assert await knock([Address(*server.getsockname())], 0.05) is Door.OPEN
    monkeypatch.setattr(loop, "sock_connect", never)
    assert await knock([Address("127.0.0.1", 1)], 0.05) is Door.SILENT
    loop.call_soon(time.sleep, 0.6)
    assert await knock([Address("127.0.0.1", 1)], 0.05) is Door.UNKNOWN


async def test_no_sockets_left_is_ones_own_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("swarm.transport.knock.socket.socket", full)
        assert await knock([Address("127.0.0.1", 1)], 5) is Door.UNKNOWN


async def test_nothing_lingers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address(*server.getsockname())
        before = psutil.Process().num_fds()
        for _ in range(50):
            assert await knock([address], 5) is Door.OPEN
        assert psutil.Process().num_fds() == before
