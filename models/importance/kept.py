"""What was found out about a model with given weights, as a small safetensors file: one for each pair of the two.

heads.{b}, neurons.{b}    float32, one score for each; all blocks are counted,
                          from 0; a block that does not come apart has none
metadata                  format, model, anatomy, weights, samples, batch, resilience (JSON), pictures
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from swarm.errors import CannotSplit, WeightsError
from swarm.models.importance import shares
from swarm.models.importance.roles import BlockRoles, blocks_of
from swarm.types import Count, Digest, Fraction, Name, Vital

if TYPE_CHECKING:
    from swarm.models.blueprint import Blueprint
    from swarm.models.weights import Manifest

FORMAT: Final = "swarm-importance-1"
MAX_FILE_BYTES: Final = 256 << 20
MAX_BLOCKS: Final = 1024
_log = logging.getLogger(__name__)

Scores = npt.NDArray[np.float32]
Resilience = Annotated[tuple[tuple[Fraction, Fraction], ...], Meta(min_length=1, max_length=256)]


@dataclass(frozen=True, slots=True)
class Origin:
    """What it was found out about, and how."""

    model: Name
    anatomy: Digest
    weights: Digest
    """The manifest's."""
    samples: Count
    """Batches whose mean the scores are."""
    batch: Count
    held_out: Count
    """Pictures on which `resilience` was measured."""


@dataclass(frozen=True)
class Importance:
    """How much each head and neuron of a model matters, and how it answers with only the most important of them."""

    origin: Origin
    heads: Sequence[Scores]
    """A score for each head of a block, never negative, by block; larger matters more. `neurons` likewise."""
    neurons: Sequence[Scores]
    resilience: tuple[tuple[float, float], ...]
    """See `ModelProfile.resilience`."""
    blocks: tuple[BlockRoles, ...] = ()
    """Of the model, those that come apart; `of` tells them, for no file has them."""

    @cached_property
    def vital(self) -> Vital:
        """See `ModelProfile.vital`; empty before `of`."""
        return shares.vital(self.blocks, self.heads, self.neurons) if self.blocks else ()

    @classmethod
    def load(cls, path: Path) -> Importance:
        """Raises `WeightsError` with a sentence when it is not such a file, or not a sound one."""
        tensors, metadata = _read(path)
        if metadata.get("format") != FORMAT:
            raise WeightsError(f"{path} does not hold the importance of a model, or in another format than {FORMAT}.")
        try:
            origin = msgspec.convert({**metadata}, Origin, strict=False)
            resilience = msgspec.json.decode(metadata["resilience"], type=Resilience)
        except (KeyError, msgspec.MsgspecError) as error:
            raise _unsound(path, f"its description is not understood ({error})") from error
        if not _rises(resilience):
            raise _unsound(path, "its fractions do not rise to 1")
        heads, neurons = (_scores(tensors, kind, path) for kind in ("heads", "neurons"))
        if not heads or len(heads) != len(neurons) or len(tensors) != 2 * len(heads):
            raise _unsound(path, "it does not have heads and neurons of each block")
        return cls(origin, heads, neurons, resilience)

    def save(self, path: Path) -> None:
        """Whole or not at all. Blocks; raises `OSError`."""
        from safetensors.numpy import save

        tensors = {
            f"{kind}.{b}": scores for kind in ("heads", "neurons") for b, scores in enumerate(getattr(self, kind))
        }
        metadata = {key: str(value) for key, value in msgspec.to_builtins(self.origin).items()}
        metadata |= {"format": FORMAT, "resilience": json.dumps(self.resilience)}
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.part")
        fresh.write_bytes(save(tensors, metadata))
        fresh.replace(path)

    def of(self, blueprint: Blueprint, manifest: Manifest) -> Importance:
        """The same with what is known of its model. Raises `WeightsError` as `check` does."""
        self.check(blueprint, manifest)
        try:
            return replace(self, blocks=blocks_of(blueprint))
        except CannotSplit as error:
            raise WeightsError(f"This importance is of a model that does not come apart. {error}") from error

    def check(self, blueprint: Blueprint, manifest: Manifest) -> None:
        """Raises `WeightsError` that names what differs, when it is of another model, other weights or other blocks."""
        name, mine = blueprint.profile.name, self.origin
        again = f"measure it anew: swarm split importance {name}"
        if mine.anatomy != blueprint.profile.digest:
            raise WeightsError(
                f"This importance is of {mine.model} with the anatomy {mine.anatomy[:8]}, and {name} has the anatomy "
                f"{blueprint.profile.digest[:8]} here; {again}."
            )
        if mine.weights != manifest.digest:
            raise WeightsError(
                f"This importance is of the weights {mine.weights[:8]} of {mine.model}, and these are "
                f"{manifest.digest[:8]}; {again}, with the same --weights."
            )
        counts = [(len(heads), len(neurons)) for heads, neurons in zip(self.heads, self.neurons, strict=True)]
        wanted = counts_of(blueprint)
        if counts != wanted:
            raise WeightsError(
                f"This importance is of {len(counts)} blocks of {_most(counts)}, and {name} has {len(wanted)} of "
                f"{_most(wanted)}; {again}."
            )


