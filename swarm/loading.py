"""From a wish to an order that plans can be agreed on for: study the model, find its weights, ask around."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from swarm.errors import DeadlineExceeded, NoPeers, UsageError
from swarm.exchange import Exchange
from swarm.order import Order, Planner, Reports, takers
from swarm.plan import Candidate, Goal, OnLoss
from swarm.store import Store
from swarm.survey import Survey
from swarm.tensors import WIRE_DTYPES
from swarm.transport import Router
from swarm.types import Address, PeerId, View
from swarm.workshop import Progress, Workshop

ASK_AROUND_S = 30.0
"""Who has not timed the model's stages by then is planned for by its FLOPs."""
FREE_WIRES = ("float32", "float16")
"""What `wire="auto"` chooses from, edge by edge. By default it is float32, so that a split changes no answer."""


def quiet(what: str, fraction: float | None) -> None:
    """The progress of who does not want to know."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller of `Peer.load` asked for, in the caller's words."""

    model: str
    strategy: str
    split: Sequence[int | str] | None
    peers: Sequence[str] | None
    weights: str
    wire: str | None
    goal: str
    replicate: Sequence[float] | None = None
    on_loss: OnLoss = "retry"


@dataclass(frozen=True, slots=True)
class Contest:
    """All the ways that were compared, best first, and the view that they were planned for. Made by `Peer.plan`."""

    order: Order
    view: View
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Loader:
    """Turns wishes into orders."""

    exchange: Exchange
    store: Store
    workshop: Callable[[], Workshop]
    planner: Planner
    survey: Survey
    get_ready: Callable[[Sequence[PeerId], bool], Awaitable[None]]
    """Has the ways to these peers measured, where they are not known yet; and this device, if it may take part."""
    addresses_of: Callable[[PeerId], tuple[Address, ...]]
    suspect: Callable[[PeerId, float], None]
    reports: Reports

    def register(self, router: Router) -> None:
        router.add("progress", self.reports.take)

    async def order(self, wish: Wish, view: View, progress: Progress) -> Order:
        """All that is needed to plan and to negotiate."""
        goal = goal_of(wish, view)
        workshop = await asyncio.to_thread(self.workshop)  # the first time it is imported
        blueprint = await workshop.study(wish.model, progress)
        manifest = await workshop.resolve(blueprint, wish.weights, progress)
        self.store.note(manifest.locations)
        order = Order(
            blueprint,
            manifest,
            wish.strategy,
            goal,
            self.exchange,
            self.planner,
            self.survey,
            self.reports,
            self.addresses_of,
            self.suspect,
            workshop,
            self.store,
            await workshop.importance(blueprint, manifest),
        )
        if order.is_open:
            progress(f"Asking around how fast {wish.model} runs", None)
            chosen = [record.id for record in takers(view)]
            others = [peer for peer in chosen if peer != view.me]
            await self.get_ready(others, view.me in chosen)  # first: timing stages would disturb it
            await order.ask_around(view, ASK_AROUND_S)
        return order


@asynccontextmanager
async def in_time(what: str, timeout_s: float) -> AsyncIterator[None]:
    """:raises DeadlineExceeded: the block took longer."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise DeadlineExceeded(f"{what} took longer than {timeout_s:g} s; allow it more time.") from None


def goal_of(wish: Wish, view: View) -> Goal:
    """:raises UsageError: an unknown goal or wire dtype. :raises NoPeers: a peer that is not here."""
    wires = wires_of(wish.wire)
    peers = None if wish.peers is None else tuple(_find(view, name) for name in wish.peers)
    split = None if wish.split is None else tuple(wish.split)
    replicate = None if wish.replicate is None else tuple(wish.replicate)
    for fraction in replicate or ():
        if not 0 <= fraction <= 1:
            raise UsageError(f"A fraction to replicate lies between 0 and 1; {fraction:g} does not.")
    if wish.on_loss not in ("retry", "degrade"):
        raise UsageError(f"When a member is lost, 'retry' or 'degrade'; '{wish.on_loss}' is neither.")
    return Goal(split=split, peers=peers, wires=wires, replicate=replicate, on_loss=wish.on_loss, **_metric(wish.goal))


def wires_of(wire: str | None) -> tuple[str, ...]:
    """What tensors may travel as. Raises `UsageError` for an unknown dtype."""
    if wire == "auto":
        return FREE_WIRES
    if wire is not None and wire not in WIRE_DTYPES:
        raise UsageError(f"Tensors cannot travel as '{wire}'; choose one of {', '.join(WIRE_DTYPES)}, or auto.")
    return (wire or "float32",)


def _metric(goal: str) -> dict[str, Any]:
    """`latency`, `throughput`, `memory`, or `survive=K`."""
    if goal in ("latency", "throughput", "memory"):
        return {"metric": goal}
    name, _, count = goal.partition("=")
    if name == "survive" and count.isdecimal() and 1 <= int(count) <= 64:
        return {"metric": "survive", "survive": int(count)}
    raise UsageError(
        f"The goal '{goal}' is not known; choose latency, throughput, memory, or survive=K with K from 1 to 64."
    )


def _find(view: View, name: str) -> PeerId:
    found = view.called(name)
    if not found:
        here = ", ".join(record.name for record in view.hosts()) or "none"
        raise NoPeers(f"No peer is called {name}; here are: {here}.")
    if len(found) > 1:
        raise UsageError(f"{len(found)} peers are called {name}; name them by id, as `swarm status` shows it.")
    return found[0].id
