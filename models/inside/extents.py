"""Which part of each of a block's tensors belongs to its heads and neurons: names, shapes and places. Pure.

Of the projections a shard has the rows or columns of its own heads and neurons; norms, layer scales and the biases of
`proj` and `fc2` are whole everywhere, since each member finishes each sum itself, once. A tensor without rows is left
out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from swarm.errors import CannotSplit
from swarm.models.inside.roles import Roles
from swarm.plan import Part, Shard
from swarm.types import ModelProfile

Picks = npt.NDArray[np.int64]
"""Which heads or neurons of a block, by their number in the model, ascending."""


@dataclass(frozen=True, slots=True)
class Extent:
    """One axis of a tensor, made of heads or neurons: `repeats` times all of them, each of `size` rows."""

    of: Literal["heads", "neurons"]
    axis: int
    size: int = 1
    repeats: int = 1

    def rows(self, picks: Picks, total: int) -> Picks:
        """Places along the axis that belong to some of `total` heads or neurons, in the model's order."""
        units = picks[None, :] + total * np.arange(self.repeats)[:, None]
        return (units[:, :, None] * self.size + np.arange(self.size)).reshape(-1)


def extents(roles: Roles) -> dict[str, Extent | None]:
    """All tensors of a block; None for what every member has whole."""
    found: dict[str, Extent | None] = dict.fromkeys(roles.names())
    for linear in roles.qkv:
        rows = Extent("heads", 0, roles.head_width, 3 if len(roles.qkv) == 1 else 1)
        found.update(dict.fromkeys(linear.names(), rows))
    found[roles.proj.weight] = Extent("heads", 1, roles.head_width)
    found.update(dict.fromkeys(roles.fc1.names(), Extent("neurons", 0)))
    found[roles.fc2.weight] = Extent("neurons", 1)
    return found


def blocks_between(profile: ModelProfile, insides: Sequence[Roles | None], start: str, end: str) -> tuple[int, ...]:
    """Indices of the stages between two cuts, all of them blocks that come apart. Raises `CannotSplit`."""
    names = [stage.name for stage in profile.stages]
    if profile.inside_reason is not None or not any(insides):
        raise CannotSplit(
            f"No block of {profile.name} can be shared out: {profile.inside_reason or 'it has no blocks.'}"
        )
    if start not in names or end not in names or names.index(start) >= names.index(end):
        raise CannotSplit(f"{profile.name} has no run of blocks from '{start}' to '{end}'; name the cuts at its ends.")
    found = tuple(range(names.index(start) + 1, names.index(end) + 1))
    if odd := [names[index] for index in found if insides[index] is None]:
        raise CannotSplit(f"'{odd[0]}' of {profile.name} is not a block that can be shared out.")
    return found


def shapes_of(
    profile: ModelProfile, insides: Sequence[Roles | None], part: Part, whole: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """The tensors of a part with a shard, by name, given the shapes of the model's. Raises `CannotSplit`."""
    found = dict[str, tuple[int, ...]]()
    for roles, heads, neurons in shares(profile, insides, part):
        counts = {"heads": heads, "neurons": neurons}
        for name, extent in extents(roles).items():
            shape = list(whole[name])
            if extent is not None:
                shape[extent.axis] = counts[extent.of] * extent.size * extent.repeats
            if all(shape):
                found[name] = tuple(shape)
    return found


def shares(profile: ModelProfile, insides: Sequence[Roles | None], part: Part) -> list[tuple[Roles, int, int]]:
    """Each block of a part with a shard, with how many heads and neurons of it there are. Raises `CannotSplit`."""
    shard = part.shard or Shard((), ())
    stages = blocks_between(profile, insides, part.start, part.end)
    if not len(stages) == len(shard.heads) == len(shard.neurons):
        raise CannotSplit(
            f"There are {len(stages)} blocks from '{part.start}' to '{part.end}', but heads of {len(shard.heads)} and "
            f"neurons of {len(shard.neurons)} were asked for."
        )
    found = []
    for stage, heads, neurons in zip(stages, shard.heads, shard.neurons, strict=True):
        roles = insides[stage]
        assert roles is not None
        if heads > roles.heads or neurons > roles.neurons:
            raise CannotSplit(
                f"'{profile.stages[stage].name}' has {roles.heads} heads and {roles.neurons} neurons, not {heads} and "
                f"{neurons}."
            )
        found.append((roles, heads, neurons))
    return found


def block_number(profile: ModelProfile, stage: int) -> int:
    """The number of a block among the model's, by its stage."""
    return profile.blocks.index(stage)
