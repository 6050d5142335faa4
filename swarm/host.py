"""Promises to others: offers answered, leases kept, parts loaded for them, and let go.

offer ─▶ accept with a lease, or decline with the reason ─▶ commit: fetch, build ─▶ ready
renew keeps the lease; release, its end, or the requester's death lets the parts go cold.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

from swarm import schema
from swarm.collectives import flaw, misfit, tokens_of
from swarm.dataflow import Dataflow
from swarm.errors import Declined, FrameTooLarge, PlanGone, SwarmError
from swarm.exchange import Caller, Exchange
from swarm.holdings import Holdings, Tensors, needs_of, together
from swarm.plan import Answer, Edge, Offer, Plan, Step, weights_digest
from swarm.transport import Call, Reply, Router
from swarm.types import Address, Name, PeerId
from swarm.workshop import Blueprint, Workshop

log = logging.getLogger(__name__)

LEASE_S = 30.0
MAX_LEASES = 256
MAX_LEASES_EACH = 64
"""Plans of one requester that this peer serves at once."""
DIGEST_BYTES = 32
MAX_OFFER_BYTES = 2**16 * DIGEST_BYTES
REPORT_EVERY_S = 0.1
AT_WORK_EVERY_S = 3.0
"""How often a requester hears that this peer is at work for it, even where there is no progress to tell."""
MAX_SILENT_WORK_S = 180.0
"""Work without progress for longer than this is none: the requester is left to look for somebody else."""


@dataclass(slots=True, eq=False)
class Lease:
    """A promise to hold the parts of one plan until a time (monotonic seconds)."""

    offer: Offer
    digests: Mapping[str, Sequence[str]]
    """SHA-256 of each tensor, by step."""
    needs: Mapping[str, Tensors]
    """The tensors of each of its parts, by the part's key."""
    until_s: float


@dataclass(frozen=True, slots=True)
class PlanName:
    """Names an installed plan in a message."""

    plan: Name


