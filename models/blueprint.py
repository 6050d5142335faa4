"""All that a peer knows of a model without having its weights: the plain result of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated

import msgspec
from msgspec import Meta

from swarm.errors import CannotSplit, WeightsError
from swarm.models.graph import Graph
from swarm.models.inside.extents import shapes_of
from swarm.models.inside.roles import Roles
from swarm.plan import INPUT, OUTPUT, Part
from swarm.types import DTYPE_BYTES, Dimension, ModelProfile, Name, TensorSpec, Text

BLUEPRINT_FILE, DERIVED_FILE = "blueprint.msgpack", "derived.safetensors"


@dataclass(frozen=True, slots=True)
class PictureConfig:
    """How a picture becomes the model's input, in timm's terms."""

    input_size: tuple[Dimension, Dimension, Dimension]
    """[C, H, W]."""
    mean: Annotated[tuple[float, ...], Meta(min_length=1, max_length=64)]
    std: Annotated[tuple[float, ...], Meta(min_length=1, max_length=64)]
    interpolation: Name = "bilinear"
    crop_pct: Annotated[float, Meta(gt=0, le=1)] = 1.0
    crop_mode: Name = "center"

    @property
    def channel_mean(self) -> tuple[float, ...]:
        """One for each channel."""
        return self._per_channel(self.mean)

    @property
    def channel_std(self) -> tuple[float, ...]:
        """One for each channel."""
        return self._per_channel(self.std)

    def _per_channel(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """One value serves for all channels, and three serve a grey picture by their mean."""
        channels = self.input_size[0]
        return values if len(values) == channels else (fmean(values),) * channels


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """A place for one tensor: its name, shape and dtype, whatever its content."""

    name: Annotated[str, Meta(max_length=512)]
    shape: Annotated[tuple[Dimension, ...], Meta(max_length=16)]
    dtype: Name

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Blueprint:
    """A model's anatomy. `graph` is None for a model that has none; `profile.uncut_reason` then says why.

    A model with a graph but no cut inside has both.
    """

    profile: ModelProfile
    pictures: PictureConfig
    tensors: tuple[TensorSlot, ...]
    """All tensors that the model computes with, sorted by name."""
    derived: Annotated[tuple[str, ...], Meta(max_length=65536)] = ()
    """Those among them that no weights file holds: constants computed when the model is built."""
    labels: Annotated[tuple[Text, ...], Meta(max_length=65536)] | None = None
    graph: Graph | None = None
    pretrained: Mapping[str, str] = field(default_factory=dict)
    """Where trained weights come from: `{"file": path}`, `{"hub": "timm"}`, or `{"refused": sentence}`."""
    insides: Annotated[tuple[Roles | None, ...], Meta(max_length=65536)] = ()
    """For each stage the roles of its tensors, where it is a block that comes apart; empty when no stage does."""
    home: str = ""
    """The folder it was loaded from; there lies the file with the values of `derived`."""

    @property
    def derived_file(self) -> Path:
        return Path(self.home) / DERIVED_FILE

    @property
    def cuts(self) -> tuple[str, ...]:
        """Names of all cuts, first to last, without the two ends."""
        return tuple(stage.name for stage in self.profile.stages[:-1])

    def tensors_of(self, part: Part) -> tuple[TensorSlot, ...]:
        """The tensors that a part needs, sorted by name: the same on every peer with the same anatomy.

        Those of a part with a shard have the shard's shapes. Raises `CannotSplit` when the part names a cut that the
        model does not have, or heads and neurons of anything else than its blocks.
        """
        if part.shard is not None:
            whole = {slot.name: slot.shape for slot in self.tensors}
            shapes = shapes_of(self.profile, self.insides, part, whole)
            return tuple(replace(slot, shape=shapes[slot.name]) for slot in self.tensors if slot.name in shapes)
        if self.graph is None:
            self._whole_only(part)
            return self.tensors
        needed = frozenset(self.graph.tensor_names(part.start, part.end))
        return tuple(slot for slot in self.tensors if slot.name in needed)

    def boundary(self, cut: str) -> TensorSpec:
        """What travels at a cut, without the batch dimension; `input` and `output` are cuts too."""
        if cut == INPUT:
            return self.profile.input
        for stage in self.profile.stages:
            if stage.name == cut:
                return stage.output
        raise CannotSplit(f"{self.profile.name} has no cut named '{cut}'; use block numbers with --split.")

    def save(self, folder: Path) -> None:
        (folder / BLUEPRINT_FILE).write_bytes(msgspec.msgpack.encode(replace(self, home="")))

    @classmethod
    def load(cls, folder: Path) -> Blueprint:
        """Read what `save` wrote, every field checked. Raises `WeightsError` when it is damaged or missing."""
        try:
            found = msgspec.msgpack.decode((folder / BLUEPRINT_FILE).read_bytes(), type=cls)
        except (OSError, msgspec.MsgspecError) as error:
            raise WeightsError(f"The stored model description in {folder} cannot be read: {error}.") from error
        if found.graph is not None:
            found.graph.check()
        return replace(found, home=str(folder))

    def _whole_only(self, part: Part) -> None:
        if (part.start, part.end) != (INPUT, OUTPUT):
            raise CannotSplit(f"{self.profile.name} runs only as a whole: {self.profile.uncut_reason}")
