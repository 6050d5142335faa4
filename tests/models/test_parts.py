"""A part in memory: only its own bytes, no timm, and no surprises for those who call it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from swarm.errors import BadInput, CannotSplit, WeightsError
from swarm.models import Blueprint, weights
from swarm.models.assembly import build
from swarm.models.study import study
from swarm.models.thrift import overwrite_dying, skip_idle
from swarm.models.weights import Manifest
from swarm.plan import INPUT, OUTPUT, Part
from tests.models.anatomies import OWNER_MODELS, take_apart

AWKWARD = ["masked", "greedy", "shared", "small-beit", "overwriting"]

PEER = """
import asyncio, json, resource, sys
from pathlib import Path
from typing import Any
import numpy as np
import torch
torch.set_num_threads(1)
bare = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
from swarm.models import weights
from swarm.models.assembly import build
from swarm.models.study import study
from swarm.plan import Part
cache = Path(sys.argv[1])
async def find():
    blueprint = await study("vit_base_patch16_224", cache=cache)
    return blueprint, await weights.resolve(blueprint, "random:0", cache=cache)
blueprint, manifest = asyncio.run(find())
ran = None
if sys.argv[2:]:
    part = Part("vit_base_patch16_224", blueprint.profile.digest, *sys.argv[2:])
    digests = [manifest.refs[slot.name].sha256 for slot in blueprint.tensors_of(part)]
    run = build(blueprint, part, manifest.locations.__getitem__, digests)
    for _ in range(3):
        ran = run(np.zeros((1, *run.input.shape), np.float32)).shape
print(json.dumps({
    "grown": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - bare) * 1024,
    "model": blueprint.profile.parameter_bytes,
    "shape": ran,
    "heavy": [name for name in ("timm", "torchvision", "sympy") if name in sys.modules],
}))
"""


def _peer(cache: Path, *ends: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-P", "-c", PEER, str(cache), *ends], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _manifest(blueprint: Blueprint, cache: Path) -> Manifest:
    return asyncio.run(weights.resolve(blueprint, "random:5", cache=cache))


def _digests(blueprint: Blueprint, part: Part, manifest: Manifest) -> list[str]:
    return [manifest.refs[slot.name].sha256 for slot in blueprint.tensors_of(part)]


def test_a_third_of_a_model_takes_a_third_of_its_memory(cache: Path) -> None:
    _peer(cache)  # study, make and hash the weights: once for this machine
    found = _peer(cache, "blocks.3", "blocks.7")
    assert found["shape"] == [1, 197, 768]
    assert found["grown"] < 0.45 * found["model"]
    assert found["heavy"] == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_modules_come_apart_and_together(name: str, tmp_path: Path) -> None:
    specimen = take_apart(name, tmp_path)
    x = specimen.pictures(3)
    wanted, before = specimen.eager(x), x.copy()
    whole = specimen.built()
    np.testing.assert_allclose(whole(x), wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(whole(x), wanted, rtol=1e-5, atol=1e-5, err_msg="the second time")
    assert specimen.blueprint.cuts
    for cut in specimen.blueprint.cuts:
        middle = specimen.built(INPUT, cut)(x)
        tail = specimen.built(cut)
        np.testing.assert_allclose(tail(middle), wanted, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(tail(middle), wanted, rtol=1e-5, atol=1e-5, err_msg="it changed its input")
    np.testing.assert_array_equal(x, before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["moody", "counting"])
def test_an_uncut_model_runs_whole(name: str, tmp_path: Path) -> None:
    specimen = take_apart(name, tmp_path)
    assert specimen.blueprint.profile.uncut_reason
    x = specimen.pictures(2)
    np.testing.assert_allclose(specimen.built()(x), specimen.eager(x), rtol=1e-5, atol=1e-5)


def test_wrong_inputs_are_refused(fashion: Blueprint, cache: Path) -> None:
    manifest = _manifest(fashion, cache)
    part = Part("fashion-vit", fashion.profile.digest, "blocks.2", "blocks.3")
    digests = _digests(fashion, part, manifest)
    run = build(fashion, part, manifest.locations.__getitem__, digests)
    assert run.parameter_bytes == sum(slot.nbytes for slot in fashion.tensors_of(part))
    good = np.zeros((2, *fashion.boundary("blocks.2").shape), np.float32)
    assert run(good).dtype == np.float32
    good.flags.writeable = False
    assert run(good).flags.writeable
    bad: Any
    for bad in (
        good.astype(np.float64),
        good.astype(np.uint8),
        good[0],
        good[:, 1:],
        good[:0],
        np.array(1, np.float32),
    ):
        with pytest.raises(BadInput, match="float32 of the shape"):
            run(bad)
    with pytest.raises(WeightsError, match="were named"):
        build(fashion, part, manifest.locations.__getitem__, digests[1:])
    with pytest.raises(CannotSplit):
        build(fashion, replace(part, end="blocks.77"), manifest.locations.__getitem__, digests)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["fashion-vit", "tiny-residual", "greedy", "moody"])
def test_pixels_are_normalised_where_the_model_begins(name: str, tmp_path: Path) -> None:
    specimen = take_apart(name, tmp_path)
    config = specimen.blueprint.pictures
    pixels = np.random.default_rng(2).integers(0, 256, (3, *config.input_size), np.uint8)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (config.channel_mean, config.channel_std))
    x = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    run = specimen.built()
    wanted, before = run(x), pixels.copy()
    np.testing.assert_array_equal(run(pixels), wanted)
    pixels.flags.writeable = False
    np.testing.assert_array_equal(run(pixels), wanted)
    np.testing.assert_array_equal(run(pixels[:, :, :, ::-1][:, :, :, ::-1]), wanted)
    np.testing.assert_array_equal(pixels, before)
    for bad in (pixels[:, :, 1:], pixels.astype(np.int8), pixels[0]):
        with pytest.raises(BadInput, match="float32 of the shape"):
            run(bad)


def test_bytes_that_are_not_as_promised_are_refused(fashion: Blueprint, cache: Path, tmp_path: Path) -> None:
    manifest = _manifest(fashion, cache)
    part = Part("fashion-vit", fashion.profile.digest, "blocks.2", "blocks.3")
    digests = _digests(fashion, part, manifest)
    short = tmp_path / "short"
    short.write_bytes(b"\0" * 100)
    for changed in ({"nbytes": 4}, {"path": short, "offset": 0}, {"path": tmp_path / "none"}):
        with pytest.raises(WeightsError):
            build(fashion, part, lambda d, c=changed: replace(manifest.locations[d], **c), digests)  # type: ignore[misc]


async def test_derived_tensors_travel_like_others(cache: Path) -> None:
    blueprint = await study("masked", model_files=[OWNER_MODELS], cache=cache)
    manifest = await weights.resolve(blueprint, "random:1", cache=cache, model_files=[OWNER_MODELS])
    assert {"scale", "plain", "lifted_tensor_0"} <= set(blueprint.derived)
    assert set(manifest.refs) == {slot.name for slot in blueprint.tensors}
    assert manifest.locations[manifest.refs["scale"].sha256].path == blueprint.derived_file


def test_thrift_changes_nothing_but_memory() -> None:
    """An activation is computed in place only where nothing else reads its input; idle dropout is not called."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            alone = nn.functional.gelu(self.one(nn.functional.dropout(x, 0.5, self.training)))
            shared = self.two(x)
            result: torch.Tensor = alone + nn.functional.gelu(shared) + shared + nn.functional.gelu(x)
            return result

    net, x = Net().eval(), torch.randn(3, 4)
    expected, before = net(x), x.clone()
    graph = torch.export.export(net, (x,), strict=False).module()
    skip_idle(graph.graph)
    overwrite_dying(graph.graph)
    graph.recompile()
    targets = [str(node.target) for node in graph.graph.nodes]
    assert targets.count("aten.gelu_.default") == 1
    assert targets.count("aten.gelu.default") == 2
    assert not any("dropout" in target for target in targets)
    assert torch.equal(graph(x), expected)
    assert torch.equal(x, before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["tiny-residual", "greedy", "moody"])
