"""The batching server's edge: callers in the event loop, batches in the worker thread.

The worker never waits while there is work: a batch is what gathered while the last one ran. It asks the policy itself
after every slice, under a lock, so that no batch waits for the event loop::

    run(part, x) ─▶ queue ─┐                 ┌─▶ rows that are through ─▶ each caller, in the event loop
                           └▶ policy ─▶ slice ┤
                                  ▲           └─▶ rows that go on ─┐
                                  └────────────────────────────────┘
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from threading import Lock
from time import monotonic
from types import TracebackType
from typing import Any, TypeVar

from swarm.batching.jobs import Batch, Job, Ran
from swarm.batching.moving import advance
from swarm.batching.policies import POLICIES, Policy
from swarm.batching.queue import Batching, Queue
from swarm.batching.slice import Slice
from swarm.errors import PeerLost, SwarmError
from swarm.types import Array
from swarm.worker import Settle, Worker

log = logging.getLogger(__name__)

T = TypeVar("T")


class Batcher:
    """`async with Batcher(slices_of, slice_of) as batcher: ran = await batcher.run("part", x, deadline)`.

    :param slices_of: keys of what a part's rows go through, in order; as a whole where the policy is not sliced.
    :param slice_of: the slice of a key, called in the worker thread.
    :param ran: told, in the worker thread, of each run: the slice, its rows and seconds.
    """

    def __init__(
        self,
        slices_of: Callable[[str], tuple[str, ...]],
        slice_of: Callable[[str], Slice],
        batching: Batching | None = None,
        *,
        owner: str = "this peer",
        ran: Callable[[Any, int, float], None] = lambda part, rows, seconds: None,
    ):
        batching = batching or Batching()
        self.policy: Policy = POLICIES[batching.policy]()
        self._slices_of = slices_of
        self._slice_of = slice_of
        self._ran_one = ran
        self._queue = Queue(batching, owner)
        self._owner = owner
        self._lock = Lock()
        self._is_working = False
        self._delayed: asyncio.TimerHandle | None = None
        self._running: Sequence[Job] = ()
        self._unanswered: set[Job] = set()
        self._others: set[asyncio.Future[Any]] = set()
        self._worker = Worker()
        self._loop: asyncio.AbstractEventLoop
        self._is_closed = False
        self.busy_s = 0.0
        """Seconds that parts have computed so far."""
        self.answered = 0
        self.stayed_s = 0.0
        """Seconds from arrival to answer, of all that were answered so far."""
        self.waited_s = 0.0
        """How much of that was due to other requests."""

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def slices(self) -> frozenset[str]:
        """Keys of what requests have yet to go through."""
        with self._lock:
            return self._queue.slices

    async def __aenter__(self) -> Batcher:
        self._loop = asyncio.get_running_loop()
        self._worker.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        if self._delayed is not None:
            self._delayed.cancel()
        self._worker.stop()
        gone = self._gone()
        _fail(list(self._unanswered), gone)
        for done in self._others:
            if not done.done():
                done.set_exception(gone)

    # Callers, in the event loop

    def run(
        self, part: str, x: Array, deadline: float, requester: str = "", model: str | None = None
    ) -> asyncio.Future[Ran]:
        """Begin to run `part` on `x` `[B, ...]`. When the future is cancelled, rows that still wait are dropped.

        Parts of one `model` may share slices; without a name a part is a model by itself.

        It raises `Overloaded` when too much waits already or the deadline cannot be met, `DeadlineExceeded` when that
        passed before its turn, `PeerLost` when this peer leaves.
        """
        done: asyncio.Future[Ran] = asyncio.get_running_loop().create_future()
        if self._is_closed:
            done.set_exception(self._gone())
            return done
        now = monotonic()
        try:
            job = Job(part, model or part, requester, x, deadline, now, done, self._slices_of(part))
            with self._lock:
                evicted = self._queue.add(job, now)
                is_idle, self._is_working = not self._is_working, True
        except SwarmError as error:
            done.set_exception(error)
            return done
        self._unanswered.add(job)
        done.add_done_callback(lambda _: self._over(job))
        _fail_each(evicted)
        delay_s = min(self._queue.batching.max_delay_s, (deadline - now) / 2)
        if is_idle and delay_s > 0:
            self._delayed = self._loop.call_later(delay_s, self._begin)
        elif is_idle or (self._delayed is not None and self._queue.is_worth_it):
            self._begin()
        return done

    def _begin(self) -> None:
        if self._delayed is not None:
            self._delayed.cancel()
            self._delayed = None
        self._worker.do(self._work, self._settled)

    def _over(self, job: Job) -> None:
        self._unanswered.discard(job)
        if job.done.cancelled():  # whoever asked does not want it any more
            with self._lock:
                self._queue.remove(job)

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

    def do(self, call: Callable[[], T], settle: Settle) -> None:
        """The same, for who comes often: `settle` is told the result or the error, in the event loop."""
        if self._is_closed:
            self._loop.call_soon(settle, None, self._gone())
        else:
            self._worker.do(lambda: self._timed(call), settle)

    def _timed(self, call: Callable[[], T]) -> T:
        began = monotonic()
        try:
            return call()
        finally:
            self.busy_s += monotonic() - began

    def _gone(self) -> PeerLost:
        return PeerLost(f"{self._owner} left the swarm.")

    # Batches, in the worker thread

    def _work(self) -> None:
        """One batch, from where it begins until its last row is through; then others may use the worker."""
        while True:
            with self._lock:
                late = self._queue.drop_late(monotonic())
                batch = self.policy.next(self._queue)
                self._is_working = batch is not None
            if late:
                self._tell(_fail_each, late)
            if batch is None:
                return
            if not self._run(batch):
                break
        self._worker.do(self._work, self._settled)

    def _run(self, batch: Batch) -> bool:
        """Send a batch through its slice; whether any of its rows go on to another."""
        began = monotonic()
        self._running = batch.jobs
        try:
            part = self._slice_of(batch.slice)
            y = part.run(part.enter(batch.pieces))
            ended = monotonic()
            finished, going = advance(batch, y, began, ended, part.leave)
        except Exception as error:  # noqa: BLE001 - a part may raise anything
            self._failed(batch, error)
            return False
        finally:
            self._running = ()
        self.busy_s += ended - began
        self._note(part, batch.rows, ended - began)
        with self._lock:
            self._queue.curves(batch.jobs[0].model).took(batch.slice, batch.rows, ended - began)
            self._queue.passed(batch.slice, batch.rows)
            self.policy.on_their_way(self._queue, going)
            self._queue.answered_rows = sum(job.rows for job, _ in finished)
            for job, ran in finished:
                stayed_s = ran.queue_s + ran.compute_s
                self.answered += 1
                self.stayed_s += stayed_s
                self._queue.answered(job, stayed_s)
                self.waited_s += max(0.0, stayed_s - self._queue.alone_s(job))
        if finished:
            self._tell(_answer, finished)
        return bool(going)

    def _note(self, part: Slice, rows: int, seconds: float) -> None:
        try:
            self._ran_one(part, rows, seconds)
        except Exception:  # what only counts must not end what serves
            log.exception("a run of %s was not counted", self._owner)

    def _failed(self, batch: Batch, error: Exception) -> None:
        """Only whoever is at fault hears of it: each goes again alone. Memory that a batch lacked may do for one."""
        jobs = [job for job in batch.jobs if not job.is_over]
        with self._lock:
            for job in batch.jobs:
                self._queue.forget(job)
            if len(jobs) > 1:
                for job in jobs:
                    job.is_alone, job.at, job.compute_s = True, 0, 0.0
                    self._queue.readmit(job)
                return
        if not jobs:
            return
        if not isinstance(error, SwarmError):  # a part may raise anything: callers hear a sentence, the log hears all
            log.error("the part %s failed", batch.slice, exc_info=error)
            error = SwarmError(f"{self._owner} failed to run its part of the model; its log says why.")
        self._tell(_fail, jobs, error)

    def _settled(self, result: None, error: BaseException | None) -> None:
        """Should never be told of an error: then nobody waits for what will never come."""
        if error is not None:
            log.critical("the queue of %s broke, and begins anew", self._owner, exc_info=error)
            with self._lock:
                self._queue = Queue(self._queue.batching, self._owner)
                self.policy, self._is_working = type(self.policy)(), False
            _fail(list(self._unanswered), SwarmError(f"{self._owner} failed in its queue; its log says why."))

    def _tell(self, what: Callable[..., None], *arguments: Any) -> None:
        if self._is_closed:
            return
        try:
            self._loop.call_soon_threadsafe(what, *arguments)
        except RuntimeError:
            return  # the loop closed in between


def _answer(finished: Sequence[tuple[Job, Ran]]) -> None:
    for job, ran in finished:
        if not job.done.done():
            job.done.set_result(ran)


def _fail_each(failed: Sequence[tuple[Job, SwarmError]]) -> None:
    for job, error in failed:
        _fail([job], error)


def _fail(jobs: Sequence[Job], error: SwarmError) -> None:
    for job in jobs:
        if not job.done.done():
            job.done.set_exception(error)
