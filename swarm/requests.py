"""This peer's own requests: each waits for its answer, a failure, a loss, or its deadline, and always ends."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from swarm.errors import DeadlineExceeded, MalformedFrame, Overloaded, PeerLost, SwarmError
from swarm.plan import Plan, StepTrace
from swarm.types import Array, PeerId


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer of one request, its steps' traces, and what the way back took."""

    output: Array
    trace: tuple[StepTrace, ...]
    answer_wire_s: float
    answer_bytes: int
    plan: Plan | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A request whose answer is still out."""

    plan: Plan
    rows: int
    answer: asyncio.Future[Outcome]


class Requests:
    """Pending requests by plan and number. `cancel` is told of each that ended without its answer."""

    def __init__(self, cancel: Callable[[Plan, int], None]):
        self._cancel = cancel
        self._pending: dict[tuple[str, int], Pending] = {}
        self._numbers = itertools.count(1)

    @contextmanager
    def open(self, plan: Plan, rows: int) -> Iterator[tuple[int, asyncio.Future[Outcome]]]:
        """A number for a new request, and its answer to await; cancelled at the peers if the block ends without it."""
        number = next(self._numbers)
        pending = Pending(plan, rows, asyncio.get_running_loop().create_future())
        self._pending[plan.id, number] = pending
        is_refused = False
        try:
            yield number, pending.answer
        except Overloaded:
            is_refused = True
            raise
        finally:
            del self._pending[plan.id, number]
            answer, is_nowhere = pending.answer, is_refused and len(plan.steps) == 1
            if not is_nowhere and (not answer.done() or answer.cancelled() or answer.exception() is not None):
                self._cancel(plan, number)

    def expect(self, plan: Plan, number: int, rows: int) -> None:
        """Raises `MalformedFrame` unless an answer of so many rows is awaited."""
        pending = self._pending.get((plan.id, number))
        if pending is None or pending.rows != rows:
            raise MalformedFrame("An answer came to a question that was not asked.")

    def answered(self, plan: Plan, number: int, outcome: Outcome) -> None:
        pending = self._pending.get((plan.id, number))
        if pending is not None and not pending.answer.done():
            pending.answer.set_result(outcome)

    def failed(self, peer: PeerId, plan_id: str, number: int, error: SwarmError) -> None:
        """`peer` says that a request cannot go on; only a peer of its plan is believed."""
        pending = self._pending.get((plan_id, number))
        if pending is not None and peer in pending.plan.peers():
            error.reporter = peer
            _fail(pending, error)

    def lost(self, peer: PeerId, name: str) -> None:
        """A peer is gone: end every request that needs it."""
        for pending in self._of(lambda plan: peer in plan.peers() and not plan.spares(peer)):
            _fail(
                pending,
                PeerLost(f"Lost the connection to {name} while it worked on this request; ask again without it."),
            )

    def closed(self, plan_id: str) -> None:
        """A session was closed: end its requests."""
        for pending in self._of(lambda plan: plan.id == plan_id):
            _fail(pending, PeerLost("The session was closed before the answer came."))

    def close(self, name: str) -> None:
        for pending in self._of(lambda plan: True):
            _fail(pending, PeerLost(f"{name} left the swarm before the answer came."))

    def _of(self, wanted: Callable[[Plan], bool]) -> list[Pending]:
        return [pending for pending in self._pending.values() if wanted(pending.plan)]


def out_of_time(plan: Plan) -> DeadlineExceeded:
    steps = "the one step" if len(plan.steps) == 1 else f"the {len(plan.steps)} steps"
    return DeadlineExceeded(
        f"No answer before the deadline from {steps} of this plan; allow more time with --deadline, or see with "
        "`swarm status` whether a peer is busy."
    )


def _fail(pending: Pending, error: SwarmError) -> None:
    if not pending.answer.done():
        pending.answer.set_exception(error)
