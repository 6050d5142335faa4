"""A member of a swarm as a process of its own that computes nothing: a real `Peer`, with real sockets and TLS.

It writes a line of JSON for each change of its view, with the machine's monotonic time, so that the lines of several
processes can be compared. `spin SECONDS` on its standard input holds its interpreter for about so long.

Started by `tests/members.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import threading
import time
from typing import Any


async def _main(arguments: argparse.Namespace) -> None:
    from swarm import Peer

    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    threading.Thread(target=_obey, args=(loop, over), daemon=True).start()
    interfaces = [arguments.interface]
    peer = Peer(
        arguments.name,
        port=arguments.port,
        interfaces=interfaces,
        peers=arguments.peer,
        mdns=not arguments.peer,
        client=True,
        remember=False,
        on_problem=lambda text: _say(problem=text),
    )
    async with peer:
        _say(ready=peer.name, id=peer.id, port=peer.view().find(peer.id).addresses[0].port)  # type: ignore[union-attr]
        watching = asyncio.create_task(_watch(peer))
        await over.wait()
        watching.cancel()
    _say(left=peer.name)


async def _watch(peer: Any) -> None:
    async for view in peer.changes():
        peers = sorted(view.peers, key=lambda seen: seen.state == "alive")  # it may have had another id before
        _say(states={seen.record.name: seen.state for seen in peers})


def _obey(loop: asyncio.AbstractEventLoop, over: asyncio.Event) -> None:
    for line in sys.stdin:
        seconds = float(line.split()[1])
        loop.call_soon_threadsafe(_spin, seconds)


def _spin(seconds: float) -> None:
    """One call into C that never lets go of the interpreter's lock."""
    began = time.perf_counter()
    sum(range(5_000_000))
    each = time.perf_counter() - began
    sum(range(int(5_000_000 * seconds / each)))


def _say(**what: Any) -> None:
    sys.stdout.write(json.dumps({"t": time.monotonic(), **what}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--name")
    parser.add_argument("--interface")
    parser.add_argument("--port", type=int)
    parser.add_argument("--peer", action="append", default=[])
    asyncio.run(_main(parser.parse_args()))
