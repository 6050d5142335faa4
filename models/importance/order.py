"""What a child process is asked to find out, and how far it is: files in a folder that both know.

parent ──order.json──▶ child ──progress.json──▶ parent      child ──importance.safetensors──▶ parent
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from swarm.errors import SwarmError
from swarm.models.blueprint import Blueprint
from swarm.models.importance.kept import Origin
from swarm.models.weights import Manifest

ORDER_FILE: Final = "order.json"
PROGRESS_FILE: Final = "progress.json"
RESULT_FILE: Final = "importance.safetensors"
SEED: Final = 0
"""Of all that is drawn: the same data give the same scores."""


class Tensor(msgspec.Struct, frozen=True):
    """One of the model's, and where its bytes lie."""

    shape: tuple[int, ...]
    dtype: str
    path: str
    offset: int
    nbytes: int


class Order(msgspec.Struct, frozen=True):
    """The whole of it."""

    model: str
    study: str
    """The folder of the model's blueprint."""
    weights: str
    data: str
    samples: int
    batch: int
    threads: int | None
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(
        cls, blueprint: Blueprint, manifest: Manifest, data: Path, samples: int, batch: int, threads: int | None
    ) -> Order:
        """Constants that the model is built with are left out: no state holds them."""
        tensors = {}
        for name, ref in manifest.refs.items():
            if name not in blueprint.derived:
                place = manifest.locations[ref.sha256]
                tensors[name] = Tensor(ref.shape, ref.dtype, str(place.path), place.offset, place.nbytes)
        return cls(blueprint.profile.name, blueprint.home, manifest.digest, str(data), samples, batch, threads, tensors)

    def origin(self, anatomy: str, held_out: int) -> Origin:
        return Origin(self.model, anatomy, self.weights, self.samples, self.batch, held_out)

    def save(self, folder: Path) -> None:
        (folder / ORDER_FILE).write_bytes(msgspec.json.encode(self))

    @classmethod
    def load(cls, folder: Path) -> Order:
        try:
            return msgspec.json.decode((folder / ORDER_FILE).read_bytes(), type=cls)
        except (OSError, msgspec.MsgspecError) as error:
            raise SwarmError(f"What is to be measured is not written in {folder / ORDER_FILE}: {error}.") from error


class Progress(msgspec.Struct, frozen=True):
    """What the child is at."""

    what: str
    fraction: float


def tell(folder: Path, what: str, fraction: float) -> None:
    fresh = folder / f"{PROGRESS_FILE}.part"
    fresh.write_bytes(msgspec.json.encode(Progress(what, fraction)))
    fresh.replace(folder / PROGRESS_FILE)


def told(folder: Path) -> Progress | None:
    """None before the first word."""
    try:
        return msgspec.json.decode((folder / PROGRESS_FILE).read_bytes(), type=Progress)
    except (OSError, msgspec.MsgspecError):
        return None
