"""A million mutated frames through a real channel: `python -P tests/fuzz/million.py [frames] [seed]`.

Tells how long it took and how far memory rose; fails on anything but a sentence, and when memory rises beyond its
bound. A hang would be seen as one.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # for `tests`; `-P` has left it out

from tests.fuzz.frames import bombard

MOST_GROWTH_BYTES = 32 * 2**20


def peak_bytes() -> int:
    """The most memory that this process has ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(frames: int, seed: int) -> None:
    asyncio.run(bombard(seed, 2000))  # so that everything is loaded
    before, began = peak_bytes(), time.perf_counter()
    ended, given = asyncio.run(bombard(seed, frames, lambda n: sys.stderr.write(f"\r{n:>9,}")))
    taken, growth = time.perf_counter() - began, peak_bytes() - before
    sys.stdout.write(
        f"\r{frames:,} frames in {taken:.0f} s ({taken / frames * 1e6:.0f} us each), {ended:,} channels ended by them, "
        f"{given / 2**20:.1f} MiB of bodies agreed to; peak memory {peak_bytes() / 2**20:.0f} MiB, "
        f"{growth / 2**20:.1f} MiB more than before (bound: {MOST_GROWTH_BYTES / 2**20:.0f})\n"
    )
    assert growth <= MOST_GROWTH_BYTES, "memory rose beyond its bound"


if __name__ == "__main__":
    main(*(int(word.replace("_", "")) for word in (sys.argv[1:] + ["1_000_000", "0"][len(sys.argv) - 1 :])))
