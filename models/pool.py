"""One copy of each tensor: parts of one model that overlap share what both need, also on a GPU.

The pool keeps nothing alive. A tensor goes with the last part that holds it.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakValueDictionary

import torch

from swarm.models.blueprint import TensorSlot


class Pool:
    """Tensors that some part holds, by content, device, and what the content is read as. Used by one thread."""

    def __init__(self) -> None:
        self._held: WeakValueDictionary[tuple[object, ...], torch.Tensor] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._held)

    def tensor(self, digest: str, slot: TensorSlot, device: str, load: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The tensor of that content; `load` makes it when nobody holds it. What is given is never written into."""
        key = digest, device, slot.dtype, slot.shape
        if (found := self._held.get(key)) is None:
            found = self._held[key] = load()
        return found
