"""Seconds that one sample takes in each kind of stage: measured once, then corrected by what real runs take. Pure.

A real run takes `call_s` and the seconds of each of its stages. What it took over what it should have taken is the
run's *error*; every kind in it moves by a share of that error, a half the first time, less and less::

    ratio ← ratio · error^share         seconds of a stage = measured · ratio · the device's own ratio

Something else that runs on the device makes all kinds slower, those too that are not in the run: once those in it are
well known, a run moves the ratio of the device instead.

An error beyond fivefold is a stray (a machine that slept, pages that came from the disk) until several come in a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Annotated, Final

from msgspec import Meta

MAX_KINDS: Final = 4096
LEAST_SHARE: Final = 0.02
DEVICE_SHARE: Final = 0.1
SETTLED: Final = 30
"""Runs after which a kind's own ratio is known, and what is still amiss is the device's."""
PROBED_SHARE: Final = 0.7
"""Of a stage that was timed anew, over many runs."""
FAR: Final = 5.0
PERSISTENT: Final = 5
BELIEVED_SHARE: Final = 0.5
"""So many strays in a row are the truth, and then it is believed soon."""

Kind = Annotated[str, Meta(min_length=1, max_length=64)]
Duration = Annotated[float, Meta(gt=0, le=1e6)]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured on one device; kept on its disk."""

    call_s: Duration
    """Of a call of any part, whatever it computes."""
    stage_s: Annotated[Mapping[Kind, Duration], Meta(max_length=MAX_KINDS)] = field(default_factory=dict)
    """By kind of stage, oldest first."""


@dataclass(slots=True)
class _Correction:
    """What real runs taught about one kind."""

    ratio: float = 1.0
    runs: int = 0
    strays: int = 0


class Pace:
    """What one device needs for stages by their kinds. Everything takes microseconds, in whichever thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._call_s: float | None = None
        self._stage_s: dict[str, float] = {}
        self._corrections: dict[str, _Correction] = {}
        self._device = _Correction()

    @property
    def measured(self) -> Measured | None:
        """What is worth keeping, without the corrections; None before a call was measured."""
        with self._lock:
            return None if self._call_s is None else Measured(self._call_s, dict(self._stage_s))

    def take(self, measured: Measured) -> None:
        """Know what was measured on this device, by whomever; what is known already stays. Beyond `MAX_KINDS` the
        oldest are forgotten."""
        with self._lock:
            self._call_s = self._call_s or measured.call_s
            self._stage_s = {**self._stage_s, **{k: s for k, s in measured.stage_s.items() if k not in self._stage_s}}
            for oldest in list(self._stage_s)[:-MAX_KINDS]:
                del self._stage_s[oldest]
                self._corrections.pop(oldest, None)

    def stage_s(self, kinds: Sequence[str]) -> tuple[float, ...] | None:
        """Seconds of one sample in each stage; None unless all kinds are known."""
        with self._lock:
            return None if self._unknown(kinds) else tuple(map(self._seconds, kinds))

    def unknown(self, kinds: Iterable[str]) -> list[str]:
        """Those kinds that have to be measured."""
        with self._lock:
            return self._unknown(kinds)

    def learn(self, kinds: Counter[str], seconds: float) -> None:
        """One sample went through so many stages of these kinds in one call. Unknown kinds teach nothing."""
        with self._lock:
            if self._call_s is None or seconds <= 0 or self._unknown(kinds):
                return
            error = seconds / (self._call_s + sum(count * self._seconds(kind) for kind, count in kinds.items()))
            corrections = [self._corrections.setdefault(kind, _Correction()) for kind in kinds]
            if all(correction.runs >= SETTLED for correction in corrections):
                _correct(self._device, error, DEVICE_SHARE)
            for correction in corrections:
                _correct(correction, error, max(LEAST_SHARE, 1 / (correction.runs + 2)))

    def probed(self, kind: str, seconds: float) -> None:
        """One stage of this kind, timed anew, takes so long by itself."""
        with self._lock:
            if not self._unknown([kind]):
                self._device.ratio *= (seconds / self._seconds(kind)) ** PROBED_SHARE

    def _unknown(self, kinds: Iterable[str]) -> list[str]:
        return [kind for kind in kinds if kind not in self._stage_s]

    def _seconds(self, kind: str) -> float:
        found = self._corrections.get(kind)
        return self._stage_s[kind] * self._device.ratio * (found.ratio if found else 1.0)


def _correct(correction: _Correction, error: float, share: float) -> None:
    if not 1 / FAR <= error <= FAR:
        correction.strays += 1
        if correction.strays < PERSISTENT:
            return
        share = max(share, BELIEVED_SHARE)
    else:
        correction.strays = 0
    correction.ratio *= error**share
    correction.runs += 1
