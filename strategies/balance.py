"""Equal shares: what a swarm does that knows nothing of its devices, and the line that every plan has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from swarm.types import ModelProfile

Shares = dict[int, tuple[int, list[int]]]
"""By stages done, rising: the FLOPs of the largest share, and the cuts."""


def equal_cuts(model: ModelProfile, parts: int) -> list[int]:
    """Cuts between blocks into `parts` runs, the largest of which has as few FLOPs as can be.

    Dynamic programming over (parts made, stages done); of equally good cuts the earliest wins.
    """
    places = between_blocks(model)
    flops_before = [0, *accumulate(stage.flops for stage in model.stages)]
    largest: Shares = {0: (0, [0])}
    for i in range(parts):
        ends = [len(model.stages)] if i == parts - 1 else places
        best = {end: _last_share(largest, flops_before, end) for end in ends}
        largest = {end: (share[0], [*share[1], end]) for end, share in best.items() if share is not None}
    return largest[len(model.stages)][1]


def between_blocks(model: ModelProfile) -> list[int]:
    """Where the blocks meet; every place between stages in a model with hardly any."""
    blocks = sorted({place for place in model.blocks if 0 < place < len(model.stages)})
    return blocks if len(blocks) > 1 else list(range(1, len(model.stages)))


def _last_share(largest: Shares, flops_before: Sequence[int], end: int) -> tuple[int, list[int]] | None:
    """The best of all ways to add a part that goes up to `end`: the largest share then, and the cuts before.

    From the back, for it grows with every stage more: once it alone is too much, nothing better comes.
    """
    best: tuple[int, list[int]] | None = None
    for start in reversed(largest):
        if start >= end:
            continue
        share = flops_before[end] - flops_before[start]
        if best is not None and share > best[0]:
            break
        way = (max(largest[start][0], share), largest[start][1])
        best = way if best is None else min(best, way)
    return best
