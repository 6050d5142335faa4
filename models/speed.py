"""How fast this device computes and reads memory: measured once in a child process, then read from the cache.

In a child, for the buffers of a benchmark would stay in a peer's memory for as long as it lives.
"""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Annotated

import msgspec
import psutil
from msgspec import Meta

from swarm.errors import SwarmError
from swarm.models import job
from swarm.models.quota import cpu_quota
from swarm.models.study import locked
from swarm.types import Name

BENCHMARK_FILE = "benchmark.json"

Speed = Annotated[float, Meta(gt=0, le=1e18)]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Sustained rates of a device with so many threads, as a whole and as it is throttled."""

    flops_per_s: Annotated[Mapping[Name, Speed], Meta(min_length=1, max_length=8)]
    """Matrix products by dtype, two operations per multiply-add. float32 is always there, others where they serve."""
    memory_bytes_per_s: Speed
    """Reading what no cache holds."""


async def benchmark(cache: Path, device: str, threads: int | None, *, fresh: bool = False) -> Benchmark:
    """The rates of `device`: from the cache, or, the first time and when `fresh`, measured, which takes two seconds.

    Raises `UsageError` when nothing can be computed there, `SwarmError` when it cannot be measured.
    """
    folder = await asyncio.to_thread(speed_folder, cache, device, threads)
    async with locked(folder):
        known = None if fresh else await asyncio.to_thread(stored, folder)
        if known is None:
            await job.run("measure", device, folder, (), str(threads or 0))
            known = await asyncio.to_thread(stored, folder)
    if known is None:
        raise SwarmError(f"The speed of {device} was measured but is not in {folder}.")
    return known


def stored(folder: Path) -> Benchmark | None:
    """What the child left; None when there is nothing or it is damaged."""
    try:
        return msgspec.json.decode((folder / BENCHMARK_FILE).read_bytes(), type=Benchmark)
    except (OSError, msgspec.MsgspecError):
        return None


def speed_folder(cache: Path, device: str, threads: int | None) -> Path:
    """Where figures of this hardware are kept: another processor, quota, torch or number of threads has its own.

    Reads a few small files.
    """
    hardware = (platform.node(), platform.machine(), _cores(), cpu_quota(), psutil.virtual_memory().total)
    key = sha256(repr((hardware, device, threads, metadata.version("torch"))).encode()).hexdigest()[:16]
    return cache / "speed" / key


def _cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