def counts_of(blueprint: Blueprint) -> list[tuple[int, int]]:
    """Heads and neurons of each block; none of one that does not come apart."""
    stages = [blueprint.profile.stages[index].inside for index in blueprint.profile.blocks[:-1]]
    return [(0, 0) if inside is None else (inside.heads, inside.neurons) for inside in stages]


def place(cache: Path, blueprint: Blueprint, manifest: Manifest) -> Path:
    """Where it is kept for this anatomy and these very weights."""
    return cache / "importance" / f"{blueprint.profile.digest[:16]}-{manifest.digest[:32]}.safetensors"


def found(cache: Path, blueprint: Blueprint, manifest: Manifest) -> Importance | None:
    """What is kept there; None for nothing, or for a file that is damaged. Blocks on the disk."""
    path = place(cache, blueprint, manifest)
    if not path.is_file():
        return None
    try:
        return Importance.load(path).of(blueprint, manifest)
    except WeightsError as error:
        _log.warning("%s", error)
        return None


def _read(path: Path) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _unsound(path, f"it is larger than {MAX_FILE_BYTES >> 20} MiB")
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            if len(names) > 2 * MAX_BLOCKS:
                raise _unsound(path, f"it has more than {MAX_BLOCKS} blocks")
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except OSError as error:
        raise WeightsError(f"The importance in {path} cannot be read: {error.strerror or error}.") from error
    except (SafetensorError, TypeError, ValueError) as error:
        raise _unsound(path, "it is not a safetensors file") from error


def _scores(tensors: Mapping[str, Any], kind: str, path: Path) -> tuple[Scores, ...]:
    blocks = list[Scores]()
    while (scores := tensors.get(f"{kind}.{len(blocks)}")) is not None:
        if scores.dtype != np.float32 or scores.ndim != 1:
            raise _unsound(path, f"'{kind}.{len(blocks)}' is not a row of float32")
        if not (np.isfinite(scores) & (scores >= 0)).all():
            raise _unsound(path, f"'{kind}.{len(blocks)}' has a score that is negative or not a number")
        blocks.append(scores)
    return tuple(blocks)


def _rises(pairs: Sequence[tuple[float, float]]) -> bool:
    fractions = [fraction for fraction, _ in pairs]
    return fractions == sorted(set(fractions)) and math.isclose(fractions[-1], 1.0)


def _most(counts: Sequence[tuple[int, int]]) -> str:
    return "{} heads and {} neurons".format(*max(counts, default=(0, 0)))


def _unsound(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path} is not a sound importance file: {why}; measure it anew with `swarm split importance`.")
