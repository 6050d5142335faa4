"""Which tensors of a transformer block belong to which of its heads and neurons.

    x ──rows of W_q W_k W_v, b──▶ head ──columns of W_o──▶ +          x ──row of W_1, b──▶ neuron ──column of W_2──▶ +

Whoever zeroes the columns has taken the head or the neuron out of the model, whatever its code looks like.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarm.errors import CannotSplit
from swarm.models.blueprint import Blueprint
from swarm.models.inside.extents import block_number
from swarm.models.inside.roles import Linear, Roles


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a weight `[out, in]` and of its bias: unit u has `each` of them, from `start + u * each`."""

    weight: str
    bias: str | None
    each: int = 1
    start: int = 0


@dataclass(frozen=True, slots=True)
class Units:
    """The heads, or the neurons, of one block."""

    count: int
    rows: tuple[Rows, ...]
    """Of heads: queries, keys, values. Of neurons: the first layer."""
    columns: str
    """The weight `[width, count * each]` that takes their outputs."""
    each: int = 1
    """Columns of each."""

    def cost(self, width: int) -> int:
        """Parameters of one unit."""
        return sum(rows.each * (width + (rows.bias is not None)) for rows in self.rows) + self.each * width


@dataclass(frozen=True, slots=True)
class BlockRoles:
    """The tensors of one block, by their names in the model's state."""

    number: int
    """Among all blocks of the model."""
    heads: Units
    neurons: Units
    width: int


def blocks_of(blueprint: Blueprint) -> tuple[BlockRoles, ...]:
    """Of every block that comes apart, first to last. Raises `CannotSplit` for a model that has none."""
    found = tuple(
        block_roles(block_number(blueprint.profile, stage), roles)
        for stage, roles in enumerate(blueprint.insides)
        if roles is not None
    )
    if not found:
        profile = blueprint.profile
        why = profile.inside_reason or profile.uncut_reason or "it has no transformer blocks."
        raise CannotSplit(f"Nothing inside the blocks of {profile.name} can be shared out: {why}")
    return found


def block_roles(number: int, roles: Roles) -> BlockRoles:
    return BlockRoles(
        number,
        Units(roles.heads, _queries_keys_values(roles), roles.proj.weight, roles.head_width),
        Units(roles.neurons, (_rows(roles.fc1),), roles.fc2.weight),
        roles.width,
    )


def _queries_keys_values(roles: Roles) -> tuple[Rows, ...]:
    if len(roles.qkv) == 1:
        return tuple(_rows(roles.qkv[0], roles.head_width, third * roles.keys) for third in range(3))
    return tuple(_rows(linear, roles.head_width) for linear in roles.qkv)


def _rows(linear: Linear, each: int = 1, start: int = 0) -> Rows:
    return Rows(linear.weight, linear.bias, each, start)
