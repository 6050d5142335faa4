"""The way of a request: along the edges of its plan, from peer to peer, and back with the answer.

    requester.ask ──tensor──▶ host: run the step ──tensor──▶ next host … ──tensor──▶ requester: answer
                                    └─ any failure ──failed──▶ requester

Plans were installed at negotiation, so a tensor on the wire names only plan, request and edge, and its size is known
before it comes. Whoever sends one waits until the receiver has it: a tensor that is refused, or lost with a connection,
is noticed by its sender and told to the requester. One deadline travels with the request; every hop uses what remains.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Annotated, Any

from msgspec import Meta

from swarm import schema, tensors
from swarm.background import logged
from swarm.batching import Ran
from swarm.errors import (
    BadInput,
    DeadlineExceeded,
    MalformedFrame,
    Overloaded,
    PeerLost,
    PeerUnreachable,
    PlanGone,
    SwarmError,
    from_code,
)
from swarm.exchange import Caller, Exchange, describe
from swarm.plan import INPUT, OUTPUT, Edge, Part, Plan, Step, StepTrace
from swarm.requests import Outcome, Requests, out_of_time
from swarm.transport import Call, Router
from swarm.types import RAW_PICTURE, Array, Count, Dimension, Name, PeerId, Text
from swarm.whereabouts import Whereabouts, Work

log = logging.getLogger(__name__)

RunStep = Callable[[Part, Array, float], asyncio.Future[Ran]]
"""Begins to run a part on `[B, ...]` until a deadline (monotonic seconds); what goes wrong is in the future."""

OnSent = Callable[[PeerId, int, float], None]
"""Told of every tensor that a peer has acknowledged: to whom, its bytes, and the seconds until then."""

FAREWELL_S = 2.0
"""How long a notice of failure or cancellation may take."""

MAX_HELD_BYTES = 256 * 2**20
"""Tensors of one requester that may wait or be computed here at once."""
OVERHEAD_BYTES = 16 * 2**10
"""What a waiting request costs beside its tensor, so that tiny ones are bounded too."""


@dataclass(frozen=True, slots=True)
class TensorHead:
    """Shape, dtype and wire dtype of a tensor on the wire."""

    shape: Annotated[tuple[Dimension, ...], Meta(min_length=1, max_length=9)]
    dtype: Name
    wire: Name


@dataclass(frozen=True, slots=True)
class Arrival:
    """What comes before the bytes of a tensor. `sent_s` is the sender's monotonic clock."""

    plan: Name
    request: Count
    source: Name
    target: Name
    sent_s: float
    tensor: TensorHead
    trace: Annotated[tuple[StepTrace, ...], Meta(max_length=256)] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """A host's word to the requester that a request cannot go on."""

    plan: Name
    request: Count
    code: Name
    sentence: Text


@dataclass(frozen=True, slots=True)
class Cancellation:
    plan: Name
    request: Count


