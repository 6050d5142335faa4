"""One worker thread that runs all the parts of this peer, a batch at a time.

The queue never waits while the worker is idle: a batch is what gathered, for the same part and of the same shape, while
the last one ran::

    run(part, x) ─▶ waiting ─▶ next batch ─▶ worker thread ─▶ rows back to each caller
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from swarm.errors import DeadlineExceeded, Overloaded, PeerLost, SwarmError
from swarm.types import Array
from swarm.worker import Worker

log = logging.getLogger(__name__)

T = TypeVar("T")

RunPart = Callable[[str, Array], Array]
"""Runs the part of that name on `[B, ...]`, in the worker thread."""


@dataclass(frozen=True, slots=True)
class Ran:
    """One caller's rows, how long they waited, and how long their whole batch computed."""

    output: Array
    queue_s: float
    compute_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One caller's rows for a part, until its deadline (monotonic seconds)."""

    part: str
    x: Array
    deadline: float
    arrived: float
    done: asyncio.Future[Ran]

    def fits(self, other: Job) -> bool:
        """May the two stand in one batch?"""
        return (self.part, self.x.shape[1:], self.x.dtype) == (other.part, other.x.shape[1:], other.x.dtype)


def next_batch(waiting: Sequence[Job], max_batch: int) -> list[Job]:
    """The oldest job and all that fit beside it, in order of arrival, up to `max_batch` rows."""
    batch = [waiting[0]]
    rows = len(waiting[0].x)
    for job in waiting[1:]:
        if batch[0].fits(job) and rows + len(job.x) <= max_batch:
            batch.append(job)
            rows += len(job.x)
    return batch


class Batcher:
    """`async with Batcher(run_part) as batcher: ran = await batcher.run("part", x, deadline)`."""

    def __init__(self, run_part: RunPart, *, max_batch: int = 64, max_waiting: int = 256, owner: str = "this peer"):
        self._run_part = run_part
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._owner = owner
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._others: set[asyncio.Future[Any]] = set()
        self._worker = Worker()
        self._is_closed = False
        self.busy_s = 0.0
        """Seconds that parts have computed so far."""

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    async def __aenter__(self) -> Batcher:
        self._worker.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        self._worker.stop()
        gone = self._gone()
        _fail(self._running + self._waiting, gone)
        for done in self._others:
            if not done.done():
                done.set_exception(gone)

    def run(self, part: str, x: Array, deadline: float) -> asyncio.Future[Ran]:
        """Begin to run `part` on `x` `[B, ...]`. When the future is cancelled, rows that still wait are dropped.

        It raises `Overloaded` when too many requests wait already, `DeadlineExceeded` when `deadline` passed before
        their turn, `PeerLost` when this peer leaves.
        """
        done: asyncio.Future[Ran] = asyncio.get_running_loop().create_future()
        if self._is_closed:
            done.set_exception(self._gone())
        elif len(self._waiting) >= self._max_waiting:
            done.set_exception(
                Overloaded(f"{self._owner} has {self._max_waiting} requests waiting; try again in a second.")
            )
        else:
            job = Job(part, x, deadline, monotonic(), done)
            self._waiting.append(job)
            done.add_done_callback(lambda _: self._drop(job))
            self._go_on()
        return done

    async def in_worker(self, call: Callable[[], T]) -> T:
        """Run something else that needs the worker thread, such as building a part; raises what it raises."""
        if self._is_closed:
            raise self._gone()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]

        self._others.add(done)
        done.add_done_callback(self._others.discard)
        self._worker.do(call, settle)
        return await done

    def _gone(self) -> PeerLost:
        return PeerLost(f"{self._owner} left the swarm.")

    def _drop(self, job: Job) -> None:
        """Whoever cancelled it does not want it any more."""
        if job in self._waiting:
            self._waiting.remove(job)

    def _go_on(self) -> None:
        """Hand the next batch to the worker, unless it is busy."""
        self._drop_late()
        if self._running or not self._waiting:
            return
        batch = self._running = next_batch(self._waiting, self._max_batch)
        self._waiting = [job for job in self._waiting if job not in batch]
        self._worker.do(lambda: self._timed(batch), lambda result, error: self._ran(batch, result, error))

    def _drop_late(self) -> None:
        now = monotonic()
        for job in [job for job in self._waiting if job.deadline <= now]:
            self._waiting.remove(job)
            if not job.done.done():
                job.done.set_exception(
                    DeadlineExceeded(
                        f"The request's deadline passed while it waited at {self._owner}; allow more time."
                    )
                )

    def _timed(self, batch: list[Job]) -> tuple[float, float, Array]:
        x = batch[0].x if len(batch) == 1 else np.concatenate([job.x for job in batch])
        began = monotonic()
        output = self._run_part(batch[0].part, x)
        return began, monotonic(), output

    def _ran(self, batch: list[Job], result: tuple[float, float, Array] | None, error: BaseException | None) -> None:
        self._running = []
        if result is not None:
            began, ended, output = result
            self.busy_s += ended - began
            _give_out(batch, output, began, ended - began)
        elif isinstance(error, SwarmError):
            _fail(batch, error)
        else:  # a part may raise anything: its callers hear a sentence, the log hears all
            log.error("the part %s failed", batch[0].part, exc_info=error)
            _fail(batch, SwarmError(f"{self._owner} failed to run its part of the model; its log says why."))
        self._go_on()


def _give_out(batch: list[Job], output: Array, began: float, compute_s: float) -> None:
    row = 0
    for job in batch:
        rows = output[row : row + len(job.x)]
        row += len(job.x)
        if not job.done.done():
            job.done.set_result(Ran(rows, max(0.0, began - job.arrived), compute_s))


def _fail(batch: list[Job], error: SwarmError) -> None:
    for job in batch:
        if not job.done.done():
            job.done.set_exception(error)
