"""From the bytes of a request to what a session is asked, every word and byte checked. Pure."""

from __future__ import annotations

import binascii
import math
from base64 import b64decode
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta

from swarm.errors import BadInput
from swarm.gateway.protocol import HEADER_LENGTH, MAX_ELEMENTS, InputWords, OutputWords, RequestWords, unpack
from swarm.gateway.signature import IMAGE, NUMBERS, Signature
from swarm.plan import INPUT, OUTPUT
from swarm.types import Array

MAX_JSON_BYTES: Final = 8 * 2**20
"""Numbers in JSON take thirty times their bytes while they are read, and hold up everything else meanwhile."""
MAX_VALUE_BYTES: Final = 64
"""Of one number, with what stands around it."""
_WORDS: Final = msgspec.json.Decoder(RequestWords)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One output of the answer: raw bytes or JSON, and how many classes when it is to be classified."""

    name: str
    binary: bool
    classes: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that makes sense: an array `[B, ...]`, or encoded pictures."""

    id: str
    x: Array | list[bytes]
    outputs: tuple[Wanted, ...]
    timeout_s: float
    """0 when the client leaves it to the server."""


def parse(body: bytes | bytearray, header_length: str | None, signature: Signature) -> Asked:
    """What a client asks of a model.

    :param header_length: the header `Inference-Header-Content-Length`, None when the body is all JSON.
    :raises BadInput: the sentence says what is wrong.
    """
    head = memoryview(body)
    tail = b"" if header_length is None else memoryview(body)[_length(header_length, len(body)) :]
    if header_length is not None:
        head = head[: int(header_length)]
    words = _words(head)
    given = [_with_bytes(words.inputs, tail)] if len(words.inputs) == 1 else _several(words.inputs)
    [(tensor, raw)] = given
    parameters = words.parameters
    binary = parameters.binary_data_output if parameters is not None else False
    timeout_s = parameters.timeout / 1e6 if parameters is not None else 0.0
    return Asked(words.id, _value(tensor, raw, signature), _wanted(words, tensor.name, binary, signature), timeout_s)


def _length(text: str, total: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 12) or int(text) > total:
        raise BadInput(f"The header {HEADER_LENGTH} has to be the JSON's length within the {total} bytes of the body.")
    return int(text)


