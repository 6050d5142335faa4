"""The parent's side of a child process that may import timm: start it, wait, take its outcome or its error."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from swarm.errors import SwarmError, from_code

ERROR_FILE, LOG_FILE = "error.msgpack", "log.txt"


class Failure(msgspec.Struct):
    """A child's last words."""

    code: str
    sentence: str


async def run(kind: str, model: str, folder: Path, model_files: Sequence[Path], *extra: str) -> None:
    """Run one job (a key of `swarm.models.child.JOBS`) to its end; its results are files in `folder`.

    Raises the error that the child met. What the child prints goes to `log.txt` in that folder. Cancelling kills it.
    """
    arguments = [kind, model, str(folder), *extra]
    for file in model_files:
        arguments += ["--models", str(file)]
    process = await _started(arguments, await _fresh_log(folder))
    try:
        code = await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())
    if code != 0:
        raise await asyncio.to_thread(_error, kind, model, folder, code)


async def _fresh_log(folder: Path) -> BinaryIO:
    """Opened in a thread. Whoever is cancelled meanwhile leaves it to be closed as soon as it is open."""

    def opened() -> BinaryIO:
        (folder / ERROR_FILE).unlink(missing_ok=True)
        return (folder / LOG_FILE).open("wb")

    opening = asyncio.get_running_loop().run_in_executor(None, opened)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise


def _close_unwanted(opening: asyncio.Future[BinaryIO]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


async def _started(arguments: list[str], log: BinaryIO) -> asyncio.subprocess.Process:
    with log:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # a `models` or `torch.py` in the user's folder must not be taken for the real one
            "-m",
            "swarm.models.child",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment(sees_gpu=arguments[0] in {"measure", "importance"}),
        )


def _environment(*, sees_gpu: bool) -> dict[str, str]:
    """The parent's own, so that the child finds the same packages; and no GPU where it does not need one."""
    paths = os.pathsep.join(path for path in sys.path if path)
    hidden = {} if sees_gpu else {"CUDA_VISIBLE_DEVICES": ""}
    return os.environ | hidden | {"PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}


def _error(kind: str, model: str, folder: Path, code: int) -> SwarmError:
    try:
        failure = msgspec.msgpack.decode((folder / ERROR_FILE).read_bytes(), type=Failure)
    except (OSError, msgspec.MsgspecError):
        ended = "was stopped by the system, perhaps for want of memory" if code < 0 else f"ended with code {code}"
        return SwarmError(f"The process that prepares {model} ({kind}) {ended}; see {folder / LOG_FILE}.")
    return from_code(failure.code, failure.sentence)
