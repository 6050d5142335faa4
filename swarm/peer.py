"""One peer of the swarm: the one place that wires everything together.

async with Peer() as peer:                              # joins this network's swarm
    vit = await peer.load("vit_base_patch16_224")       # plans, negotiates, loads
    result = await vit(pictures)
"""

from __future__ import annotations

import asyncio
import logging
import platform
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from swarm import measure, rotation
from swarm.access import Access
from swarm.background import logged
from swarm.batching import Batching
from swarm.bench import Bench, bench
from swarm.dataflow import Dataflow
from swarm.door import open_door
from swarm.entrance import OPEN_WARNING
from swarm.errors import SwarmError, UsageError
from swarm.exchange import Exchange
from swarm.fetch import WeightsServer
from swarm.gossip import Gossip
from swarm.holdings import Holdings
from swarm.host import Host
from swarm.identity import Keyring
from swarm.known import known_file
from swarm.loading import Contest, Loader, Wish, quiet
from swarm.lockstep import Lockstep
from swarm.membership import Membership
from swarm.metrics import Metrics
from swarm.order import Reports
from swarm.plan import Candidate, OnLoss
from swarm.portrait import Portrait
from swarm.ranging import Ranging
from swarm.secret import Secret
from swarm.session import Session
from swarm.sessions import Sessions
from swarm.store import Store
from swarm.survey import Survey
from swarm.transport import PROTOCOL, Hello, Links, Purpose, Router
from swarm.twins import Twins
from swarm.types import Address, PeerId, PeerRecord, View
from swarm.waiting import until_here, watch_losses
from swarm.workshop import Progress

if TYPE_CHECKING:
    from swarm.discovery import Discovery
    from swarm.models.workshop import Workshop

log = logging.getLogger(__name__)

LOAD_TIMEOUT_S = 600.0
TRY_LINKS_S = 10.0


