"""Tensors of a group's members, cut out of the model's file: right, complete, named by content, and cut once."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swarm.errors import CannotSplit
from swarm.models import Blueprint, weights
from swarm.models.inside import cutting
from swarm.models.inside.extents import extents
from swarm.models.weights import Manifest
from swarm.models.workshop import Workshop
from swarm.plan import Group, weights_digest
from swarm.types import Location
from swarm.workshop import Shards
from tests.models.grouped import group_of, step_of


@dataclass(frozen=True)
class Scores:
    heads: list[list[float]]
    neurons: list[list[float]]


@pytest.fixture(scope="module")
def manifest(fashion: Blueprint, cache: Path) -> Manifest:
    return asyncio.run(weights.resolve(fashion, "random:9", cache=cache))


def cut(
    blueprint: Blueprint, manifest: Manifest, group: Group, cache: Path, importance: cutting.Importance | None = None
) -> Shards:
    return asyncio.run(cutting.cut(blueprint, manifest, step_of(group), importance, cache))


def content(place: Location) -> bytes:
    with place.path.open("rb") as file:
        file.seek(place.offset)
        return file.read(place.nbytes)


def values(blueprint: Blueprint, manifest: Manifest, group: Group, made: Shards) -> list[dict[str, Any]]:
    """Each member's tensors, every digest checked."""
    places = {**manifest.locations, **made.locations}
    found = []
    for member, digests in zip(group.members, made.digests, strict=True):
        tensors = {}
        for slot, digest in zip(blueprint.tensors_of(member.part), digests, strict=True):
            raw = content(places[digest])
            assert sha256(raw).hexdigest() == digest
            tensors[slot.name] = np.frombuffer(raw, np.float32).reshape(slot.shape)
        found.append(tensors)
    return found


def columns(blueprint: Blueprint) -> Group:
    return group_of(blueprint, "columns", (17, 0, 0), (2, 1, 1), (100, 100, 56))


def test_together_the_shards_are_the_whole(fashion: Blueprint, manifest: Manifest, tmp_path: Path) -> None:
    group = columns(fashion)
    held = values(fashion, manifest, group, cut(fashion, manifest, group, tmp_path))
    checked = 0
    for roles in fashion.insides:
        if roles is None:
            continue
        for name, extent in extents(roles).items():
            ref = manifest.refs[name]
            whole = np.frombuffer(content(manifest.locations[ref.sha256]), np.float32).reshape(ref.shape)
            each = [tensors[name] for tensors in held]
            if extent is None:
                assert all((one == whole).all() for one in each)
                continue
            parts = [np.moveaxis(one, extent.axis, 0) for one in each]
            together = np.sort(np.concatenate([part.reshape(len(part), -1) for part in parts]), axis=0)
            flat = np.moveaxis(whole, extent.axis, 0)
            assert (together == np.sort(flat.reshape(len(flat), -1), axis=0)).all()
            checked += 1
    assert checked == 12 * 6


