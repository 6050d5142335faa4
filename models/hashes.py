"""SHA-256 of each tensor of a file, computed once: kept beside the cache under the file's path, size and time."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import msgspec

from swarm.errors import WeightsError
from swarm.models.tensorfile import Entry
from swarm.types import Location

_CHUNK_BYTES = 1 << 20


def hash_file(
    path: Path,
    entries: Mapping[str, Entry],
    cache: Path,
    stop: threading.Event,
    progress: Callable[[str, float | None], None] | None = None,
) -> dict[str, str]:
    """Digests by name. Blocks, so it runs in a thread; ends early with `WeightsError` once `stop` is set."""
    status = path.stat()
    key = sha256(f"{path.resolve()}\n{status.st_size}\n{status.st_mtime_ns}".encode()).hexdigest()[:32]
    sidecar = cache / "hashes" / f"{key}.json"
    if (known := _read(sidecar)) is not None and known.keys() == entries.keys():
        return known
    found = dict(_hashed(path, entries, stop, progress))
    sidecar.parent.mkdir(parents=True, exist_ok=True)
    fresh = sidecar.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
    fresh.write_bytes(msgspec.json.encode(found))
    fresh.replace(sidecar)
    return found


def _read(sidecar: Path) -> dict[str, str] | None:
    try:
        return msgspec.json.decode(sidecar.read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError):
        return None


def _hashed(
    path: Path,
    entries: Mapping[str, Entry],
    stop: threading.Event,
    progress: Callable[[str, float | None], None] | None,
) -> dict[str, str]:
    found = dict[str, str]()
    done, total = 0, sum(entry.location.nbytes for entry in entries.values())
    with path.open("rb", buffering=0) as file:
        for name, entry in entries.items():
            if stop.is_set():
                raise WeightsError("Hashing the weights was stopped.")
            found[name] = _hash_range(file, entry.location)
            done += entry.location.nbytes
            if progress is not None and total:
                progress("Checking weights", done / total)
    return found


def _hash_range(file: io.FileIO, place: Location) -> str:
    """Read through one small buffer: a mapping of the file would count as this process's memory."""
    digest, buffer, left = sha256(), memoryview(bytearray(_CHUNK_BYTES)), place.nbytes
    file.seek(place.offset)
    while left:
        count = file.readinto(buffer[: min(left, _CHUNK_BYTES)])
        if not count:
            raise WeightsError(f"{place.path} became shorter while it was read.")
        digest.update(buffer[:count])
        left -= count
    return digest.hexdigest()
