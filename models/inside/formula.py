"""A transformer block's arithmetic on tensors: whole, or with some of its heads and neurons. Call it in inference mode.

All rows are flat `[samples * tokens, elements]` here. Nothing is copied that a matrix product can read where it lies,
and what a product makes is added into the residual by the product itself where that is possible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from swarm.models.inside.products import Product
from swarm.models.inside.roles import Linear, Norm, Roles
from swarm.types import Array

Tensor = torch.Tensor
_QUICK = 1.702
"""In CLIP's approximation of GELU, x * sigmoid(1.702 x)."""


def _quick_gelu(rows: Tensor) -> Tensor:
    return rows.mul_((rows * _QUICK).sigmoid_())


def _gelu_tanh(rows: Tensor) -> Tensor:
    made: Tensor = torch.ops.aten.gelu_.default(rows, approximate="tanh")
    return made


_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": torch.ops.aten.gelu_.default,
    "gelu_tanh": _gelu_tanh,
    "relu": torch.relu_,
    "silu": torch.ops.aten.silu_.default,
    "quick_gelu": _quick_gelu,
}


class Block:
    """One block of a shard.

    :param tensors: by name; those without rows may be missing.
    """

    def __init__(self, roles: Roles, tensors: Mapping[str, Tensor]) -> None:
        self.roles = roles
        proj, fc2 = tensors.get(roles.proj.weight), tensors.get(roles.fc2.weight)
        self.heads = 0 if proj is None else proj.shape[1] // roles.head_width
        self.neurons = 0 if fc2 is None else fc2.shape[1]
        self.keys = self.heads * roles.head_width
        self._norm1, self._norm2 = _norm(roles.norm1, tensors), _norm(roles.norm2, tensors)
        self._q_norm, self._k_norm = (None if n is None else _norm(n, tensors) for n in (roles.q_norm, roles.k_norm))
        self.proj_bias, self.fc2_bias = (
            None if name is None else tensors[name] for name in (roles.proj.bias, roles.fc2.bias)
        )
        self.gamma1, self.gamma2 = (None if name is None else tensors[name] for name in (roles.gamma1, roles.gamma2))
        self._activation = _ACTIVATIONS[roles.activation]
        if proj is not None:
            self._proj = Product(proj, None)
            self._project_attention(roles.qkv, tensors)
        if fc2 is not None:
            self._fc1, self._fc2 = Product(*_pair(roles.fc1, tensors)), Product(fc2, None)

    def _project_attention(self, linears: tuple[Linear, ...], tensors: Mapping[str, Tensor]) -> None:
        """A block with all heads may run some tokens, and asks for queries apart; others need all three at once."""
        whole = [_pair(linear, tensors) for linear in linears]
        self._qkv: Product | None = None
        if len(whole) == 1 and self.heads < self.roles.heads:
            self._qkv = Product(*whole[0])
            return
        if len(whole) == 1:
            weight, bias = whole[0]
            rows = weight[: self.keys], weight[self.keys :]
            biases = (None, None) if bias is None else (bias[: self.keys], bias[self.keys :])
            self._q, *self._kv = (Product(*pair) for pair in zip(rows, biases, strict=True))
        else:
            self._q, *self._kv = (Product(*pair) for pair in whole)

    def norm1(self, x: Tensor) -> Tensor:
        return self._norm1(x)

    def keys_values(self, normed: Tensor) -> Tensor:
        """`[rows, 2 * keys]`, a token's keys first; normalised if that is their way."""
        if len(self._kv) == 1:
            made = self._kv[0](normed)
        else:
            made = normed.new_empty(len(normed), 2 * self.keys)
            for index, product in enumerate(self._kv):
                made[:, index * self.keys : (index + 1) * self.keys] = product(normed)
        if self._k_norm is not None:
            keys = made[:, : self.keys]
            keys.copy_(self._k_norm(keys.unflatten(1, (self.heads, -1))).flatten(1))
        return made

    def queries(self, normed: Tensor, samples: int) -> Tensor:
        """`[samples, heads, tokens, head_width]`."""
        return self._normed_queries(self._q(normed).view(samples, -1, self.heads, self.roles.head_width))

    def _normed_queries(self, queries: Tensor) -> Tensor:
        return (queries if self._q_norm is None else self._q_norm(queries)).transpose(1, 2)

    def attend(self, queries: Tensor, keys_values: Tensor) -> Tensor:
        """Attention's output `[rows, keys]`, of keys and values `[samples, tokens, 2 * keys]`."""
        split = keys_values.unflatten(2, (2, self.heads, self.roles.head_width))
        return self._attend(queries, split[:, :, 0].transpose(1, 2), split[:, :, 1].transpose(1, 2))

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        mixed = functional.scaled_dot_product_attention(queries, keys, values, scale=self.roles.scale)
        return mixed.transpose(1, 2).reshape(-1, self.keys)

    def attention_sum(self, x: Tensor, samples: int, reads: int) -> Tensor:
        """What its heads add to the residual `x` `[rows, width]`, without bias and layer scale: `[samples * reads,
        width]`, for the first tokens of each sample, as many as anybody reads."""
        tokens = len(x) // samples
        if not self.heads:
            return x.new_zeros(samples * reads, x.shape[1])
        normed = self.norm1(x)
        if self._qkv is not None:
            split = self._qkv(normed).view(samples, tokens, 3, self.heads, self.roles.head_width)
            keys = split[:, :, 1] if self._k_norm is None else self._k_norm(split[:, :, 1])
            queries = self._normed_queries(split[:, :reads, 0])
            mixed = self._attend(queries, keys.transpose(1, 2), split[:, :, 2].transpose(1, 2))
        else:
            keys_values = self.keys_values(normed).view(samples, tokens, -1)
            mixed = self.attend(self.queries(first_tokens(normed, samples, reads), samples), keys_values)
        return self._proj(mixed)

    def mlp_sum(self, x: Tensor) -> Tensor:
        """What its neurons add to the residual, without bias and layer scale, `[rows, width]`."""
        return self._fc2(self._hidden(x)) if self.neurons else torch.zeros_like(x)

    def _hidden(self, x: Tensor) -> Tensor:
        return self._activation(self._fc1(self._norm2(x)))

    def add_attention(self, x: Tensor, mixed: Tensor) -> None:
        """Finish whole attention into the residual, which is changed."""
        _add_product(x, mixed, self._proj, self.proj_bias, self.gamma1)

    def add_mlp(self, x: Tensor) -> None:
        _add_product(x, self._hidden(x), self._fc2, self.fc2_bias, self.gamma2)


def first_tokens(rows: Tensor, samples: int, reads: int) -> Tensor:
    """Of each sample's tokens the first ones, flat."""
    several = rows.view(samples, -1, rows.shape[1])
    return rows if several.shape[1] == reads else several[:, :reads].reshape(-1, rows.shape[1])


def as_array(x: Tensor) -> Array:
    """A result's own memory where that is the CPU's."""
    array: Array = x.cpu().numpy()
    return array


def _add_product(x: Tensor, rows: Tensor, product: Product, bias: Tensor | None, gamma: Tensor | None) -> None:
    if gamma is not None:
        made = product(rows)
        x.addcmul_(made if bias is None else made.add_(bias), gamma)
        return
    if bias is not None:
        x.add_(bias)
    product.added_to(x, rows)


def _pair(linear: Linear, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    return tensors[linear.weight], None if linear.bias is None else tensors[linear.bias]


def _norm(norm: Norm, tensors: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    weight, bias = (None if name is None else tensors[name] for name in (norm.weight, norm.bias))

    def normed(x: Tensor) -> Tensor:
        shape: Any = x.shape[-1:]
        return functional.layer_norm(x, shape, weight, bias, norm.eps)

    return normed
