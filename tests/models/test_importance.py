"""How much heads and neurons matter: sums by hand, what is kept, and whose it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.nn.functional import cross_entropy

from swarm.errors import WeightsError
from swarm.models import Blueprint
from swarm.models.importance.kept import FORMAT, Importance, Origin, counts_of, found, place
from swarm.models.importance.resilience import GRID, accuracy, order, resilience, without
from swarm.models.importance.roles import BlockRoles, Rows, Units, blocks_of
from swarm.models.importance.scores import BlockScores, taylor
from swarm.models.importance.shares import STEPS, by_worth, evenly, vital
from swarm.models.weights import Manifest
from swarm.order import Order
from swarm.plan import Goal
from swarm.types import Vital

WIDTH, HEADS, EACH, NEURONS = 4, 2, 3, 5
BLOCK = BlockRoles(
    0,
    Units(
        HEADS,
        tuple(Rows("qkv.weight", "qkv.bias", EACH, start=third * HEADS * EACH) for third in range(3)),
        "proj.weight",
        EACH,
    ),
    Units(NEURONS, (Rows("fc1.weight", "fc1.bias"),), "fc2.weight"),
    WIDTH,
)


class Toy(nn.Module):
    """One block on one token, with attention to itself alone; head h has rows h*3 … of each third of `qkv`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * HEADS * EACH), nn.Linear(HEADS * EACH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, NEURONS), nn.Linear(NEURONS, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(x).reshape(-1, 3, HEADS, EACH).unbind(1)
        weight = torch.sigmoid((query * key).sum(-1, keepdim=True))
        x = x + self.proj((weight * value).reshape(-1, HEADS * EACH))
        y: torch.Tensor = x + self.fc2(torch.relu(self.fc1(x)))
        return y


def toy_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, WIDTH, generator=generator), torch.randint(0, WIDTH, (8,), generator=generator))
        for _ in range(3)
    ]


def test_scores_are_those_that_one_sums_by_hand() -> None:
    model, calls = Toy(), []
    [scores] = taylor(model, [BLOCK], toy_batches(), lambda: calls.append(1))
    heads, neurons = np.zeros(HEADS), np.zeros(NEURONS)
    by_hand = Toy()
    for x, labels in toy_batches():
        by_hand.zero_grad()
        cross_entropy(by_hand(x), labels).backward()
        parameters = {name: p.detach() for name, p in by_hand.named_parameters()}
        gradients = {name: p.grad for name, p in by_hand.named_parameters() if p.grad is not None}
        products = {name: (value * gradients[name]).abs().numpy() for name, value in parameters.items()}
        for h in range(HEADS):
            for third in range(3):
                for row in range(EACH):
                    at = third * HEADS * EACH + h * EACH + row
                    heads[h] += products["qkv.weight"][at].sum() + products["qkv.bias"][at]
            heads[h] += products["proj.weight"][:, h * EACH : (h + 1) * EACH].sum()
        for n in range(NEURONS):
            neurons[n] += products["fc1.weight"][n].sum() + products["fc1.bias"][n] + products["fc2.weight"][:, n].sum()
    np.testing.assert_allclose(scores.heads, heads / 3, rtol=1e-5)
    np.testing.assert_allclose(scores.neurons, neurons / 3, rtol=1e-5)
    assert len(calls) == 3
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_what_is_missing_adds_nothing_and_is_back_afterwards() -> None:
    model, x = Toy().eval(), toy_batches()[0][0]
    whole = model(x)
    with torch.no_grad(), without(model, [BLOCK], [(np.arange(HEADS), np.arange(NEURONS))]):
        nothing = x + model.proj.bias
        torch.testing.assert_close(model(x), nothing + model.fc2.bias)
    with torch.no_grad(), without(model, [BLOCK], [(np.array([1]), np.array([], np.intp))]):
        assert model.proj.weight[:, EACH:].count_nonzero() == 0
        assert model.proj.weight[:, :EACH].count_nonzero() == model.proj.weight[:, :EACH].numel()
    torch.testing.assert_close(model(x), whole, rtol=0, atol=0)


def test_resilience_ends_with_the_whole_model() -> None:
    model, batches = Toy().eval(), toy_batches()
    scores = taylor(model, [BLOCK], batches, lambda: None)
    pairs = resilience(model, [BLOCK], scores, batches, lambda: None)
    assert [fraction for fraction, _ in pairs] == sorted(set(GRID))
    assert pairs[-1] == (1.0, accuracy(model, batches))


@pytest.mark.parametrize("fraction", GRID)
def test_a_share_uses_the_memory_that_it_may_have(fraction: float) -> None:
    block = BlockRoles(0, replace(BLOCK.heads, count=12), replace(BLOCK.neurons, count=192), WIDTH)
    scores = BlockScores(np.linspace(1, 2, 12, dtype=np.float32), np.linspace(0, 1, 192, dtype=np.float32))
    head, neuron = block.heads.cost(WIDTH), block.neurons.cost(WIDTH)
    total = 12 * head + 192 * neuron
    both = evenly(fraction, [block]), by_worth(fraction, [block], [scores])
    for [(heads, neurons)] in both:
        assert abs(heads * head + neurons * neuron - fraction * total) <= neuron
    assert evenly(1.0, [block]) == by_worth(1.0, [block], [scores]) == [(12, 192)]


