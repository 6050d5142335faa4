"""The requester's side of an agreement: offer to all at once, plan again after a decline, commit.

propose ─▶ offers ─▶ all accept ─▶ commit ─▶ ready
   ▲                    │
   └── view corrected ◀─┘ a decline, at most ROUNDS times
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from swarm import schema
from swarm.errors import Declined, SwarmError
from swarm.exchange import Exchange
from swarm.plan import Answer, Plan
from swarm.types import PeerId, View

ROUNDS = 3
RELEASE_S = 1.0

Propose = Callable[[View], Plan]
"""A plan for this view; raises when there is none."""

MakeOffer = Callable[[Plan, PeerId], tuple[dict[str, Any], bytes]]
"""An offer for one peer as it travels: fields, and the digests of its tensors."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a peer will not take its fragment."""

    peer: PeerId
    error: SwarmError


async def negotiate(
    exchange: Exchange, view: View, propose: Propose, make_offer: MakeOffer, *, timeout_s: float
) -> Plan:
    """Come to a plan whose parts every peer has loaded.

    :raises PeerError: no plan was accepted; the sentence says by whom and why.
    :raises DeadlineExceeded: it took longer than `timeout_s`.
    """
    deadline = monotonic() + timeout_s
    errors: list[SwarmError] = []
    for _ in range(ROUNDS):
        try:
            plan = propose(view)
        except SwarmError:
            if not errors:
                raise
            break
        refusals = await _agree(exchange, view, plan, make_offer, deadline)
        if not refusals:
            return plan
        errors += [refusal.error for refusal in refusals]
        view = _without(view, {refusal.peer for refusal in refusals})
    raise _refused(errors)


async def _agree(exchange: Exchange, view: View, plan: Plan, make_offer: MakeOffer, deadline: float) -> list[Refusal]:
    """Offer, then commit; whoever refuses either. Unless nobody does, nothing is left behind at the others."""

    async def offer(peer: PeerId) -> None:
        fields, body = make_offer(plan, peer)
        reply = await exchange.request(peer, "offer", fields, body, timeout_s=_left_s(deadline))
        answer = schema.unpack(Answer, reply.fields)
        if not answer.accepted:
            raise Declined(answer.reason)

    async def commit(peer: PeerId) -> None:
        await exchange.request(peer, "commit", {"plan": plan.id}, timeout_s=_left_s(deadline))
        await exchange.reach(peer, "tensors", _left_s(deadline))

    agreed = False
    try:
        refusals = await _ask_all(view, plan, offer) or await _ask_all(view, plan, commit)
        agreed = not refusals
    finally:
        if not agreed:
            await asyncio.shield(release(exchange, plan))
    return refusals


async def _ask_all(view: View, plan: Plan, ask: Callable[[PeerId], Awaitable[None]]) -> list[Refusal]:
    async def one(peer: PeerId) -> Refusal | None:
        try:
            await ask(peer)
        except SwarmError as error:
            return Refusal(peer, _named(view, peer, error))
        return None

    results = await asyncio.gather(*(one(peer) for peer in plan.peers()))
    return [refusal for refusal in results if refusal is not None]


def _named(view: View, peer: PeerId, error: SwarmError) -> SwarmError:
    """The same error; its sentence says of whom it is."""
    record = view.find(peer)
    if record is None or record.name in str(error):
        return error
    return type(error)(f"{record.name}: {error}")


def _left_s(deadline: float) -> float:
    return max(0.001, deadline - monotonic())


async def release(exchange: Exchange, plan: Plan) -> None:
    """Tell every peer that its lease is not needed any more; one that cannot be told lets it lapse."""

    async def one(peer: PeerId) -> None:
        with suppress(SwarmError):
            await exchange.request(peer, "release", {"plan": plan.id}, timeout_s=RELEASE_S)

    await asyncio.gather(*(one(peer) for peer in plan.peers()))


async def renew(exchange: Exchange, plan: Plan, timeout_s: float) -> None:
    """Prolong every lease of a plan. Raises the first peer's refusal."""
    calls = (exchange.request(peer, "renew", {"plan": plan.id}, timeout_s=timeout_s) for peer in plan.peers())
    await asyncio.gather(*calls)


def _without(view: View, peers: set[PeerId]) -> View:
    return replace(view, peers=tuple(seen for seen in view.peers if seen.record.id not in peers))


def _refused(errors: Sequence[SwarmError]) -> SwarmError:
    """All reasons as one error, of the first one's class."""
    return type(errors[0])(" ".join(dict.fromkeys(map(str, errors))))
