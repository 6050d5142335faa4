"""A part that runs: just its own tensors, mapped from where their bytes lie, and its region of the graph.

Imports torch and nothing else of weight; timm only for a model that cannot be cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from swarm.errors import BadInput, WeightsError
from swarm.models.blueprint import Blueprint, PictureConfig, TensorSlot
from swarm.models.mutation import shared, written
from swarm.models.rebuild import rebuild
from swarm.plan import INPUT, Part
from swarm.types import Location, TensorSpec

Array = npt.NDArray[Any]


class RunnablePart:
    """A loaded part. Call it from one thread at a time; it keeps nothing between calls.

    :param normalise: what makes the model's input of pixels; None for a part that starts elsewhere.
    """

    def __init__(
        self,
        part: Part,
        module: torch.nn.Module,
        spec: TensorSpec,
        device: str,
        nbytes: int,
        writes_input: bool,
        normalise: Normaliser | None = None,
    ) -> None:
        self.part = part
        self.input = spec
        self.device = device
        self.parameter_bytes = nbytes
        self._module = module
        self.copies_input = writes_input
        """Its operators would write into what they are given."""
        self._normalise = normalise

    @property
    def takes_pixels(self) -> bool:
        return self._normalise is not None

    def __call__(self, x: Array) -> Array:
        """`[B, *input.shape]` float32 in, `[B, …]` float32 out; the input is not changed, the output is a fresh array.

        A part that starts at the model's input also takes pixels, the same shape in uint8, and normalises them.
        Raises `BadInput` when shape or dtype are not those of the part's start.
        """
        normalise = self._normalise if x.dtype == np.uint8 else None
        is_known = x.dtype == np.float32 or normalise is not None
        if not is_known or x.ndim == 0 or x.shape[1:] != self.input.shape or not len(x):
            raise BadInput(
                f"{self.part.name} takes float32 of the shape [B, {', '.join(map(str, self.input.shape))}] and was "
                f"given {x.dtype} {list(x.shape)}."
            )
        if (self.copies_input and normalise is None) or not x.flags.c_contiguous or not x.flags.writeable:
            x = np.array(x, order="C")
        with torch.inference_mode():
            given = torch.from_numpy(x).to(self.device)
            result = self._module(given if normalise is None else normalise(given))
            answer: Array = result.to("cpu", torch.float32).contiguous().numpy()
        return answer.copy() if np.may_share_memory(answer, x) else answer


class Normaliser:
    """Pixels `[B, C, H, W]` of uint8 to the model's input, on the run device: between 0 and 1, less mean, over std."""

    def __init__(self, config: PictureConfig, device: str) -> None:
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]  # [C, 1, 1]
            for values in (config.channel_mean, config.channel_std)
        )
        self._white = torch.tensor([255.0], device=device)  # a plain number would become a factor on some devices

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.to(torch.float32).div_(self._white).sub_(self._mean).div_(self._std)


def build(
    blueprint: Blueprint,
    part: Part,
    locate: Callable[[str], Location],
    digests: Sequence[str],
    *,
    device: str = "cpu",
    model_files: Sequence[Path] = (),
) -> RunnablePart:
    """Load a part: `digests` name its tensors' contents in the order of `tensors_of`, `locate` finds each one's bytes.

    Blocks on the disk. Raises `CannotSplit` for unknown cuts, `WeightsError` for bytes that are not as promised.
    """
    slots = blueprint.tensors_of(part)
    if len(slots) != len(digests):
        raise WeightsError(f"{part.name} has {len(slots)} tensors, but {len(digests)} were named.")
    mapped = Mappings()
    tensors = {
        slot.name: mapped.tensor(slot, locate(digest)).to(device) for slot, digest in zip(slots, digests, strict=True)
    }
    return assemble(blueprint, part, tensors, device, model_files)


def assemble(
    blueprint: Blueprint,
    part: Part,
    tensors: Mapping[str, torch.Tensor],
    device: str,
    model_files: Sequence[Path] = (),
) -> RunnablePart:
    """A part around tensors, by name, that are in memory already."""
    nbytes = sum(tensor.nbytes for tensor in tensors.values())
    spec = blueprint.boundary(part.start)
    normalise = Normaliser(blueprint.pictures, device) if part.start == INPUT else None
    if blueprint.graph is None:
        module = _whole(part.model, tensors, device, model_files)
        return RunnablePart(part, module, spec, device, nbytes, True, normalise)
    graph = rebuild(blueprint.graph, tensors, device, part.start, part.end)
    return RunnablePart(part, graph, spec, device, nbytes, _writes_input(graph.graph), normalise)


def _writes_input(graph: torch.fx.Graph) -> bool:
    """Whether an in-place operator reaches the memory of the part's input."""
    lent = set(graph.find_nodes(op="placeholder"))
    for node in graph.nodes:
        if node.op == "call_function":
            if any(isinstance(value, torch.fx.Node) and value in lent for value in written(node.target, node.args)):
                return True
            if any(isinstance(value, torch.fx.Node) and value in lent for value in shared(node.target, node.args)):
                lent.add(node)
    return False


class Mappings:
    """Files mapped privately, each once: pages come from the disk when they are first used, and are never written."""

    def __init__(self) -> None:
        self._files: dict[Path, npt.NDArray[np.uint8]] = {}

    def tensor(self, slot: TensorSlot, place: Location) -> torch.Tensor:
        if place.nbytes != slot.nbytes:
            raise WeightsError(
                f"The tensor '{slot.name}' should have {slot.nbytes} bytes, but {place.nbytes} were found."
            )
        dtype = getattr(torch, slot.dtype)
        if not slot.nbytes:
            return torch.empty(slot.shape, dtype=dtype)
        raw = self._mapped(place.path)[place.offset : place.offset + place.nbytes]
        if len(raw) != place.nbytes:
            raise WeightsError(f"{place.path} ends before the tensor '{slot.name}' does.")
        if place.offset % 8:
            raw = raw.copy()  # computing on unaligned floats is slow, and wrong on some devices
        return torch.from_numpy(raw).view(dtype).reshape(slot.shape)

    def _mapped(self, path: Path) -> npt.NDArray[np.uint8]:
        if path not in self._files:
            try:
                # np.asarray: the subclass memmap makes every slice slow
                self._files[path] = np.asarray(np.memmap(path, np.uint8, mode="c"))
            except (OSError, ValueError) as error:
                raise WeightsError(f"The weights in {path} cannot be mapped: {error}.") from error
        return self._files[path]


def _whole(
    model: str, tensors: Mapping[str, torch.Tensor], device: str, model_files: Sequence[Path]
) -> torch.nn.Module:
    """An uncut model, built from its own code without memory, then given the mapped tensors."""
    from swarm.models.catalogue import find
    from swarm.models.registry import load_owner_models
    from swarm.models.thin import build_thin

    load_owner_models(model_files)
    module = build_thin(find(model).build)
    module.load_state_dict(tensors, strict=True, assign=True)
    return module.eval().to(device)
