"""The requester's side of an agreement: offer to all at once, plan again after a decline, commit.

propose ─▶ offers ─▶ all accept ─▶ commit ─▶ ready
   ▲                    │             │
   └── view corrected ◀─┴─────────────┘ a refusal, at most ROUNDS times

Nothing is ever held while something else is waited for: one refusal releases all, so two requesters cannot block each
other. They may refuse each other's plans by turns; a pause of random length parts them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from swarm import schema
from swarm.errors import DeadlineExceeded, Declined, SwarmError
from swarm.exchange import Exchange
from swarm.plan import Answer, Plan
from swarm.types import PeerId, View

ROUNDS = 5
PAUSE_S = 0.1
"""At least so long before what was refused is proposed anew, up to twice as long each time more."""
RELEASE_S = 1.0
STALL_S = 20.0
"""A peer that works on an offer says so every few seconds; one that is silent for so long will never be done."""
LOOK_S = 0.5

Propose = Callable[[View], Awaitable[Sequence[Plan]]]
"""Plans for this view that are wanted together; raises when there are none."""

MakeOffer = Callable[[Plan, PeerId], tuple[dict[str, Any], bytes]]
"""An offer for one peer as it travels: fields, and the digests of its tensors."""

Heard = Callable[[str, PeerId], float]
"""When a peer last told of its progress with a plan (monotonic seconds); 0 for never."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a peer will not take its fragment. `free_bytes` is the room that it has, where that was the reason."""

    peer: PeerId
    error: SwarmError
    free_bytes: int | None = None


OnRefusal = Callable[[Refusal], None]


async def negotiate(
    exchange: Exchange,
    view: View,
    propose: Propose,
    make_offer: MakeOffer,
    *,
    timeout_s: float,
    heard: Heard = lambda plan, peer: 0.0,
    on_refusal: OnRefusal = lambda refusal: None,
) -> Sequence[Plan]:
    """Come to plans whose parts every peer has loaded: all that `propose` wants together, or none.

    :param on_refusal: told of each refusal, for who plans the next time.
    :raises PeerError: no plan was accepted; the sentence says by whom and why.
    :raises DeadlineExceeded: it took longer than `timeout_s`.
    """
    deadline = monotonic() + timeout_s
    refused: list[Refusal] = []
    seen = view
    for round_ in range(ROUNDS):
        try:
            plans = await propose(seen)
        except SwarmError as error:
            if not any(refusal.free_bytes is not None for refusal in refused):
                raise _refused(refused) if refused else error from None
            seen = view  # whoever took the room may have had to let it go, too
        else:
            refusals = await _agree(_Talk(exchange, seen, deadline, heard, make_offer), plans)
            if not refusals:
                return plans
            if monotonic() >= deadline:
                raise _refused([*refused, *refusals])
            for refusal in refusals:
                on_refusal(refusal)
            refused += refusals
            seen = _corrected(seen, refusals)
        if round_ + 1 < ROUNDS and any(refusal.free_bytes is not None for refusal in refused):
            await asyncio.sleep(PAUSE_S * random.uniform(1, 2**round_))
    raise _refused(refused)


