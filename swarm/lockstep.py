"""Requests that several peers answer in lock-step: what one member of a group does, exchange by exchange.

    input ─▶ turns, in the worker thread ──post──▶ shares to the others
                 ▲                                      ┊
                 └── all that an exchange needs ◀── inbox ◀── shares from the others, some before the input itself

Nobody acknowledges a share: the next one does. A member for whom an exchange has waited too long, or that membership
has lost, is missing: the request ends with a sentence that names it, or goes on without it and says so. Whoever finds
somebody missing tells the others with its next share, so that they need not find out one after another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final

import numpy as np

from swarm import schema
from swarm.background import logged
from swarm.batching import Ran
from swarm.errors import DeadlineExceeded, MalformedFrame, Overloaded, PeerLost, PlanGone, SwarmError
from swarm.exchange import Caller, Exchange
from swarm.plan import Part, Step
from swarm.talk import Key, Share, Talk, Talks, turn
from swarm.transport import Call, Router
from swarm.types import Array, PeerId
from swarm.way import Way
from swarm.whereabouts import Whereabouts
from swarm.workshop import RunnableShard

log = logging.getLogger(__name__)

EARLY_S: Final = 60.0
"""How long shares wait for their request's own input at most."""
LATE_S: Final = 0.3
"""A timer that goes off so much too late tells of a stall of this process, not of others."""

AWAY_S: Final = 30.0
"""How long a member that was missing is not waited for anew, on one plan."""

NOTHING: Final = np.empty(0, np.float32)
"""What members give out that do not lead."""

Do = Callable[[Callable[[], Any], Callable[[Any, BaseException | None], None]], None]
"""Runs a call in the worker thread; what came of it is told in the event loop."""


