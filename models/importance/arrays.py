"""Pictures and labels in arrays: MNIST's IDX files, and numpy's .npz. Every size is checked before it is believed."""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from swarm.errors import BadInput

MAX_BYTES: Final = 8 << 30
"""Of one array."""
_BYTES_OF_UINT8: Final = 0x08
_SETS: Final = ("train", "t10k")

Array = npt.NDArray[Any]


def idx_sets(folder: Path) -> list[tuple[Path, Path]]:
    """The pairs of pictures and labels among MNIST's four files, those to train with first; empty if there are none."""
    pairs = [(_file(folder, f"{name}-images", 3), _file(folder, f"{name}-labels", 1)) for name in _SETS]
    for (pictures, labels), name in zip(pairs, _SETS, strict=True):
        if (pictures is None) != (labels is None):
            has, lacks = ("images-idx3", "labels-idx1") if labels is None else ("labels-idx1", "images-idx3")
            raise BadInput(f"{folder} has {name}-{has}-ubyte but no {name}-{lacks}-ubyte; pictures need their labels.")
    return [(pictures, labels) for pictures, labels in pairs if pictures is not None and labels is not None]


def _file(folder: Path, stem: str, dimensions: int) -> Path | None:
    names = (f"{stem}{mark}idx{dimensions}-ubyte{end}" for mark in ("-", ".") for end in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def idx(pictures: Path, labels: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Pictures `[N, H, W]` and labels `[N]`."""
    return _idx(pictures, 3), _idx(labels, 1)


def _idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    opened: Any = gzip.open if path.suffix == ".gz" else Path.open
    try:
        with opened(path, "rb") as file:
            head = file.read(4 + 4 * dimensions)
            if len(head) != 4 + 4 * dimensions or head[:4] != bytes((0, 0, _BYTES_OF_UINT8, dimensions)):
                raise BadInput(f"{path} is not an IDX file of bytes with {dimensions} dimensions.")
            shape = [int(size) for size in np.frombuffer(head, ">u4", offset=4)]
            return _body(file, shape, np.dtype(np.uint8), path)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from error


def npz(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer[Any]]]:
    """Its arrays `pictures`, uint8 `[N, H, W]` or `[N, C, H, W]`, and `labels`, whole numbers `[N]`."""
    try:
        with zipfile.ZipFile(path) as archive:
            missing = [name for name in ("pictures", "labels") if f"{name}.npy" not in archive.namelist()]
            if missing:
                raise BadInput(f"{path} has no array '{missing[0]}'; save it with np.savez(…, pictures=…, labels=…).")
            pictures, labels = (_entry(archive, f"{name}.npy", path) for name in ("pictures", "labels"))
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from error
    if pictures.dtype != np.uint8 or pictures.ndim not in (3, 4):
        raise BadInput(f"'pictures' in {path} has to be uint8 [N, H, W] or [N, C, H, W], raw pixels.")
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise BadInput(f"'labels' in {path} has to be whole numbers [N], the class of each picture.")
    return pictures, labels


def _entry(archive: zipfile.ZipFile, name: str, path: Path) -> Array:
    """As numpy writes it, but never objects: those would be pickled."""
    with archive.open(name) as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.hasobject:
            raise BadInput(f"'{name}' in {path} holds objects and not numbers; they are never read.")
        found = _body(file, list(reversed(shape)) if fortran else list(shape), dtype, path)
        return found.T if fortran else found


def _body(file: IO[bytes], shape: list[int], dtype: np.dtype[Any], path: Path) -> Array:
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size > MAX_BYTES:
        raise BadInput(f"{path} says that it has {size} bytes of numbers; at most {MAX_BYTES} are read.")
    content = file.read(size)
    if len(content) != size:
        raise BadInput(f"{path} ends too early: it has {len(content)} of {size} bytes.")
    return np.frombuffer(content, dtype).reshape(shape)
