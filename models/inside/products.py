"""A linear layer's weight, laid out once so that products with few rows need not wait for memory.

A member of a group has a few dozen rows, and then most of a product's time goes into bringing the weight into the order
in which the processor wants it. oneDNN does that beforehand: with 25 rows a product of 768 by 3072 takes 0.6 of the
time of a plain one, with 197 rows 0.8 (measured on one x86 core). The order is private to the processor's kind, so a
packed weight is a copy in memory; the plain one is only mapped, and may leave.
"""

from __future__ import annotations

from functools import cache

import torch

Tensor = torch.Tensor

LEAST_ELEMENTS = 2**14
"""Smaller weights are in the processor's own memory anyway."""
_CLOSE = 1e-4


class Product:
    """`rows @ weight.T + bias`, rows flat `[rows, elements]`. Call it in inference mode."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._packed = _packed(weight) if weight.numel() >= LEAST_ELEMENTS and _packs(str(weight.device)) else None
        self._transposed = None if self._packed is not None else weight.t()
        self._bias = None if bias is None else bias.contiguous()

    def __call__(self, rows: Tensor) -> Tensor:
        if self._packed is not None:
            return _run(rows, self._packed, self._bias)
        assert self._transposed is not None
        return rows.mm(self._transposed) if self._bias is None else torch.addmm(self._bias, rows, self._transposed)

    def added_to(self, x: Tensor, rows: Tensor) -> None:
        """`x` is changed."""
        if self._packed is not None:
            x.add_(_run(rows, self._packed, self._bias))
            return
        assert self._transposed is not None
        if self._bias is not None:
            x.add_(self._bias)
        x.addmm_(rows, self._transposed)


def _packed(weight: Tensor) -> Tensor:
    made: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return made


def _run(rows: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    made: Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
    return made


@cache
def _packs(device: str) -> bool:
    """Whether this build of torch does it, and does it right."""
    if device != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    weight = torch.linspace(-1.0, 1.0, 128 * 160).view(160, 128)
    rows, bias = torch.linspace(-2.0, 1.0, 5 * 128).view(5, 128), torch.linspace(0.0, 3.0, 160)
    try:
        made = _run(rows, _packed(weight), bias)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    wanted = torch.addmm(bias, rows, weight.t())
    return bool((made - wanted).abs().max() <= _CLOSE * wanted.abs().max())
