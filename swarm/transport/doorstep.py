"""Those who have connected and not yet said hello: only a few of them, and not for long."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from ipaddress import ip_address
from typing import Any, Final

from swarm.errors import SwarmError
from swarm.transport.base import Limits

logger = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"


class Doorstep:
    """Owns a task for each stranger of one listener.

    When an address has as many as it may, its own oldest is dropped, and when the doorstep is full, the oldest of the
    address that has most. An honest peer says hello in milliseconds, so it is hardly ever the oldest; were newcomers
    refused instead, a few idle sockets would keep it out, on its own machine or behind the same router.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._standing: dict[asyncio.Task[None], str] = {}  # in the order of their coming, with their address
        self._leaving: set[asyncio.Task[None]] = set()

    def welcome(self, greeting: Coroutine[Any, Any, None], host: str = LOOPBACK) -> None:
        """Run `greeting` of somebody from `host` until it ends, for `hello_s` at most."""
        self._make_room(host)
        task = asyncio.get_running_loop().create_task(self._bounded(greeting))
        self._standing[task] = host

        def ended(task: asyncio.Task[None]) -> None:
            self._standing.pop(task, None)
            self._leaving.discard(task)
            greeting.close()  # a task that is cancelled before its first step never awaits it

        task.add_done_callback(ended)

    async def aclose(self) -> None:
        """Send all strangers away."""
        for task in list(self._standing):
            self._send_away(task)
        while self._leaving:
            await asyncio.wait(self._leaving)

    def _make_room(self, host: str) -> None:
        counts = Counter(self._standing.values())
        if counts[host] >= self._allowed(host):
            self._send_away_oldest(host)
        elif len(self._standing) >= self._limits.strangers:
            self._send_away_oldest(max(counts, key=counts.__getitem__))

    def _allowed(self, host: str) -> int:
        return self._limits.strangers if _is_loopback(host) else self._limits.strangers_per_address

    def _send_away_oldest(self, host: str) -> None:
        self._send_away(next(task for task, other in self._standing.items() if other == host))

    def _send_away(self, task: asyncio.Task[None]) -> None:
        del self._standing[task]
        self._leaving.add(task)
        task.cancel()

    async def _bounded(self, greeting: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(self._limits.hello_s):
                await greeting
        except (SwarmError, OSError) as error:  # TimeoutError and ssl.SSLError are OSErrors
            logger.debug("A stranger was turned away: %s", str(error) or "it said no hello")


def _is_loopback(host: str) -> bool:
    return ip_address(host.partition("%")[0]).is_loopback
