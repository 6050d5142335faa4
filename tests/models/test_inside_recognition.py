"""A study finds the roles of a block's tensors, proves them, and says of other models why it did not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import timm
import torch

from swarm.errors import CannotSplit
from swarm.models import Blueprint
from swarm.models.anatomy import dissect
from swarm.models.blueprint import PictureConfig
from swarm.models.catalogue import Entry
from swarm.models.graph import Graph, Node
from swarm.models.inside.proof import proves
from swarm.models.inside.recognition import recognise
from swarm.models.inside.roles import Roles
from swarm.plan import Part, Shard
from swarm.types import Inside

SMALL = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5, "patch_size": 8}


@cache
def studied(name: str, **config: Any) -> Blueprint:
    """A timm architecture, made small by its configuration."""
    size = config.get("img_size", 224)
    entry = Entry(partial(timm.create_model, name, **config), PictureConfig((3, size, size), (0.5,), (0.5,)), None)
    return dissect(name, entry)[0]


def vit(**config: Any) -> Blueprint:
    return studied("vit_tiny_patch16_224", **(SMALL | config))


def block(blueprint: Blueprint) -> Roles:
    found = next(roles for roles in blueprint.insides if roles is not None)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("config", "activation"),
    [
        ({}, "gelu"),
        ({"act_layer": "gelu_tanh"}, "gelu_tanh"),
        ({"act_layer": "quick_gelu"}, "quick_gelu"),
        ({"act_layer": "silu"}, "silu"),
        ({"act_layer": "relu"}, "relu"),
    ],
)
def test_plain_blocks_come_apart(config: dict[str, Any], activation: str) -> None:
    found = vit(**config)
    inside = [stage.inside for stage in found.profile.stages]
    assert inside.count(Inside(4, 128, 17, 32, 32)) == 2
    assert [stage.name for stage in found.profile.stages if stage.inside] == ["blocks.0", "blocks.1"]
    assert len(found.insides) == len(inside)
    assert found.profile.inside_reason is None
    roles = block(found)
    assert roles.activation == activation
    assert (roles.qkv[0].weight, roles.fc2.bias) == ("blocks.0.attn.qkv.weight", "blocks.0.mlp.fc2.bias")
    assert roles.scale == pytest.approx(8**-0.5)


def test_layer_scale_and_norms_of_heads_have_their_roles() -> None:
    roles = block(vit(init_values=0.1, qk_norm=True))
    assert (roles.gamma1, roles.gamma2) == ("blocks.0.ls1.gamma", "blocks.0.ls2.gamma")
    assert roles.q_norm is not None
    assert roles.k_norm is not None
    assert (roles.q_norm.weight, roles.k_norm.bias) == ("blocks.0.attn.q_norm.weight", "blocks.0.attn.k_norm.bias")


@pytest.mark.parametrize(
    ("name", "config", "tokens", "needed"),
    [
        ("vit_tiny_patch16_224", SMALL, 17, 1),
        ("vit_tiny_patch16_224", SMALL | {"global_pool": "avg"}, 17, 17),
        ("vit_tiny_patch16_224", SMALL | {"global_pool": "avg", "class_token": False}, 16, 16),
        ("vit_tiny_patch16_224", SMALL | {"global_pool": "map"}, 17, 17),
        ("vit_tiny_patch16_224", SMALL | {"reg_tokens": 3}, 20, 1),
        ("deit_tiny_distilled_patch16_224", SMALL, 18, 2),
    ],
)
def test_which_tokens_of_the_last_block_are_read(name: str, config: dict[str, Any], tokens: int, needed: int) -> None:
    found = studied(name, **config)
    inside = found.profile.stages[found.profile.blocks[0]].inside
    assert inside is not None
    assert (inside.tokens, found.profile.needed) == (tokens, needed)


@pytest.mark.parametrize(
    ("name", "config", "why"),
    [
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}, "does not take tokens"),
        ("convnext_atto", {}, "does not take tokens"),
        ("beit_base_patch16_224", SMALL, "attention with a mask or a bias"),
        ("eva02_tiny_patch14_224", {"depth": 2}, "two linear layers"),
        ("cait_xxs24_224", {"depth": 2}, "attention"),
        ("vit_relpos_small_patch16_224", {"depth": 2}, "attention with a mask"),
        ("vit_base_patch16_rpn_224", {"depth": 2}, "residual"),
        ("vit_small_patch14_dinov2", {"depth": 2, "img_size": 28, "mlp_layer": None}, ""),
    ],
)
def test_others_are_left_whole_with_a_reason(name: str, config: dict[str, Any], why: str) -> None:
    if config.pop("mlp_layer", "") is None:
        from timm.layers import SwiGLUPacked

        config, why = config | {"mlp_layer": SwiGLUPacked}, "two linear layers"
    found = studied(name, **config)
    assert all(stage.inside is None for stage in found.profile.stages)
    assert found.insides == ()
    assert found.profile.needed == 0
    reason = found.profile.inside_reason
    assert reason is not None
    assert why in reason
    assert reason.endswith(".")
    with pytest.raises(CannotSplit, match="No block of"):
        found.tensors_of(Part(name, found.profile.digest, "a", "b", shard=Shard((1,), (1,))))


def _with(found: Blueprint, change: Any) -> Blueprint:
    """Recognised anew, with some nodes changed; all that was found before is forgotten."""
    assert found.graph is not None
    stages = tuple(replace(stage, inside=None) for stage in found.profile.stages)
    graph = Graph(tuple(map(change, found.graph.nodes)), found.graph.cuts)
    profile, insides = recognise(replace(found.profile, stages=stages, needed=0), graph, found.tensors)
    return replace(found, profile=profile, insides=insides, graph=graph)


def test_what_reads_like_a_block_but_computes_something_else_is_left_whole() -> None:
    def swapped(node: Node) -> Node:
        order = {0: 1, 1: 0}
        return Node("getitem", (node.args[0], order.get(node.args[1], 2))) if node.op == "getitem" else node

    found = vit()
    assert block(_with(found, lambda node: node)) == block(found)
    other = _with(found, swapped)  # keys first: the operators look the same
    assert other.insides == ()
    assert other.profile.inside_reason == "'blocks.0' computes something else than its operators seem to say."


def test_blocks_that_share_parameters_are_left_whole() -> None:
    def shared(node: Node) -> Node:
        return Node(node.op, (node.args[0].replace("blocks.1.", "blocks.0."),)) if node.op == "tensor" else node

    other = _with(vit(), shared)
    assert other.insides == ()
    assert "shares its parameters with another block" in (other.profile.inside_reason or "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": 0.5},
        {"activation": "gelu_tanh"},
        {"heads": 2, "head_width": 16},
        {"gamma1": "blocks.0.ls2.gamma", "gamma2": "blocks.0.ls1.gamma"},
        {"gamma2": None},
    ],
)
def test_wrong_roles_are_not_proven(wrong: dict[str, Any]) -> None:
    found = vit(init_values=0.3)
    assert found.graph is not None
    slots = {slot.name: slot for slot in found.tensors}
    start = found.profile.stages[found.profile.blocks[0] - 1].name
    torch.manual_seed(0)
    assert proves(found.graph, slots, block(found), start, "blocks.0")
    assert not proves(found.graph, slots, replace(block(found), **wrong), start, "blocks.0")


def test_a_shard_of_all_is_the_models_own_tensors() -> None:
    found = vit(init_values=0.1)
    start = found.profile.stages[found.profile.blocks[0] - 1].name
    plain = Part("vit", found.profile.digest, start, "blocks.1")
    assert found.tensors_of(replace(plain, shard=Shard((4, 4), (128, 128)))) == found.tensors_of(plain)


def test_a_shard_has_its_own_shapes() -> None:
    found = vit(init_values=0.1)
    part = Part("vit", found.profile.digest, "blocks.0", "blocks.1", shard=Shard((3,), (10,)))
    shapes = {slot.name.removeprefix("blocks.1."): slot.shape for slot in found.tensors_of(part)}
    assert shapes == {
        "attn.proj.bias": (32,),
        "attn.proj.weight": (32, 24),
        "attn.qkv.bias": (72,),
        "attn.qkv.weight": (72, 32),
        "ls1.gamma": (32,),
        "ls2.gamma": (32,),
        "mlp.fc1.bias": (10,),
        "mlp.fc1.weight": (10, 32),
        "mlp.fc2.bias": (32,),
        "mlp.fc2.weight": (32, 10),
        "norm1.bias": (32,),
        "norm1.weight": (32,),
        "norm2.bias": (32,),
        "norm2.weight": (32,),
    }
    empty = {slot.name for slot in found.tensors_of(replace(part, shard=Shard((0,), (0,))))}
    gone = {"attn.proj.weight", "attn.qkv.bias", "attn.qkv.weight", "mlp.fc1.bias", "mlp.fc1.weight", "mlp.fc2.weight"}
    assert {name.removeprefix("blocks.1.") for name in empty} == shapes.keys() - gone


@pytest.mark.parametrize(
    ("start", "end", "heads", "neurons", "why"),
    [
        ("input", "blocks.1", (4, 4), (128, 128), "no run of blocks from 'input' to 'blocks.1'"),
        ("blocks.1", "blocks.0", (4,), (128,), "no run of blocks"),
        ("blocks.0", "blocks.0", (), (), "no run of blocks"),
        ("blocks.0", "nowhere", (4,), (128,), "no run of blocks"),
        ("blocks.0", "norm", (4, 4), (128, 128), "'norm' of .* is not a block"),
        ("blocks.0", "blocks.1", (4, 4), (128, 128), "There are 1 blocks .* heads of 2"),
        ("blocks.0", "blocks.1", (4,), (), "neurons of 0"),
        ("blocks.0", "blocks.1", (5,), (128,), "has 4 heads and 128 neurons, not 5 and 128"),
        ("blocks.0", "blocks.1", (4,), (129,), "not 4 and 129"),
    ],
)
def test_a_shard_that_does_not_fit_is_refused(
    start: str, end: str, heads: tuple[int, ...], neurons: tuple[int, ...], why: str
) -> None:
    found = vit()
    with pytest.raises(CannotSplit, match=why):
        found.tensors_of(Part("vit", found.profile.digest, start, end, shard=Shard(heads, neurons)))


def test_roles_are_stored_with_the_blueprint(fashion: Blueprint) -> None:
    assert fashion.profile.needed == 1
    assert sum(roles is not None for roles in fashion.insides) == 12
    assert fashion.profile.stages[fashion.profile.blocks[3]].inside == Inside(4, 256, 17, 64, 64)
