"""How many whole heads and neurons of each block a fraction of a model's blocks comes to, at equal memory.

evenly     of every block that fraction, and as large a part of its heads as of its neurons
by_worth   whatever matters most for its size, over all blocks at once: all scores are of one loss, so they compare
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from swarm.models.importance.roles import BlockRoles
from swarm.types import Vital

if TYPE_CHECKING:
    from swarm.models.importance.scores import BlockScores

Counts = list[tuple[int, int]]
"""Of each block so many heads and so many neurons: the most important ones."""
STEPS: Final = 64
"""Of `vital`: so many, and the empty one."""

Scores = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Share = Callable[[float, Sequence[BlockRoles], "Sequence[BlockScores]"], Counts]


def evenly(fraction: float, blocks: Sequence[BlockRoles], _: Sequence[BlockScores] = ()) -> Counts:
    """Heads are whole, so the nearest number of them; then neurons, which are small, until as much memory is used."""
    return [_share(fraction, block) for block in blocks]


def _share(fraction: float, block: BlockRoles) -> tuple[int, int]:
    head, neuron = block.heads.cost(block.width), block.neurons.cost(block.width)
    heads = math.floor(fraction * block.heads.count + 0.5)
    room = fraction * (head * block.heads.count + neuron * block.neurons.count) - heads * head
    return heads, min(max(math.floor(room / neuron + 0.5), 0), block.neurons.count)


def by_worth(fraction: float, blocks: Sequence[BlockRoles], scores: Sequence[BlockScores]) -> Counts:
    """The heads and neurons with the highest score for each parameter, until no further one finds room."""
    costs, where = _ranked(blocks, ((of.heads, of.neurons) for of in scores))
    room, taken = fraction * int(costs.sum()) + 0.5, np.zeros(len(costs), bool)
    for unit, cost in enumerate(costs.tolist()):
        if cost <= room:
            room -= cost
            taken[unit] = True
    counts = np.bincount(where[taken], minlength=2 * len(blocks)).reshape(-1, 2)
    return [(heads, neurons) for heads, neurons in counts.tolist()]


def vital(blocks: Sequence[BlockRoles], heads: Sequence[Scores], neurons: Sequence[Scores]) -> Vital:
    """See `ModelProfile.vital`; the scores are of all blocks, by their numbers. The very order of `by_worth`, as far as
    each of the fractions goes without leaving one out, so that who may have more never has less of anything."""
    costs, where = _ranked(blocks, ((heads[block.number], neurons[block.number]) for block in blocks))
    held = np.concatenate([[0], np.cumsum(costs)])
    total = int(held[-1])
    bounds = [total * step // STEPS for step in range(STEPS + 1)]
    rows = []
    for end in np.unique(np.searchsorted(held, bounds, "right") - 1).tolist():
        counts = np.zeros((2, len(heads)), np.int64)
        of_blocks = np.bincount(where[:end], minlength=2 * len(blocks)).reshape(-1, 2).T
        counts[:, [block.number for block in blocks]] = of_blocks
        rows.append((int(held[end]) / total, tuple(counts[0].tolist()), tuple(counts[1].tolist())))
    return tuple(rows)


def _ranked(blocks: Sequence[BlockRoles], scores: Iterable[tuple[Scores, Scores]]) -> tuple[Ints, Ints]:
    """All heads and neurons by score for each parameter, the highest first: what each costs, and where it is, twice its
    block's place, and one more if it is a neuron."""
    costs, worth, places = [], [], []
    for place, (block, pair) in enumerate(zip(blocks, scores, strict=True)):
        for kind, (units, values) in enumerate(zip((block.heads, block.neurons), pair, strict=True)):
            costs.append(np.full(units.count, units.cost(block.width), np.int64))
            worth.append(values / units.cost(block.width))
            places.append(np.full(units.count, 2 * place + kind, np.int64))
    ranked = np.argsort(-np.concatenate(worth), kind="stable")
    return np.concatenate(costs)[ranked], np.concatenate(places)[ranked]
