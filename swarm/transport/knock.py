"""A knock at a peer's door, which its kernel answers: a stalled process's accepts, a dead one's refuses, a dead host's
says nothing. Three answers, three states.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

from swarm.types import Address, Door

_HOST_IS_SILENT: Final = {errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ETIMEDOUT}
_LAST_LOOK_S: Final = 0.01
_MAY_LAG_S: Final = 0.25
_RANK: Final = (Door.UNKNOWN, Door.SILENT, Door.SHUT, Door.OPEN)
_ABORTIVELY: Final = struct.pack("ii" if os.name == "posix" else "hh", 1, 0)


async def knock(addresses: Sequence[Address], timeout_s: float) -> Door:
    """Try to connect to all `addresses` at once, and hang up at once: what the best of them says within `timeout_s`.

    `OPEN` ends it early. `UNKNOWN` when this device cannot tell: no address, no route, no sockets left, a name that
    does not resolve, or an event loop that looked so late that silence means nothing. Never raises for a network.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    attempts = [_Attempt(address) for address in dict.fromkeys(addresses)]
    tasks = {loop.create_task(attempt.run()) for attempt in attempts}
    waiting = tasks
    try:
        while waiting and (left_s := deadline - loop.time()) > 0 and Door.OPEN not in _doors(attempts):
            _, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        late_s = loop.time() - deadline
        if waiting:  # what came while this loop was busy elsewhere has not been read yet
            await asyncio.wait(waiting, timeout=_LAST_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    best = max(_doors(attempts), key=_RANK.index, default=Door.UNKNOWN)
    is_late = late_s > max(_MAY_LAG_S, timeout_s / 2)
    return Door.UNKNOWN if best is Door.SILENT and is_late else best


class _Attempt:
    """At one address; `door` is what is known so far."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self.door = Door.UNKNOWN

    async def run(self) -> None:
        try:
            family, where = await self._resolve()
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORTIVELY)
                self.door = Door.SILENT
                await asyncio.get_running_loop().sock_connect(sock, where)
            self.door = Door.OPEN
        except ConnectionRefusedError:
            self.door = Door.SHUT
        except ConnectionResetError:  # taken, and thrown out: somebody lives there
            self.door = Door.OPEN
        except OSError as error:
            self.door = Door.SILENT if error.errno in _HOST_IS_SILENT else Door.UNKNOWN
        except ValueError:  # a host that cannot even be looked up
            self.door = Door.UNKNOWN

    async def _resolve(self) -> tuple[int, tuple[str | int, ...] | tuple[int, bytes]]:
        """Family and socket address; a number needs no thread, which would wait for a busy machine."""
        host, port = self._address.host, self._address.port
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return found[0][0], found[0][4]


def _doors(attempts: Sequence[_Attempt]) -> list[Door]:
    return [attempt.door for attempt in attempts]
