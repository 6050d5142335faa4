"""All that a peer asks of this package, with the peer's own cache, device and model files filled in.

Importing it loads no torch: that happens in `warm` or `build`, in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from swarm.errors import Overloaded, SwarmError
from swarm.models import devices, speed, study, weights
from swarm.models.blueprint import Blueprint
from swarm.models.importance import asking, kept
from swarm.models.importance.kept import Importance
from swarm.models.inside import cutting
from swarm.models.kinds import representatives
from swarm.models.speed import Benchmark, speed_folder
from swarm.models.study import Progress
from swarm.models.timekeeper import InWorker, Timekeeper
from swarm.models.weights import Manifest
from swarm.plan import Part, Step
from swarm.types import RAW_PICTURE, Location

if TYPE_CHECKING:
    from swarm.models.inside.cutting import Importance as Ranking
    from swarm.models.inside.running import RunnableShard
    from swarm.models.parts import Array, RunnablePart
    from swarm.models.pool import Pool
    from swarm.workshop import Shards


MAX_STUDIES = 16
"""Models that may be studied or wait for it: others may name any number."""


class Workshop:
    """Studies models, resolves weights, builds parts; one for each peer."""

    def __init__(self, cache: Path, model_files: Sequence[Path], device: str, threads: int | None):
        self._cache = cache
        self._model_files = tuple(model_files)
        self._wish = device
        self._picked: str | None = None
        self._picking = Lock()
        self._threads = threads
        self._studies: dict[str, Blueprint] = {}
        self._running: dict[str, asyncio.Future[Blueprint | SwarmError]] = {}
        self._one_child = asyncio.Lock()
        self._pool: Pool | None = None
        self._timekeeper = Timekeeper(self._speed_folder, self._time_stage, self._time_call)

    async def study(self, model: str, progress: Progress | None = None) -> Blueprint:
        """A model's anatomy; the first time a child process finds it out, one child at a time.

        Who asks for the same model meanwhile gets the same outcome; if the first one is cancelled, the next takes over.
        Raises what `swarm.models.study` does, and `Overloaded` when too many models wait.
        """
        while model not in self._studies:
            if (running := self._running.get(model)) is None:
                return await self._studied(model, progress)
            await asyncio.wait([running])
            if not running.cancelled() and isinstance(outcome := running.result(), SwarmError):
                raise type(outcome)(str(outcome))
        return self._studies[model]

    async def _studied(self, model: str, progress: Progress | None) -> Blueprint:
        if len(self._running) >= MAX_STUDIES:
            raise Overloaded(f"{MAX_STUDIES} models wait to be studied here; try {model} again later.")
        running = self._running[model] = asyncio.get_running_loop().create_future()
        try:
            async with self._one_child:
                found = await study.study(model, model_files=self._model_files, cache=self._cache, progress=progress)
        except SwarmError as error:
            running.set_result(error)
            raise
        else:
            self._studies[model] = found
            running.set_result(found)
            return found
        finally:
            del self._running[model]
            running.cancel()  # nothing, if there is an outcome

    async def resolve(self, blueprint: Blueprint, source: str, progress: Progress | None = None) -> Manifest:
        """Where the weights that `source` names lie on this device. See `swarm.models.weights`."""
        return await weights.resolve(
            blueprint, source, cache=self._cache, model_files=self._model_files, progress=progress
        )

    async def benchmark(self, fresh: bool = False) -> Benchmark:
        """The sustained rates of this device; the first time, and when `fresh`, a child process measures them."""
        return await speed.benchmark(self._cache, await asyncio.to_thread(self.device), self._threads, fresh=fresh)

    def memory(self) -> tuple[int, int] | None:
        """Free and total bytes of the device in use; None where that is the CPU, or none has been picked yet."""
        return None if self._picked in (None, devices.CPU) else devices.memory(self._picked)

    def device(self) -> str:
        """Where parts run, such as `cuda:0`: what was wished for, chosen once. Blocks on torch's import.

        Raises `UsageError` when it is not here.
        """
        with self._picking:
            if self._picked is None:
                self._picked = devices.pick(self._wish)
            return self._picked

    def _speed_folder(self) -> Path:
        return speed_folder(self._cache, self.device(), self._threads)

    def kinds(self, blueprint: Blueprint) -> tuple[int, ...]:
        """Indices of the stages that stand for all: the first of each kind."""
        return representatives(blueprint.profile.stages)

    def stage_s(self, blueprint: Blueprint) -> tuple[float, ...] | None:
        """Seconds of one sample in each stage on this device; None unless `time_stages` has found them, once."""
        return self._timekeeper.stage_s(blueprint.profile)

    async def time_stages(
        self, blueprint: Blueprint, in_worker: InWorker, free_bytes: int | None = None
    ) -> tuple[float, ...] | None:
        """The same; what is unknown is measured in the worker thread, one kind of stage at a time, without weights.

        None where that is impossible: see `swarm.models.timekeeper`.
        """
        return await self._timekeeper.time_stages(blueprint, in_worker, free_bytes)

    def learn(self, part: Part, rows: int, seconds: float) -> None:
        """A real run of a part with so many samples took so long; `stage_s` follows. Called in the worker thread."""
        self._timekeeper.learn(part, rows, seconds)

    def _time_stage(self, blueprint: Blueprint, index: int) -> float | None:
        from swarm.models import timing

        self._prepare()
        return timing.stage_s(blueprint, index, self.device())

    def _time_call(self) -> float:
        from swarm.models import timing

        self._prepare()
        return timing.call_s(self.device())

    def warm(self) -> None:
        """Load torch, so that the first part need not, and the figures of this device. Blocks for seconds."""
        import swarm.models.assembly  # noqa: F401

        self._timekeeper.recall()
        self._prepare()

    def build(
        self, blueprint: Blueprint, part: Part, digests: Sequence[str], locate: Callable[[str], Location]
    ) -> RunnablePart:
        """Load a part into memory, with those tensors of its model that are there already. Blocks on the disk, and on
        torch's import. Raises what `swarm.models.assembly.build` does, and `UsageError` for a device that is not here.
        """
        from swarm.models.assembly import build

        self._prepare()
        built = build(
            blueprint,
            part,
            locate,
            digests,
            device=self.device(),
            model_files=self._model_files,
            pool=self._shared(),
        )
        self._timekeeper.built(blueprint.profile, part)
        return built

    def shard(
        self, blueprint: Blueprint, part: Part, digests: Sequence[str], locate: Callable[[str], Location]
    ) -> RunnableShard:
        """The same for a part with a shard."""
        from swarm.models.assembly import build_shard

        self._prepare()
        return build_shard(blueprint, part, locate, digests, device=self.device(), pool=self._shared())

    def _shared(self) -> Pool:
        from swarm.models.pool import Pool

        if self._pool is None:
            self._pool = Pool()
        return self._pool

    async def cut(
        self, blueprint: Blueprint, manifest: Manifest, step: Step, importance: Ranking | None = None
    ) -> Shards:
        """The tensors of a group's members, cut in a thread; the same cut again is read from the cache. See
        `swarm.models.inside.cutting`. Raises `CannotSplit`."""
        return await cutting.cut(blueprint, manifest, step, importance, self._cache)

    async def importance(self, blueprint: Blueprint, manifest: Manifest) -> Importance | None:
        """What `measure_importance` found of this anatomy and these very weights; None where nothing is kept."""
        return await asyncio.to_thread(kept.found, self._cache, blueprint, manifest)

    async def measure_importance(
        self,
        blueprint: Blueprint,
        manifest: Manifest,
        data: Path,
        samples: int,
        batch: int,
        progress: Progress | None = None,
    ) -> Importance:
        """Score every head and neuron on labelled pictures, in a child process. See `swarm.models.importance`."""
        return await asking.ask(
            blueprint,
            manifest,
            data,
            samples=samples,
            batch=batch,
            cache=self._cache,
            model_files=self._model_files,
            threads=self._threads,
            progress=progress,
        )

    def interpreter(self, blueprint: Any) -> Interpreter:
        return Interpreter(blueprint)

    def _prepare(self) -> None:
        devices.be_exact()
        if self._threads is not None:
            import torch

            torch.set_num_threads(self._threads)


class Interpreter:
    """Pictures in, labels out, as one model's own configuration says."""

    def __init__(self, blueprint: Blueprint):
        self._blueprint = blueprint

    def ready(self, x: Any) -> Array | None:
        """`input` for what is an array already; None for pictures."""
        if hasattr(x, "__array_interface__") and hasattr(x, "astype"):  # PIL pictures have only the first
            return np.ascontiguousarray(x, None if x.dtype == RAW_PICTURE else np.float32)
        return None

    async def input(self, x: Any) -> Array:
        """The model's input `[B, C, H, W]` from an array of that shape, one picture, or a list of them.

        Pictures, and arrays of uint8, stay the pixels that they are: the part that takes them normalises them. Other
        arrays become float32 and are taken as they are.
        """
        if (array := self.ready(x)) is not None:
            return array
        from swarm.models import pictures

        several = list(x) if isinstance(x, (list, tuple)) else [x]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pictures.DECODERS, pictures.load, several, self._blueprint.pictures)

    def check(self, output: Array) -> None:
        """Raises `SwarmError` for an output that is not a number."""
        from swarm.models import pictures

        pictures.check(output)

    def labels(self, output: Array, k: int = 5) -> list[list[tuple[str, float]]]:
        """For each sample the `k` likeliest classes, best first."""
        from swarm.models import pictures

        return pictures.top_labels(output, self._blueprint.labels, k)
