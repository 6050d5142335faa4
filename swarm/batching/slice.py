"""What the worker thread runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from swarm.types import Array


class Slice(Protocol):
    """A run of a model, without a way out in between; `swarm.models` provides it. Tensors stay on its device."""

    def enter(self, pieces: Sequence[Any]) -> Any:
        """Rows `[B, ...]` of arrays, and of tensors that are there already, joined on the run device."""
        ...

    def run(self, x: Any) -> Any:
        """Returns when it is done, on an accelerator too: how long it took decides how large batches are."""
        ...

    def leave(self, x: Any) -> Array:
        """Back in memory; may share it with `x` if nobody writes there."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """A function of an array."""

    function: Callable[[Array], Array]

    def enter(self, pieces: Sequence[Array]) -> Array:
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def run(self, x: Array) -> Array:
        return self.function(x)

    def leave(self, x: Array) -> Array:
        return x
