"""Who gets which heads and neurons: the lead the best, the others alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from swarm.errors import CannotSplit
from swarm.models.inside.dealing import deal, order_of
from swarm.models.inside.extents import Extent

COUNTS = some.lists(some.integers(0, 40), min_size=1, max_size=7)


@given(COUNTS, some.randoms(use_true_random=False))
def test_each_is_dealt_once_and_the_lead_has_the_first(counts: list[int], random: object) -> None:
    order = np.random.default_rng(sum(counts)).permutation(sum(counts))
    dealt = deal(order, counts)
    assert [len(picks) for picks in dealt] == counts
    assert sorted(np.concatenate(dealt)) == list(range(len(order)))
    assert set(dealt[0]) == set(order[: counts[0]])
    assert all((np.diff(picks) > 0).all() for picks in dealt)
    assert all((a == b).all() for a, b in zip(dealt, deal(order, counts), strict=True))


@given(some.integers(0, 20), some.lists(some.integers(1, 40), min_size=2, max_size=6))
def test_the_others_get_their_part_of_every_stretch_of_ranks(lead: int, counts: list[int]) -> None:
    total = sum(counts)
    dealt = deal(np.arange(lead + total), [lead, *counts])[1:]
    for picks, count in zip(dealt, counts, strict=True):
        ranks = np.sort(picks) - lead
        had = np.searchsorted(ranks, np.arange(total + 1))
        assert np.abs(had - np.arange(total + 1) * count / total).max() <= len(counts) / 2 + 0.5
        assert abs(ranks.mean() - (total - 1) / 2) <= len(counts) / 2


def test_equal_shares_turn_round() -> None:
    dealt = deal(np.arange(9), [1, 4, 4])
    assert [list(picks) for picks in dealt] == [[0], [1, 4, 5, 8], [2, 3, 6, 7]]


@pytest.mark.parametrize("counts", [[], [3], [2, 3], [5, -1], [3, 3]])
def test_other_counts_are_refused(counts: list[int]) -> None:
    with pytest.raises(CannotSplit, match="cannot be dealt out"):
        deal(np.arange(4), counts)


def test_importance_gives_the_order() -> None:
    assert list(order_of([0.1, 3, 0.1, 7], 4)) == [3, 1, 0, 2]
    assert list(order_of(None, 3)) == [0, 1, 2]
    with pytest.raises(CannotSplit, match="4 of them have a score"):
        order_of([1, 2, 3, 4], 3)


def test_rows_of_a_fused_projection() -> None:
    assert list(Extent("heads", 0, 2, 3).rows(np.array([1, 3]), 4)) == [2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23]
    assert list(Extent("neurons", 1).rows(np.array([0, 5]), 6)) == [0, 5]
    assert list(Extent("heads", 0, 2, 3).rows(np.arange(0), 4)) == []
