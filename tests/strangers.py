"""Peers that are not as they should be, as a process of its own: `python strangers.py '{"kind": …} …'`, one JSON each.

peer     speaks the protocol, with what is odd about it: its version, the years of its certificate
mute     takes connections and says nothing
full     takes no more connections, as if a firewall dropped them
babble   says something else
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

from swarm import discovery
from swarm.discovery import Discovery
from swarm.secret import Secret
from swarm.transport import PROTOCOL, Channel, Hello, Router, TcpTransport
from swarm.trust import Authority, credentials, identify, new_key
from swarm.types import Address

HOST = "0.0.0.0"


async def main(wishes: list[dict[str, Any]]) -> None:
    async with AsyncExitStack() as stack:
        for wish in wishes:
            await KINDS[wish.pop("kind")](stack, **wish)
        sys.stdout.write("here\n")
        sys.stdout.flush()
        await asyncio.sleep(600)


async def peer(
    stack: AsyncExitStack,
    port: int,
    secret: str,
    protocol: int = PROTOCOL,
    years: tuple[int, int] = (2020, 2120),
    host: str = HOST,
    announce: str = "",
) -> None:
    authority, key = Authority(Secret.parse(secret)), new_key()
    begin, end = (dt.datetime(year, 1, 1, tzinfo=dt.UTC) for year in years)
    mine = credentials(authority, key, authority.issue(key.public_key(), (begin, end)))
    hello = Hello(protocol, mine.id, "stranger", "control")
    transport = TcpTransport(mine.server, mine.client, identify=identify)
    channels: list[Channel] = []
    listener = await transport.listen([Address(host, port)], hello, Router(), channels.append)
    stack.push_async_callback(listener.aclose)
    if announce:
        vars(discovery)["PROTOCOL"] = protocol
        told = Discovery(mine.id, port, [announce], tag=mine.tag, interfaces=[announce], on_found=lambda *_: None)
        await stack.enter_async_context(told)


async def mute(stack: AsyncExitStack, port: int, host: str = HOST) -> None:
    stack.enter_context(socket.create_server((host, port)))


async def full(stack: AsyncExitStack, port: int, host: str = HOST) -> None:
    stack.enter_context(socket.create_server((host, port), backlog=0))
    for _ in range(3):
        waiting = stack.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(("127.0.0.1" if host == HOST else host, port))


async def babble(stack: AsyncExitStack, port: int, host: str = HOST) -> None:
    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP at your service\r\n")
        writer.close()

    await stack.enter_async_context(await asyncio.start_server(say, host, port))


KINDS: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "peer": peer,
    "mute": mute,
    "full": full,
    "babble": babble,
}

if __name__ == "__main__":
    asyncio.run(main([json.loads(text) for text in sys.argv[1:]]))
