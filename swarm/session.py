"""A model that is loaded and ready to answer, and stays so while devices come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Protocol

from swarm.answering import Answering
from swarm.errors import DeadlineExceeded, SwarmError
from swarm.healing import Healer
from swarm.metrics import Metrics
from swarm.plan import Plan
from swarm.result import Result, degradation
from swarm.types import Array

DEADLINE_S = 60.0


class Interpreter(Protocol):
    """Turns what a user has into the model's input, and its output into labels."""

    def ready(self, x: Any) -> Array | None:
        """The input at once, where nothing has to be read or decoded for it."""
        ...

    async def input(self, x: Any) -> Array: ...
    def check(self, output: Array) -> None:
        """Raises `SwarmError` for one that no model gives."""
        ...

    def labels(self, output: Array) -> Sequence[Sequence[tuple[str, float]]]: ...


class Session:
    """`result = await session(pictures)`; any number of calls at once. `aclose` gives the peers their memory back.

    A peer that is lost costs a request time, not its answer: the input is kept, and asked again on a standby or on a
    new plan until the deadline. Made by `Peer.load`.
    """

    def __init__(
        self,
        healer: Healer,
        interpreter: Interpreter,
        on_close: Callable[[Session], None],
        metrics: Metrics | None = None,
    ) -> None:
        self._healer = healer
        self._answering = Answering(healer)
        self._interpreter = interpreter
        self._on_close = on_close
        self._metrics = metrics or Metrics()
        self._closed = False

    @property
    def plan(self) -> Plan:
        """The one in use; another one after a loss, or when a better one was found."""
        return self._healer.routes.plan

    async def __call__(self, x: Any, *, deadline_s: float = DEADLINE_S, waits: bool = True) -> Result:
        """Answer a batch within `deadline_s` seconds.

        :param x: float32 `[B, C, H, W]`, or uint8 for raw pixels; one PIL image, one path, or a list of either.
        :param waits: whether to ask again, until the deadline, where a queue is full.
        :raises Overloaded: a queue is full and it does not wait, or the deadline cannot be met.
        :raises BadInput: an unreadable picture or a wrong shape.
        :raises PeerError: peers went away, and no other plan could be had.
        :raises DeadlineExceeded: no answer in time.
        """
        if self._closed:
            raise SwarmError("This session is closed; load the model again.")
        began = monotonic()
        model = self.plan.steps[0].part.model
        try:
            given = await self._input(x, deadline_s)
            outcome, attempts = await self._answering.answer(given, began + deadline_s, waits=waits)
            self._interpreter.check(outcome.output)
        except SwarmError as error:
            self._metrics.fail(self._metrics.failed, model, error.code)
            raise
        self._metrics.answer_s.observe(model, monotonic() - began)
        return Result(
            outcome.output,
            self._interpreter.labels,
            outcome.trace,
            degradation(outcome.plan, outcome.trace, self._healer.name_of),
            monotonic() - began,
            outcome.answer_wire_s,
            outcome.answer_bytes,
            attempts,
        )

    async def _input(self, x: Any, deadline_s: float) -> Array:
        ready = self._interpreter.ready(x)
        if ready is not None:
            return ready
        try:
            async with asyncio.timeout(deadline_s):
                return await self._interpreter.input(x)
        except TimeoutError:
            raise DeadlineExceeded(
                f"The {deadline_s:.3g} s of the request were over before its pictures were read; allow more time."
            ) from None

    async def aclose(self) -> None:
        """Release the parts; idempotent, and bounded in time."""
        if self._closed:
            return
        self._closed = True
        self._on_close(self)
        await self._healer.aclose()

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()
