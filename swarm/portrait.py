"""What this peer says of itself: measured once, told to the swarm, kept up to date.

workshop.benchmark ─▶ rates ┐
rehearsal, measure ─▶ costs ├─▶ PeerProfile ─▶ gossip
Ranging ─▶ links            │
holdings ─▶ free memory ────┘
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from swarm import measure
from swarm.background import in_daemon_thread
from swarm.errors import SwarmError
from swarm.holdings import Holdings
from swarm.rehearsal import rehearse
from swarm.types import Link, PeerId, PeerProfile

LOOK_EVERY_S: Final = 10.0


class Speed(Protocol):
    """How fast a device computes."""

    @property
    def flops_per_s(self) -> Mapping[str, float]: ...
    @property
    def memory_bytes_per_s(self) -> float: ...


class Bench(Protocol):
    """What measures it."""

    async def benchmark(self, fresh: bool) -> Speed: ...
    def device(self) -> str:
        """Where parts run. Blocks for seconds."""

    def memory(self) -> tuple[int, int] | None:
        """Free and total bytes of that, where it has memory of its own."""

    def warm(self) -> None:
        """Load what computes. Blocks for seconds."""


class Portrait:
    """The owner of this peer's profile and load. `tell` takes changes of its record, as `Gossip.update` does."""

    def __init__(
        self,
        name: str,
        profile: PeerProfile,
        holdings: Holdings,
        workshop: Callable[[], Bench],
        tell: Callable[..., None],
        on_problem: Callable[[str], None],
    ) -> None:
        self._name = name
        self._profile = profile
        self._holdings = holdings
        self._work = measure.Work(holdings.batcher)
        self._workshop = workshop
        self._tell = tell
        self._on_problem = on_problem
        self._is_measured = False
        self._is_rehearsed = False
        self._measuring = asyncio.Lock()

    async def keep(self) -> None:
        """Tell the swarm how fast this device is and what memory is free, until cancelled; load torch before it is
        needed. A device that cannot compute stays as a client: it may ask, and nobody plans with it."""
        try:
            await self._warm()
            await self.measured()
        except SwarmError as error:
            self._on_problem(f"Nobody will plan with this peer. {error}")
            self._tell(client=True)
            return
        while True:
            self._profile = measure.with_free_memory(self._profile, self._holdings.free_bytes)
            self._tell(profile=self._profile, load=self._work.load(self._holdings.loading))
            await asyncio.sleep(LOOK_EVERY_S)

    async def measured(self, *, fresh: bool = False) -> PeerProfile:
        """This device's profile with all its rates, told to the swarm. They are measured when this device was not
        measured yet, or `fresh` wants it.

        Callers at the same time share one measurement, which takes seconds the first time on a device. A client calls
        it before it plans. Raises `SwarmError` when the device cannot compute.
        """
        await self.rehearsed(fresh=fresh)
        async with self._measuring:
            if fresh or not self._is_measured:
                self._change(**await self._rates(fresh))
                self._is_measured = True
        return self._profile

    async def rehearsed(self, *, fresh: bool = False) -> PeerProfile:
        """The same, but only with what asking and a step cost: for who asks and does not compute."""
        async with self._measuring:
            if fresh or not self._is_rehearsed:
                ask_s, step_s = await rehearse()
                self._change(ask_s=ask_s, step_s=step_s)
                self._is_rehearsed = True
        return self._profile

    def links_changed(self, links: Mapping[PeerId, Link]) -> None:
        """Tell these links instead of those told so far."""
        self._change(links=links)

    async def _warm(self) -> None:
        try:
            workshop = await asyncio.to_thread(self._workshop)  # importing it reads files
            await in_daemon_thread(workshop.warm)
        except (ImportError, OSError, RuntimeError) as error:
            raise self._cannot_compute(error) from error

    def progressed(self) -> None:
        """Tell what is being loaded; call it when that has changed."""
        self._tell(load=self._work.now(self._holdings.loading))

    async def _rates(self, fresh: bool) -> dict[str, Any]:
        try:
            workshop = await asyncio.to_thread(self._workshop)
            speed = await workshop.benchmark(fresh)
            device = await asyncio.to_thread(workshop.device)
        except (SwarmError, ImportError, OSError, RuntimeError) as error:
            raise self._cannot_compute(error) from error
        self._holdings.memory = workshop.memory
        own = workshop.memory()
        return ({} if own is None else {"memory_total_bytes": own[1]}) | {
            "device": device,
            "flops_per_s": dict(speed.flops_per_s),
            "memory_bytes_per_s": speed.memory_bytes_per_s,
            "wire_elements_per_s": await measure.coding_rates(self._holdings.batcher.in_worker),
        }

    def _change(self, **fields: Any) -> None:
        self._profile = replace(self._profile, **fields)
        self._tell(profile=self._profile)

    def _cannot_compute(self, error: Exception) -> SwarmError:
        return SwarmError(f"{self._name} cannot compute on {self._profile.device}: {error}")
