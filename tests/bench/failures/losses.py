"""A model while devices are missing: what they held gives nothing, or the mean of what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from swarm.models.importance.roles import BlockRoles
from swarm.models.importance.scores import Batch
from tests.bench.failures.schemes import ColumnScores, Shared


@dataclass(frozen=True, slots=True)
class Means:
    """Of one block, over pictures and tokens: what goes into W_o `[heads * each]` and into W_2 `[neurons]`."""

    values: torch.Tensor
    neurons: torch.Tensor


@contextmanager
def missing(
    model: nn.Module,
    blocks: Sequence[BlockRoles],
    shared: Sequence[Shared],
    lost: frozenset[int],
    means: Sequence[Means] | None = None,
) -> Iterator[None]:
    """While it lasts, what the lost devices hold is zero; with `means`, the biases make up for it on average."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        with torch.no_grad():
            state = dict(model.named_parameters())
            for index, (block, of) in enumerate(zip(blocks, shared, strict=True)):
                matches, values, neurons = (_among(owners, lost) for owners in (of.matches, of.values, of.neurons))
                if means is not None:
                    _make_up(state, block.heads.columns, values, means[index].values)
                    _make_up(state, block.neurons.columns, neurons, means[index].neurons)
                query = block.heads.rows[0]
                rows = query.start + matches
                state[query.weight][rows] = 0
                if query.bias is not None:
                    state[query.bias][rows] = 0
                state[block.heads.columns][:, values] = 0
                state[block.neurons.columns][:, neurons] = 0
        yield
    finally:
        model.load_state_dict(before)


def _among(owners: Any, lost: frozenset[int]) -> torch.Tensor:
    return torch.tensor([unit for unit, owner in enumerate(owners) if int(owner) in lost], dtype=torch.long)


def _make_up(state: dict[str, nn.Parameter], columns: str, gone: torch.Tensor, means: torch.Tensor) -> None:
    state[columns.removesuffix("weight") + "bias"].data += state[columns][:, gone] @ means[gone]


@torch.no_grad()
def mean_inputs(model: nn.Module, blocks: Sequence[BlockRoles], batches: Sequence[Batch]) -> list[Means]:
    """What the whole model's W_o and W_2 take in, on average."""
    layers = dict(model.named_modules())
    sums: dict[str, torch.Tensor] = {}
    names = [units.columns.removesuffix(".weight") for block in blocks for units in (block.heads, block.neurons)]
    hooks = [layers[name].register_forward_pre_hook(_adding(name, sums)) for name in names]
    for x, _ in batches:
        model(x)
    for hook in hooks:
        hook.remove()
    means = [sums[name] / len(batches) for name in names]
    return [Means(*pair) for pair in zip(means[::2], means[1::2], strict=True)]


def _adding(name: str, sums: dict[str, torch.Tensor]) -> Callable[[Any, Any], None]:
    def hook(_: Any, arguments: Any) -> None:
        mean = arguments[0].flatten(0, -2).mean(0)
        sums[name] = sums[name] + mean if name in sums else mean

    return hook


def column_scores(blocks: Sequence[BlockRoles], weights: dict[str, torch.Tensor]) -> list[ColumnScores]:
    """Of single columns, from |w · ∂L/∂w| of every weight."""
    scores = []
    for block in blocks:
        count = block.heads.count * block.heads.each
        query, key, value = (
            weights[rows.weight][rows.start : rows.start + count].sum(1)
            + (weights[rows.bias][rows.start : rows.start + count] if rows.bias is not None else 0)
            for rows in block.heads.rows
        )
        out = weights[block.heads.columns].sum(0)
        rising = block.neurons.rows[0]
        neurons = weights[rising.weight].sum(1) + weights[block.neurons.columns].sum(0)
        if rising.bias is not None:
            neurons = neurons + weights[rising.bias]
        scores.append(ColumnScores(*(each.float().numpy() for each in (query + key, value + out, neurons))))
    return scores
