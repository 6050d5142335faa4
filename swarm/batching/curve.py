"""How long slices take for a batch of a size, learned from the batches that ran; and from that the best size. Pure.

Sizes are powers of two: a batch of 5 counts as one of 8. The *limit* is the smallest size whose seconds a row are
within `ENOUGH` of the best known: beyond it a batch gets longer and serves nobody better. It climbs by doubling for as
long as that pays. A busy machine makes some runs longer and none shorter, so sizes are compared by the shortest of
their last runs, of which each needs a few, and the double is tried again now and then. What a run will take is
foreseen from their mean.

All slices of one model have one limit, by their sum: if each had its own, a batch that is full where it begins would
pass everybody at a slice that thinks less of large batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

ENOUGH: Final = 1.04
"""How much longer than at the best size a row may take."""
CHEAP: Final = 1.12
"""How much longer a row may take in half a batch than in a whole one, so that halves are worth it."""
LEAST_SHARE: Final = 0.1
"""How much the newest batch counts for the mean, once there were many."""
LAST: Final = 8
"""Runs of which the shortest counts."""
FEW: Final = 3
"""Runs that a size needs before it can be judged."""
TRY_AGAIN: Final = 64
"""Batches at the limit before the double is tried once more."""
EARLY: Final = 64
EVERY: Final = 16
"""How often, in runs, the limit is found anew, after the early ones that all count."""
FORGOTTEN: Final = 512
"""After so many runs of others a slice has no say: the model is sliced in another way now."""


class _Size:
    """What batches of one size took."""

    __slots__ = ("_last", "best_s", "row_s", "runs")

    def __init__(self, row_s: float) -> None:
        self.row_s = self.best_s = row_s
        self.runs = 1
        self._last = deque([row_s], LAST)

    def took(self, row_s: float) -> None:
        """The first run may have been the part's first at all: of two, the shorter one counts."""
        self.runs += 1
        self._last.append(row_s)
        self.best_s = min(self._last)
        if self.runs == 2:
            self.row_s = self.best_s
        else:
            self.row_s += (row_s - self.row_s) * max(LEAST_SHARE, 1 / self.runs)


class Curve:
    """Of one slice on one device; `most` is the largest batch."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._runs = 0
        self._sizes: dict[int, _Size] = {}
        self._powers = size_of(most).bit_length()
        self._nearest: list[_Size] = []
        """The nearest known size, for 1, 2, 4, … rows."""

    def took(self, rows: int, seconds: float) -> None:
        """A batch of so many rows ran."""
        self._runs += 1
        size, row_s = self._size(rows), seconds / rows
        if size in self._sizes:
            self._sizes[size].took(row_s)
        else:
            self._sizes[size] = _Size(row_s)
            self._nearest = [self._sizes[self._nearest_size(1 << power)] for power in range(self._powers)]

    @property
    def known(self) -> list[int]:
        """The sizes that can be judged: they ran a few times."""
        return [size for size, known in self._sizes.items() if known.runs >= FEW]

    def best_s(self, size: int) -> float:
        """Seconds a row at their best, in a batch of that size or of the nearest that ran."""
        return self._sizes[self._nearest_size(size)].best_s

    def work_s(self, rows: int, limit: int) -> float:
        """Seconds that so many rows need, in batches up to the limit; 0 while little is known: a first run is slow."""
        if rows <= 0 or self._runs < FEW:
            return 0.0
        return rows * self._nearest[min((min(rows, limit) - 1).bit_length(), self._powers - 1)].row_s

    def run_s(self, rows: int) -> float | None:
        """Seconds of a run of so many rows alone; None before one of about that size was seen."""
        known = self._sizes.get(self._size(rows))
        return None if known is None else rows * known.row_s

    def _size(self, rows: int) -> int:
        return min(size_of(rows), max(rows, self._most))

    def _nearest_size(self, wanted: int) -> int:
        return min(self._sizes, key=lambda size: (max(size, wanted) / min(size, wanted), size))


class Curves:
    """Of the slices of one model, which have one limit."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: dict[str, Curve] = {}
        self._ran_at: dict[str, int] = {}
        self._runs = 0
        self._row_s: dict[int, float] = {}
        """Seconds a row at their best by size, of all slices together that have a say."""
        self._limit = min(1, most)
        self._since_try = 0

    def of(self, name: str) -> Curve:
        found = self._of.get(name)
        if found is None:
            found = self._of[name] = Curve(self._most)
        return found

    def took(self, name: str, rows: int, seconds: float) -> None:
        """A batch of so many rows ran through that slice."""
        self.of(name).took(rows, seconds)
        self._runs += 1
        self._ran_at[name] = self._runs
        if self._runs < EARLY or self._runs % EVERY == 0:
            self._judge()
        size = min(size_of(rows), max(rows, self._most))
        self._since_try = 0 if size > self._limit else self._since_try + (size == self._limit)

    def limit(self, waiting: int) -> int:
        """The most rows that the next batch should have, when so many could be in it."""
        double = min(self._most, 2 * self._limit)
        is_due = double not in self._row_s or self._since_try >= TRY_AGAIN
        return double if waiting > self._limit and self._limit in self._row_s and is_due else self._limit

    def share(self, rows: int, away: int = 0) -> int:
        """How many of all the rows that are there to take at once, when so many have just been answered. If all go,
        nobody waits when they are through, and the worker idles until callers have come back; two halves, of those
        that are here and those that may come back, take turns with their callers' own work."""
        half = (rows + away + 1) // 2
        if half >= rows:
            return rows
        whole_s = self._row_s.get(min(size_of(rows), self._most))
        half_s = self._row_s.get(min(size_of(half), self._most))
        return half if whole_s and half_s and half_s <= CHEAP * whole_s else rows

    def work_s(self, name: str, rows: int) -> float:
        """Seconds that so many rows need in a slice, in batches up to the limit; 0 while nothing is known."""
        found = self._of.get(name)
        return 0.0 if found is None else found.work_s(rows, self._limit)

    def alone_s(self, names: Iterable[str], rows: int) -> float | None:
        """Seconds of a run of so many rows through these slices, by themselves."""
        total_s = 0.0
        for name in names:
            run_s = self._of[name].run_s(rows) if name in self._of else None
            if run_s is None:
                return None
            total_s += run_s
        return total_s

    def _judge(self) -> None:
        """Find the limit. Slices that have met fewer rows than others have no say: some never meet more."""
        for old in [old for old, at in self._ran_at.items() if at < self._runs - FORGOTTEN]:
            del self._ran_at[old], self._of[old]
        known = {name: self._of[name].known for name in self._ran_at}
        most = max((size for sizes in known.values() for size in sizes), default=0)
        judges = [self._of[name] for name, sizes in known.items() if most in sizes]
        sizes = {size for sizes in known.values() for size in sizes if size <= self._most}
        self._row_s = {size: sum(curve.best_s(size) for curve in judges) for size in sorted(sizes)}
        best_s = min(self._row_s.values(), default=0.0)
        enough = (size for size, row_s in self._row_s.items() if row_s <= ENOUGH * best_s)
        self._limit = next(enough, min(1, self._most))


def size_of(rows: int) -> int:
    """The power of two that so many rows count as."""
    return 1 << (rows - 1).bit_length()
