"""A model that was asked for, and all that it takes to agree on plans for it: again and again, as the swarm changes.

view ─▶ survey (stage times) ─▶ doubts ─▶ strategy: the contest ─▶ negotiate ─▶ plans, loaded
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any, Protocol

from swarm import schema
from swarm.doubts import Doubts
from swarm.errors import PeerError
from swarm.exchange import Caller, Exchange
from swarm.negotiation import Refusal, negotiate
from swarm.plan import Candidate, Estimate, Goal, Offer, Plan, weights_digest
from swarm.store import Store
from swarm.survey import Survey
from swarm.transport import Call
from swarm.types import Address, ModelProfile, PeerId, PeerLoad, PeerRecord, PeerView, View
from swarm.workshop import Blueprint, Importance, Manifest, Progress, Workshop

MAX_SURVEYED = 24
MAX_SOURCES = 8


class Planner(Protocol):
    """The strategies, as pure functions of a model, a view and a goal; `swarm.strategies` provides it."""

    def choose(self, name: str, model: ModelProfile, view: View, goal: Goal) -> Candidate: ...
    def contest(self, model: ModelProfile, view: View, goal: Goal) -> Sequence[Candidate]: ...
    def predict(self, plan: Plan, model: ModelProfile, view: View) -> Estimate: ...


@dataclass(frozen=True, slots=True)
class Own:
    """What a session has at present: its plans, and how many of its requests are under way."""

    plans: Sequence[Plan] = ()
    in_flight: int = 0


NOTHING = Own()


class Reports:
    """What peers tell while they load parts for this one: shown to who waits, and a sign that they are at work."""

    def __init__(self) -> None:
        self._shown: dict[str, Progress] = {}
        self._heard: dict[tuple[str, PeerId], float] = {}

    def open(self, plan_id: str, progress: Progress) -> None:
        self._shown[plan_id] = progress

    def close(self, plan_id: str) -> None:
        self._shown.pop(plan_id, None)
        for key in [key for key in self._heard if key[0] == plan_id]:
            del self._heard[key]

    def heard(self, plan_id: str, peer: PeerId) -> float:
        return self._heard.get((plan_id, peer), 0.0)

    def take(self, caller: Caller, call: Call) -> None:
        plan_id, fraction = str(call.fields.get("plan")), call.fields.get("fraction")
        progress = self._shown.get(plan_id)
        if progress is not None and isinstance(fraction, float) and 0 <= fraction <= 1:
            self._heard[plan_id, caller.remote.id] = monotonic()
            if fraction:
                progress(f"{caller.remote.name} fetches its part", fraction)


@dataclass
class Order:
    """Made by `Loader.order`."""

    blueprint: Blueprint
    manifest: Manifest
    strategy: str
    goal: Goal
    exchange: Exchange
    planner: Planner
    survey: Survey
    reports: Reports
    addresses_of: Callable[[PeerId], tuple[Address, ...]]
    suspect: Callable[[PeerId, float], None]
    """Told that this device's own way to a peer bears at most so many bytes a second now."""
    workshop: Workshop
    store: Store
    importance: Importance | None = None
    """Which heads and neurons matter most, if that was ever found out."""
    is_pinned: bool = False
    """Its plan stays as long as it works, whatever else would be better."""
    doubts: Doubts = field(default_factory=Doubts)
    _stage_s: dict[PeerId, tuple[float, ...]] = field(default_factory=dict)
    _digests: dict[str, dict[tuple[str, PeerId], Sequence[str]]] = field(default_factory=dict)
    """Of what is being agreed on: the tensors of each peer's part, by plan and step."""

    @property
    def is_fixed(self) -> bool:
        """The caller insists on these peers or cuts: nothing else will ever be better."""
        return self.is_pinned or self.goal.split is not None or self.goal.peers is not None or self.strategy == "local"

    @property
    def is_open(self) -> bool:
        """There is something to choose, so what it would cost has to be known."""
        return self.strategy != "local" and (self.goal.split is None or self.goal.peers is None)

    @property
    def profile(self) -> ModelProfile:
        """The model as planners see it, with what is known of its weights."""
        known, found = self.blueprint.profile, self.importance
        return known if found is None else replace(known, resilience=found.resilience, vital=found.vital)

    # What is known

    async def ask_around(self, view: View, timeout_s: float) -> None:
        """Have the newest stage times of those that could take part."""
        fastest = sorted(takers(view), key=lambda r: (-r.profile.flops_per_s.get("float32", 0.0), r.id))
        records = {record.id: record for record in fastest[:MAX_SURVEYED]}
        asked = await self.survey.ask(self.blueprint, records, timeout_s)
        self._stage_s |= asked

    def outlook(self, view: View, own: Own = NOTHING, *, wary: bool = True) -> View:
        """The view to plan with: stage times, this session's own plans not counted as load, doubts applied; those
        about peers that were lost only when `wary`."""
        known = {peer: times for peer, times in self._stage_s.items() if view.find(peer) is not None}
        able = {record.id for record in takers(view)}
        peers = tuple(seen if seen.record.id in able else _unmeasured(seen) for seen in credited(view, own).peers)
        return self.doubts.applied(replace(view, peers=peers, stage_s=known), monotonic(), wary=wary)

    # Planning

    def candidate(self, outlook: View) -> Candidate:
        return self.planner.choose(self.strategy, self.profile, outlook, self.goal)

    def contest(self, outlook: View) -> Sequence[Candidate]:
        return self.planner.contest(self.profile, outlook, self.goal)

    def predict(self, plan: Plan, view: View) -> Estimate:
        return self.planner.predict(plan, self.profile, view)

    # Agreeing

    async def agree(
        self,
        view: View,
        timeout_s: float,
        progress: Progress,
        own: Own = NOTHING,
        *,
        is_lenient: bool = False,
    ) -> Sequence[Plan]:
        """The best plan and its standbys, every part loaded. `own` are this session's plans that go when it has these;
        `is_lenient` takes fewer standbys than the goal wants where there cannot be so many, and any strategy where the
        one that was asked for has too few devices left.

        :raises PeerError: no plan was found or agreed on; the sentence says why.
        """
        goals = [self.goal]
        if is_lenient and self.goal.survive:
            goals += [replace(self.goal, survive=count) for count in range(self.goal.survive - 1, 0, -1)]
            goals.append(replace(self.goal, metric="latency", survive=0))

        def choose(seen: View) -> Candidate:
            wary, trusting = (self.outlook(seen, wary=wary) for wary in (True, False))
            reasons: list[PeerError] = []
            for goal in goals:
                for outlook in (wary, trusting):  # those that were lost of late are better than none
                    try:
                        return self.planner.choose(self.strategy, self.profile, outlook, goal)
                    except PeerError as error:
                        reasons.append(error)
            if is_lenient and not self.is_fixed:
                with suppress(PeerError):
                    return self.planner.choose("auto", self.profile, trusting, goals[-1])
            raise reasons[0]

        return await self.settle(choose, credited(view, own), timeout_s, progress)

    async def settle(
        self, choose: Callable[[View], Candidate], view: View, timeout_s: float, progress: Progress
    ) -> Sequence[Plan]:
        """Negotiate what `choose` makes of the view."""
        opened: list[str] = []

        async def propose(seen: View) -> Sequence[Plan]:
            candidate = await asyncio.to_thread(choose, seen)  # on a small device it takes a while
            assert candidate.plan is not None
            plans = [await self._named(plan) for plan in (candidate.plan, *candidate.standbys)]
            for plan in plans:
                opened.append(plan.id)
                self.reports.open(plan.id, progress)
            return plans

        sources = _sources(self.blueprint.profile.name, view)
        try:
            return await negotiate(
                self.exchange,
                view,
                propose,
                lambda plan, peer: self._offer(plan, peer, sources),
                timeout_s=timeout_s,
                heard=self.reports.heard,
                on_refusal=self._refused,
            )
        finally:
            for plan_id in opened:
                self.reports.close(plan_id)
                self._digests.pop(plan_id, None)

    def _refused(self, refusal: Refusal) -> None:
        """Whoever lacks room has said how much it has; anybody else is left alone for a while."""
        if refusal.free_bytes is None:
            self.doubts.lost(refusal.peer, monotonic())

    async def _named(self, plan: Plan) -> Plan:
        """With a name of its own, and every part with the content of its weights."""
        named = replace(plan, id=secrets.token_hex(8))
        digests = self._digests[named.id] = dict[tuple[str, PeerId], Sequence[str]]()
        steps = []
        for step in plan.steps:
            own = [self.manifest.refs[slot.name].sha256 for slot in self.blueprint.tensors_of(step.part)]
            whole = replace(step.part, weights=weights_digest(own))
            group, each = step.group, [own]
            if group is not None:
                shards = await self.workshop.cut(self.blueprint, self.manifest, step, self.importance)
                self.store.note(shards.locations)
                each = list(map(list, shards.digests))
                members = tuple(
                    replace(member, part=replace(member.part, weights=weights_digest(mine)))
                    for member, mine in zip(group.members, each, strict=True)
                )
                group = replace(group, members=members)
            digests |= {(step.id, peer): mine for peer, mine in zip(step.peers, each, strict=True)}
            steps.append(replace(step, part=whole, group=group))
        return replace(named, steps=tuple(steps))

    def _offer(self, plan: Plan, peer: PeerId, sources: Sequence[PeerId]) -> tuple[dict[str, Any], bytes]:
        fragment = plan.fragment(peer)
        others = {end for edge in fragment.edges for end in (edge.sender, edge.receiver)} | set(sources)
        others |= set(fragment.peers())
        addresses: Mapping[PeerId, tuple[Address, ...]] = {other: self.addresses_of(other) for other in others}
        digests = [digest for step in fragment.steps for digest in self._digests[plan.id][step.id, peer]]
        offer = Offer(fragment, addresses, (self.exchange.me, *(s for s in sources if s != self.exchange.me)))
        return schema.pack(offer), b"".join(map(bytes.fromhex, digests))


