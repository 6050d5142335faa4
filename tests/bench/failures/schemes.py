"""Ways to share out a block among a requester and other devices: who holds which head dimension and which neuron.

All give the requester the fraction r + (1 - r) / devices of the blocks' memory, and nobody else what it has: what
another device replicates of it adds nothing as long as the requester itself lives.

even       heads and neurons in their own order: the first r, and then contiguous chunks. No importance.
columns    EASTER: single dimensions, by the importance of their own columns. A pair of W_q's and W_k's, a pair of W_v's
           column and W_o's row, a pair of W_1's column and W_2's row each are one unit; the most important r of each
           kind are replicated, the rest is cut into contiguous runs by rank, the first of which is the requester's.
columns-worth
           EASTER's units and runs, but one ranking of all of them, over all blocks and kinds at once, by score for each
           parameter, as `worth` has it: the requester's memory goes to the highest ones.
heads      ours: whole heads and neurons by importance, as large a part of the one as of the other; the requester has
           the first ones, the others are dealt the rest by rank, so that it matters little who is lost.
worth      ours: as `heads`, but the requester's memory goes to whatever has the highest score for each parameter, over
           all blocks at once: it may have all heads of one block and few of another.

Heads are whole, so the nearest number of them; neurons fill up until the memory is equal
(`swarm.models.importance.shares`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from swarm.models.importance.resilience import order
from swarm.models.importance.roles import BlockRoles
from swarm.models.importance.scores import BlockScores
from swarm.models.importance.shares import Share, by_worth, evenly
from swarm.models.inside.dealing import deal

DEVICES = 4
PLACES = range(DEVICES)
"""Of the requester among the contiguous chunks: in a split that ignores importance its own one is a matter of luck."""

Owners = npt.NDArray[np.intp]
"""Of each unit, the device that holds it: 0 is the requester."""


@dataclass(frozen=True, slots=True)
class Shared:
    """One block, shared out: head dimensions `[heads * each]` for the product of queries and keys, and for values."""

    matches: Owners
    values: Owners
    neurons: Owners


@dataclass(frozen=True, slots=True)
class ColumnScores:
    """Of one block, for every single column."""

    matches: npt.NDArray[np.float32]
    values: npt.NDArray[np.float32]
    neurons: npt.NDArray[np.float32]


def even(blocks: Sequence[BlockRoles], r: float, devices: int = DEVICES, place: int = 0) -> list[Shared]:
    """`place` says which chunk of the rest is the requester's."""
    shared = []
    counts = evenly(r + (1 - r) / devices, blocks)
    for block, (heads, neurons) in zip(blocks, counts, strict=True):
        shared.append(
            _whole(
                block,
                _chunks(block.heads.count, heads, r, devices, place),
                _chunks(block.neurons.count, neurons, r, devices, place),
            )
        )
    return shared


def _chunks(count: int, mine: int, r: float, devices: int, place: int) -> Owners:
    """The first r are the requester's, and so is its chunk, cut so that it holds `mine`."""
    first = min(round(r * count), mine)
    ends = np.linspace(first, count, devices + 1)
    begin = min(round(ends[place]), count - (mine - first))
    owners = np.zeros(count, np.intp)
    others = np.setdiff1d(np.arange(first, count), np.arange(begin, begin + mine - first))
    for device, chunk in enumerate(np.array_split(others, devices - 1)):
        owners[chunk] = device + 1
    return owners


def columns(scores: Sequence[ColumnScores], r: float, devices: int = DEVICES) -> list[Shared]:
    return [
        Shared(*(_runs(each, r + (1 - r) / devices, devices) for each in (of.matches, of.values, of.neurons)))
        for of in scores
    ]


def _runs(scores: npt.NDArray[np.float32], mine: float, devices: int) -> Owners:
    return _after(scores, round(mine * len(scores)), devices)


