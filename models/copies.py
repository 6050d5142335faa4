"""An owner's weights file, copied into the cache before anybody maps or hashes it.

A running peer maps its parameters from the disk. A file of the owner's may be written again in place, which would
change what the peer computes, or end it with SIGBUS; a copy in the cache is written once.

The price is disk: `copies/` in the cache takes the size of each such file once more, and once again for each later
version of it. A copy serves everybody who names the same file, as long as its size and time stay what they were. It
may be deleted whenever no peer runs.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from swarm.errors import WeightsError

CHUNK_BYTES = 4 << 20
PACKAGE = Path(__file__).resolve().parent


def kept(
    file: Path, cache: Path, stop: threading.Event, progress: Callable[[str, float | None], None] | None = None
) -> Path:
    """Where the content of `file` lies and will not change: its copy, or itself if nobody writes there in place.

    So are the cache, this package and the hub's cache. Blocks, so it runs in a thread; ends early once `stop` is set.
    Raises `WeightsError` when the file changes meanwhile, or the cache cannot take it.
    """
    if _lasting(file.resolve(), cache):
        return file
    status = file.stat()
    key = sha256(f"{file.resolve()}\n{status.st_size}\n{status.st_mtime_ns}".encode()).hexdigest()[:32]
    target = cache / "copies" / f"{key}.safetensors"
    if target.is_file():
        return target
    try:
        _write(file, status, target, stop, progress)
    except OSError as error:
        raise WeightsError(
            f"{file} cannot be copied to {target.parent}: {error.strerror or error}. Make room there, or name another "
            "cache."
        ) from error
    return target


def _lasting(file: Path, cache: Path) -> bool:
    hub = any(folder.name.startswith("models--") for folder in file.parents)
    return hub or file.is_relative_to(cache.resolve()) or file.is_relative_to(PACKAGE)


def _write(
    file: Path,
    status: os.stat_result,
    target: Path,
    stop: threading.Event,
    progress: Callable[[str, float | None], None] | None,
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(f".{secrets.token_hex(4)}.part")
    try:
        with file.open("rb") as source, fresh.open("wb") as out:
            _copy(source, out, status.st_size, stop, progress)
            after = os.fstat(source.fileno())
        if (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
            raise WeightsError(f"{file} changed while it was copied; try again once it is complete.")
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def _copy(
    source: BinaryIO,
    out: BinaryIO,
    size: int,
    stop: threading.Event,
    progress: Callable[[str, float | None], None] | None,
) -> None:
    done = 0
    while piece := source.read(min(CHUNK_BYTES, size - done)):  # no more, or one that grows would have no end
        if stop.is_set():
            raise WeightsError("Copying the weights was stopped.")
        out.write(piece)
        done += len(piece)
        if progress is not None:
            progress("Copying weights", done / size)
