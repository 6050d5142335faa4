"""From scores to answers: a plan made with what is vital of a model, cut by importance, run by all of its members."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from swarm.collectives import flaw
from swarm.models.importance.kept import Importance, Origin, counts_of
from swarm.models.inside.cutting import picks_of
from swarm.plan import Goal, Group, Shard
from swarm.strategies import choose
from swarm.types import Link
from tests.models.anatomies import Specimen, take_apart
from tests.models.grouped import Driver
from tests.models.test_inside_turns import assert_close, shards_of, tokens_in, wanted
from tests.strategies.worlds import ids, lan, view


@pytest.fixture(scope="module")
def specimen(tmp_path_factory: pytest.TempPathFactory) -> Specimen:
    return take_apart("fashion-vit", tmp_path_factory.mktemp("plan"))


@pytest.fixture(scope="module")
def importance(specimen: Specimen) -> Importance:
    """Heads are as dear as 32 neurons and matter as much; the first blocks matter most, so that some are the lead's
    alone, and of some it has next to nothing."""
    generator, counts = np.random.default_rng(0), counts_of(specimen.blueprint)
    heads, neurons = (
        [size * (1 + generator.random(block[kind], np.float32)) * 0.5**number for number, block in enumerate(counts)]
        for kind, size in ((0, 32), (1, 1))
    )
    profile = specimen.blueprint.profile
    origin = Origin(profile.name, profile.digest, specimen.manifest.digest, 1, 1, 1)
    return Importance(origin, heads, neurons, ((1.0, 0.9),)).of(specimen.blueprint, specimen.manifest)


def group_with(specimen: Specimen, importance: Importance, r: float) -> Group:
    profile = replace(specimen.blueprint.profile, vital=importance.vital)
    wish = Goal(peers=ids(*"abc"), replicate=(r,))
    plan = choose("partial", profile, view(*lan("abc", [1e9] * 3, Link(0.001, 1e8))), wish).plan
    assert plan is not None
    [step] = [step for step in plan.steps if step.group is not None]
    assert flaw(step) is None
    assert step.group is not None
    return step.group


def shards_in(group: Group) -> list[Shard]:
    return [member.part.shard for member in group.members if member.part.shard is not None]


@pytest.mark.parametrize("r", [0.0, 0.33, 0.77, 1.0])
def test_members_that_have_nothing_of_some_blocks_give_what_the_whole_gives(
    specimen: Specimen, importance: Importance, r: float, tmp_path: Path
) -> None:
    group = group_with(specimen, importance, r)
    lead, *others = shards_in(group)
    assert (lead.heads[0], lead.neurons[0]) == (4, 256)
    assert all((shard.heads[0], shard.neurons[0]) == (0, 0) for shard in others)
    x = tokens_in(group, 2)
    assert_close(
        Driver(group, shards_of(specimen, group, tmp_path, importance)).run(x), wanted(specimen, group, x), x, 1e-4
    )


def test_the_lead_gets_the_most_important_of_each_block(specimen: Specimen, importance: Importance) -> None:
    group, ranking = group_with(specimen, importance, 0.33), cast(Any, importance)
    for number, pick in enumerate(picks_of(specimen.blueprint, group, ranking)[0]):
        for chosen, scores in ((pick.heads, importance.heads[number]), (pick.neurons, importance.neurons[number])):
            best = np.argsort(-scores, kind="stable")[: len(chosen)]
            assert sorted(best.tolist()) == chosen.tolist()
