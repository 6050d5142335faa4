"""The operators that a plain graph may name, and nothing beyond: ATen's, and arithmetic on sizes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

import torch

from swarm.errors import WeightsError

_SIZES: Final[dict[str, Callable[..., Any]]] = {
    "getitem": operator.getitem,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "truediv": operator.truediv,
    "mod": operator.mod,
    "pow": operator.pow,
    "neg": operator.neg,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "sym_int": torch.sym_int,
    "sym_float": torch.sym_float,
    "sym_max": torch.sym_max,
    "sym_min": torch.sym_min,
    "sym_not": torch.sym_not,
}
_NAMES = {function: name for name, function in _SIZES.items()}
_REFUSED = frozenset({"from_file", "save", "load"})


def encode_target(target: Any) -> str:
    """The plain name of what an exported node calls. Raises `TypeError` for anything that is not in the list."""
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        return f"aten.{target._schema.name.split('::')[1]}.{target._overloadname}"
    if target in _NAMES:
        return _NAMES[target]
    raise TypeError(f"the operator '{target}'")


def decode_target(name: str) -> Callable[..., Any]:
    """What a plain name stands for. Raises `WeightsError` for a name that no study ever writes."""
    if name in _SIZES:
        return _SIZES[name]
    space, _, rest = name.partition(".")
    packet, _, overload = rest.partition(".")
    if space == "aten" and packet.isidentifier() and overload.isidentifier() and packet not in _REFUSED:
        found = getattr(getattr(torch.ops.aten, packet, None), overload, None)
        if isinstance(found, torch._ops.OpOverload):
            return found
    raise WeightsError(f"A model description asks for the operator '{name[:80]}', which this device does not have.")
