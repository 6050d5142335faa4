"""What a group can share of a model: its longest run of like blocks, and what heads and neurons of them weigh.

input ── what comes before ── block ── block ── … ── block ── what comes after ── output
         on the lead          └────── a group's step ──────┘  on the lead
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from swarm.plan import INPUT, OUTPUT, Part, Shard
from swarm.types import Inside, ModelProfile, Stage

FLOAT_BYTES = 4

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Run:
    """Stages from one place up to another, each a block of the same dimensions."""

    start: int
    end: int
    inside: Inside
    needed: int
    """How many tokens of its output, the first ones, anybody reads."""

    @property
    def blocks(self) -> int:
        return self.end - self.start

    def shard(self, heads: Sequence[int], neurons: Sequence[int]) -> Shard:
        return Shard(tuple(heads), tuple(neurons))

    def whole(self) -> Shard:
        return Shard((self.inside.heads,) * self.blocks, (self.inside.neurons,) * self.blocks)


@dataclass(frozen=True, slots=True)
class Weight:
    """Bytes of a block: of each head, of each neuron, and of what every member of a group holds."""

    head: float
    neuron: float
    fixed: float


def run_of(model: ModelProfile) -> Run | None:
    """The longest run of blocks that can be shared; of equally long ones the first. None where there is none."""
    runs, place = list[Run](), 0
    for inside, stages in groupby(model.stages, key=lambda stage: stage.inside):
        start, place = place, place + len(list(stages))
        if inside is not None:
            needed = model.needed if place == model.blocks[-1] else 0
            runs.append(Run(start, place, inside, min(needed or inside.tokens, inside.tokens)))
    return max(runs, key=lambda run: run.blocks, default=None)


def parts_of_block(inside: Inside) -> tuple[float, float, float]:
    """Of its operations: making keys and values, the rest of attention, and the MLP."""
    keys_values = 4.0 * inside.tokens * inside.width * inside.keys if inside.heads else 0.0
    attention = keys_values + 4.0 * inside.tokens * inside.tokens * inside.keys if inside.heads else 0.0
    mlp = 4.0 * inside.tokens * inside.width * inside.neurons
    whole = max(1.0, keys_values + attention + mlp)
    return keys_values / whole, attention / whole, mlp / whole


def part(model: ModelProfile, span: Span, shard: Shard | None = None) -> Part:
    """The part between two places."""
    start = INPUT if span[0] == 0 else model.stages[span[0] - 1].name
    end = OUTPUT if span[1] == len(model.stages) else model.stages[span[1] - 1].name
    return Part(model.name, model.digest, start, end, shard=shard)


def weight_of(stage: Stage) -> Weight:
    """A head has its rows of the queries', keys' and values' weights and biases, and its columns of the projection's; a
    neuron has its row and bias of the first layer, and its column of the second.

    What is left of the stage's bytes is everybody's: the norms, and the biases that are added to sums.
    """
    inside = stage.inside
    if inside is None:
        return Weight(0.0, 0.0, float(stage.parameter_bytes))
    heads = FLOAT_BYTES * inside.keys * (3 * (inside.width + 1) + inside.width)
    neurons = FLOAT_BYTES * inside.neurons * (2 * inside.width + 1)
    scale = min(1.0, stage.parameter_bytes / max(1, heads + neurons))
    fixed = stage.parameter_bytes - scale * (heads + neurons)
    return Weight(scale * heads / max(1, inside.heads), scale * neurons / max(1, inside.neurons), fixed)


def shard_bytes(model: ModelProfile, span: Span, shard: Shard) -> float:
    """Of the parameters that a member holds of the stages of a span."""
    held = zip(model.stages[slice(*span)], shard.heads, shard.neurons, strict=True)
    weights = [(weight_of(stage), heads, neurons) for stage, heads, neurons in held]
    return sum(weight.fixed + heads * weight.head + neurons * weight.neuron for weight, heads, neurons in weights)