def test_rows_of_many_kinds_enter_together(name: str, tmp_path: Path) -> None:
    specimen = take_apart(name, tmp_path)
    run = specimen.built()
    shape = specimen.blueprint.pictures.input_size
    pixels = np.random.default_rng(2).integers(0, 256, (2, *shape), np.uint8)
    x = specimen.pictures(3)
    x.flags.writeable = False
    pieces: list[Any] = [x, pixels, pixels[:1], torch.from_numpy(specimen.pictures(1))]
    before = [np.array(piece) for piece in pieces]
    wanted = np.concatenate([run(x), run(pixels), run(pixels[:1]), run(specimen.pictures(1))])
    np.testing.assert_allclose(run.leave(run.run(run.enter(pieces))), wanted, rtol=1e-5, atol=1e-6)
    for alike in ([x, x[1:]], [pixels, pixels]):
        both = np.concatenate([run(piece) for piece in alike])
        np.testing.assert_allclose(run.leave(run.run(run.enter(alike))), both, rtol=1e-5, atol=1e-6)
    for piece, old in zip(pieces, before, strict=True):
        np.testing.assert_array_equal(piece, old)
    with pytest.raises(BadInput):
        run.enter([x, torch.zeros(1, *shape, dtype=torch.float64)])


def test_one_array_is_lent_and_not_copied(fashion: Blueprint, cache: Path) -> None:
    manifest = _manifest(fashion, cache)
    part = Part("fashion-vit", fashion.profile.digest, "blocks.2", "blocks.3")
    run = build(fashion, part, manifest.locations.__getitem__, _digests(fashion, part, manifest))
    x = np.ones((2, *run.input.shape), np.float32)
    entered = run.enter([x])
    assert np.shares_memory(run.leave(entered), x)
    assert run.enter([entered]) is entered
    result = run.run(entered)
    assert np.shares_memory(run.leave(result[1:]), run.leave(result))
    assert run.leave(result[1:]).flags.c_contiguous


@pytest.mark.filterwarnings("ignore")
def test_rows_that_left_stay_as_they_were(tmp_path: Path) -> None:
    """Although the next part writes into its input."""
    specimen = take_apart("overwriting", tmp_path)
    head, tail = (specimen.built(*ends) for ends in ((INPUT, "1"), ("1", OUTPUT)))
    assert tail.copies_input
    flowing = head.run(head.enter([specimen.pictures(3)]))
    left = head.leave(flowing[1:])
    before = left.copy()
    tail.run(tail.enter([flowing]))
    tail.run(tail.enter([flowing[:2], flowing[2:]]))
    tail.run(flowing)
    np.testing.assert_array_equal(left, before)
    assert (before < 0).any()


@pytest.mark.filterwarnings("ignore")
def test_a_part_that_only_looks_otherwise_at_its_input_gives_a_copy(tmp_path: Path) -> None:
    specimen = take_apart("tiny-residual", tmp_path)
    assert specimen.blueprint.cuts[0] == "0"
    flatten = specimen.built(INPUT, "0")
    x = specimen.pictures(2)
    y = flatten(x)
    np.testing.assert_array_equal(y, x.reshape(2, -1))
    assert not np.shares_memory(x, y)
