"""A two-stage pipeline with several requests in flight, against the ideal: what its slower stage alone could bear.

    python -m tests.bench.pipeline [SHARE]          Linux, root; about three minutes

Two workers with a share of a core each hold half of ViT-B/16. The ideal is what the stages compute with both devices
busy: both run the whole model at the same time, for they share this machine's memory; requests one by one through the
two halves say what part of it each stage is. Then several requests are in flight. PipeEdge reaches 0.95 of its ideal.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from swarm.secret import Secret

MODEL, WEIGHTS, CUT = "vit_base_patch16_224", "random:0", 6
ALONE, WARM, TOGETHER, IN_FLIGHT = 12, 3, 60, 6
BAR = 0.97
SWARM = [sys.executable, "-P", "-m", "swarm"]


async def measure(names: Sequence[str]) -> None:
    import numpy as np

    from swarm import Peer

    x = np.random.default_rng(0).integers(0, 256, (1, 3, 224, 224), np.uint8)
    async with Peer("asker", client=True, remember=False) as peer:
        await peer.wait_for(names, timeout_s=60)
        whole = [await peer.load(MODEL, "local", peers=[name], weights=WEIGHTS) for name in names]
        busy = await asyncio.gather(*(_computes(session, x) for session in whole))
        for session in whole:
            await session.aclose()
        async with await peer.load(MODEL, "slices", [CUT], names, WEIGHTS) as session:
            alone = [await session(x) for _ in range(WARM + ALONE)][WARM:]
            stages = [median(result.trace[i].compute_s for result in alone) for i in range(2)]
            ideal_s = max(seconds * stage / sum(stages) for seconds, stage in zip(busy, stages, strict=True))
            done = list[float]()
            left = iter(range(TOGETHER))

            async def ask() -> None:
                for _ in left:
                    await session(x)
                    done.append(time.monotonic())

            await asyncio.gather(*(ask() for _ in range(IN_FLIGHT)))
    filled = done[IN_FLIGHT:-IN_FLIGHT]  # neither filling nor draining
    each_s = (filled[-1] - filled[0]) / (len(filled) - 1)
    ratio = ideal_s / each_s
    print(f"the whole model with both busy: {busy[0]:.3f} and {busy[1]:.3f} s")
    print(f"stages {stages[0]:.3f} and {stages[1]:.3f} s; one picture every {each_s:.3f} s with {IN_FLIGHT} in flight")
    print(f"{ratio:.3f} of the ideal (bar {BAR}); {sum(stages) / each_s:.2f} times one request at a time")


async def _computes(session: Any, x: Any) -> float:
    """Median seconds of compute of a whole model, while others compute, too."""
    results = [await session(x) for _ in range(WARM + ALONE)]
    return float(median(result.trace[0].compute_s for result in results[WARM:]))


def run(share: float) -> None:
    from tests.lab import Device, Lab

    os.environ["SWARM_SECRET"] = Secret.new().reveal()
    names = ["front", "back"]
    devices = [*(Device(share, None, 10**9, name) for name in names), Device(0.5, None, 10**9, "asker")]
    with Lab(devices, homes=True) as lab:
        for number, name in enumerate(names):
            argv = [*SWARM, "join", "--name", name, "--threads", "1", "--json"]
            lab.popen(number, argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        argv = [sys.executable, "-P", str(Path(__file__).resolve()), "--ask", *names]
        done = lab.run(2, argv, timeout_s=900)
        print(done.stdout, done.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ask"]:
        asyncio.run(measure(sys.argv[2:]))
    else:
        run(float(sys.argv[1]) if len(sys.argv) > 1 else 0.4)
