"""What became of the requests of one measurement, and how long each took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from swarm.batching import Ran
from swarm.types import Array

SAME_BATCH_S = 1e-3
"""Answers that end less than this apart come from one batch."""


class Tally:
    """Measures from one batch's end to another's: so neither a part of a batch counts, nor one that began before.

    :param work: of a request by its cut; requests are counted by it, as so many of the mean depth.
    :param answers: what is right, by the cut.
    :param warm: so many answers come first and do not count.
    """

    def __init__(self, work: Mapping[int, float], answers: Mapping[int, Array], warm: int) -> None:
        mean = sum(work.values()) / len(work)
        self._weight = {cut: one / mean for cut, one in work.items()}
        self._answers = answers
        self._warm = warm
        self._ended: list[tuple[float, float]] = []
        self._took: list[float] = []
        self._since = self._until = 0.0
        self.wrong = 0

    @property
    def is_warm(self) -> bool:
        return self._warm <= 0

    @property
    def counted(self) -> int:
        return len(self._took)

    @property
    def seconds(self) -> float:
        return self._until - self._since

    def add(self, cut: int, asked: float, answered: float, ran: Ran) -> None:
        self.wrong += not np.allclose(ran.output, self._answers[cut], rtol=1e-2, atol=1e-3)
        ended = asked + ran.queue_s + ran.compute_s
        if self._warm > 0:
            self._warm -= 1
            self._since = self._until = ended
        elif ended > self._since + SAME_BATCH_S:
            self._until = max(self._until, ended)
            self._ended.append((ended, self._weight[cut]))
            self._took.append(answered - asked)

    def summary(self) -> dict[str, Any]:
        """Figures are not a number where too few answers came in time."""
        p50, p99, worst = np.percentile(np.array(self._took or [np.nan]), [50, 99, 100])
        return {
            "count": self.counted,
            "per_s": sum(weight for _, weight in self._ended) / self.seconds if self._ended else np.nan,
            "p50_s": float(p50),
            "p99_s": float(p99),
            "worst_s": float(worst),
            "wrong": self.wrong,
        }
