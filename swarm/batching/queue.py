"""What waits for the worker: bounded, fair between requesters, the most urgent first. Pure; its owner has the lock.

A job is taken in only if it can be answered in time, as far as the slices' curves tell; a full queue makes room for a
requester that has less in it than the greediest one. Whoever is turned away hears of it at once. Requesters are peers:
a member of the swarm that takes on many identities is not held back by this.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from swarm.batching.curve import Curves
from swarm.batching.jobs import Group, Job
from swarm.errors import DeadlineExceeded, Overloaded, SwarmError, TooLate, UsageError

LEAST_RETRY_S: Final = 0.005
LEAST_FORESEEN_S: Final = 1e-4
MARGIN: Final = 1.15
"""What is begun and comes too late is work for nothing; what is refused can be asked of somebody else."""
MOST_DELAY: Final = 4.0
DELAY_SHARE: Final = 0.02
"""How much the newest answer counts."""
MAX_REMEMBERED: Final = 256
"""Requesters whose turn is known, and models whose batches are."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How one peer serves, and how much it takes upon itself."""

    policy: str = "joining"
    """How requests that were cut at different places share batches: `joining`, `slices` or `tails`."""
    max_batch: int = 64
    """Rows of a batch at most; how many are worth it, the measured curves say."""
    max_waiting: int = 256
    """Requests that wait."""
    max_wait_s: float = 30.0
    """Longest time that a request may have to wait, as far as can be told when it comes."""
    max_delay_s: float = 0.0
    """How long an idle worker waits for company for a request."""

    def __post_init__(self) -> None:
        if self.policy not in ("joining", "slices", "tails"):
            raise UsageError(f"There is no batching called '{self.policy}'; choose joining, slices or tails.")
        if self.max_batch < 1 or self.max_waiting < 0:
            raise UsageError("A batch has at least one row, and no fewer than none can wait.")
        if not (0 <= self.max_wait_s < math.inf and 0 <= self.max_delay_s < math.inf):
            raise UsageError("The longest wait and delay are numbers of seconds, not negative.")


