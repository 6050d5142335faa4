"""How long the planner thinks: `python tests/bench/planning.py`; a minute, one core, no network.

Processor time of this process alone, for it waits for nothing.

Twelve devices of which no two are alike, and a ViT-L/16 as the planner sees it. The whole contest, every candidate and
verdict included, has 100 ms; each line shows the median of that, as a share of the bar.
"""

from __future__ import annotations

import time
from random import Random
from statistics import median

from swarm.plan import Goal, Metric
from swarm.strategies import contest
from swarm.types import (
    Link,
    ModelProfile,
    PeerId,
    PeerProfile,
    PeerRecord,
    PeerState,
    PeerView,
    Stage,
    TensorSpec,
    View,
)

BAR_S = 0.100
DEVICES, BLOCKS, ROUNDS = 12, 24, 15
TOKENS, PLENTY = TensorSpec((197, 1024)), 8 * 10**9
METRICS: tuple[Metric, ...] = ("latency", "throughput", "memory")
WIRES = ("float32",), ("float32", "float16"), ("float32", "float16", "int8")


def vit_large() -> ModelProfile:
    """24 blocks of 12.6 million parameters, between a stem and a head."""
    stem = [Stage("patch_embed", 310_000_000, 3_200_000, TOKENS, (), 3_000_000)]
    blocks = [Stage(f"blocks.{i}", 5_100_000_000, 50_400_000, TOKENS, (i,), 9_000_000, "block") for i in range(BLOCKS)]
    pooled = TensorSpec((1024,))
    head = [
        Stage("norm", 1_000_000, 8_192, TOKENS, (BLOCKS,), 1_600_000),
        Stage("pool", 0, 0, pooled, (BLOCKS + 1,), 800_000),
        Stage("fc_norm", 10_000, 0, pooled, (BLOCKS + 2,), 8_192),
        Stage("head_drop", 0, 0, pooled, (BLOCKS + 3,), 8_192),
        Stage("output", 2_000_000, 4_100_000, TensorSpec((1000,)), (BLOCKS + 4,), 8_192),
    ]
    picture = TensorSpec((3, 224, 224))
    return ModelProfile("vit_large", "a" * 64, picture, (*stem, *blocks, *head), tuple(range(1, BLOCKS + 2)))


def devices(seed: int, free_share: float) -> View:
    """From a Raspberry Pi to a desktop, on Wi-Fi and cable; each has up to `free_share` of the model's bytes free."""
    random = Random(seed)
    ids = [PeerId(f"{i:032x}") for i in range(DEVICES)]
    most = free_share * vit_large().parameter_bytes
    peers = [
        PeerRecord(
            peer,
            f"device-{i}",
            (),
            1,
            profile=PeerProfile(
                memory_total_bytes=PLENTY,
                memory_free_bytes=int(random.uniform(most / 2, most)),
                flops_per_s={"float32": random.uniform(5e9, 2e11)},
                step_s=random.uniform(1e-4, 2e-3),
                wire_elements_per_s={"float16": random.uniform(1e8, 1e9), "int8": random.uniform(5e7, 5e8)},
                links={q: Link(random.uniform(3e-4, 1e-2), random.uniform(2e6, 1e8)) for q in ids if q != peer},
            ),
        )
        for i, peer in enumerate(ids)
    ]
    return View(ids[0], tuple(PeerView(peer, PeerState.ALIVE) for peer in peers))


def timed(view: View, goal: Goal) -> float:
    model, taken = vit_large(), []
    contest(model, view, goal)
    for _ in range(ROUNDS):
        began = time.process_time()
        contest(model, view, goal)
        taken.append(time.process_time() - began)
    return median(taken)


def report(memory: str, view: View, goal: Goal) -> None:
    share = timed(view, goal) / BAR_S
    asked = f"{goal.metric}, survive={goal.survive}" if goal.survive else goal.metric
    print(f"{memory:6} {asked:20} {'/'.join(goal.wires):24} {share:5.2f} of the bar{'' if share < 1 else '  OVER'}")


def main() -> None:
    print(f"{DEVICES} devices, {len(vit_large().stages)} stages; the bar is {BAR_S * 1e3:.0f} ms")
    for memory, view in (("ample", devices(1, 4.0)), ("tight", devices(1, 0.2))):
        for wires in WIRES:
            for metric in METRICS:
                report(memory, view, Goal(metric, wires=wires))
    report("ample", devices(1, 4.0), Goal("latency", survive=2))
    report("tight", devices(1, 0.4), Goal("latency", survive=1))


if __name__ == "__main__":
    main()
