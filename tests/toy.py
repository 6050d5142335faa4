"""A swarm in memory with a model made of numbers: everything real but the sockets, mDNS and torch.

The toy model adds the four numbers of one tensor at each of its four stages, so that what a chain gives shows which
parts ran, in which order, with whose weights.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from swarm import schema
from swarm.dataflow import Dataflow
from swarm.errors import CannotSplit, NoFit, WeightsError
from swarm.exchange import Exchange
from swarm.fetch import WeightsServer
from swarm.healing import Healer
from swarm.holdings import Holdings
from swarm.host import Host
from swarm.lockstep import Lockstep
from swarm.negotiation import MakeOffer, negotiate
from swarm.order import Order, Reports
from swarm.plan import INPUT, OUTPUT, Candidate, Estimate, Goal, Offer, Part, Plan, Step, StepEstimate, weights_digest
from swarm.session import Session
from swarm.store import Store
from swarm.strategies.chain import chain
from swarm.survey import Survey
from swarm.transport import PROTOCOL, Hello, Links, Purpose, Router
from swarm.transport.memory import MemoryNetwork, MemoryTransport
from swarm.types import (
    Address,
    Array,
    Location,
    ModelProfile,
    PeerId,
    PeerProfile,
    PeerRecord,
    PeerState,
    PeerView,
    Stage,
    TensorRef,
    TensorSpec,
    View,
)
from swarm.workshop import RunnableShard, Shards

SPEC = TensorSpec((4,))
CUTS = (INPUT, "a", "b", "c", OUTPUT)
STAGES = tuple(Stage(name, 100, 16, SPEC, (i - 1,) if i else ()) for i, name in enumerate(CUTS[1:]))
PROFILE = ModelProfile("toy", "d" * 64, SPEC, STAGES, (1, 2, 3))
TENSORS = {f"{name}.bias": np.full(4, 10.0**i, np.float32) for i, name in enumerate(CUTS[1:])}
DIGESTS = {name: sha256(value.tobytes()).hexdigest() for name, value in TENSORS.items()}
GOAL = Goal()


@dataclass(frozen=True)
class ToySlot:
    name: str
    nbytes: int = 16


@dataclass(frozen=True)
class ToyBlueprint:
    profile: ModelProfile = PROFILE

    def tensors_of(self, part: Part) -> list[ToySlot]:
        if part.start not in CUTS or part.end not in CUTS:
            raise CannotSplit("The toy has no such cut.")
        span = CUTS[CUTS.index(part.start) + 1 : CUTS.index(part.end) + 1]
        return [ToySlot(f"{name}.bias") for name in span]

    def boundary(self, cut: str) -> TensorSpec:
        return SPEC


@dataclass
class ToyWorkshop:
    """`before_run` is called in the worker thread before each batch, to wait or to raise."""

    blueprint: ToyBlueprint = field(default_factory=ToyBlueprint)
    before_run: Callable[[Part], None] = lambda part: None
    stage_s: tuple[float, ...] = ()

    async def study(self, model: str, progress: object = None) -> ToyBlueprint:
        return self.blueprint

    async def resolve(self, blueprint: ToyBlueprint, source: str, progress: object = None) -> Any:
        raise WeightsError("The toy's weights are where the test put them.")

    async def time_stages(
        self, blueprint: ToyBlueprint, in_worker: object, free_bytes: int | None = None
    ) -> tuple[float, ...]:
        return self.stage_s

    def learn(self, part: Part, rows: int, seconds: float) -> None:
        return

    def shard(
        self, blueprint: ToyBlueprint, part: Part, digests: Sequence[str], locate: Callable[[str], Location]
    ) -> RunnableShard:
        raise CannotSplit("The toy has no blocks.")

    async def importance(self, blueprint: ToyBlueprint, manifest: object) -> None:
        return None

    async def cut(self, blueprint: ToyBlueprint, manifest: object, step: Step, importance: object) -> Shards:
        raise CannotSplit("The toy has no blocks.")

    def build(
        self, blueprint: ToyBlueprint, part: Part, digests: Sequence[str], locate: Callable[[str], Location]
    ) -> ToyPart:
        places = [locate(digest) for digest in digests]
        biases = [np.frombuffer(p.path.read_bytes()[p.offset : p.offset + p.nbytes], np.float32) for p in places]

        return ToyPart(part, np.sum(biases, axis=0), lambda part: self.before_run(part))  # noqa: PLW0108 - set later


@dataclass(frozen=True)
class ToyPart:
    part: Part
    bias: Array
    before_run: Callable[[Part], None]

    def __call__(self, x: Array) -> Array:
        return self.leave(self.run(self.enter([x])))

    def enter(self, pieces: Sequence[Array]) -> Array:
        return np.concatenate(pieces)

    def run(self, x: Array) -> Array:
        self.before_run(self.part)
        y: Array = x + self.bias
        return y

    def leave(self, x: Array) -> Array:
        return x


class Node:
    """What `Peer` wires together, without membership: everybody knows everybody's address."""

    def __init__(self, name: str, network: MemoryNetwork, folder: Path, *, limit_bytes: int | None = None):
        self.id = PeerId(name)
        self.address = Address(name, 1)
        self.router = Router()
        self.transport = MemoryTransport(network)
        self.links = Links(self.transport, self.hello, self.router, lambda peer: [Address(peer, 1)])
        self.workshop = ToyWorkshop()
        self.exchange = Exchange(self.hello("control"), self.links, self.router)
        self.store = Store(folder / name)
        self.holdings = Holdings(name, self.exchange, self.store, lambda: self.workshop, limit_bytes=limit_bytes)
        lockstep = partial(Lockstep, self.id, name, self.exchange, *self.holdings.in_lockstep)
        self.dataflow = Dataflow(self.id, name, self.exchange, self.holdings.run, lockstep)
        self.host = Host(name, self.exchange, self.holdings, self.dataflow, lambda: self.workshop)
        for role in (self.dataflow, self.host, WeightsServer(self.store)):
            role.register(self.router)
        self.reports = Reports()
        self.router.add("progress", self.reports.take)
        self.survey = Survey(self.exchange, lambda: self.workshop, self.holdings)
        self.survey.register(self.router)

    def hello(self, purpose: Purpose) -> Hello:
        return Hello(PROTOCOL, self.id, self.id, purpose)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Node]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.links.aclose)
            listener = await self.transport.listen(
                [self.address], self.hello("control"), self.router, self.links.register
            )
            stack.push_async_callback(listener.aclose)
            self._die = listener.aclose
            await stack.enter_async_context(self.dataflow)
            await stack.enter_async_context(self.holdings.batcher)
            stack.push_async_callback(self.survey.aclose)
            watch = asyncio.create_task(self.host.watch_leases())
            stack.callback(watch.cancel)
            yield self

    async def die(self) -> None:
        """As a killed process: nobody listens, every connection breaks."""
        await self._die()
        for channel in self.links.channels():
            channel.abort()
        await self.links.aclose()

    def own_weights(self) -> None:
        """Put all of the toy's tensors into this node's store."""
        for name, value in TENSORS.items():
            with self.store.writer(DIGESTS[name], value.nbytes) as blob:
                blob.write(value.tobytes())


