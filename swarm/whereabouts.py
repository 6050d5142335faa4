"""Where is it? A request that takes much longer than predicted is looked for, so that the right peer or link is blamed.

Every peer notes what each request under way does there, which costs two entries in a dictionary. Nobody tells anybody
until the requester asks: then each peer of the plan names the one that has stood there longest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Annotated

from msgspec import Meta

from swarm import schema
from swarm.errors import SwarmError
from swarm.exchange import Caller, Exchange
from swarm.plan import Plan
from swarm.transport import Call, Reply, Router
from swarm.types import Count, Name, PeerId, Seconds

ASK_S = 0.5
"""How long a peer may take to say; one that computes has time for this."""


@dataclass(frozen=True, slots=True)
class Stand:
    """What one request has been doing at one peer, and for how long."""

    step: Name
    since_s: Seconds
    to: Annotated[str, Meta(max_length=64)] = ""
    """The peer to which its tensor is on the way; empty while the step waits or computes."""
    nbytes: Count = 0
    """Of that tensor."""
    rows: Count = 1
    """Samples of the request."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one peer answered: no stand when nothing of the plan is there, `silent` when no answer came."""

    peer: PeerId
    stand: Stand | None = None
    silent: bool = False


@dataclass(slots=True)
class Work:
    """One request at one step, here; its owner says when it begins to send."""

    step: str
    rows: int
    since: float = field(default_factory=monotonic)
    to: str = ""
    nbytes: int = 0

    def sends(self, to: PeerId, nbytes: int) -> None:
        self.since, self.to, self.nbytes = monotonic(), to, nbytes


@dataclass(frozen=True, slots=True)
class _Question:
    plan: Name


class Whereabouts:
    """What this peer's requests and steps are doing. Plans have unguessable names, so whoever knows one may ask."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._works: dict[str, dict[int, Work]] = {}

    def register(self, router: Router) -> None:
        router.add("whereabouts", self._answer)

    @contextmanager
    def at(self, plan_id: str, step: str, rows: int) -> Iterator[Work]:
        """A request of so many samples is here, until the block ends."""
        work = self.begin(plan_id, step, rows)
        try:
            yield work
        finally:
            self.end(plan_id, work)

    def begin(self, plan_id: str, step: str, rows: int) -> Work:
        """The same without a block: somebody calls `end`."""
        work = Work(step, rows)
        self._works.setdefault(plan_id, {})[id(work)] = work
        return work

    def end(self, plan_id: str, work: Work) -> None:
        works = self._works.get(plan_id)
        if works is not None:
            works.pop(id(work), None)
            if not works:
                del self._works[plan_id]

    def longest(self, plan_id: str) -> Stand | None:
        """The request of that plan which has stood here longest."""
        works = self._works.get(plan_id)
        if not works:
            return None
        work = min(works.values(), key=lambda work: work.since)
        return Stand(work.step, monotonic() - work.since, work.to, work.nbytes, work.rows)

    async def look(self, plan: Plan) -> list[Sighting]:
        """Ask every peer of one's own plan, this one included; takes at most about `ASK_S`."""
        peers = sorted({*plan.peers(), self._exchange.me})
        return list(await asyncio.gather(*(self._ask(peer, plan.id) for peer in peers)))

    async def _ask(self, peer: PeerId, plan_id: str) -> Sighting:
        if peer == self._exchange.me:
            return Sighting(peer, self.longest(plan_id))
        try:
            reply = await self._exchange.request(peer, "whereabouts", {"plan": plan_id}, timeout_s=ASK_S)
            stand = reply.fields.get("stand")
            return Sighting(peer, None if stand is None else schema.unpack(Stand, stand))
        except SwarmError:
            return Sighting(peer, silent=True)

    def _answer(self, _caller: Caller, call: Call) -> Reply:
        stand = self.longest(schema.unpack(_Question, call.fields).plan)
        return Reply({"stand": None if stand is None else schema.pack(stand)}, b"")


def culprit(sightings: Sequence[Sighting], least_s: float) -> Sighting | None:
    """Who holds the plan up: whoever has had a request for longest, and for `least_s` at least; but one that does not
    even answer, where the longest is on its way there or nobody has had any for so long. None when nobody has it."""
    silent = {seen.peer: seen for seen in sightings if seen.silent}
    standing = [(seen.stand.since_s, seen.peer, seen.stand.to, seen) for seen in sightings if seen.stand is not None]
    if standing:
        since_s, _, to, seen = max(standing, key=lambda row: row[:2])
        if not silent or (since_s >= least_s and to not in silent):
            return seen
        return silent.get(PeerId(to), next(iter(silent.values())))
    return next(iter(silent.values()), None)
