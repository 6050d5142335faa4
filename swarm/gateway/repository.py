"""The models that this gateway serves, by name: which are loaded, on their way, or failed; a session for each.

load ─▶ LOADING ─▶ READY ─▶ UNLOADING (requests end first) ─▶ gone
            └─▶ UNAVAILABLE, with the reason; loading again begins anew
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic_ns, time_ns
from typing import Any, Final

from swarm.background import logged
from swarm.errors import DeadlineExceeded, Overloaded, PeerError, SwarmError, UsageError
from swarm.gateway.protocol import VERSION
from swarm.gateway.signature import Signature
from swarm.peer import Peer
from swarm.session import Session

MAX_MODELS: Final = 32
DRAIN_S: Final = 60.0
"""How long requests of a model that is being unloaded may still take."""
RETRY_S, MAX_RETRY_S = 2.0, 60.0
"""Until a model that is to be served is tried again, where the others were the reason; it doubles."""
_WEIGHTS: Final = re.compile(r"pretrained|random:\d{1,18}")


class State(StrEnum):
    """Triton's words."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Wish:
    """How a model is to be loaded. `weights` never names a file: who asks over HTTP has no business on this disk."""

    strategy: str = "auto"
    goal: str = "latency"
    weights: str = "pretrained"

    def check(self) -> None:
        """Raise `UsageError` for weights from elsewhere."""
        if not _WEIGHTS.fullmatch(self.weights):
            raise UsageError("Over HTTP the weights are 'pretrained' or 'random:SEED'; files stay on the device.")


