"""How long one sample takes in a stage on this device, before any weights are there.

The stage is built with values that are made up, and run just as it will be. What a call costs whatever it computes
(numpy to torch and back, the wrapper) is taken off, so that a run of six blocks is not charged for it six times.
Imports torch; blocks for up to three seconds, so it belongs into a peer's worker thread.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import fx

from swarm.models.assembly import Mappings, assemble
from swarm.models.blueprint import Blueprint, TensorSlot
from swarm.models.devices import synchronize
from swarm.models.native import without_python
from swarm.models.parts import RunnablePart
from swarm.models.quota import cpu_quota
from swarm.models.stopwatch import mean_s, warm_up
from swarm.models.tensorfile import read_header
from swarm.plan import INPUT, Part
from swarm.types import TensorSpec

log = logging.getLogger(__name__)

LEAST_RUNS, QUICK_S = 3, 0.3
LEAST_S, MOST_S = 0.08, 0.4
"""A kind is timed for so long, the longer the more stages are of it: their errors add up."""
THROTTLED = 3.0
"""Times that under a CPU quota, whose periods are a tenth of a second by default and leave no short time even."""
LEAST_SHARE = 0.1
"""Of what was measured: a stage takes some time, however much of it looks like the call's."""
LEAST_CALL_S = 1e-8
SPECK = TensorSpec((1,))
PATTERN_ELEMENTS = 2**18


def stage_s(blueprint: Blueprint, index: int, device: str) -> float | None:
    """Seconds of one sample in a stage of a model with a graph, the call left out; None where it does not run on
    made-up values."""
    part = _stage_part(blueprint, index)
    try:
        run = assemble(blueprint, part, _made_up(blueprint, part, device), device)
        alike = sum(stage.kind == blueprint.profile.stages[index].kind for stage in blueprint.profile.stages)
        whole_s = _timed(run, alike)
    except (
        RuntimeError,
        LookupError,
        ValueError,
        TypeError,
        AssertionError,
    ) as error:  # an operator that looks at values, or memory that is short
        log.warning("%s cannot be timed with made-up values: %s", part.name, error)
        return None
    like = run.input if device.partition(":")[0] != "cpu" else SPECK  # elsewhere its bytes have a way to go
    return max(whole_s - call_s(device, like), LEAST_SHARE * whole_s)


@cache
def call_s(device: str, like: TensorSpec = SPECK) -> float:
    """Seconds of a part that gives back one sample such as `like`."""
    graph = fx.Graph()
    graph.output(graph.placeholder("flowing"))
    nothing = without_python(fx.GraphModule(torch.nn.Module(), graph))
    return _timed(RunnablePart(Part("nothing", ""), nothing, like, device))


def _timed(run: RunnablePart, alike: int = 1) -> float:
    """The copy that guards a caller's input is made once for a part, so it is not the stage's work."""
    shape, rng = (1, *run.input.shape), np.random.default_rng(0)
    x = rng.integers(0, 256, shape, np.uint8) if run.takes_pixels else rng.standard_normal(shape, np.float32)
    window_s = min(MOST_S, LEAST_S * alike) * (1.0 if cpu_quota() is None else THROTTLED)
    copied_s = _sustained_s(_copying(shape, run.device), LEAST_S) if run.copies_input else 0.0
    return max(LEAST_CALL_S, _sustained_s(partial(run, x), window_s) - copied_s)


def _copying(shape: tuple[int, ...], device: str) -> Callable[[], None]:
    given = torch.zeros(shape, device=device)

    def copy() -> None:
        given.clone()
        synchronize(device)

    return copy


def _sustained_s(act: Callable[[], object], window_s: float) -> float:
    warm_up(act, quick_s=QUICK_S)
    return mean_s(act, least_s=window_s, least_runs=LEAST_RUNS, enough_s=2 * window_s)


def _stage_part(blueprint: Blueprint, index: int) -> Part:
    profile = blueprint.profile
    start = profile.stages[index - 1].name if index else INPUT
    return Part(profile.name, profile.digest, start, profile.stages[index].name)


def _made_up(blueprint: Blueprint, part: Part, device: str) -> dict[str, torch.Tensor]:
    """Tensors for a part: the model's own constants, for they may be indices, and otherwise anything."""
    constants = read_header(blueprint.derived_file) if blueprint.derived else {}
    mapped = Mappings()
    return {
        slot.name: (
            mapped.tensor(slot, constants[slot.name].location) if slot.name in constants else _anything(slot)
        ).to(device)
        for slot in blueprint.tensors_of(part)
    }


def _anything(slot: TensorSlot) -> torch.Tensor:
    """Values that keep activations near 1, since tiny ones are slow to compute with: 0 where they may be indices."""
    dtype: Any = getattr(torch, slot.dtype)
    elements = math.prod(slot.shape)
    if not dtype.is_floating_point:
        return torch.zeros(slot.shape, dtype=dtype)
    if len(slot.shape) < 2:
        return (torch.rand(slot.shape, generator=_seeded()) + 0.5).to(dtype)  # a scale or a variance, perhaps
    pattern = torch.randn(min(elements, PATTERN_ELEMENTS), generator=_seeded())  # again and again: quickly made
    repeated = pattern.repeat(-(-elements // max(1, len(pattern))))[:elements].reshape(slot.shape)
    return repeated.div_(math.sqrt(max(1, math.prod(slot.shape[1:])))).to(dtype)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
