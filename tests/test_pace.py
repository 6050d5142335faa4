"""When is a request late? Predicted at first, then as others of its plan were seen to take."""

from __future__ import annotations

import pytest

from swarm.pace import FIRST, FIRST_FACTOR, FIRST_GRACE_S, FLOOR_S, UNKNOWN_S, Pace


def test_the_first_requests_have_the_prediction_and_a_grace() -> None:
    assert Pace(0.1).patience_s(1) == pytest.approx(FIRST_FACTOR * 0.1 + FIRST_GRACE_S)
    assert Pace().patience_s(1) == UNKNOWN_S


def test_then_it_is_what_was_seen_and_four_times_its_deviation() -> None:
    pace = Pace(0.1)
    for _ in range(50):
        pace.took(2.0)
    assert pace.patience_s(1) == pytest.approx(2.0, rel=0.01)
    for seconds in (1.0, 3.0) * 30:
        pace.took(seconds)
    assert 4.0 < pace.patience_s(1) < 8.0


def test_a_fast_plan_is_not_hurried() -> None:
    pace = Pace(0.001)
    for _ in range(FIRST):
        pace.took(0.001)
    assert pace.patience_s(1) == FLOOR_S


def test_requests_that_wait_for_each_other_are_not_late() -> None:
    pace = Pace(0.1, bottleneck_s=0.1)
    for _ in range(20):
        pace.took(0.1)
    assert pace.patience_s(64) >= 0.1 + 64 * 0.1
