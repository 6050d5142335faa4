"""One request at one member of a group: what it has been told, what it waits for, and how long everything took."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Annotated

from msgspec import Meta

from swarm.batching import Ran
from swarm.errors import PeerLost
from swarm.plan import Group, Step
from swarm.types import Count, Name
from swarm.way import Way
from swarm.whereabouts import Work
from swarm.workshop import Turns

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
