"""What this device says of itself without being asked to compute."""

from __future__ import annotations

import os
import platform

import psutil

from swarm.types import PeerProfile


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
