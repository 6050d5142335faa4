"""The way of a request: along the edges of its plan, from peer to peer, and back with the answer.

    requester.ask ──tensor──▶ host: run the step ──tensor──▶ next host … ──tensor──▶ requester: answer
                                    └─ any failure ──failed──▶ requester

Plans were installed at negotiation, so a tensor on the wire names only plan, request and edge, and its size is known
before it comes. Whoever sends one waits until the receiver has it: a tensor that is refused, or lost with a connection,
is noticed by its sender and told to the requester. One deadline travels with the request; every hop uses what remains.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

from swarm import schema, tensors
from swarm.arrivals import Arrival, Cancellation, Failure, agreed, check_input, part_of, wire_s
from swarm.background import logged
from swarm.batching import Ran
from swarm.errors import (
    MalformedFrame,
    Overloaded,
    PlanGone,
    SwarmError,
    from_code,
)
from swarm.exchange import Caller, Exchange, describe
from swarm.lockstep import Lockstep
from swarm.metrics import Metrics
from swarm.plan import INPUT, OUTPUT, Edge, Part, Plan, Step, StepTrace
from swarm.requests import Outcome, Requests, out_of_time
from swarm.sending import OnSent, Sending
from swarm.transport import Call, Router
from swarm.types import Array, PeerId
from swarm.underway import Underway
from swarm.way import Way
from swarm.whereabouts import Whereabouts, Work

log = logging.getLogger(__name__)

RunStep = Callable[[Part, Array, float, PeerId], asyncio.Future[Ran]]
"""Begins to run a part on `[B, ...]` until a deadline (monotonic seconds) for a requester; what goes wrong is in the
future."""

FAREWELL_S = 2.0
"""How long a notice of failure or cancellation may take."""

MAX_HELD_BYTES = 256 * 2**20
"""Tensors of one requester that may wait or be computed here at once."""
OVERHEAD_BYTES = 16 * 2**10
"""What a waiting request costs beside its tensor, so that tiny ones are bounded too."""


@dataclass(frozen=True, slots=True)
class _Visit:
    """One request at one step of this peer, until the last receiver has what comes out."""

    way: Way
    step: Step
    request: int
    trace: tuple[StepTrace, ...]
    wire_s: float
    nbytes: int
    deadline: float
    work: Work | None
    """None in a group: whoever waits for others does not stand here."""


class Dataflow:
    """Runs this peer's steps of plans, and sends this peer's own requests along theirs.

    `async with Dataflow(...)` owns every task; `register` puts its methods on the router.
    """

    def __init__(
        self,
        me: PeerId,
        name: str,
        exchange: Exchange,
        run: RunStep,
        lockstep: Callable[[Whereabouts], Lockstep],
        on_sent: OnSent = lambda peer, nbytes, s: None,
        metrics: Metrics | None = None,
    ):
        self._me = me
        self._name = name
        self._exchange = exchange
        self._run = run
        self.metrics = metrics or Metrics()
        self._sending = Sending(name, exchange, on_sent, self.metrics)
        self.whereabouts = Whereabouts(exchange)
        self._lockstep = lockstep(self.whereabouts)
        self._lockstep.find = lambda plan: self._ways.get(plan)  # noqa: PLW0108 - made below
        self._ways: dict[str, Way] = {}
        self._requests = Requests(self._cancel_everywhere)
        self._underway = Underway()
        self._tasks = asyncio.TaskGroup()
        self._closing = False

    async def __aenter__(self) -> Dataflow:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        self._closing = True
        self._requests.close(self._name)
        self._underway.stop_all()
        self._lockstep.close()
        await self._tasks.__aexit__(None, None, None)

    def register(self, router: Router) -> None:
        router.add("tensor", self._tensor, admit=self._admit)
        router.add("failed", self._failed)
        router.add("cancel", self._cancel)
        self.whereabouts.register(router)
        self._lockstep.register(router)

    def install(self, plan: Plan) -> None:
        """Take tensors of this plan (a fragment, or one's own whole plan) from now on."""
        self._ways[plan.id] = Way(plan)

    def remove(self, plan_id: str) -> None:
        """Forget a plan; what still runs for it ends, and its requester hears of it."""
        way = self._ways.pop(plan_id, None)
        self._requests.closed(plan_id)
        self._lockstep.forget(plan_id)
        for key in self._underway.of_plan(plan_id):
            self._underway.stop(key)
            if way is not None and way.plan.requester != self._me:
                fields = {"plan": plan_id, "request": key[1], **describe(_forgotten(self._name))}
                self._spawn(self._tell, way.plan.requester, "failed", fields)

    def lost(self, peer: PeerId, name: str) -> None:
        """A peer is gone: end every request that needs it, with a sentence."""
        self._requests.lost(peer, name)
        self._lockstep.lost(peer, name)

    # The requester's side

    async def ask(self, plan: Plan, x: Array, deadline: float) -> Outcome:
        """Send `x` `[B, ...]` through the plan and wait for its answer until `deadline` (monotonic seconds).

        :raises DeadlineExceeded: no answer in time.
        :raises PeerLost: a peer of the plan went away.
        :raises SwarmError: whatever a step raised.
        """
        way = self._ways.get(plan.id) or Way(plan)
        edges = way.outputs(INPUT)
        check_input(plan, edges[0], x)
        with self._requests.open(plan, len(x)) as (request, answer):
            try:
                async with asyncio.timeout(deadline - monotonic()):
                    away = [edge for edge in edges if edge.receiver != self._me]
                    if away:
                        with self.whereabouts.at(plan.id, INPUT, len(x)) as work:
                            await self._sending.to_all(plan, away, request, x, (), deadline, work)
                    if len(away) < len(edges):
                        self._arrived(way, self._own(edges), request, x, (), 0.0, x.nbytes, deadline)
                    return await answer
            except TimeoutError:
                raise out_of_time(plan) from None

    def _cancel_everywhere(self, plan: Plan, request: int) -> None:
        fields = schema.pack(Cancellation(plan.id, request))
        for peer in plan.peers():
            if peer == self._me:
                self._underway.stop((plan.id, request))
            else:
                self._spawn(self._tell, peer, "cancel", fields)

    def _failed(self, caller: Caller, call: Call) -> None:
        failure = schema.unpack(Failure, call.fields)
        error = from_code(failure.code, failure.sentence)
        error.culprit = failure.culprit
        if isinstance(error, Overloaded):
            error.retry_after_s = failure.retry_after_s
        way, peer = self._ways.get(failure.plan), caller.remote.id
        at_fault = PeerId(error.culprit) or peer
        if way is not None and not isinstance(error, Overloaded) and all(map(way.plan.spares, (peer, at_fault))):
            self._lockstep.failed(way, failure.request, peer, error)
        else:
            self._requests.failed(peer, failure.plan, failure.request, error)

    # Every peer's side

    def _admit(self, caller: Caller, fields: dict[str, Any], nbytes: int) -> tuple[Way, Edge, Arrival]:
        """May these bytes come? Only on an edge of an installed plan, from its sender, in the size agreed."""
        way, edge, arrival = self._place(caller, fields)
        plan, rows = way.plan, arrival.tensor.shape[0]
        if not 1 <= rows <= plan.max_batch or arrival.tensor.shape[1:] != edge.tensor.shape:
            raise MalformedFrame(f"A tensor of shape {list(arrival.tensor.shape)} came where this plan has another.")
        head, step = arrival.tensor, way.step(edge.target)
        takes_pixels = edge.source == INPUT and step is not None and step.part.start == INPUT
        if (head.dtype, head.wire, nbytes) != agreed(edge, head, takes_pixels=takes_pixels):
            raise MalformedFrame(f"A tensor came as {nbytes} bytes of {head.wire}, not as the plan agreed.")
        if edge.target == OUTPUT:
            self._requests.expect(plan, arrival.request, rows)
        elif self._underway.held_bytes[plan.requester] + nbytes > MAX_HELD_BYTES:
            raise Overloaded(
                f"{self._name} holds as many tensors of this requester as it takes; try again in a second."
            )
        return way, edge, arrival

    def _place(self, caller: Caller, fields: dict[str, Any]) -> tuple[Way, Edge, Arrival]:
        arrival = schema.unpack(Arrival, fields)
        way = self._ways.get(arrival.plan)
        if way is None:
            raise _forgotten(self._name)
        edge = way.edge(arrival.source, arrival.target, caller.remote.id, self._me)
        if edge is not None:
            return way, edge, arrival
        raise MalformedFrame(f"{caller.remote.name} sent a tensor along an edge that this plan does not give it.")

    def _tensor(self, caller: Caller, call: Call) -> None:
        way, edge, arrival = call.admitted or self._place(caller, call.fields)
        if way.plan.id not in self._ways:
            raise _forgotten(self._name)
        head = arrival.tensor
        x = tensors.restore(head.shape, head.dtype, head.wire, call.body)
        self.metrics.received_bytes += len(call.body)
        on_way_s = wire_s(caller, arrival)
        deadline = monotonic() + (call.remaining_s() or 0.0)
        self._arrived(way, edge, arrival.request, x, arrival.trace, on_way_s, len(call.body), deadline)

    def _begin(self, way: Way, step: Step, request: int, x: Array, deadline: float) -> asyncio.Future[Ran]:
        if step.group is None:
            return self._run(step.part, x, deadline, way.plan.requester)
        return self._lockstep.begin(way, step, request, x, deadline)

    def _arrived(
        self,
        way: Way,
        edge: Edge,
        request: int,
        x: Array,
        trace: tuple[StepTrace, ...],
        wire_s: float,
        nbytes: int,
        deadline: float,
    ) -> None:
        """A tensor is here, from another peer or from this one itself: its step begins at once. Raises `Overloaded`
        where it cannot, which its sender hears in the place of an acknowledgement."""
        plan = way.plan
        if edge.target == OUTPUT:
            self._requests.answered(plan, request, Outcome(x, trace, wire_s, nbytes, plan))
            return
        step = way.step(edge.target)
        if step is None or self._closing:
            return
        ran = self._begin(way, step, request, x, deadline)
        if ran.cancelled():
            return  # it came twice
        if ran.done() and isinstance(refusal := ran.exception(), Overloaded):
            self.metrics.fail(self.metrics.refused, step.part.model, refusal.code)
            raise refusal
        work = self.whereabouts.begin(plan.id, step.id, len(x)) if step.group is None else None
        visit = _Visit(way, step, request, trace, wire_s, nbytes, deadline, work)
        ran.add_done_callback(partial(self._ran, visit))
        self._underway.add((plan.id, request), ran, plan.requester, nbytes + OVERHEAD_BYTES)

    def _ran(self, visit: _Visit, future: asyncio.Future[Ran]) -> None:
        """A step is over: what came out goes on, straight into the next step where that is here as well."""
        way, plan, step = visit.way, visit.way.plan, visit.step
        error = None if future.cancelled() else future.exception()
        if future.cancelled() or error is not None:
            self._leave(visit)
            if isinstance(error, SwarmError):
                self._report(visit, error)
            return
        ran = future.result()
        self._count(step.part.model, ran, visit.wire_s)
        times = (ran.queue_s, ran.compute_s, visit.wire_s)
        row = StepTrace(step.id, self._name, *times, visit.nbytes, ran.exchange_s, ran.missing)
        trace, x = (*visit.trace, row), ran.output
        edges = way.outputs(step.id) if len(x) else ()  # only the lead of a group gives something out
        away = [edge for edge in edges if edge.receiver != self._me]
        if len(away) < len(edges):
            self._go_on(visit, self._own(edges), x, trace)
        if not away:
            self._leave(visit)
        elif (task := self._spawn(self._hand_on, visit, away, x, trace)) is not None:
            task.add_done_callback(lambda _: self._leave(visit))
            self._underway.add((plan.id, visit.request), task, plan.requester, x.nbytes + OVERHEAD_BYTES)

    def _leave(self, visit: _Visit) -> None:
        if visit.work is not None:
            self.whereabouts.end(visit.way.plan.id, visit.work)

    def _go_on(self, visit: _Visit, edge: Edge, x: Array, trace: tuple[StepTrace, ...]) -> None:
        try:
            given = part_of(edge, x)
            self._arrived(visit.way, edge, visit.request, given, trace, 0.0, given.nbytes, visit.deadline)
        except SwarmError as refusal:
            self._report(visit, refusal)

    async def _hand_on(self, visit: _Visit, edges: Sequence[Edge], x: Array, trace: tuple[StepTrace, ...]) -> None:
        work = visit.work or Work(visit.step.id, len(x))
        try:
            await self._sending.to_all(visit.way.plan, edges, visit.request, x, trace, visit.deadline, work)
        except SwarmError as error:
            self._report(visit, error)

    def _report(self, visit: _Visit, error: SwarmError) -> None:
        """The requester hears why its request cannot go on."""
        plan = visit.way.plan
        self.metrics.fail(self.metrics.refused, visit.step.part.model, error.code)
        if plan.requester == self._me:
            self._requests.failed(self._me, plan.id, visit.request, error)
            return
        fields: dict[str, Any] = {"plan": plan.id, "request": visit.request, **describe(error)}
        if error.culprit:
            fields["culprit"] = error.culprit
        if isinstance(error, Overloaded):
            fields["retry_after_s"] = error.retry_after_s
        self._spawn(self._tell, plan.requester, "failed", fields)

    def _count(self, model: str, ran: Ran, wire_s: float) -> None:
        self.metrics.queue_s.observe(model, ran.queue_s)
        self.metrics.compute_s.observe(model, ran.compute_s)
        self.metrics.wire_s.observe(model, wire_s)

    def _own(self, edges: Sequence[Edge]) -> Edge:
        """What stays here."""
        return next(edge for edge in edges if edge.receiver == self._me)

    async def _tell(self, peer: PeerId, method: str, fields: dict[str, Any]) -> None:
        try:
            await self._exchange.notify(peer, method, fields, timeout_s=FAREWELL_S)
        except SwarmError as error:
            log.debug("could not send %s to %s: %s", method, peer, error)

    def _cancel(self, caller: Caller, call: Call) -> None:
        wish = schema.unpack(Cancellation, call.fields)
        way = self._ways.get(wish.plan)
        if way is not None and way.plan.requester == caller.remote.id:
            self._underway.stop((wish.plan, wish.request))

    def _spawn(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> asyncio.Task[None] | None:
        return None if self._closing else self._tasks.create_task(logged(work, *arguments))


def _forgotten(name: str) -> SwarmError:
    return PlanGone(f"{name} does not hold this plan any more; load the model again.")
