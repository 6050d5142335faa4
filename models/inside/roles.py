"""The tensors of a pre-norm transformer block by what they do in it: plain data, stored with a model's blueprint.

x ─┬─ norm1 ─ qkv ─ attention ─ proj ─ gamma1 ─ + ─┬─ norm2 ─ fc1 ─ activation ─ fc2 ─ gamma2 ─ + ─▶
   └────────────────────────────────────────────┘ └──────────────────────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from swarm.types import Dimension

TensorName = Annotated[str, Meta(min_length=1, max_length=512)]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "quick_gelu"]


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer norm over the last dimension."""

    eps: float
    weight: TensorName | None = None
    bias: TensorName | None = None

    def names(self) -> Iterator[str]:
        yield from (name for name in (self.weight, self.bias) if name is not None)


@dataclass(frozen=True, slots=True)
class Linear:
    """`x @ weight.T + bias`."""

    weight: TensorName
    bias: TensorName | None = None

    def names(self) -> Iterator[str]:
        yield from (name for name in (self.weight, self.bias) if name is not None)


@dataclass(frozen=True, slots=True)
class Roles:
    """One block."""

    norm1: Norm
    qkv: Annotated[tuple[Linear, ...], Meta(min_length=1, max_length=3)]
    """One that makes queries, keys and values `[3 * keys, width]`, or one for each of them `[keys, width]`."""
    proj: Linear
    norm2: Norm
    fc1: Linear
    fc2: Linear
    heads: Annotated[int, Meta(ge=1, le=65536)]
    head_width: Annotated[int, Meta(ge=1, le=65536)]
    neurons: Annotated[int, Meta(ge=1, le=2**31)]
    width: Dimension
    tokens: Dimension
    scale: float
    """Of the products of queries and keys."""
    activation: Activation
    gamma1: TensorName | None = None
    """`[width]`, times what attention adds to the residual; `gamma2` of the MLP."""
    gamma2: TensorName | None = None
    q_norm: Norm | None = None
    """Over each head's queries; `k_norm` over its keys."""
    k_norm: Norm | None = None

    @property
    def keys(self) -> int:
        """Elements of a token's keys, of all heads."""
        return self.heads * self.head_width

    def names(self) -> tuple[str, ...]:
        """All tensors of the block, each once."""
        named = [self.norm1, *self.qkv, self.proj, self.norm2, self.fc1, self.fc2, self.q_norm, self.k_norm]
        found = [name for each in named if each is not None for name in each.names()]
        return tuple(dict.fromkeys([*found, *(name for name in (self.gamma1, self.gamma2) if name is not None)]))
