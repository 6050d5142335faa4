"""From a wish to an agreed plan: study the model, find its weights, plan, negotiate."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from swarm import schema
from swarm.errors import DeadlineExceeded, NoPeers, UsageError
from swarm.exchange import Caller, Exchange
from swarm.negotiation import negotiate
from swarm.plan import Goal, Offer, Plan, Step, weights_digest
from swarm.store import Store
from swarm.tensors import WIRE_DTYPES
from swarm.transport import Call, Router
from swarm.types import Address, ModelProfile, PeerId, View
from swarm.workshop import Blueprint, Manifest, Progress, Workshop

Choose = Callable[[str, ModelProfile, View, Goal], Plan]
"""The best plan of a strategy, by the strategy's name."""


def quiet(what: str, fraction: float | None) -> None:
    """The progress of who does not want to know."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller of `Peer.load` asked for, in the caller's words."""

    model: str
    strategy: str
    split: Sequence[int | str] | None
    peers: Sequence[str] | None
    weights: str
    wire: str | None
    goal: str


class Loader:
    """Turns wishes into plans that every peer has loaded."""

    def __init__(
        self,
        exchange: Exchange,
        store: Store,
        workshop: Callable[[], Workshop],
        choose: Choose,
        addresses_of: Callable[[PeerId], tuple[Address, ...]],
    ):
        self._exchange = exchange
        self._store = store
        self._workshop = workshop
        self._choose = choose
        self._addresses_of = addresses_of
        self._progress: dict[str, Progress] = {}

    def register(self, router: Router) -> None:
        router.add("progress", self._note_progress)

    async def load(self, wish: Wish, view: View, timeout_s: float, progress: Progress) -> tuple[Plan, Blueprint]:
        """The agreed plan, its parts loaded, and the anatomy of its model.

        :raises DeadlineExceeded: it took longer than `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                blueprint = await self._workshop().study(wish.model, progress)
                manifest = await self._workshop().resolve(blueprint, wish.weights, progress)
                self._store.note(manifest.locations)
                goal = _goal(wish, view)
                return await self._negotiate(
                    wish.strategy, blueprint, manifest, goal, view, timeout_s, progress
                ), blueprint
        except TimeoutError:
            raise DeadlineExceeded(
                f"Loading {wish.model} took longer than {timeout_s:g} s; allow it more time."
            ) from None

    async def _negotiate(
        self,
        strategy: str,
        blueprint: Blueprint,
        manifest: Manifest,
        goal: Goal,
        view: View,
        timeout_s: float,
        progress: Progress,
    ) -> Plan:
        plan_id = secrets.token_hex(8)
        self._progress[plan_id] = progress

        def propose(view: View) -> Plan:
            plan = self._choose(strategy, blueprint.profile, view, goal)
            steps = tuple(_with_weights(step, digests_of(step)) for step in plan.steps)
            return replace(plan, id=plan_id, steps=steps)

        def digests_of(step: Step) -> list[str]:
            return [manifest.refs[slot.name].sha256 for slot in blueprint.tensors_of(step.part)]

        def make_offer(plan: Plan, peer: PeerId) -> tuple[dict[str, Any], bytes]:
            offer = self._offer(plan.fragment(peer))
            digests = [digest for step in offer.plan.steps for digest in digests_of(step)]
            return schema.pack(offer), b"".join(map(bytes.fromhex, digests))

        try:
            return await negotiate(self._exchange, view, propose, make_offer, timeout_s=timeout_s)
        finally:
            del self._progress[plan_id]

    def _offer(self, fragment: Plan) -> Offer:
        others = {end for edge in fragment.edges for end in (edge.sender, edge.receiver)}
        addresses = {other: self._addresses_of(other) for other in others}
        return Offer(fragment, addresses, (self._exchange.me,))

    def _note_progress(self, caller: Caller, call: Call) -> None:
        note = self._progress.get(str(call.fields.get("plan")))
        fraction = call.fields.get("fraction")
        if note is not None and isinstance(fraction, float) and 0 <= fraction <= 1:
            note(f"{caller.remote.name} fetches its part", fraction)


def _with_weights(step: Step, digests: Sequence[str]) -> Step:
    return replace(step, part=replace(step.part, weights=weights_digest(digests)))


def _goal(wish: Wish, view: View) -> Goal:
    if wish.wire is not None and wish.wire not in WIRE_DTYPES:
        raise UsageError(f"Tensors cannot travel as '{wish.wire}'; choose one of {', '.join(WIRE_DTYPES)}.")
    if wish.goal != "latency":
        raise UsageError(f"The goal '{wish.goal}' is not known; this version plans for 'latency'.")
    peers = None if wish.peers is None else tuple(_find(view, name) for name in wish.peers)
    split = None if wish.split is None else tuple(wish.split)
    return Goal("latency", split, peers, (wish.wire or "float32",))


def _find(view: View, name: str) -> PeerId:
    found = view.called(name)
    if not found:
        here = ", ".join(record.name for record in view.hosts()) or "none"
        raise NoPeers(f"No peer is called {name}; here are: {here}.")
    if len(found) > 1:
        raise UsageError(f"{len(found)} peers are called {name}; name them by id, as `swarm status` shows it.")
    return found[0].id
