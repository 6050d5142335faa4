"""Slice after slice is the whole model: every two-way cut of every family, over real TCP between two peers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from swarm.models.blueprint import Blueprint
from swarm.models.weights import Manifest
from swarm.peer import Peer

FAMILIES = {
    "ViT": "vit_tiny_patch16_224",
    "DeiT": "deit_tiny_patch16_224",
    "BEiT": "narrow-beit",
    "EVA-02": "eva02_tiny_patch14_224",
    "Swin": "narrow-swin",
    "ConvNeXt": "convnext_atto",
    "ResNet": "resnet18",
    "Mixer": "mixer_s32_224",
}
NARROW = Path(__file__).with_name("narrow_models.py")


@asynccontextmanager
async def two_peers() -> AsyncIterator[tuple[Peer, Peer]]:
    """On loopback; the second is found by address."""
    async with Peer("head", port=0, interfaces=["127.0.0.1"], mdns=False, models=[NARROW]) as head:
        where = head.view().peers[0].record.addresses
        async with Peer("tail", port=0, interfaces=["127.0.0.1"], mdns=False, peers=where, models=[NARROW]) as tail:
            await head.wait_for(["tail"])
            yield head, tail


async def _lively(peer: Peer, blueprint: Blueprint, folder: Path) -> str:
    """Random weights; where timm starts the classifier with zeros, as Mixer's, a file with numbers in their place."""
    manifest = await peer._workshop.resolve(blueprint, "random:0")
    classifier = [name for name in manifest.refs if name in ("head.weight", "head.fc.weight", "fc.weight")]
    tensors = {
        name: np.frombuffer(_bytes(manifest, name), ref.dtype).reshape(ref.shape)
        for name, ref in manifest.refs.items()
        if name not in blueprint.derived
    }
    if not classifier or tensors[classifier[0]].any():
        return "random:0"
    tensors[classifier[0]] = np.random.default_rng(1).normal(size=tensors[classifier[0]].shape).astype(np.float32)
    save_file(tensors, folder / "lively.safetensors")
    return str(folder / "lively.safetensors")


def _bytes(manifest: Manifest, name: str) -> bytes:
    place = manifest.locations[manifest.refs[name].sha256]
    return place.path.read_bytes()[place.offset : place.offset + place.nbytes]


@pytest.mark.timeout(600)
@pytest.mark.may_block("torch is imported and computes in this process")
@pytest.mark.parametrize("family", FAMILIES)
async def test_every_two_way_cut_gives_the_whole_models_output(family: str, tmp_path: Path) -> None:
    model = FAMILIES[family]
    async with two_peers() as (head, _):
        blueprint = await head._workshop.study(model)
        profile, weights = blueprint.profile, await _lively(head, blueprint, tmp_path)
        async with await head.load(model, "local", weights=weights) as whole:
            x = np.random.default_rng(0).normal(size=(1, *profile.input.shape)).astype(np.float32)
            expected = (await whole(x)).output
        assert np.abs(expected).max() > 1e-3, "a model that gives zeros shows nothing"
        cuts = [stage.name for stage in profile.stages[:-1]]
        assert len(cuts) >= len(profile.blocks) - 1 > 0
        for cut in cuts:
            async with await head.load(model, "slices", [cut], ["head", "tail"], weights) as session:
                result = await session(x)
            np.testing.assert_allclose(result.output, expected, rtol=1e-5, atol=1e-5, err_msg=cut)
            assert [row.peer for row in result.trace] == ["head", "tail"]
