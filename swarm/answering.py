"""One request to its answer: on the session's plan, on another when that breaks, on two at once when it is late.

pick a route ─▶ ask ─▶ answer
     ▲           ├─ lost ─▶ the route is broken, the healer mends; the input is still here: ask again
     └───────────┘
                 └─ late ─▶ find out where it is; ask on another route beside it, the first answer counts
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from time import monotonic
from typing import Any

from swarm.errors import DeadlineExceeded, Overloaded, PeerError, SwarmError
from swarm.healing import Healer
from swarm.requests import Outcome
from swarm.route import Route
from swarm.types import Array

OVERLOADED_S = 0.2
"""How long a request waits before it knocks again at a queue that was full."""
MAX_HEDGES = 8
"""Requests of one session that may be asked twice at once: the cure must not be a second illness."""


class Answering:
    """All requests of one session."""

    def __init__(self, healer: Healer) -> None:
        self._healer = healer
        self._hedges = 0

    async def answer(self, x: Array, deadline: float) -> tuple[Outcome, int]:
        """The outcome for `x` `[B, ...]`, and how many attempts it took; until `deadline` (monotonic seconds).

        :raises SwarmError: no plan could answer; the sentence says why.
        """
        route = await self._healer.pick(deadline)
        request = _Request(self._healer, x, deadline)
        try:
            request.ask(route)
            while True:
                late_s = None if request.is_hedged or self._hedges >= MAX_HEDGES else route.patience_s
                outcome = await request.wait(late_s)
                if outcome is not None:
                    return outcome, request.attempts
                if request.has_none:
                    route = await self._healer.pick(deadline)
                    request.ask(route)
                elif not request.is_hedged:
                    self._hedges += 1
                    request.hedge(route)
        finally:
            self._hedges -= request.is_hedged
            await request.end()


class _Request:
    """One input, and the tasks that are out for its answer."""

    def __init__(self, healer: Healer, x: Array, deadline: float) -> None:
        self.attempts = 0
        self.is_hedged = False
        self._healer = healer
        self._x = x
        self._deadline = deadline
        self._asked: dict[asyncio.Task[Outcome], Route] = {}
        self._others: set[asyncio.Task[None]] = set()

    @property
    def has_none(self) -> bool:
        return not self._asked and not self._others

    def ask(self, route: Route) -> None:
        self.attempts += 1
        self._asked[asyncio.create_task(route.ask(self._x, self._deadline))] = route

    def hedge(self, route: Route) -> None:
        """It is late on this route: have it looked for, and ask on another as soon as there is one."""
        self.is_hedged = True
        self._beside(self._healer.look_for(route))
        self._beside(self._ask_another(route))

    async def _ask_another(self, route: Route) -> None:
        try:
            self.ask(await self._healer.pick(self._deadline, avoid=route))
        except SwarmError:
            return  # then the first way has to do; it says itself what becomes of it

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._others.add(task)

    async def wait(self, late_s: float | None) -> Outcome | None:
        """Until something ends or it is late. None unless it is the answer; raises what no other plan can help."""
        tasks = {*self._asked, *self._others}
        done, _ = await asyncio.wait(tasks, timeout=late_s, return_when=asyncio.FIRST_COMPLETED)
        self._others -= done
        for task in [task for task in self._asked if task in done]:
            route = self._asked.pop(task)
            try:
                return task.result()
            except Overloaded:
                await asyncio.sleep(min(OVERLOADED_S, max(0.0, self._deadline - monotonic())))
                if monotonic() >= self._deadline:
                    raise
            except PeerError as error:
                self._healer.failed(route, error)
            except DeadlineExceeded:
                if not self._asked:
                    raise
        return None

    async def end(self) -> None:
        """Whoever is still out comes back; the peers are told."""
        tasks = {*self._asked, *self._others}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # seen
