"""How long a slice takes for a batch of a size, learned from the batches that ran; and from that the best size. Pure.

Sizes are powers of two: a batch of 5 counts as one of 8. The *limit* is the smallest size whose seconds a row are
within `ENOUGH` of the best known: beyond it a batch gets longer and serves nobody better. It climbs by doubling for as
long as that pays. A busy machine makes some runs longer and none shorter, so sizes are compared by the shortest of
their last runs, of which each needs a few, and the double is tried again now and then. What a run will take is
foreseen from their mean.
"""

from __future__ import annotations

from collections import deque
from typing import Final

ENOUGH: Final = 1.04
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
        self._sizes: dict[int, _Size] = {}
        self._limit = 1
        self._since_try = 0
        self._nearest_s: list[float] = []
        """Seconds a row of the nearest known size, for 1, 2, 4, … rows."""

    def took(self, rows: int, seconds: float) -> None:
        """A batch of so many rows ran."""
        size, row_s = size_of(rows), seconds / rows
        if size in self._sizes:
            self._sizes[size].took(row_s)
        else:
            self._sizes[size] = _Size(row_s)
        self._limit = self._best()
        self._nearest_s = [self._nearest(power) for power in range(size_of(self._most).bit_length())]
        self._since_try = 0 if size > self._limit else self._since_try + (size == self._limit)

    def limit(self, waiting: int) -> int:
        """The most rows that the next batch should have, when so many could be in it."""
        double = min(self._most, 2 * self._limit)
        is_due = not self._knows(double) or self._since_try >= TRY_AGAIN
        return double if waiting > self._limit and self._knows(self._limit) and is_due else self._limit

    def _knows(self, size: int) -> bool:
        return size in self._sizes and self._sizes[size].runs >= FEW

    def share(self, rows: int) -> int:
        """How many of all the rows that are there to take at once. If all go, nobody waits when they are through, and
        the worker idles until callers have come back; two halves take turns with their callers' own work."""
        half = (rows + 1) // 2
        whole_s, half_s = self.run_s(rows), self.run_s(half)
        return half if whole_s and half_s and half_s / half <= CHEAP * whole_s / rows else rows

    def work_s(self, rows: int) -> float:
        """Seconds that so many rows need, in batches up to the limit; 0 while nothing is known."""
        if rows <= 0 or not self._nearest_s:
            return 0.0
        return rows * self._nearest_s[(min(rows, self._limit) - 1).bit_length()]

    def run_s(self, rows: int) -> float | None:
        """Seconds of a run of so many rows alone; None before one of about that size was seen."""
        known = self._sizes.get(size_of(rows))
        return None if known is None else rows * known.row_s

    def _nearest(self, power: int) -> float:
        nearest = min(self._sizes, key=lambda size: (abs(size.bit_length() - 1 - power), size))
        return self._sizes[nearest].row_s

    def _best(self) -> int:
        sizes = sorted(size for size in self._sizes if size <= self._most and self._knows(size))
        if not sizes:
            return min(1, self._most)
        best = min(self._sizes[size].best_s for size in sizes)
        return next(size for size in sizes if self._sizes[size].best_s <= ENOUGH * best)


def size_of(rows: int) -> int:
    """The power of two that so many rows count as."""
    return 1 << (rows - 1).bit_length()