def takers(view: View) -> tuple[PeerRecord, ...]:
    """Who may take part: hosts, and the requester itself unless another process stands for its device."""
    hosts = [host for host in view.hosts() if host.id != view.me]
    me = view.find(view.me)
    if me is None:
        return tuple(hosts)
    mine = {address.host for address in me.addresses}
    stood_for = me.client and any(mine & {address.host for address in host.addresses} for host in hosts)
    return tuple(hosts) if stood_for else (me, *hosts)


def _unmeasured(seen: PeerView) -> PeerView:
    """As one that nobody plans with unasked."""
    return replace(seen, record=replace(seen.record, profile=replace(seen.record.profile, flops_per_s={})))


def credited(view: View, own: Own) -> View:
    """The view in which the peers of a session's present plans are free of them."""
    return replace(view, peers=tuple(_credited(seen, own) for seen in view.peers)) if own.plans else view


def _credited(seen: PeerView, own: Own) -> PeerView:
    """What a peer does for this session's present plans, it can do for the next ones; what others make it do stays."""
    record, load = seen.record, seen.record.load
    held = sum(plan.estimate.peak_memory_bytes.get(record.id, 0) for plan in own.plans)
    if not any(record.id in plan.peers() for plan in own.plans):
        return seen
    there = own.in_flight * max((_share(plan, record.id) for plan in own.plans), default=0.0)
    others = max(0.0, 1 - there / load.at_once) if load.at_once else 0.0
    profile = replace(record.profile, memory_free_bytes=record.profile.memory_free_bytes + held)
    return replace(seen, record=replace(record, profile=profile, load=PeerLoad(wait_s=others * load.wait_s)))


def _share(plan: Plan, peer: PeerId) -> float:
    """Of the time of a request, what it should spend at a peer; all of it where nobody knows."""
    if not plan.estimate.latency_s or peer not in plan.peers():
        return float(peer in plan.peers())
    mine = {step.id for step in plan.steps if peer in step.peers}
    spent_s = sum(step.compute_s + step.queue_s for step in plan.estimate.steps if step.step in mine)
    return min(1.0, spent_s / plan.estimate.latency_s)


def _sources(model: str, view: View) -> list[PeerId]:
    """Who holds something of this model, and so has parameters of it, beside the requester."""
    holders = [r.id for r in view.alive() if any(name.startswith(f"{model}[") for name in r.holds)]
    return holders[:MAX_SOURCES]
