"""The plans that a session may use now: the best first, then its standbys. Requests pick one that is whole."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any

from swarm.dataflow import Dataflow
from swarm.errors import DeadlineExceeded, PeerLost, SwarmError
from swarm.exchange import Exchange
from swarm.plan import Plan
from swarm.route import Route
from swarm.types import View

log = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""How long a request waits for a new plan once an attempt to come to one has failed."""

Spawn = Callable[..., asyncio.Task[None]]
"""Begins a task from an asynchronous function and its arguments."""


class Routes:
    """Owned by a session's healer, which adopts plans and mends when `needs_mending` is set."""

    def __init__(
        self, exchange: Exchange, dataflow: Dataflow, spawn: Spawn, on_worse: Callable[[], None] = lambda: None
    ) -> None:
        self.needs_mending = asyncio.Event()
        self.failure: SwarmError | None = None
        """Why the last attempt to mend came to nothing; None while there is hope."""
        self._exchange = exchange
        self._dataflow = dataflow
        self._spawn = spawn
        self._used: list[Route] = []
        self._open: set[Route] = set()
        self._keepers: dict[Route, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._over: SwarmError | None = None
        self._is_worse = on_worse
        """Called when a plan in use goes on without somebody."""

    @property
    def plan(self) -> Plan:
        """The one that requests take now, or took last."""
        return next((route for route in self._used if route.broken is None), self._used[0]).plan

    @property
    def plans(self) -> list[Plan]:
        """All that are in use, broken or not."""
        return [route.plan for route in self._used]

    @property
    def in_flight(self) -> int:
        """Requests that are under way."""
        return sum(route.in_flight for route in self._used)

    @property
    def has_answered(self) -> bool:
        """Some plan in use has proved that it works."""
        return any(route.has_answered for route in self._used)

    def uses(self, route: Route) -> bool:
        return route in self._used and route.broken is None

    def at_hand(self, avoid: Sequence[Route] = ()) -> Route | None:
        """The best one that is whole; none any more when the session is over."""
        if self._over is None:
            for route in self._used:
                if route.broken is None and route not in avoid:
                    return route
        return None

    async def pick(self, deadline: float) -> Route:
        """A route that is whole. Waits for one to be mended, until the deadline, or a while after that has failed.

        :raises SwarmError: why there is none.
        """
        began = monotonic()
        while True:
            if self._over is not None:
                raise _again(self._over)
            if (route := self.at_hand()) is not None:
                return route
            limit = deadline if self.failure is None else min(deadline, began + PATIENCE_S)
            if monotonic() >= limit:
                raise self._why_not()
            changed = self._changed
            try:
                async with asyncio.timeout(min(limit - monotonic(), 1.0)):
                    await changed.wait()
            except TimeoutError:
                continue

    def adopt(self, plans: Sequence[Plan]) -> None:
        """Use these from now on; requests that are on others end there."""
        for route in self._used:
            self._retire(route)
        self._used = [self._routed(plan) for plan in plans]
        self.failure = None
        self.needs_mending.clear()
        self._tell()

    def release_broken(self) -> None:
        """Let the peers of broken plans go, before others are asked for."""
        for route in self._used:
            if route.broken is not None:
                self._retire(route)

    def check(self, view: View) -> None:
        """Whatever needs a peer that is gone is broken."""
        here = {seen.record.id: seen.record.name for seen in view.peers if not seen.state.is_gone}
        for route in self._used:
            gone = [peer for peer in route.plan.peers() if peer not in here]
            if all(map(route.plan.spares, gone)):
                before, route.lacks = route.lacks, frozenset(gone)
                if route.lacks - before:
                    self._is_worse()
                continue
            names = (record.name if (record := view.find(peer)) else peer[:8] for peer in gone)
            route.fail(PeerLost(f"Lost {' and '.join(names)}, which this plan needs."))

    def failed_to_mend(self, error: SwarmError) -> None:
        self.failure = error
        self._tell()

    def end(self, error: SwarmError) -> None:
        """No request is taken any more."""
        self._over = self._over or error
        self._tell()

    async def aclose(self) -> None:
        """End all routes; idempotent, and bounded in time."""
        self.end(PeerLost("This session was closed before the answer came; load the model again."))
        self._keepers.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(route.aclose() for route in self._open))

    def start(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> asyncio.Task[None]:
        """A task that ends with the session at the latest."""
        task = self._spawn(work, *arguments)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _routed(self, plan: Plan) -> Route:
        route = Route(plan, self._exchange, self._dataflow, self._broke)
        self._open.add(route)
        self._keepers[route] = self.start(route.keep)
        return route

    def _retire(self, route: Route) -> None:
        keeper = self._keepers.pop(route, None)
        if keeper is not None:
            self.start(self._end, route, keeper)

    async def _end(self, route: Route, keeper: asyncio.Task[None]) -> None:
        """Its leases are kept for as long as requests are on it."""
        if route.broken is None:
            await route.drained()
        keeper.cancel()
        await route.aclose()
        self._open.discard(route)

    def _broke(self, route: Route) -> None:
        log.info("plan %s is broken: %s", route.plan.id, route.broken)
        if route in self._used:
            self.needs_mending.set()
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _why_not(self) -> SwarmError:
        lost = next((route.broken for route in self._used if route.broken), None)
        if lost is None:
            return DeadlineExceeded("No plan was ready before the deadline; allow more time.")
        if self.failure is None or str(self.failure) == str(lost):
            return _again(lost)
        return type(lost)(f"{lost} And no other plan works: {self.failure}")


def _again(error: SwarmError) -> SwarmError:
    """A fresh one: an error collects what it passes through."""
    return type(error)(str(error))
