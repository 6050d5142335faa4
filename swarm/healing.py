"""Keeps the plans of one session alive: mends what breaks, moves to what is better, between requests.

                 ┌── broken: plan again, negotiate, adopt ◀── a peer is lost, a lease ends, a request straggles
    routes ──────┤
                 └── review: would another plan be better? ◀── somebody joined, a link changed, a doubt faded

A request takes the first route that is whole; standbys, which `survive=K` asks for, come after the best.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from time import monotonic
from typing import Any

from swarm.dataflow import Dataflow
from swarm.errors import DeadlineExceeded, PeerLost, PeerUnreachable, SwarmError
from swarm.exchange import Exchange
from swarm.order import Order
from swarm.plan import INPUT, Estimate, Plan
from swarm.route import Route
from swarm.types import PeerId, View
from swarm.whereabouts import Sighting, culprit

log = logging.getLogger(__name__)

MEND_S = 60.0
RETRY_S = (0.2, 3.0)
"""Pauses after an attempt to mend that failed: the first, and the longest."""
PATIENCE_S = 5.0
"""How long a request waits for a new plan after an attempt to come to one has failed."""
REVIEW_S = 30.0
SETTLE_S = 1.0
ASK_AROUND_S = 15.0
BETTER = 1.15
"""A plan has to be predicted so many times better before a session that works moves to it."""

Spawn = Callable[..., asyncio.Task[None]]
"""Begins a task from an asynchronous function and its arguments."""


class Healer:
    """`begin`, then `run` beside the session; `aclose` ends all routes."""

    def __init__(
        self, order: Order, exchange: Exchange, dataflow: Dataflow, view: Callable[[], View], spawn: Spawn
    ) -> None:
        self._order = order
        self._exchange = exchange
        self._dataflow = dataflow
        self._view = view
        self._spawn = spawn
        self._routes: list[Route] = []
        self._open: set[Route] = set()
        self._keepers: dict[Route, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._failure: SwarmError | None = None
        self._hosts: frozenset[tuple[PeerId, int]] = frozenset()
        self._review_at = monotonic() + REVIEW_S
        self._is_closed = False

    @property
    def plan(self) -> Plan:
        """The one that requests take now, or took last."""
        return next((route for route in self._routes if route.broken is None), self._routes[0]).plan

    def begin(self, plans: Sequence[Plan]) -> None:
        self._hosts = _hosts(self._view())
        self._adopt(plans)

    # What requests need

    async def pick(self, deadline: float, avoid: Route | None = None) -> Route:
        """A route that is whole. Waits for one to be mended, until the deadline, or a while after that has failed.

        :raises SwarmError: why there is none.
        """
        began = monotonic()
        while True:
            for route in self._routes:
                if route.broken is None and route is not avoid:
                    return route
            limit = deadline if self._failure is None else min(deadline, began + PATIENCE_S)
            if self._is_closed or monotonic() >= limit:
                raise self._why_not()
            changed = self._changed
            try:
                async with asyncio.timeout(min(limit - monotonic(), 1.0)):
                    await changed.wait()
            except TimeoutError:
                continue

    def failed(self, route: Route, error: SwarmError) -> None:
        """A request on it ended so. Its peers that are gone are doubted; or else, if it broke off, the link."""
        now, view = monotonic(), self._view()
        gone = [peer for peer in route.plan.peers() if not _is_here(view, peer)]
        for peer in gone:
            self._order.doubts.lost(peer, now)
        if not gone and error.reporter and isinstance(error, (PeerLost, PeerUnreachable)):
            for edge in route.plan.edges:
                if edge.sender == error.reporter != edge.receiver:
                    self._order.doubts.narrow(edge.sender, edge.receiver, 1.0, now)
        route.fail(error)

    async def look_for(self, route: Route) -> None:
        """A request of this route straggles: find out where, and plan around that."""
        seen = culprit(await self._dataflow.whereabouts.look(route.plan))
        if seen is None or route.broken is not None or route not in self._routes:
            return
        self._blame(route, seen)
        self._review_at = monotonic()
        self._wake.set()

    def _blame(self, route: Route, seen: Sighting) -> None:
        now, doubts = monotonic(), self._order.doubts
        if seen.stand is None:
            doubts.slow(seen.peer, 10.0, now)
            return
        stand = seen.stand
        if stand.to:
            doubts.narrow(seen.peer, PeerId(stand.to), max(1.0, stand.nbytes / max(stand.since_s, 1e-3)), now)
        elif stand.step != INPUT:
            expected_s = next((s.compute_s for s in route.plan.estimate.steps if s.step == stand.step), 0.0)
            doubts.slow(seen.peer, max(2.0, stand.since_s / expected_s) if expected_s else 10.0, now)
        log.info("plan %s is held up at %s by step %s", route.plan.id, seen.peer[:8], stand.step)

    # Beside

    async def run(self, views: AsyncIterator[View]) -> None:
        """Mend and review, until cancelled."""
        watching = asyncio.create_task(self._watch(views))
        pause_s = RETRY_S[0]
        try:
            while True:
                self._wake.clear()
                if any(route.broken for route in self._routes):
                    pause_s = RETRY_S[0] if await self._mend() else min(RETRY_S[1], 2 * pause_s)
                elif monotonic() >= self._review_at:
                    await self._review()
                await self._sleep(pause_s if any(r.broken for r in self._routes) else self._review_at - monotonic())
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _watch(self, views: AsyncIterator[View]) -> None:
        """Who comes is worth a review, once it had time to settle; a route with somebody gone is broken at once."""
        async for view in views:
            for route in self._routes:
                if gone := _gone(view, route.plan):
                    route.fail(PeerLost(f"Lost {' and '.join(gone)}, which this plan needs."))
            hosts = _hosts(view)
            if hosts - self._hosts:
                self._review_at = min(self._review_at, monotonic() + SETTLE_S)
                self._wake.set()
            self._hosts = hosts

    async def _mend(self) -> bool:
        """Replace what is broken by plans for the swarm as it is now; say whether it went."""
        broken = [route for route in self._routes if route.broken is not None]
        for route in broken:
            self._retire(route)
        await asyncio.sleep(0)  # the releases are on their way before the offers are
        try:
            plans = await self._order.agree(self._view(), MEND_S, _quiet, [route.plan for route in self._routes])
        except SwarmError as error:
            log.info("no other plan: %s", error)
            self._failure = error
            self._tell()
            return False
        self._adopt(plans)
        return True

    async def _review(self) -> None:
        """Move to a better plan, if there is one: the next requests take it, those under way end where they are."""
        self._review_at = monotonic() + REVIEW_S
        if self._order.is_fixed:
            return
        view = self._view()
        await self._order.ask_around(view, ASK_AROUND_S)
        own = [route.plan for route in self._routes]
        outlook = self._order.outlook(self._view(), own)
        try:
            candidate = await asyncio.to_thread(self._order.candidate, outlook)
            if candidate.plan is None or not self._is_better(candidate.plan, outlook):
                return
            plans = await self._order.agree(self._view(), MEND_S, _quiet, own)
        except SwarmError as error:
            log.info("stays with its plan: %s", error)
            return
        self._adopt(plans)

    def _is_better(self, plan: Plan, view: View) -> bool:
        now, then = self._order.predict(self.plan, view), plan.estimate
        return _badness(now, self._order.goal.metric) > BETTER * _badness(then, self._order.goal.metric) > 0

    def _adopt(self, plans: Sequence[Plan]) -> None:
        for route in list(self._routes):
            self._retire(route)
        self._routes = [self._routed(plan) for plan in plans]
        self._failure = None
        self._tell()

    def _routed(self, plan: Plan) -> Route:
        route = Route(plan, self._exchange, self._dataflow, self._broke)
        self._open.add(route)
        self._keepers[route] = self._start(route.keep)
        return route

    def _retire(self, route: Route) -> None:
        keeper = self._keepers.pop(route, None)
        if keeper is not None:
            keeper.cancel()
            self._start(self._end, route)

    async def _end(self, route: Route) -> None:
        await (route.aclose() if route.broken else route.drain())
        self._open.discard(route)

    def _broke(self, route: Route) -> None:
        log.info("plan %s is broken: %s", route.plan.id, route.broken)
        self._failure = None
        self._wake.set()
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _start(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> asyncio.Task[None]:
        task = self._spawn(work, *arguments)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _why_not(self) -> SwarmError:
        lost = next((route.broken for route in self._routes if route.broken), None)
        if self._failure is None or lost is None:
            return lost or DeadlineExceeded("No plan was ready before the deadline; allow more time.")
        if str(self._failure) == str(lost):
            return type(lost)(str(lost))
        return type(lost)(f"{lost} And no other plan works: {self._failure}")

    async def aclose(self) -> None:
        """End all routes; idempotent, and bounded in time."""
        self._is_closed = True
        self._tell()
        self._keepers.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(route.aclose() for route in self._open))


def _quiet(what: str, fraction: float | None) -> None:
    """Nobody watches a session mend itself."""


def _hosts(view: View) -> frozenset[tuple[PeerId, int]]:
    return frozenset((record.id, record.incarnation) for record in view.hosts())


def _gone(view: View, plan: Plan) -> list[str]:
    return [seen.record.name for seen in view.peers if seen.state.is_gone and seen.record.id in plan.peers()]


def _is_here(view: View, peer: PeerId) -> bool:
    return any(seen.record.id == peer and not seen.state.is_gone for seen in view.peers)


def _badness(estimate: Estimate, metric: str) -> float:
    """What the goal wants little of; 0 when it is not known."""
    if metric == "throughput":
        return 1 / estimate.throughput_per_s if estimate.throughput_per_s else 0.0
    if metric == "memory":
        return float(max(estimate.peak_memory_bytes.values(), default=0))
    return estimate.latency_s
