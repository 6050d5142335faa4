"""How held parts of one model share what they have in common: they are sliced wherever one of them begins or ends.

    part input ─────────── output          slices  input─3  3───6  6──output
    part        3 ──────── output                           3───6  6──output
    part             6 ─── output                                  6──output

A slice is a part itself, named by its content, so equal slices of several parts are one. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise

from swarm.plan import INPUT, Part, weights_digest
from swarm.workshop import Blueprint


def slices_of(blueprint: Blueprint, part: Part, digests: Mapping[str, str], others: Iterable[Part]) -> tuple[Part, ...]:
    """The slices of `part`, in order, so that it shares them with `others` of its model.

    :param digests: SHA-256 of each of the part's tensors, by the tensor's name in the model.
    """
    ends = {cut for other in others if other.anatomy == part.anatomy for cut in (other.start, other.end)}
    order = [INPUT, *(stage.name for stage in blueprint.profile.stages)]
    inside = order[order.index(part.start) + 1 : order.index(part.end)]
    stops = [part.start, *(cut for cut in inside if cut in ends), part.end]
    if len(stops) == 2:
        return (part,)
    return tuple(_slice(blueprint, part, start, end, digests) for start, end in pairwise(stops))


def _slice(blueprint: Blueprint, part: Part, start: str, end: str, digests: Mapping[str, str]) -> Part:
    bare = replace(part, start=start, end=end, weights="")
    return replace(bare, weights=weights_digest(digests[slot.name] for slot in blueprint.tensors_of(bare)))
