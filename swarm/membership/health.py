"""This peer's own health, before it judges others (Lifeguard: Dadgar, Phillips and Currey, 2018, section III).

Two things keep a slow peer from accusing the living. Its clock counts only the time in which it ran: whatever a stall
of its own held up is not late. And each sign that the fault may be its own makes it wait longer for everybody.
"""

from __future__ import annotations

from typing import Final

STEP_S: Final = 0.3
"""The most that one step of the clock counts; a peer that runs takes several a second."""
WORST: Final = 8


class LocalHealth:
    """A clock of the time lived, and a score from 0, well, to `WORST`."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._lived = 0.0
        self.score = 0

    def lived(self, now: float) -> float:
        """Seconds in which this peer ran so far; a gap longer than it ever sleeps is a stall, and counts as a step."""
        if self._last is None:
            self._last = now
        step, self._last = now - self._last, now
        if step > STEP_S:
            self.worse()
            step = STEP_S
        self._lived += max(0.0, step)
        return self._lived

    def better(self) -> None:
        """Somebody answered in time."""
        self.score //= 2  # Lifeguard takes one off; but who probes less often, too, would take half a minute to recover

    def worse(self) -> None:
        """The fault may be this peer's own: it stalled, was accused, or heard from nobody whom it asked for help."""
        self.score = min(WORST, self.score + 1)

    @property
    def patience(self) -> float:
        """What waiting times are multiplied by, from 1 on."""
        return 1.0 + self.score
