"""What a peer has done, counted, for `/metrics` and for whoever looks. Pure; each count has one writer, the event loop
or the worker thread.

A histogram counts values up to each of its bounds, as Prometheus does: https://prometheus.io/docs/concepts/metric_types/
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Final

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
MAX_MODELS: Final = 64
OTHERS: Final = "other"
"""What models are counted as once there are too many: others name them."""


class Histogram:
    """`counts[i]` values were at most `bounds[i]` and more than the bound before; the last count has no bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0
        """Sum of all values."""

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Family:
    """One histogram for each model."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.of: dict[str, Histogram] = {}

    def observe(self, model: str, value: float) -> None:
        found = self.of.get(model)
        if found is None:
            name = model if len(self.of) < MAX_MODELS else OTHERS
            found = self.of.setdefault(name, Histogram(self._bounds))
        found.observe(value)


class Metrics:
    """Everything that one peer counts, by model, since it started."""

    def __init__(self) -> None:
        self.answer_s = Family(SECONDS)
        """This peer's own requests that were answered: seconds from asking to the answer."""
        self.failed = Counter[tuple[str, str]]()
        """This peer's own requests that ended in an error, by model and error code."""
        self.queue_s = Family(SECONDS)
        """Steps run here, for whomever: seconds until the batch began."""
        self.compute_s = Family(SECONDS)
        """The same steps: seconds that their batch computed."""
        self.wire_s = Family(SECONDS)
        """The same steps: seconds that the input was on its way."""
        self.batch_rows = Family(ROWS)
        """Batches run here: samples in each. Written in the worker thread."""
        self.refused = Counter[tuple[str, str]]()
        """Steps that failed or were refused here, by model and error code."""
        self.sent_bytes = 0
        """Of tensors, acknowledged by their receivers."""
        self.received_bytes = 0
        """Of tensors."""

    def fail(self, counter: Counter[tuple[str, str]], model: str, code: str) -> None:
        """Count an error under a bounded number of models; codes are the error tree's."""
        known = {name for name, _ in counter}
        counter[model if model in known or len(known) < MAX_MODELS else OTHERS, code] += 1