@dataclass(frozen=True, slots=True)
class _Talk:
    """One round with the peers of some plans."""

    exchange: Exchange
    view: View
    deadline: float
    heard: Heard
    make_offer: MakeOffer

    async def offer(self, plan: Plan, peer: PeerId) -> None:
        fields, body = self.make_offer(plan, peer)
        reply = await self._ask(plan, peer, "offer", fields, body)
        answer = schema.unpack(Answer, reply.fields)
        if not answer.accepted:
            declined = Declined(answer.reason)
            declined.free_bytes = answer.memory_free_bytes if answer.lacks_room else None
            raise declined

    async def commit(self, plan: Plan, peer: PeerId) -> None:
        await self._ask(plan, peer, "commit", {"plan": plan.id})
        await self.exchange.reach(peer, "tensors", self._left_s())

    async def _ask(self, plan: Plan, peer: PeerId, method: str, fields: dict[str, Any], body: bytes = b"") -> Any:
        """Ask, for as long as the peer is heard to be at work on it."""
        asking = asyncio.create_task(
            self.exchange.request(peer, method, fields, body, timeout_s=self._left_s()), name=f"{method} {peer[:8]}"
        )
        began = monotonic()
        try:
            while not asking.done():
                await asyncio.wait({asking}, timeout=LOOK_S)
                if not asking.done() and monotonic() - max(began, self.heard(plan.id, peer)) > STALL_S:
                    raise DeadlineExceeded(
                        f"it accepted and did not get ready: nothing was heard of its work for {STALL_S:g} s."
                        if method == "commit"
                        else f"it did not answer an offer within {STALL_S:g} s."
                    )
            return asking.result()
        finally:
            if not asking.done():
                asking.cancel()
                await asyncio.wait({asking})

    def _left_s(self) -> float:
        return max(0.001, self.deadline - monotonic())

    def named(self, peer: PeerId, error: SwarmError) -> SwarmError:
        """The same error; its sentence says of whom it is."""
        record = self.view.find(peer)
        if record is None or record.name in str(error):
            return error
        return type(error)(f"{record.name}: {error}")

    async def all(self, plans: Iterable[Plan], ask: Callable[[Plan, PeerId], Awaitable[None]]) -> list[Refusal]:
        async def one(plan: Plan, peer: PeerId) -> Refusal | None:
            try:
                await ask(plan, peer)
            except SwarmError as error:
                return Refusal(peer, self.named(peer, error), _room(error))
            return None

        results = await asyncio.gather(*(one(plan, peer) for plan in plans for peer in plan.peers()))
        return [refusal for refusal in results if refusal is not None]


async def _agree(talk: _Talk, plans: Sequence[Plan]) -> list[Refusal]:
    """Offer, then commit; whoever refuses either. Unless nobody does, nothing is left behind at the others."""
    agreed = False
    try:
        refusals = await talk.all(plans, talk.offer) or await talk.all(plans, talk.commit)
        agreed = not refusals
    finally:
        if not agreed:
            await asyncio.shield(asyncio.gather(*(release(talk.exchange, plan) for plan in plans)))
    return refusals


async def release(exchange: Exchange, plan: Plan) -> None:
    """Tell every peer that its lease is not needed any more; one that cannot be told lets it lapse."""

    async def one(peer: PeerId) -> None:
        with suppress(SwarmError):
            await exchange.request(peer, "release", {"plan": plan.id}, timeout_s=RELEASE_S)

    await asyncio.gather(*(one(peer) for peer in plan.peers()))


async def renew(exchange: Exchange, plan: Plan, timeout_s: float, lacks: Collection[PeerId] = ()) -> None:
    """Prolong every lease of a plan, but for peers that it lacks anyway. Raises the first peer's refusal."""
    peers = [peer for peer in plan.peers() if peer not in lacks]
    calls = (exchange.request(peer, "renew", {"plan": plan.id}, timeout_s=timeout_s) for peer in peers)
    await asyncio.gather(*calls)


def _corrected(view: View, refusals: Sequence[Refusal]) -> View:
    """The view with the room that was found; without those who refused for another reason."""
    by_peer = {seen.record.id: [r.free_bytes for r in refusals if r.peer == seen.record.id] for seen in view.peers}
    peers = []
    for seen in view.peers:
        found = by_peer[seen.record.id]
        known = [free_bytes for free_bytes in found if free_bytes is not None]
        if not found:
            peers.append(seen)
        elif len(known) == len(found) and min(known) < seen.record.profile.memory_free_bytes:
            profile = replace(seen.record.profile, memory_free_bytes=min(known))
            peers.append(replace(seen, record=replace(seen.record, profile=profile)))
    return replace(view, peers=tuple(peers))


def _room(error: SwarmError) -> int | None:
    return error.free_bytes if isinstance(error, Declined) else None


def _refused(refusals: Sequence[Refusal]) -> SwarmError:
    """All reasons as one error, of the first one's class."""
    return type(refusals[0].error)(" ".join(dict.fromkeys(str(refusal.error) for refusal in refusals)))
