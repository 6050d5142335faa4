"""Words to plain msgpack values and back, with every type and bound checked on the way in."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from swarm.errors import MalformedFrame

T = TypeVar("T")


def pack(value: object) -> Any:
    """Plain maps, lists, strings and numbers of a word."""
    return msgspec.to_builtins(value)


def unpack(kind: type[T], plain: object) -> T:
    """Take in a word from outside. Raises `MalformedFrame` that names the field which is wrong."""
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise MalformedFrame(f"A message was not a valid {kind.__name__}: {error}.") from error
