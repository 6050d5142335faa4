"""A shard in memory: some heads and neurons of a run of blocks, ready for a group's requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from swarm.errors import BadInput, CannotSplit
from swarm.models.inside import columns, tokens
from swarm.models.inside.formula import Block
from swarm.models.inside.roles import Roles
from swarm.plan import Group, Part
from swarm.types import Array
from swarm.workshop import Post, Turns


class RunnableShard:
    """A part with a shard. Several requests may be under way, each in its own generator; all in one thread.

    :param roles: of each block, first to last.
    :param tensors: by name, held for as long as the part lives.
    """

    def __init__(self, part: Part, roles: Sequence[Roles], tensors: Mapping[str, torch.Tensor], device: str) -> None:
        self.part = part
        self.device = device
        self.tensors = tuple(tensors.values())
        self.blocks = tuple(Block(each, tensors) for each in roles)
        self._width, self._tokens = roles[0].width, roles[0].tokens
        self._is_whole = all((b.heads, b.neurons) == (b.roles.heads, b.roles.neurons) for b in self.blocks)

    @property
    def parameter_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    def turns(self, group: Group, me: int, x: Array, post: Post) -> Turns:
        """Begin a request `x` `[B, tokens, width]` float32: with `tokens` one's own tokens, with `columns` all.

        See `swarm.workshop.Turns`. It never waits for an exchange in which nobody sends it anything. Raises `BadInput`
        for another shape, `CannotSplit` for a group that this part is not made for.
        """
        self._check(group, me, x)
        rows = torch.from_numpy(np.array(x, np.float32, order="C")).to(self.device)
        if group.split == "tokens":
            return tokens.turns(self.blocks, group, me, rows, post)
        return columns.turns(self.blocks, group, me, rows, post)

    def _check(self, group: Group, me: int, x: Array) -> None:
        shard = group.members[me].part.shard
        if shard is None or self.part.shard != shard or group.tokens != self._tokens or group.width != self._width:
            raise CannotSplit(f"{self.part.name} is not what member {me} of this group holds.")
        if group.split == "tokens" and not self._is_whole:
            raise CannotSplit(f"{self.part.name} has not all heads and neurons, so it cannot run tokens of its own.")
        wanted = (group.members[me].tokens if group.split == "tokens" else self._tokens), self._width
        if x.ndim != 3 or x.shape[1:] != wanted or not len(x) or x.dtype != np.float32:
            raise BadInput(
                f"{self.part.name} takes float32 of the shape [B, {wanted[0]}, {wanted[1]}] and was given {x.dtype} "
                f"{list(x.shape)}."
            )
