"""From tensors to a part that runs: mapped from where their bytes lie, each one once, into its region of the graph.

Imports torch and nothing else of weight; timm only for a model that cannot be cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from swarm.errors import WeightsError
from swarm.models.blueprint import Blueprint, TensorSlot
from swarm.models.inside.extents import shares
from swarm.models.inside.running import RunnableShard
from swarm.models.mutation import shared, written
from swarm.models.native import Region, without_python
from swarm.models.parts import Normaliser, RunnablePart
from swarm.models.pool import Pool
from swarm.models.rebuild import rebuild
from swarm.plan import INPUT, Part
from swarm.types import Location


def build(
    blueprint: Blueprint,
    part: Part,
    locate: Callable[[str], Location],
    digests: Sequence[str],
    *,
    device: str = "cpu",
    model_files: Sequence[Path] = (),
    pool: Pool | None = None,
) -> RunnablePart:
    """Load a part: `digests` name its tensors' contents in the order of `tensors_of`, `locate` finds each one's bytes.

    Tensors that are in the `pool` already are taken from there, the others are added. Blocks on the disk. Raises
    `CannotSplit` for unknown cuts, `WeightsError` for bytes that are not as promised.
    """
    tensors = _tensors(blueprint, part, locate, digests, device, pool)
    return assemble(blueprint, part, tensors, device, model_files)


def build_shard(
    blueprint: Blueprint,
    part: Part,
    locate: Callable[[str], Location],
    digests: Sequence[str],
    *,
    device: str = "cpu",
    pool: Pool | None = None,
) -> RunnableShard:
    """The same for a part with a shard."""
    tensors = _tensors(blueprint, part, locate, digests, device, pool)
    roles = [roles for roles, _, _ in shares(blueprint.profile, blueprint.insides, part)]
    return RunnableShard(part, roles, tensors, device)


def _tensors(
    blueprint: Blueprint,
    part: Part,
    locate: Callable[[str], Location],
    digests: Sequence[str],
    device: str,
    pool: Pool | None,
) -> dict[str, torch.Tensor]:
    slots = blueprint.tensors_of(part)
    if len(slots) != len(digests):
        raise WeightsError(f"{part.name} has {len(slots)} tensors, but {len(digests)} were named.")
    mapped, held = Mappings(), Pool() if pool is None else pool
    return {
        slot.name: held.tensor(digest, slot, device, partial(_loaded, mapped, slot, locate, digest, device))
        for slot, digest in zip(slots, digests, strict=True)
    }


def _loaded(
    mapped: Mappings, slot: TensorSlot, locate: Callable[[str], Location], digest: str, device: str
) -> torch.Tensor:
    return mapped.tensor(slot, locate(digest)).to(device)


def assemble(
    blueprint: Blueprint,
    part: Part,
    tensors: Mapping[str, torch.Tensor],
    device: str,
    model_files: Sequence[Path] = (),
) -> RunnablePart:
    """A part around tensors, by name, that are in memory already."""
    spec = blueprint.boundary(part.start)
    normalise = Normaliser(blueprint.pictures, device) if part.start == INPUT else None
    if blueprint.graph is None:
        region: Region = _guarded(_whole(part.model, tensors, device, model_files))
        writes_input = True
    else:
        module = rebuild(blueprint.graph, tensors, device, part.start, part.end)
        if writes_input := _writes_input(module.graph):
            _guard_input(module)
        region = without_python(module)
    return RunnablePart(
        part, region, spec, device, tuple(tensors.values()), copies_input=writes_input, normalise=normalise
    )


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


def _guard_input(module: torch.fx.GraphModule) -> None:
    """What would be written into is a copy of the input from now on."""
    (given,) = module.graph.find_nodes(op="placeholder")
    with module.graph.inserting_after(given):
        copy = module.graph.call_function(torch.ops.aten.clone.default, (given,))
    given.replace_all_uses_with(copy, lambda user: user is not copy)
    module.recompile()


def _guarded(module: torch.nn.Module) -> Region:
    return lambda x: module(x.clone())


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
