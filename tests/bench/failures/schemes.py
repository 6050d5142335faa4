"""Ways to share out a block among a requester and other devices: who holds which head dimension and which neuron.

All give the requester the fraction r + (1 - r) / devices of a block's memory, and nobody else what it has: what another
device replicates of it adds nothing as long as the requester itself lives.

even       heads and neurons in their own order: the first r, and then contiguous chunks. No importance.
columns    EASTER: single dimensions, by the importance of their own columns. A pair of W_q's and W_k's, a pair of W_v's
           column and W_o's row, a pair of W_1's column and W_2's row each are one unit; the most important r of each
           kind are replicated, the rest is cut into contiguous runs by rank, the first of which is the requester's.
heads      ours: whole heads and neurons by importance; the requester has the first ones, the others are dealt the rest
           card by card, so that it matters little who is lost.

Whole heads are rounded; neurons fill up until the memory is equal (`swarm.models.importance.shares`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from swarm.models.importance.resilience import order
from swarm.models.importance.roles import BlockRoles
from swarm.models.importance.scores import BlockScores
from swarm.models.importance.shares import share

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


def even(blocks: Sequence[BlockRoles], r: float, devices: int, place: int = 0) -> list[Shared]:
    """`place` says which chunk of the rest is the requester's."""
    shared = []
    for block in blocks:
        heads, neurons = share(r + (1 - r) / devices, block)
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


def columns(blocks: Sequence[BlockRoles], scores: Sequence[ColumnScores], r: float, devices: int) -> list[Shared]:
    return [
        Shared(*(_runs(each, r + (1 - r) / devices, devices) for each in (of.matches, of.values, of.neurons)))
        for of in scores
    ]


def _runs(scores: npt.NDArray[np.float32], mine: float, devices: int) -> Owners:
    ranked = order(scores)
    owners = np.zeros(len(scores), np.intp)
    for device, run in enumerate(np.array_split(ranked[round(mine * len(scores)) :], devices - 1)):
        owners[run] = device + 1
    return owners


def heads(blocks: Sequence[BlockRoles], scores: Sequence[BlockScores], r: float, devices: int) -> list[Shared]:
    shared = []
    for block, of in zip(blocks, scores, strict=True):
        mine = share(r + (1 - r) / devices, block)
        dealt = [_dealt(each, lead, devices) for each, lead in zip((of.heads, of.neurons), mine, strict=True)]
        shared.append(_whole(block, *dealt))
    return shared


def _dealt(scores: npt.NDArray[np.float32], mine: int, devices: int) -> Owners:
    owners = np.zeros(len(scores), np.intp)
    rest = order(scores)[mine:]
    owners[rest] = np.arange(len(rest)) % (devices - 1) + 1
    return owners


def _whole(block: BlockRoles, heads: Owners, neurons: Owners) -> Shared:
    dimensions = np.repeat(heads, block.heads.each)
    return Shared(dimensions, dimensions, neurons)
