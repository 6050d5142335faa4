"""What a lead holds of each block where it is known what of the model is most worth having: `ModelProfile.vital`.

One fraction for all blocks together buys what matters most for its bytes, wherever it is: the lead may have all heads
of one block and few of another. The table's rows are points on a way from nothing to everything; between them heads and
neurons each go straight on, and neurons, which are small, make up for heads, which are whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from swarm.strategies.inside import Run, weight_of
from swarm.strategies.links import Floats
from swarm.strategies.sharing import Holder, Load, apportion
from swarm.types import ModelProfile

Pairs = list[tuple[int, int]]
"""Of each block so many heads and so many neurons."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The rows of a model's table, for the blocks of one run."""

    heads: Floats
    """`[rows, B]`; `neurons` likewise."""
    neurons: Floats
    head: float
    """Bytes of one, on average over the blocks; `neuron` likewise."""
    neuron: float

    @classmethod
    def of(cls, model: ModelProfile, run: Run) -> Table | None:
        """None where nobody knows, or where heads and neurons weigh nothing."""
        weights = [weight_of(stage) for stage in model.stages[run.start : run.end]]
        head, neuron = (sum(of) / run.blocks for of in zip(*((w.head, w.neuron) for w in weights), strict=True))
        if not model.vital or head <= 0 or neuron <= 0:
            return None
        numbers = [model.blocks.index(stage) for stage in range(run.start, run.end)]
        _, heads, neurons = zip(*model.vital, strict=True)
        return cls(np.array(heads, float)[:, numbers], np.array(neurons, float)[:, numbers], head, neuron)

    def at(self, fraction: float) -> Pairs:
        """With so much of the bytes, to within half a neuron as long as neither all neurons nor none are had."""
        heads, neurons = self.heads.sum(1), self.neurons.sum(1)
        held = heads * self.head + neurons * self.neuron
        own = fraction * float(held[-1])
        least, most = (own - neurons[-1] * self.neuron) / self.head, own / self.head
        wished = round(float(np.interp(own, held, heads)))
        whole = int(min(max(wished, math.ceil(least - 1e-9)), math.floor(most + 1e-9)))
        rest = round((own - whole * self.head) / self.neuron)
        return list(
            zip(
                _spread(min(max(whole, 0), int(heads[-1])), self.heads),
                _spread(min(max(rest, 0), int(neurons[-1])), self.neurons),
                strict=True,
            )
        )


def _spread(total: int, rows: Floats) -> list[int]:
    """So many over the blocks as the rows have them, whole ones."""
    sums = rows.sum(1)
    wished = np.array([np.interp(total, sums, block) for block in rows.T])
    shares = np.floor(wished + 1e-9).astype(np.int64)
    first = np.argsort(shares - wished, kind="stable")[: total - int(shares.sum())]
    shares[first] += 1
    return [int(share) for share in shares]


def share_rest(first: Pairs, run: Run, members: Sequence[Holder]) -> list[Pairs] | None:
    """Of each block, what every member has, the lead first: beside the lead's the others share by speed, as far as
    their memory goes. None where they have no room for all of it. Of equals the last gets more."""
    others, inside = members[:0:-1], run.inside
    heads = [_apportioned(inside.heads - mine, [one.heads for one in others]) for mine, _ in first]
    rest = [inside.neurons - mine for _, mine in first]
    room = [
        _room(one, sum(of_block[i] for of_block in heads), run.blocks, max(1, sum(rest)))
        for i, one in enumerate(others)
    ]
    if sum(room) < sum(rest):
        return None
    neurons, left = list[tuple[int, ...]](), sum(rest)
    for units in rest:
        loads = [_bounded(one, -(-space * units // max(1, left))) for one, space in zip(others, room, strict=True)]
        shares = _apportioned(units, loads)
        room = [space - share for space, share in zip(room, shares, strict=True)]
        left -= units
        neurons.append(shares)
    return [
        [mine, *zip(of_heads[::-1], of_neurons[::-1], strict=True)]
        for mine, of_heads, of_neurons in zip(first, heads, neurons, strict=True)
    ]


def _apportioned(units: int, loads: Sequence[Load]) -> tuple[int, ...]:
    shares = apportion(units, loads, least=0)
    assert shares is not None, "there is room for all"
    return shares


def _room(one: Holder, heads: int, blocks: int, most: int) -> int:
    """How many neurons a member can hold beside so many heads, of all blocks."""
    left = one.free_bytes - heads * one.head_bytes / blocks
    return max(0, math.floor(min(float(most), left * blocks / one.neuron_bytes)))


def _bounded(one: Holder, most: int) -> Load:
    return Load(one.neurons.fixed, one.neurons.unit, min(one.neurons.most, most))
