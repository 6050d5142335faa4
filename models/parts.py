"""A part that runs: rows enter its device, go through its region of the graph, and leave.

    arrays ─enter─▶ tensor ─run─▶ tensor ─run, by the next part─▶ tensor ─leave─▶ array

Whatever goes from step to step is on the device, and nobody writes into what another one may still read: a region that
works in place begins with a copy. Imports torch and nothing else of weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from swarm.errors import BadInput
from swarm.models.blueprint import PictureConfig
from swarm.models.devices import synchronize
from swarm.models.native import Region, without_python
from swarm.plan import Part
from swarm.types import TensorSpec

Array = npt.NDArray[Any]
_aten = torch.ops.aten


class RunnablePart:
    """A loaded part. Call it from one thread at a time; it keeps nothing between calls.

    :param region: `[B, ...]` to `[B, ...]`, on the device; it does not write into what it is given.
    :param tensors: its parameters, held for as long as the part lives, so that other parts can share them.
    :param copies_input: the region's operators would write into what they are given, so it begins with a copy.
    :param normalise: what makes the model's input of pixels; None for a part that starts elsewhere.
    """

    def __init__(
        self,
        part: Part,
        region: Region,
        spec: TensorSpec,
        device: str,
        tensors: Sequence[torch.Tensor] = (),
        *,
        copies_input: bool = False,
        normalise: Normaliser | None = None,
    ) -> None:
        self.part = part
        self.input = spec
        self.device = device
        self.tensors = tensors
        self.copies_input = copies_input
        self._region = region
        self._normalise = normalise
        self._is_cpu = torch.device(device).type == "cpu"

    @property
    def parameter_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def takes_pixels(self) -> bool:
        return self._normalise is not None

    def __call__(self, x: Array) -> Array:
        """`[B, *input.shape]` float32 in, `[B, …]` float32 out; the input is not changed, the output is a fresh array.

        A part that starts at the model's input also takes pixels, the same shape in uint8, and normalises them.
        Raises `BadInput` when shape or dtype are not those of the part's start.
        """
        return self.leave(self.run(self.enter([x])))

    def enter(self, pieces: Sequence[Array | torch.Tensor]) -> torch.Tensor:
        """Rows of several requests as one tensor on the device: arrays, or tensors that are there already.

        A single one may be lent, not copied, so leave it unchanged until `run` is over. Raises `BadInput`.
        """
        for piece in pieces:
            self._check(piece)
        with torch.inference_mode():
            placed: list[torch.Tensor] = []
            for _, run in groupby(pieces, key=lambda piece: str(piece.dtype)):
                alike: list[Any] = list(run)
                placed += alike if isinstance(alike[0], torch.Tensor) else [self._placed(alike)]
            return placed[0] if len(placed) == 1 else torch.cat(placed)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        """What `enter` gave, or the part before, through this part. `x` is not changed, the result is fresh memory."""
        with torch.inference_mode():
            result = self._region(x)
            result = result.clone() if _share_memory(result, x) else result
        if not self._is_cpu:
            synchronize(self.device)  # whoever times it must not time its launch
        return result

    def leave(self, x: torch.Tensor) -> Array:
        """A result of `run`, or rows of it, as float32, C-contiguous.

        On the CPU it is the memory of that result, not a copy: no part ever writes into it.
        """
        if not (self._is_cpu and x.dtype is torch.float32 and x.is_contiguous()):  # each of these calls costs
            with torch.inference_mode():
                x = x.to("cpu", torch.float32).contiguous()
        answer: Array = x.numpy()
        return answer

    def _check(self, x: Array | torch.Tensor) -> None:
        is_known = x.dtype in (np.float32, torch.float32) or (self.takes_pixels and x.dtype == np.uint8)
        if not is_known or x.ndim == 0 or x.shape[1:] != self.input.shape or not len(x):
            raise BadInput(
                f"{self.part.name} takes float32 of the shape [B, {', '.join(map(str, self.input.shape))}] and was "
                f"given {x.dtype} {list(x.shape)}."
            )

    def _placed(self, pieces: Sequence[Any]) -> torch.Tensor:
        """Arrays of one dtype as one tensor on the device, normalised."""
        placed = self._joined(pieces) if self._is_cpu else self._sent(pieces)
        return placed if self._normalise is None or placed.dtype is torch.float32 else self._normalise(placed)

    def _joined(self, pieces: Sequence[Array]) -> torch.Tensor:
        x = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        is_usable = x.flags.c_contiguous and x.flags.writeable  # torch warns of memory that is not for writing
        return torch.from_numpy(x if is_usable else np.array(x, order="C"))

    def _sent(self, pieces: Sequence[Array]) -> torch.Tensor:
        """By way of pinned memory where there is such: the copy need not wait, and torch's allocator keeps that memory
        until the copy is done."""
        if torch.device(self.device).type != "cuda":
            return self._joined(pieces).to(self.device)
        rows = sum(map(len, pieces))
        kind = torch.uint8 if pieces[0].dtype == np.uint8 else torch.float32
        staging = torch.empty((rows, *self.input.shape), dtype=kind, pin_memory=True)
        np.concatenate(pieces, out=staging.numpy())
        return staging.to(self.device, non_blocking=True)


def _share_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


class Normaliser:
    """Pixels `[B, C, H, W]` of uint8 to the model's input, on the run device: between 0 and 1, less mean, over std."""

    def __init__(self, config: PictureConfig, device: str) -> None:
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]  # [C, 1, 1]
            for values in (config.channel_mean, config.channel_std)
        )
        white = torch.tensor([255.0], device=device)  # a plain number would become a factor on some devices
        self._region = without_python(_normaliser(white, mean, std))

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._region(pixels)


def _normaliser(white: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> fx.GraphModule:
    root, graph = torch.nn.Module(), fx.Graph()
    values = []
    flowing = graph.placeholder("pixels")
    for name, tensor in (("white", white), ("mean", mean), ("std", std)):
        root.register_buffer(name, tensor)
        values.append(graph.get_attr(name))
    flowing = graph.call_function(_aten.to.dtype, (flowing, torch.float32))
    for target, value in zip((_aten.div_.Tensor, _aten.sub_.Tensor, _aten.div_.Tensor), values, strict=True):
        flowing = graph.call_function(target, (flowing, value))
    graph.output(flowing)
    return fx.GraphModule(root, graph)
