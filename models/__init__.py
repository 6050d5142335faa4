"""Know how a model comes apart: the only home of torch and timm.

Importing this package loads neither. What costs half a gigabyte of memory (timm, torch.export) happens in a child
process whose result is plain data::

    name ──study──▶ Blueprint ──tensors_of(part)──▶ names ──build──▶ RunnablePart: array in, array out
           (child)                weights.resolve ──▶ Manifest (where each tensor's bytes lie)

`study`, `weights`, `parts` and `pictures` are the modules that the rest of the swarm calls.
"""

from swarm.models.blueprint import Blueprint, PictureConfig, TensorSlot
from swarm.models.registry import register

__all__ = ["Blueprint", "PictureConfig", "TensorSlot", "register"]
