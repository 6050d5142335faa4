"""Build a module without the memory of its parameters.

Every parameter becomes, the moment it is registered, one zero seen through strides of 0: the right shape, dtype and
device for four bytes. Buffers stay real, because their values are part of the anatomy (masks, index tables).
In-place initialisers of such parameters are skipped; they could not work, and the values come later anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


def _is_thin(value: object) -> bool:
    return isinstance(value, torch.Tensor) and any(
        step == 0 and size > 1 for step, size in zip(value.stride(), value.shape, strict=True)
    )


class _SkipInitialisers(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        writes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        target = args[0] if args else (kwargs or {}).get("tensor")  # nn.init passes it by name
        if (writes or name == "empty_like") and _is_thin(target):  # nn.init fills a like tensor, then copies it
            return target
        return func(*args, **(kwargs or {}))


@contextmanager
def _thin_parameters() -> Iterator[None]:
    register = nn.Module.register_parameter

    def register_thin(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not _is_thin(param):
            speck = torch.zeros((), dtype=param.dtype).expand(param.shape)
            param = nn.Parameter(speck, requires_grad=False)
        register(self, name, param)

    nn.Module.register_parameter = register_thin  # type: ignore[method-assign]
    try:
        with _SkipInitialisers():
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def build_thin(factory: Callable[[], nn.Module]) -> nn.Module:
    """The module in eval mode, on the CPU, its parameters without memory and without meaningful values."""
    with _thin_parameters():
        module = factory()
    return module.eval()


def hollow(module: nn.Module) -> nn.Module:
    """Give thin parameters their true layout, in memory that is reserved and, as long as nobody computes, not used.

    torch.export looks at layouts and never at values. It runs on the CPU rather than on the meta device because there
    the constants that a model makes while it runs (`torch.tensor`, `torch.arange`) have values, and a place.
    """
    for parameter in module.parameters():
        parameter.data = torch.empty(parameter.shape, dtype=parameter.dtype)
    return module


def to_meta(module: nn.Module) -> nn.Module:
    """Move everything to the meta device, plain tensor attributes too."""
    for child in module.modules():
        for name, value in list(vars(child).items()):
            if isinstance(value, torch.Tensor):
                setattr(child, name, value.to("meta"))
    return module.to("meta")