def test_the_lead_has_the_most_important_ones(fashion: Blueprint, manifest: Manifest, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    scores = Scores(random.random((12, 4)).tolist(), random.random((12, 256)).tolist())
    group = group_of(fashion, "columns", (17, 0), (3, 1), (200, 56), start="blocks.4", end="blocks.6")
    lead, other = values(fashion, manifest, group, cut(fashion, manifest, group, tmp_path, scores))
    for block in (5, 6):
        ref = manifest.refs[f"blocks.{block}.attn.qkv.weight"]
        qkv = np.frombuffer(content(manifest.locations[ref.sha256]), np.float32).reshape(3, 4, 16, 64)
        best = np.sort(np.argsort(scores.heads[block])[1:])
        worst = int(np.argmin(scores.heads[block]))
        assert (lead[ref.name].reshape(3, 3, 16, 64) == qkv[:, best]).all()
        assert (other[ref.name].reshape(3, 16, 64) == qkv[:, worst]).all()
        ref = manifest.refs[f"blocks.{block}.mlp.fc2.weight"]
        fc2 = np.frombuffer(content(manifest.locations[ref.sha256]), np.float32).reshape(ref.shape)
        assert (lead[ref.name] == fc2[:, np.sort(np.argsort(scores.neurons[block])[56:])]).all()


def test_a_shard_of_all_is_not_copied(fashion: Blueprint, manifest: Manifest, tmp_path: Path) -> None:
    for group in (
        group_of(fashion, "tokens", (9, 8)),
        group_of(fashion, "columns", (17, 0), (4, 0), (256, 0)),
    ):
        made = cut(fashion, manifest, group, tmp_path)
        assert made.locations == {}
        part = replace(group.members[0].part, shard=None)
        plain = [manifest.refs[slot.name].sha256 for slot in fashion.tensors_of(part)]
        assert list(made.digests[0]) == plain
        assert weights_digest(made.digests[0]) == weights_digest(plain)


def test_the_same_cut_again_is_read(
    fashion: Blueprint, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = columns(fashion)
    first = cut(fashion, manifest, group, tmp_path)
    monkeypatch.setattr(cutting, "_made", None)
    assert cut(fashion, manifest, group, tmp_path) == first
    narrow = replace(group, wire="float16", tokens=17)
    assert cut(fashion, manifest, narrow, tmp_path) == first
    other = group_of(fashion, "columns", (17, 0, 0), (2, 1, 1), (100, 99, 57))
    with pytest.raises(TypeError):
        cut(fashion, manifest, other, tmp_path)


@pytest.mark.parametrize("what", ["index", "no index", "short", "no file", "wrong digests", "other place"])
def test_what_was_damaged_is_cut_again(fashion: Blueprint, manifest: Manifest, tmp_path: Path, what: str) -> None:
    group = columns(fashion)
    first = cut(fashion, manifest, group, tmp_path)
    (index,) = tmp_path.rglob(cutting.INDEX_FILE)
    (file,) = tmp_path.rglob(cutting.SHARDS_FILE)
    said = json.loads(index.read_text())
    if what == "index":
        index.write_bytes(index.read_bytes()[:-20])
    elif what == "no index":
        index.unlink()
    elif what == "short":
        os.truncate(file, file.stat().st_size - 1)
    elif what == "no file":
        file.unlink()
    elif what == "wrong digests":
        said["digests"][0] = said["digests"][0][1:]
        index.write_text(json.dumps(said))
    else:
        digest = next(iter(said["places"]))
        said["places"][digest][0] = 1 << 40
        index.write_text(json.dumps(said))
    again = cut(fashion, manifest, group, tmp_path)
    assert again == first
    values(fashion, manifest, group, again)


def test_two_at_once_cut_one_after_the_other(fashion: Blueprint, manifest: Manifest, tmp_path: Path) -> None:
    group = columns(fashion)

    async def both() -> list[Shards]:
        each = [cutting.cut(fashion, manifest, step_of(group), None, tmp_path) for _ in range(3)]
        return await asyncio.gather(*each)

    first, *others = asyncio.run(both())
    assert others == [first, first]
    values(fashion, manifest, group, first)


@pytest.mark.parametrize(
    ("heads", "neurons", "why"),
    [
        ((3, 2), (128, 128), "4 heads or neurons cannot be dealt out as 3, 2"),
        ((2, 1), (128, 128), "cannot be dealt out as 2, 1"),
        ((2, 2), (128, 127), "256 heads or neurons cannot be dealt out"),
        ((5, 0), (128, 128), "not 5 and 128"),
    ],
)
def test_shares_that_are_not_there_are_refused(
    fashion: Blueprint, manifest: Manifest, tmp_path: Path, heads: tuple[int, ...], neurons: tuple[int, ...], why: str
) -> None:
    group = group_of(fashion, "columns", (9, 8), heads, neurons)
    with pytest.raises(CannotSplit, match=why):
        cut(fashion, manifest, group, tmp_path)


def test_other_groups_are_refused(fashion: Blueprint, manifest: Manifest, tmp_path: Path) -> None:
    tokens = group_of(fashion, "tokens", (9, 8), (4, 3))
    with pytest.raises(CannotSplit, match="need all heads"):
        cut(fashion, manifest, tokens, tmp_path)
    with pytest.raises(CannotSplit, match="Block 2 has no importance"):
        cut(fashion, manifest, columns(fashion), tmp_path, Scores([[1.0] * 4] * 2, [[1.0] * 256] * 12))
    alone = replace(step_of(columns(fashion)), group=None)
    with pytest.raises(CannotSplit, match="one peer alone"):
        asyncio.run(cutting.cut(fashion, manifest, alone, None, tmp_path))


async def test_a_workshop_cuts_and_builds(fashion: Blueprint, tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, (), "cpu", 1)
    manifest = await workshop.resolve(fashion, "random:9")
    group = columns(fashion)
    made = await workshop.cut(fashion, manifest, step_of(group), None)
    places = {**manifest.locations, **made.locations}
    part = group.members[1].part
    shard = await asyncio.to_thread(workshop.shard, fashion, part, made.digests[1], places.__getitem__)
    twin = await asyncio.to_thread(workshop.shard, fashion, part, made.digests[1], places.__getitem__)
    assert shard.part == part
    assert shard.parameter_bytes == sum(slot.nbytes for slot in fashion.tensors_of(part))
    assert all(one is other for one, other in zip(shard.tensors, twin.tensors, strict=True))


CUTTER = """
import asyncio, json, resource, sys
from pathlib import Path
from swarm.models import weights
from swarm.models.inside.cutting import cut
from swarm.models.study import study
from tests.models.grouped import group_of, step_of
cache = Path(sys.argv[1])
async def main():
    blueprint = await study("vit_base_patch16_224", cache=cache)
    manifest = await weights.resolve(blueprint, "random:0", cache=cache)
    group = group_of(blueprint, "columns", (99, 98), (8, 4), (2000, 1072))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made = await cut(blueprint, manifest, step_of(group), None, cache)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(json.dumps([grown, sum(place.nbytes for place in made.locations.values())]))
asyncio.run(main())
"""


def test_cutting_never_holds_the_whole_model(cache: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join([str(root / ".links"), str(root)])
    done = subprocess.run(
        [sys.executable, "-P", "-c", CUTTER, str(cache)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    grown, written = json.loads(done.stdout)
    assert written > 300e6
    assert grown < 100e6