class Lockstep:
    """This peer's share of groups' requests. `register` its methods; used in the event loop.

    :param shard_of: what this peer holds of a part; raises `PlanGone`.
    """

    def __init__(
        self,
        me: PeerId,
        name: str,
        exchange: Exchange,
        do: Do,
        shard_of: Callable[[Part], RunnableShard],
        whereabouts: Whereabouts,
    ) -> None:
        self._me = me
        self._name = name
        self._exchange = exchange
        self._do = do
        self._shard_of = shard_of
        self._whereabouts = whereabouts
        self._talks = Talks()
        self._names: dict[PeerId, str] = {}
        self._posts: set[asyncio.Task[None]] = set()
        self._away: dict[tuple[str, str], dict[int, float]] = {}
        """Who was missing lately, by plan and step, and until when that is believed: each request would wait anew."""
        self._loop = asyncio.get_running_loop()
        self.find: Callable[[str], Way | None] = lambda plan: None
        """An installed plan by its id."""
        self.received_bytes = 0
        self.sent_bytes = 0

    def register(self, router: Router) -> None:
        router.add("share", self._share, admit=self._admit)

    def begin(self, way: Way, step: Step, request: int, x: Array, deadline: float) -> asyncio.Future[Ran]:
        """The input of a request is here. The future has the group's output at its lead, and an empty one elsewhere;
        when it is cancelled, this member takes no more part."""
        key = (way.plan.id, request, step.id)
        done: asyncio.Future[Ran] = self._loop.create_future()
        if (refusal := self._refusal(key, way.plan.requester)) is not None:
            done.set_exception(refusal)
            return done
        if self._talks.is_over(key) or ((early := self._talks.open.get(key)) is not None and early.turns is not None):
            done.cancel()  # it came twice
            return done
        talk = self._talks.open.get(key) or self._open(key, way, step, len(x), deadline)
        talk.done, talk.deadline = done, deadline
        if talk.samples != len(x):
            done.set_exception(MalformedFrame("The members of a group were given different numbers of samples."))
            self._close(talk)
            return done
        done.add_done_callback(lambda _: self._close(talk))
        try:
            shard = self._shard_of(step.part_of(self._me))
            talk.turns = shard.turns(talk.group, talk.me, x, partial(self._post_soon, talk))
        except SwarmError as error:
            done.set_exception(error)
            return done
        self._advance(talk, None)
        return done

    def _refusal(self, key: Key, requester: PeerId) -> SwarmError | None:
        """Why a request whose input is here cannot begin."""
        if (reason := self._talks.reason(key)) is not None:
            return reason
        return None if self._talks.has_room(key, requester) else self._full()

    def _full(self) -> Overloaded:
        return Overloaded(f"{self._name} has as much to do for groups of this requester as it takes; try again soon.")

    def lost(self, peer: PeerId, name: str) -> None:
        """A peer is gone."""
        for talk in list(self._talks.open.values()):
            if peer in talk.step.peers:
                self._do_without(talk, {talk.step.peers.index(peer)}, f"Lost the connection to {name}")

    def failed(self, way: Way, request: int, peer: PeerId, error: SwarmError) -> None:
        """A member that can be spared says that it cannot go on with a request; perhaps it is the one who is lost."""
        for step in way.plan.steps:
            talk = self._talks.open.get((way.plan.id, request, step.id))
            if talk is not None and peer in step.peers:
                self._do_without(talk, {step.peers.index(peer)}, str(error))

    def forget(self, plan_id: str) -> None:
        """A plan is over."""
        for where in [where for where in self._away if where[0] == plan_id]:
            del self._away[where]
        for talk in [talk for key, talk in self._talks.open.items() if key[0] == plan_id]:
            if talk.done is not None:
                talk.done.cancel()
            self._close(talk)

    def close(self) -> None:
        """Take part in nothing any more."""
        for talk in list(self._talks.open.values()):
            if talk.done is not None:
                talk.done.cancel()
            self._close(talk)
        for post in self._posts:
            post.cancel()

    # What others send

    def _admit(self, caller: Caller, fields: dict[str, Any], nbytes: int) -> tuple[Way, Step, int, Share]:
        """May these bytes come? Only from a member of a group of an installed plan, in the size agreed."""
        share = schema.unpack(Share, fields)
        way = self.find(share.plan)
        if way is None:
            raise PlanGone(f"{self._name} does not hold this plan any more; load the model again.")
        step = way.step(share.step)
        if step is None or step.group is None or not {caller.remote.id, self._me} <= set(step.peers):
            raise MalformedFrame(f"{caller.remote.name} sent a share of a step in which it has none.")
        sender, script = step.peers.index(caller.remote.id), way.expected(step, self._me)
        agreed = script[share.exchange].get(sender, 0) if share.exchange < len(script) else 0
        if not 1 <= share.samples <= way.plan.max_batch or not agreed or nbytes != agreed * share.samples:
            raise MalformedFrame(f"{caller.remote.name} sent {nbytes} bytes in an exchange, not as the plan agreed.")
        self._make_sure_of_room(way, share, nbytes)
        return way, step, sender, share

    def _make_sure_of_room(self, way: Way, share: Share, nbytes: int) -> None:
        """Nobody hears that a share was refused: its request ends here, with the reason."""
        key = (share.plan, share.request, share.step)
        if self._talks.has_room(key, way.plan.requester, nbytes):
            return
        talk, full = self._talks.open.get(key), self._full()
        if talk is None and not self._talks.is_over(key):
            self._talks.remember(key, full)
        elif talk is not None and talk.done is None:
            self._close(talk, full)
        elif talk is not None and talk.done is not None and not talk.done.done():
            talk.done.set_exception(full)
        raise full

    def _share(self, caller: Caller, call: Call) -> None:
        way: Way = call.admitted[0]
        _, step, sender, share = call.admitted
        key = (share.plan, share.request, share.step)
        if self._talks.is_over(key) or self.find(share.plan) is not way:
            return  # it came too late
        self._names[caller.remote.id] = caller.remote.name
        talk = self._talks.open.get(key)
        if talk is None:
            left_s = call.remaining_s()
            until = monotonic() + (EARLY_S if left_s is None else min(left_s, EARLY_S))
            talk = self._open(key, way, step, share.samples, until)
        if talk.samples != share.samples or sender in talk.missing or sender in talk.inbox.get(share.exchange, ()):
            return
        talk.inbox.setdefault(share.exchange, {})[sender] = memoryview(call.body)
        self.received_bytes += len(call.body)
        self._talks.hold(talk, len(call.body))
        if share.missing and not talk.missing.issuperset(share.missing):
            places = {place for place in share.missing if 0 < place < len(step.peers)}
            lost = [self._called(step.peers[place]) for place in places - talk.missing]
            self._do_without(talk, places, f"{caller.remote.name} lost {' and '.join(lost)}")
        if talk.waits_for is not None and not talk.is_over:
            self._look(talk)

    def _open(self, key: Key, way: Way, step: Step, samples: int, deadline: float) -> Talk:
        assert step.group is not None
        talk = Talk(key, way, step, step.group, step.peers.index(self._me), deadline, samples)
        now, away = monotonic(), self._away.get((key[0], key[2]), {})
        talk.missing = {place for place, until in away.items() if until > now}
        self._talks.add(talk)
        talk.timer = self._loop.call_later(max(0.0, deadline - monotonic()), self._expire, talk)
        return talk

    def _expire(self, talk: Talk) -> None:
        """The input never came."""
        if talk.turns is None:
            self._close(talk)

    def _close(self, talk: Talk, reason: SwarmError | None = None) -> None:
        """`reason` is for who brings its input later on."""
        if not self._talks.remove(talk, reason):
            return
        self._stand(talk, here=False)
        talk.inbox.clear()
        talk.turns = None
        if talk.timer is not None:
            talk.timer.cancel()

    # Turns

    def _advance(self, talk: Talk, received: Sequence[memoryview | None] | None) -> None:
        """Have the worker thread go on with it, until it needs the next exchange."""
        talk.waits_for = None
        if talk.timer is not None:
            talk.timer.cancel()
            talk.timer = None
        self._stand(talk, here=True)
        talk.asked_s = monotonic()
        self._do(partial(turn, talk, received), partial(self._turned, talk))

    def _turned(self, talk: Talk, exchange: int | Array | None, error: BaseException | None) -> None:
        if talk.is_over or talk.done is None:
            return
        if isinstance(error, StopIteration):
            self._end(talk, error.value)
        elif error is not None:
            if not isinstance(error, SwarmError):
                log.error("a share of %s failed", talk.step.part.name, exc_info=error)
                error = SwarmError(f"{self._name} failed to run its share of the model; its log says why.")
            talk.done.set_exception(error)
        else:
            assert isinstance(exchange, int)
            self._stand(talk, here=False)
            talk.waits_for, talk.asked_s = exchange, monotonic()
            if not self._look(talk):
                self._wait(talk)

    def _end(self, talk: Talk, output: Array | None) -> None:
        assert talk.done is not None
        missing = tuple(talk.step.peers[place] for place in sorted(talk.missing))
        given = NOTHING if output is None else output
        talk.done.set_result(Ran(given, talk.queue_s, talk.compute_s, talk.exchange_s, missing))

    def _look(self, talk: Talk) -> bool:
        """Go on if all is here that this exchange needs."""
        assert talk.waits_for is not None
        expected = talk.way.expected(talk.step, self._me)[talk.waits_for]
        here = talk.inbox.get(talk.waits_for, {})
        if any(sender not in here and sender not in talk.missing for sender in expected):
            return False
        talk.inbox.pop(talk.waits_for, None)
        talk.exchange_s += monotonic() - talk.asked_s
        self._talks.hold(talk, -sum(map(len, here.values())))
        self._advance(talk, [here.get(place) for place in range(len(talk.step.peers))])
        return True

    def _wait(self, talk: Talk) -> None:
        left_s = min(talk.group.patience_s * talk.samples, talk.deadline - monotonic())
        if talk.timer is not None:
            talk.timer.cancel()
        talk.timer = self._loop.call_later(max(0.0, left_s), self._late, talk, monotonic() + left_s)

    def _late(self, talk: Talk, due: float) -> None:
        """An exchange has waited too long; unless this process itself was away meanwhile."""
        if talk.waits_for is None or talk.is_over:
            return
        now = monotonic()
        if talk.deadline <= now:
            assert talk.done is not None
            talk.done.set_exception(DeadlineExceeded(f"The request's deadline passed at {self._name}."))
        elif now - due > LATE_S:
            self._wait(talk)
        else:
            expected = talk.way.expected(talk.step, self._me)[talk.waits_for]
            away = {sender for sender in expected if sender not in talk.inbox.get(talk.waits_for, {})}
            lost = " and ".join(self._called(talk.step.peers[place]) for place in sorted(away - talk.missing))
            waited_s = talk.group.patience_s * talk.samples
            self._do_without(talk, away - talk.missing, f"{lost} sent nothing for {waited_s:.3g} s")

    def _do_without(self, talk: Talk, places: set[int], what: str) -> None:
        """These members are missing: go on without them, or end it."""
        places = places - talk.missing
        if talk.is_over or not places:
            return
        first = talk.step.peers[min(places)]
        if talk.me in places or 0 in places or talk.group.on_loss == "retry":
            error = PeerLost(f"{what}; a share of {talk.step.part.model} is there. Ask again without it.")
            error.culprit = first if talk.me not in places else ""
            if talk.done is None:
                self._close(talk, error)
            else:
                talk.done.set_exception(error)
            return
        talk.missing |= places
        away = self._away.setdefault((talk.key[0], talk.key[2]), {})
        away |= dict.fromkeys(places, monotonic() + AWAY_S)
        log.info("request %s goes on without %s: %s", talk.key[1], first[:8], what)
        if talk.waits_for is not None and not self._look(talk):
            self._wait(talk)

    def _called(self, peer: PeerId) -> str:
        return self._names.get(peer, peer[:8])

    def _stand(self, talk: Talk, *, here: bool) -> None:
        """Who waits for others does not stand here: a late request is looked for where it is computed."""
        if talk.work is not None:
            self._whereabouts.end(talk.way.plan.id, talk.work)
            talk.work = None
        if here:
            talk.work = self._whereabouts.begin(talk.way.plan.id, talk.step.id, talk.samples)

    # What this member sends

    def _post_soon(self, talk: Talk, exchange: int, messages: Mapping[int, Any]) -> None:
        """In the worker thread."""
        try:
            self._loop.call_soon_threadsafe(self._post, talk, exchange, messages)
        except RuntimeError:
            return  # the loop closed in between

    def _post(self, talk: Talk, exchange: int, messages: Mapping[int, Any]) -> None:
        if talk.is_over:
            return
        plan, request, step = talk.key
        fields = {"plan": plan, "request": request, "step": step, "exchange": exchange, "samples": talk.samples}
        if talk.missing:
            fields["missing"] = sorted(talk.missing)
        left_s = max(0.001, talk.deadline - monotonic())
        for place, body in messages.items():
            if place not in talk.missing and body is not None:
                self._hand_over(talk, place, fields, body, left_s)

    def _hand_over(self, talk: Talk, place: int, fields: dict[str, Any], body: Any, left_s: float) -> None:
        peer = talk.step.peers[place]
        self.sent_bytes += len(body)
        try:
            if self._exchange.tell(peer, "share", fields, body, timeout_s=left_s, purpose="tensors"):
                return
        except PeerLost as lost:
            log.debug("the connection broke under a share: %s", lost)
        task = self._loop.create_task(logged(self._reconnect, talk, place, fields, body, left_s))
        self._posts.add(task)
        task.add_done_callback(self._posts.discard)

    async def _reconnect(self, talk: Talk, place: int, fields: dict[str, Any], body: Any, left_s: float) -> None:
        peer = talk.step.peers[place]
        try:
            await self._exchange.reach(peer, "tensors", min(left_s, talk.group.patience_s))
            if self._exchange.tell(peer, "share", fields, body, timeout_s=left_s, purpose="tensors"):
                return
        except SwarmError as error:
            log.debug("no connection for a share: %s", error)
        self._do_without(talk, {place}, f"No connection to {self._called(peer)} could be made")
