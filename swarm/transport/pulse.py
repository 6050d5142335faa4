"""Keep-alive: is the other side still there, how far away is it, and what does its clock say? Pure: no timers here."""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import Final

_SAMPLES: Final = 16
_FRESH_S: Final = 60.0
"""Two clocks drift apart by about a millisecond in this time."""
_FIRST_PINGS: Final = 3
"""On a new channel, used or not: the first round trip alone says little of a way or a clock."""


class Beat(Enum):
    """What a tick asks for."""

    PING = auto()
    REST = auto()
    LOST = auto()


class Pulse:
    """One channel's pulse. Its owner calls `tick` when `next_at` has come, and sets `heard_at` when anything arrives.

    A channel in use is pinged every `keepalive_s`, and its peer is lost after `silence_s`. One at rest is pinged only
    when nothing was heard for `rest_s`; a ping without an answer makes it one in use. It counts as in use for
    `linger_s` after it was.

    A stalled process blames itself first: a tick that comes much too late says that this process did not run, so what
    others sent meanwhile may not have been read yet, and they get a fresh period.
    """

    def __init__(self, keepalive_s: float, silence_s: float, rest_s: float, now: float) -> None:
        self.heard_at = now
        self.next_at = now
        self.is_resting = False
        self.linger_s = 0.0
        self._keepalive_s = keepalive_s
        self._silence_s = silence_s
        self._rest_s = rest_s
        self._excused_at = self._pinged_at = self._used_at = now
        self._ticks = 0
        self._count = 0
        self._sent: deque[tuple[int, float]] = deque(maxlen=_SAMPLES)
        self._samples: deque[tuple[float, float, float]] = deque(maxlen=_SAMPLES)  # (round trip, offset, when)

    def tick(self, now: float, in_use: bool = True) -> Beat:
        """What to do now; `in_use` since the last tick."""
        self._ticks += 1
        if in_use:
            self._used_at = now
        if now - self.next_at > self._keepalive_s:
            self._excused_at = now
        self.next_at = now + self._keepalive_s
        if self._needs_care(now, in_use):
            return Beat.LOST if now - max(self.heard_at, self._excused_at) > self._silence_s else Beat.PING
        self._excused_at = now
        ask_at = self.heard_at + self._rest_s
        self.is_resting = now < ask_at
        if not self.is_resting:
            return Beat.PING
        self.next_at = ask_at
        return Beat.REST

    def rouse(self, now: float) -> None:
        """The channel is used again: silence counts from now on, and the next tick is due soon."""
        self.is_resting = False
        self._excused_at = now
        self.next_at = now + self._keepalive_s

    def _needs_care(self, now: float, in_use: bool) -> bool:
        is_new = self._ticks <= _FIRST_PINGS
        waits = self._pinged_at > self.heard_at
        return is_new or waits or in_use or now - self._used_at < self.linger_s

    def ping(self, now: float, clock: float) -> int:
        """The id of a ping sent now; `clock` is this process's monotonic time."""
        self._pinged_at = now
        self._count += 1
        self._sent.append((self._count, clock))
        return self._count

    def pong(self, ping: int, remote_clock: float, clock: float) -> None:
        """Take in the answer to a ping; one that was never sent is ignored."""
        sent = next((sent for number, sent in self._sent if number == ping), None)
        if sent is None:
            return
        while self._samples and clock - self._samples[0][2] > _FRESH_S:
            self._samples.popleft()
        self._samples.append((clock - sent, remote_clock - (sent + clock) / 2, clock))

    @property
    def rtt_s(self) -> float | None:
        """The smallest recent round trip: the one that waited least behind other traffic."""
        return min(self._samples)[0] if self._samples else None

    @property
    def clock_offset_s(self) -> float:
        """The remote monotonic clock minus the local one, from the ping with the smallest round trip."""
        return min(self._samples)[1] if self._samples else 0.0
