"""Keep-alive: is the other side still there, how far away is it, and what does its clock say? Pure: no timers here."""

from __future__ import annotations

from collections import deque
from typing import Final

_SAMPLES: Final = 16


class Pulse:
    """One channel's pulse. Its owner calls `tick` every `keepalive_s`, and sets `heard_at` when anything arrives.

    A stalled process blames itself first: a tick that comes much too late says that this process did not run, so what
    others sent meanwhile may not have been read yet, and they get a fresh period.
    """

    def __init__(self, keepalive_s: float, silence_s: float, now: float) -> None:
        self.heard_at = now
        self._keepalive_s = keepalive_s
        self._silence_s = silence_s
        self._planned_at = now
        self._count = 0
        self._sent: deque[tuple[int, float]] = deque(maxlen=_SAMPLES)
        self._samples: deque[tuple[float, float]] = deque(maxlen=_SAMPLES)  # (round trip, offset)

    def tick(self, now: float) -> bool:
        """Whether the other side still counts as there. The next tick is due `keepalive_s` after this one."""
        lag_s = now - self._planned_at
        self._planned_at = now + self._keepalive_s
        if lag_s > self._keepalive_s:
            self.heard_at = now
        return now - self.heard_at <= self._silence_s

    def ping(self, clock: float) -> int:
        """The id of a ping sent at `clock`, this process's monotonic time."""
        self._count += 1
        self._sent.append((self._count, clock))
        return self._count

    def pong(self, ping: int, remote_clock: float, clock: float) -> None:
        """Take in the answer to a ping; one that was never sent is ignored."""
        sent = next((sent for number, sent in self._sent if number == ping), None)
        if sent is not None:
            self._samples.append((clock - sent, remote_clock - (sent + clock) / 2))

    @property
    def rtt_s(self) -> float | None:
        """The smallest recent round trip: the one that waited least behind other traffic."""
        return min(self._samples)[0] if self._samples else None

    @property
    def clock_offset_s(self) -> float:
        """The remote monotonic clock minus the local one, from the ping with the smallest round trip."""
        return min(self._samples)[1] if self._samples else 0.0
