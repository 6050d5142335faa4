"""One model's tails under one policy, and what is measured of them. For a process that does nothing else."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, perf_counter, process_time
from typing import Any, cast

import numpy as np

from swarm.batching import Batching
from swarm.batching.curve import Curves
from swarm.exchange import Exchange
from swarm.holdings import Holdings
from swarm.models.workshop import Workshop
from swarm.plan import INPUT, Part, weights_digest
from swarm.store import Store
from swarm.types import Array
from swarm.workshop import Blueprint
from tests.bench.policies.tally import Tally

WEIGHTS = "random:0"
PATIENT_S = 1e6
PATIENT = Batching(max_waiting=100_000, max_wait_s=PATIENT_S)
"""Nobody is turned away."""


class Forced(Curves):
    """Every size is worth it, whatever was measured, and nobody is left behind for the next batch."""

    def limit(self, waiting: int) -> int:
        return self._most

    def share(self, rows: int, away: int = 0) -> int:
        return rows


@dataclass(frozen=True, slots=True)
class Run:
    """A batch in a slice: its rows, their FLOPs, and when it ended, by the clock and by this process's own."""

    rows: int
    work: float
    seconds: float
    at: float
    cpu_s: float


@dataclass(frozen=True)
class Subject:
    """A model with its weights on this device."""

    blueprint: Blueprint
    digests: Mapping[str, str]
    store: Store

    @classmethod
    async def of(cls, model: str, workshop: Workshop, cache: Path) -> Subject:
        blueprint = await workshop.study(model)
        manifest = await workshop.resolve(blueprint, WEIGHTS)
        store = Store(cache / "tensors")
        store.note(manifest.locations)
        return cls(blueprint, {name: ref.sha256 for name, ref in manifest.refs.items()}, store)

    @property
    def blocks(self) -> int:
        return len(self.blueprint.profile.blocks) - 1

    def before(self, block: int) -> str:
        """The cut there."""
        stages = self.blueprint.profile.blocks[block]
        return self.blueprint.profile.stages[stages - 1].name if stages else INPUT

    def tail(self, block: int) -> Part:
        bare = Part(self.blueprint.profile.name, self.blueprint.profile.digest, self.before(block))
        return replace(bare, weights=weights_digest(self._digests(bare)))

    def work(self, part: Part) -> float:
        """Its FLOPs."""
        stages = self.blueprint.profile.stages
        order = [INPUT, *(stage.name for stage in stages)]
        return sum(stage.flops for stage in stages[order.index(part.start) : order.index(part.end)])

    async def load(self, holdings: Holdings, part: Part) -> None:
        await holdings.load(self.blueprint, part, self._digests(part), (), lambda fraction: None)

    def _digests(self, part: Part) -> list[str]:
        return [self.digests[slot.name] for slot in self.blueprint.tensors_of(part)]