def test_worth_takes_heads_first_where_they_matter_more() -> None:
    block = BlockRoles(0, replace(BLOCK.heads, count=12), replace(BLOCK.neurons, count=192), WIDTH)
    dear = BlockScores(np.full(12, 1e3, np.float32), np.ones(192, np.float32))
    idle = BlockScores(np.full(12, 1e-3, np.float32), np.ones(192, np.float32))
    worthy = [by_worth(0.25, [block], [scores])[0][0] for scores in (dear, idle)]
    assert worthy[0] > evenly(0.25, [block])[0][0] > worthy[1] == 0


def test_worth_goes_to_the_block_that_matters() -> None:
    much = BlockScores(np.full(HEADS, 9, np.float32), np.full(NEURONS, 9, np.float32))
    little = BlockScores(np.ones(HEADS, np.float32), np.ones(NEURONS, np.float32))
    assert by_worth(0.5, [BLOCK, BLOCK], [little, much]) == [(0, 0), (HEADS, NEURONS)]


def test_the_most_vital_are_told_for_rising_fractions_of_all_blocks() -> None:
    """Of blocks by their number: the second of three does not come apart."""
    block = BlockRoles(0, replace(BLOCK.heads, count=12), replace(BLOCK.neurons, count=192), WIDTH)
    blocks, generator = [block, replace(block, number=2)], np.random.default_rng(0)
    heads, neurons = (
        [generator.random(n, np.float32), np.empty(0, np.float32), 5 * generator.random(n, np.float32)]
        for n in (12, 192)
    )
    rows = vital(blocks, heads, neurons)
    head, neuron = block.heads.cost(WIDTH), block.neurons.cost(WIDTH)
    total = 2 * (12 * head + 192 * neuron)
    assert (rows[0], rows[-1]) == ((0.0, (0,) * 3, (0,) * 3), (1.0, (12, 0, 12), (192, 0, 192)))
    assert len(rows) > STEPS // 2
    scores = [BlockScores(heads[number], neurons[number]) for number in (0, 2)]
    for fraction, of_heads, of_neurons in rows:
        assert fraction == pytest.approx((sum(of_heads) * head + sum(of_neurons) * neuron) / total)
        assert by_worth(fraction, blocks, scores) == [(of_heads[b], of_neurons[b]) for b in (0, 2)]
    for less, more in pairwise(rows):
        assert less[0] < more[0] <= less[0] + 1 / STEPS + head / total
        assert all(a <= b for a, b in zip(less[1] + less[2], more[1] + more[2], strict=True))


def test_resilience_is_of_all_blocks_together() -> None:
    """What is kept is what `by_worth` says, and a block may lose everything."""
    model, batches, asked = Toy().eval(), toy_batches(), []

    def counts(fraction: float, blocks: Sequence[BlockRoles], scores: Sequence[BlockScores]) -> list[tuple[int, int]]:
        asked.append(by_worth(fraction, blocks, scores))
        return asked[-1]

    scores = taylor(model, [BLOCK], batches, lambda: None)
    told = [resilience(model, [BLOCK], scores, batches, lambda: None, *how) for how in ((), (counts,))]
    assert told[0] == told[1]
    assert asked == [by_worth(fraction, [BLOCK], scores) for fraction in GRID]


def test_equal_scores_keep_their_order() -> None:
    assert order(np.array([1.0, 3.0, 1.0, 3.0], np.float32)).tolist() == [1, 3, 0, 2]


# What is kept


def manifest(digest: str = "a" * 64) -> Manifest:
    return Manifest(digest, {}, {})


def importance(blueprint: Blueprint, weights: str = "a" * 64) -> Importance:
    generator = np.random.default_rng(0)
    counts = counts_of(blueprint)
    return Importance(
        Origin("fashion-vit", blueprint.profile.digest, weights, 50, 128, 2000),
        tuple(generator.random(heads, np.float32) for heads, _ in counts),
        tuple(generator.random(neurons, np.float32) for _, neurons in counts),
        ((0.25, 0.5), (1.0, 0.9)),
    )


def test_the_roles_are_those_of_the_blueprint(fashion: Blueprint) -> None:
    blocks = blocks_of(fashion)
    assert [(each.heads.count, each.neurons.count) for each in blocks] == counts_of(fashion) == [(4, 256)] * 12
    names = {slot.name for slot in fashion.tensors}
    assert {each.heads.columns for each in blocks} | {each.neurons.columns for each in blocks} <= names


