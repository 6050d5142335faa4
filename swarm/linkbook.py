"""What this peer knows of its ways to others: trials and real transfers in, one estimate for each way out. Pure.

    a trial ───────────▶ ┌──────────────┐
    a real transfer ───▶ │ LinkEstimate │ ──▶ Link: the medians of the last samples
    a transfer hangs ──▶ └──────────────┘ ──▶ doubt: try it again, later and later

A single slow transfer says little: the receiver may have been busy just then. Three in a row that agree say that the
link is another one now, and the samples before them are forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import median, median_high
from typing import Final

from swarm.types import Link, PeerId

MIN_BYTES_PER_S: Final = 1e2
MAX_BYTES_PER_S: Final = 1e12
MAX_RTT_S: Final = 60.0
SMALL_BYTES: Final = 16 * 2**10
"""A transfer of less tells of the round trip only."""
MAX_LINKS: Final = 64
MAX_TOLD: Final = 32
SAMPLES: Final = 8
AGREEING: Final = 3
"""So many samples in a row that differ from the estimate by a factor of two, all to the same side, replace it."""
RECHECK_S: Final = 30.0
MOST_RECHECKS: Final = 5
"""A collapsed link is tried again after 30, 60, 120, 240 and 480 s; then it counts as what it has become."""
ABSENT_S: Final = 10.0
"""So long the link of a peer that is gone is kept, for it may be back soon."""

_COLLAPSED: Final = 0.2
_RECOVERED: Final = 0.5
_TINY_BYTES: Final = 2 * 1024
_FAR_TOO_SLOW: Final = 4.0
_WORTH_TELLING: Final = 0.25
_WORTH_TELLING_S: Final = 2e-4
"""No plan looks different for less of a round trip."""
_USED_TOGETHER_S: Final = 60.0
"""Links last used within one such span are equally recent, so that those told do not change with every transfer."""


@dataclass(frozen=True, slots=True)
class _Doubt:
    """Since when, and how often tried since, a link has been far slower than it was."""

    since: float
    tries: int = 0

    @property
    def retry_at(self) -> float:
        return self.since + RECHECK_S * 2.0**self.tries


class LinkEstimate:
    """One way to one peer. All times are of one clock, in seconds."""

    def __init__(self, now: float) -> None:
        self.used_at = now
        self._rtts: deque[float] = deque(maxlen=SAMPLES)
        self._rates: deque[float] = deque(maxlen=SAMPLES)
        self._usual_rate = 0.0
        self._doubt: _Doubt | None = None

    @property
    def rtt_s(self) -> float:
        return median(self._rtts) if self._rtts else 0.0

    @property
    def bytes_per_s(self) -> float:
        return median_high(self._rates) if self._rates else 0.0

    @property
    def is_complete(self) -> bool:
        return bool(self._rtts and self._rates)

    @property
    def link(self) -> Link | None:
        """None while the rate is unknown; the round trip is 0 while that is."""
        return Link(self.rtt_s, self.bytes_per_s) if self._rates else None

    @property
    def has_collapsed(self) -> bool:
        """It is far slower than usual."""
        return self._doubt is not None

    def is_doubtful(self, now: float) -> bool:
        """It has been far slower than usual for so long that it should be tried again."""
        return self._doubt is not None and now >= self._doubt.retry_at

    def tried(self, link: Link, now: float) -> None:
        """A trial tells all anew."""
        self.used_at = now
        self._rtts.clear()
        self._rtts.extend([_clipped(link.rtt_s, 0.0, MAX_RTT_S)] * AGREEING)
        self._restart([_bounded(link.bytes_per_s)] * AGREEING)
        self._try_is_over(now)
        self._judge(now)

    def failed(self, now: float) -> None:
        """A trial came to nothing; what was known stays."""
        self._try_is_over(now)

    def observed(self, nbytes: int, seconds: float, now: float) -> None:
        """A transfer of so many bytes was acknowledged after so many seconds."""
        self.used_at = now
        seconds = _clipped(seconds, 1e-9, 1e9)
        if self._is_about_rtt(nbytes, seconds):
            self._rtts.append(min(MAX_RTT_S, max(seconds - self._expected_s(nbytes), seconds / 10)))
        else:
            self._add_rate(_bounded(nbytes / max(seconds - self.rtt_s, seconds / 10)))
            self._judge(now)

    def suspected(self, bytes_per_s_at_most: float, now: float) -> None:
        """A transfer that is not over yet cannot be faster than this. Counts at once."""
        if not self._rates or bytes_per_s_at_most < self.bytes_per_s:
            self.used_at = now
            self._restart([_bounded(bytes_per_s_at_most)] * AGREEING)
            self._doubt = self._doubt or _Doubt(now)

    def _expected_s(self, nbytes: int) -> float:
        """Of the bytes alone, as far as the rate is known."""
        return nbytes / self.bytes_per_s if self._rates else 0.0

    def _is_about_rtt(self, nbytes: int, seconds: float) -> bool:
        """Too short to tell of the rate, unless it was far too slow."""
        bytes_s = self._expected_s(nbytes)
        is_far_too_slow = seconds >= _FAR_TOO_SLOW * (self.rtt_s + bytes_s)
        if nbytes < SMALL_BYTES:
            return nbytes < _TINY_BYTES or not self.is_complete or not is_far_too_slow
        return 0.0 < bytes_s < self.rtt_s and not is_far_too_slow

    def _add_rate(self, rate: float) -> None:
        before = self.bytes_per_s
        self._rates.append(rate)
        latest = list(self._rates)[-AGREEING:]
        if len(latest) == AGREEING and (max(latest) < before / 2 or min(latest) > before * 2):
            self._restart(latest)

    def _restart(self, rates: list[float]) -> None:
        self._rates.clear()
        self._rates.extend(rates)

    def _judge(self, now: float) -> None:
        """Begin or end to doubt, by what is usual on this link."""
        rate = self.bytes_per_s
        if rate >= _RECOVERED * self._usual_rate:
            self._doubt = None
            self._usual_rate = max(rate, self._usual_rate)
        elif rate < _COLLAPSED * self._usual_rate and self._doubt is None:
            self._doubt = _Doubt(now)

    def _try_is_over(self, now: float) -> None:
        if self._doubt is None:
            return
        if self._doubt.tries + 1 < MOST_RECHECKS:
            self._doubt = _Doubt(now, self._doubt.tries + 1)
        else:
            self._doubt, self._usual_rate = None, self.bytes_per_s


class LinkBook:
    """The estimates for all peers, at most `MAX_LINKS`: the one that was used longest ago gives way."""

    def __init__(self) -> None:
        self._estimates: dict[PeerId, LinkEstimate] = {}
        self._told: dict[PeerId, Link] = {}

    def links(self) -> dict[PeerId, Link]:
        """What is known now, sorted by peer."""
        known = {peer: estimate.link for peer, estimate in sorted(self._estimates.items())}
        return {peer: link for peer, link in known.items() if link is not None}

    def knows(self, peer: PeerId) -> bool:
        """Its round trip and its rate."""
        return peer in self._estimates and self._estimates[peer].is_complete

    def doubtful(self, now: float) -> list[PeerId]:
        """Those to be tried again."""
        return sorted(peer for peer, estimate in self._estimates.items() if estimate.is_doubtful(now))

    def of(self, peer: PeerId, now: float) -> LinkEstimate:
        """The estimate for `peer`, an empty one the first time."""
        if peer not in self._estimates:
            while len(self._estimates) >= MAX_LINKS:
                del self._estimates[min(self._estimates, key=lambda known: (self._estimates[known].used_at, known))]
            self._estimates[peer] = LinkEstimate(now)
        return self._estimates[peer]

    def retain(self, present: Collection[PeerId], now: float) -> None:
        """Forget those who are not there; one that was tried just now may not have been heard of yet."""
        for peer in [peer for peer in self._estimates if peer not in present]:
            if now - self._estimates[peer].used_at >= ABSENT_S:
                del self._estimates[peer]

    def news(self) -> dict[PeerId, Link] | None:
        """What others should know, once it differs enough from what they were told; None when it does not.

        At most `MAX_TOLD` links, those used most recently, in two significant digits.
        """
        links = self.links()
        tell = {peer: self._worth_telling(peer, links[peer]) for peer in self._most_recent(links)}
        if tell == self._told:
            return None
        self._told = tell
        return dict(tell)

    def _most_recent(self, links: Mapping[PeerId, Link]) -> list[PeerId]:
        def rank(peer: PeerId) -> tuple[float, bool, PeerId]:
            return -(self._estimates[peer].used_at // _USED_TOGETHER_S), peer not in self._told, peer

        return sorted(sorted(links, key=rank)[:MAX_TOLD])

    def _worth_telling(self, peer: PeerId, link: Link) -> Link:
        told = self._told.get(peer)
        return (
            told if told is not None and _is_about(link, told) else Link(_short(link.rtt_s), _short(link.bytes_per_s))
        )


def _is_about(link: Link, told: Link) -> bool:
    """Close enough to what was told that nobody need hear of it."""
    rtt_by_s = max(_WORTH_TELLING * told.rtt_s, _WORTH_TELLING_S)
    rate_by = _WORTH_TELLING * told.bytes_per_s
    return abs(link.rtt_s - told.rtt_s) <= rtt_by_s and abs(link.bytes_per_s - told.bytes_per_s) <= rate_by


def _short(number: float) -> float:
    return float(f"{number:.1e}")


def _bounded(bytes_per_s: float) -> float:
    return _clipped(bytes_per_s, MIN_BYTES_PER_S, MAX_BYTES_PER_S)


def _clipped(number: float, least: float, most: float) -> float:
    return min(most, max(least, number))
