"""Learn a model's anatomy in a child process, once for all peers on a machine.

A study needs timm and torch.export, several hundred megabytes that a peer must not carry. The child leaves plain data
in the cache; peers that want the same study wait for the first one's lock and then read it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache as remember
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout

from swarm.errors import DeadlineExceeded, WeightsError
from swarm.models import job
from swarm.models.blueprint import Blueprint
from swarm.models.catalogue import check_name
from swarm.models.registry import entry_points
from swarm.models.source import code_digest, library_versions

Progress = Callable[[str, float | None], None]
"""Told what is being done, and how much of it is done, from 0 to 1 or None."""

_POLL_S = 0.05


async def study(
    model: str,
    *,
    model_files: Sequence[Path] = (),
    cache: Path,
    timeout_s: float = 300,
    progress: Progress | None = None,
) -> Blueprint:
    """The anatomy of a model, from the cache or from a child process that this call starts and, if cancelled, kills.

    Raises `UnknownModel` with names that look alike, `UsageError` for a model file that does not load,
    `DeadlineExceeded` after `timeout_s`. A model that cannot be cut is no error: see `profile.uncut_reason`.
    """
    check_name(model)
    folder = await asyncio.to_thread(_folder, model, model_files, cache)
    if (found := await asyncio.to_thread(_stored, folder)) is not None:
        return found
    if progress is not None:
        progress(f"Studying {model}", None)
    try:
        async with asyncio.timeout(timeout_s), locked(folder):
            if await asyncio.to_thread(_stored, folder) is None:  # nobody did it meanwhile
                await job.run("study", model, folder, model_files)
    except TimeoutError as error:
        raise DeadlineExceeded(f"Studying {model} took longer than {timeout_s:g} s; try again later.") from error
    return await asyncio.to_thread(Blueprint.load, folder)


def _folder(model: str, model_files: Sequence[Path], cache: Path) -> Path:
    return cache / "studies" / f"{model.replace('/', '_')}-{_key(model, model_files)}"


def _stored(folder: Path) -> Blueprint | None:
    try:
        return Blueprint.load(folder)
    except WeightsError:
        return None  # none yet, or damaged: study again


@asynccontextmanager
async def locked(folder: Path) -> AsyncIterator[None]:
    """Make `folder` and hold its lock among the machine's processes; waiting does not block the event loop."""
    lock = FileLock(f"{folder}.lock", thread_local=False)
    try:
        while not await asyncio.to_thread(_acquire, lock, folder):  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(_POLL_S)
        yield
    finally:
        await asyncio.to_thread(lock.release)


def _acquire(lock: FileLock, folder: Path) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


def _key(model: str, model_files: Sequence[Path]) -> str:
    """What a study depends on: the name, this package, the libraries, and the owner's own model files."""
    content = [model, library_versions(), _own_source(), repr(entry_points())]
    for file in model_files:  # the child says of one that is missing, with the right sentence
        content += [str(Path(file).resolve()), code_digest(Path(file))]
    return sha256("\n".join(content).encode()).hexdigest()[:16]


@remember
def _own_source() -> str:
    files = sorted(Path(__file__).resolve().parent.rglob("*.py"))
    return sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
