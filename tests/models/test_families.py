"""The headline: slice ∘ slice = whole model, for every family and at every cut."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from swarm.models import timing
from swarm.models.assembly import assemble
from swarm.models.graph import TENSOR
from swarm.models.kinds import representatives
from swarm.models.native import without_python
from swarm.models.rebuild import rebuild
from swarm.plan import INPUT, OUTPUT
from tests.models.anatomies import Array, Specimen, take_apart

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.export's and timm's own

CHAIN = [f"blocks.{i}" for i in range(12)]
FAMILIES = {
    "fashion-vit": CHAIN,
    "vit_tiny_patch16_224": CHAIN,
    "deit_tiny_distilled_patch16_224": CHAIN,
    "small-beit": CHAIN[:3],
    "eva02_tiny_patch14_224": CHAIN,
    "swin_tiny_patch4_window7_224": [f"layers.{i}.blocks.{j}" for i, n in enumerate((2, 2, 6, 2)) for j in range(n)],
    "convnext_atto": [f"stages.{i}.blocks.{j}" for i, n in enumerate((2, 2, 6, 2)) for j in range(n)],
    "resnet18": [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)],
    "mixer_s32_224": CHAIN[:8],
    "alexnet": [f"features.{i}" for i in (0, 3, 6, 8, 10)] + ["classifier.1", "classifier.4", OUTPUT],
    "torchvision/googlenet": None,  # no numbered blocks: every cut counts as one
    "tiny-residual": ["2", "3", "4"],
    "shared": ["inner.2", "inner.3", "inner.4"],
}
BLOCK_KINDS = {
    "fashion-vit": 1,
    "vit_tiny_patch16_224": 1,
    "deit_tiny_distilled_patch16_224": 1,
    "small-beit": 1,
    "eva02_tiny_patch14_224": 1,
    "swin_tiny_patch4_window7_224": 7,
    "convnext_atto": 4,
    "resnet18": 7,
    "mixer_s32_224": 1,
    "tiny-residual": 1,
    "shared": 1,
}
"""How many kinds of blocks a model has: Swin's come in pairs of four sizes, the last of which has nothing to shift."""
SHARED = ("again.", "rope.")
"""What several parts need: a module that runs twice, EVA-02's table of positions."""


@pytest.fixture(scope="module", params=FAMILIES)
def specimen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Specimen:
    return take_apart(request.param, tmp_path_factory.mktemp("models"))


def _close(found: Array, wanted: Array) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_every_two_way_cut_equals_the_whole(specimen: Specimen) -> None:
    x = specimen.pictures(1)
    wanted = specimen.eager(x)
    _close(specimen.built()(x), wanted)
    for cut in specimen.blueprint.cuts:
        middle = specimen.built(INPUT, cut)(x)
        assert middle.shape[1:] == specimen.blueprint.boundary(cut).shape
        _close(specimen.built(cut, OUTPUT)(middle), wanted)


