"""Keeps the plans of one session alive: mends what breaks, moves to what is better, between requests.

    routes ──── broken: plan again, negotiate, adopt ◀── a peer is lost, a lease ends, a request fails
       └─────── review: would another plan be better? ◀── somebody joined, a request is late, time has passed

One of the two at a time; what is broken goes first, and a review that is under way gives way to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from random import uniform
from time import monotonic

from swarm import blame
from swarm.dataflow import Dataflow
from swarm.errors import SwarmError
from swarm.exchange import Exchange
from swarm.negotiation import release
from swarm.order import Order, Own
from swarm.plan import Estimate, Plan
from swarm.route import Route
from swarm.routes import Routes, Spawn
from swarm.types import PeerId, View
from swarm.whereabouts import culprit

log = logging.getLogger(__name__)

MEND_S = 300.0
RETRY_S = (0.2, 3.0)
"""Pauses after an attempt to mend that failed, or whose plan broke before it answered: the first, and the longest."""
REVIEW_S = 30.0
SPREAD = (0.75, 1.25)
"""Of the time between two reviews: many sessions that share a peer shall not all move at once, and back again."""
SETTLE_S = 1.0
ASK_AROUND_S = 15.0
HASTE_S = 1.0
"""How long a review that a late request asked for waits for what others know."""
BETTER = 1.15
"""A plan has to be predicted so many times better before a session that works moves to it."""


class Healer:
    """`begin`, then `run` beside the session; `aclose` ends all routes."""

    def __init__(
        self, order: Order, exchange: Exchange, dataflow: Dataflow, view: Callable[[], View], spawn: Spawn
    ) -> None:
        self.routes = Routes(exchange, dataflow, spawn, self._make_whole)
        self._order = order
        self._exchange = exchange
        self._whereabouts = dataflow.whereabouts
        self._view = view
        self._hosts: frozenset[PeerId] = frozenset()
        self._rates: dict[tuple[PeerId, PeerId], float] = {}
        self._due = asyncio.Event()
        self._review_at = monotonic() + REVIEW_S
        self._in_haste = self._is_lacking = False

    def begin(self, plans: Sequence[Plan]) -> None:
        """Use these plans, which every peer has loaded."""
        self._hosts = _hosts(self._view())
        self._adopt(plans)

    def failed(self, route: Route, error: SwarmError) -> None:
        """A request on it ended so, and another plan may do better."""
        blame.of_failure(self._order.doubts, self._view(), route.plan, error)
        route.fail(error)

    async def look_for(self, route: Route, late_s: float) -> bool:
        """A request of this route is late: find out where, and plan around that. False when nobody has it."""
        sightings = await self._whereabouts.look(route.plan)
        seen = culprit(sightings, late_s / 2)
        if seen is None:
            return False
        if self.routes.uses(route):
            log.info("plan %s is held up at %s", route.plan.id, seen.peer[:8])
            blame.of_delay(self._order.doubts, route.plan, seen)
            if seen.stand is not None and seen.stand.to and seen.peer == self._exchange.me:
                self._order.suspect(PeerId(seen.stand.to), blame.at_most(seen.stand))
            self._in_haste = True
            self._review_soon(0.0)
        return True

    def came_late(self) -> None:
        """A late request is answered: only now its peers and links know how slow they were."""
        self._in_haste = True
        self._review_soon(SETTLE_S)

    def went_without(self, plan: Plan | None, peers: Sequence[PeerId]) -> None:
        """An answer on this plan lacks what these members of a group should have given."""
        if plan is None or plan.id != self.routes.plan.id:
            return  # another one is in use by now
        for peer in peers:
            self._order.doubts.lost(peer, monotonic())
        self._make_whole()

    def name_of(self, peer: PeerId) -> str:
        record = self._view().find(peer)
        return peer[:8] if record is None else record.name

    def _make_whole(self) -> None:
        """A plan goes on without somebody: look for one that lacks nothing."""
        self._is_lacking = self._in_haste = True
        self._review_soon(0.0)

    async def run(self, views: AsyncIterator[View]) -> None:
        """Mend and review, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch(views))
                tasks.create_task(self._keep())
        except BaseExceptionGroup:
            self.routes.end(SwarmError("This session cannot plan any more, by a fault of its own; its log says why."))
            raise

    async def aclose(self) -> None:
        """End all routes; idempotent, and bounded in time."""
        await self.routes.aclose()

    async def _watch(self, views: AsyncIterator[View]) -> None:
        """Who comes is worth a review, once it had time to settle; a plan with somebody gone is broken at once."""
        async for view in views:
            self.routes.check(view)
            hosts = _hosts(view)
            if hosts - self._hosts or self._has_narrowed(view):
                self._review_soon(SETTLE_S)
            self._hosts = hosts

    def _has_narrowed(self, view: View) -> bool:
        """A link of the plan in use bears less than half of what it did at the last look."""
        before, self._rates = self._rates, _rates(view, self.routes.plan)
        return any(rate < before.get(way, 0.0) / 2 for way, rate in self._rates.items())

    async def _keep(self) -> None:
        pause_s = RETRY_S[0]
        while True:
            if self.routes.needs_mending.is_set():
                mended = await self._mend()
                pause_s = RETRY_S[0] if mended and self.routes.has_answered else min(RETRY_S[1], 2 * pause_s)
                if not mended or self.routes.needs_mending.is_set():  # broken again already
                    await asyncio.sleep(pause_s)
            else:
                await self._unless_broken(asyncio.create_task(self._review_when_due()))
                if self.routes.needs_mending.is_set() and not self.routes.has_answered:
                    await asyncio.sleep(pause_s)

    async def _unless_broken(self, work: asyncio.Task[None]) -> None:
        """Give way to what has to be mended."""
        broken = asyncio.create_task(self._is_broken())
        both = {work, broken}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.wait(both)
        if not work.cancelled():
            work.result()

    async def _is_broken(self) -> None:
        await self.routes.needs_mending.wait()

    async def _mend(self) -> bool:
        """Replace what is broken by plans for the swarm as it is now; say whether it went."""
        self.routes.failure = None
        self.routes.release_broken()
        await asyncio.sleep(0)  # the releases are on their way before the offers are
        try:
            plans = await self._order.agree(self._view(), MEND_S, _quiet, self._own(), is_lenient=True)
        except SwarmError as error:
            log.info("no other plan: %s", error)
            self.routes.failed_to_mend(error)
            return False
        self._adopt(plans)
        return True

    async def _review_when_due(self) -> None:
        while (left_s := self._review_at - monotonic()) > 0:
            self._due.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._due.wait()
            except TimeoutError:
                continue
        self._review_at = monotonic() + REVIEW_S * uniform(*SPREAD)
        if self._is_lacking or not self._order.is_fixed:
            await self._review()

    def _review_soon(self, seconds: float) -> None:
        self._review_at = min(self._review_at, monotonic() + seconds)
        self._due.set()

    async def _review(self) -> None:
        """Move to a better plan, if there is one: the next requests take it, those under way end where they are."""
        patience_s, self._in_haste = (HASTE_S if self._in_haste else ASK_AROUND_S), False
        await self._order.ask_around(self._view(), patience_s)
        own = self._own()
        outlook = self._order.outlook(self._view(), own)
        if self._is_lacking:
            await self._replace(own)
            return
        try:
            candidate = await asyncio.to_thread(self._order.candidate, outlook)
            if candidate.plan is None or not self._is_better([candidate.plan, *candidate.standbys], outlook):
                return
            plans = await self._order.agree(self._view(), MEND_S, _quiet, own)
        except SwarmError as error:
            log.info("stays with its plan: %s", error)
            return
        if self._is_better(plans, outlook):  # somebody may have refused, and left less than was hoped for
            self._adopt(plans)
        else:
            for plan in plans:
                self.routes.start(release, self._exchange, plan)

    async def _replace(self, own: Own) -> None:
        """What is in use answers, but lacks something: anything whole is better."""
        try:
            self._adopt(await self._order.agree(self._view(), MEND_S, _quiet, own, is_lenient=True))
        except SwarmError as error:
            log.info("goes on without what it lacks: %s", error)
            self._review_soon(RETRY_S[1])

    def _is_better(self, plans: Sequence[Plan], outlook: View) -> bool:
        """By enough to be worth the move, or with standbys that are missing now."""
        if len(plans) > len(self.routes.plans):
            return True
        metric, now = self._order.goal.metric, self._order.predict(self.routes.plan, outlook)
        alive = {record.id for record in outlook.alive()}
        if not alive >= set(self.routes.plan.peers()):
            return True
        return _badness(now, metric) > BETTER * _badness(plans[0].estimate, metric) > 0

    def _own(self) -> Own:
        return Own(self.routes.plans, self.routes.in_flight)

    def _adopt(self, plans: Sequence[Plan]) -> None:
        self._is_lacking = False
        self.routes.adopt(plans)
        self.routes.check(self._view())  # somebody may have died while others loaded


def _quiet(what: str, fraction: float | None) -> None:
    """Nobody watches a session mend itself."""


def _rates(view: View, plan: Plan) -> dict[tuple[PeerId, PeerId], float]:
    """Bytes a second of each link that a plan uses, as its senders tell."""
    ways = ((edge.sender, edge.receiver, view.find(edge.sender)) for edge in plan.edges)
    return {
        (sender, receiver): record.profile.links[receiver].bytes_per_s
        for sender, receiver, record in ways
        if record is not None and receiver in record.profile.links
    }


def _hosts(view: View) -> frozenset[PeerId]:
    return frozenset(record.id for record in view.hosts())


def _badness(estimate: Estimate, metric: str) -> float:
    """What the goal wants little of; 0 when it is not known."""
    if metric == "throughput":
        return 1 / estimate.throughput_per_s if estimate.throughput_per_s else 0.0
    if metric == "memory":
        return float(max(estimate.peak_memory_bytes.values(), default=0))
    return estimate.latency_s