def test_a_file_comes_back_as_it_went(fashion: Blueprint, tmp_path: Path) -> None:
    importance(fashion).save(tmp_path / "deep" / "one")
    back, before = Importance.load(tmp_path / "deep" / "one"), importance(fashion)
    back.check(fashion, manifest())
    assert (back.origin, back.resilience) == (before.origin, before.resilience)
    for one, other in zip((*back.heads, *back.neurons), (*before.heads, *before.neurons), strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_is_found_for_these_weights_alone(fashion: Blueprint, tmp_path: Path) -> None:
    assert found(tmp_path, fashion, manifest()) is None
    importance(fashion).save(place(tmp_path, fashion, manifest()))
    assert found(tmp_path, fashion, manifest()) is not None
    assert found(tmp_path, fashion, manifest("b" * 64)) is None
    place(tmp_path, fashion, manifest()).write_bytes(b"damaged")
    assert found(tmp_path, fashion, manifest()) is None
    importance(fashion, "b" * 64).save(place(tmp_path, fashion, manifest()))
    assert found(tmp_path, fashion, manifest()) is None


def test_what_is_found_tells_what_is_vital_and_plans_are_made_with_it(fashion: Blueprint, tmp_path: Path) -> None:
    assert importance(fashion).vital == ()
    importance(fashion).save(place(tmp_path, fashion, manifest()))
    kept, ordered, nobody = found(tmp_path, fashion, manifest()), cast(Any, Order), [None] * 8
    assert kept is not None
    assert kept.vital is kept.vital
    assert (kept.vital[0][0], kept.vital[-1]) == (0.0, (1.0, (4,) * 12, (256,) * 12))
    assert msgspec.convert(msgspec.to_builtins(kept.vital), Vital) == kept.vital
    order = ordered(fashion, manifest(), "auto", Goal(), *nobody, importance=kept)
    assert (order.profile.vital, order.profile.resilience) == (kept.vital, kept.resilience)
    assert replace(order, importance=None).profile == fashion.profile


def test_another_revision_is_refused_with_what_differs(fashion: Blueprint) -> None:
    with pytest.raises(WeightsError, match="weights aaaaaaaa of fashion-vit, and these are bbbbbbbb"):
        importance(fashion).check(fashion, manifest("b" * 64))
    mine = importance(fashion)
    other = replace(mine, origin=replace(mine.origin, anatomy="c" * 64))
    words = f"anatomy cccccccc, and fashion-vit has the anatomy {mine.origin.anatomy[:8]}"
    with pytest.raises(WeightsError, match=words):
        other.check(fashion, manifest())
    with pytest.raises(WeightsError, match="of 11 blocks of 4 heads and 256 neurons, and fashion-vit has 12 of"):
        replace(mine, heads=mine.heads[1:], neurons=mine.neurons[1:]).check(fashion, manifest())


def changed(path: Path, blueprint: Blueprint, **metadata: str) -> None:
    kept = importance(blueprint)
    tensors = {f"{kind}.{b}": row for kind in ("heads", "neurons") for b, row in enumerate(getattr(kept, kind))}
    origin = {key: str(getattr(kept.origin, key)) for key in Origin.__slots__}
    save_file(tensors, path, origin | {"format": FORMAT, "resilience": json.dumps(kept.resilience)} | metadata)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"format": "other"}, "another format"),
        ({"resilience": "[[0.5, 2.0], [1.0, 0.5]]"}, "not understood"),
        ({"resilience": "[[0.5, 0.5], [0.5, 0.5], [1.0, 0.5]]"}, "do not rise"),
        ({"resilience": "[[0.5, 0.5]]"}, "do not rise"),
        ({"resilience": "[]"}, "not understood"),
        ({"anatomy": "short"}, "not understood"),
        ({"samples": "-1"}, "not understood"),
    ],
)
def test_a_description_is_not_believed(
    fashion: Blueprint, tmp_path: Path, metadata: dict[str, str], words: str
) -> None:
    changed(tmp_path / "one", fashion)
    Importance.load(tmp_path / "one")
    changed(tmp_path / "one", fashion, **metadata)
    with pytest.raises(WeightsError, match=words):
        Importance.load(tmp_path / "one")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (np.array([1, np.nan], np.float32), "not a number"),
        (np.array([1, -1], np.float32), "negative"),
        (np.array([1, 2], np.float64), "not a row of float32"),
        (np.ones((2, 2), np.float32), "not a row of float32"),
    ],
)
def test_neither_are_scores(fashion: Blueprint, tmp_path: Path, row: np.ndarray, words: str) -> None:
    kept = importance(fashion)
    replace(kept, heads=(row, *kept.heads[1:])).save(tmp_path / "one")
    with pytest.raises(WeightsError, match=words):
        Importance.load(tmp_path / "one")


def test_no_file_and_no_safetensors_are_one_sentence_each(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        Importance.load(tmp_path / "none")
    (tmp_path / "text").write_text("no scores")
    with pytest.raises(WeightsError, match="not a sound importance file"):
        Importance.load(tmp_path / "text")
