"""Tensors as bytes. Only float32 shrinks on the wire; everything else travels as it is.

    wire       bytes per element          what is lost
    float32    4                          nothing; not even copied
    float16    2                          13 bits of mantissa; beyond ±65504 infinite
    bfloat16   2                          16 bits of mantissa, rounded to nearest even
    int8       1, and 4 for each row      all but 8 bits, relative to the largest of its row

A row is a run along the last dimension. In int8 all the scales come first, then all the elements. Little-endian.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from swarm.errors import BadInput, MalformedFrame
from swarm.schema import unpack
from swarm.types import DTYPE_BYTES, Dimension, Name, TensorSpec
from swarm.wire import Buffer

Array = NDArray[Any]

WIRE_DTYPES: Final = ("float32", "float16", "bfloat16", "int8")
"""What a float32 tensor may travel as."""

_LARGEST_SCALE: Final = np.nextafter(np.finfo(np.float32).max / np.float32(127), np.float32(0))
"""127 steps of it are still finite."""

_LITTLE: Final = {name: np.dtype(name).newbyteorder("<") for name in DTYPE_BYTES if name != "bfloat16"}

_NAMES: Final = {np.dtype(name): name for name in _LITTLE}
"""numpy works a dtype's name out anew each time that it is asked."""


@dataclass(frozen=True, slots=True)
class _Header:
    shape: Annotated[tuple[Dimension, ...], Meta(min_length=1, max_length=9)]
    dtype: Name
    wire: Name


def wire_bytes(spec: TensorSpec, batch: int, wire: str) -> int:
    """Bytes of the body that `encode` makes of `[batch, *spec.shape]`. Raises `BadInput` for an unknown dtype."""
    if spec.dtype not in DTYPE_BYTES:
        raise BadInput(f"There are no tensors of dtype '{spec.dtype}'.")
    return _body_bytes((batch, *spec.shape), spec.dtype, _travels_as(spec.dtype, wire))


def encode(array: Array, wire: str = "float32") -> tuple[dict[str, Any], Buffer]:
    """Fields and body of `array [B, ...]`. A contiguous float32 array is not copied: leave it alone until it is sent.

    Raises `BadInput` for a dtype or wire dtype that cannot travel.
    """
    dtype = _NAMES.get(array.dtype) or array.dtype.name
    if dtype not in _LITTLE or not 1 <= array.ndim <= 9:
        raise BadInput(f"An array of dtype '{dtype}' and {array.ndim} dimensions cannot travel; batch comes first.")
    wire = _travels_as(dtype, wire)
    fields = {"shape": list(array.shape), "dtype": dtype, "wire": wire}
    return fields, _pack(np.ascontiguousarray(array, _LITTLE[dtype]), dtype, wire)


def decode(fields: Mapping[str, Any], body: Buffer) -> Array:
    """The array that was encoded, in its first dtype; float32 on the wire becomes a view of `body`.

    Fields beyond the tensor's own are ignored. Raises `MalformedFrame` when shape, dtypes and body do not fit together.
    """
    header = unpack(_Header, dict(fields))
    return restore(header.shape, header.dtype, header.wire, body)


def restore(shape: tuple[int, ...], dtype: str, wire: str, body: Buffer) -> Array:
    """`decode`, for whom the fields have been read already."""
    if dtype not in _LITTLE:
        raise MalformedFrame(f"A tensor of dtype '{dtype}' cannot be received.")
    if wire not in (WIRE_DTYPES if dtype == "float32" else (dtype,)):
        raise MalformedFrame(f"A {dtype} tensor cannot travel as '{wire}'.")
    raw = memoryview(body)
    expected = _body_bytes(shape, dtype, wire)
    if raw.nbytes != expected:
        raise MalformedFrame(f"A tensor of shape {list(shape)} has {raw.nbytes} bytes instead of {expected}.")
    try:
        return _unpack(raw, shape, dtype, wire)
    except ValueError as error:  # numpy has limits of its own on shapes without elements
        raise MalformedFrame(f"A tensor cannot have the shape {list(shape)}: {error}.") from error


def _travels_as(dtype: str, wire: str) -> str:
    if wire not in WIRE_DTYPES:
        raise BadInput(f"'{wire}' is not a wire dtype; choose one of {', '.join(WIRE_DTYPES)}.")
    return wire if dtype == "float32" else dtype


def _body_bytes(shape: tuple[int, ...], dtype: str, wire: str) -> int:
    elements = math.prod(shape)
    scales = _rows(shape) * 4 if (dtype, wire) == ("float32", "int8") else 0
    return elements * DTYPE_BYTES[wire] + scales


def _rows(shape: tuple[int, ...]) -> int:
    return math.prod(shape[:-1])


def _pack(array: Array, dtype: str, wire: str) -> Buffer:
    if wire == dtype:
        return _raw(array)
    if wire == "float16":
        with np.errstate(over="ignore"):
            return _raw(array.astype("<f2"))
    if wire == "bfloat16":
        return _raw(_to_bfloat16(array))
    scales, quantized = _to_int8(array)
    return b"".join((_raw(scales), _raw(quantized)))


def _unpack(raw: memoryview, shape: tuple[int, ...], dtype: str, wire: str) -> Array:
    if wire == dtype:
        flat: Array = np.frombuffer(raw, _LITTLE[dtype])
    elif wire == "float16":
        flat = np.frombuffer(raw, "<f2").astype(np.float32)
    elif wire == "bfloat16":
        flat = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        return _from_int8(raw, shape)
    return flat.reshape(shape)


def _raw(array: Array) -> Buffer:
    return array.reshape(-1).view(np.uint8).data if array.size else b""


def _to_bfloat16(array: Array) -> Array:
    """The upper half of each float32, rounded to nearest even; a NaN stays one whatever its lower half."""
    bits = array.view("<u4")
    upper = bits >> np.uint32(16)
    rounded = (bits + (np.uint32(0x7FFF) + (upper & np.uint32(1)))) >> np.uint32(16)
    return np.where(np.isnan(array), upper | np.uint32(0x40), rounded).astype("<u2")


def _to_int8(array: Array) -> tuple[Array, Array]:
    """Scales `[rows]` and elements `[rows, columns]`. A row with anything infinite or NaN in it arrives as NaN."""
    rows = array.reshape(_rows(array.shape), array.shape[-1])  # [R, C]
    scales = np.abs(rows).max(axis=1, initial=0.0) / np.float32(127)  # [R]
    divisors = np.where(np.isfinite(scales) & (scales > 0), scales, np.float32(np.inf))
    with np.errstate(invalid="ignore"):
        steps = np.nan_to_num(rows / divisors[:, None], nan=0.0)
    quantized = np.clip(np.rint(steps), -127, 127).astype(np.int8)
    return np.where(np.isfinite(scales), np.minimum(scales, _LARGEST_SCALE), np.float32(np.nan)).astype(
        "<f4"
    ), quantized


def _from_int8(raw: memoryview, shape: tuple[int, ...]) -> Array:
    rows = _rows(shape)
    scales = np.frombuffer(raw[: rows * 4], "<f4")  # [R]
    elements = np.frombuffer(raw[rows * 4 :], np.int8).reshape(rows, shape[-1])  # [R, C]
    with np.errstate(all="ignore"):
        rows_back: Array = elements.astype(np.float32) * scales[:, None]
    return rows_back.reshape(shape)
