"""Where a model's tensors come from, and what they are: `pretrained`, `random:SEED`, or a safetensors file.

The requester resolves them once; the manifest's digests then name the very bytes for every peer.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from swarm.errors import WeightsError
from swarm.models import job
from swarm.models.blueprint import Blueprint, TensorSlot
from swarm.models.child import POINTER_FILE, WEIGHTS_FILE
from swarm.models.conversion import FLOATS, as_float32, needs_conversion
from swarm.models.copies import kept
from swarm.models.hashes import hash_file
from swarm.models.study import Progress, locked
from swarm.models.tensorfile import Entry, read_header
from swarm.types import Digest, Location, TensorRef

_PICKLES = {".pt", ".pth", ".bin", ".pkl", ".ckpt", ".tar"}


@dataclass(frozen=True, slots=True)
class Manifest:
    """All tensors of a model by name, and where the bytes of each lie on this device."""

    digest: Digest
    """SHA-256 over the sorted names and contents."""
    refs: Mapping[str, TensorRef]
    locations: Mapping[str, Location]
    """By the SHA-256 of the content."""


async def resolve(
    blueprint: Blueprint,
    source: str,
    *,
    cache: Path,
    model_files: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Manifest:
    """Find and check the weights that `source` names: `pretrained`, `random:SEED` or the path of a file.

    Hashes what was not hashed before, in a thread. A file of the owner's is copied first, which costs its size on the
    cache's disk: see `swarm.models.copies`. Raises `WeightsError` with a sentence that says what to do.
    """
    if source == "pretrained":
        file = await _pretrained(blueprint, cache, model_files, progress)
    elif source.startswith("random:"):
        file = await _random(blueprint, source, cache, model_files, progress)
    else:
        file = await _own(blueprint, Path(source), cache, progress)
    return await _manifest(blueprint, file, cache, progress)


async def _random(
    blueprint: Blueprint, source: str, cache: Path, model_files: Sequence[Path], progress: Progress | None
) -> Path:
    seed = source.removeprefix("random:")
    if not re.fullmatch(r"\d{1,18}", seed, re.ASCII):
        raise WeightsError(f"'{source}' is not a seed; write random:SEED with a number, as in random:0.")
    return await _made(blueprint, "random", seed, cache, model_files, progress, seed)


async def _pretrained(
    blueprint: Blueprint, cache: Path, model_files: Sequence[Path], progress: Progress | None
) -> Path:
    name = blueprint.profile.name
    if sentence := blueprint.pretrained.get("refused"):
        raise WeightsError(f"{name} has no trained weights that can be loaded here. {sentence}")
    if file := blueprint.pretrained.get("file"):
        return await _own(blueprint, Path(file), cache, progress)
    return await _made(blueprint, "pretrained", "hub", cache, model_files, progress, blueprint.home)


async def _made(
    blueprint: Blueprint,
    kind: str,
    variant: str,
    cache: Path,
    model_files: Sequence[Path],
    progress: Progress | None,
    argument: str,
) -> Path:
    """A file that a child process makes or fetches, once for each anatomy."""
    folder = cache / "weights" / f"{Path(blueprint.home).name}-{kind}-{variant}"
    async with locked(folder):
        if (found := await asyncio.to_thread(_left_by_child, folder)) is None:
            if progress is not None:
                progress("Fetching weights" if kind == "pretrained" else "Making random weights", None)
            await job.run(kind, blueprint.profile.name, folder, model_files, argument)
            found = await asyncio.to_thread(_left_by_child, folder)
    if found is None:
        raise WeightsError(f"The weights of {blueprint.profile.name} were made but are not in {folder}.")
    return await asyncio.to_thread(_fitting, blueprint, found, cache)


def _left_by_child(folder: Path) -> Path | None:
    pointer = folder / POINTER_FILE
    file = Path(pointer.read_text()) if pointer.is_file() else folder / WEIGHTS_FILE
    return file if file.is_file() else None


async def _own(blueprint: Blueprint, file: Path, cache: Path, progress: Progress | None) -> Path:
    """A file that its owner may write again at any time, and what of it this peer may rely on."""
    stop = threading.Event()
    try:
        fitting = await asyncio.to_thread(_fitting, blueprint, file, cache)
        copy = await asyncio.to_thread(kept, fitting, cache, stop, progress)
        return await asyncio.to_thread(_fitting, blueprint, copy, cache)  # it may have been written between the two
    finally:
        stop.set()


def _fitting(blueprint: Blueprint, file: Path, cache: Path) -> Path:
    """A file that fits the anatomy and holds float32 wherever the anatomy does; converted if it must be."""
    if file.suffix.lower() in _PICKLES:
        raise WeightsError(
            f"{file} looks like a pickle, which can run code when it is opened; convert it to safetensors on a machine "
            "that you trust and pass that file."
        )
    if not file.is_file():
        raise WeightsError(f"There is no weights file {file}; write pretrained, random:SEED or the path of a file.")
    if wrong := mismatches(blueprint, file, loose=True):
        shown = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise WeightsError(f"{file} does not fit {blueprint.profile.name}: {shown}.")
    wanted = {slot.name: slot.dtype for slot in _held(blueprint)}
    return as_float32(file, wanted, cache) if needs_conversion(read_header(file), wanted) else file


def mismatches(blueprint: Blueprint, file: Path, *, loose: bool = False) -> list[str]:
    """What of the anatomy a file lacks or has in another form; `loose` allows narrower floats."""
    entries = read_header(file)
    return [wrong for slot in _held(blueprint) if (wrong := _mismatch(slot, entries.get(slot.name), loose))]


def _held(blueprint: Blueprint) -> list[TensorSlot]:
    derived = set(blueprint.derived)
    return [slot for slot in blueprint.tensors if slot.name not in derived]


def _mismatch(slot: TensorSlot, entry: Entry | None, loose: bool) -> str:
    if entry is None:
        return f"'{slot.name}' is missing"
    if entry.shape != slot.shape:
        return f"'{slot.name}' has the shape {list(entry.shape)} and not {list(slot.shape)}"
    if entry.dtype != slot.dtype and not (loose and entry.dtype in FLOATS and slot.dtype == "float32"):
        return f"'{slot.name}' is {entry.dtype} and not {slot.dtype}"
    return ""


async def _manifest(blueprint: Blueprint, file: Path, cache: Path, progress: Progress | None) -> Manifest:
    stop = threading.Event()
    try:
        return await asyncio.to_thread(_gather, blueprint, file, cache, progress, stop)
    finally:
        stop.set()  # when cancelled, the thread ends after the tensor it is at


def _gather(
    blueprint: Blueprint, file: Path, cache: Path, progress: Progress | None, stop: threading.Event
) -> Manifest:
    places = {slot.name: file for slot in blueprint.tensors} | dict.fromkeys(blueprint.derived, blueprint.derived_file)
    entries = {path: read_header(path) for path in set(places.values())}
    hashes = {path: hash_file(path, entries[path], cache, stop, progress) for path in sorted(entries)}
    refs, locations = dict[str, TensorRef](), dict[str, Location]()
    for slot in blueprint.tensors:
        path = places[slot.name]
        content = hashes[path][slot.name]
        refs[slot.name] = TensorRef(slot.name, slot.shape, slot.dtype, content)
        locations[content] = entries[path][slot.name].location
    text = "\n".join(f"{name} {ref.sha256}" for name, ref in sorted(refs.items()))
    return Manifest(sha256(text.encode()).hexdigest(), refs, locations)
