"""What one sample of a model takes in each of its stages, asked of the peers that could run it.

Each peer measures the stages itself, with random parameters, before it holds any (see `models/timing.py`), keeps the
figures, and corrects them by what its real runs take.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from swarm import schema
from swarm.errors import SwarmError
from swarm.exchange import Caller, Exchange
from swarm.holdings import Holdings
from swarm.transport import Call, Reply, Router
from swarm.types import Digest, ModelProfile, Name, PeerId, Seconds
from swarm.workshop import Blueprint, Workshop

log = logging.getLogger(__name__)

MAX_WORKS = 4
"""Models that are studied and timed here at once, whoever asked; there is one worker for all of them."""
FASTEST_FLOPS_PER_S = 1e17


@dataclass(frozen=True, slots=True)
class _Question:
    model: Name
    anatomy: Digest


@dataclass(frozen=True, slots=True)
class _Timings:
    """Empty where they could not be measured."""

    stage_s: Annotated[tuple[Seconds, ...], Meta(max_length=4096)] = ()


class Survey:
    """Asks others, and answers them. `aclose` ends what is still being timed for them."""

    def __init__(self, exchange: Exchange, workshop: Callable[[], Workshop], holdings: Holdings) -> None:
        self._exchange = exchange
        self._workshop = workshop
        self._holdings = holdings
        self._works: dict[str, asyncio.Task[tuple[str, tuple[float, ...]] | None]] = {}

    def register(self, router: Router) -> None:
        router.add("timings", self._answer)

    async def ask(
        self, blueprint: Blueprint, peers: Iterable[PeerId], timeout_s: float
    ) -> Mapping[PeerId, tuple[float, ...]]:
        """The stage times of those peers that answer in time; those that cannot say are left out."""
        chosen = tuple(peers)
        found = await asyncio.gather(*(self._one(blueprint, peer, timeout_s) for peer in chosen))
        pairs = zip(chosen, found, strict=True)
        return {peer: times for peer, times in pairs if _is_credible(times, blueprint.profile)}

    async def _one(self, blueprint: Blueprint, peer: PeerId, timeout_s: float) -> tuple[float, ...]:
        question = _Question(blueprint.profile.name, blueprint.profile.digest)
        try:
            reply = await self._exchange.request(peer, "timings", schema.pack(question), timeout_s=timeout_s)
            return schema.unpack(_Timings, reply.fields).stage_s
        except SwarmError as error:
            log.info("%s does not tell how fast it runs %s: %s", peer[:8], question.model, error)
            return ()

    async def _answer(self, _caller: Caller, call: Call) -> Reply:
        """What is known, or comes to be known while the caller waits. The work goes on when nobody waits any more: a
        small device that takes a minute to study a model must not begin anew at every question."""
        question = schema.unpack(_Question, call.fields)
        work = self._works.get(question.model)
        if work is None:
            if len(self._works) >= MAX_WORKS:
                return Reply(schema.pack(_Timings()))
            work = self._works[question.model] = asyncio.create_task(self._work(question.model))
            work.add_done_callback(lambda _: self._works.pop(question.model, None))
        await asyncio.wait({work}, timeout=call.remaining_s())
        if not work.done() or work.cancelled() or (found := work.result()) is None:
            return Reply(schema.pack(_Timings()))
        anatomy, times = found
        return Reply(schema.pack(_Timings(times if anatomy == question.anatomy else ())))

    async def _work(self, model: str) -> tuple[str, tuple[float, ...]] | None:
        """The model's anatomy and times; None where it cannot be studied or timed here."""
        try:
            blueprint = await self._workshop().study(model)
            holdings = self._holdings
            times = await self._workshop().time_stages(blueprint, holdings.batcher.in_worker, holdings.free_bytes)
        except SwarmError as error:
            log.info("%s is not timed: %s", model, error)
            return None
        return None if times is None else (blueprint.profile.digest, times)

    async def aclose(self) -> None:
        """End what is being timed."""
        works = list(self._works.values())
        for work in works:
            work.cancel()
        if works:
            await asyncio.wait(works)


def _is_credible(times: Sequence[float], profile: ModelProfile) -> bool:
    """One for each stage, and no faster than anything that computes."""
    return (
        len(times) == len(profile.stages)
        and all(seconds > 0 for seconds in times)
        and sum(times) >= sum(stage.flops for stage in profile.stages) / FASTEST_FLOPS_PER_S
    )