class Serving:
    """`async with serving(subject, workshop, policy, blocks)`: a tail from before each of these blocks."""

    def __init__(self, subject: Subject, holdings: Holdings, blocks: Sequence[int]) -> None:
        self.holdings = holdings
        self.runs: list[Run] = []
        self._tails = {block: subject.tail(block) for block in blocks}
        self._work = {block: subject.work(tail) for block, tail in self._tails.items()}
        self._inputs = {block: _numbers(subject, block) for block in blocks}
        self._answers: dict[int, Array] = {}
        ran, batcher = holdings.batcher._ran_one, holdings.batcher

        def note(run: Any, rows: int, seconds: float) -> None:
            work = rows * subject.work(run.part)
            self.runs.append(Run(rows, work, seconds, monotonic(), process_time()))
            ran(run, rows, seconds)

        batcher._ran_one = note

    async def warm(self) -> None:
        """Each tail once, alone; what it answers then is what it has to answer in every batch."""
        for block in self._tails:
            self._answers[block] = (await self._run(block, "first")).output

    def parameters(self) -> dict[str, int]:
        """Bytes of parameters: each storage counted once, over all slices; and with a copy for each tail."""
        tensors = [tensor for part in self.holdings._slices.values() for tensor in cast(Any, part).tensors]
        once = {(tensor.device, tensor.untyped_storage().data_ptr()): tensor.nbytes for tensor in tensors}
        tails = [held.tensors for held in self.holdings._held.values()]
        return {"held": sum(once.values()), "copies": sum(sum(tail.values()) for tail in tails)}

    def limit(self, most: int | None) -> None:
        """Batches of up to so many rows; None leaves it to the curves, and those begin anew."""
        queue = self.holdings.batcher._queue
        queue.batching = replace(queue.batching, max_batch=most or PATIENT.max_batch)
        queue._curves.clear()
        if most is not None:
            anatomy = next(iter(self.holdings._held.values())).part.anatomy
            queue._curves[anatomy] = Forced(most)

    async def closed(self, most: int | None, in_flight: int, seconds: float, warm: int, within_s: float) -> Any:
        """So many requests in flight, always; those are measured that end after the first `warm` ones.

        It ends after `within_s` anyway, with what there is then.
        """
        self.limit(most)
        tally = Tally(self._work, self._answers, warm)
        blocks = drawn(sorted(self._tails))
        clients = [asyncio.create_task(self._ask_on(f"client {i}", blocks, tally)) for i in range(in_flight)]
        ended = asyncio.gather(*clients)
        began, was_warm = monotonic(), False
        while not ended.done() and monotonic() - began < within_s:
            await asyncio.sleep(0.05)
            if tally.is_warm and not was_warm:
                self.runs.clear()
                was_warm = True
            if tally.seconds >= seconds and tally.counted >= in_flight:
                break
        failed = ended.exception() if ended.done() and not ended.cancelled() else None
        if failed is not None:
            raise failed
        found = {**tally.summary(), **self._costs()}
        ended.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        return {**found, "left": await self._emptied()}

    def _costs(self) -> dict[str, float]:
        """What batches were like; processor seconds are those of this process for a request of the mean depth."""
        if len(self.runs) < 2:
            return dict.fromkeys(("rows", "busy", "cpu_s"), np.nan)
        first, *runs = self.runs
        mean = sum(self._work.values()) / len(self._work)
        return {
            "rows": sum(run.rows for run in runs) / len(runs),
            "busy": sum(run.seconds for run in runs) / (runs[-1].at - first.at),
            "cpu_s": (runs[-1].cpu_s - first.cpu_s) / sum(run.work for run in runs) * mean,
        }

    async def _ask_on(self, name: str, blocks: Iterator[int], tally: Tally) -> None:
        for block in blocks:
            asked = monotonic()
            ran = await self._run(block, name)
            tally.add(block, asked, monotonic(), ran)

    def _run(self, block: int, requester: str) -> asyncio.Future[Any]:
        deadline = monotonic() + PATIENT_S
        return self.holdings.run(self._tails[block], self._inputs[block], deadline, requester)

    async def _emptied(self) -> float:
        """After the clients went: seconds of work that is thought to be here, which should be none."""
        batcher = self.holdings.batcher
        for _ in range(1000):
            await batcher.in_worker(lambda: None)
            if not batcher.queued and not batcher._is_working:
                break
        return batcher._queue.wait_s() + batcher.queued

    async def batch(self, rows: int, runs: int) -> list[float]:
        """Seconds from when the worker is free to the last answer, for so many requests that wait at the first cut."""
        self.limit(rows)
        first, took = min(self._tails), list[float]()
        for _ in range(runs):
            free = threading.Event()
            busy = asyncio.create_task(self.holdings.batcher.in_worker(free.wait))
            await asyncio.sleep(0)
            self.runs.clear()
            asked = [self._run(first, f"client {i}") for i in range(rows)]
            began = perf_counter()
            free.set()
            await asyncio.gather(*asked, busy)
            took.append(perf_counter() - began)
            assert {run.rows for run in self.runs} == {rows}, "one batch, whole from end to end"
        return took


@asynccontextmanager
async def serving(subject: Subject, workshop: Workshop, policy: str, blocks: Sequence[int]) -> AsyncIterator[Serving]:
    """With no network there is no exchange; nothing is missing, so nothing asks for one."""
    exchange = cast(Exchange, None)
    holdings = Holdings("server", exchange, subject.store, lambda: workshop, batching=replace(PATIENT, policy=policy))
    async with holdings.batcher:
        for block in blocks:
            await subject.load(holdings, subject.tail(block))
        yield Serving(subject, holdings, blocks)


def _numbers(subject: Subject, block: int) -> Array:
    shape = subject.blueprint.boundary(subject.before(block)).shape
    return np.random.default_rng(block).normal(size=(1, *shape)).astype(np.float32)


def drawn(blocks: Sequence[int]) -> Iterator[int]:
    """Each as likely as the others, always the same ones. Dealt out in turns they would fill every batch."""
    rng = random.Random(0)
    while True:
        yield rng.choice(blocks)
