"""What became of the requests of one measurement, and how long each took. Arrivals of an open loop, too."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import Callable, Sequence
from time import perf_counter, process_time
from typing import Any

import numpy as np

OUTCOMES = ("ok", "refused", "late", "failed")
MOST_LAG_S = 0.05
"""A generator that is later than this leaves requests out, and says how many."""


class Tally:
    """Counts what ends between `begin` and `end`. `answers` are the right classes of the pictures."""

    def __init__(self, answers: Sequence[int]) -> None:
        self.wrong = 0
        self.notes = 0
        """Refusals that did not say when to come back, or what else is worth counting."""
        self.reasons: dict[str, int] = {}
        self._answers = answers
        self._took = {outcome: array("d") for outcome in OUTCOMES}
        self._began = self._ended = 0.0
        self._counts = False
        self._cpu = 0.0

    def begin(self) -> None:
        self._counts, self._began, self._cpu = True, perf_counter(), process_time()

    def end(self) -> None:
        self._counts, self._ended, self._cpu = False, perf_counter(), process_time() - self._cpu

    def add(self, outcome: str, sent: float, reason: str = "") -> None:
        if self._counts:
            self._took[outcome].append(perf_counter() - sent)
            if reason:
                self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def check(self, picture: int, row: Sequence[float]) -> None:
        """An answer's ten numbers; wrong ones are counted at any time."""
        self.wrong += row.index(max(row)) != self._answers[picture]

    def summary(self, **more: Any) -> dict[str, Any]:
        elapsed = self._ended - self._began
        times = {outcome: _times(took) for outcome, took in self._took.items()}
        return {
            "per_s": len(self._took["ok"]) / elapsed,
            "p50_ms": times["ok"]["p50_ms"],
            "p99_ms": times["ok"]["p99_ms"],
            "all_per_s": sum(map(len, self._took.values())) / elapsed,
            "outcomes": times,
            "wrong": self.wrong,
            "notes": self.notes,
            "reasons": self.reasons,
            "busy": self._cpu / elapsed,
            **more,
        }


def _times(took: array[float]) -> dict[str, float]:
    if not took:
        return {"count": 0, "p50_ms": float("nan"), "p99_ms": float("nan"), "max_ms": float("nan")}
    p50, p99, most = np.percentile(np.frombuffer(took), [50, 99, 100]) * 1e3
    return {"count": len(took), "p50_ms": float(p50), "p99_ms": float(p99), "max_ms": float(most)}


async def arrivals(rate_per_s: float, seconds: float, launch: Callable[[], None]) -> int:
    """Poisson arrivals; returns how many were left out because this process could not keep up."""
    rng = random.Random(0)
    due = perf_counter()
    end, skipped, at_once = due + seconds, 0, 0
    while due < end:
        now = perf_counter()
        if now < due or at_once >= 64:
            await asyncio.sleep(max(0.0, due - now))
            at_once = 0
            continue
        if now - due > MOST_LAG_S:
            skipped += round((now - due) * rate_per_s)
            due = now
        launch()
        at_once += 1
        due += rng.expovariate(rate_per_s)
    return skipped
