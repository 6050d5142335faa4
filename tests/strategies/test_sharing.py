"""Shares against all others that could have been chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.strategies.sharing import FIXED, Holder, Load, affine, apportion, divide

MEASURED_MS = {197: 30.6, 99: 15.9, 50: 8.9, 25: 5.3}
"""One ViT-B block on so many of its tokens, its weights laid out beforehand."""

seconds = st.integers(0, 20).map(float)
loads = st.builds(Load, seconds, st.integers(1, 20).map(float), st.integers(0, 7))


def all_shares(units: int, members: int, least: int) -> Iterator[tuple[int, ...]]:
    return (some for some in product(range(least, units + 1), repeat=members) if sum(some) == units)


def largest(shares: Sequence[int], members: Sequence[Load]) -> float:
    return max(one.fixed + one.unit * n for one, n in zip(members, shares, strict=True))


@given(st.integers(1, 8), st.lists(loads, min_size=1, max_size=4), st.integers(0, 1))
@settings(deadline=None)
def test_no_other_shares_have_a_smaller_largest_one(units: int, members: list[Load], least: int) -> None:
    able = [
        some
        for some in all_shares(units, len(members), least)
        if all(n <= one.most for n, one in zip(some, members, strict=True))
    ]
    found = apportion(units, members, least)
    assert (found is None) == (not able)
    if found is not None:
        assert found in able
        assert largest(found, members) == min(largest(some, members) for some in able)


def holder(unit_s: float, head_bytes: float, neuron_bytes: float, free: float) -> Holder:
    return Holder(Load(unit_s, unit_s, 5), Load(unit_s / 2, unit_s / 3, 6), head_bytes, neuron_bytes, free)


@given(
    st.integers(2, 5),
    st.integers(2, 6),
    st.lists(
        st.builds(holder, st.integers(1, 9), st.just(3.0), st.just(2.0), st.integers(4, 40)), min_size=2, max_size=3
    ),
)
@settings(deadline=None, max_examples=200)
def test_no_other_heads_and_neurons_that_fit_are_done_sooner(heads: int, neurons: int, members: list[Holder]) -> None:
    def spent_s(of_heads: Sequence[int], of_neurons: Sequence[int]) -> float:
        return largest(of_heads, [one.heads for one in members]) + largest(of_neurons, [one.neurons for one in members])

    able = [
        pair
        for pair in product(all_shares(heads, len(members), 1), all_shares(neurons, len(members), 1))
        if all(3 * h + 2 * n <= one.free_bytes for h, n, one in zip(*pair, members, strict=True))
    ]
    found = divide(heads, neurons, members)
    assert (found is None) == (not able)
    if found is not None:
        assert found in able
        assert spent_s(*found) == pytest.approx(min(spent_s(*pair) for pair in able))


def test_of_equals_the_first_gets_more_and_of_heads_and_neurons_the_last() -> None:
    assert apportion(197, [Load(1.0, 1.0, 197)] * 4) == (50, 49, 49, 49)
    alike = Holder(Load(0.0, 1.0, 12), Load(0.0, 1.0, 30), 1.0, 1.0, float("inf"))
    assert divide(12, 30, [alike] * 8) == ((1, 1, 1, 1, 2, 2, 2, 2), (3, 3, 4, 4, 4, 4, 4, 4))


def test_where_heads_are_coarse_neurons_make_up_for_them_if_memory_says_so() -> None:
    one = Holder(Load(0.0, 1.0, 3), Load(0.0, 0.1, 10), 10.0, 1.0, 22.0)
    assert divide(3, 10, [one, one]) == ((1, 2), (8, 2))
    assert divide(3, 10, [one]) is None


def test_the_affine_time_of_a_share_is_close_to_what_was_measured() -> None:
    for tokens, ms in MEASURED_MS.items():
        assert affine(tokens / 197) == pytest.approx(ms / MEASURED_MS[197], abs=0.025)
    assert (affine(0), affine(1)) == (0, 1)
    assert 0 < FIXED < 1
