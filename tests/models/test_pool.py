"""Parts of one model that overlap hold one copy of what both need, and let go of it with the last of them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from swarm.models import Blueprint, weights
from swarm.models.assembly import build
from swarm.models.blueprint import TensorSlot
from swarm.models.parts import RunnablePart
from swarm.models.pool import Pool
from swarm.models.workshop import Workshop
from swarm.plan import OUTPUT, Part
from tests.models.anatomies import take_apart


def _built(blueprint: Blueprint, manifest: weights.Manifest, start: str, pool: Pool) -> RunnablePart:
    part = Part(blueprint.profile.name, blueprint.profile.digest, start, OUTPUT)
    digests = [manifest.refs[slot.name].sha256 for slot in blueprint.tensors_of(part)]
    return build(blueprint, part, manifest.locations.__getitem__, digests, pool=pool)


def _places(tensors: Sequence[torch.Tensor]) -> set[int]:
    return {tensor.data_ptr() for tensor in tensors}


def test_overlapping_parts_share_tensors_until_both_are_gone(fashion: Blueprint, cache: Path) -> None:
    manifest = asyncio.run(weights.resolve(fashion, "random:5", cache=cache))
    pool = Pool()
    long, short = (_built(fashion, manifest, start, pool) for start in ("blocks.3", "blocks.6"))
    assert _places(short.tensors) < _places(long.tensors)
    assert len(pool) == len({id(tensor) for tensor in long.tensors})
    x = np.random.default_rng(1).standard_normal((2, *short.input.shape), np.float32)
    wanted = short(x)
    del long
    gc.collect()
    assert len(pool) == len({id(tensor) for tensor in short.tensors})
    np.testing.assert_array_equal(short(x), wanted)
    del short
    gc.collect()
    assert len(pool) == 0


def test_the_same_bytes_read_otherwise_are_another_tensor() -> None:
    pool = Pool()
    slots = [TensorSlot("a", (2, 2), "float32"), TensorSlot("b", (4,), "float32"), TensorSlot("c", (4,), "int32")]
    held = [
        pool.tensor("digest", slot, device, lambda slot=slot: torch.zeros(slot.shape, dtype=getattr(torch, slot.dtype)))  # type: ignore[misc]
        for slot in slots
        for device in ("cpu", "cuda:0")
    ]
    assert len(pool) == len({id(tensor) for tensor in held}) == 6
    again = pool.tensor("digest", TensorSlot("other name", (4,), "float32"), "cpu", lambda: torch.ones(4))
    assert again is held[2]


def test_a_workshop_keeps_one_pool(tmp_path: Path) -> None:
    specimen = take_apart("tiny-residual", tmp_path)
    workshop = Workshop(tmp_path / "cache", (), "cpu", 1)
    built = []
    for start in ("2", "3"):
        part = specimen.part(start)
        digests = [specimen.manifest.refs[slot.name].sha256 for slot in specimen.blueprint.tensors_of(part)]
        built.append(workshop.build(specimen.blueprint, part, digests, specimen.manifest.locations.__getitem__))
    assert _places(built[1].tensors) < _places(built[0].tensors)
