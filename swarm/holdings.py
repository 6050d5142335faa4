"""The parts in this peer's memory: fetched, built, run in batches, and dropped when nobody needs them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

import numpy as np
import psutil

from swarm.batching import Batcher, Ran
from swarm.errors import Declined, PlanGone, SwarmError
from swarm.exchange import Exchange
from swarm.fetch import fetch
from swarm.plan import Part
from swarm.store import Store
from swarm.types import Array, Location, PeerId
from swarm.workshop import Blueprint, RunnablePart, Workshop

MAX_NAMES = 64
WARM_S = 300.0
"""How long a part that nobody leases stays in memory, ready for the next plan."""


@dataclass(slots=True)
class Held:
    """A part in memory."""

    part: Part
    run: RunnablePart
    nbytes: int
    digests: Sequence[str]
    last_used_s: float = field(default_factory=monotonic)


class Holdings:
    """Parts by key. `leased` says which of them are promised; the others are cold and give way."""

    def __init__(
        self,
        name: str,
        exchange: Exchange,
        store: Store,
        workshop: Callable[[], Workshop],
        *,
        limit_bytes: int | None = None,
        on_change: Callable[[tuple[str, ...]], None] = lambda names: None,
        on_progress: Callable[[], None] = lambda: None,
    ):
        self._name = name
        self._exchange = exchange
        self._store = store
        self._workshop = workshop
        self._limit_bytes = limit_bytes
        self._on_change = on_change
        self._on_progress = on_progress
        self.loading: dict[str, float] = {}
        """Parts on their way into memory, by name, and how much of each is here, in tenths."""
        self._held: dict[str, Held] = {}
        self._loading: dict[str, asyncio.Lock] = {}
        self.leased: Callable[[], Mapping[str, int]] = dict
        """Bytes of every promised part by key, held already or not."""
        self.batcher = Batcher(self._run_part, owner=name)

    @property
    def names(self) -> tuple[str, ...]:
        """What to tell others."""
        return tuple(sorted(held.part.name for held in self._held.values()))[:MAX_NAMES]

    @property
    def free_bytes(self) -> int:
        """What new promises may use: cold parts count as free, promised ones do not, held or not.

        Without a limit it is what the system calls available. Parameters are mapped from files, so what is held
        already counts as available there, and has to be taken off too.
        """
        most = psutil.virtual_memory().available if self._limit_bytes is None else self._limit_bytes
        return max(0, most - sum(self.leased().values()))

    def run(self, part: Part, x: Array, deadline: float) -> asyncio.Future[Ran]:
        """Begin to run a held part on `[B, ...]`, in a batch with whatever else waits for it."""
        held = self._held.get(part.key)
        if held is None:
            done: asyncio.Future[Ran] = asyncio.get_running_loop().create_future()
            done.set_exception(PlanGone(f"{self._name} does not hold {part.name} any more; load the model again."))
            return done
        held.last_used_s = monotonic()
        return self.batcher.run(part.key, x, deadline)

    async def load(
        self,
        blueprint: Blueprint,
        part: Part,
        digests: Sequence[str],
        sources: Sequence[PeerId],
        progress: Callable[[float], None],
    ) -> None:
        """Have the part in memory; fetch what is missing from `sources`. Loads of one part wait for each other.

        :raises WeightsError: what is missing could not be fetched.
        :raises Declined: there is no room for it after all.
        """
        async with self._loading.setdefault(part.key, asyncio.Lock()):
            if part.key in self._held:
                self._held[part.key].last_used_s = monotonic()
                return
            sizes = {digest: slot.nbytes for digest, slot in zip(digests, blueprint.tensors_of(part), strict=True)}
            missing = {digest: sizes[digest] for digest in await asyncio.to_thread(self._store.missing, sizes)}
            with self._visibly(part, progress) as note:
                if missing:
                    others = [peer for peer in sources if peer != self._exchange.me]
                    await fetch(self._exchange, self._store, missing, others, note)
                await self._build(blueprint, part, digests, sum(sizes.values()))
        if missing:
            await asyncio.to_thread(self._store.prune, [d for held in self._held.values() for d in held.digests])

    @contextmanager
    def _visibly(self, part: Part, progress: Callable[[float], None]) -> Iterator[Callable[[float], None]]:
        """What is being loaded is for everybody to see; they hear of every tenth."""

        def note(fraction: float) -> None:
            progress(fraction)
            show(round(fraction, 1))

        def show(tenths: float) -> None:
            if self.loading.get(part.name) != tenths:
                self.loading[part.name] = tenths
                self._on_progress()

        show(0.0)
        try:
            yield note
        finally:
            del self.loading[part.name]
            self._on_progress()

    async def _build(self, blueprint: Blueprint, part: Part, digests: Sequence[str], nbytes: int) -> None:
        self._make_room(part, nbytes)
        run = await self.batcher.in_worker(lambda: self._built(blueprint, part, digests))
        self._held[part.key] = Held(part, run, nbytes, digests)
        self._on_change(self.names)

    def _built(self, blueprint: Blueprint, part: Part, digests: Sequence[str]) -> RunnablePart:
        """Run once, on nothing: the first request shall not wait for the disk, nor find out that a part is broken."""
        run = self._workshop().build(blueprint, part, digests, self._locate)
        run(np.zeros((1, *blueprint.boundary(part.start).shape), np.float32))
        return run

    def drop_cold(self) -> None:
        """Let go of parts that nobody has leased or used for a while."""
        for key in self._cold():
            if monotonic() - self._held[key].last_used_s > WARM_S:
                self._drop(key)

    def _make_room(self, part: Part, nbytes: int) -> None:
        """Drop cold parts, longest unused first, until `nbytes` more fit without them."""
        for key in self._cold():
            if self._unused_bytes() >= nbytes:
                return
            self._drop(key)
        if self._unused_bytes() < nbytes:
            raise Declined(f"{self._name} has no room left for {part.name}; load the model again.")

    def _unused_bytes(self) -> int:
        if self._limit_bytes is None:
            return psutil.virtual_memory().available
        return self._limit_bytes - sum(held.nbytes for held in self._held.values())

    def _cold(self) -> list[str]:
        leased = self.leased()
        return sorted((key for key in self._held if key not in leased), key=lambda k: (self._held[k].last_used_s, k))

    def _drop(self, key: str) -> None:
        del self._held[key]
        self._on_change(self.names)

    def _locate(self, digest: str) -> Location:
        place = self._store.find(digest)
        if place is None:
            raise SwarmError(f"The tensor {digest[:12]}… left the cache of {self._name} while it was needed.")
        return place

    def _run_part(self, key: str, x: Array) -> Array:
        held = self._held.get(key)
        if held is None:
            raise PlanGone(f"{self._name} let this part go before its turn came; load the model again.")
        began = monotonic()
        output = held.run(x)
        self._workshop().learn(held.part, len(x), monotonic() - began)
        return output
