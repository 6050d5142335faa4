"""How long something takes when it is done again and again. Pure: the clock is handed in.

The best run of many would flatter a device that computes in bursts: one that may use a core for one millisecond in ten
shows its true rate only over many periods. So what counts is all the time over all the runs.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import perf_counter

Clock = Callable[[], float]
"""Seconds since whenever."""


def mean_s(
    run: Callable[[], object],
    *,
    least_s: float,
    least_runs: int = 1,
    enough_s: float = inf,
    clock: Clock = perf_counter,
) -> float:
    """Seconds of one run, over `least_runs` and `least_s` or more; once `enough_s` is over, fewer runs will do."""
    began, runs = clock(), 0
    while True:
        run()
        runs += 1
        spent = clock() - began
        if spent >= enough_s or (runs >= least_runs and spent >= least_s):
            return spent / runs


def warm_up(run: Callable[[], object], *, quick_s: float, clock: Clock = perf_counter) -> None:
    """One run, and a second if the first was quick: what is set up then must not be counted."""
    began = clock()
    run()
    if clock() - began < quick_s:
        run()
