"""Files with narrower floats than the model computes with: written once more as float32, in the cache."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from swarm.models.tensorfile import CODES, Entry, read_header

FLOATS: Final = frozenset({"float16", "bfloat16", "float32", "float64"})


def needs_conversion(entries: Mapping[str, Entry], wanted: Mapping[str, str]) -> bool:
    return any(entries[name].dtype != dtype for name, dtype in wanted.items())


def as_float32(file: Path, wanted: Mapping[str, str], cache: Path) -> Path:
    """A copy of `file` that has the wanted dtypes, tensor by tensor, so that only one is in memory at a time."""
    status = file.stat()
    name = f"{file.resolve()}\n{status.st_size}\n{status.st_mtime_ns}\n{sorted(wanted.items())}"
    key = sha256(name.encode()).hexdigest()[:32]
    target = cache / "converted" / f"{key}.safetensors"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(f".{secrets.token_hex(4)}.part")
    try:
        _write(fresh, read_header(file), wanted)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    return target


def _write(target: Path, entries: Mapping[str, Entry], wanted: Mapping[str, str]) -> None:
    header, place = dict[str, Any](), 0
    for name, dtype in wanted.items():
        size = int(np.prod(entries[name].shape, dtype=np.int64)) * _dtype(dtype).itemsize
        header[name] = {"dtype": CODES[dtype], "shape": entries[name].shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, dtype in wanted.items():
            out.write(np.ascontiguousarray(_read(entries[name]), _dtype(dtype)).tobytes())


def _read(entry: Entry) -> npt.NDArray[Any]:
    raw = np.fromfile(entry.location.path, np.uint8, entry.location.nbytes, offset=entry.location.offset)
    if entry.dtype == "bfloat16":  # the upper half of a float32
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return raw.view(_dtype(entry.dtype))


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(name).newbyteorder("<")
