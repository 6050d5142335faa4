"""Which rows go through which slice next: three ways to serve clients that cut one model at different places. Pure.

- `tails` (Technique 1 of "Batching Model Slices…"): a queue for each cut; its batch goes through the whole tail.
- `slices` (Technique 2): a queue for each slice, one copy of each; after every slice all choose anew.
- `joining` (ours): one batch moves through the depth and takes in, at each slice, those that begin there. It begins at
  the shallowest cut that leads to whoever's turn it is; who was passed by a full batch begins the next one himself, so
  nobody waits for more than one batch and those of his own cut before him.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from swarm.batching.jobs import Batch, Group
from swarm.batching.queue import Queue


class Policy(Protocol):
    """Chooses from a queue. It is told of every batch that went through a slice, with those of it that go on."""

    is_sliced: bool
    """Parts that overlap run slice by slice, each slice in one copy; else every part runs as a whole."""

    def next(self, queue: Queue) -> Batch | None: ...

    def on_their_way(self, queue: Queue, groups: Sequence[Group]) -> None:
        """What has come through a slice, by the slice that comes next; each group whole."""
        ...


class Tails:
    is_sliced = False

    def next(self, queue: Queue) -> Batch | None:
        return _next_of(queue)

    def on_their_way(self, queue: Queue, groups: Sequence[Group]) -> None:
        queue.again(groups)  # there are none: a tail is one slice


class Slices:
    is_sliced = True

    def next(self, queue: Queue) -> Batch | None:
        return _next_of(queue)

    def on_their_way(self, queue: Queue, groups: Sequence[Group]) -> None:
        queue.again(groups)


class Joining:
    is_sliced = True

    def __init__(self) -> None:
        self._moving: Group | None = None

    def next(self, queue: Queue) -> Batch | None:
        moving, self._moving = self._moving, None
        company = [moving] if moving is not None and not all(job.is_over for job in moving.jobs) else []
        name = company[0].slice if company else _start(queue)
        if moving is not None and not company:
            for job in moving.jobs:
                queue.forget(job)
        if name is None:
            return None
        company += queue.board(name, company)
        for group in queue.waiting.get(name, []):
            for job in group.jobs:
                job.was_passed = True
        return Batch(name, company) if company else self.next(queue)

    def on_their_way(self, queue: Queue, groups: Sequence[Group]) -> None:
        """The largest goes on; others of another model's head, say, wait for their turn."""
        if groups:
            self._moving = max(groups, key=lambda group: group.rows)
            queue.again(group for group in groups if group is not self._moving)


def _next_of(queue: Queue) -> Batch | None:
    while (first := queue.first()) is not None:
        name = first.slice
        if company := queue.board(name, []):
            return Batch(name, company)
    return None


def _start(queue: Queue) -> str | None:
    """The slice at which the next batch begins."""
    first = queue.first()
    if first is None:
        return None
    if any(job.was_passed for job in first.jobs):
        return first.slice
    on_the_way = (group for group in queue.groups() if first.slice in group.ahead and not group.jobs[0].is_alone)
    return max(on_the_way, key=lambda group: len(group.ahead), default=first).slice


POLICIES: Final[Mapping[str, type[Policy]]] = {"joining": Joining, "slices": Slices, "tails": Tails}