class Dataflow:
    """Runs this peer's steps of plans, and sends this peer's own requests along theirs.

    `async with Dataflow(...)` owns every task; `register` puts its methods on the router.
    """

    def __init__(
        self, me: PeerId, name: str, exchange: Exchange, run: RunStep, on_sent: OnSent = lambda peer, nbytes, s: None
    ):
        self._me = me
        self._name = name
        self._exchange = exchange
        self._run = run
        self._on_sent = on_sent
        self.whereabouts = Whereabouts(exchange)
        self._plans: dict[str, Plan] = {}
        self._requests = Requests(self._cancel_everywhere)
        self._running: dict[tuple[str, int], set[asyncio.Task[None]]] = {}
        self._held_bytes: Counter[PeerId] = Counter()
        self._tasks = asyncio.TaskGroup()
        self._closing = False

    async def __aenter__(self) -> Dataflow:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        self._closing = True
        self._requests.close(self._name)
        for task in list(itertools.chain.from_iterable(self._running.values())):
            task.cancel()
        await self._tasks.__aexit__(None, None, None)

    def register(self, router: Router) -> None:
        router.add("tensor", self._tensor, admit=self._admit)
        router.add("failed", self._failed)
        router.add("cancel", self._cancel)
        self.whereabouts.register(router)

    def install(self, plan: Plan) -> None:
        """Take tensors of this plan (a fragment, or one's own whole plan) from now on."""
        self._plans[plan.id] = plan

    def remove(self, plan_id: str) -> None:
        """Forget a plan; what still runs for it ends, and its requester hears of it."""
        plan = self._plans.pop(plan_id, None)
        self._requests.closed(plan_id)
        for key in [key for key in self._running if key[0] == plan_id]:
            self._stop(key)
            if plan is not None and plan.requester != self._me:
                fields = {"plan": plan_id, "request": key[1], **describe(_forgotten(self._name))}
                self._spawn((plan_id, 0), self._tell, plan.requester, "failed", fields)

    def lost(self, peer: PeerId, name: str) -> None:
        """A peer is gone: end every request that needs it, with a sentence."""
        self._requests.lost(peer, name)

    # The requester's side

    async def ask(self, plan: Plan, x: Array, deadline: float) -> Outcome:
        """Send `x` `[B, ...]` through the plan and wait for its answer until `deadline` (monotonic seconds).

        :raises DeadlineExceeded: no answer in time.
        :raises PeerLost: a peer of the plan went away.
        :raises SwarmError: whatever a step raised.
        """
        edge = plan.outputs(INPUT)[0]
        _check_input(plan, edge, x)
        with self._requests.open(plan, len(x)) as (request, answer):
            try:
                async with asyncio.timeout(deadline - monotonic()):
                    with self.whereabouts.at(plan.id, INPUT, len(x)) as work:
                        await self._send(plan, edge, request, x, (), deadline, work)
                    return await answer
            except TimeoutError:
                raise out_of_time(plan) from None

    def _cancel_everywhere(self, plan: Plan, request: int) -> None:
        fields = schema.pack(Cancellation(plan.id, request))
        for peer in plan.peers():
            self._spawn((plan.id, 0), self._tell, peer, "cancel", fields)

    def _failed(self, caller: Caller, call: Call) -> None:
        failure = schema.unpack(Failure, call.fields)
        error = from_code(failure.code, failure.sentence)
        self._requests.failed(caller.remote.id, failure.plan, failure.request, error)

    # Every peer's side

    def _admit(self, caller: Caller, fields: dict[str, Any], nbytes: int) -> tuple[Plan, Edge, Arrival]:
        """May these bytes come? Only on an edge of an installed plan, from its sender, in the size agreed."""
        plan, edge, arrival = self._place(caller, fields)
        rows = arrival.tensor.shape[0]
        if not 1 <= rows <= plan.max_batch or arrival.tensor.shape[1:] != edge.tensor.shape:
            raise MalformedFrame(f"A tensor of shape {list(arrival.tensor.shape)} came where this plan has another.")
        if (arrival.tensor.wire, nbytes) != _agreed(edge, arrival.tensor):
            raise MalformedFrame(f"A tensor came as {nbytes} bytes of {arrival.tensor.wire}, not as the plan agreed.")
        if edge.target == OUTPUT:
            self._requests.expect(plan, arrival.request, rows)
        elif self._held_bytes[plan.requester] + nbytes > MAX_HELD_BYTES:
            raise Overloaded(
                f"{self._name} holds as many tensors of this requester as it takes; try again in a second."
            )
        return plan, edge, arrival

    def _place(self, caller: Caller, fields: dict[str, Any]) -> tuple[Plan, Edge, Arrival]:
        arrival = schema.unpack(Arrival, fields)
        plan = self._plans.get(arrival.plan)
        if plan is None:
            raise _forgotten(self._name)
        for edge in plan.edges:
            ends = (edge.source, edge.target, edge.sender, edge.receiver)
            if ends == (arrival.source, arrival.target, caller.remote.id, self._me):
                return plan, edge, arrival
        raise MalformedFrame(f"{caller.remote.name} sent a tensor along an edge that this plan does not give it.")

    def _tensor(self, caller: Caller, call: Call) -> None:
        plan, edge, arrival = call.admitted or self._place(caller, call.fields)
        if plan.id not in self._plans:
            raise _forgotten(self._name)
        x = tensors.decode(call.fields["tensor"], call.body)
        wire_s = _wire_s(caller, arrival)
        if edge.target == OUTPUT:
            self._requests.answered(plan, arrival.request, Outcome(x, arrival.trace, wire_s, len(call.body)))
            return
        step = plan.step(edge.target)
        if step is not None:
            deadline = monotonic() + (call.remaining_s() or 0.0)
            key, nbytes = (plan.id, arrival.request), len(call.body)
            ran = self._run(step.part, x, deadline)  # begins now: its sender's acknowledgement can wait, it cannot
            ran.add_done_callback(_seen)
            task = self._spawn(key, self._step, plan, step, arrival, ran, nbytes, wire_s, deadline)
            if task is None:
                ran.cancel()
            else:
                task.add_done_callback(lambda _: ran.cancel())
                self._hold(plan.requester, nbytes + OVERHEAD_BYTES, task)

    async def _step(
        self,
        plan: Plan,
        step: Step,
        arrival: Arrival,
        run: asyncio.Future[Ran],
        nbytes: int,
        wire_s: float,
        deadline: float,
    ) -> None:
        try:
            with self.whereabouts.at(plan.id, step.id, arrival.tensor.shape[0]) as work:
                ran = await run
                row = StepTrace(step.id, self._name, ran.queue_s, ran.compute_s, wire_s, nbytes)
                for edge in plan.outputs(step.id):
                    await self._send(plan, edge, arrival.request, ran.output, (*arrival.trace, row), deadline, work)
        except SwarmError as error:
            fields = {"plan": plan.id, "request": arrival.request, **describe(error)}
            await self._tell(plan.requester, "failed", fields)

    def _hold(self, requester: PeerId, nbytes: int, task: asyncio.Task[None]) -> None:
        """Count bytes against a requester for as long as the task lives."""
        self._held_bytes[requester] += nbytes
        task.add_done_callback(lambda _: self._held_bytes.subtract({requester: nbytes}))

    async def _send(
        self, plan: Plan, edge: Edge, request: int, x: Array, trace: tuple[StepTrace, ...], deadline: float, work: Work
    ) -> None:
        """Hand a tensor to the next peer, a second time if the connection broke under the first.

        The receiver may then have it twice; the requester takes the first answer.
        """
        head, body = tensors.encode(x, edge.wire)
        work.sends(edge.receiver, len(body))
        fields = {
            "plan": plan.id,
            "request": request,
            "source": edge.source,
            "target": edge.target,
            "tensor": head,
            "trace": schema.pack(trace),
        }
        try:
            await self._hand_over(edge.receiver, fields, body, deadline)
        except PeerLost as lost:
            try:
                await self._hand_over(edge.receiver, fields, body, deadline)
            except PeerUnreachable:
                raise lost from None  # it names the peer

    async def _hand_over(self, peer: PeerId, fields: dict[str, Any], body: Any, deadline: float) -> None:
        left_s = deadline - monotonic()
        if left_s <= 0:
            raise DeadlineExceeded(f"The request's deadline passed at {self._name}; allow more time with --deadline.")
        began = monotonic()
        stamped = {**fields, "sent_s": began}
        await self._exchange.request(peer, "tensor", stamped, body, purpose="tensors", timeout_s=left_s)
        self._on_sent(peer, len(body), monotonic() - began)

    async def _tell(self, peer: PeerId, method: str, fields: dict[str, Any]) -> None:
        try:
            await self._exchange.notify(peer, method, fields, timeout_s=FAREWELL_S)
        except SwarmError as error:
            log.debug("could not send %s to %s: %s", method, peer, error)

    def _cancel(self, caller: Caller, call: Call) -> None:
        wish = schema.unpack(Cancellation, call.fields)
        plan = self._plans.get(wish.plan)
        if plan is not None and plan.requester == caller.remote.id:
            self._stop((wish.plan, wish.request))

    def _stop(self, key: tuple[str, int]) -> None:
        for task in self._running.pop(key, set()):
            task.cancel()

    def _spawn(
        self, key: tuple[str, int], work: Callable[..., Awaitable[None]], *arguments: Any
    ) -> asyncio.Task[None] | None:
        if self._closing:
            return None
        task = self._tasks.create_task(logged(work, *arguments))
        self._running.setdefault(key, set()).add(task)
        task.add_done_callback(lambda done: self._ended(key, done))
        return task

    def _ended(self, key: tuple[str, int], task: asyncio.Task[None]) -> None:
        running = self._running.get(key)
        if running is not None:
            running.discard(task)
            if not running:
                self._running.pop(key, None)


