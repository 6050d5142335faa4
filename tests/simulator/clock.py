"""Virtual time: what is to happen, in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Clock:
    """Runs what was put off, at `now`; things of the same time in the order in which they were put off."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when: float, what: Callable[..., None], *given: Any) -> None:
        self._count += 1
        heapq.heappush(self._queue, (when, self._count, what, given))

    def after(self, pause_s: float, what: Callable[..., None], *given: Any) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + pause_s, self._count, what, given))

    def run(self, until: float) -> None:
        queue, pop = self._queue, heapq.heappop
        while queue and queue[0][0] <= until:
            when, _, what, given = pop(queue)
            self.now = max(self.now, when)
            what(*given)
        self.now = max(self.now, until)
