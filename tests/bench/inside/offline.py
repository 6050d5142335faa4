"""What a group without some of its members should still know: the same heads and neurons, zeroed in the model."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from swarm import schema
from swarm.models.importance.resilience import accuracy
from swarm.models.importance.roles import blocks_of
from swarm.models.inside.cutting import Pick, picks_of
from swarm.models.workshop import Workshop
from swarm.plan import Group
from tests.bench.failures.losses import missing
from tests.bench.failures.schemes import Shared
from tests.bench.failures.subject import Subject, Wish


def predicted(group: dict[str, Any], lost: Sequence[int], given: argparse.Namespace, count: int, place: Path) -> float:
    """Accuracy over the first test pictures, without the members at these places."""
    subject, blueprint, importance = _subject(
        given.model, given.weights, tuple(given.models), Path(given.data), count, place
    )
    picks = picks_of(blueprint, schema.unpack(Group, group), importance)
    blocks = blocks_of(blueprint)
    shared = [
        _shared([member[number] for member in picks], block.heads.count, block.heads.each, block.neurons.count)
        for number, block in enumerate(blocks)
    ]
    with missing(subject.model, subject.blocks, shared, frozenset(lost)):
        return accuracy(subject.model, subject.tests)


@cache
def _subject(model: str, weights: str, models: tuple[str, ...], data: Path, count: int, place: Path) -> Any:
    files = tuple(map(Path, models))

    async def prepare() -> Any:
        workshop = Workshop(place, files, "cpu", None)
        blueprint = await workshop.study(model)
        manifest = await workshop.resolve(blueprint, weights)
        subject = await Subject.of(Wish(model, weights, files, data, count, 1), place, place)
        return subject, blueprint, await workshop.importance(blueprint, manifest)

    return asyncio.run(prepare())


def _shared(picks: Sequence[Pick], heads: int, each: int, neurons: int) -> Shared:
    head_owners, neuron_owners = np.zeros(heads, np.intp), np.zeros(neurons, np.intp)
    for member, pick in enumerate(picks):
        head_owners[pick.heads] = member
        neuron_owners[pick.neurons] = member
    dimensions = np.repeat(head_owners, each)
    return Shared(dimensions, dimensions, neuron_owners)
