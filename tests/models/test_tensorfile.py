"""A file from anywhere is either understood or refused with a sentence; nothing reads beyond it."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from swarm.errors import WeightsError
from swarm.models.tensorfile import read_header


def _file(folder: Path, header: Any, body: bytes = b"\0" * 64) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def test_places_are_where_the_bytes_are(tmp_path: Path) -> None:
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([True, False]),
        "c": np.full((1,), 3.0),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"made": "here"})
    entries = read_header(tmp_path / "x.safetensors")
    assert entries.keys() == tensors.keys()
    raw = (tmp_path / "x.safetensors").read_bytes()
    for name, value in tensors.items():
        place = entries[name].location
        assert entries[name].shape == value.shape
        assert raw[place.offset : place.offset + place.nbytes] == value.tobytes()


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [60, 68]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [1] * 40 + [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2**62, 2], "data_offsets": [0, 8]},
        {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 9]},
        "F32",
        None,
    ],
)
def test_impossible_entries_are_refused(tmp_path: Path, entry: Any) -> None:
    with pytest.raises(WeightsError, match=r"not a sound safetensors file"):
        read_header(_file(tmp_path, {"x": entry}))


@pytest.mark.parametrize(
    "raw", [b"", b"\0" * 7, b"\xff" * 16, (2**62).to_bytes(8, "little") + b"{}", (0).to_bytes(8, "little")]
)
def test_impossible_headers_are_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "x").write_bytes(raw)
    with pytest.raises(WeightsError):
        read_header(tmp_path / "x")


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_noise_is_refused(noise: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for path in (_file(Path(folder), noise), _file(Path(folder), b'{"a":' + noise + b"}")):
            with suppress(WeightsError):
                assert all(entry.location.nbytes <= 64 for entry in read_header(path).values())
