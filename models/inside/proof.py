"""What a study finds out by running numbers through regions: whether roles are right, which tokens matter."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from swarm.models.blueprint import TensorSlot
from swarm.models.graph import Graph
from swarm.models.inside.formula import Block
from swarm.models.inside.roles import Roles
from swarm.models.inside.tokens import turns
from swarm.models.rebuild import rebuild
from swarm.plan import OUTPUT, Group, Member, Part, Shard

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Of the largest element that a block adds to its residual."""
_SAME = 1e-6
_SEED = 11


def proves(graph: Graph, slots: Mapping[str, TensorSlot], roles: Roles, start: str, end: str) -> bool:
    """Whether a block's formula gives what its region of the graph gives."""
    random = torch.Generator().manual_seed(_SEED)
    tensors = random_tensors(graph, slots, start, end, random)
    if not set(roles.names()) <= tensors.keys():
        return False
    x = torch.randn(2, roles.tokens, roles.width, generator=random)
    try:
        with torch.inference_mode():
            wanted = rebuild(graph, tensors, "cpu", start, end)(x.clone())
        found = _formula(roles, tensors, x.clone())
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        log.debug("The formula of '%s' does not run: %s", end, error)
        return False
    most = (wanted - x).abs().amax()
    return bool((found - wanted).abs().amax() <= TOLERANCE * most)


def _formula(roles: Roles, tensors: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """A block of a group of one, by the very code that will run it."""
    part = Part("proof", "0" * 64, shard=Shard((roles.heads,), (roles.neurons,)))
    group = Group("tokens", (Member(part, roles.tokens),), roles.tokens, roles.width, roles.keys, roles.tokens)
    running = turns([Block(roles, tensors)], group, 0, x, lambda exchange, buffers: None)
    try:
        next(running)
    except StopIteration as end:
        return torch.from_numpy(end.value)
    raise RuntimeError("a group of one waits for nobody")


def needed_tokens(graph: Graph, slots: Mapping[str, TensorSlot], cut: str) -> int:
    """How many tokens at a cut, the first ones, have any influence on the model's output."""
    random = torch.Generator().manual_seed(_SEED)
    shape = graph.cut(cut).tensor.shape
    if cut == OUTPUT:
        return shape[0]
    rest = rebuild(graph, random_tensors(graph, slots, cut, OUTPUT, random), "cpu", cut, OUTPUT)
    x, other = torch.randn(2, 1, *shape, generator=random)

    def reads_behind(count: int) -> bool:
        mixed = torch.cat([x[:, :count], other[:, count:]], dim=1)
        changed = rest(mixed)
        return not bool((changed - wanted).abs().amax() <= _SAME * wanted.abs().amax())

    with torch.inference_mode():
        wanted: Any = rest(x.clone())
        least, most = 0, shape[0]
        while least < most:
            middle = (least + most) // 2
            least, most = (middle + 1, most) if reads_behind(middle) else (least, middle)
    return max(1, least)


def random_tensors(
    graph: Graph, slots: Mapping[str, TensorSlot], start: str, end: str, random: torch.Generator
) -> dict[str, torch.Tensor]:
    """Parameters of a region that keep its numbers in a fair range; vectors around 1, which variances bear too."""
    return {name: _random(slots[name], random) for name in graph.tensor_names(start, end)}


def _random(slot: TensorSlot, random: torch.Generator) -> torch.Tensor:
    dtype = getattr(torch, slot.dtype)
    if not dtype.is_floating_point:
        return torch.zeros(slot.shape, dtype=dtype)
    if len(slot.shape) < 2:
        return (0.5 + torch.rand(slot.shape, generator=random)).to(dtype)
    fan_in = max(1, slot.nbytes // slot.shape[0] // dtype.itemsize)
    spread = float(fan_in) ** -0.5
    made: torch.Tensor = torch.randn(slot.shape, generator=random) * spread
    return made.to(dtype)