class Queue:
    """Groups by the slice that they wait for. `owner` is for the sentences."""

    def __init__(self, batching: Batching, owner: str) -> None:
        self.batching = batching
        self.waiting: dict[str, list[Group]] = {}
        self._curves: dict[str, Curves] = {}
        """By model."""
        self._owner = owner
        self._pending: dict[str, tuple[str, int]] = {}
        """The model of a slice, and the rows that have it before them: those that wait and those that move."""
        self._turns: dict[str, int] = {}
        self._turn = 0
        self._jobs = 0
        self.answered_rows = 0
        """Of the last batch: their callers may be about to ask again."""
        self._delay = 1.0
        """How much longer answers take than was foreseen."""
        self._soonest = math.inf
        """No job that waits has to begin earlier."""

    def __len__(self) -> int:
        """Jobs that wait."""
        return self._jobs

    # Coming and going

    def add(self, job: Job, now: float) -> list[tuple[Job, SwarmError]]:
        """Take in a job; gives those that had to make room, with their errors.

        :raises Overloaded: there is no room for it, or it could not be answered in time.
        """
        wait_s, own_s = self.wait_s(), self._own_s(job)
        job.foreseen_s = wait_s + own_s
        late_s = now + MARGIN * self._delay * job.foreseen_s - job.deadline
        if self._pending:  # where nothing is, an estimate that is wrong has to be found out
            if late_s > 0:
                raise self._refused(
                    TooLate,
                    f"{self._owner} has work for {wait_s:.3g} s before this request, which itself takes about "
                    f"{own_s:.3g} s: that is too late; ask again later, or allow more time with --deadline.",
                    late_s,
                )
            if wait_s > self.batching.max_wait_s:
                raise self._refused(
                    Overloaded,
                    f"{self._owner} has work for {wait_s:.3g} s before this request, more than it takes on; ask again "
                    "later.",
                    wait_s - self.batching.max_wait_s,
                )
        evicted = self._make_room(job)
        job.latest = job.deadline - (own_s / 2 if self._pending else 0.0)
        self.readmit(job)
        return evicted

    def answered(self, job: Job, stayed_s: float) -> None:
        """So long it took: what is foreseen of others is corrected by it."""
        if job.foreseen_s > LEAST_FORESEEN_S:
            error = min(stayed_s / job.foreseen_s, MOST_DELAY)
            self._delay = max(1.0, self._delay + DELAY_SHARE * (error - self._delay))

    def readmit(self, job: Job) -> None:
        """A job that has been taken in before begins anew."""
        self._soonest = min(self._soonest, job.latest)
        self._put(Group.of(job))
        for name in job.slices:
            self._pending[name] = job.model, self._pending.get(name, ("", 0))[1] + job.rows

    def again(self, groups: Iterable[Group]) -> None:
        """Rows that have been through a slice wait for the next."""
        for group in groups:
            self._put(group)

    def _put(self, group: Group) -> None:
        self.waiting.setdefault(group.slice, []).append(group)
        self._jobs += len(group.jobs)

    def remove(self, job: Job) -> bool:
        """A job that waits for its first slice is not wanted any more. False when it does not wait there."""
        for group in self.waiting.get(job.slices[0], []):
            if group.jobs == [job] and not job.at:
                self.take(group)
                self.forget(job)
                return True
        return False

    def take(self, group: Group) -> Group:
        """Out of the queue, to be run or given up."""
        here = self.waiting[group.slice]
        here.remove(group)
        if not here:
            del self.waiting[group.slice]
        self._jobs -= len(group.jobs)
        return group

    def forget(self, job: Job) -> None:
        """What a job still had before it is no work any more."""
        for name in job.slices[job.at :]:
            self.passed(name, job.rows)

    def passed(self, name: str, rows: int) -> None:
        """So many rows have a slice no longer before them."""
        model, pending = self._pending[name]
        if pending > rows:
            self._pending[name] = model, pending - rows
        else:
            del self._pending[name]

    def _make_room(self, job: Job) -> list[tuple[Job, SwarmError]]:
        if len(self) < self.batching.max_waiting:
            return []
        fresh = [group.jobs[0] for group in self.groups() if len(group.jobs) == 1 and not group.jobs[0].at]
        held = Counter(other.requester for other in fresh)
        greediest, most = max(held.items(), key=lambda pair: pair[1], default=("", 0))
        full = self._refused(
            Overloaded,
            f"{self._owner} has {len(self)} requests waiting, as many as it takes; ask again later.",
            self.wait_s() / 2,
        )
        if most <= held[job.requester] + 1:
            raise full
        victim = max((other for other in fresh if other.requester == greediest), key=lambda o: (o.deadline, o.arrived))
        self.remove(victim)
        return [(victim, full)]

    def drop_late(self, now: float) -> list[tuple[Job, SwarmError]]:
        """Take out what has begun nowhere and can no longer be answered in time, however soon it were run."""
        if now < self._soonest:
            return []
        fresh = [group for group in self.groups() if not group.jobs[0].at]
        self._soonest = min((group.jobs[0].latest for group in fresh if group.jobs[0].latest > now), default=math.inf)
        late: list[tuple[Job, SwarmError]] = []
        for group in fresh:
            job = group.jobs[0]
            if job.latest <= now:
                self.take(group)
                self.forget(job)
                sentence = f"The request's deadline passed while it waited at {self._owner}; allow more time."
                late.append((job, DeadlineExceeded(sentence)))
        return late

    @property
    def slices(self) -> frozenset[str]:
        """All that somebody has before him."""
        return frozenset(self._pending)

    @property
    def is_worth_it(self) -> bool:
        """So many wait that more company would not help."""
        return any(sum(g.rows for g in groups) >= self.batching.max_batch for groups in self.waiting.values())

    # Choosing

    def groups(self) -> list[Group]:
        return [group for groups in self.waiting.values() for group in groups]

    def in_order(self, groups: Iterable[Group]) -> list[Group]:
        """Requesters take turns, whoever waits longest for one first; of each the most urgent first."""
        ranks = Counter[str]()
        ordered: list[tuple[int, int, int, Group]] = []
        for group in sorted(groups, key=lambda g: (g.deadline, g.arrived)):
            ordered.append((ranks[group.requester], self._turns.get(group.requester, 0), len(ordered), group))
            ranks[group.requester] += 1
        if len(ranks) > 1:
            ordered.sort(key=lambda item: item[:3])
        return [group for *_, group in ordered]

    def first(self) -> Group | None:
        """Whose turn it is."""
        urgent: dict[str, Group] = {}
        for group in self.groups():
            other = urgent.get(group.requester)
            if other is None or (group.deadline, group.arrived) < (other.deadline, other.arrived):
                urgent[group.requester] = group
        return min(
            urgent.values(), key=lambda g: (self._turns.get(g.requester, 0), g.deadline, g.arrived), default=None
        )

    def board(self, name: str, company: list[Group]) -> list[Group]:
        """Groups that wait at a slice and join `company` there, as many as fit; they are out of the queue then."""
        here = self.waiting.get(name)
        if not here:
            return []
        rows = sum(group.rows for group in company)
        limit = self._limit(here[0].model, rows + sum(group.rows for group in here), is_first=not company)
        aboard = list(company)
        for group in self.in_order(here):
            if (not aboard or (aboard[0].fits(group) and rows + group.rows <= limit)) and self._runs(group):
                aboard.append(self.take(group))
                rows += group.rows
                self._turn += 1
                self._remember(group.requester)
            if rows >= limit:
                break
        return aboard[len(company) :]

    def _limit(self, model: str, there: int, *, is_first: bool) -> int:
        """Rows of the next batch, when so many could be in it."""
        curves = self.curves(model)
        limit = curves.limit(there)
        return curves.share(there, self.answered_rows) if is_first and there <= limit else limit

    def _runs(self, group: Group) -> bool:
        """Not if all who wanted it are gone; then it is thrown away here."""
        if not all(job.is_over for job in group.jobs):
            return True
        self.take(group)
        for job in group.jobs:
            self.forget(job)
        return False

    def _remember(self, requester: str) -> None:
        self._turns[requester] = self._turn
        if len(self._turns) > MAX_REMEMBERED:
            del self._turns[min(self._turns, key=lambda key: self._turns[key])]

    # Foreseeing

    def curves(self, model: str) -> Curves:
        found = self._curves.get(model)
        if found is None:
            while len(self._curves) >= MAX_REMEMBERED:
                del self._curves[next(iter(self._curves))]
            found = self._curves[model] = Curves(self.batching.max_batch)
        return found

    def alone_s(self, job: Job) -> float:
        """What it would have computed by itself; what it has computed where that is not known."""
        alone_s = self.curves(job.model).alone_s(job.slices, job.rows)
        return job.compute_s if alone_s is None else alone_s

    def wait_s(self) -> float:
        """Seconds of work that is here already, what runs now included."""
        return sum(self.curves(model).work_s(name, rows) for name, (model, rows) in self._pending.items())

    def _own_s(self, job: Job) -> float:
        """Of its whole batch, which others fill where there are any."""
        curves = self.curves(job.model)
        rows = max(job.rows, curves.limit(0)) if self._pending else job.rows
        return sum(curves.work_s(name, rows) for name in job.slices)

    def _refused(self, kind: type[Overloaded], sentence: str, retry_s: float) -> Overloaded:
        error = kind(sentence)
        error.retry_after_s = max(LEAST_RETRY_S, min(retry_s, self.batching.max_wait_s))
        return error
