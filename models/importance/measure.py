"""The child's side: build the model with its weights, score its heads and neurons, and try it with fewer of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from swarm.errors import CannotSplit, WeightsError
from swarm.models import catalogue, devices
from swarm.models.blueprint import Blueprint, PictureConfig
from swarm.models.importance.kept import Importance
from swarm.models.importance.labelled import Labelled, Labels, batches, open_pictures
from swarm.models.importance.order import RESULT_FILE, SEED, Order, Tensor, tell
from swarm.models.importance.resilience import GRID, resilience
from swarm.models.importance.roles import blocks_of
from swarm.models.importance.scores import Batch, BlockScores, taylor

TEST_BATCH = 250
_NONE = BlockScores(np.empty(0, np.float32), np.empty(0, np.float32))
"""Of a block that does not come apart."""


def measure(folder: Path) -> None:
    """Do what the order in `folder` says, and leave the importance there."""
    order = Order.load(folder)
    if order.threads is not None:
        torch.set_num_threads(order.threads)
    devices.be_exact()
    device = devices.pick(devices.AUTO)
    blueprint = Blueprint.load(Path(order.study))
    blocks = blocks_of(blueprint)
    config, data = blueprint.pictures, Path(order.data)
    pictures = open_pictures(data, order.model, config, blueprint.labels, classes_of(blueprint), SEED)
    drawn = batches(pictures.measuring, order.batch, order.samples, data, SEED)
    tell(folder, "Loading the model", 0.0)
    model = restored(order, device)
    scores = taylor(
        model,
        blocks,
        inputs(pictures.measuring, drawn, config, device),
        _Steps(folder, "Scoring heads and neurons", order.samples),
    )
    places = np.array_split(np.arange(len(pictures.held_out)), -(-len(pictures.held_out) // TEST_BATCH))
    held = list(inputs(pictures.held_out, places, config, device))
    steps = _Steps(folder, "Trying the model with fewer of them", len(GRID))
    pairs = resilience(model, blocks, scores, held, steps)
    by_number = dict(zip((block.number for block in blocks), scores, strict=True))
    every = [by_number.get(number, _NONE) for number in range(len(blueprint.profile.blocks) - 1)]
    origin = order.origin(blueprint.profile.digest, len(pictures.held_out))
    found = Importance(origin, [each.heads for each in every], [each.neurons for each in every], pairs)
    found.save(folder / RESULT_FILE)


class _Steps:
    """Called after each of so many steps."""

    def __init__(self, folder: Path, what: str, steps: int) -> None:
        self._folder, self._what, self._steps, self._done = folder, what, steps, 0

    def __call__(self) -> None:
        self._done += 1
        tell(self._folder, self._what, self._done / self._steps)


def classes_of(blueprint: Blueprint) -> int:
    """How many the model tells apart. Raises `CannotSplit` for another output than one score for each."""
    shape = blueprint.profile.stages[-1].output.shape if blueprint.profile.stages else ()
    if len(shape) != 1:
        raise CannotSplit(f"{blueprint.profile.name} does not sort pictures into classes, so no labels fit its output.")
    return shape[0]


def inputs(labelled: Labelled, places: Iterable[Labels], config: PictureConfig, device: str) -> Iterator[Batch]:
    """Batches as the model takes them, read one by one."""
    mean, std = (
        torch.tensor(values, device=device)[:, None, None] for values in (config.channel_mean, config.channel_std)
    )
    for chosen in places:
        pixels = torch.from_numpy(labelled.take(chosen)).to(device)
        yield (pixels.float() / 255 - mean) / std, torch.from_numpy(labelled.labels[chosen]).to(device)


def restored(order: Order, device: str) -> nn.Module:
    """The model in eval mode with the order's tensors. Raises `WeightsError` when its state has other ones."""
    model: nn.Module = catalogue.find(order.model).build()
    state = {name: _tensor(tensor) for name, tensor in order.tensors.items()}
    try:
        lacks = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # another shape
        raise WeightsError(f"The weights do not fit {order.model} as it is built here: {error}.") from error
    wrong = [*lacks.unexpected_keys, *({name for name, _ in model.named_parameters()} & {*lacks.missing_keys})]
    if wrong:
        raise WeightsError(f"The weights do not fit {order.model} as it is built here: see '{wrong[0]}'.")
    return model.eval().to(device)


def _tensor(tensor: Tensor) -> torch.Tensor:
    """Read and not mapped: it is changed in place later on."""
    with Path(tensor.path).open("rb") as file:
        file.seek(tensor.offset)
        content = bytearray(file.read(tensor.nbytes))
    if len(content) != tensor.nbytes:
        raise WeightsError(f"{tensor.path} became shorter while it was read.")
    if not content:
        return torch.empty(tensor.shape, dtype=getattr(torch, tensor.dtype))
    return torch.frombuffer(content, dtype=getattr(torch, tensor.dtype)).reshape(tensor.shape)
