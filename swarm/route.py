"""One agreed plan in use: its leases are kept, its requests counted, its pace known, and its end noticed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic

from swarm.dataflow import Dataflow
from swarm.errors import PlanGone, SwarmError
from swarm.exchange import Exchange
from swarm.host import LEASE_S
from swarm.negotiation import release, renew
from swarm.pace import Pace
from swarm.plan import Plan
from swarm.requests import Outcome
from swarm.types import Array, PeerId

log = logging.getLogger(__name__)

RETRY_S = 1.0
DRAIN_S = 60.0
"""How long a plan that was given up waits for requests that are still on it."""


class Route:
    """`keep` runs for as long as it is in use; `aclose` lets the peers go."""

    def __init__(self, plan: Plan, exchange: Exchange, dataflow: Dataflow, on_broken: Callable[[Route], None]) -> None:
        self.plan = plan
        self.broken: SwarmError | None = None
        self.has_answered = False
        self.lacks: frozenset[PeerId] = frozenset()
        """Who is gone, and is done without."""
        self._exchange = exchange
        self._dataflow = dataflow
        self._on_broken = on_broken
        self._paces: dict[int, Pace] = {}
        self.in_flight = 0
        """Requests that are under way."""
        self._kept_until_s = monotonic() + LEASE_S
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_closed = False
        dataflow.install(plan)

    async def ask(self, x: Array, deadline: float) -> Outcome:
        """See `Dataflow.ask`."""
        began = monotonic()
        self.in_flight += 1
        self._idle.clear()
        try:
            outcome = await self._dataflow.ask(self.plan, x, deadline)
            self.has_answered = True
            self._pace(len(x)).took(monotonic() - began)
            return outcome
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    def patience_s(self, rows: int) -> float:
        """How long a request of so many samples may take before it is looked for."""
        return self._pace(rows).patience_s(self.in_flight)

    def _pace(self, rows: int) -> Pace:
        """Requests of about one size have one pace: a batch takes longer, by nobody knows how much."""
        size = rows.bit_length()
        if size not in self._paces:
            estimate = self.plan.estimate
            each_s = 1 / estimate.throughput_per_s if estimate.throughput_per_s else 0.0
            self._paces[size] = Pace(rows * estimate.latency_s, rows * each_s)
        return self._paces[size]

    def fail(self, error: SwarmError) -> None:
        """It leads nowhere any more; only the first reason counts."""
        if self.broken is None and not self._is_closed:
            self.broken = error
            self._on_broken(self)

    async def keep(self) -> None:
        """Renew the leases, again and again if need be, until one is really over."""
        error: SwarmError | None = None
        while error is None or monotonic() < self._kept_until_s:
            await asyncio.sleep(LEASE_S / 3 if error is None else RETRY_S)
            asked_s = monotonic()
            try:
                await renew(self._exchange, self.plan, LEASE_S / 3, self.lacks)
            except PlanGone as gone:
                error = gone
                break
            except SwarmError as refusal:
                error = refusal
            else:
                error, self._kept_until_s = None, asked_s + LEASE_S
        self.fail(error)

    async def drained(self) -> None:
        """Until the requests that are on it have come to their ends; not for ever."""
        try:
            async with asyncio.timeout(DRAIN_S):
                await self._idle.wait()
        except TimeoutError:
            log.info("requests of plan %s did not end within %s s", self.plan.id, DRAIN_S)

    async def aclose(self) -> None:
        """End its requests and release the parts; idempotent, and bounded in time."""
        if self._is_closed:
            return
        self._is_closed = True
        self._dataflow.remove(self.plan.id)
        await release(self._exchange, self.plan)
