"""What slicing costs: per hop, in memory, and to start. `python tests/bench/spine.py`; Linux, a few minutes, loopback.

Every figure is a ratio or a difference of measurements of this one run; absolute times depend on the machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from swarm.peer import Peer
from swarm.secret import Secret
from swarm.session import Session

LOOPBACK = ["--interface", "127.0.0.1", "--port", "0", "--no-mdns", "--threads", "1"]
SWARM = [sys.executable, "-P", "-m", "swarm"]
HOP_BAR_S, MEMORY_BAR, READY_BAR_S = 0.5e-3, 0.45, 2.0
ROUNDS = 200


@contextmanager
def joined(names: Sequence[str]) -> Iterator[list[tuple[subprocess.Popen[str], dict[str, Any], float]]]:
    """Peers as processes: each with what it said when ready, and how many seconds that took."""
    processes = []
    try:
        for name in names:
            began = time.perf_counter()
            command = [*SWARM, "join", "--json", "--name", name, *LOOPBACK]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            processes.append((process, json.loads(process.stdout.readline()), time.perf_counter() - began))
        yield processes
    finally:
        for process, *_ in processes:
            process.terminate()
            process.wait(10)


async def hop_cost(session: Session, x: Any, bandwidth: float) -> tuple[float, float]:
    """Median seconds a hop over compute and bytes ÷ bandwidth, and the median latency."""
    costs, latencies = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        result = await session(x)
        latencies.append(time.perf_counter() - began)
        compute_s = sum(row.compute_s for row in result.trace)
        moved = sum(row.bytes for row in result.trace) + result.answer_bytes
        costs.append((latencies[-1] - compute_s - moved / bandwidth) / (len(result.trace) + 1))
    return median(costs), median(latencies)


async def bandwidth_to(peer: Peer, other: str) -> float:
    """Bytes a second of 8 MB notices on the tensor channel, until a request behind them is answered.

    They name no plan, so they are received and thrown away: what is measured is the way, not the work.
    """
    channel = await peer._links.get(peer.view().called(other)[0].id, "tensors", 10)
    body = bytes(8 * 2**20)
    began = time.perf_counter()
    for _ in range(16):
        await channel.notify("tensor", {}, body, timeout_s=10)
    await channel.request("release", {"plan": "none"}, timeout_s=10)
    return 16 * len(body) / (time.perf_counter() - began)


async def hops() -> None:
    with joined(["a", "b", "c"]) as peers:
        addresses = [ready["address"] for _, ready, _ in peers]
        async with Peer("bench", port=0, interfaces=["127.0.0.1"], mdns=False, peers=addresses, client=True) as peer:
            await peer.wait_for(["a", "b", "c"], timeout_s=20)
            await asyncio.sleep(5)  # until they have loaded torch
            bandwidth = await bandwidth_to(peer, "a")
            for model, split, weights in (
                ("fashion-vit", [4, 8], "pretrained"),
                ("vit_tiny_patch16_224", [4, 8], "random:0"),
            ):
                async with await peer.load(model, "slices", split, ["a", "b", "c"], weights) as session:
                    shape = session.plan.edges[0].tensor.shape
                    x = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
                    cost_s, latency_s = await hop_cost(session, x, bandwidth)
                print(
                    f"hop cost, {model}: {cost_s * 1e3:.3f} ms over compute and bytes ÷ bandwidth, "
                    f"{cost_s / HOP_BAR_S:.2f} of the bar (0.5 ms); {cost_s * 4 / latency_s:.1%} of the latency"
                )


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def bare_torch_bytes() -> int:
    code = "import torch, os; print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) * 1024


async def memory() -> None:
    bare = bare_torch_bytes()
    with joined(["rest", "third"]) as peers:
        addresses = [ready["address"] for _, ready, _ in peers]
        async with Peer("bench", port=0, interfaces=["127.0.0.1"], mdns=False, peers=addresses, client=True) as peer:
            await peer.wait_for(["rest", "third"], timeout_s=20)
            model = "vit_base_patch16_224"
            async with await peer.load(model, "slices", [4, 8], ["rest", "third", "rest"], "random:0") as session:
                await session(np.zeros((1, 3, 224, 224), np.float32))
            whole = (await peer._workshop.study(model)).profile.parameter_bytes
            over = (peak_bytes(peers[1][0].pid) - bare) / whole
    print(f"memory of a third of {model}: bare torch + {over:.2f} of the model's bytes (bar: {MEMORY_BAR})")


def ready() -> None:
    with joined(["first"]), joined(["x"]) as first, joined(["y"]) as second:
        slowest = max(first[0][2], second[0][2])
    print(f"`swarm join` is ready in {slowest / READY_BAR_S:.2f} of the bar (2 s)")


if __name__ == "__main__":
    os.environ.setdefault("SWARM_INTERFACE", "127.0.0.1")
    os.environ["SWARM_SECRET"] = Secret.new().reveal()
    with tempfile.TemporaryDirectory() as home:
        os.environ["SWARM_HOME"] = home
        ready()
        asyncio.run(hops())
        asyncio.run(memory())
