"""The sessions of one peer: opened from a wish or from a contest's candidate, closed with the peer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

from swarm.dataflow import Dataflow
from swarm.exchange import Exchange
from swarm.healing import Healer
from swarm.loading import Contest, Loader, Wish, in_time
from swarm.order import Order
from swarm.plan import Candidate, Plan
from swarm.session import Session
from swarm.types import View
from swarm.workshop import Progress


class Sessions:
    """`changes` gives views as they change, `interpreter` what turns pictures into a model's input, and `spawn` runs
    what has to go on beside a session."""

    def __init__(
        self,
        loader: Loader,
        exchange: Exchange,
        dataflow: Dataflow,
        view: Callable[[], View],
        changes: Callable[[], AsyncIterator[View]],
        interpreter: Callable[[Any], Any],
        spawn: Callable[..., asyncio.Task[None]],
    ) -> None:
        self._loader = loader
        self._exchange = exchange
        self._dataflow = dataflow
        self._view = view
        self._changes = changes
        self._interpreter = interpreter
        self._spawn = spawn
        self._open: dict[Session, asyncio.Task[None]] = {}

    async def load(self, wish: Wish, timeout_s: float, progress: Progress) -> Session:
        """See `Peer.load`."""
        async with in_time(f"Loading {wish.model}", timeout_s):
            order = await self._loader.order(wish, self._view(), progress)
            plans = await order.agree(self._view(), timeout_s, progress)
        return self._opened(order, plans)

    async def plan(self, wish: Wish, timeout_s: float, progress: Progress) -> Contest:
        """See `Peer.plan`."""
        async with in_time(f"Planning {wish.model}", timeout_s):
            order = await self._loader.order(wish, self._view(), progress)
            outlook = order.outlook(self._view())
            return Contest(order, outlook, tuple(await asyncio.to_thread(order.contest, outlook)))

    async def open(self, contest: Contest, candidate: Candidate, timeout_s: float, progress: Progress) -> Session:
        """See `Peer.open`."""
        async with in_time(f"Loading {candidate.title}", timeout_s):
            plans = await contest.order.settle(lambda view: candidate, self._view(), timeout_s, progress)
        return self._opened(replace(contest.order, is_pinned=True), plans)

    def _opened(self, order: Order, plans: Sequence[Plan]) -> Session:
        healer = Healer(order, self._exchange, self._dataflow, self._view, self._spawn)
        healer.begin(plans)
        session = Session(healer, self._interpreter(order.blueprint), self._forget, self._dataflow.metrics)
        self._open[session] = self._spawn(healer.run, self._changes())
        return session

    def _forget(self, session: Session) -> None:
        keeper = self._open.pop(session, None)
        if keeper is not None:
            keeper.cancel()

    async def aclose(self) -> None:
        await asyncio.gather(*(session.aclose() for session in tuple(self._open)))
