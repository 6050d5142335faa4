"""Where tensors lie in a safetensors file: the header, read with every bound checked, and nothing else.

A tensor's bytes are raw, little-endian and contiguous, so a place in a file is enough to map it or to send it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from swarm.errors import WeightsError
from swarm.types import DTYPE_BYTES, Location

MAX_HEADER_BYTES = 100_000_000
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file."""

    shape: tuple[int, ...]
    dtype: str
    location: Location


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of a safetensors file, by name. Raises `WeightsError` when it is not one."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            header, start = _header(file, size, path)
    except OSError as error:
        raise WeightsError(f"The weights file {path} cannot be read: {error.strerror or error}.") from error
    return {
        name: _entry(name, plain, path, start, size - start) for name, plain in header.items() if name != "__metadata__"
    }


def _header(file: BinaryIO, size: int, path: Path) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise _damaged(path, "its header is longer than the file")
    try:
        header = json.loads(file.read(length))
    except ValueError as error:  # not JSON, or not UTF-8
        raise _damaged(path, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a map")
    return header, 8 + length


def _entry(name: str, plain: Any, path: Path, start: int, room: int) -> Entry:
    try:
        dtype, shape, (begin, end) = DTYPES[plain["dtype"]], tuple(plain["shape"]), plain["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"the entry of '{name[:80]}' is not understood") from error
    if len(shape) > 16 or not all(type(size) is int and 0 <= size < 2**40 for size in (*shape, begin, end)):
        raise _damaged(path, f"the shape of '{name[:80]}' is impossible")
    if not begin <= end <= room or end - begin != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise _damaged(path, f"the bytes of '{name[:80]}' are not where it says")
    return Entry(shape, dtype, Location(path, start + begin, end - begin))


def _damaged(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path} is not a sound safetensors file: {why}.")