class Model:
    """One name in the repository, and what was asked of it."""

    def __init__(self, name: str, wish: Wish) -> None:
        self.name = name
        self.wish = wish
        self.state = State.LOADING
        self.reason = ""
        self.session: Session | None = None
        self.signature: Signature | None = None
        self.error: SwarmError | None = None
        self.loading: asyncio.Task[None] | None = None
        self.closing: asyncio.Task[None] | None = None
        self.answered = self.failed = 0
        self.answered_ns = self.failed_ns = 0
        self.last_ms = 0
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self) -> int:
        """A request is being answered: it is waited for before the session is closed. What comes back is for `end`."""
        self._in_flight += 1
        self._idle.clear()
        return monotonic_ns()

    def end(self, began_ns: int, *, answered: bool) -> None:
        took_ns = monotonic_ns() - began_ns
        if answered:
            self.answered += 1
            self.answered_ns += took_ns
        else:
            self.failed += 1
            self.failed_ns += took_ns
        self.last_ms = time_ns() // 1_000_000
        self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()

    async def drained(self, timeout_s: float) -> None:
        """Until no request is being answered, or it took too long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return


class Repository:
    """All models of one gateway. `async with` ends what still loads and closes every session."""

    def __init__(self, peer: Peer, *, most: int = MAX_MODELS, drain_s: float = DRAIN_S) -> None:
        self._peer = peer
        self._most = most
        self._drain_s = drain_s
        self._models: dict[str, Model] = {}
        self._kept: set[str] = set()
        """Models that are loaded again and again until they are there, or somebody unloads them."""
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Repository:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await self._group.__aexit__(None, None, None)
        sessions = [model.session for model in self._models.values() if model.session is not None]
        self._models.clear()
        await asyncio.gather(*(session.aclose() for session in sessions))

    async def farewell(self, grace_s: float) -> None:
        """Requests may come to their ends for a while; those that are left then hear that this server leaves."""
        loaded = [model for model in self._models.values() if model.session is not None]
        await asyncio.gather(*(model.drained(grace_s) for model in loaded))
        await asyncio.gather(*(model.session.aclose() for model in loaded if model.session is not None))

    def models(self) -> Sequence[Model]:
        """Sorted by name."""
        return sorted(self._models.values(), key=lambda model: model.name)

    def index(self) -> list[dict[str, str]]:
        """The protocol's repository index."""
        return [
            {"name": model.name, "version": VERSION, "state": model.state.value, "reason": model.reason}
            for model in self.models()
        ]

    def find(self, name: str) -> Model | None:
        """Whatever its state."""
        return self._models.get(name)

    def is_ready(self, name: str) -> bool:
        model = self._models.get(name)
        return model is not None and model.state is State.READY

    async def load(self, name: str, wish: Wish) -> None:
        """Until the model is loaded; who asks for the same meanwhile waits for the same. If the caller is cancelled,
        the load goes on.

        :raises UsageError: it is here with another wish, or the wish cannot be.
        :raises Overloaded: too many models are loaded.
        :raises SwarmError: what `Peer.load` raises.
        """
        model = self._models.get(name)
        if model is None or model.state is State.UNAVAILABLE:
            model = self._begin(name, wish)
        elif model.state is State.UNLOADING:
            raise Overloaded(f"{name} is being unloaded; load it when that is done.")
        elif model.wish != wish:
            raise UsageError(f"{name} is {model.state.value.lower()} with other parameters; unload it first.")
        if model.loading is not None:
            await asyncio.wait([model.loading])
        if model.error is not None:
            raise type(model.error)(str(model.error))
        if model.state is not State.READY:
            raise PeerError(f"{name} was not loaded: {model.reason}")

    async def unload(self, name: str) -> bool:
        """Until the model's requests have ended and its session is closed. False when there is no such model."""
        model = self._models.get(name)
        if model is None:
            return False
        self._kept.discard(name)
        if model.loading is not None:
            model.loading.cancel()
            await asyncio.wait([model.loading])
        if model.closing is None:
            model.state = State.UNLOADING
            model.closing = self._spawn(self._close, model)
        await asyncio.wait([model.closing])
        return True

    async def keep(
        self, name: str, wish: Wish, on_problem: Callable[[str], None], on_failed: Callable[[SwarmError], None]
    ) -> None:
        """Load a model that is to be served, again and again while it is others that are missing."""
        wait_s = RETRY_S
        self._kept.add(name)
        while name in self._kept:
            try:
                await self.load(name, wish)
            except (PeerError, DeadlineExceeded) as error:
                on_problem(f"{name} is not served yet, and tried again: {error}")
            except SwarmError as error:
                on_failed(error)
                return
            else:
                return
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, MAX_RETRY_S)

    def _begin(self, name: str, wish: Wish) -> Model:
        wish.check()
        if sum(model.state is not State.UNAVAILABLE for model in self._models.values()) >= self._most:
            raise Overloaded(f"{self._most} models are loaded; unload one, then load {name}.")
        self._models.pop(name, None)
        failed = [model.name for model in self._models.values() if model.state is State.UNAVAILABLE]
        if len(failed) >= self._most:  # others name them: only so many reasons are remembered
            del self._models[failed[0]]
        model = self._models[name] = Model(name, wish)
        model.loading = self._spawn(self._load, model)
        return model

    async def _load(self, model: Model) -> None:
        wish = model.wish
        try:
            session = await self._peer.load(model.name, wish.strategy, goal=wish.goal, weights=wish.weights)
            model.session, model.signature = session, Signature.of(model.name, session.plan)
            model.state = State.READY
        except SwarmError as error:
            model.error, model.reason = error, str(error)
        finally:
            model.loading = None
            if model.state is State.LOADING:
                model.state, model.reason = State.UNAVAILABLE, model.reason or "It was unloaded, or loading it failed."

    async def _close(self, model: Model) -> None:
        try:
            await model.drained(self._drain_s)
        finally:
            if model.session is not None:
                await model.session.aclose()
            if self._models.get(model.name) is model:
                del self._models[model.name]

    def _spawn(self, work: Callable[[Model], Awaitable[None]], model: Model) -> asyncio.Task[None]:
        task = self._group.create_task(logged(work, model))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
