"""Cut the tensors of a group's members out of a model's file, each named by its content, and keep them on the disk.

    manifest, picks ─▶ cache/shards/KEY/   shards.bin    raw tensors, one after another
                                           index.json    digests of each member, and where each tensor lies

The same cut again reads the index. What the model has as it is, is not cut: a shard of all is its own tensors.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import time
from typing import Any, BinaryIO, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from swarm.errors import CannotSplit, WeightsError
from swarm.models.blueprint import Blueprint, TensorSlot
from swarm.models.child import move_into_place
from swarm.models.inside.dealing import deal, order_of
from swarm.models.inside.extents import Extent, Picks, block_number, blocks_between, extents, shares
from swarm.models.inside.roles import Roles
from swarm.models.study import locked
from swarm.models.weights import Manifest
from swarm.plan import Group, Member, Step
from swarm.types import Count, Digest, Location
from swarm.workshop import Shards

INDEX_FILE, SHARDS_FILE = "index.json", "shards.bin"
_ALIGNMENT = 64
KEPT_CUTS, KEPT_S = 4, 3600.0


class Importance(Protocol):
    """Scores of heads and neurons, for each of a model's blocks by its number; larger matters more."""

    @property
    def heads(self) -> Sequence[Sequence[float]]: ...
    @property
    def neurons(self) -> Sequence[Sequence[float]]: ...


@dataclass(frozen=True, slots=True)
class Pick:
    """One member's heads and neurons of one block."""

    heads: Picks
    neurons: Picks


@dataclass(frozen=True, slots=True)
class _Index:
    digests: list[list[Digest]]
    places: dict[Digest, tuple[Count, Count]]
    """Offset and length in the file."""
    size: Count
    """Bytes of the file."""


async def cut(
    blueprint: Blueprint, manifest: Manifest, step: Step, importance: Importance | None, cache: Path
) -> Shards:
    """See `swarm.workshop.Workshop.cut`. Processes that cut the same wait for the first one."""
    group = step.group
    if group is None:
        raise CannotSplit(f"The step {step.id} is of one peer alone, so there is nothing to cut.")
    picks = await asyncio.to_thread(picks_of, blueprint, group, importance)
    folder = cache / "shards" / _key(manifest, group, picks)
    async with locked(folder):
        return await asyncio.to_thread(_cut, blueprint, manifest, group, picks, folder)


