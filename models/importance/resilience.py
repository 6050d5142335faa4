"""How a model answers with only a part of its heads and neurons: the others' columns are zero, so they give nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from swarm.models.importance.roles import BlockRoles, Units
from swarm.models.importance.scores import Batch, BlockScores
from swarm.models.importance.shares import Share, by_worth

GRID: Final = (*(step / 24 for step in (1, 2, 3, 4, 5, 6, 7)), *(step / 12 for step in range(4, 13)))
"""Finer where a survivor may be left with little."""

Pairs = tuple[tuple[float, float], ...]
Missing = Sequence[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]
"""Of every block: the heads and the neurons that are not there."""


def resilience(
    model: nn.Module,
    blocks: Sequence[BlockRoles],
    scores: Sequence[BlockScores],
    batches: Sequence[Batch],
    done: Callable[[], None],
    counts: Share = by_worth,
) -> Pairs:
    """Accuracy with a fraction of all blocks together: pairs by rising fraction, the last of the whole model.

    `done` is called after each fraction; `counts` says what it is spent on, of each block the most important ones.
    """
    pairs = []
    for fraction in GRID:
        kept = zip(scores, counts(fraction, blocks, scores), strict=True)
        with without(model, blocks, [_rest(*each) for each in kept]):
            pairs.append((fraction, accuracy(model, batches)))
        done()
    return tuple(pairs)


def _rest(scores: BlockScores, kept: tuple[int, int]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    heads, neurons = kept
    return order(scores.heads)[heads:], order(scores.neurons)[neurons:]


def order(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.intp]:
    """Indices, the most important first; of equal ones the lower index."""
    return np.argsort(-scores, kind="stable")


@contextmanager
def without(model: nn.Module, blocks: Sequence[BlockRoles], missing: Missing) -> Iterator[None]:
    """While it lasts, these heads and neurons add nothing to what their blocks give."""
    parameters = dict(model.named_parameters())
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        for block, gone in zip(blocks, missing, strict=True):
            for units, indices in zip((block.heads, block.neurons), gone, strict=True):
                weight = parameters[units.columns].data
                kept.append((weight, weight.clone()))
                weight[:, columns_of(units, indices)] = 0
        yield
    finally:
        for weight, before in kept:
            weight.copy_(before)


def columns_of(units: Units, indices: npt.NDArray[np.intp]) -> torch.Tensor:
    return torch.from_numpy((indices[:, None] * units.each + np.arange(units.each)).ravel())


@torch.no_grad()
def accuracy(model: nn.Module, batches: Sequence[Batch]) -> float:
    """The fraction of pictures whose likeliest class is the one of their label."""
    right = sum(int((model(x).argmax(1) == labels).sum()) for x, labels in batches)
    return right / sum(len(labels) for _, labels in batches)
