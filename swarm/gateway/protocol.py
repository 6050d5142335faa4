"""Words of the Open Inference Protocol v2 and of its binary tensor data extension. Pure.

https://github.com/kserve/open-inference-protocol and Triton's `extension_binary_data.md`: after the JSON come the raw
bytes of each tensor that has a `binary_data_size`, in order; the header below says how long the JSON is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Annotated, Final

from msgspec import Meta, Raw, Struct

from swarm.errors import BadInput

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
VERSION: Final = "1"
"""The only one of each model."""
MAX_NAME: Final = 128
MAX_ELEMENTS: Final = 65536
"""Of a BYTES tensor."""

Text = Annotated[str, Meta(max_length=256)]
Extent = Annotated[int, Meta(ge=0, le=2**31)]
ByteCount = Annotated[int, Meta(ge=0, le=2**40)]


class InputParameters(Struct):
    binary_data_size: ByteCount | None = None


class InputWords(Struct):
    """An input tensor as the request's JSON describes it."""

    name: Text
    shape: Annotated[list[Extent], Meta(min_length=1, max_length=9)]
    datatype: Text
    parameters: InputParameters | None = None
    data: Raw = Raw()
    """Empty when it is not there."""


class OutputParameters(Struct):
    binary_data: bool | None = None
    classification: Annotated[int, Meta(ge=0, le=2**31)] = 0


class OutputWords(Struct):
    """An output tensor that the request wants."""

    name: Text
    parameters: OutputParameters | None = None


class RequestParameters(Struct):
    binary_data_output: bool = False
    timeout: Annotated[int, Meta(ge=0, le=2**62)] = 0
    """Microseconds; 0 is the server's default."""


class RequestWords(Struct):
    """The JSON of an inference request. Members of extensions that are not known here are passed over."""

    inputs: Annotated[list[InputWords], Meta(max_length=16)]
    outputs: Annotated[list[OutputWords], Meta(max_length=16)] | None = None
    id: Text = ""
    parameters: RequestParameters | None = None


class AnswerParameters(Struct):
    binary_data_size: int


class AnswerTensor(Struct, omit_defaults=True):
    """An output tensor in the response: with its values, or the number of bytes that follow."""

    name: str
    datatype: str
    shape: list[int]
    parameters: AnswerParameters | None = None
    data: list[float] | list[str] | None = None


class AnswerNotes(Struct):
    degraded: str
    """What was missing from the answer."""


class AnswerWords(Struct, omit_defaults=True):
    """The JSON of an inference response."""

    model_name: str
    model_version: str
    outputs: list[AnswerTensor]
    id: str = ""
    parameters: AnswerNotes | None = None


def pack(elements: Iterable[bytes]) -> bytes:
    """A BYTES tensor as raw bytes: each element after its length in four bytes, little-endian."""
    return b"".join(part for element in elements for part in (struct.pack("<I", len(element)), element))


def unpack(raw: bytes | memoryview, count: int) -> list[bytes]:
    """The reverse of `pack`. Raises `BadInput` unless there are exactly `count` elements."""
    elements: list[bytes] = []
    at = 0
    while at < len(raw) and len(elements) < count:
        if at + 4 > len(raw):
            break
        (length,) = struct.unpack_from("<I", raw, at)
        end = at + 4 + length
        if end > len(raw):
            left = len(raw) - at - 4
            raise BadInput(f"Element {len(elements)} of a BYTES tensor says {length} bytes, and {left} follow.")
        elements.append(bytes(raw[at + 4 : end]))
        at = end
    if at != len(raw) or len(elements) != count:
        raise BadInput(
            f"The bytes of a BYTES tensor are not {count} elements; write each after its length in four bytes, "
            "little-endian."
        )
    return elements
