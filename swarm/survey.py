"""What one sample of a model takes in each of its stages, asked of the peers that could run it.

Each peer measures the stages itself, with random parameters, before it holds any (see `models/timing.py`), keeps the
figures, and corrects them by what its real runs take.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from swarm import schema
from swarm.errors import SwarmError
from swarm.exchange import Caller, Exchange
from swarm.holdings import Holdings
from swarm.transport import Call, Reply, Router
from swarm.types import Digest, Name, PeerId, Seconds
from swarm.workshop import Blueprint, Workshop


@dataclass(frozen=True, slots=True)
class _Question:
    model: Name
    anatomy: Digest


@dataclass(frozen=True, slots=True)
class _Timings:
    """Empty where they could not be measured."""

    stage_s: Annotated[tuple[Seconds, ...], Meta(max_length=4096)] = ()


class Survey:
    """Asks others, and answers them."""

    def __init__(self, exchange: Exchange, workshop: Callable[[], Workshop], holdings: Holdings) -> None:
        self._exchange = exchange
        self._workshop = workshop
        self._holdings = holdings

    def register(self, router: Router) -> None:
        router.add("timings", self._answer)

    async def ask(
        self, blueprint: Blueprint, peers: Iterable[PeerId], timeout_s: float
    ) -> Mapping[PeerId, tuple[float, ...]]:
        """The stage times of those peers that answer in time; those that cannot say are left out."""
        chosen = tuple(peers)
        found = await asyncio.gather(*(self._one(blueprint, peer, timeout_s) for peer in chosen))
        stages = len(blueprint.profile.stages)
        return {peer: times for peer, times in zip(chosen, found, strict=True) if len(times) == stages}

    async def _one(self, blueprint: Blueprint, peer: PeerId, timeout_s: float) -> tuple[float, ...]:
        question = _Question(blueprint.profile.name, blueprint.profile.digest)
        try:
            reply = await self._exchange.request(peer, "timings", schema.pack(question), timeout_s=timeout_s)
            return schema.unpack(_Timings, reply.fields).stage_s
        except SwarmError:
            return ()

    async def _answer(self, _caller: Caller, call: Call) -> Reply:
        question = schema.unpack(_Question, call.fields)
        blueprint = await self._workshop().study(question.model)
        if blueprint.profile.digest != question.anatomy:
            return Reply(schema.pack(_Timings()))
        holdings = self._holdings
        times = await self._workshop().time_stages(blueprint, holdings.batcher.in_worker, holdings.free_bytes)
        return Reply(schema.pack(_Timings(times or ())))
