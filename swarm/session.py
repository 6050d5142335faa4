"""A plan that is loaded and ready to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Protocol

from swarm.dataflow import Dataflow
from swarm.errors import DeadlineExceeded, SwarmError
from swarm.exchange import Exchange
from swarm.host import LEASE_S
from swarm.negotiation import release, renew
from swarm.plan import Plan
from swarm.result import Label, Result
from swarm.types import Array

DEADLINE_S = 60.0
RETRY_S = 1.0


class Interpreter(Protocol):
    """Turns what a user has into the model's input, and its output into labels."""

    async def input(self, x: Any) -> Array: ...
    def labels(self, output: Array) -> Sequence[Sequence[tuple[str, float]]]: ...


class Session:
    """`result = await session(pictures)`; any number of calls at once. `aclose` gives the peers their memory back.

    Made by `Peer.load`.
    """

    def __init__(
        self,
        plan: Plan,
        exchange: Exchange,
        dataflow: Dataflow,
        interpreter: Interpreter,
        on_close: Callable[[Session], None],
    ):
        self._plan = plan
        self._exchange = exchange
        self._dataflow = dataflow
        self._interpreter = interpreter
        self._on_close = on_close
        self._kept_until_s = monotonic() + LEASE_S
        self._broken: SwarmError | None = None
        self._closed = False
        self.keeper: asyncio.Task[None] | None = None
        """The task that renews the leases; made by whoever owns tasks."""
        dataflow.install(plan)

    @property
    def plan(self) -> Plan:
        return self._plan

    async def __call__(self, x: Any, *, deadline_s: float = DEADLINE_S) -> Result:
        """Answer a batch within `deadline_s` seconds.

        :param x: float32 `[B, C, H, W]`, one PIL image, one path, or a list of either.
        :raises BadInput: an unreadable picture or a wrong shape.
        :raises PeerLost: a peer of the plan went away.
        :raises DeadlineExceeded: no answer in time.
        """
        if self._closed:
            raise SwarmError("This session is closed; load the model again.")
        if self._broken is not None:
            raise type(self._broken)(str(self._broken))  # a fresh one: an error collects what it passes through
        began = monotonic()
        outcome = await self._dataflow.ask(self._plan, await self._input(x, deadline_s), began + deadline_s)
        return Result(
            outcome.output,
            tuple(tuple(Label(*pair) for pair in row) for row in self._interpreter.labels(outcome.output)),
            outcome.trace,
            None,
            monotonic() - began,
            outcome.answer_wire_s,
            outcome.answer_bytes,
        )

    async def _input(self, x: Any, deadline_s: float) -> Array:
        try:
            async with asyncio.timeout(deadline_s):
                return await self._interpreter.input(x)
        except TimeoutError:
            raise DeadlineExceeded(
                f"The input was not read within {deadline_s:g} s; is its disk or network slow?"
            ) from None

    async def keep_leases(self) -> None:
        """Renew the leases, again and again if need be, until one is really over; runs beside the session."""
        error: SwarmError | None = None
        while error is None or monotonic() < self._kept_until_s:
            await asyncio.sleep(LEASE_S / 3 if error is None else RETRY_S)
            asked_s = monotonic()
            try:
                await renew(self._exchange, self._plan, LEASE_S / 3)
            except SwarmError as refusal:
                error = refusal
            else:
                error, self._kept_until_s = None, asked_s + LEASE_S
        self._broken = error

    async def aclose(self) -> None:
        """Release the parts; idempotent, and bounded in time."""
        if self._closed:
            return
        self._closed = True
        self._on_close(self)
        self._dataflow.remove(self._plan.id)
        await release(self._exchange, self._plan)

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()
