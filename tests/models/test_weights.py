"""Weights from a seed, a file, and the hub's cache; pickles never."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from swarm.errors import WeightsError
from swarm.models import Blueprint, fashion_vit
from swarm.models.conversion import as_float32
from swarm.models.copies import kept
from swarm.models.study import study
from swarm.models.tensorfile import read_header
from swarm.models.weights import Manifest, resolve
from tests.models.anatomies import OWNER_MODELS


@pytest.fixture(scope="module")
def seeded(fashion: Blueprint, cache: Path) -> Manifest:
    return asyncio.run(resolve(fashion, "random:7", cache=cache))


@pytest.fixture
def state(seeded: Manifest) -> dict[str, torch.Tensor]:
    return load_file(next(iter(seeded.locations.values())).path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hf" / "hub"


def _on_hub(hub: Path, repository: str, state: dict[str, torch.Tensor]) -> Path:
    folder = hub / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    save_file(state, snapshot / "model.safetensors")
    return snapshot / "model.safetensors"


def _tensor(manifest: Manifest, name: str) -> torch.Tensor:
    ref = manifest.refs[name]
    place = manifest.locations[ref.sha256]
    raw = np.fromfile(place.path, np.uint8, place.nbytes, offset=place.offset)
    return torch.from_numpy(raw).view(getattr(torch, ref.dtype)).reshape(ref.shape)


async def test_a_seed_means_the_same_bytes_everywhere(fashion: Blueprint, seeded: Manifest, tmp_path: Path) -> None:
    again = await resolve(fashion, "random:7", cache=tmp_path)
    assert again.digest == seeded.digest
    assert again.refs == seeded.refs
    assert (await resolve(fashion, "random:8", cache=tmp_path)).digest != seeded.digest


async def test_a_file_is_copied_and_hashed_once(
    fashion: Blueprint, seeded: Manifest, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    file, cache = tmp_path / "mine.safetensors", tmp_path / "cache"
    save_file(state | {"unrelated": torch.zeros(3)}, file)
    heard: list[tuple[str, float | None]] = []
    manifest = await resolve(fashion, str(file), cache=cache, progress=lambda *said: heard.append(said))
    assert manifest.digest == seeded.digest
    assert {place.path.parent for place in manifest.locations.values()} == {cache / "copies"}
    assert {("Copying weights", 1.0), ("Checking weights", 1.0)} <= set(heard)
    heard.clear()
    assert await resolve(fashion, str(file), cache=cache, progress=lambda *said: heard.append(said)) == manifest
    assert heard == [], "it was copied or hashed again"
    assert len(await asyncio.to_thread(_listed, cache / "copies")) == 1


def _listed(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_writing_over_a_file_in_place_changes_nothing_that_runs(
    fashion: Blueprint, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    file, cache = tmp_path / "mine.safetensors", tmp_path / "cache"
    save_file(state, file)
    manifest = await resolve(fashion, str(file), cache=cache)
    before = _tensor(manifest, "head.bias").clone()
    with file.open("r+b") as raw:
        raw.truncate(1000)
    torch.testing.assert_close(_tensor(manifest, "head.bias"), before, rtol=0, atol=0)
    save_file(state | {"head.bias": before + 1}, file)
    again = await resolve(fashion, str(file), cache=cache)
    torch.testing.assert_close(_tensor(again, "head.bias"), before + 1, rtol=0, atol=0)
    torch.testing.assert_close(_tensor(manifest, "head.bias"), before, rtol=0, atol=0)


def test_what_nobody_writes_in_place_is_not_copied(tmp_path: Path) -> None:
    cache, stop = tmp_path / "cache", threading.Event()
    in_cache, in_hub = cache / "a.safetensors", tmp_path / "hub" / "models--timm--x" / "blobs" / "0"
    for file in (in_cache, in_hub):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x")
    for file in (in_cache, in_hub, fashion_vit.WEIGHTS):
        assert kept(file, cache, stop) == file


def test_a_copy_is_whole_or_not_there(tmp_path: Path) -> None:
    file, cache, stop = tmp_path / "mine.safetensors", tmp_path / "cache", threading.Event()
    file.write_bytes(b"x" * 100)

    def write_more(_what: str, _part: float | None) -> None:
        with file.open("ab") as out:
            out.write(b"y")

    with pytest.raises(WeightsError, match="changed while it was copied"):
        kept(file, cache, stop, write_more)
    stop.set()
    with pytest.raises(WeightsError, match="stopped"):
        kept(file, cache, stop)
    assert list((cache / "copies").iterdir()) == []
    (tmp_path / "taken").write_text("a file where the cache should be")
    with pytest.raises(WeightsError, match="cannot be copied to"):
        kept(file, tmp_path / "taken", threading.Event())


def test_a_conversion_has_what_is_wanted_now(tmp_path: Path) -> None:
    save_file({name: torch.ones(2, dtype=torch.float16) for name in "ab"}, tmp_path / "half.safetensors")
    for wanted in ({"a": "float32"}, {"a": "float32", "b": "float32"}, {"a": "float64", "b": "float32"}):
        found = read_header(as_float32(tmp_path / "half.safetensors", wanted, tmp_path / "cache"))
        assert {name: entry.dtype for name, entry in found.items()} == wanted
    assert len(list((tmp_path / "cache" / "converted").iterdir())) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
async def test_other_floats_are_converted(
    fashion: Blueprint, state: dict[str, torch.Tensor], tmp_path: Path, dtype: torch.dtype
) -> None:
    narrow = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    save_file(narrow, tmp_path / "narrow.safetensors")
    manifest = await resolve(fashion, str(tmp_path / "narrow.safetensors"), cache=tmp_path)
    for name in ("blocks.3.attn.qkv.weight", "head.bias"):
        torch.testing.assert_close(_tensor(manifest, name), narrow[name].to(torch.float32), rtol=0, atol=0)


async def test_a_file_that_does_not_fit_says_where(
    fashion: Blueprint, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    state["head.bias"] = torch.zeros(11)
    state["norm.weight"] = torch.zeros(64, dtype=torch.int32)
    del state["norm.bias"]
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError) as caught:
        await resolve(fashion, str(tmp_path / "other.safetensors"), cache=tmp_path)
    sentence = str(caught.value)
    assert "does not fit fashion-vit" in sentence
    assert "'head.bias' has the shape [11] and not [10]" in sentence
    assert "'norm.bias' is missing" in sentence
    assert "'norm.weight' is int32 and not float32" in sentence


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "pytorch_model.bin", "MODEL.PT", "x.pkl", "x.ckpt"])
async def test_pickles_are_refused(fashion: Blueprint, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(WeightsError, match="pickle"):
        await resolve(fashion, str(tmp_path / name), cache=tmp_path)


async def test_a_pickle_under_another_name_is_not_opened_as_one(fashion: Blueprint, tmp_path: Path) -> None:
    (tmp_path / "fine.safetensors").write_bytes(b"PK\x03\x04" + b"\0" * 60 + b"archive/data.pkl")  # as torch writes
    with pytest.raises(WeightsError, match="not a sound safetensors file"):
        await resolve(fashion, str(tmp_path / "fine.safetensors"), cache=tmp_path)


@pytest.mark.parametrize("source", ["random:", "random:-1", "random:x", "random:٣", "random:" + "9" * 30])
async def test_odd_seeds_are_refused(fashion: Blueprint, tmp_path: Path, source: str) -> None:
    with pytest.raises(WeightsError, match="random:SEED"):
        await resolve(fashion, source, cache=tmp_path)


async def test_a_missing_file_is_named(fashion: Blueprint, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nothing\.safetensors"):
        await resolve(fashion, str(tmp_path / "nothing.safetensors"), cache=tmp_path)


@pytest.mark.skipif(not fashion_vit.WEIGHTS.is_file(), reason="the packaged weights are still being trained")
async def test_the_packaged_weights_fit(fashion: Blueprint, cache: Path) -> None:
    manifest = await resolve(fashion, "pretrained", cache=cache)
    assert {place.path for place in manifest.locations.values()} == {fashion_vit.WEIGHTS}


async def test_an_unreachable_hub_says_what_to_do(cache: Path, hub: Path, tmp_path: Path) -> None:
    blueprint = await study("resnet18", cache=cache)
    with pytest.raises(WeightsError, match="hub is unreachable; use --weights FILE or --weights random:SEED"):
        await resolve(blueprint, "pretrained", cache=tmp_path)


async def test_the_hubs_file_is_used_where_it_lies(cache: Path, hub: Path, tmp_path: Path) -> None:
    blueprint = await study("resnet18", cache=cache)
    made = await resolve(blueprint, "random:0", cache=cache)
    file = _on_hub(hub, "timm/resnet18.a1_in1k", load_file(next(iter(made.locations.values())).path))
    manifest = await resolve(blueprint, "pretrained", cache=tmp_path)
    assert manifest.digest == made.digest
    assert {place.path.resolve() for place in manifest.locations.values()} == {file.resolve()}


async def test_names_that_only_timm_understands_are_translated(cache: Path, hub: Path, tmp_path: Path) -> None:
    """As ConvNeXt's authors published it: timm's own filter renames the tensors."""
    blueprint = await study("convnext_atto", cache=cache)
    made = await resolve(blueprint, "random:0", cache=cache)
    state = load_file(next(iter(made.locations.values())).path)
    _on_hub(hub, "timm/convnext_atto.d2_in1k", {_as_published(name): value for name, value in state.items()})
    assert (await resolve(blueprint, "pretrained", cache=tmp_path)).digest == made.digest


def _as_published(name: str) -> str:
    name = name.replace("head.norm", "norm").replace("head.fc", "head").replace("stem.", "downsample_layers.0.")
    name = re.sub(r"stages\.(\d)\.blocks\.(\d)", r"stages.\1.\2", name)
    name = re.sub(r"stages\.(\d)\.downsample\.(\d)", r"downsample_layers.\1.\2", name)
    return name.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")


async def test_torchvisions_pickles_are_refused(cache: Path, tmp_path: Path) -> None:
    blueprint = await study("alexnet", cache=cache)
    with pytest.raises(WeightsError, match=r"pickles.*--weights FILE"):
        await resolve(blueprint, "pretrained", cache=tmp_path)


async def test_a_registered_model_without_weights_says_so(cache: Path, tmp_path: Path) -> None:
    blueprint = await study("tiny-residual", model_files=[OWNER_MODELS], cache=cache)
    with pytest.raises(WeightsError, match="register"):
        await resolve(blueprint, "pretrained", cache=tmp_path, model_files=[OWNER_MODELS])


async def test_cancelling_stops_the_hashing(
    fashion: Blueprint, seeded: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = next(iter(seeded.locations.values())).path
    task = asyncio.create_task(resolve(fashion, str(file), cache=tmp_path))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
