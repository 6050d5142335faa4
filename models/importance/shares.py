"""How many whole heads and neurons of each block a fraction of a model's blocks comes to, at equal memory.

evenly     of every block that fraction, and as large a part of its heads as of its neurons
by_worth   whatever matters most for its size, over all blocks at once: all scores are of one loss, so they compare
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from swarm.models.importance.roles import BlockRoles

if TYPE_CHECKING:
    from swarm.models.importance.scores import BlockScores

Counts = list[tuple[int, int]]
"""Of each block so many heads and so many neurons: the most important ones."""
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
    costs, worth, places = [], [], []
    for place, (block, of) in enumerate(zip(blocks, scores, strict=True)):
        for kind, units, values in ((0, block.heads, of.heads), (1, block.neurons, of.neurons)):
            costs.append(np.full(units.count, units.cost(block.width)))
            worth.append(values / units.cost(block.width))
            places.append(np.tile((place, kind), (units.count, 1)))
    cost, where = np.concatenate(costs), np.concatenate(places)
    room, counts = fraction * int(cost.sum()) + 0.5, np.zeros((len(blocks), 2), np.int64)
    for unit in np.argsort(-np.concatenate(worth), kind="stable"):
        if cost[unit] <= room:
            room -= cost[unit]
            counts[tuple(where[unit])] += 1
    return [(int(heads), int(neurons)) for heads, neurons in counts]