def prune(root: Path) -> None:
    """Delete cuts of long ago, but for the newest: each new deal of shares leaves one, as large as the blocks."""
    cuts = sorted(root.glob(f"*/{SHARDS_FILE}"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in cuts[KEPT_CUTS:]:
        if time() - file.stat().st_mtime > KEPT_S:
            with suppress(OSError):  # another process is at it, or has it mapped
                (file.parent / INDEX_FILE).unlink(missing_ok=True)
                file.unlink()


def picks_of(blueprint: Blueprint, group: Group, importance: Importance | None) -> list[list[Pick]]:
    """For each member, its share of each block. Raises `CannotSplit` for shares that are not there."""
    profile, insides = blueprint.profile, blueprint.insides
    wanted = [shares(profile, insides, member.part) for member in group.members]
    first = group.members[0].part
    stages = blocks_between(profile, insides, first.start, first.end)
    found: list[list[Pick]] = [[] for _ in group.members]
    for place, stage in enumerate(stages):
        number = block_number(profile, stage)
        roles = wanted[0][place][0]
        heads = _orders(None if importance is None else importance.heads, number, roles.heads)
        neurons = _orders(None if importance is None else importance.neurons, number, roles.neurons)
        dealt = zip(
            _dealt(heads, [share[place][1] for share in wanted], group),
            _dealt(neurons, [share[place][2] for share in wanted], group),
            strict=True,
        )
        for picks, pair in zip(found, dealt, strict=True):
            picks.append(Pick(*pair))
    return found


def _orders(scores: Sequence[Sequence[float]] | None, number: int, count: int) -> Picks:
    """The heads or neurons of a block, the most important first."""
    if scores is not None and number >= len(scores):
        raise CannotSplit(f"Block {number} has no importance; it was measured for {len(scores)} blocks.")
    return order_of(None if scores is None else scores[number], count)


def _dealt(order: Picks, counts: Sequence[int], group: Group) -> list[Picks]:
    if group.split == "columns":
        return deal(order, counts)
    if any(count != len(order) for count in counts):
        raise CannotSplit("Members that run tokens of their own need all heads and neurons of each block.")
    return [np.arange(len(order))] * len(counts)


def _key(manifest: Manifest, group: Group, picks: Sequence[Sequence[Pick]]) -> str:
    digest = sha256(f"{manifest.digest}\n{group.members[0].part.start}\n{group.members[0].part.end}".encode())
    for member in picks:
        for pick in member:
            for which in (pick.heads, pick.neurons):
                digest.update(len(which).to_bytes(8, "little") + which.astype("<i8").tobytes())
    return digest.hexdigest()[:32]


def _cut(
    blueprint: Blueprint, manifest: Manifest, group: Group, picks: Sequence[Sequence[Pick]], folder: Path
) -> Shards:
    slots = [blueprint.tensors_of(member.part) for member in group.members]
    index = _known(folder, manifest, slots)
    if index is not None:
        with suppress(OSError):
            os.utime(folder / SHARDS_FILE)
    else:
        prune(folder.parent)
        index = _made(blueprint, manifest, group, picks, slots, folder)
        move_into_place(folder / INDEX_FILE, msgspec.json.encode(index))
    file = folder / SHARDS_FILE
    places = {digest: Location(file, offset, nbytes) for digest, (offset, nbytes) in index.places.items()}
    return Shards(index.digests, places)


def _known(folder: Path, manifest: Manifest, slots: Sequence[Sequence[TensorSlot]]) -> _Index | None:
    """What an earlier cut left, where it is whole."""
    try:
        index = msgspec.json.decode((folder / INDEX_FILE).read_bytes(), type=_Index)
        size = (folder / SHARDS_FILE).stat().st_size
    except (OSError, msgspec.MsgspecError):
        return None
    nbytes = {digest: length for digest, (_, length) in index.places.items()}
    nbytes |= {digest: place.nbytes for digest, place in manifest.locations.items()}
    is_sound = size == index.size and all(offset + length <= size for offset, length in index.places.values())
    fits = len(index.digests) == len(slots) and all(
        [nbytes.get(digest) for digest in digests] == [slot.nbytes for slot in member]
        for digests, member in zip(index.digests, slots, strict=True)
    )
    return index if is_sound and fits else None


def _made(
    blueprint: Blueprint,
    manifest: Manifest,
    group: Group,
    picks: Sequence[Sequence[Pick]],
    slots: Sequence[Sequence[TensorSlot]],
    folder: Path,
) -> _Index:
    source = _Source(blueprint, manifest)
    fresh = folder / f"{SHARDS_FILE}.part"
    with fresh.open("wb") as file:
        writer = _Writer(file, manifest)
        digests = [
            _member(blueprint, member, pick, held, source, writer)
            for member, pick, held in zip(group.members, picks, slots, strict=True)
        ]
        size = file.tell()
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(folder / SHARDS_FILE)
    return _Index(digests, writer.places, size)


def _member(
    blueprint: Blueprint,
    member: Member,
    picks: Sequence[Pick],
    slots: Sequence[TensorSlot],
    source: _Source,
    writer: _Writer,
) -> list[str]:
    """Digests of one member's tensors; new ones are written."""
    ways = dict[str, tuple[Roles, Extent | None, Pick]]()
    for (roles, _, _), pick in zip(shares(blueprint.profile, blueprint.insides, member.part), picks, strict=True):
        ways |= {name: (roles, extent, pick) for name, extent in extents(roles).items()}
    digests = []
    for slot in slots:
        roles, extent, pick = ways[slot.name]
        ref = source.refs[slot.name]
        if extent is None or slot.shape == ref.shape:
            digests.append(ref.sha256)
            continue
        chosen, total = (pick.heads, roles.heads) if extent.of == "heads" else (pick.neurons, roles.neurons)
        rows = extent.rows(chosen, total)
        digests.append(writer.write(np.take(source.mapped(slot.name), rows, axis=extent.axis)))
    return digests


class _Source:
    """A model's tensors, mapped from where they lie; what is not read stays on the disk."""

    def __init__(self, blueprint: Blueprint, manifest: Manifest) -> None:
        self.refs = manifest.refs
        self._locations = manifest.locations
        if missing := [slot.name for slot in blueprint.tensors if slot.name not in self.refs]:
            raise WeightsError(f"The weights lack the tensor '{missing[0]}'.")

    def mapped(self, name: str) -> npt.NDArray[Any]:
        ref = self.refs[name]
        place = self._locations[ref.sha256]
        try:
            return np.memmap(place.path, np.dtype(ref.dtype), "r", place.offset, ref.shape)
        except (OSError, ValueError, TypeError) as error:
            raise WeightsError(f"The weights in {place.path} cannot be mapped: {error}.") from error


class _Writer:
    """Tensors one after another, each content once, and none that the model has anyway."""

    def __init__(self, file: BinaryIO, manifest: Manifest) -> None:
        self.places = dict[str, tuple[int, int]]()
        self._file = file
        self._there: Mapping[str, Location] = manifest.locations

    def write(self, tensor: npt.NDArray[Any]) -> str:
        content = np.ascontiguousarray(tensor).view(np.uint8).reshape(-1).data
        digest = sha256(content).hexdigest()
        if digest not in self.places and digest not in self._there:
            self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
            self.places[digest] = (self._file.tell(), content.nbytes)
            self._file.write(content)
        return digest
