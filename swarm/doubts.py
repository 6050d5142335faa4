"""What a session has seen go wrong, as a correction of its view: for a while it plans around it. Pure.

The swarm's records tell what peers measured in good times. A peer that has just been lost, computes much slower than
it said, or whose link has collapsed is still there; whoever plans again at once should not plan with it as if nothing
were. Doubts fade, and return for longer each time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from swarm.types import Link, PeerId, PeerView, View

FIRST_S: Final = 4.0
LONGEST_S: Final = 300.0
GUESSED_RTT_S: Final = 0.005


@dataclass(slots=True)
class _Doubt:
    """Holds until a time. What is seen meanwhile is the same trouble; what comes back after it lasts twice as long."""

    until: float = 0.0
    lasts_s: float = 0.0
    value: float = 0.0

    def renew(self, now: float, value: float) -> None:
        if now < self.until:
            self.value = value
            return
        if now > self.until + LONGEST_S:
            self.lasts_s = 0.0
        self.lasts_s = min(LONGEST_S, max(FIRST_S, 2 * self.lasts_s))
        self.until, self.value = now + self.lasts_s, value


@dataclass(slots=True)
class Doubts:
    """All times are of one monotonic clock, given by the caller."""

    _lost: dict[PeerId, _Doubt] = field(default_factory=dict)
    _slow: dict[PeerId, _Doubt] = field(default_factory=dict)
    _narrow: dict[tuple[PeerId, PeerId], _Doubt] = field(default_factory=dict)

    def lost(self, peer: PeerId, now: float) -> None:
        """It was lost under a request, or while it loaded."""
        self._lost.setdefault(peer, _Doubt()).renew(now, 0.0)

    def slow(self, peer: PeerId, factor: float, now: float) -> None:
        """It computes so many times slower than it says."""
        self._slow.setdefault(peer, _Doubt()).renew(now, factor)

    def narrow(self, sender: PeerId, receiver: PeerId, bytes_per_s: float, now: float) -> None:
        """The way from one to the other bears at most so much."""
        self._narrow.setdefault((sender, receiver), _Doubt()).renew(now, bytes_per_s)

    def applied(self, view: View, now: float, *, wary: bool = True) -> View:
        """The view with slow peers slower and narrow links narrower, and, when `wary`, without those that were lost."""
        here = self._without_lost(view, now) if wary else view
        slow = {peer: doubt.value for peer, doubt in self._slow.items() if doubt.until > now}
        stage_s = {
            peer: tuple(seconds * slow.get(peer, 1.0) for seconds in stages) for peer, stages in view.stage_s.items()
        }
        return replace(here, peers=tuple(self._corrected(seen, slow, now) for seen in here.peers), stage_s=stage_s)

    def _without_lost(self, view: View, now: float) -> View:
        lost = {peer for peer, doubt in self._lost.items() if doubt.until > now and peer != view.me}
        return replace(view, peers=tuple(seen for seen in view.peers if seen.record.id not in lost))

    def _corrected(self, seen: PeerView, slow: dict[PeerId, float], now: float) -> PeerView:
        record = seen.record
        factor = slow.get(record.id, 1.0)
        narrow = {
            receiver: doubt.value
            for (sender, receiver), doubt in self._narrow.items()
            if sender == record.id and doubt.until > now
        }
        if factor == 1.0 and not narrow:
            return seen
        rates = {dtype: rate / factor for dtype, rate in record.profile.flops_per_s.items()}
        links = dict(record.profile.links)
        for receiver, bytes_per_s in narrow.items():
            known = links.get(receiver, Link(GUESSED_RTT_S, bytes_per_s))
            links[receiver] = replace(known, bytes_per_s=min(known.bytes_per_s, bytes_per_s))
        profile = replace(record.profile, flops_per_s=rates, links=links)
        return replace(seen, record=replace(record, profile=profile))
