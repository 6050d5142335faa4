"""One doubt: a peer that does not answer, asked again round by round, until it answers or its end is certain.

    a round: Ping it, knock at its door, ask others to do the same
        a sign of life, to this peer or to another   ─▶ over, nothing happened
        its door open, for anybody: its kernel lives ─▶ SUSPECT, and dead only after STALLED_S of this
        its door shut, and no connection left        ─▶ DEAD: no process listens there
        nothing at all                               ─▶ SUSPECT; after so many such rounds in a row, DEAD

Suspicion shortens as others confirm it (Lifeguard, section III.B): alone, a peer wants `ROUNDS_ALONE` silent rounds;
each other that finds the same spares one, down to `ROUNDS_LEAST`, which is enough once somebody has declared it dead.
One would not do: when a cut has healed, many hear at once of the death of one who is only busy, and any of them may
lose a packet. A round in which a peer hears from nobody else either says nothing, and does not count.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from swarm.types import Door, PeerId, PeerState

ROUNDS_ALONE: Final = 4
ROUNDS_LEAST: Final = 2
PAUSE_S: Final = 0.05
BUSY_PAUSE_S: Final = 1.0
STALLED_S: Final = 30.0
"""How long a peer may be busy, its kernel answering for it, before it counts as dead."""
DEAF_S: Final = 15.0
"""How long a peer that hears from nobody at all holds back its judgement of the others."""
REDIAL_S: Final = 2.0
"""How long a peer whose connection broke, and whose kernel lives, has before others hear of it."""
REDIAL_PAUSE_S: Final = 0.25
SHUT_S: Final = 0.25
"""How long others have to contradict a shut door: an answer of the peer to one of them takes two round trips."""
HELP_S: Final = 0.2
"""How much longer than this peer's own knock those that were asked for help may take."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What this peer itself has found out of another one."""

    peer: PeerId
    claim: PeerState
    is_silent: bool = False
    """For a suspicion: nothing at all came from there, which counts as a confirmation for others."""


@dataclass(slots=True)
class Inquiry:
    """What is being found out about one peer, for this one (`is_mine`) and for those who asked."""

    target: PeerId
    number: int
    """Of its pings and of what helpers are asked: whatever bears it answers this inquiry, in whichever round."""
    since: float
    is_mine: bool = False
    is_declared_dead: bool = False
    """By somebody else."""
    askers: dict[PeerId, int] = field(default_factory=dict)
    accusers: set[PeerId] = field(default_factory=set)
    silent: int = 0
    """Rounds in a row in which nothing came, not even from its kernel."""

    is_going_on: bool = False
    began_at: float = 0.0
    next_at: float = 0.0
    """Of the next round, in the pause between two."""
    ping_until: float = 0.0
    knock_until: float = 0.0
    help_until: float = 0.0
    door: Door | None = None
    """What this peer's own knock found in this round; None until it is known."""
    helpers: set[PeerId] = field(default_factory=set)
    """Who was asked in this round and has not answered."""
    is_helped: bool = False
    is_open_to_others: bool = False

    def begin(self, t: float, ping_s: float, knock_s: float) -> None:
        """A new round; `ping_s` is 0 where there is nothing to send a ping over."""
        self.is_going_on, self.door, self.is_helped, self.is_open_to_others = True, None, False, False
        self.helpers.clear()
        self.began_at = t
        self.ping_until = t + ping_s
        self.help_until = t + knock_s + HELP_S
        self.knock_until = t + 2 * knock_s + 1.0

    def forgive(self, t: float, pause_s: float) -> None:
        """It has lived since this began: start over, once what older knocks find cannot be mistaken for news."""
        self.since, self.next_at = t, t + pause_s
        self.is_going_on, self.is_declared_dead, self.silent = False, False, 0
        self.accusers.clear()

    def nacked(self, helper: PeerId, door: Door) -> None:
        """A helper says what it found, having heard nothing itself."""
        self.is_helped = True
        self.helpers.discard(helper)
        if door is Door.OPEN:
            self.is_open_to_others = True
        elif door is not Door.UNKNOWN:
            self.accusers.add(helper)

    def is_over(self, t: float) -> bool:
        """Whether all that this round can tell is there."""
        if t < self.ping_until:
            return False
        if self.door is None:
            if t < self.knock_until:
                return False
            self.door = Door.UNKNOWN
        enough_at = self.began_at + SHUT_S if self.door is Door.SHUT else self.help_until
        return self.door is Door.OPEN or not self.helpers or t >= enough_at

    def conclude(self, t: float, is_contact: bool, is_deaf: bool) -> Verdict | None:
        """What a round without a sign of life means. `is_deaf`: nothing came from anybody else in it."""
        self.is_going_on = False
        self.next_at = t + BUSY_PAUSE_S
        if self.door is Door.OPEN or self.is_open_to_others:
            return self._is_busy(t, is_contact)
        if self.door is Door.UNKNOWN:
            return None
        if self.door is Door.SHUT and not is_contact:
            return Verdict(self.target, PeerState.DEAD)
        self.next_at = t + PAUSE_S
        is_telling = not is_deaf or t - self.since > DEAF_S
        self.silent += is_telling
        if is_telling and self.silent >= self._enough():
            return Verdict(self.target, PeerState.DEAD)
        return Verdict(self.target, PeerState.SUSPECT, is_silent=is_telling)

    def _is_busy(self, t: float, is_contact: bool) -> Verdict | None:
        self.silent = 0
        self.accusers.clear()
        self.is_declared_dead = False
        if t - self.since > STALLED_S:
            return Verdict(self.target, PeerState.DEAD)
        if not is_contact and t - self.since < REDIAL_S:
            self.next_at = t + REDIAL_PAUSE_S
            return None  # only the connection broke; it is being made again
        return Verdict(self.target, PeerState.SUSPECT)

    def _enough(self) -> int:
        if self.is_declared_dead:
            return ROUNDS_LEAST
        return max(ROUNDS_LEAST, ROUNDS_ALONE - len(self.accusers))
