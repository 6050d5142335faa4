"""One request to its answer: on the session's plan, on another when that breaks, on two at once when it is late.

pick a route ─▶ ask ─▶ answer
     ▲           ├─ lost ─▶ the route is broken, the healer mends; the input is still here: ask again
     └───────────┘
                 └─ late ─▶ find out where it is; ask on another route beside it, the first answer counts
"""

from __future__ import annotations

import asyncio
from random import uniform
from time import monotonic

from swarm.errors import BadInput, DeadlineExceeded, Overloaded, PeerError, SwarmError, TooLate
from swarm.healing import Healer
from swarm.requests import Outcome
from swarm.route import Route
from swarm.types import Array

OVERLOADED_S, MAX_PAUSE_S = 0.02, 1.0
"""How long a request waits before it knocks again at a full queue: at first, and, doubled each time, at most."""
SPREAD = (0.75, 1.25)
"""Of that pause: those who were refused together shall not come back together."""
MAX_LOSSES, MAX_FAILURES = 6, 2
"""A request under which peers go or fail again and again may itself be the cause."""
MAX_HEDGES = 8
"""Requests of one session that may be asked twice at once: the cure must not be a second illness."""
LOOK_S = 0.25
"""How often a late request looks for another way."""


class Answering:
    """All requests of one session."""

    def __init__(self, healer: Healer) -> None:
        self.healer = healer
        self.hedges = 0

    async def answer(self, x: Array, deadline: float, *, waits: bool = True) -> tuple[Outcome, int]:
        """The outcome for `x` `[B, ...]`, and how many attempts it took; until `deadline` (monotonic seconds). It
        `waits` where queues are full, and asks again.

        :raises SwarmError: no plan could answer; the sentence says why.
        """
        request = _Request(self, x, deadline, waits)
        try:
            while True:
                if not request.is_out:
                    request.ask(self.healer.routes.at_hand() or await self.healer.routes.pick(deadline))
                outcome = await request.wait()
                if outcome is not None:
                    if missing := [peer for row in outcome.trace for peer in row.missing]:
                        self.healer.went_without(outcome.plan, missing)
                    return outcome, request.attempts
        finally:
            await request.end()


class _Request:
    """One input, and the tasks that are out for its answer."""

    def __init__(self, all_: Answering, x: Array, deadline: float, waits: bool) -> None:
        self.attempts = 0
        self._all = all_
        self._x = x
        self._deadline = deadline
        self._waits = waits
        self._asked: dict[asyncio.Task[Outcome], Route] = {}
        self._full: list[Route] = []
        """Those that have just refused it."""
        self._looking: asyncio.Task[bool] | None = None
        self._loop = asyncio.get_running_loop()
        self._woken = self._loop.create_future()
        self._is_late = False
        self._is_hedged = False
        self._failures = self._refusals = 0

    @property
    def is_out(self) -> bool:
        return bool(self._asked)

    def ask(self, route: Route) -> None:
        self.attempts += 1
        if not self._asked:
            self._is_late = False
        asked = self._loop.create_task(route.ask(self._x, self._deadline))
        asked.add_done_callback(self._wake)
        self._asked[asked] = route

    def _wake(self, _asked: asyncio.Task[Outcome] | None = None) -> None:
        if not self._woken.done():
            self._woken.set_result(None)

    async def wait(self) -> Outcome | None:
        """Until something ends or it is late. None unless it is the answer; raises what no other plan can help."""
        route = next(iter(self._asked.values()))
        late_s = LOOK_S if self._is_late else route.patience_s(len(self._x))
        if not any(task.done() for task in self._asked):
            self._woken = self._loop.create_future()
            timer = self._loop.call_later(late_s, self._wake)
            try:
                await self._woken
            finally:
                timer.cancel()
        done = [task for task in self._asked if task.done()]
        if not done:
            self._late(route, late_s)
        for task in done:
            if (outcome := await self._ended(task, self._asked.pop(task))) is not None:
                if self._is_late:
                    self._all.healer.came_late()
                return outcome
        return None

    async def _ended(self, task: asyncio.Task[Outcome], route: Route) -> Outcome | None:
        try:
            return task.result()
        except Overloaded as full:
            await self._refused(route, full)
        except DeadlineExceeded:
            if not self._asked:
                raise
        except SwarmError as error:
            self._failures += 1
            most = MAX_LOSSES if isinstance(error, PeerError) else MAX_FAILURES
            if not _is_anothers(error) or self._failures >= most:
                raise
            self._all.healer.failed(route, error)
        return None

    async def _refused(self, route: Route, full: Overloaded) -> None:
        """Another route may have room; else knock again in a while, if that may help."""
        if self._asked:
            return
        self._full.append(route)
        other = self._all.healer.routes.at_hand(self._full)
        if other is not None:
            self.ask(other)
            return
        pause_s = max(full.retry_after_s, OVERLOADED_S * 2**self._refusals) * uniform(*SPREAD)
        if isinstance(full, TooLate) or not self._waits or monotonic() + pause_s >= self._deadline:
            raise full  # later is no better
        self._refusals += 1
        await asyncio.sleep(min(pause_s, MAX_PAUSE_S))
        self._full.clear()

    def _late(self, route: Route, late_s: float) -> None:
        """Have it looked for; ask on another route as soon as there is one, or again where nobody has it."""
        healer = self._all.healer
        if not self._is_late:
            self._is_late = True
            self._looking = asyncio.create_task(healer.look_for(route, late_s))
        if self._is_hedged or (self._all.hedges >= MAX_HEDGES and healer.routes.uses(route)):
            return
        is_nowhere = self._looking is not None and self._looking.done() and not self._looking.result()
        other = route if is_nowhere and healer.routes.uses(route) else healer.routes.at_hand([route])
        if other is not None:
            self._is_hedged = True
            self._all.hedges += 1
            self.ask(other)

    async def end(self) -> None:
        """Whoever is still out comes back; the peers are told."""
        self._all.hedges -= self._is_hedged
        tasks: set[asyncio.Task[Outcome] | asyncio.Task[bool]] = {*self._asked}
        tasks |= {self._looking} if self._looking is not None else set()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # seen


def _is_anothers(error: SwarmError) -> bool:
    """Not the request's own fault, as far as can be told: another plan may answer it."""
    return isinstance(error, PeerError) or (bool(error.reporter) and not isinstance(error, BadInput))