class Peer:
    """A member of the swarm for as long as the `async with` lasts. The constructor does no I/O; `id` is there once it
    is entered.

    :param name: shown to people; the host's name by default.
    :param port: TCP port; None takes 4747, or any free one when that is taken.
    :param interfaces: local IP addresses to use; all of the LAN's by default.
    :param peers: addresses to try besides what mDNS finds.
    :param memory_bytes: most bytes of parameters to hold; what is free by default.
    :param threads: torch's threads; all cores by default.
    :param device: where parts run: `cpu`, `cuda:0`, `mps`…; `auto` is the best that is here.
    :param models: Python files of this device's owner that register models of their own.
    :param client: ask only; others never plan with this peer.
    :param remember: read and write the last-known addresses of peers, the way back in after a restart.
    :param on_problem: told, in a sentence, what goes wrong beside any request, such as multicast that is blocked.
    :param secret: what this swarm's devices share; by default SWARM_SECRET, or what `swarm join` keeps in `home`. A
        device without any begins a swarm where none is to be seen.
    :param open: no encryption and no secret, for a bench network: anybody may take part.
    :param home: folder of the secret and this device's keys; SWARM_HOME or the user's configuration folder by default.
    :param new_identity: forget the key that this peer would take up again, and with it its id.
    :param on_secret: keeps a new secret that another peer hands over; then enter a new Peer with it.
    :param batching: a `swarm.Batching`: how requests share batches, how large those are, how much may wait.
    :raises AddressInUse: on entering, when `port` belongs to another program.
    :raises NotInvited: on entering, when a swarm is here and this device has no secret; and for any client without one.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        port: int | None = None,
        interfaces: Sequence[str] = (),
        peers: Sequence[str | Address] = (),
        memory_bytes: int | None = None,
        threads: int | None = None,
        device: str = "auto",
        models: Sequence[str | Path] = (),
        mdns: bool = True,
        client: bool = False,
        cache: Path | None = None,
        remember: bool = True,
        on_problem: Callable[[str], None] = log.warning,
        secret: Secret | str | None = None,
        open: bool = False,  # noqa: A002
        home: Path | None = None,
        new_identity: bool = False,
        on_secret: rotation.OnSecret | None = None,
        batching: Batching | None = None,
    ):
        self.id: PeerId
        self.metrics = Metrics()
        """What this peer has done so far, counted."""
        self._start = secrets.randbits(63)
        self.name = name or platform.node().split(".")[0] or "peer"
        self._port = port
        self._interfaces = tuple(dict.fromkeys(interfaces))
        self._seeds = tuple(Address.parse(peer) if isinstance(peer, str) else peer for peer in peers)
        self._memory_bytes = memory_bytes
        self._threads, self._device = threads, device
        self._models = tuple(Path(path).resolve() for path in models)
        self._mdns = mdns
        self._client = client
        self._remember = remember
        self._on_problem = on_problem
        self._cache = cache or Path(platformdirs.user_cache_dir("swarm", appauthor=False))
        known = Secret.parse(secret, "The secret given") if isinstance(secret, str) else secret
        self._access = Access(
            known, open, Keyring(home), new_identity, client, remember, mdns, self._interfaces, self._seeds
        )
        self._on_secret, self._batching = on_secret, batching
        self._discovery: Discovery | None = None
        self._stack = AsyncExitStack()

    # Joining and leaving

    async def __aenter__(self) -> Peer:
        try:
            await self._join()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        try:
            await self._sessions.aclose()
        finally:
            await self._stack.aclose()

    async def _join(self) -> None:
        router = Router()
        self._twins = Twins(self._on_problem, lambda where: self._gossip.introduce(None, (where,)))
        mine = await self._access.enter(self._stack, self._twins.met)
        self.id, self._tag, self._transport = mine.id, mine.tag, mine.transport
        self._twins.me = self.id
        if self._tag is None:
            self._on_problem(OPEN_WARNING)
        self._links = Links(self._transport, self._hello, router, self._addresses_of)
        self._stack.push_async_callback(self._links.aclose)
        listener, addresses = await open_door(
            self._transport, self._interfaces, self._port, self._hello("control"), router, self._links.register
        )
        self._stack.push_async_callback(listener.aclose)
        self._exchange = Exchange(self._hello("control"), self._links, router)
        self._membership = Membership(self._record(addresses))
        self._wire_up(router)
        await self._stack.enter_async_context(self._dataflow)
        await self._stack.enter_async_context(self._holdings.batcher)
        known = known_file(self._cache) if self._remember else None
        self._gossip = await self._stack.enter_async_context(
            Gossip(self._membership, self._links, router, seeds=self._seeds, known=known, on_twin=self._twins.announced)
        )
        await self._stack.enter_async_context(self._ranging)
        await self._announce(addresses)
        tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._tasks = tasks
        watching = self._spawn(watch_losses, self.changes(), (self._dataflow.lost, self._host.lost))
        background = [self._spawn(self._host.watch_leases), watching]
        if not self._client:
            background.append(self._spawn(self._portrait.keep))
        self._stack.callback(lambda: [task.cancel() for task in background])

    def _wire_up(self, router: Router) -> None:
        from swarm import strategies

        self._store = Store(self._cache / "tensors")
        self._holdings = Holdings(
            self.name,
            self._exchange,
            self._store,
            lambda: self._workshop,
            limit_bytes=self._memory_bytes,
            on_change=lambda names: self._gossip.update(holds=names),
            on_progress=lambda: self._portrait.progressed(),  # noqa: PLW0108 - made below
            batching=self._batching,
            metrics=self.metrics,
        )
        self._dataflow = Dataflow(
            self.id,
            self.name,
            self._exchange,
            self._holdings.run,
            partial(Lockstep, self.id, self.name, self._exchange, *self._holdings.in_lockstep),
            on_sent=lambda *sent: self._ranging.observe(*sent),  # noqa: PLW0108 - made below
            metrics=self.metrics,
        )
        self._host = Host(self.name, self._exchange, self._holdings, self._dataflow, lambda: self._workshop)
        self._portrait = Portrait(
            self.name,
            self._membership.me.profile,
            self._holdings,
            lambda: self._workshop,
            lambda **changes: self._gossip.update(**changes),  # noqa: PLW0108 - gossip is entered later
            self._on_problem,
        )
        self._ranging = Ranging(self._exchange, self.view, self._portrait.links_changed)
        for role in (self._dataflow, self._host, WeightsServer(self._store), self._ranging):
            role.register(router)
        survey = Survey(self._exchange, lambda: self._workshop, self._holdings)
        survey.register(router)
        self._stack.push_async_callback(survey.aclose)
        loader = Loader(
            self._exchange,
            self._store,
            lambda: self._workshop,
            strategies,
            survey,
            self._get_ready,
            self._addresses_of,
            self._ranging.suspect,
            Reports(),
        )
        loader.register(router)
        self._sessions = Sessions(
            loader,
            self._exchange,
            self._dataflow,
            lambda: self._ranging.overlaid(self.view()),
            self.changes,
            lambda blueprint: self._workshop.interpreter(blueprint),  # noqa: PLW0108 - not loaded yet
            self._spawn,
        )
        rotation.listen(router, self._on_secret if self._tag is not None else None)  # in an open one anybody may say it

    def _hello(self, purpose: Purpose) -> Hello:
        return Hello(PROTOCOL, self.id, self.name, purpose, self._start)

    async def _announce(self, addresses: tuple[Address, ...]) -> None:
        if not self._mdns:
            return
        from swarm.discovery import Discovery

        port = addresses[0].port
        self._discovery = Discovery(
            self.id,
            port,
            [address.host for address in addresses],
            tag=self._tag,
            interfaces=self._interfaces,
            on_found=self._gossip.introduce,
            on_moved=lambda hosts: self._gossip.update(addresses=tuple(Address(host, port) for host in hosts)),
            on_problem=self._on_problem,
            on_twin=self._twins.announced,
        )
        await self._stack.enter_async_context(self._discovery)

    def _record(self, addresses: tuple[Address, ...]) -> PeerRecord:
        profile = measure.profile(self._device, self._threads, self._memory_bytes)
        return PeerRecord(self.id, self.name, addresses, time.time_ns() // 1000, client=self._client, profile=profile)

    # Who is here

    def view(self) -> View:
        """The swarm as this peer sees it now; immutable."""
        return self._gossip.view()

    def changes(self) -> AsyncIterator[View]:
        """Views as they change, the newest wins over those not yet looked at; the first comes at once."""
        return self._gossip.changes()

    async def wait_for(
        self, names: Sequence[str] = (), *, count: int = 1, settle_s: float = 0.0, timeout_s: float = 5.0
    ) -> View:
        """The view once all `names` (or ids) are here, or without names once `count` other hosts are.

        :param settle_s: and once nobody new has come for so long.
        :raises NoPeers: they are not here when `timeout_s` is over.
        """
        return await until_here(self.view, names, count, settle_s, timeout_s)

    @property
    def strangers(self) -> int:
        """How many peers of other swarms are announced on this network."""
        return len(self._discovery.strangers) if self._discovery is not None else 0

    async def hand_over(self, secret: Secret, peers: Sequence[PeerId]) -> dict[PeerId, str | None]:
        """Give these peers a new secret; for each None, or why it has not got it. They come back with it, and this
        peer sees them no more."""
        if self._tag is None:
            raise UsageError("An open swarm has no secret to change.")
        return await rotation.hand_over(self._links, secret, peers)

    # Asking

    async def load(
        self,
        model: str,
        strategy: str = "auto",
        split: Sequence[int | str] | None = None,
        peers: Sequence[str] | None = None,
        weights: str = "pretrained",
        wire: str | None = None,
        goal: str = "latency",
        *,
        replicate: Sequence[float] | None = None,
        on_loss: OnLoss = "retry",
        timeout_s: float = LOAD_TIMEOUT_S,
        progress: Progress = quiet,
    ) -> Session:
        """Agree with the swarm how to run `model`, have every peer load its part, and give back a session.

        :param model: a name: `fashion-vit`, one of timm's or torchvision's, or one registered on the peers.
        :param strategy: `auto`, `local`, `slices`, `tokens`, `columns` or `partial`.
        :param split: block indices to cut before, or names of cuts.
        :param peers: names or ids; only these, in this order.
        :param weights: `pretrained`, `random:SEED`, or a safetensors file.
        :param wire: dtype of tensors between peers, float32 by default; `auto` takes float16 where that is faster.
        :param goal: what to be good at: `latency`, `throughput`, `memory`, or `survive=K`.
        :param replicate: for `partial`, the fraction of each block that this device holds besides its share: one for
            all blocks, or one for each.
        :param on_loss: what becomes of a request when a member of a group is lost: `retry` it, exactly, or `degrade`.
        :raises SwarmError: no plan was found or agreed on; the sentence says why.
        """
        wish = Wish(model, strategy, split, peers, weights, wire, goal, replicate, on_loss)
        return await self._sessions.load(wish, timeout_s, progress)

    async def plan(
        self,
        model: str,
        weights: str = "pretrained",
        wire: str | None = None,
        goal: str = "latency",
        *,
        replicate: Sequence[float] | None = None,
        on_loss: OnLoss = "retry",
        timeout_s: float = LOAD_TIMEOUT_S,
        progress: Progress = quiet,
    ) -> Contest:
        """Every way to run `model` now, with what each would cost and why it is not the best; nothing is loaded.

        The parameters are those of `load`, and so are the errors.
        """
        wish = Wish(model, "auto", None, None, weights, wire, goal, replicate, on_loss)
        return await self._sessions.plan(wish, timeout_s, progress)

    async def open(
        self, contest: Contest, candidate: Candidate, *, timeout_s: float = LOAD_TIMEOUT_S, progress: Progress = quiet
    ) -> Session:
        """A session that runs as this candidate says, for as long as that goes; to compare it with its prediction."""
        return await self._sessions.open(contest, candidate, timeout_s, progress)

    def _spawn(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> asyncio.Task[None]:
        return self._tasks.create_task(logged(work, *arguments))

    async def bench(self, models: Sequence[str] = (), *, progress: Progress = quiet) -> Bench:
        """Measure this device anew, its links, and the stages of models; seconds, up to a minute on a small device."""
        parts = self._portrait, self._ranging, self._workshop, self._holdings
        return await bench(*parts, self.view(), models, progress)

    async def _get_ready(self, others: Sequence[PeerId], takes_part: bool) -> None:
        """Know the ways to these peers, and how fast this device is if it may compute, before a plan is made."""
        await self._ranging.measure(others, TRY_LINKS_S)
        try:
            await (self._portrait.measured() if takes_part else self._portrait.rehearsed())
        except SwarmError as error:
            log.info("this device takes no part in plans: %s", error)

    # Beside

    @cached_property
    def _workshop(self) -> Workshop:
        from swarm.models.workshop import Workshop

        return Workshop(self._cache, self._models, self._device, self._threads)

    def _addresses_of(self, peer: PeerId) -> tuple[Address, ...]:
        record = self._membership.view().find(peer)
        return record.addresses if record else self._host.addresses_of(peer)
