"""Tensors on their way along the edges of a plan: encoded, handed over, acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from swarm import schema, tensors
from swarm.arrivals import part_of
from swarm.errors import DeadlineExceeded, PeerLost, PeerUnreachable
from swarm.exchange import Exchange
from swarm.metrics import Metrics
from swarm.plan import Edge, Plan, StepTrace
from swarm.types import Array, PeerId
from swarm.whereabouts import Work

OnSent = Callable[[PeerId, int, float], None]
"""Told of every tensor that a peer has acknowledged: to whom, its bytes, and the seconds until then."""


class Sending:
    """What one peer sends. Whoever sends a tensor waits until its receiver has it."""

    def __init__(self, name: str, exchange: Exchange, on_sent: OnSent, metrics: Metrics) -> None:
        self._name = name
        self._exchange = exchange
        self._on_sent = on_sent
        self._metrics = metrics

    async def to_all(
        self,
        plan: Plan,
        edges: Sequence[Edge],
        request: int,
        x: Array,
        trace: tuple[StepTrace, ...],
        deadline: float,
        work: Work,
    ) -> None:
        """Along several edges at once. Whoever can be spared may be gone: its group finds out."""
        if len(edges) == 1:
            await self._along(plan, edges[0], request, x, trace, deadline, work)
            return
        sent = (self._along(plan, edge, request, x, trace, deadline, work) for edge in edges)
        for outcome in await asyncio.gather(*sent, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _along(
        self, plan: Plan, edge: Edge, request: int, x: Array, trace: tuple[StepTrace, ...], deadline: float, work: Work
    ) -> None:
        """Hand a tensor to the next peer, a second time if the connection broke under the first.

        The receiver may then have it twice; the requester takes the first answer.
        """
        head, body = tensors.encode(part_of(edge, x), edge.wire)
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
            try:
                await self._hand_over(edge.receiver, fields, body, deadline)
            except PeerLost as lost:
                try:
                    await self._hand_over(edge.receiver, fields, body, deadline)
                except PeerUnreachable:
                    raise lost from None  # it names the peer
        except (PeerLost, PeerUnreachable):
            if not plan.spares(edge.receiver):
                raise

    async def _hand_over(self, peer: PeerId, fields: dict[str, Any], body: Any, deadline: float) -> None:
        left_s = deadline - monotonic()
        if left_s <= 0:
            raise DeadlineExceeded(f"The request's deadline passed at {self._name}; allow more time with --deadline.")
        began = monotonic()
        stamped = {**fields, "sent_s": began}
        await self._exchange.request(peer, "tensor", stamped, body, purpose="tensors", timeout_s=left_s)
        self._metrics.sent_bytes += len(body)
        self._on_sent(peer, len(body), monotonic() - began)
