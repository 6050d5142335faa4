"""What a tensor loses on the wire is what its wire dtype says, and nothing malformed comes in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import BadInput, MalformedFrame
from swarm.tensors import WIRE_DTYPES, decode, encode, wire_bytes
from swarm.types import TensorSpec

SHAPES = [(1,), (5,), (2, 3), (3, 1), (2, 5, 7), (0, 4), (2, 0), (1, 2, 3, 4)]


def normal(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("wire", WIRE_DTYPES)
def test_round_trip(shape: tuple[int, ...], wire: str) -> None:
    array = normal(*shape)
    fields, body = encode(array, wire)
    back = decode(fields, bytes(body))
    assert (back.shape, back.dtype) == (array.shape, array.dtype)
    assert len(bytes(body)) == wire_bytes(TensorSpec(shape[1:]), shape[0], wire)
    step = {"float32": 0, "float16": 2**-10, "bfloat16": 2**-8, "int8": 1 / 127}[wire]
    assert np.abs(back - array).max(initial=0) <= step * np.abs(array).max(initial=0)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "bool", "int16", "int32", "int64", "float64", "float16"])
@pytest.mark.parametrize("wire", WIRE_DTYPES)
def test_everything_else_travels_as_it_is(dtype: str, wire: str) -> None:
    array = (normal(3, 4) * 10).astype(dtype)
    fields, body = encode(array, wire)
    assert fields["wire"] == dtype
    assert memoryview(body).nbytes == array.nbytes == wire_bytes(TensorSpec((4,), dtype), 3, wire)
    assert np.array_equal(decode(fields, body), array)


def test_float32_is_never_copied() -> None:
    array = normal(4, 5)
    fields, body = encode(array)
    assert np.shares_memory(np.frombuffer(body, np.float32), array)
    received = bytearray(body)
    back = decode(fields, received)
    assert np.shares_memory(back, np.frombuffer(received, np.float32))
    back[0, 0] = 1.0


def test_strided_arrays_travel_too() -> None:
    array = normal(6, 8)[::2, 1::3]
    assert np.array_equal(decode(*encode(array)), array)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_bfloat16_rounds_as_torch_does(bits: list[int]) -> None:
    array = np.array(bits, np.uint32).view(np.float32)[None]
    ours = decode(*encode(array, "bfloat16"))
    theirs = torch.from_numpy(array).to(torch.bfloat16).to(torch.float32).numpy()
    assert np.array_equal(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("wire", ["float16", "bfloat16"])
def test_infinities_and_nan_survive(wire: str) -> None:
    array = np.array([[np.inf, -np.inf, np.nan, 0.0, -0.0]], np.float32)
    assert np.array_equal(decode(*encode(array, wire)), array, equal_nan=True)


def test_int8_keeps_rows_apart() -> None:
    array = np.array(
        [[1000.0, -1000.0, 1.0], [0.001, 0.002, -0.004], [0, 0, 0], [1, np.nan, 2], [np.inf, 1, 2]], np.float32
    )
    back = decode(*encode(array, "int8"))
    assert back[0].tolist() == pytest.approx([1000, -1000, 0])
    assert back[1] == pytest.approx(array[1], abs=0.004 / 127)
    assert back[2].tolist() == [0, 0, 0]
    assert np.isnan(back[3:]).all()


def test_int8_of_the_tiniest_and_largest() -> None:
    tiny, large = np.float32(1e-45), np.finfo(np.float32).max
    back = decode(*encode(np.array([[tiny, 0], [large, -large]], np.float32), "int8"))
    assert abs(back[0]).max() <= 2e-45
    assert back[1] == pytest.approx([large, -large], rel=0.01)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2, 4]},
        {"shape": [-2, -3]},
        {"shape": []},
        {"shape": [1] * 10},
        {"shape": "23"},
        {"shape": [2, 3.0]},
        {"shape": [2**31, 2**31, 2**31]},
        {"shape": [2**40, 0]},
        {"shape": None},
        {"dtype": "float64"},
        {"dtype": "object"},
        {"dtype": "bfloat16"},
        {"dtype": 3},
        {"wire": "float64"},
        {"wire": "uint8"},
        {"wire": "float16"},
        {"wire": "int8"},
        {"wire": None},
    ],
)
def test_what_does_not_fit_together_is_malformed(change: dict[str, object]) -> None:
    fields, body = encode(normal(2, 3))
    with pytest.raises(MalformedFrame):
        decode(fields | change, body)


@given(
    st.dictionaries(
        st.sampled_from(["shape", "dtype", "wire"]),
        st.lists(st.integers(-1, 2**31), max_size=9) | st.sampled_from(["float32", "int8", "float16", "bool", ""]),
    ),
    st.binary(max_size=64),
)
def test_nothing_but_malformed_comes_out(fields: dict[str, Any], body: bytes) -> None:
    try:
        array = decode(fields, body)
    except MalformedFrame:
        return
    assert list(array.shape) == fields["shape"]


def test_what_cannot_travel() -> None:
    with pytest.raises(BadInput, match="int4"):
        encode(normal(2, 3), "int4")
    with pytest.raises(BadInput):
        encode(np.array(["text"], dtype=object))
    with pytest.raises(BadInput):
        encode(np.float32(3) * np.ones(()))
    with pytest.raises(BadInput):
        wire_bytes(TensorSpec((3,), "complex64"), 1, "float32")
