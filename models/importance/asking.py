"""The parent's side: have a child process measure, tell how far it is, and keep what it found."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from swarm.errors import SwarmError
from swarm.models import job
from swarm.models.blueprint import Blueprint
from swarm.models.importance.kept import Importance, place
from swarm.models.importance.order import RESULT_FILE, Order, told
from swarm.models.study import Progress
from swarm.models.weights import Manifest

POLL_S = 0.2
KIND = "importance"


async def ask(
    blueprint: Blueprint,
    manifest: Manifest,
    data: Path,
    *,
    samples: int,
    batch: int,
    cache: Path,
    model_files: Sequence[Path] = (),
    threads: int | None = None,
    progress: Progress | None = None,
) -> Importance:
    """Measured anew, and kept in the cache for this anatomy and these weights.

    Raises `BadInput` for data that do not fit, `CannotSplit` for a model without blocks. Cancelling kills the child.
    """
    order = Order.of(blueprint, manifest, data, samples, batch, threads)
    folder = await asyncio.to_thread(_workplace, cache, order)
    try:
        await _run(blueprint.profile.name, folder, model_files, progress)
        return await asyncio.to_thread(_taken, folder, cache, blueprint, manifest)
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))


async def _run(model: str, folder: Path, model_files: Sequence[Path], progress: Progress | None) -> None:
    problem: SwarmError | None = None
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_watch(folder, progress))
        try:
            await job.run(KIND, model, folder, model_files)
        except SwarmError as error:
            problem = error  # raised below: a group would wrap it
        finally:
            watching.cancel()
    if problem is not None:
        raise problem


async def _watch(folder: Path, progress: Progress | None) -> None:
    while progress is not None:
        if (at := await asyncio.to_thread(told, folder)) is not None:
            progress(at.what, at.fraction)
        await asyncio.sleep(POLL_S)


def _workplace(cache: Path, order: Order) -> Path:
    (cache / KIND).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=cache / KIND, prefix=".measuring-"))
    order.save(folder)
    return folder


def _taken(folder: Path, cache: Path, blueprint: Blueprint, manifest: Manifest) -> Importance:
    importance = Importance.load(folder / RESULT_FILE).of(blueprint, manifest)
    importance.save(place(cache, blueprint, manifest))
    return importance