@asynccontextmanager
async def swarm_of(folder: Path, *names: str, **limits: int) -> AsyncIterator[list[Node]]:
    """Running nodes; the first has the weights. `limits` are bytes of parameters by name."""
    network = MemoryNetwork()
    nodes = [Node(name, network, folder, limit_bytes=limits.get(name)) for name in names]
    await asyncio.to_thread(nodes[0].own_weights)
    async with AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(node.running())
        yield nodes


def view_of(me: Node, *others: Node) -> View:
    peers = sorted((me, *others), key=lambda node: node.id)
    return View(me.id, tuple(PeerView(PeerRecord(n.id, n.id, (), 1), PeerState.ALIVE) for n in peers))


def chain_of(
    me: Node, *nodes: Node, cuts: Sequence[int] | None = None, plan_id: str = "plan", wire: str = "float32"
) -> Plan:
    """The toy spread over `nodes`, one stage for each and the rest for the last, unless `cuts` says otherwise."""
    ends = cuts or [*range(len(nodes)), len(STAGES)]
    goal = replace(GOAL, wires=(wire,))
    plan = chain("test", PROFILE, view_of(me, *nodes), goal, [n.id for n in nodes], ends)
    steps = tuple(replace(s, part=replace(s.part, weights=weights_digest(digests_of(s.part)))) for s in plan.steps)
    return replace(plan, id=plan_id, steps=steps)


def digests_of(part: Part) -> list[str]:
    return [DIGESTS[slot.name] for slot in ToyBlueprint().tensors_of(part)]


def offer_of(plan: Plan, peer: PeerId, *sources: PeerId) -> tuple[dict[str, Any], bytes]:
    """The offer as it travels; the requester has the weights, unless others are named."""
    fragment = plan.fragment(peer)
    digests = b"".join(bytes.fromhex(digest) for step in fragment.steps for digest in digests_of(step.part))
    return schema.pack(Offer(fragment, {}, sources or (plan.requester,))), digests


async def agree(me: Node, plan: Plan, *others: Node, offer: MakeOffer = offer_of) -> Plan:
    """Negotiate this very plan, or raise why not."""

    async def propose(view: View) -> list[Plan]:
        return [plan]

    await negotiate(me.exchange, view_of(me, *others), propose, offer, timeout_s=10)
    return plan


