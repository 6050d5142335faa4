"""Rows of float32 as the bytes that travel, and back: float32, float16, bfloat16, or int8 with a scale for each row.

int8:  all scales, float32 ▏all elements, row by row
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from swarm.errors import ProtocolError

_HALF = torch.finfo(torch.float16)
_SCALE_BYTES = 4
_MOST = 127.0


def encode(rows: torch.Tensor, wire: str) -> memoryview:
    """`[..., width]` float32 as one contiguous buffer. In float32 it may be the very memory of `rows`."""
    match wire:
        case "float32":
            packed = rows.contiguous()
        case "float16":
            packed = rows.clamp(_HALF.min, _HALF.max).to(torch.float16, memory_format=torch.contiguous_format)
        case "bfloat16":
            packed = rows.to(torch.bfloat16, memory_format=torch.contiguous_format)
        case "int8":
            packed = _quantised(rows)
        case _:
            raise ProtocolError(f"'{wire}' is not a wire dtype.")
    raw: npt.NDArray[np.uint8] = packed.cpu().view(-1).view(torch.uint8).numpy()
    return raw.data


def decode(buffer: memoryview, wire: str, out: torch.Tensor) -> None:
    """Fill `out` `[..., width]` with what `encode` made of as many rows. Raises `ProtocolError` for other lengths."""
    if wire == "int8":
        elements, scales = _elements(buffer, wire, out.shape)
        out.copy_(elements)
        out.mul_(scales.to(out.device))
    else:
        out.copy_(lent(buffer, wire, out.shape))


def lent(buffer: memoryview, wire: str, shape: Sequence[int]) -> torch.Tensor:
    """The same as a tensor, in float32 or in a narrower float that adds to one. It may be the buffer's own memory."""
    elements, scales = _elements(buffer, wire, shape)
    return elements.mul(scales) if wire == "int8" else elements


def _elements(buffer: memoryview, wire: str, shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """And the scales of rows, which only int8 has."""
    raw = np.frombuffer(buffer, np.uint8)
    rows, width = prod(shape[:-1]), shape[-1]
    if len(raw) != byte_count(rows, width, wire):
        raise ProtocolError(f"A message of {len(raw)} bytes came where {byte_count(rows, width, wire)} were expected.")
    if not raw.flags.writeable:
        raw = raw.copy()  # torch warns of memory that is not for writing
    received: Any = torch.from_numpy(raw)
    split = rows * _SCALE_BYTES if wire == "int8" else 0
    elements = received[split:].view(getattr(torch, wire)).view(*shape)
    return elements, received[:split].view(torch.float32).view(*shape[:-1], 1) if split else elements


def byte_count(rows: int, width: int, wire: str) -> int:
    element = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}[wire]
    return rows * (width * element + (_SCALE_BYTES if wire == "int8" else 0))


def _quantised(rows: torch.Tensor) -> torch.Tensor:
    """A row's largest element becomes ±127."""
    flat = rows.reshape(-1, rows.shape[-1])
    count, width = flat.shape
    packed = torch.empty(count * (width + _SCALE_BYTES), dtype=torch.uint8, device=rows.device)
    scales = packed[: count * _SCALE_BYTES].view(torch.float32)
    torch.linalg.vector_norm(flat, float("inf"), dim=1, out=scales)
    scales.div_(_MOST).clamp_(min=torch.finfo(torch.float32).tiny)
    packed[count * _SCALE_BYTES :].view(torch.int8).view(count, width).copy_(flat.div(scales[:, None]).round_())
    return packed
