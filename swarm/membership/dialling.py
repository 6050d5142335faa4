"""Whom to connect to, where, and when to try again: places where a peer may be, and known peers out of touch."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Final

from swarm.membership.actions import Dial
from swarm.types import Address, PeerId

BACKOFF_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
STEADY_S: Final = 5.0
"""A connection that broke sooner is made again ever more slowly: something ends it, a twin of this peer perhaps."""
ATTEMPTS: Final = 2
"""Failed dials until a peer is suspect."""
LEAD_ATTEMPTS: Final = len(BACKOFF_S)
MAX_LEADS: Final = 256
MAX_DIALS: Final = 16
MAX_DEAD_DIALS: Final = 4
"""The dead are dialled only while fewer than this are under way: the living come first."""


@dataclass(slots=True)
class _Place:
    """Somebody to dial. A lead has addresses of its own; a known peer's are looked up."""

    addresses: tuple[Address, ...]
    peer_id: PeerId | None
    dial_at: float
    is_seed: bool = False
    failures: int = 0
    dial: Dial | None = None

    def is_due(self, t: float) -> bool:
        return self.dial is None and self.dial_at <= t


class Dialling:
    """At most `MAX_LEADS` leads and `MAX_DIALS` dials at once, nobody twice at once, whatever others send."""

    def __init__(self) -> None:
        self._leads: dict[tuple[Address, ...], _Place] = {}
        self._missed: dict[PeerId, _Place] = {}
        self._broken: dict[PeerId, int] = {}
        self._due_at = 0.0
        """Nobody is due before."""

    def follow(self, addresses: tuple[Address, ...], peer_id: PeerId | None, t: float, *, is_seed: bool) -> bool:
        """Somebody may be at `addresses`. A seed is tried for ever. False when there are too many leads."""
        self._due_at = min(self._due_at, t)
        lead = self._leads.get(addresses)
        if lead is None and len(self._leads) >= MAX_LEADS:
            return False
        if lead is None:
            self._leads[addresses] = _Place(addresses, peer_id, t, is_seed)
        else:
            lead.is_seed = lead.is_seed or is_seed
            lead.peer_id = peer_id or lead.peer_id
            lead.failures = 0
        return True

    def miss(self, peer: PeerId, at: float) -> None:
        """A known peer is to be dialled from `at` on, until `found` or `forget`."""
        place = self._missed.setdefault(peer, _Place((), peer, at))
        place.dial_at = min(place.dial_at, at)
        self._due_at = min(self._due_at, at)

    def forget(self, peer: PeerId) -> None:
        self._missed.pop(peer, None)
        self._broken.pop(peer, None)

    def lost(self, peer: PeerId, t: float, lasted_s: float, *, is_missed: bool) -> None:
        """A connection broke after so long. `is_missed`: it is to be made again; so it is with a seed in any case."""
        broken = 1 if lasted_s > STEADY_S else self._broken.get(peer, 0) + 1
        at = t + _backoff_s(broken)
        for lead in self._leads.values():
            if lead.peer_id == peer:
                lead.dial_at = at
        self._due_at = min(self._due_at, at)
        if is_missed:
            self._broken[peer] = broken
            self.miss(peer, at)

    def failures(self, peer: PeerId) -> int:
        """How often in a row a known peer could not be reached."""
        place = self._missed.get(peer)
        return place.failures if place else 0

    def found(self, peer: PeerId, dial: Dial | None, *, is_me: bool) -> None:
        """A connection is up. Its leads are followed: a seed stays, to be tried when that peer is lost."""
        self._due_at = 0.0
        self._missed.pop(peer, None)
        for addresses, lead in list(self._leads.items()):
            if dial is not None and lead.dial == dial:
                lead.dial, lead.failures, lead.peer_id = None, 0, peer
            if lead.peer_id == peer and (is_me or not lead.is_seed):
                del self._leads[addresses]
        for place in self._missed.values():  # somebody else answered there
            if dial is not None and place.dial == dial:
                place.dial = None

    def failed(self, dial: Dial, t: float, slowest_s: float) -> None:
        """Nobody answered, or somebody else than was meant. `slowest_s`: the least pause until the next try."""
        self._due_at = 0.0
        for addresses, lead in list(self._leads.items()):
            if lead.dial == dial:
                lead.dial, lead.failures = None, lead.failures + 1
                lead.dial_at = t + _backoff_s(lead.failures)
                if lead.is_seed:
                    lead.peer_id = None  # whoever listens there now is welcome
                elif lead.failures >= LEAD_ATTEMPTS:
                    del self._leads[addresses]
        missed = self._missed.get(dial.peer_id) if dial.peer_id is not None else None
        if missed is not None and missed.dial == dial:
            missed.dial, missed.failures = None, missed.failures + 1
            missed.dial_at = t + max(slowest_s, _backoff_s(missed.failures + 1))

    def due(
        self,
        t: float,
        contacts: Container[PeerId],
        gone: Container[PeerId],
        room: int,
        addresses_of: Callable[[PeerId], tuple[Address, ...]],
    ) -> list[Dial]:
        """Leads and the living first; the dead only while little else is under way. `room`: how many connections with
        known peers are still wanted."""
        if t < self._due_at:
            return []
        if room <= 0:
            self._missed = {peer: p for peer, p in self._missed.items() if p.dial is not None or peer in gone}
        under_way = [p.dial for p in (*self._leads.values(), *self._missed.values()) if p.dial is not None]
        taken = {dial.peer_id for dial in under_way if dial.peer_id is not None}

        def free(places: Iterable[_Place]) -> list[_Place]:
            found = []
            for place in places:
                if place.is_due(t) and place.peer_id not in taken and place.peer_id not in contacts:
                    if place.peer_id is not None:
                        taken.add(place.peer_id)
                    found.append(place)
            return found

        leads = free(self._leads.values())
        missed = free(self._missed.values())
        sought = sum(p.dial is not None for p in self._missed.values())
        living = [*leads, *[p for p in missed if p.peer_id not in gone][: max(0, room - sought)]]
        dead = [p for p in missed if p.peer_id in gone]
        chosen = living[: max(0, MAX_DIALS - len(under_way))]
        chosen += dead[: max(0, MAX_DEAD_DIALS - len(under_way) - len(chosen))]
        for place in chosen:
            known = addresses_of(place.peer_id) if place.peer_id is not None and not place.addresses else ()
            place.dial = Dial(place.addresses or known, place.peer_id)
        waiting = [p for p in (*self._leads.values(), *self._missed.values()) if p.dial is None]
        self._due_at = min((p.dial_at for p in waiting if p.peer_id not in contacts), default=float("inf"))
        return [place.dial for place in chosen if place.dial is not None]


def _backoff_s(failures: int) -> float:
    return BACKOFF_S[min(failures, len(BACKOFF_S)) - 1]