class Swarm:
    """The view that membership would give `me`: who is here, who is gone. Planning shares the toy evenly, in order,
    over the first `width` of the others that are alive, or runs it on `me` when there are none."""

    def __init__(self, me: Node, *others: Node, width: int = 2) -> None:
        self.me = me
        self.nodes = {node.id: node for node in (me, *others)}
        self.width = width
        self.gone: set[PeerId] = set()
        self.fast: set[PeerId] = set()
        """These are planned with first, and make a plan ten times better."""
        self._changed = asyncio.Event()

    def view(self) -> View:
        states = ((PeerState.DEAD if peer in self.gone else PeerState.ALIVE, peer) for peer in sorted(self.nodes))
        profile = PeerProfile(memory_free_bytes=10**9)
        records = ((PeerRecord(p, p, (), 1, client=p == self.me.id, profile=profile), state) for state, p in states)
        return View(self.me.id, tuple(PeerView(record, state) for record, state in records))

    async def views(self) -> AsyncIterator[View]:
        while True:
            changed = self._changed
            yield self.view()
            await changed.wait()

    def change(self, *, gone: Sequence[Node] = (), back: Sequence[Node] = (), joined: Sequence[Node] = ()) -> None:
        self.gone = (self.gone | {node.id for node in gone}) - {node.id for node in back}
        self.nodes |= {node.id: node for node in joined}
        self._changed.set()
        self._changed = asyncio.Event()

    def choose(self, name: str, model: ModelProfile, view: View, goal: Goal) -> Candidate:
        hosts = sorted((r.id for r in view.hosts() if r.id != self.me.id), key=lambda p: (p not in self.fast, p))
        groups = [hosts[i : i + self.width] for i in range(0, len(hosts), self.width)] or [[self.me.id]]
        if len(groups) <= goal.survive:
            raise NoFit("Too few for that.")
        plans = [self._planned(model, view, group) for group in groups[: goal.survive + 1]]
        return Candidate("toy", plans[0], tuple(plans[1:]))

    def _planned(self, model: ModelProfile, view: View, group: Sequence[PeerId]) -> Plan:
        plan = chain_of(self.me, *(self.nodes[peer] for peer in group))
        return replace(plan, estimate=self.predict(plan, model, view))

    def predict(self, plan: Plan, model: ModelProfile, view: View) -> Estimate:
        factor = 0.1 if self.fast & set(plan.peers()) else 1.0
        steps = tuple(StepEstimate(step.id, 1e-3, 1e-3, 0.0, 16) for step in plan.steps)
        return Estimate(factor * 1e-3 * len(steps), 1e3, 16, {}, 0, steps)

    def contest(self, model: ModelProfile, view: View, goal: Goal) -> Sequence[Candidate]:
        return [self.choose("toy", model, view, goal)]

    def order(self, goal: Goal = GOAL) -> Order:
        me = self.me
        refs = {name: TensorRef(name, (4,), "float32", digest) for name, digest in DIGESTS.items()}
        what = me.workshop.blueprint, ToyManifest(refs), "auto", goal
        ways = me.survey, me.reports, lambda peer: (), lambda peer, rate: None
        return Order(*what, me.exchange, self, *ways, me.workshop, me.store)


@dataclass(frozen=True)
class ToyManifest:
    refs: Mapping[str, TensorRef]
    digest: str = ""
    locations: Mapping[str, Location] = field(default_factory=dict)


class Plain:
    """Takes arrays as they are, and gives their sums as labels."""

    def ready(self, x: Any) -> Array | None:
        return None

    async def input(self, x: Any) -> Array:
        if isinstance(x, str):
            await asyncio.sleep(3600)
        return np.asarray(x, np.float32)

    def check(self, output: Array) -> None:
        pass

    def labels(self, output: Array) -> list[list[tuple[str, float]]]:
        return [[("sum", float(row.sum()))] for row in output]


@asynccontextmanager
async def session_of(swarm: Swarm, goal: Goal = GOAL) -> AsyncIterator[Session]:
    """A session over the swarm, as `Peer.load` makes it, with what keeps it alive."""
    me, order = swarm.me, swarm.order(goal)
    async with asyncio.TaskGroup() as tasks:
        healer = Healer(order, me.exchange, me.dataflow, swarm.view, lambda work, *what: tasks.create_task(work(*what)))
        healer.begin(await order.agree(swarm.view(), 10, lambda what, fraction: None))
        keeper = tasks.create_task(healer.run(swarm.views()))
        async with Session(healer, Plain(), lambda closed: None) as session:
            yield session
        keeper.cancel()