class Host:
    """Answers requesters. `register` its methods; run `watch_leases` for as long as the peer lives."""

    def __init__(
        self, name: str, exchange: Exchange, holdings: Holdings, dataflow: Dataflow, workshop: Callable[[], Workshop]
    ):
        self._name = name
        self._exchange = exchange
        self._holdings = holdings
        self._dataflow = dataflow
        self._workshop = workshop
        self._leases: dict[str, Lease] = {}
        holdings.leased = self._promised

    def register(self, router: Router) -> None:
        router.add("offer", self._offer, admit=_admit_offer)
        router.add("commit", self._commit)
        router.add("renew", self._renew)
        router.add("release", self._release)

    async def watch_leases(self) -> None:
        """Let go what lapsed; runs until cancelled."""
        while True:
            await asyncio.sleep(1.0)
            now = monotonic()
            for plan_id in [key for key, lease in self._leases.items() if lease.until_s < now]:
                log.info("the lease of plan %s lapsed", plan_id)
                self._let_go(plan_id)
            self._holdings.drop_cold()

    def lost(self, peer: PeerId, _name: str = "") -> None:
        """A requester is gone for good: its plans will never be renewed."""
        for plan_id in [key for key, lease in self._leases.items() if lease.offer.plan.requester == peer]:
            self._let_go(plan_id)

    def addresses_of(self, peer: PeerId) -> tuple[Address, ...]:
        """Where a peer of a leased plan listens, as the requester told; membership may not know it yet."""
        return next((found for lease in self._leases.values() if (found := lease.offer.addresses.get(peer))), ())

    def _promised(self) -> dict[str, Tensors]:
        return {key: tensors for lease in self._leases.values() for key, tensors in lease.needs.items()}

    # Offers

    async def _offer(self, caller: Caller, call: Call) -> Reply:
        offer = schema.unpack(Offer, call.fields)
        try:
            lease = await self._promise(caller, offer, bytes(call.body))
        except SwarmError as error:
            lacks_room = isinstance(error, Declined) and error.free_bytes is not None
            answer = Answer(False, str(error)[:2048], 0.0, self._holdings.free_bytes, lacks_room)
        else:
            self._leases[offer.plan.id] = lease
            answer = Answer(True, lease_s=LEASE_S, memory_free_bytes=self._holdings.free_bytes)
        return Reply(schema.pack(answer), b"")

    async def _promise(self, caller: Caller, offer: Offer, body: bytes) -> Lease:
        """A lease, if this peer can do what is asked. Raises the reason why not."""
        self._check_plan(caller, offer.plan)
        async with self._reporting(offer.plan, offer.plan.steps[0]):
            digests, needs = await self._study(offer.plan, body)
        self._check_plan(caller, offer.plan)  # again: the study took a while
        promised = together(self._promised().values())
        new = sum(nbytes for digest, nbytes in together(needs.values()).items() if digest not in promised)
        free = self._holdings.free_bytes
        if new > free:
            declined = Declined(
                f"{self._name} has {free / 1e6:.1f} MB free and this part needs {new / 1e6:.1f} MB; "
                "split the model into more parts, or give that peer more with --memory."
            )
            declined.free_bytes = free
            raise declined
        return Lease(offer, digests, needs, monotonic() + LEASE_S)

    def _check_plan(self, caller: Caller, plan: Plan) -> None:
        if plan.requester != caller.remote.id:
            raise Declined(f"{self._name} takes a plan only from the peer that made it.")
        if plan.id in self._leases:
            raise Declined(f"{self._name} already serves a plan of this name; a new plan needs a name of its own.")
        theirs = sum(lease.offer.plan.requester == plan.requester for lease in self._leases.values())
        if len(self._leases) >= MAX_LEASES or theirs >= MAX_LEASES_EACH:
            raise Declined(f"{self._name} already serves {theirs} plans of this requester; close some sessions.")
        for step in plan.steps:
            if (wrong := flaw(step)) is not None:
                raise Declined(f"The plan's step {step.id} cannot be: {wrong}.")
            if len(self._inputs(plan, step)) != 1 or self._exchange.me not in step.peers:
                raise Declined(f"{self._name} runs steps of its own with one input; this plan has others.")
        if not plan.steps:
            raise Declined(f"{self._name} has no step in this plan.")

    def _inputs(self, plan: Plan, step: Step) -> list[Edge]:
        return [edge for edge in plan.inputs(step.id) if edge.receiver == self._exchange.me]

    async def _study(self, plan: Plan, body: bytes) -> tuple[dict[str, list[str]], dict[str, Tensors]]:
        """Each step's digests, and the tensors of each part by key, checked against this peer's own anatomy."""
        raw = [body[i : i + DIGEST_BYTES].hex() for i in range(0, len(body), DIGEST_BYTES)]
        digests: dict[str, list[str]] = {}
        needs: dict[str, Tensors] = {}
        for step in plan.steps:
            part = step.part_of(self._exchange.me)
            blueprint = await self._workshop().study(part.model)
            self._check_anatomy(blueprint, plan, step)
            slots = blueprint.tensors_of(part)
            digests[step.id], raw = raw[: len(slots)], raw[len(slots) :]
            if weights_digest(digests[step.id]) != part.weights:
                raise Declined(f"The tensors offered for {part.name} are not those that its name stands for.")
            needs[part.key] = needs_of(part, digests[step.id], slots)
        return digests, needs

    def _check_anatomy(self, blueprint: Blueprint, plan: Plan, step: Step) -> None:
        """The model comes apart here as it does there, and its tensors have the shapes agreed on."""
        if blueprint.profile.digest != step.part.anatomy:
            raise Declined(
                f"{self._name} finds another anatomy for {step.part.model} than the requester; "
                "install the same versions of torch, timm and the model on both."
            )
        if step.group is not None and (wrong := misfit(step, blueprint.profile, self._inputs(plan, step))) is not None:
            raise Declined(f"The plan's step {step.id} does not fit {step.part.model}: {wrong}.")
        ends = [(edge, step.part.start) for edge in self._inputs(plan, step)]
        ends += [(edge, step.part.end) for edge in plan.outputs(step.id)]
        for edge, cut in ends:
            if edge.tensor != tokens_of(edge, blueprint.boundary(cut)):
                raise Declined(f"The plan's tensor at {cut} has another shape than {step.part.model} gives there.")

    # Leases

    async def _commit(self, caller: Caller, call: Call) -> Reply:
        lease = self._lease(caller, call)
        plan = lease.offer.plan
        keep = asyncio.create_task(_keep(lease))
        try:
            for step in plan.steps:
                async with self._reporting(plan, step) as note:
                    blueprint = await self._workshop().study(step.part.model)
                    part = step.part_of(self._exchange.me)
                    await self._holdings.load(blueprint, part, lease.digests[step.id], lease.offer.sources, note)
        finally:
            keep.cancel()
        if self._leases.get(plan.id) is not lease:
            raise Declined(f"The lease of this plan ended at {self._name} while it loaded; load the model again.")
        if plan.requester != self._exchange.me:  # a requester installs its own plans whole
            self._dataflow.install(plan)
        ahead = {edge.receiver for edge in plan.edges if edge.sender == self._exchange.me}
        ahead |= {peer for step in plan.steps for peer in step.peers}
        for peer in sorted(ahead):
            await self._exchange.reach(peer, "tensors", LEASE_S / 3)
        return Reply({"ready": True}, b"")

    @asynccontextmanager
    async def _reporting(self, plan: Plan, step: Step) -> AsyncIterator[Callable[[float], None]]:
        """Takes fractions done, and tells the requester of the latest now and then; without any, that work goes on."""
        latest = asyncio.Queue[float](1)

        def note(fraction: float) -> None:
            if latest.full():
                latest.get_nowait()
            latest.put_nowait(fraction)

        async def tell() -> None:
            fraction, silent_s = 0.0, 0.0
            while silent_s < MAX_SILENT_WORK_S:
                try:
                    async with asyncio.timeout(AT_WORK_EVERY_S):
                        fraction, silent_s = await latest.get(), 0.0
                except TimeoutError:
                    silent_s += AT_WORK_EVERY_S
                with suppress(SwarmError):
                    fields = {"plan": plan.id, "step": step.id, "fraction": fraction}
                    await self._exchange.notify(plan.requester, "progress", fields, timeout_s=1.0)
                await asyncio.sleep(REPORT_EVERY_S)

        reporter = asyncio.create_task(tell())
        try:
            yield note
        finally:
            reporter.cancel()

    async def _renew(self, caller: Caller, call: Call) -> Reply:
        self._lease(caller, call).until_s = monotonic() + LEASE_S
        return Reply({"lease_s": LEASE_S}, b"")

    async def _release(self, caller: Caller, call: Call) -> Reply:
        with suppress(SwarmError):
            self._let_go(self._lease(caller, call).offer.plan.id)
        return Reply({}, b"")

    def _lease(self, caller: Caller, call: Call) -> Lease:
        lease = self._leases.get(schema.unpack(PlanName, call.fields).plan)
        if lease is None or lease.offer.plan.requester != caller.remote.id:
            raise PlanGone(f"{self._name} has no lease for this plan; load the model again.")
        return lease

    def _let_go(self, plan_id: str) -> None:
        lease = self._leases.pop(plan_id)
        if lease.offer.plan.requester != self._exchange.me:
            self._dataflow.remove(plan_id)


async def _keep(lease: Lease) -> None:
    """A lease does not lapse while its parts are being loaded."""
    while True:
        lease.until_s = monotonic() + LEASE_S
        await asyncio.sleep(LEASE_S / 3)


def _admit_offer(_caller: Caller, _fields: dict[str, Any], nbytes: int) -> None:
    if nbytes > MAX_OFFER_BYTES or nbytes % DIGEST_BYTES:
        raise FrameTooLarge(f"An offer came with {nbytes} bytes of digests; at most {MAX_OFFER_BYTES} are taken.")
