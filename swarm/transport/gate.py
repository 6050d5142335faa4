"""Flow control: a gate that is shut while the connection has more to send than it should hold."""

from __future__ import annotations

import asyncio


class Gate:
    """Senders pass it one at a time, so that they do not all write at once when it opens."""

    def __init__(self) -> None:
        self.is_shut = False
        self._opened = asyncio.Event()
        self._turn = asyncio.Lock()

    def shut(self) -> None:
        self.is_shut = True
        self._opened.clear()

    def open(self) -> None:
        self.is_shut = False
        self._opened.set()

    async def passed(self) -> None:
        """Return when the gate is open and it is the caller's turn, who then writes without awaiting anything."""
        async with self._turn:
            if self.is_shut:
                await self._opened.wait()
