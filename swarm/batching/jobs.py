"""Words of the batching server: what waits, what moves, and what has run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from swarm.types import Array, PeerId


@dataclass(frozen=True, slots=True)
class Ran:
    """One caller's rows, how long they waited, and how long the batches that they were in computed."""

    output: Array
    queue_s: float
    compute_s: float
    exchange_s: float = 0.0
    """What a group's lead waited for others."""
    missing: tuple[PeerId, ...] = ()
    """Who was lost under it, and left out."""


@dataclass(slots=True, eq=False)
class Job:
    """One caller's rows for a part, until its deadline (monotonic seconds)."""

    part: str
    model: str
    """Parts of one model share slices, and the size of their batches."""
    requester: str
    x: Array
    deadline: float
    arrived: float
    done: asyncio.Future[Ran]
    slices: tuple[str, ...] = ()
    """Keys of what its rows have to go through, in order."""
    at: int = 0
    """How many of them they have been through."""
    compute_s: float = 0.0
    foreseen_s: float = 0.0
    """How long it should stay here, as far as could be told when it came."""
    latest: float = 0.0
    """When it has to begin to be answered in time, as far as can be told."""
    is_alone: bool = False
    """A batch with it failed: it goes by itself, so that only whoever is at fault hears of it."""
    was_passed: bool = False
    """A full batch went by the slice where it waits."""

    @property
    def rows(self) -> int:
        return len(self.x)

    @property
    def is_over(self) -> bool:
        return self.done.done()


@dataclass(slots=True, eq=False)
class Group:
    """Jobs whose rows stand before the same slice, together: `pieces` hold them in the order of the jobs."""

    jobs: list[Job]
    pieces: list[Any]
    """Arrays from outside, or tensors on the run device; every one `[B, ...]`."""
    rows: int
    deadline: float
    arrived: float

    @classmethod
    def of(cls, job: Job) -> Group:
        """A job that has not begun."""
        return cls([job], [job.x], job.rows, job.deadline, job.arrived)

    @classmethod
    def together(cls, jobs: list[Job], pieces: list[Any]) -> Group:
        rows = sum(job.rows for job in jobs)
        return cls(jobs, pieces, rows, min(job.deadline for job in jobs), min(job.arrived for job in jobs))

    @property
    def slice(self) -> str:
        """What its rows go through next."""
        first = self.jobs[0]
        return first.slices[first.at]

    @property
    def ahead(self) -> tuple[str, ...]:
        """All that its first job has yet to go through."""
        first = self.jobs[0]
        return first.slices[first.at :]

    @property
    def model(self) -> str:
        return self.jobs[0].model

    @property
    def requester(self) -> str:
        return self.jobs[0].requester

    def fits(self, other: Group) -> bool:
        """May the two stand in one batch?"""
        return (
            not (self.jobs[0].is_alone or other.jobs[0].is_alone)
            and self.pieces[0].shape[1:] == other.pieces[0].shape[1:]
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Groups that go through one slice together."""

    slice: str
    groups: Sequence[Group]

    @property
    def jobs(self) -> list[Job]:
        return [job for group in self.groups for job in group.jobs]

    @property
    def pieces(self) -> list[Any]:
        return [piece for group in self.groups for piece in group.pieces]

    @property
    def rows(self) -> int:
        return sum(group.rows for group in self.groups)
