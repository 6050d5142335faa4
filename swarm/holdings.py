"""The parts in this peer's memory: fetched, built, run in batches, and dropped when nobody needs them.

Parts that overlap are in memory once: their tensors are shared by content, and so are their slices.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic

import numpy as np
import psutil

from swarm.batching import Batcher, Batching, Ran
from swarm.errors import Declined, PlanGone, SwarmError
from swarm.exchange import Exchange
from swarm.fetch import fetch
from swarm.metrics import Metrics
from swarm.plan import Part
from swarm.slicing import slices_of
from swarm.store import Store
from swarm.types import Array, Location, PeerId
from swarm.workshop import Blueprint, RunnablePart, RunnableShard, TensorSlot, Workshop

MAX_NAMES = 64
WARM_S = 300.0
"""How long a part that nobody leases stays in memory, ready for the next plan."""

Tensors = Mapping[str, int]
"""Bytes of tensors by the SHA-256 of their content."""
PACKED = "packed:"
"""Before the content of a shard's tensors: in memory they are copies, laid out for their products, and its own."""


@dataclass(slots=True, eq=False)
class Held:
    """A part in memory."""

    part: Part
    blueprint: Blueprint
    digests: Mapping[str, str]
    """By the tensor's name in the model."""
    tensors: Tensors
    shard: RunnableShard | None = None
    """What runs, of a part that has a share of each block; others run slice by slice."""
    slices: tuple[str, ...] = ()
    """Keys of what its rows go through, in order."""
    used: set[str] = field(default_factory=set)
    """Those, and what it was sliced into before for as long as requests are on their way through."""
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
        batching: Batching | None = None,
        metrics: Metrics | None = None,
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
        self._slices: dict[str, RunnablePart] = {}
        self._building = asyncio.Lock()
        self._metrics = metrics or Metrics()
        self.memory: Callable[[], tuple[int, int] | None] = lambda: None
        """Free and total bytes of an accelerator, if parts run on one."""
        self.leased: Callable[[], Mapping[str, Tensors]] = dict
        """The tensors of every promised part by its key, held already or not."""
        self.batcher = Batcher(self._slices_of, self._slice_of, batching, owner=name, ran=self._ran)

    @property
    def names(self) -> tuple[str, ...]:
        """What to tell others."""
        return tuple(sorted(held.part.name for held in self._held.values()))[:MAX_NAMES]

    @property
    def free_bytes(self) -> int:
        """What new promises may use: cold parts count as free, promised ones do not, held or not.

        Without a limit it is what the system calls available. Parameters are mapped from files, so what is held
        already counts as available there, and has to be taken off too. An accelerator counts them as taken.
        """
        promised = together(self.leased().values())
        if self._limit_bytes is None and self.memory() is None:  # copies are missing from what is available already
            held = self._tensors()
            promised = {key: size for key, size in promised.items() if not (key.startswith(PACKED) and key in held)}
        return max(0, self._most_bytes() - sum(promised.values()))

    def run(self, part: Part, x: Array, deadline: float, requester: str = "") -> asyncio.Future[Ran]:
        """Begin to run a held part on `[B, ...]`, in a batch with whatever else waits for it."""
        held = self._held.get(part.key)
        if held is None:
            done: asyncio.Future[Ran] = asyncio.get_running_loop().create_future()
            done.set_exception(PlanGone(f"{self._name} does not hold {part.name} any more; load the model again."))
            return done
        held.last_used_s = monotonic()
        return self.batcher.run(part.key, x, deadline, requester, part.anatomy)

    def shard(self, part: Part) -> RunnableShard:
        """What runs of a part with a share of each block. Raises `PlanGone` when it is not held."""
        held = self._held.get(part.key)
        if held is None or held.shard is None:
            raise PlanGone(f"{self._name} does not hold {part.name} any more; load the model again.")
        held.last_used_s = monotonic()
        return held.shard

    @property
    def in_lockstep(self) -> tuple[Callable[..., None], Callable[[Part], RunnableShard]]:
        """For groups: what runs a call in the worker thread, and what finds a shard."""
        return self.batcher.do, self.shard

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
            slots = blueprint.tensors_of(part)
            sizes = {digest: slot.nbytes for digest, slot in zip(digests, slots, strict=True)}
            needs = needs_of(part, digests, slots)
            missing = {digest: sizes[digest] for digest in await asyncio.to_thread(self._store.missing, sizes)}
            names = {slot.name: digest for digest, slot in zip(digests, slots, strict=True)}
            with self._visibly(part, progress) as note:
                if missing:
                    others = [peer for peer in sources if peer != self._exchange.me]
                    await fetch(self._exchange, self._store, missing, others, note)
                async with self._building:
                    await self._build(Held(part, blueprint, names, needs))
        if missing:
            kept = [key.rpartition(":")[2] for key in self._tensors()]
            await asyncio.to_thread(self._store.prune, kept)

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

    async def _build(self, new: Held) -> None:
        self._make_room(new)
        if new.part.shard is not None:
            new.shard = await self.batcher.in_worker(partial(self._built_shard, new))
            self._held[new.part.key] = new
            self._on_change(self.names)
            return
        sliced = {held: self._sliced(held, new) for held in (*self._held.values(), new) if held.part.shard is None}
        try:
            for held, parts in sliced.items():
                for part in parts:
                    if part.key not in self._slices:  # one at a time: requests go on in between
                        self._slices[part.key] = await self.batcher.in_worker(partial(self._built, held, part))
            self._held[new.part.key] = new
            for held, parts in sliced.items():
                held.slices = tuple(part.key for part in parts)
                held.used.update(held.slices)
        finally:
            self._forget_slices()
        self._on_change(self.names)

    def _sliced(self, held: Held, new: Held) -> tuple[Part, ...]:
        held_parts = (other.part for other in self._held.values() if other.shard is None)
        others = [new.part, *held_parts] if self.batcher.policy.is_sliced else []
        return slices_of(held.blueprint, held.part, held.digests, others)

    def _built_shard(self, held: Held) -> RunnableShard:
        return self._workshop().shard(held.blueprint, held.part, list(held.digests.values()), self._locate)

    def _built(self, held: Held, part: Part) -> RunnablePart:
        """It runs once, on nothing: the first request shall not wait for the disk, nor find out that it is broken."""
        digests = [held.digests[slot.name] for slot in held.blueprint.tensors_of(part)]
        run = self._workshop().build(held.blueprint, part, digests, self._locate)
        run(np.zeros((1, *held.blueprint.boundary(part.start).shape), np.float32))
        return run

    def _forget_slices(self) -> None:
        """Keep those of the parts that are held, and those that some request has yet to go through."""
        before = self.batcher.slices
        for held in self._held.values():
            held.used = {name for name in held.used if name in held.slices or name in before}
        used = {name for held in self._held.values() for name in held.used}
        for name in self._slices.keys() - used:
            del self._slices[name]

    def drop_cold(self) -> None:
        """Let go of parts that nobody has leased or used for a while; not while one is built that may share them."""
        if self._building.locked():
            return
        for key in self._cold():
            if monotonic() - self._held[key].last_used_s > WARM_S:
                self._drop(key)

    def _make_room(self, new: Held) -> None:
        """Drop cold parts, longest unused first, until what is new fits without them."""
        for key in self._cold():
            if self._has_room(new):
                return
            self._drop(key)
        if not self._has_room(new):
            raise Declined(f"{self._name} has no room left for {new.part.name}; load the model again.")

    def _has_room(self, new: Held) -> bool:
        held = self._tensors()
        fresh = sum(nbytes for digest, nbytes in new.tensors.items() if digest not in held)
        if self._limit_bytes is None and self.memory() is None:
            return fresh <= psutil.virtual_memory().available
        return fresh <= self._most_bytes() - sum(held.values())

    def _most_bytes(self) -> int:
        if self._limit_bytes is not None:
            return self._limit_bytes
        accelerator = self.memory()
        if accelerator is None:
            return psutil.virtual_memory().available
        return accelerator[0] + sum(self._tensors().values())

    def _tensors(self) -> Tensors:
        return together(held.tensors for held in self._held.values())

    def _cold(self) -> list[str]:
        leased = self.leased()
        return sorted((key for key in self._held if key not in leased), key=lambda k: (self._held[k].last_used_s, k))

    def _drop(self, key: str) -> None:
        del self._held[key]
        self._forget_slices()
        self._on_change(self.names)

    def _locate(self, digest: str) -> Location:
        place = self._store.find(digest)
        if place is None:
            raise SwarmError(f"The tensor {digest[:12]}… left the cache of {self._name} while it was needed.")
        return place

    # For the batcher; the last two in the worker thread

    def _slices_of(self, key: str) -> tuple[str, ...]:
        return self._held[key].slices

    def _slice_of(self, key: str) -> RunnablePart:
        found = self._slices.get(key)
        if found is None:
            raise PlanGone(f"{self._name} let this part go before its turn came; load the model again.")
        return found

    def _ran(self, run: RunnablePart, rows: int, seconds: float) -> None:
        self._workshop().learn(run.part, rows, seconds)
        self._metrics.batch_rows.observe(run.part.model, rows)


def needs_of(part: Part, digests: Sequence[str], slots: Sequence[TensorSlot]) -> Tensors:
    """What a part takes in memory."""
    prefix = "" if part.shard is None else f"{PACKED}{part.key}:"
    return {prefix + digest: slot.nbytes for digest, slot in zip(digests, slots, strict=True)}


def together(several: Iterable[Tensors]) -> dict[str, int]:
    """All tensors, each once."""
    return {digest: nbytes for tensors in several for digest, nbytes in tensors.items()}