def _after(scores: npt.NDArray[np.float32], mine: int, devices: int) -> Owners:
    """The requester has the most important ones, so many; each of the others a contiguous run of the ranks after."""
    ranked = order(scores)
    owners = np.zeros(len(scores), np.intp)
    for device, run in enumerate(np.array_split(ranked[mine:], devices - 1)):
        owners[run] = device + 1
    return owners


def columns_by_worth(
    blocks: Sequence[BlockRoles], scores: Sequence[ColumnScores], r: float, devices: int = DEVICES
) -> list[Shared]:
    kinds = [
        (values, cost)
        for block, of in zip(blocks, scores, strict=True)
        for values, cost in zip((of.matches, of.values, of.neurons), unit_costs(block), strict=True)
    ]
    costs = np.concatenate([np.full(len(values), cost) for values, cost in kinds])
    worth = np.concatenate([values / cost for values, cost in kinds])
    places = np.repeat(np.arange(len(kinds)), [len(values) for values, _ in kinds])
    room, mine = (r + (1 - r) / devices) * float(costs.sum()) + 0.5, np.zeros(len(kinds), np.intp)
    for unit in order(worth):
        if costs[unit] <= room:
            room -= costs[unit]
            mine[places[unit]] += 1
    owners = [_after(values, int(count), devices) for (values, _), count in zip(kinds, mine, strict=True)]
    return [Shared(*of_block) for of_block in zip(owners[::3], owners[1::3], owners[2::3], strict=True)]


def unit_costs(block: BlockRoles) -> tuple[float, float, float]:
    """Parameters of a pair of queries and keys, of a pair of values and outputs, and of a neuron; half of a head's
    dimension is taken for each of the first two."""
    half = block.heads.cost(block.width) / block.heads.each / 2
    return half, half, block.neurons.cost(block.width)


def heads(
    blocks: Sequence[BlockRoles], scores: Sequence[BlockScores], r: float, counts: Share, devices: int = DEVICES
) -> list[Shared]:
    """`counts` says how many heads and how many neurons the requester's memory is spent on."""
    shared = []
    mine = counts(r + (1 - r) / devices, blocks, scores)
    for block, of, leads in zip(blocks, scores, mine, strict=True):
        shared.append(
            _whole(block, *(_dealt(*pair, devices) for pair in zip((of.heads, of.neurons), leads, strict=True)))
        )
    return shared


def _dealt(scores: npt.NDArray[np.float32], mine: int, devices: int) -> Owners:
    ranked = order(scores)
    rest = [len(part) for part in np.array_split(ranked[mine:], devices - 1)]
    owners = np.zeros(len(scores), np.intp)
    for device, picks in enumerate(deal(ranked, [mine, *rest])):
        owners[picks] = device
    return owners


def _whole(block: BlockRoles, heads: Owners, neurons: Owners) -> Shared:
    dimensions = np.repeat(heads, block.heads.each)
    return Shared(dimensions, dimensions, neurons)


Scheme = Callable[[Sequence[BlockRoles], Sequence[BlockScores], Sequence[ColumnScores], float], list[list[Shared]]]
"""All blocks, for each place of the requester over which the scheme is averaged."""

TITLES: Mapping[str, str] = {
    "even": "whole heads and neurons in their own order, no importance; the same part of every block",
    "columns": "EASTER: single columns by importance, each kind by itself; the same part of every block",
    "columns-worth": "EASTER's columns, one ranking per parameter over all blocks",
    "heads": "whole heads and neurons by importance; the same part of every block",
    "worth": "whole heads and neurons, one ranking per parameter over all blocks",
}
"""For people."""

SCHEMES: Mapping[str, Scheme] = {
    "even": lambda blocks, scores, of_columns, r: [even(blocks, r, place=place) for place in PLACES],
    "columns": lambda blocks, scores, of_columns, r: [columns(of_columns, r)],
    "columns-worth": lambda blocks, scores, of_columns, r: [columns_by_worth(blocks, of_columns, r)],
    "heads": lambda blocks, scores, of_columns, r: [heads(blocks, scores, r, evenly)],
    "worth": lambda blocks, scores, of_columns, r: [heads(blocks, scores, r, by_worth)],
}
