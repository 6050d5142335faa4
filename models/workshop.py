"""All that a peer asks of this package, with the peer's own cache, device and model files filled in.

Importing it loads no torch: that happens in `warm` or `build`, in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swarm.errors import Overloaded, SwarmError
from swarm.models import speed, study, weights
from swarm.models.blueprint import Blueprint
from swarm.models.study import Progress
from swarm.models.weights import Manifest
from swarm.plan import Part
from swarm.types import Location

if TYPE_CHECKING:
    from swarm.models.parts import Array, RunnablePart


MAX_STUDIES = 16
"""Models that may be studied or wait for it: others may name any number."""


class Workshop:
    """Studies models, resolves weights, builds parts; one for each peer."""

    def __init__(self, cache: Path, model_files: Sequence[Path], device: str, threads: int | None):
        self._cache = cache
        self._model_files = tuple(model_files)
        self._device = device
        self._threads = threads
        self._studies: dict[str, Blueprint] = {}
        self._running: dict[str, asyncio.Future[Blueprint | SwarmError]] = {}
        self._one_child = asyncio.Lock()

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

    async def flops_per_s(self) -> float:
        """Float32 operations per second of this device; the first time a child process measures it."""
        return await speed.measured_flops(self._cache, self._device, self._threads)

    def warm(self) -> None:
        """Load torch, so that the first part need not. Blocks for seconds."""
        import swarm.models.parts  # noqa: F401

        self._set_threads()

    def build(
        self, blueprint: Blueprint, part: Part, digests: Sequence[str], locate: Callable[[str], Location]
    ) -> RunnablePart:
        """Load a part into memory. Blocks on the disk, and on torch's import."""
        from swarm.models.parts import build

        self._set_threads()
        return build(blueprint, part, locate, digests, device=self._device, model_files=self._model_files)

    def interpreter(self, blueprint: Any) -> Interpreter:
        return Interpreter(blueprint)

    def _set_threads(self) -> None:
        if self._threads is not None:
            import torch

            torch.set_num_threads(self._threads)


class Interpreter:
    """Pictures in, labels out, as one model's own configuration says."""

    def __init__(self, blueprint: Blueprint):
        self._blueprint = blueprint

    async def input(self, x: Any) -> Array:
        """The model's input `[B, C, H, W]` from an array of that shape, one picture, or a list of them."""
        if hasattr(x, "__array_interface__") and hasattr(x, "astype"):  # an array; PIL pictures have only the first
            return np.ascontiguousarray(x, dtype=np.float32)
        from swarm.models import pictures

        several = list(x) if isinstance(x, (list, tuple)) else [x]
        return await asyncio.to_thread(pictures.load, several, self._blueprint.pictures)

    def labels(self, output: Array, k: int = 5) -> list[list[tuple[str, float]]]:
        """For each sample the `k` likeliest classes, best first."""
        from swarm.models import pictures

        return pictures.top_labels(output, self._blueprint.labels, k)
