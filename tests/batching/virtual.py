"""A server in virtual time: the real queue, policies and moving of rows, and slices that take seconds by a formula.

A row is a number; each slice adds its own power of ten to it, so that what comes out shows what a row went through.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from swarm.batching.jobs import Batch, Job, Ran
from swarm.batching.moving import advance
from swarm.batching.policies import POLICIES
from swarm.batching.queue import Batching, Queue
from swarm.errors import SwarmError
from swarm.types import Array

DEPTH, MODEL = 6, "model"
NAMES = tuple(f"s{i}" for i in range(DEPTH))
WEIGHTS = {name: 10.0**i for i, name in enumerate(NAMES)}


class Done(asyncio.Future[Ran]):
    """A future that nobody awaits."""


@dataclass
class Server:
    """`ask` at times that never go back; `run_until` lets batches go through meanwhile. A batch of n rows needs
    `call_s + n · row_s` in each slice of a block."""

    policy: str = "joining"
    batching: Batching = field(default_factory=lambda: Batching(max_batch=8))
    call_s: float = 1.0
    row_s: float = 0.1
    cuts: Sequence[int] = tuple(range(DEPTH))
    """Where parts begin; the slices between them are merged."""

    def __post_init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.now = 0.0
        self.chooses = POLICIES[self.policy]()
        self.queue = Queue(self.batching, "attic-pi")
        self.queue.curves(MODEL).limit = lambda waiting: self.batching.max_batch  # type: ignore[method-assign]
        self.batches: list[Batch] = []
        self.ended: dict[Job, tuple[float, Ran | SwarmError]] = {}

    def close(self) -> None:
        self.loop.close()

    def slices(self, cut: int) -> tuple[str, ...]:
        """Of a part from a cut to the end; a name like `s2+s3` is a slice of two blocks."""
        if not self.chooses.is_sliced:
            return ("+".join(NAMES[cut:]),)
        stops = [cut, *(c for c in sorted(set(self.cuts)) if c > cut), DEPTH]
        return tuple("+".join(NAMES[a:b]) for a, b in itertools.pairwise(stops))

    def ask(self, cut: int, at: float, requester: str = "a", rows: int = 1, deadline: float = 1e6) -> Job:
        self.run_until(at)
        job = Job(
            f"p{cut}", MODEL, requester, np.zeros((rows, 1)), deadline, at, Done(loop=self.loop), self.slices(cut)
        )
        try:
            self._fail(self.queue.add(job, at))
        except SwarmError as error:
            self._fail([(job, error)])
        return job

    def cancel(self, job: Job) -> None:
        job.done.cancel()
        if not job.at:
            self.queue.remove(job)

    def _fail(self, failed: Sequence[tuple[Job, SwarmError]]) -> None:
        for job, error in failed:
            self.ended[job] = (self.now, error)

    def run_until(self, end: float) -> None:
        """Batches that begin before `end` go through."""
        while self.now <= end:
            self._fail(self.queue.drop_late(self.now))
            batch = self.chooses.next(self.queue)
            if batch is None:
                break
            self._run(batch)
        self.now = max(self.now, end) if end < 1e9 else self.now

    def finish(self) -> Mapping[Job, tuple[float, Ran | SwarmError]]:
        self.run_until(1e9)
        return self.ended

    def _run(self, batch: Batch) -> None:
        blocks = batch.slice.split("+")
        began = self.now
        self.now += len(blocks) * (self.call_s + self.row_s * batch.rows)
        x: Array = np.concatenate(batch.pieces)
        y = x + sum(WEIGHTS[name] for name in blocks)
        finished, going = advance(batch, y, began, self.now, lambda rows: rows)
        self.batches.append(batch)
        self.queue.passed(batch.slice, batch.rows)
        self.chooses.on_their_way(self.queue, going)
        for job, ran in finished:
            self.ended[job] = (self.now, ran)


def whole(cut: int) -> float:
    """What a row shows that went through all from a cut to the end, once."""
    return sum(WEIGHTS[name] for name in NAMES[cut:])
