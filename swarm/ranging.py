"""Keeps this peer's links measured: tried when two hosts meet, refined by real transfers, told to others.

    meets a host ─▶ Soundings ─┐
    a plan is to be made ──────┤▶ LinkBook ─▶ links(): for this peer's own plans
    Dataflow hands over ───────┘            ─▶ on_change: gossip, when it is worth it

Two hosts try their link once, soon after both know their own speed; the smaller id begins. That costs about
6 MB for every two hosts of a fast network, so it happens in swarms of up to `MAX_HOSTS` hosts; in larger ones, and
between clients and hosts, a link is tried when somebody plans with it (`measure`). After that only links that collapsed
are tried again, a few times: at rest nothing is sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from random import Random
from time import monotonic
from types import TracebackType
from typing import Final

from swarm.errors import Overloaded, SwarmError
from swarm.exchange import Exchange
from swarm.linkbook import MAX_LINKS, LinkBook, LinkEstimate
from swarm.sounding import Soundings
from swarm.transport import Router
from swarm.types import Link, PeerId, PeerView, View

log = logging.getLogger(__name__)

MAX_HOSTS: Final = 16
"""So many hosts try all their links by themselves; a larger swarm tries those that plans ask about."""
TICK_S: Final = 1.0
REACH_S: Final = 2.0
BUSY_S: Final = 0.3
"""About how long to wait for a device that is being tried by somebody else."""
GREATER_ID_WAITS_S: Final = 10.0
"""Whoever has the greater id leaves it to the other, unless nothing comes of it."""
RETRY_S: Final = 5.0
MOST_RETRY_S: Final = 320.0


@dataclass(frozen=True, slots=True)
class _Schedule:
    """When a peer may be tried, and how often that failed in a row."""

    at: float
    failures: int = 0


class Ranging:
    """The links of one peer. `register` its methods, then enter it once, while `exchange` can be used.

    `view` tells who is here; `on_change` gets all links worth telling, once every `tick_s` or so at most, when they are
    others or differ by more than a quarter from what it got before. Used from the loop's thread only.
    """

    def __init__(
        self,
        exchange: Exchange,
        view: Callable[[], View],
        on_change: Callable[[Mapping[PeerId, Link]], None],
        *,
        rng: Random | None = None,
        clock: Callable[[], float] = monotonic,
        tick_s: float = TICK_S,
    ) -> None:
        self._me = exchange.me
        self._exchange = exchange
        self._view = view
        self._on_change = on_change
        self._rng = rng or Random()
        self._clock = clock
        self._tick_s = tick_s
        self._book = LinkBook()
        self._back: dict[PeerId, Link] = {}
        self._schedule: dict[PeerId, _Schedule] = {}
        self._to_recheck: set[PeerId] = set()
        self._soundings = Soundings(exchange, self._found, clock)
        self._one_at_a_time = asyncio.Lock()
        self._tasks = asyncio.TaskGroup()
        self._watching: asyncio.Task[None] | None = None

    def register(self, router: Router) -> None:
        self._soundings.register(router)

    async def __aenter__(self) -> Ranging:
        await self._tasks.__aenter__()
        self._watching = self._tasks.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watching is not None:
            self._watching.cancel()
        if isinstance(error, asyncio.CancelledError):
            await self._tasks.__aexit__(kind, error, trace)
        else:
            await self._tasks.__aexit__(None, None, None)  # the body's own error goes on as it is, in no group

    # What is known

    def links(self) -> Mapping[PeerId, Link]:
        """This peer's ways to others, as it knows them now: fresher and finer than what it tells."""
        return self._book.links()

    def links_back(self) -> Mapping[PeerId, Link]:
        """The ways of others to this peer, as its own last trials found them. They keep, and tell, what they know
        themselves; this is for planning before that has spread."""
        return dict(self._back)

    def overlaid(self, view: View) -> View:
        """The view with what this peer knows itself of its links, which others will hear in a while."""
        return replace(view, peers=tuple(self._overlaid(seen) for seen in view.peers))

    def _overlaid(self, seen: PeerView) -> PeerView:
        profile, peer = seen.record.profile, seen.record.id
        if peer == self._me:
            links = self.links()
        elif peer in self._back and self._me not in profile.links:
            links = {**profile.links, self._me: self._back[peer]}
        else:
            return seen
        return replace(seen, record=replace(seen.record, profile=replace(profile, links=links)))

    def observe(self, peer: PeerId, nbytes: int, seconds: float) -> None:
        """A body of so many bytes was sent to `peer` on the tensors connection, and acknowledged after `seconds`."""
        if peer != self._me:
            with self._collapse_noticed(peer) as estimate:
                estimate.observed(nbytes, seconds, self._clock())

    def suspect(self, peer: PeerId, bytes_per_s_at_most: float) -> None:
        """A transfer to `peer` hangs, so its link can only be slower than this. It is tried again in a while."""
        if peer != self._me:
            with self._collapse_noticed(peer) as estimate:
                estimate.suspected(bytes_per_s_at_most, self._clock())

    @contextmanager
    def _collapse_noticed(self, peer: PeerId) -> Iterator[LinkEstimate]:
        """Mostly it is one device whose way to everybody got slow. Whether it is this one, its other links tell: they
        are tried now; and the other device, which is told what a trial finds, does the same."""
        estimate = self._book.of(peer, self._clock())
        before = estimate.has_collapsed
        yield estimate
        if estimate.has_collapsed and not before:
            self._to_recheck |= set(self._book.links()) - {peer}

    # Trying

    async def measure(self, peers: Iterable[PeerId], timeout_s: float) -> None:
        """Try the links to those of `peers` that are not known yet. Returns when all are, or cannot be, and after
        `timeout_s` at the latest; `links()` has what was found."""
        unknown = sorted(peer for peer in set(peers) if self._is_unknown(peer))[:MAX_LINKS]
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as trials:
                for peer in unknown:
                    trials.create_task(self._insist(peer))

    async def _insist(self, peer: PeerId) -> None:
        """Until it is known or something worse than a busy device is in the way."""
        while True:
            error = await self._try(peer, self._is_unknown)
            if not isinstance(error, Overloaded):
                return
            await asyncio.sleep(self._while_busy_s())

    async def _try(self, peer: PeerId, is_due: Callable[[PeerId], bool]) -> SwarmError | None:
        """Try one link, if that is still wanted when its turn has come; what went wrong."""
        try:
            await self._exchange.reach(peer, "tensors", REACH_S)
            async with self._one_at_a_time:
                if is_due(peer):
                    found = await self._soundings.sound(peer)
                    self._back[peer] = found.back
                    self._found(peer, found.there)
        except SwarmError as error:
            log.debug("the link to %s was not tried: %s", peer, error)
            self._put_off(peer, error)
            return error
        return None

    def _found(self, peer: PeerId, link: Link) -> None:
        with self._collapse_noticed(peer) as estimate:
            estimate.tried(link, self._clock())
        self._schedule.pop(peer, None)
        self._to_recheck.discard(peer)

    def _put_off(self, peer: PeerId, error: SwarmError) -> None:
        now = self._clock()
        failures = self._schedule[peer].failures if peer in self._schedule else 0
        if isinstance(error, Overloaded):
            self._schedule[peer] = _Schedule(now + self._while_busy_s(), failures)
            return
        self._schedule[peer] = _Schedule(now + min(MOST_RETRY_S, RETRY_S * 2**failures), failures + 1)
        self._to_recheck.discard(peer)
        if peer in self._book.doubtful(now):
            self._book.of(peer, now).failed(now)

    def _while_busy_s(self) -> float:
        return self._rng.uniform(0.1, 1.0) * BUSY_S

    def _is_unknown(self, peer: PeerId) -> bool:
        return peer != self._me and not self._book.knows(peer)

    # By itself

    async def _watch(self) -> None:
        while True:
            pause_s = self._rng.uniform(0.5, 1.0) * self._tick_s
            await asyncio.sleep(pause_s)
            self._forget_the_gone()
            if (news := self._book.news()) is not None:
                self._on_change(news)
            self._meet()
            until = self._clock() + pause_s
            while (peer := self._next_due()) is not None and self._clock() < until:
                await self._try(peer, self._is_wanted)

    def _meet(self) -> None:
        """Plan the first trial with every host that is new."""
        now = self._clock()
        for host in self._neighbours():
            if self._is_unknown(host) and host not in self._schedule:
                self._schedule[host] = _Schedule(now if self._me < host else now + GREATER_ID_WAITS_S)

    def _neighbours(self) -> set[PeerId]:
        """The hosts whose links this peer tries by itself. Whoever still measures how fast it computes is left alone:
        the two would disturb each other."""
        hosts = self._view().hosts()
        ready = {record.id for record in hosts if record.profile.flops_per_s}
        return ready - {self._me} if self._me in ready and len(hosts) <= MAX_HOSTS else set()

    def _next_due(self) -> PeerId | None:
        """Any of those to be tried: no two devices go through the others in the same order."""
        now = self._clock()
        candidates = sorted({*self._neighbours(), *self._book.doubtful(now), *self._to_recheck})
        due = [peer for peer in candidates if self._is_wanted(peer) and self._may_try(peer, now)]
        return self._rng.choice(due) if due else None

    def _is_wanted(self, peer: PeerId) -> bool:
        return self._is_unknown(peer) or peer in self._to_recheck or peer in self._book.doubtful(self._clock())

    def _may_try(self, peer: PeerId, now: float) -> bool:
        return peer not in self._schedule or self._schedule[peer].at <= now

    def _forget_the_gone(self) -> None:
        present = {seen.record.id for seen in self._view().peers if not seen.state.is_gone}
        self._book.retain(present, self._clock())
        self._to_recheck &= present
        for kept in (self._back, self._schedule):
            for peer in kept.keys() - present:
                del kept[peer]
