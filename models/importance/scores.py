"""How much each head and neuron matters: the first-order Taylor score of EASTER's equation 1.

A weight w matters by |w · ∂L/∂w|, what the loss would change by if it were 0. A head, or a neuron, matters by the sum
over its weights: its rows and biases on the way in, its columns on the way out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from swarm.models.importance.roles import BlockRoles, Units

Batch = tuple[torch.Tensor, torch.Tensor]
"""The model's input `[B, C, H, W]` and labels `[B]`."""
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BlockScores:
    """Of one block."""

    heads: Scores
    neurons: Scores


def taylor(
    model: nn.Module, blocks: Sequence[BlockRoles], batches: Iterable[Batch], done: Callable[[], None]
) -> tuple[BlockScores, ...]:
    """The mean over batches of every head's and neuron's. See `weight_scores`."""
    means = weight_scores(model, blocks, batches, done)
    return tuple(BlockScores(unit_scores(block.heads, means), unit_scores(block.neurons, means)) for block in blocks)


def weight_scores(
    model: nn.Module, blocks: Sequence[BlockRoles], batches: Iterable[Batch], done: Callable[[], None]
) -> dict[str, torch.Tensor]:
    """The same of every single weight of the blocks, by the tensor's name. `done` is called after each batch; gradients
    are left switched off."""
    parameters = dict(model.named_parameters())
    names = sorted({name for block in blocks for name in _names(block)})
    model.requires_grad_(False)
    sums = {name: torch.zeros_like(parameters[name], dtype=torch.float64) for name in names}
    count = 0
    for x, labels in batches:
        chosen = [parameters[name].requires_grad_() for name in names]
        gradients = torch.autograd.grad(cross_entropy(model(x), labels), chosen)
        model.requires_grad_(False)
        for name, weight, gradient in zip(names, chosen, gradients, strict=True):
            sums[name] += (weight * gradient).abs()
        count += 1
        done()
    return {name: total / max(count, 1) for name, total in sums.items()}


def unit_scores(units: Units, weights: Mapping[str, torch.Tensor]) -> Scores:
    """For each unit the sum of what `weights` has in its rows, its biases and its columns: `[count]`."""
    total = weights[units.columns].double().reshape(-1, units.count, units.each).sum((0, 2))
    for rows in units.rows:
        of_rows = slice(rows.start, rows.start + units.count * rows.each)
        for name in (rows.weight, rows.bias):
            if name is not None:
                total = total + weights[name][of_rows].double().reshape(units.count, -1).sum(1)
    return total.cpu().numpy().astype(np.float32)


def _names(block: BlockRoles) -> Iterable[str]:
    for units in (block.heads, block.neurons):
        yield units.columns
        for rows in units.rows:
            yield rows.weight
            if rows.bias is not None:
                yield rows.bias
