"""Those who have connected and not yet said hello: only a few of them, and not for long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from swarm.errors import SwarmError
from swarm.transport.base import Limits

logger = logging.getLogger(__name__)


class Doorstep:
    """Owns a task for each stranger of one listener. When it is full, whoever has stood there longest is dropped: an
    honest peer says hello in milliseconds."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._greetings: dict[asyncio.Task[None], None] = {}

    def welcome(self, greeting: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `greeting` until it ends, for `hello_s` at most."""
        if len(self._greetings) >= self._limits.strangers:
            next(iter(self._greetings)).cancel()
        task = asyncio.get_running_loop().create_task(self._bounded(greeting))
        self._greetings[task] = None

        def ended(task: asyncio.Task[None]) -> None:
            self._greetings.pop(task, None)
            greeting.close()  # a task that is cancelled before its first step never awaits it

        task.add_done_callback(ended)
        return task

    async def aclose(self) -> None:
        """Send all strangers away."""
        while self._greetings:
            for task in self._greetings:
                task.cancel()
            await asyncio.wait(list(self._greetings))

    async def _bounded(self, greeting: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(self._limits.hello_s):
                await greeting
        except (SwarmError, OSError) as error:  # TimeoutError and ssl.SSLError are OSErrors
            logger.debug("A stranger was turned away: %s", str(error) or "it said no hello")
