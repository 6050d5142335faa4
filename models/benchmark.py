"""The benchmark itself: matrix products in each dtype that serves, and reading memory. Child process only."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import psutil
import torch

from swarm.errors import UsageError
from swarm.models.devices import be_exact, pick, synchronize
from swarm.models.speed import Benchmark
from swarm.models.stopwatch import mean_s, warm_up

DTYPES = ("float32", "bfloat16", "float16")
WINDOWS, WINDOW_S, GLANCE_S = 3, 0.1, 0.01
SLOW_S = 0.25
"""A window in which one run took so long says enough."""
SIZE, ACCELERATOR_SIZE, TRIAL_SIZE = 512, 2048, 128
FAR_TOO_SLOW = 0.1
"""Of the float32 rate: such a dtype is emulated, and nobody would compute with it."""
BUFFER_BYTES, ACCELERATOR_BUFFER_BYTES = 64 * 2**20, 256 * 2**20
"""Larger than caches."""


def measure(device: str, threads: int) -> Benchmark:
    """The rates of `device` with so many threads, 0 for torch's own choice; about a second and a half.

    Raises `UsageError` when it is not here, or nothing can be computed there.
    """
    if threads:
        torch.set_num_threads(threads)
    be_exact()
    place = torch.device(pick(device))
    try:
        rates = {"float32": _product_rate("float32", place)}
        buffer = _buffer(place)
    except (RuntimeError, AssertionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(
            f"Nothing can be computed on the device '{device}' here ({reason}); use --device cpu."
        ) from error
    rates |= {dtype: _product_rate(dtype, place) for dtype in _that_serve(place)}
    return Benchmark(rates, buffer.nbytes / _sustained_s(buffer.sum, place))


def _that_serve(place: torch.device) -> list[str]:
    """Those other dtypes in which the device computes, and not far slower than in float32; a glance at each tells."""
    least = FAR_TOO_SLOW * _glance("float32", place)
    return [dtype for dtype in DTYPES[1:] if _glance(dtype, place) > least]


def _glance(dtype: str, place: torch.device) -> float:
    try:
        return 2 * TRIAL_SIZE**3 / _sustained_s(_product(dtype, place, TRIAL_SIZE), place, windows=1, window_s=GLANCE_S)
    except (RuntimeError, TypeError):  # so torch says that a device has no such operator, or no such dtype
        return 0.0


def _product_rate(dtype: str, place: torch.device) -> float:
    """FLOP/s of products large enough for the device."""
    size = SIZE if place.type == "cpu" else ACCELERATOR_SIZE
    return 2 * size**3 / _sustained_s(_product(dtype, place, size), place)


def _product(dtype: str, place: torch.device, size: int) -> Callable[[], object]:
    left, right = (torch.rand(size, size, device=place).to(getattr(torch, dtype)) for _ in range(2))
    return lambda: torch.mm(left, right)


def _buffer(place: torch.device) -> torch.Tensor:
    on_cpu = place.type == "cpu"
    wanted = min(BUFFER_BYTES, psutil.virtual_memory().available // 8) if on_cpu else ACCELERATOR_BUFFER_BYTES
    return torch.ones(wanted // 4, device=place)


def _sustained_s(
    call: Callable[[], object], place: torch.device, *, windows: int = WINDOWS, window_s: float = WINDOW_S
) -> float:
    """Seconds of a call: the median of some windows, each the mean of what fits into it."""

    def run() -> None:
        call()
        synchronize(str(place))

    warm_up(run, quick_s=window_s)
    found = [mean_s(run, least_s=window_s)]
    while len(found) < windows and found[-1] < SLOW_S:
        found.append(mean_s(run, least_s=window_s))
    return median(found)
