"""How fast this device multiplies matrices: measured once in a child process, then read from the cache.

In a child, for the buffers of a benchmark would stay in a peer's memory for as long as it lives.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import psutil

from swarm.errors import SwarmError, UsageError
from swarm.models import job
from swarm.models.study import locked

RATE_FILE = "flops_per_s.txt"
SIZE, SECONDS = 512, 0.2


async def measured_flops(cache: Path, device: str, threads: int | None) -> float:
    """Float32 operations per second of `device`, with that many threads. Raises `SwarmError` when it cannot compute."""
    folder = cache / "speed" / _key(device, threads)
    async with locked(folder):
        known = await asyncio.to_thread(_read, folder)
        if known is None:
            await job.run("measure", device, folder, (), str(threads or 0))
            known = await asyncio.to_thread(_read, folder)
    if known is None:
        raise SwarmError(f"The speed of {device} was measured but is not in {folder}.")
    return known


def measure(device: str, threads: int) -> float:
    """Best of the products that fit the time. Imports torch, and blocks."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    try:
        left, right = (torch.rand(SIZE, SIZE, device=device) for _ in range(2))
    except (RuntimeError, AssertionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(
            f"Nothing can be computed on the device '{device}' here ({reason}); use --device cpu."
        ) from error
    best, end = float("inf"), time.perf_counter() + SECONDS
    torch.mm(left, right)
    while (began := time.perf_counter()) < end or best == float("inf"):
        torch.mm(left, right)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * SIZE**3 / best


def _key(device: str, threads: int | None) -> str:
    hardware = (platform.node(), platform.machine(), os.cpu_count(), psutil.virtual_memory().total)
    return sha256(repr((hardware, device, threads, metadata.version("torch"))).encode()).hexdigest()[:16]


def _read(folder: Path) -> float | None:
    try:
        return float((folder / RATE_FILE).read_text())
    except (OSError, ValueError):
        return None
