"""The protocol's words: what is read is exactly what was meant, and whatever else comes is its error."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import BadInput, SwarmError
from swarm.gateway.asking import MAX_JSON_BYTES, Asked, Wanted, parse
from swarm.gateway.protocol import pack, unpack
from swarm.gateway.replying import Answered, reply
from swarm.gateway.routes import Endpoint, Route, route
from swarm.gateway.signature import Signature
from swarm.gateway.statuses import Reply
from swarm.result import Result
from swarm.types import TensorSpec
from tests.gateway.fakes import binary, numbers, packed

TOY = Signature("toy", TensorSpec((1, 2, 2)), TensorSpec((6,)))
ROWS = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)


def answered(output: Any) -> Answered:
    names = [[(name, 0.2) for name in ("b", "c", "ä", "d", "e")]]
    return Answered(output, [Result(output, lambda _: names, (), None, 0.0, 0.0, 0)])


ANSWER = answered(np.array([[0.5, 2.0, 1.0, 0.0, -1.0, -2.0]], np.float32))


def parsed(value: Any, header_length: str | None = None) -> Asked:
    return parse(value if isinstance(value, bytes) else json.dumps(value).encode(), header_length, TOY)


def image(data: Any = None, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": data or ["QUJD"], **more}]}


# What is meant


@pytest.mark.parametrize("data", [ROWS.ravel().tolist(), ROWS.tolist(), ROWS.astype(int).tolist()])
def test_numbers_in_json_are_flat_or_nested(data: Any) -> None:
    asked = parsed(numbers(2, data=data))
    np.testing.assert_array_equal(asked.x, ROWS)
    assert isinstance(asked.x, np.ndarray)
    assert asked.x.dtype == np.float32
    assert asked.outputs == (Wanted("output", False),)


@pytest.mark.parametrize(
    ("dtype", "name", "kept"),
    [(np.float32, "FP32", np.float32), (np.float16, "FP16", np.float32), (np.uint8, "UINT8", np.uint8)],
)
def test_numbers_in_raw_bytes(dtype: Any, name: str, kept: Any) -> None:
    for identity in ("", "1", "12", "123"):  # so that the tensor begins anywhere
        body, length = binary(ROWS.astype(dtype), name, id=identity)
        asked = parsed(body, length)
        assert isinstance(asked.x, np.ndarray)
        np.testing.assert_array_equal(asked.x, ROWS)
        assert (asked.x.dtype, asked.id) == (kept, identity)
        assert asked.x.flags.aligned


def test_pixels_in_json() -> None:
    asked = parsed(numbers(1, datatype="UINT8", data=[0, 1, 254, 255]))
    assert isinstance(asked.x, np.ndarray)
    assert asked.x.dtype == np.uint8


def test_pictures_are_base64_in_json_and_themselves_in_raw_bytes() -> None:
    assert parsed(image([b64encode(b"\xff\xd8").decode()])).x == [b"\xff\xd8"]
    raw = packed(b"one", b"", b"three")
    head = json.dumps(
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [3], "parameters": {"binary_data_size": len(raw)}}]}
    ).encode()
    asked = parsed(head + raw, str(len(head)))
    assert asked.x == [b"one", b"", b"three"]
    assert [wanted.name for wanted in asked.outputs] == ["output", "labels", "scores"]


def test_what_is_wanted_of_the_answer() -> None:
    outputs = [
        {"name": "labels"},
        {"name": "output", "parameters": {"binary_data": False, "classification": 9}},
        {"name": "scores", "parameters": {"binary_data": True, "unknown": {"x": 1}}},
    ]
    asked = parsed(numbers() | {"outputs": outputs, "parameters": {"binary_data_output": True, "timeout": 1_500_000}})
    assert asked.outputs == (Wanted("labels", True), Wanted("output", False, 6), Wanted("scores", True))
    assert asked.timeout_s == 1.5


# What is not


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "exactly one input.*none"),
        ({"inputs": numbers()["inputs"] * 2}, "exactly one input.*'input', 'input'"),
        (numbers(name="pixels"), "no input 'pixels'"),
        (numbers(datatype="INT64"), "INT64.*FP32"),
        (numbers(shape=[1, 2, 2]), "shape"),
        (numbers(shape=[0, 1, 2, 2], data=[]), "at least one row"),
        (numbers(shape=[-1, 1, 2, 2]), "shape"),
        (numbers(shape=[2, 1, 2, 2]), "shape"),
        (numbers(shape=[2**31, 1, 2, 2]), "shape"),
        (numbers(data=[1, 2, 3]), "does not have shape"),
        (numbers(data=[[[[1, 2], [3]]]]), "does not have shape"),
        (numbers(data=[[[[1, 2]], [[3, 4]]]]), "shape"),
        (numbers(data=["1", 2, 3, 4]), "no FP32"),
        (numbers(data=[None, 2, 3, 4]), "no FP32"),
        (numbers(data=[True, 2, 3, 4]), "no FP32"),
        (numbers(data=[1e39, 2, 3, 4]), "too large"),
        (numbers(data=None), "no FP32"),
        (numbers(datatype="UINT8", data=[256, 0, 0, 0]), "no UINT8"),
        (numbers(datatype="UINT8", data=[1.5, 0, 0, 0]), "no UINT8"),
        (numbers(parameters={"binary_data_size": 16}), "one of them"),
        (numbers(parameters={"binary_data_size": -1}), "binary_data_size"),
        ({"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1, 2, 2]}]}, "neither"),
        (image(datatype="FP32"), "FP32"),
        (image(shape=[2]), "1 files"),
        (image(shape=[1, 2]), "one file for each row"),
        (image(["no base64"]), "base64"),
        (image([1]), "base64"),
        (numbers() | {"outputs": [{"name": "logits"}]}, "no output 'logits'"),
        (numbers() | {"outputs": [{"name": "labels", "parameters": {"classification": 2}}]}, "classified"),
        (numbers() | {"parameters": {"timeout": -1}}, "timeout"),
        (numbers() | {"parameters": {"timeout": "1"}}, "timeout"),
        (numbers() | {"id": 7}, "id"),
        ([], "not the protocol's"),
    ],
)
def test_what_makes_no_sense_is_said(request_: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        parsed(request_)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"inputs": ' + b"[" * 100_000, b"nan"])
def test_what_is_no_json_is_said(body: bytes) -> None:
    with pytest.raises(BadInput):
        parsed(body)


@pytest.mark.parametrize("nested", [b"[" * 5000 + b"]" * 5000, b'{"a":' * 5000 + b"1" + b"}" * 5000])
def test_deep_nesting_inside_a_tensor_is_said(nested: bytes) -> None:
    body = json.dumps(numbers(data="HERE")).encode().replace(b'"HERE"', nested)
    with pytest.raises(BadInput):
        parsed(body)


@pytest.mark.parametrize("change", [-1, 1, 3, -20])
def test_raw_bytes_have_to_be_all_of_them(change: int) -> None:
    body, length = binary(ROWS)
    body = body[:change] if change < 0 else body + b"x" * change
    with pytest.raises(BadInput, match=r"32 bytes should follow"):
        parsed(body, length)


@pytest.mark.parametrize("length", ["", "-1", "1e3", "99999", "0x10", "٣", "1" * 30])
def test_the_length_of_the_json_has_to_be_one(length: str) -> None:
    with pytest.raises(BadInput, match="Inference-Header-Content-Length"):
        parsed(binary(ROWS)[0], length)


def test_raw_bytes_have_to_fit_the_shape() -> None:
    body, length = binary(ROWS[:, :, :1])
    patched = body.replace(b"[2, 1, 1, 2]", b"[2, 1, 2, 2]")
    with pytest.raises(BadInput, match="32 bytes, not 16"):
        parsed(patched, length)


@pytest.mark.parametrize(
    "raw", [b"\x01", packed(b"ab")[:-1], packed(b"a", b"b", b"c"), packed(b"a") + b"\x00", b"\xff" * 8]
)
def test_elements_have_to_be_all_of_them(raw: bytes) -> None:
    with pytest.raises(BadInput, match="BYTES tensor"):
        unpack(raw, 2)


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_elements_come_back(elements: list[bytes]) -> None:
    assert unpack(pack(elements), len(elements)) == elements


# Whatever comes


def _broken(body: bytes, cuts: list[tuple[int, bytes]]) -> bytes:
    for at, new in cuts:
        place = at % (len(body) + 1)
        body = body[:place] + new + body[place + len(new) :]
    return body


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=4)), max_size=4), st.integers(-3, 3), st.booleans())
def test_a_damaged_request_is_an_error_of_the_protocol_or_a_request(
    cuts: list[tuple[int, bytes]], off: int, is_binary: bool
) -> None:
    body, length = binary(ROWS) if is_binary else (json.dumps(numbers(2)).encode(), None)
    try:
        asked = parsed(_broken(body, cuts), None if length is None else str(int(length) + off))
    except BadInput:
        return
    assert len(asked.x) >= 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "data", "x"]), inner),
    max_leaves=6,
)
FIELDS = ("name", "shape", "datatype", "data", "parameters")


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
    st.dictionaries(st.sampled_from(["outputs", "id"]), JSON),
)
def test_words_of_other_kinds_are_errors_of_the_protocol(tensor: dict[str, Any], request_: dict[str, Any]) -> None:
    try:
        found = parsed(numbers(1, **tensor) | request_)
    except BadInput:
        return
    if isinstance(found.x, list):
        assert all(isinstance(picture, bytes) for picture in found.x)
    else:
        assert found.x.shape[1:] == TOY.input.shape
        assert found.x.dtype in (np.float32, np.uint8)
    assert all(wanted.name in ("output", "labels", "scores") for wanted in found.outputs)


# The answer


def test_an_answer_in_json() -> None:
    asked = Asked("7", ROWS, (Wanted("output", False), Wanted("labels", False), Wanted("scores", False)), 0.0)
    found = json.loads(reply(asked, ANSWER, TOY).body)
    assert (found["model_name"], found["model_version"], found["id"]) == ("toy", "1", "7")
    output, labels, scores = found["outputs"]
    assert output == {"name": "output", "datatype": "FP32", "shape": [1, 6], "data": [0.5, 2.0, 1.0, 0.0, -1.0, -2.0]}
    assert labels == {"name": "labels", "datatype": "BYTES", "shape": [1, 5], "data": ["b", "c", "ä", "d", "e"]}
    assert scores["data"] == pytest.approx([0.2] * 5)


def test_an_answer_in_raw_bytes_keeps_their_order() -> None:
    asked = Asked("", ROWS, (Wanted("labels", True), Wanted("scores", False), Wanted("output", True)), 0.0)
    answer = reply(asked, ANSWER, TOY)
    length = int(answer.headers["Inference-Header-Content-Length"])
    labels, scores, output = json.loads(answer.body[:length])["outputs"]
    size = labels["parameters"]["binary_data_size"]
    assert unpack(answer.body[length : length + size], 5) == [b"b", b"c", "ä".encode(), b"d", b"e"]
    assert "data" in scores
    assert output["parameters"]["binary_data_size"] == 24
    np.testing.assert_array_equal(np.frombuffer(answer.body[length + size :], np.float32), ANSWER.output[0])


def test_classes_are_ranked_as_triton_writes_them() -> None:
    asked = Asked("", ROWS, (Wanted("output", False, 6),), 0.0)
    [output] = json.loads(reply(asked, ANSWER, TOY).body)["outputs"]
    assert output["datatype"] == "BYTES"
    assert output["data"][:2] == ["2.000000:1:b", "1.000000:2:c"]
    assert output["data"][5] == "-2.000000:5"


def test_json_never_holds_what_is_no_number() -> None:
    broken = answered(np.array([[np.nan] * 6], np.float32))
    with pytest.raises(SwarmError, match="binary_data"):
        reply(Asked("", ROWS, (Wanted("output", False),), 0.0), broken, TOY)
    assert reply(Asked("", ROWS, (Wanted("output", True),), 0.0), broken, TOY).status == 200


def test_a_model_without_classes_offers_no_labels() -> None:
    dense = Signature("dense", TensorSpec((7,)), TensorSpec((4, 4)))
    assert [tensor["name"] for tensor in dense.metadata()["inputs"]] == ["input"]
    assert [tensor["name"] for tensor in dense.metadata()["outputs"]] == ["output"]
    with pytest.raises(BadInput, match="no output 'labels'"):
        parse(json.dumps(_dense() | {"outputs": [{"name": "labels"}]}).encode(), None, dense)
    assert parse(json.dumps(_dense()).encode(), None, dense).outputs == (Wanted("output", False),)


def _dense() -> dict[str, Any]:
    return {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 7], "data": [0] * 7}]}


# Paths


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("GET", "/v2", Route(Endpoint.SERVER)),
        ("GET", "/v2/", Route(Endpoint.SERVER)),
        ("GET", "/v2/health/ready?x=1", Route(Endpoint.READY)),
        ("GET", "/v2/models/stats", Route(Endpoint.STATISTICS)),
        ("GET", "/v2/models/a%20b", Route(Endpoint.METADATA, "a b")),
        ("GET", "/v2/models/a/versions/1/ready", Route(Endpoint.MODEL_READY, "a")),
        ("GET", "/v2/models/a/versions/1", Route(Endpoint.METADATA, "a")),
        ("POST", "/v2/models/hub:timm/vit/infer", Route(Endpoint.INFER, "hub:timm/vit")),
        ("POST", "/v2/models/hub%2Fvit/versions/1/infer", Route(Endpoint.INFER, "hub/vit")),
        ("POST", "/v2/repository/models/a/load", Route(Endpoint.LOAD, "a")),
        ("POST", "/v2/repository/models/a/unload", Route(Endpoint.UNLOAD, "a")),
    ],
)
def test_paths_that_are_here(method: str, path: str, wanted: Route) -> None:
    assert route(method, path) == wanted


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v3", 404),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/models/", 404),
        ("GET", "/v2/models/a/versions/2", 404),
        ("POST", "/v2/models/a/versions/x/infer", 404),
        ("GET", "/v2/models/" + "a" * 129, 404),
        ("GET", "/v2/models/a%00b", 404),
        ("POST", "/v2/repository/models/a/reload", 404),
        ("GET", "http://elsewhere/v2", 404),
        ("GET", "*", 404),
        ("GET", "/v2/models/a/infer", 405),
        ("DELETE", "/v2", 405),
        ("GET", "/v2/repository/index", 405),
    ],
)
def test_paths_that_are_not(method: str, path: str, status: int) -> None:
    found = route(method, path)
    assert isinstance(found, Reply)
    assert found.status == status


def test_json_that_is_longer_than_its_values_is_not_read() -> None:
    request = {"inputs": [{"name": "input", "shape": [1, 1, 2, 2], "datatype": "FP32", "data": [0.5] * 200}]}
    with pytest.raises(BadInput, match="longer than values of shape"):
        parsed(request)
    with pytest.raises(BadInput, match="as binary data"):
        parse(b" " * (MAX_JSON_BYTES + 1), None, TOY)
