"""What this device says of itself without being asked to compute; at rest nothing of it changes."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from time import monotonic
from typing import Final, Protocol

import psutil

from swarm.types import PeerLoad, PeerProfile

WORTH_TELLING: Final = 0.1
"""The share by which free memory has to change before others hear of it."""


def profile(device: str, threads: int | None, memory_limit_bytes: int | None) -> PeerProfile:
    """The device as the operating system shows it; rates are measured later, when torch is loaded."""
    memory = psutil.virtual_memory()
    free = memory.available if memory_limit_bytes is None else min(memory_limit_bytes, memory.available)
    return PeerProfile(
        device=device,
        platform=f"{platform.system()}-{platform.machine()}".lower(),
        threads=threads or os.cpu_count() or 1,
        memory_total_bytes=memory.total,
        memory_free_bytes=free,
    )


def with_free_memory(profile: PeerProfile, free_bytes: int) -> PeerProfile:
    """The profile with so much free memory; the same one where it is about the same."""
    told = profile.memory_free_bytes
    return profile if abs(free_bytes - told) < WORTH_TELLING * told else replace(profile, memory_free_bytes=free_bytes)


class Computes(Protocol):
    """What runs the parts."""

    @property
    def queued(self) -> int: ...
    @property
    def busy_s(self) -> float: ...


class Work:
    """How busy `batcher` is, from one look to the next."""

    def __init__(self, batcher: Computes) -> None:
        self._batcher = batcher
        self._at, self._busy_s = monotonic(), batcher.busy_s

    def load(self) -> PeerLoad:
        """Its queue now, and its busy share since the last look, in tenths."""
        now, busy_s = monotonic(), self._batcher.busy_s
        share = (busy_s - self._busy_s) / max(1e-3, now - self._at)
        self._at, self._busy_s = now, busy_s
        return PeerLoad(self._batcher.queued, round(min(1.0, share), 1))
