"""Members of a group in lock-step give what the whole run of blocks gives."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swarm.errors import BadInput, CannotSplit, ProtocolError
from swarm.models import registry
from swarm.models.assembly import build_shard
from swarm.models.inside.cutting import cut
from swarm.models.inside.products import Product
from swarm.models.inside.running import RunnableShard
from swarm.models.inside.wires import byte_count, decode, encode
from swarm.plan import Group, Split
from tests.models.anatomies import Specimen, take_apart
from tests.models.grouped import Array, Driver, group_of, step_of

PARTS = {1: (17,), 2: (9, 8), 3: (1, 10, 6), 5: (4, 0, 6, 2, 5)}
HEADS = {1: (4,), 2: (3, 1), 3: (2, 0, 2), 5: (1, 1, 0, 1, 1)}
NEURONS = {1: (256,), 2: (150, 106), 3: (0, 201, 55), 5: (1, 100, 55, 0, 100)}


def _vit(**config: Any) -> Any:
    from timm.models.vision_transformer import VisionTransformer

    settings = {"img_size": 16, "patch_size": 4, "num_classes": 3, "embed_dim": 48, "depth": 3, "num_heads": 4} | config
    return VisionTransformer(**settings)


def _separate() -> Any:
    """Queries, keys and values from linear layers of their own, SiLU between, and a scale of its own."""
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(24), nn.LayerNorm(24, elementwise_affine=False)
            self.q, self.k, self.v = nn.Linear(24, 32), nn.Linear(24, 32, bias=False), nn.Linear(24, 32)
            self.proj, self.up, self.down = nn.Linear(32, 24, bias=False), nn.Linear(24, 50), nn.Linear(50, 24)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm1(x)
            q, k, v = (linear(y).unflatten(2, (4, 8)).transpose(1, 2) for linear in (self.q, self.k, self.v))
            mixed = functional.scaled_dot_product_attention(q, k, v, scale=0.3).transpose(1, 2).flatten(2)
            x = x + self.proj(mixed)
            made: torch.Tensor = self.down(functional.silu(self.up(self.norm2(x)))) + x
            return made

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.blocks, self.head = nn.Linear(8, 24), nn.Sequential(Block(), Block()), nn.Linear(24, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.head(self.blocks(self.embed(x.flatten(1, 2))).mean(1))
            return made

    return Whole()


FAMILIES: dict[str, tuple[Any, tuple[int, int, int]]] = {
    "inside-scaled": (partial(_vit, init_values=0.7), (3, 16, 16)),
    "inside-normed": (partial(_vit, qk_norm=True, act_layer="quick_gelu"), (3, 16, 16)),
    "inside-twelve": (partial(_vit, embed_dim=96, num_heads=12, patch_size=8, act_layer="gelu_tanh"), (3, 16, 16)),
    "inside-averaged": (partial(_vit, global_pool="avg", qkv_bias=False, act_layer="relu"), (3, 16, 16)),
    "inside-separate": (_separate, (1, 16, 8)),
}


@pytest.fixture(scope="session")
def specimens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Specimen]]:
    """Taken apart when asked for, once."""
    folder = tmp_path_factory.mktemp("inside")
    known = dict(registry.REGISTERED)

    class Specimens(dict[str, Specimen]):
        def __missing__(self, name: str) -> Specimen:
            if name in FAMILIES and name not in registry.REGISTERED:
                factory, shape = FAMILIES[name]
                registry.register(name, input_shape=shape)(factory)
            self[name] = take_apart(name, folder)
            return self[name]

    yield Specimens()
    for name in FAMILIES.keys() & registry.REGISTERED.keys() - known.keys():
        del registry.REGISTERED[name]


def shards_of(specimen: Specimen, group: Group, cache: Path, importance: Any = None) -> list[RunnableShard]:
    made = asyncio.run(cut(specimen.blueprint, specimen.manifest, step_of(group), importance, cache))
    places = {**specimen.manifest.locations, **made.locations}
    return [
        build_shard(specimen.blueprint, member.part, places.__getitem__, digests)
        for member, digests in zip(group.members, made.digests, strict=True)
    ]


def tokens_in(group: Group, batch: int) -> Array:
    return np.random.default_rng(batch).standard_normal((batch, group.tokens, group.width), np.float32)


def wanted(specimen: Specimen, group: Group, x: Array) -> Array:
    """What the whole run of blocks gives, as the exported graph has it; what nobody reads is zero."""
    part = group.members[0].part
    whole: Array = specimen.built(part.start, part.end)(x)
    whole[:, group.needed :] = 0
    return whole


def assert_close(found: Array, truth: Array, x: Array, tolerance: float) -> None:
    """Relative to what the blocks add to their input."""
    assert found.dtype == np.float32
    assert found.shape == truth.shape
    most = np.abs(truth - x)[np.abs(truth) > 0].max()
    assert np.abs(found - truth).max() <= tolerance * most


def spread(total: int, like: tuple[int, ...]) -> list[int]:
    """As many as `total` among the members, as unevenly as in the example."""
    shares = [share * total // sum(like) for share in like]
    shares[like.index(max(like))] += total - sum(shares)
    return shares


def group_like(specimen: Specimen, split: Any, members: int, **more: Any) -> Group:
    inside = next(stage.inside for stage in specimen.blueprint.profile.stages if stage.inside is not None)
    heads, neurons = (None, None)
    if split == "columns":
        heads, neurons = spread(inside.heads, HEADS[members]), spread(inside.neurons, NEURONS[members])
    return group_of(specimen.blueprint, split, spread(inside.tokens, PARTS[members]), heads, neurons, **more)


@pytest.mark.parametrize("members", [1, 2, 3, 5])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("how", ["tokens", "columns", "scatters"])
@pytest.mark.parametrize("name", ["fashion-vit", *FAMILIES])
def test_together_they_give_what_the_whole_gives(
    name: str, how: str, batch: int, members: int, specimens: dict[str, Specimen], tmp_path: Path
) -> None:
    specimen = specimens[name]
    for needed in (None, 1, 3):
        split = "tokens" if how == "tokens" else "columns"
        group = group_like(specimen, split, members, scatters=how == "scatters", needed=needed)
        x = tokens_in(group, batch)
        before = x.copy()
        found = Driver(group, shards_of(specimen, group, tmp_path)).run(x)
        assert_close(found, wanted(specimen, group, x), x, 1e-4)
        assert (x == before).all()
        assert (found[:, group.needed :] == 0).all()


@pytest.mark.parametrize("how", ["tokens", "columns", "scatters"])
@pytest.mark.parametrize(("wire", "tolerance"), [("float16", 1e-3), ("bfloat16", 8e-3), ("int8", 2e-2)])
def test_narrow_wires_are_close(
    how: str, wire: str, tolerance: float, specimens: dict[str, Specimen], tmp_path: Path
) -> None:
    for name in ("inside-scaled", "inside-separate"):
        specimen = specimens[name]
        split = "tokens" if how == "tokens" else "columns"
        group = group_like(specimen, split, 3, scatters=how == "scatters", wire=wire)
        x = tokens_in(group, 2)
        truth = wanted(specimen, group, x)
        found = Driver(group, shards_of(specimen, group, tmp_path)).run(x)
        assert np.abs(found - truth).max() <= tolerance * np.abs(truth).max()
        exact = Driver(replace(group, wire="float32"), shards_of(specimen, group, tmp_path)).run(x)
        assert np.abs(found - exact).max() > 0, "nothing was narrowed"


@pytest.mark.parametrize("wire", ["float32", "float16", "int8"])
@pytest.mark.parametrize("scatters", [False, True])
def test_all_residuals_of_columns_are_the_same_bit_by_bit(
    wire: str, scatters: bool, specimens: dict[str, Specimen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from swarm.models.inside.columns import _Request

    specimen = specimens["inside-scaled"]
    group = group_like(specimen, "columns", 3, wire=wire, scatters=scatters)
    seen: dict[int, list[bytes]] = {}
    real = _Request.partial

    def watched(self: Any, *args: Any) -> Any:
        seen.setdefault(self._me, []).append(self._x.numpy().tobytes())
        return real(self, *args)

    monkeypatch.setattr(_Request, "partial", watched)
    Driver(group, shards_of(specimen, group, tmp_path)).run(tokens_in(group, 2))
    assert seen[0] == seen[1] == seen[2]
    assert len(set(seen[0])) == len(seen[0]) == 6


@pytest.mark.parametrize("how", ["tokens", "columns", "scatters"])
@pytest.mark.parametrize("gone", [{1: 0}, {2: 1}, {1: 2, 2: 3}, {1: 0, 2: 0}])
def test_without_some_members_the_others_go_on(
    how: str, gone: dict[int, int], specimens: dict[str, Specimen], tmp_path: Path
) -> None:
    specimen = specimens["inside-scaled"]
    split: Split = "tokens" if how == "tokens" else "columns"
    group = group_of(
        specimen.blueprint,
        split,
        (7, 5, 5),
        (2, 1, 1) if split == "columns" else None,
        (100, 50, 42) if split == "columns" else None,
        scatters=how == "scatters",
    )
    x = tokens_in(group, 2)
    shards = shards_of(specimen, group, tmp_path)
    found = Driver(group, shards, gone).run(x)
    assert np.isfinite(found).all()
    assert np.abs(found[:, :7] - wanted(specimen, group, x)[:, :7]).max() > 1e-3
    if how == "tokens":
        starts = (0, 7, 12, 17)
        for member in (1, 2):
            assert (found[:, starts[member] : starts[member + 1]] == 0).all() == (member in gone)


def test_attention_without_a_member_is_attention_over_the_tokens_that_are_left(
    specimens: dict[str, Specimen], tmp_path: Path
) -> None:
    specimen = specimens["inside-normed"]
    group = group_of(specimen.blueprint, "tokens", (7, 5, 5))
    x = tokens_in(group, 2)
    found = Driver(group, shards_of(specimen, group, tmp_path), {1: 0}).run(x)
    whole = group_of(specimen.blueprint, "tokens", (17,))
    (shard,) = shards_of(specimen, whole, tmp_path)
    left = np.concatenate([x[:, :7], x[:, 12:]], axis=1)
    shard._tokens = 12
    alone = Driver(replace(whole, tokens=12, needed=12, members=(replace(whole.members[0], tokens=12),)), [shard])
    assert_close(np.delete(found, slice(7, 12), axis=1), alone.run(left), left, 1e-5)


def test_a_lost_member_of_columns_is_as_if_its_weights_were_zero(
    specimens: dict[str, Specimen], tmp_path: Path
) -> None:
    specimen = specimens["fashion-vit"]
    group = group_of(specimen.blueprint, "columns", (17, 0, 0), (2, 1, 1), (128, 64, 64))
    x = tokens_in(group, 1)
    shards = shards_of(specimen, group, tmp_path)
    lost = Driver(group, shards, {2: 0}).run(x)
    for block in shards[2].blocks:
        block._proj, block._fc2 = (Product(torch.zeros(64, width), None) for width in (block.keys, block.neurons))
    assert_close(lost, Driver(group, shards).run(x), x, 1e-6)


def test_a_lead_without_tokens_gathers_the_result(specimens: dict[str, Specimen], tmp_path: Path) -> None:
    specimen = specimens["fashion-vit"]
    group = group_of(specimen.blueprint, "tokens", (0, 9, 8), needed=12)
    x = tokens_in(group, 2)
    found = Driver(group, shards_of(specimen, group, tmp_path)).run(x)
    assert_close(found, wanted(specimen, group, x), x, 1e-4)


def test_a_run_of_some_blocks(specimens: dict[str, Specimen], tmp_path: Path) -> None:
    specimen = specimens["fashion-vit"]
    group = group_of(specimen.blueprint, "tokens", (9, 8), start="blocks.3", end="blocks.5")
    assert group.members[0].part.shard is not None
    assert len(group.members[0].part.shard.heads) == 2
    x = tokens_in(group, 1)
    found = Driver(group, shards_of(specimen, group, tmp_path)).run(x)
    assert_close(found, wanted(specimen, group, x), x, 1e-4)


def test_a_shard_refuses_what_it_is_not_made_for(specimens: dict[str, Specimen], tmp_path: Path) -> None:
    specimen = specimens["fashion-vit"]
    group = group_of(specimen.blueprint, "columns", (9, 8), (3, 1), (200, 56))
    lead, other = shards_of(specimen, group, tmp_path)
    x = tokens_in(group, 1)
    post = lambda exchange, buffers: None  # noqa: E731
    with pytest.raises(BadInput, match=r"\[B, 17, 64\] and was given float32 \[1, 9, 64\]"):
        lead.turns(group, 0, x[:, :9], post)
    with pytest.raises(BadInput, match="float64"):
        lead.turns(group, 0, x.astype(np.float64), post)
    with pytest.raises(CannotSplit, match="not what member 0"):
        other.turns(group, 0, x, post)
    with pytest.raises(CannotSplit, match="not all heads"):
        lead.turns(replace(group, split="tokens"), 0, x[:, :9], post)
    assert lead.parameter_bytes > other.parameter_bytes > 0


@pytest.mark.parametrize("wire", ["float32", "float16", "bfloat16", "int8"])
def test_a_wire_gives_back_what_it_was_given(wire: str) -> None:
    rows = torch.randn(5, 12, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1, 10, 0, 3])[:, None]
    buffer = encode(rows, wire)
    assert buffer.nbytes == byte_count(5, 12, wire)
    apart = torch.empty(5, 20)
    for given in (bytearray(buffer), bytes(buffer)):
        decode(memoryview(given), wire, apart[:, 4:16])
        error = (apart[:, 4:16] - rows).abs().amax(1)
        bound = {"float32": 0, "float16": 2**-11, "bfloat16": 2**-8, "int8": 0.51 / 127}[wire]
        assert (error <= bound * rows.abs().amax(1) + 1e-9).all()
    with pytest.raises(ProtocolError, match="bytes came where"):
        decode(buffer[:-1], wire, apart[:, 4:16])


def test_float16_saturates() -> None:
    out = torch.empty(1, 3)
    decode(encode(torch.tensor([[1e6, -1e6, 2.0]]), "float16"), "float16", out)
    assert out.tolist() == [[65504.0, -65504.0, 2.0]]


def test_no_other_wires() -> None:
    with pytest.raises(ProtocolError, match="'float8' is not a wire dtype"):
        encode(torch.zeros(1, 1), "float8")