def _seen(ran: asyncio.Future[Ran]) -> None:
    """Its error has been heard, even where nobody waits for it any more."""
    if not ran.cancelled():
        ran.exception()


def _forgotten(name: str) -> SwarmError:
    return PlanGone(f"{name} does not hold this plan any more; load the model again.")


def _agreed(edge: Edge, tensor: TensorHead) -> tuple[str, int]:
    """Wire dtype and bytes of a tensor on this edge. Pictures may always come as the pixels they are."""
    if edge.source == INPUT and tensor.dtype == RAW_PICTURE:
        return RAW_PICTURE, tensors.wire_bytes(replace(edge.tensor, dtype=RAW_PICTURE), tensor.shape[0], edge.wire)
    return edge.wire, tensors.wire_bytes(edge.tensor, tensor.shape[0], edge.wire)


def _check_input(plan: Plan, edge: Edge, x: Array) -> None:
    if x.ndim == 0 or x.shape[1:] != edge.tensor.shape:
        wanted = ", ".join(["B", *map(str, edge.tensor.shape)])
        raise BadInput(f"The input has shape {list(x.shape)}, and this model takes [{wanted}].")
    if not 1 <= len(x) <= plan.max_batch:
        raise BadInput(f"The input holds {len(x)} samples; this session takes 1 to {plan.max_batch} at once.")


def _wire_s(caller: Caller, arrival: Arrival) -> float:
    """Seconds since the sender sent it, by this peer's clock; 0 while the two clocks have not been compared."""
    return 0.0 if caller.rtt_s is None else max(0.0, monotonic() - (arrival.sent_s - caller.clock_offset_s))
