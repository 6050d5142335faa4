"""One request at one member of a group: what it has been told, what it waits for, and how long everything took."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Annotated, Final

from msgspec import Meta

from swarm.batching import Ran
from swarm.errors import PeerLost, SwarmError
from swarm.plan import Group, Step
from swarm.types import Count, Name, PeerId
from swarm.way import Way
from swarm.whereabouts import Work
from swarm.workshop import Turns

MAX_HELD_BYTES: Final = 256 * 2**20
"""Shares for one requester's requests that may wait here at once."""
MAX_TALKS: Final = 256
"""Requests of one requester that may be under way at once."""
MAX_OVER: Final = 4096
"""Requests that are remembered once they are over."""

Key = tuple[str, int, str]
"""A plan's id, a request's number, a step's id."""


@dataclass(frozen=True, slots=True)
class Share:
    """What comes before the bytes that one member sends another one in an exchange."""

    plan: Name
    request: Count
    step: Name
    exchange: Count
    samples: Count
    missing: Annotated[tuple[Count, ...], Meta(max_length=64)] = ()
    """Places of members that the sender does without."""


@dataclass(slots=True, eq=False)
class Talk:
    """One request at this member. It may begin with the shares of others, before its input is here."""

    key: Key
    way: Way
    step: Step
    group: Group
    me: int
    deadline: float
    samples: int
    inbox: dict[int, dict[int, memoryview]] = field(default_factory=dict)
    missing: set[int] = field(default_factory=set)
    held_bytes: int = 0
    turns: Turns | None = None
    done: asyncio.Future[Ran] | None = None
    waits_for: int | None = None
    timer: asyncio.TimerHandle | None = None
    work: Work | None = None
    asked_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0
    exchange_s: float = 0.0

    @property
    def is_over(self) -> bool:
        return self.done is not None and self.done.done()


class Talks:
    """All requests of groups at one peer: so many for each requester, and so many bytes that wait here."""

    def __init__(self) -> None:
        self.open: dict[Key, Talk] = {}
        self.held_bytes = Counter[PeerId]()
        """By requester."""
        self._over: dict[Key, SwarmError | None] = {}
        """Those that are over, and why, where their own input has still to come and to be told."""
        self._counts = Counter[PeerId]()

    def add(self, talk: Talk) -> None:
        self.open[talk.key] = talk
        self._counts[talk.way.plan.requester] += 1

    def remove(self, talk: Talk, reason: SwarmError | None) -> bool:
        """Whether it was there. `reason` is for who brings its input later on."""
        if self.open.pop(talk.key, None) is None:
            return False
        requester = talk.way.plan.requester
        self._counts[requester] -= 1
        if not self._counts[requester]:
            del self._counts[requester]
        self.hold(talk, -talk.held_bytes)
        self.remember(talk.key, reason)
        return True

    def remember(self, key: Key, reason: SwarmError | None) -> None:
        self._over[key] = reason
        while len(self._over) > MAX_OVER:
            del self._over[next(iter(self._over))]

    def is_over(self, key: Key) -> bool:
        return key in self._over

    def reason(self, key: Key) -> SwarmError | None:
        """Why it ended before its input was here; said once."""
        reason = self._over.get(key)
        if reason is not None:
            self._over[key] = None
        return reason

    def hold(self, talk: Talk, nbytes: int) -> None:
        requester = talk.way.plan.requester
        talk.held_bytes += nbytes
        self.held_bytes[requester] += nbytes
        if not self.held_bytes[requester]:
            del self.held_bytes[requester]

    def is_new(self, key: Key) -> bool:
        return key not in self.open and key not in self._over

    def has_room(self, key: Key, requester: PeerId, nbytes: int = 0) -> bool:
        """For a request that is not here yet, or for more bytes of one that is."""
        is_one_too_many = self.is_new(key) and self._counts[requester] >= MAX_TALKS
        return not is_one_too_many and self.held_bytes[requester] + nbytes <= MAX_HELD_BYTES


def turn(talk: Talk, received: Sequence[memoryview | None] | None) -> int:
    """Go on with it, in the worker thread, until it needs an exchange: that exchange's number.

    Raises `StopIteration` with the output when there is no more to do.
    """
    began = monotonic()
    talk.queue_s += began - talk.asked_s
    turns = talk.turns
    if turns is None:
        raise PeerLost("The request ended before its turn.")
    try:
        return next(turns) if received is None else turns.send(received)
    finally:
        talk.compute_s += monotonic() - began
