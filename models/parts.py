"""A part that runs: just its own tensors, mapped from where their bytes lie, and its region of the graph.

Imports torch and nothing else of weight; timm only for a model that cannot be cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from swarm.errors import BadInput, WeightsError
from swarm.models.blueprint import Blueprint, TensorSlot
from swarm.models.mutation import shared, written
from swarm.models.rebuild import rebuild
from swarm.plan import Part
from swarm.types import Location, TensorSpec

Array = npt.NDArray[np.float32]


class RunnablePart:
    """A loaded part. Call it from one thread at a time; it keeps nothing between calls."""

    def __init__(
        self, part: Part, module: torch.nn.Module, spec: TensorSpec, device: str, nbytes: int, writes_input: bool
    ) -> None:
        self.part = part
        self.input = spec
        self.device = device
        self.parameter_bytes = nbytes
        self._module = module
        self._writes_input = writes_input

    def __call__(self, x: Array) -> Array:
        """`[B, *input.shape]` in, `[B, …]` out, both float32; the input is not changed, the output is a fresh array.

        Raises `BadInput` when shape or dtype are not those of the part's start.
        """
        if x.dtype != np.float32 or x.ndim == 0 or x.shape[1:] != self.input.shape or not len(x):
            raise BadInput(
                f"{self.part.name} takes float32 of the shape [B, {', '.join(map(str, self.input.shape))}] and was "
                f"given {x.dtype} {list(x.shape)}."
            )
        if self._writes_input or not x.flags.c_contiguous or not x.flags.writeable:
            x = np.array(x, order="C")
        with torch.inference_mode():
            result = self._module(torch.from_numpy(x).to(self.device))
            answer: Array = result.to("cpu", torch.float32).contiguous().numpy()
        return answer.copy() if np.may_share_memory(answer, x) else answer


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
    mapped = _Mappings()
    tensors = {
        slot.name: mapped.tensor(slot, locate(digest)).to(device) for slot, digest in zip(slots, digests, strict=True)
    }
    nbytes = sum(slot.nbytes for slot in slots)
    spec = blueprint.boundary(part.start)
    if blueprint.graph is None:
        return RunnablePart(part, _whole(part.model, tensors, device, model_files), spec, device, nbytes, True)
    module = rebuild(blueprint.graph, tensors, device, part.start, part.end)
    return RunnablePart(part, module, spec, device, nbytes, _writes_input(module.graph))


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


class _Mappings:
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


def _whole(model: str, tensors: dict[str, torch.Tensor], device: str, model_files: Sequence[Path]) -> torch.nn.Module:
    """An uncut model, built from its own code without memory, then given the mapped tensors."""
    from swarm.models.catalogue import find
    from swarm.models.registry import load_owner_models
    from swarm.models.thin import build_thin

    load_owner_models(model_files)
    module = build_thin(find(model).build)
    module.load_state_dict(tensors, strict=True, assign=True)
    return module.eval().to(device)
