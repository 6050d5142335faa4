"""What is under way at this peer for requests: it can be stopped with its request, and holds bytes of its requester."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import Any

from swarm.types import PeerId

Key = tuple[str, int]
"""A plan's id and a request's number."""


class Underway:
    """Futures and tasks by the request that they belong to; each leaves by itself when it is done."""

    def __init__(self) -> None:
        self.held_bytes = Counter[PeerId]()
        """By requester."""
        self._works: dict[Key, set[asyncio.Future[Any]]] = {}

    def add(self, key: Key, work: asyncio.Future[Any], requester: PeerId, nbytes: int) -> None:
        """Until the work is done, its requester holds so many bytes here."""
        self._works.setdefault(key, set()).add(work)
        self.held_bytes[requester] += nbytes
        work.add_done_callback(partial(self._done, key, requester, nbytes))

    def stop(self, key: Key) -> None:
        """Cancel all of one request."""
        for work in self._works.pop(key, ()):
            work.cancel()

    def stop_all(self) -> None:
        for key in list(self._works):
            self.stop(key)

    def of_plan(self, plan_id: str) -> list[Key]:
        return [key for key in self._works if key[0] == plan_id]

    def _done(self, key: Key, requester: PeerId, nbytes: int, work: asyncio.Future[Any]) -> None:
        self.held_bytes[requester] -= nbytes
        if not self.held_bytes[requester]:
            del self.held_bytes[requester]
        works = self._works.get(key)
        if works is not None:
            works.discard(work)
            if not works:
                del self._works[key]
