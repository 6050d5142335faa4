"""What this device says of itself without being asked to compute; at rest nothing of it changes."""

from __future__ import annotations

import os
import platform
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from statistics import median
from time import monotonic, perf_counter
from typing import Final, Protocol

import numpy as np
import psutil

from swarm.tensors import WIRE_DTYPES, decode, encode
from swarm.types import Array, PeerLoad, PeerProfile

WORTH_TELLING: Final = 0.1
"""The share by which free memory has to change before others hear of it."""

WINDOWS: Final = 3
WINDOW_S: Final = 0.02
"""For each wire dtype; the median of some windows, each the mean of what fits into it."""
SAMPLE_SHAPE: Final = (1, 197, 192)
"""What passes between two blocks of ViT-Ti/16 for one picture."""
MAX_ELEMENTS_PER_S: Final = 1e12
"""A float32 tensor is decoded as a view: faster than anything that it is compared with."""

InWorker = Callable[[Callable[[], float]], Awaitable[float]]
"""Runs a call in the worker thread, as `Batcher.in_worker` does."""


def profile(device: str, threads: int | None, memory_limit_bytes: int | None) -> PeerProfile:
    """The device as the operating system shows it; rates are measured later, when torch is loaded."""
    memory = psutil.virtual_memory()
    free = memory.available if memory_limit_bytes is None else min(memory_limit_bytes, memory.available)
    return PeerProfile(
        device="cpu" if device == "auto" else device,  # which is the best, torch knows, when it is loaded
        platform=f"{platform.system()}-{platform.machine()}".lower(),
        threads=threads or os.cpu_count() or 1,
        memory_total_bytes=memory.total,
        memory_free_bytes=free,
    )


def with_free_memory(profile: PeerProfile, free_bytes: int) -> PeerProfile:
    """The profile with so much free memory; the same one where it is about the same."""
    told = profile.memory_free_bytes
    return profile if abs(free_bytes - told) < WORTH_TELLING * told else replace(profile, memory_free_bytes=free_bytes)


async def coding_rates(in_worker: InWorker) -> Mapping[str, float]:
    """`wire_elements_per_s` of a profile. Takes about 0.3 s."""
    sample = np.random.default_rng(0).standard_normal(SAMPLE_SHAPE, np.float32)
    return {wire: await _sustained(in_worker, partial(coding_rate, sample, wire)) for wire in WIRE_DTYPES}


async def _sustained(in_worker: InWorker, rate: Callable[[], float]) -> float:
    """One window at a time: a part that is wanted meanwhile need not wait for all."""
    return median([await in_worker(rate) for _ in range(WINDOWS)])


def coding_rate(x: Array, wire: str, window_s: float = WINDOW_S) -> float:
    """Elements of `x` encoded, or decoded, in a second: the mean of the two. Blocks for about `window_s`."""
    decode(*encode(x, wire))  # the first time finds cold caches
    rounds, began = 0, perf_counter()
    while (elapsed_s := perf_counter() - began) < window_s or not rounds:
        decode(*encode(x, wire))
        rounds += 1
    return min(MAX_ELEMENTS_PER_S, 2 * rounds * x.size / max(elapsed_s, 1e-9))


class Computes(Protocol):
    """What runs the parts."""

    @property
    def queued(self) -> int: ...
    @property
    def busy_s(self) -> float: ...
    @property
    def answered(self) -> int: ...
    @property
    def stayed_s(self) -> float: ...
    @property
    def waited_s(self) -> float: ...


class Work:
    """How busy `batcher` is, from one look to the next."""

    def __init__(self, batcher: Computes) -> None:
        self._batcher = batcher
        self._seen = self._count()
        self._load = PeerLoad()

    def load(self, loading: Mapping[str, float]) -> PeerLoad:
        """Its queue now, what requests have met since the last look, and what is being loaded; all rounded."""
        before, self._seen = self._seen, self._count()
        elapsed_s, busy_s, answered, stayed_s, waited_s = (b - a for a, b in zip(before, self._seen, strict=True))
        elapsed_s = max(1e-3, elapsed_s)
        wait_s = rounded(waited_s / answered) if answered else 0.0
        if not answered and self._batcher.queued:  # nobody came through: a long batch runs
            wait_s = self._load.wait_s
        self._load = PeerLoad(
            busy=round(min(1.0, busy_s / elapsed_s), 1), wait_s=wait_s, at_once=rounded(stayed_s / elapsed_s)
        )
        return self.now(loading)

    def now(self, loading: Mapping[str, float]) -> PeerLoad:
        """Without looking anew how busy it is."""
        return replace(self._load, queued=self._batcher.queued, loading=dict(loading))

    def _count(self) -> tuple[float, float, int, float, float]:
        batcher = self._batcher
        return monotonic(), batcher.busy_s, batcher.answered, batcher.stayed_s, batcher.waited_s


def rounded(value: float) -> float:
    """To two digits, and nothing below a thousandth: what hardly changes shall not be told again."""
    return float(f"{value:.2g}") if value >= 1e-3 else 0.0
