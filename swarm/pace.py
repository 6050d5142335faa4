"""How long an answer of a plan should take: predicted at first, then as seen. Pure.

The wait before a request counts as a straggler is Jacobson's retransmission timer (RFC 6298): the smoothed time and
four times its deviation, never less than `FLOOR_S`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FLOOR_S: Final = 0.25
UNKNOWN_S: Final = 10.0
"""For a plan whose time nobody predicted and nobody has seen."""
FIRST_FACTOR: Final = 3.0
FIRST_GRACE_S: Final = 2.0
"""The first requests find parameters on the disk and caches cold."""
FIRST: Final = 3


@dataclass(slots=True)
class Pace:
    """Of one plan. `bottleneck_s` is what each further request in flight adds."""

    predicted_s: float = 0.0
    bottleneck_s: float = 0.0
    seen: int = 0
    mean_s: float = 0.0
    deviation_s: float = 0.0

    def took(self, seconds: float) -> None:
        """A request was answered in so long."""
        if not self.seen:
            self.mean_s, self.deviation_s = seconds, seconds / 2
        else:
            self.deviation_s += (abs(seconds - self.mean_s) - self.deviation_s) / 4
            self.mean_s += (seconds - self.mean_s) / 8
        self.seen += 1

    def patience_s(self, in_flight: int) -> float:
        """How long a request may take, with so many of the plan under way, before it is looked for."""
        queueing_s = 2 * in_flight * self.bottleneck_s
        if self.seen < FIRST:
            return queueing_s + (FIRST_FACTOR * self.predicted_s + FIRST_GRACE_S if self.predicted_s else UNKNOWN_S)
        return max(FLOOR_S, self.mean_s + 4 * self.deviation_s, self.mean_s + queueing_s)
