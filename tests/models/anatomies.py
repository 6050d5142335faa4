"""What tests of models share: a model with random weights, whole and in parts, without the cost of a child process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from swarm.models import Blueprint, weights
from swarm.models.anatomy import dissect
from swarm.models.assembly import Mappings, build
from swarm.models.blueprint import DERIVED_FILE
from swarm.models.catalogue import find
from swarm.models.child import write_tensors
from swarm.models.parts import RunnablePart
from swarm.models.registry import load_owner_models
from swarm.plan import INPUT, OUTPUT, Part

OWNER_MODELS = Path(__file__).parent / "owner_models.py"
torch.set_num_threads(1)  # two threads wait for each other on a busy machine
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Specimen:
    """A model that was taken apart, and the same model whole."""

    blueprint: Blueprint
    manifest: weights.Manifest
    whole: nn.Module

    def part(self, start: str = INPUT, end: str = OUTPUT) -> Part:
        profile = self.blueprint.profile
        return Part(profile.name, profile.digest, start, end, self.manifest.digest)

    def built(self, start: str = INPUT, end: str = OUTPUT) -> RunnablePart:
        part = self.part(start, end)
        digests = [self.manifest.refs[slot.name].sha256 for slot in self.blueprint.tensors_of(part)]
        return build(self.blueprint, part, self.manifest.locations.__getitem__, digests, model_files=[OWNER_MODELS])

    def tensors(self, start: str = INPUT, end: str = OUTPUT) -> dict[str, torch.Tensor]:
        mapped = Mappings()
        slots = self.blueprint.tensors_of(self.part(start, end))
        return {
            slot.name: mapped.tensor(slot, self.manifest.locations[self.manifest.refs[slot.name].sha256])
            for slot in slots
        }

    def pictures(self, batch: int) -> Array:
        return np.random.default_rng(7).standard_normal((batch, *self.blueprint.pictures.input_size), np.float32)

    def eager(self, x: Array) -> Array:
        with torch.inference_mode():
            answer: Array = self.whole(torch.from_numpy(x.copy())).numpy()
        return answer


def take_apart(name: str, folder: Path) -> Specimen:
    load_owner_models([OWNER_MODELS])
    entry = find(name)
    home = folder / name.replace("/", "_")
    home.mkdir(parents=True, exist_ok=True)
    blueprint, derived = dissect(name, entry)
    write_tensors(home / DERIVED_FILE, derived)
    blueprint.save(home)
    torch.manual_seed(3)
    whole = entry.build().eval()
    _enliven(whole)
    write_tensors(home / "weights.safetensors", whole.state_dict())
    blueprint = Blueprint.load(home)
    manifest = asyncio.run(weights.resolve(blueprint, str(home / "weights.safetensors"), cache=folder / "cache"))
    return Specimen(blueprint, manifest, whole)


def _enliven(whole: nn.Module) -> None:
    """Zero-initialised scales and tables would hide a wrong split; statistics of 0 and 1 too."""
    with torch.no_grad():
        for value in whole.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand_like(value) * 0.02)
