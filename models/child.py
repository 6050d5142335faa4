"""The child process: the only place where timm, torchvision and torch.export are imported.

    python -m swarm.models.child study|random|pretrained|measure|importance MODEL FOLDER [ARGUMENT] [--models FILE]…

Results are files in FOLDER, each moved into place when it is whole. An error is left there too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from swarm.errors import SwarmError
from swarm.models import catalogue
from swarm.models.blueprint import DERIVED_FILE, Blueprint
from swarm.models.job import ERROR_FILE, Failure
from swarm.models.registry import load_owner_models

WEIGHTS_FILE, POINTER_FILE = "weights.safetensors", "weights.path"


def study(model: str, folder: Path) -> None:
    """Write the blueprint and its derived tensors."""
    from swarm.models.anatomy import dissect

    blueprint, derived = dissect(model, catalogue.find(model))
    write_tensors(folder / DERIVED_FILE, derived)
    blueprint.save(folder)


def random(model: str, folder: Path, seed: str) -> None:
    """Write the state of a freshly initialised model, the same for the same seed and library versions."""
    import torch

    torch.manual_seed(int(seed))
    write_tensors(folder / WEIGHTS_FILE, catalogue.find(model).build().state_dict())


def pretrained(model: str, folder: Path, home: str) -> None:
    """Fetch trained weights from the hub; write where they lie, or a normalised file."""
    from swarm.models.hub import fetch, normalised
    from swarm.models.weights import mismatches

    entry = catalogue.find(model)
    file = fetch(model, entry)
    if mismatches(Blueprint.load(Path(home)), file):
        write_tensors(folder / WEIGHTS_FILE, normalised(model, file))
        file = folder / WEIGHTS_FILE
    move_into_place(folder / POINTER_FILE, str(file).encode())


def measure(device: str, folder: Path, threads: str) -> None:
    """Write how fast `device` is."""
    from swarm.models import benchmark, speed

    move_into_place(folder / speed.BENCHMARK_FILE, msgspec.json.encode(benchmark.measure(device, int(threads))))


def importance(_: str, folder: Path) -> None:
    """Score the heads and neurons of a model; the order in `folder` says of which weights, and with what pictures."""
    from swarm.models.importance.measure import measure

    measure(folder)


def write_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """A safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    fresh = path.with_suffix(".part")
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, fresh)
    fresh.replace(path)


def move_into_place(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(".part")
    fresh.write_bytes(content)
    fresh.replace(path)


JOBS: Mapping[str, Callable[..., None]] = {
    "study": study,
    "random": random,
    "pretrained": pretrained,
    "measure": measure,
    "importance": importance,
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="swarm.models.child")
    parser.add_argument("kind", choices=sorted(JOBS))
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("extra", nargs="?")
    parser.add_argument("--models", type=Path, action="append", default=[])
    given = parser.parse_args(arguments)
    try:
        load_owner_models(given.models)
        JOBS[given.kind](given.model, given.folder, *([] if given.extra is None else [given.extra]))
    except SwarmError as error:
        move_into_place(given.folder / ERROR_FILE, msgspec.msgpack.encode(Failure(error.code, str(error))))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