def test_a_chain_of_parts_takes_any_batch(specimen: Specimen) -> None:
    cuts = specimen.blueprint.cuts
    ends = [INPUT, *sorted({cuts[len(cuts) * i // 4] for i in (1, 2, 3)}, key=cuts.index), OUTPUT]
    parts = [specimen.built(start, end) for start, end in pairwise(ends)]
    for batch in (3, 1):
        x = specimen.pictures(batch)
        y = x
        for part in parts:
            before = y.copy()
            out = part(y)
            np.testing.assert_array_equal(y, before, err_msg="a part changed its input")
            y = out
        _close(y, specimen.eager(x))


def test_every_family_runs_without_python_and_bit_by_bit_the_same(specimen: Specimen) -> None:
    blueprint = specimen.blueprint
    assert blueprint.graph is not None
    middle = blueprint.cuts[len(blueprint.cuts) // 2]
    flowing = {batch: torch.from_numpy(specimen.pictures(batch)) for batch in (1, 3)}
    for ends in ((INPUT, middle), (middle, OUTPUT)):
        module = rebuild(blueprint.graph, specimen.tensors(*ends), "cpu", *ends)
        region = without_python(module)
        assert region is not module
        with torch.inference_mode():
            for batch, x in flowing.items():
                flowing[batch] = module(x.clone())
                assert torch.equal(region(x.clone()), flowing[batch])


def test_blocks_are_named_after_their_modules(specimen: Specimen) -> None:
    profile = specimen.blueprint.profile
    names = [stage.name for stage in profile.stages]
    wanted = FAMILIES[profile.name] or names
    assert len(profile.blocks) == len(wanted) + 1
    for k, name in enumerate(wanted):
        assert name in names[profile.blocks[k] : profile.blocks[k + 1]]


def test_cut_names_are_unique_and_last_is_the_output(specimen: Specimen) -> None:
    names = [stage.name for stage in specimen.blueprint.profile.stages]
    assert len(set(names)) == len(names)
    assert names[-1] == OUTPUT
    assert INPUT not in names


def test_a_part_needs_only_its_own_tensors(specimen: Specimen) -> None:
    blueprint = specimen.blueprint
    every = {slot.name for slot in blueprint.tensors}
    assert blueprint.graph is not None
    assert every == {node.args[0] for node in blueprint.graph.nodes if node.op == TENSOR}
    for cut in blueprint.cuts:
        head, tail = (
            {slot.name for slot in blueprint.tensors_of(specimen.part(*ends))} for ends in ((INPUT, cut), (cut, OUTPUT))
        )
        assert head | tail == every
        assert {name for name in head & tail if not name.startswith(SHARED)} == set()


def test_costs_add_up(specimen: Specimen) -> None:
    profile = specimen.blueprint.profile
    assert profile.parameter_bytes == sum(slot.nbytes for slot in specimen.blueprint.tensors)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        specimen.whole(torch.from_numpy(specimen.pictures(1)))
    counted = counter.get_total_flops()
    assert counted <= sum(stage.flops for stage in profile.stages) <= 1.2 * counted + 1000


def test_blocks_that_do_the_same_are_of_one_kind(specimen: Specimen) -> None:
    profile = specimen.blueprint.profile
    kinds = {stage.name: stage.kind for stage in profile.stages}
    if profile.name in BLOCK_KINDS:
        assert len({kinds[name] for name in FAMILIES[profile.name] or ()}) == BLOCK_KINDS[profile.name]
    stand_ins = representatives(profile.stages)
    assert {profile.stages[index].kind for index in stand_ins} == set(kinds.values())
    assert len(stand_ins) == len(set(kinds.values()))


def test_no_stage_works_in_less_than_its_ends_take(specimen: Specimen) -> None:
    profile = specimen.blueprint.profile
    ends = [profile.input, *(stage.output for stage in profile.stages)]
    for (before, after), stage in zip(pairwise(ends), profile.stages, strict=True):
        assert 4 * (before.elements + after.elements) <= stage.working_bytes < 2**30


def test_every_stage_can_be_timed_without_weights(specimen: Specimen) -> None:
    """But not timed for long: one run shows that made-up values do."""
    blueprint = specimen.blueprint
    for index in representatives(blueprint.profile.stages):
        part = timing._stage_part(blueprint, index)
        run = assemble(blueprint, part, timing._made_up(blueprint, part, "cpu"), "cpu")
        output = run(np.ones((1, *run.input.shape), np.float32))
        assert output.shape[1:] == blueprint.profile.stages[index].output.shape
        assert np.isfinite(output).all()


def test_block_parts_hold_just_that_block(tmp_path: Path) -> None:
    specimen = take_apart("vit_tiny_patch16_224", tmp_path)
    part = specimen.part("blocks.3", "blocks.5")
    names = [slot.name for slot in specimen.blueprint.tensors_of(part)]
    assert names == sorted(names)
    assert len(names) == 24
    assert all(name.startswith(("blocks.4.", "blocks.5.")) for name in names)


def test_a_big_family_member_is_taken_apart_too() -> None:
    from swarm.models.anatomy import dissect
    from swarm.models.catalogue import find

    blueprint, derived = dissect("beit_base_patch16_224", find("beit_base_patch16_224"))
    profile = blueprint.profile
    assert [stage.name for stage in profile.stages][profile.blocks[0] : profile.blocks[-1]] == CHAIN
    assert len(derived) == 24
    assert blueprint.labels is not None
    assert blueprint.labels[1].startswith("goldfish")