def _words(head: memoryview) -> RequestWords:
    if len(head) > MAX_JSON_BYTES:
        raise BadInput(
            f"The request has {len(head)} bytes of JSON, and {MAX_JSON_BYTES} are taken; send values as binary data."
        )
    try:
        return _WORDS.decode(head)
    except msgspec.ValidationError as error:
        raise BadInput(f"The request is not the protocol's: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"The request's JSON cannot be read: {error}.") from None
    except RecursionError:
        raise BadInput("The request's JSON is nested too deep.") from None


def _several(inputs: list[InputWords]) -> Any:
    names = ", ".join(repr(tensor.name) for tensor in inputs) or "none"
    raise BadInput(f"Give exactly one input, '{INPUT}' or '{IMAGE}'; there are: {names}.")


def _with_bytes(inputs: list[InputWords], tail: bytes | memoryview) -> tuple[InputWords, memoryview | bytes | None]:
    """The only input and its raw bytes; None when its values are in the JSON."""
    [tensor] = inputs
    size = tensor.parameters.binary_data_size if tensor.parameters is not None else None
    if size is not None and tensor.data:
        raise BadInput(f"'{tensor.name}' has data and binary_data_size; give one of them.")
    if size is None and not tensor.data:
        raise BadInput(f"'{tensor.name}' has neither data nor binary_data_size.")
    if len(tail) != (size or 0):
        raise BadInput(f"{size or 0} bytes should follow the JSON, and {len(tail)} do.")
    return tensor, tail if size is not None else None


def _value(tensor: InputWords, raw: memoryview | bytes | None, signature: Signature) -> Array | list[bytes]:
    if tensor.name == INPUT:
        return _numbers(tensor, raw, signature)
    if tensor.name == IMAGE and signature.takes_pictures:
        return _pictures(tensor, raw)
    names = f"'{INPUT}' or '{IMAGE}'" if signature.takes_pictures else f"'{INPUT}'"
    raise BadInput(f"{signature.model} has no input '{tensor.name}'; give {names}.")


def _numbers(tensor: InputWords, raw: memoryview | bytes | None, signature: Signature) -> Array:
    dtype = NUMBERS.get(tensor.datatype)
    if dtype is None:
        raise BadInput(f"'{INPUT}' cannot be {tensor.datatype}; send {', '.join(NUMBERS)}.")
    shape = tensor.shape
    if tuple(shape[1:]) != signature.input.shape or not shape[0]:
        wanted = [-1, *signature.input.shape]
        raise BadInput(f"{signature.model} takes '{INPUT}' of shape {wanted} with at least one row, not {shape}.")
    if raw is None:
        return _from_json(tensor.data, tensor, dtype)
    size = shape[0] * signature.input.elements * dtype.itemsize
    if len(raw) != size:
        raise BadInput(f"{tensor.datatype} of shape {shape} are {size} bytes, not {len(raw)}.")
    found = np.frombuffer(raw, dtype).reshape(shape)
    if tensor.datatype == "FP16":
        return found.astype(np.float32)
    return found if found.flags.writeable and found.flags.aligned else found.copy()


def _from_json(data: msgspec.Raw, tensor: InputWords, dtype: np.dtype[Any]) -> Array:
    """Values flat in row-major order, or nested as the shape is."""
    pixels = tensor.datatype == "UINT8"
    if memoryview(data).nbytes > MAX_VALUE_BYTES * math.prod(tensor.shape) + MAX_VALUE_BYTES:
        raise BadInput(f"The data of '{INPUT}' is longer than values of shape {tensor.shape} are.")
    try:
        try:
            values = _decoder(1, pixels).decode(data)
        except msgspec.ValidationError:
            values = _decoder(len(tensor.shape), pixels).decode(data)
        with np.errstate(over="ignore"):
            found = np.array(values, np.float64 if not pixels else dtype).astype(np.uint8 if pixels else np.float32)
            if tensor.shape != list(found.shape) and found.ndim > 1:
                raise BadInput(f"The data of '{INPUT}' has shape {list(found.shape)}, not {tensor.shape}.")
            found = found.reshape(tensor.shape)
    except msgspec.MsgspecError as error:
        raise BadInput(f"The data of '{INPUT}' is no {tensor.datatype} of shape {tensor.shape}: {error}.") from None
    except ValueError:  # ragged, or of another size
        raise BadInput(f"The data of '{INPUT}' does not have shape {tensor.shape}.") from None
    if not pixels and not np.isfinite(found).all():
        raise BadInput(f"The data of '{INPUT}' has numbers that are too large for {tensor.datatype}.")
    return found


@cache
def _decoder(depth: int, pixels: bool) -> msgspec.json.Decoder[Any]:
    kind: Any = Annotated[int, Meta(ge=0, le=255)] if pixels else float
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind)


def _pictures(tensor: InputWords, raw: memoryview | bytes | None) -> list[bytes]:
    """Encoded files: in raw bytes as they are, in JSON as base64."""
    if tensor.datatype != "BYTES":
        raise BadInput(f"'{IMAGE}' cannot be {tensor.datatype}; send encoded JPEG or PNG files as BYTES.")
    shape = tensor.shape
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]) or not 1 <= shape[0] <= MAX_ELEMENTS:
        raise BadInput(f"'{IMAGE}' has to be of shape [-1], one file for each row, not {shape}.")
    if raw is not None:
        return unpack(raw, shape[0])
    try:
        values = msgspec.json.decode(tensor.data, type=list[str])
        files = [b64decode(value, validate=True) for value in values]
    except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
        raise BadInput(f"The data of '{IMAGE}' has to be a list of files in base64: {error}.") from None
    if len(files) != shape[0]:
        raise BadInput(f"'{IMAGE}' has {len(files)} files, and its shape says {shape[0]}.")
    return files


def _wanted(words: RequestWords, source: str, binary: bool, signature: Signature) -> tuple[Wanted, ...]:
    if not words.outputs:
        names = signature.outputs if source == IMAGE else (OUTPUT,)
        return tuple(Wanted(name, binary) for name in names)
    return tuple(_one_wanted(output, binary, signature) for output in words.outputs)


def _one_wanted(output: OutputWords, binary: bool, signature: Signature) -> Wanted:
    if output.name not in signature.outputs:
        raise BadInput(f"{signature.model} has no output '{output.name}'; there are {', '.join(signature.outputs)}.")
    parameters = output.parameters
    if parameters is None:
        return Wanted(output.name, binary)
    if parameters.classification and (output.name != OUTPUT or not signature.top):
        raise BadInput(f"'{output.name}' of {signature.model} is no score for each class; it cannot be classified.")
    chosen = binary if parameters.binary_data is None else parameters.binary_data
    return Wanted(output.name, chosen, min(parameters.classification, *signature.output.shape[:1] or (0,)))
