"""Who knows how long each stage of each model takes on this device: asks for what is missing, keeps it, and learns.

    time_stages ─▶ known kinds from the cache ─▶ missing ones, one at a time, in the worker thread ─▶ the cache
    learn ◀─ every real run of a part

Peers on one machine share the cache, and measure one after another so as not to slow each other down.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import psutil

from swarm.models.blueprint import Blueprint
from swarm.models.child import move_into_place
from swarm.models.kinds import representatives
from swarm.models.pace import Measured, Pace
from swarm.models.study import locked
from swarm.plan import INPUT, Part
from swarm.types import ModelProfile

log = logging.getLogger(__name__)

STAGES_FILE = "stages.json"
MAX_RUNS = 512
STALE_S = 20.0
"""After so long without a real run nobody knows how fast this device is now."""
LONG_S = 0.01
"""A stage that is timed anew takes as long as this, if there is one: longer ones would hold up the worker."""

InWorker = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs what blocks in the peer's one worker thread."""


@dataclass(slots=True)
class _Run:
    """The stages of a part, by kind, and whether it has run before."""

    kinds: Counter[str]
    is_warm: bool = False


class Timekeeper:
    """One for each peer, used in its event loop; only `built` and `learn` belong to the worker thread.

    :param folder: where figures of this hardware lie; called in a thread.
    :param stage_s: times the stage of that index in the worker thread; None if it cannot be timed.
    :param call_s: times a part that computes nothing, in the worker thread.
    """

    def __init__(
        self,
        folder: Callable[[], Path],
        stage_s: Callable[[Blueprint, int], float | None],
        call_s: Callable[[], float],
        clock: Callable[[], float] = monotonic,
    ):
        self._folder = folder
        self._time_stage = stage_s
        self._time_call = call_s
        self._pace = Pace()
        self._untimed: set[str] = set()
        self._runs: dict[tuple[str, str, str], _Run] = {}
        self._measuring = asyncio.Lock()
        self._clock = clock
        self._learned_at = clock()

    def recall(self) -> None:
        """Read what was measured here before. Blocks on the disk, so call it in a thread."""
        self._take(_read(self._folder()))

    def stage_s(self, profile: ModelProfile) -> tuple[float, ...] | None:
        """Seconds of one sample in each stage, as real runs have it by now; None unless every kind is known."""
        return self._pace.stage_s([stage.kind for stage in profile.stages])

    async def time_stages(
        self, blueprint: Blueprint, in_worker: InWorker, free_bytes: int | None = None
    ) -> tuple[float, ...] | None:
        """The same, once what is unknown has been measured; None for a model without a graph, and for one with a stage
        that does not fit into `free_bytes` (the machine's free memory by default) or does not run on made-up values.

        Callers wait for each other, and the next finds what the one before has measured, even if that was cancelled.
        """
        if blueprint.graph is None:
            return None
        async with self._measuring:
            if self._missing(blueprint.profile):
                folder = await asyncio.to_thread(self._folder)
                async with locked(folder):
                    self._take(await asyncio.to_thread(_read, folder))  # another peer may have been here
                    await self._measure(blueprint, in_worker, free_bytes)
                    await asyncio.to_thread(_write, folder, self._pace.measured)
                self._learned_at = self._clock()
            elif self._clock() - self._learned_at > STALE_S:
                await self._look_again(blueprint, in_worker)
        return self.stage_s(blueprint.profile)

    async def _measure(self, blueprint: Blueprint, in_worker: InWorker, free_bytes: int | None) -> None:
        stages = blueprint.profile.stages
        free = psutil.virtual_memory().available if free_bytes is None else free_bytes
        missing = self._missing(blueprint.profile)
        if any(stages[index].parameter_bytes + stages[index].working_bytes > free for index in missing):
            log.info("%s has a stage that does not fit into free memory, so it is not timed", blueprint.profile.name)
            return
        call_s = known.call_s if (known := self._pace.measured) else await in_worker(self._time_call)
        for index in missing:
            seconds = await in_worker(partial(self._time_stage, blueprint, index))
            if seconds is None:
                self._untimed.add(stages[index].kind)
                return
            self._pace.take(Measured(call_s, {stages[index].kind: seconds}))

    async def _look_again(self, blueprint: Blueprint, in_worker: InWorker) -> None:
        """The device may have got busy, or free, since it last ran anything: time one stage anew."""
        stages, known = blueprint.profile.stages, self.stage_s(blueprint.profile)
        if known is None:
            return
        self._learned_at = self._clock()
        longest = max(known)
        index = min(range(len(stages)), key=lambda i: (known[i] < min(LONG_S, longest), known[i], i))
        seconds = await in_worker(partial(self._time_stage, blueprint, index))
        if seconds is not None:
            self._pace.probed(stages[index].kind, seconds)

    def _missing(self, profile: ModelProfile) -> list[int]:
        """Stages to time; none if one of the model's cannot be, for the others would be of no use."""
        if any(stage.kind in self._untimed for stage in profile.stages):
            return []
        unknown = set(self._pace.unknown(stage.kind for stage in profile.stages))
        return [index for index in representatives(profile.stages) if profile.stages[index].kind in unknown]

    def _take(self, measured: Measured | None) -> None:
        if measured is not None:
            self._pace.take(measured)

    def built(self, profile: ModelProfile, part: Part) -> None:
        """A part is in memory, about to run for the first time. Called where `learn` is."""
        if len(self._runs) >= MAX_RUNS:
            del self._runs[next(iter(self._runs))]
        self._runs[part.anatomy, part.start, part.end] = _Run(_kinds_of(profile, part))

    def learn(self, part: Part, rows: int, seconds: float) -> None:
        """A real run of a part that was built took so long; call it for each, in the worker thread. Takes microseconds.

        Runs of several rows teach nothing, since what they save depends on the device. Nor does a part's first run,
        which brings its weights from the disk.
        """
        run = self._runs.get((part.anatomy, part.start, part.end))
        if rows != 1 or run is None or part.shard is not None:
            return
        if run.is_warm:
            self._pace.learn(run.kinds, seconds)
            self._learned_at = self._clock()
        run.is_warm = True


def _kinds_of(profile: ModelProfile, part: Part) -> Counter[str]:
    names = [INPUT, *(stage.name for stage in profile.stages)]
    first, last = names.index(part.start), names.index(part.end)
    return Counter(stage.kind for stage in profile.stages[first:last])


def _read(folder: Path) -> Measured | None:
    """None when there is nothing, or when it is damaged: then it is measured again."""
    try:
        return msgspec.json.decode((folder / STAGES_FILE).read_bytes(), type=Measured)
    except (OSError, msgspec.MsgspecError):
        return None


def _write(folder: Path, measured: Measured | None) -> None:
    if measured is not None:
        move_into_place(folder / STAGES_FILE, msgspec.json.encode(measured))
