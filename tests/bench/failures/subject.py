"""The model under test, its scores, and the pictures it is tried on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from swarm.models.importance.arrays import idx, idx_sets
from swarm.models.importance.labelled import Labelled, Labels, batches
from swarm.models.importance.measure import inputs, restored
from swarm.models.importance.order import SEED, Order
from swarm.models.importance.roles import BlockRoles, blocks_of
from swarm.models.importance.scores import Batch, BlockScores, unit_scores, weight_scores
from swarm.models.registry import load_owner_models
from swarm.models.workshop import Workshop
from tests.bench.failures.losses import column_scores
from tests.bench.failures.schemes import ColumnScores

BATCH, TEST_BATCH = 128, 500


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked on the command line."""

    model: str
    weights: str
    model_files: tuple[Path, ...]
    data: Path
    pictures: int
    samples: int


@dataclass(frozen=True, slots=True)
class Subject:
    """All schemes see the very same."""

    model: nn.Module
    blocks: Sequence[BlockRoles]
    scores: Sequence[BlockScores]
    columns: Sequence[ColumnScores]
    tests: Sequence[Batch]

    @classmethod
    async def of(cls, wish: Wish, cache: Path, folder: Path) -> Subject:
        workshop = Workshop(cache, wish.model_files, "cpu", None)
        blueprint = await workshop.study(wish.model)
        manifest = await workshop.resolve(blueprint, wish.weights)
        load_owner_models(wish.model_files)
        blocks, config = blocks_of(blueprint), blueprint.pictures
        model = restored(Order.of(blueprint, manifest, wish.data, wish.samples, BATCH, None), "cpu")
        train, test = (_labelled(*files) for files in idx_sets(wish.data))
        drawn = batches(train, BATCH, wish.samples, wish.data, SEED)
        weights = weight_scores(model, blocks, inputs(train, drawn, config, "cpu"), lambda: None)
        scores = [BlockScores(unit_scores(b.heads, weights), unit_scores(b.neurons, weights)) for b in blocks]
        places = np.array_split(np.arange(len(test))[: wish.pictures], -(-wish.pictures // TEST_BATCH))
        tests = list(inputs(test, places, config, "cpu"))
        return cls(model, blocks, scores, column_scores(blocks, weights), tests)


def _labelled(pictures: Path, labels: Path) -> Labelled:
    pixels, classes = idx(pictures, labels)

    def take(places: Labels) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        return pixels[places][:, None]

    return Labelled(classes.astype(np.int64), take)
