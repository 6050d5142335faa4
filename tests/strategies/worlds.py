"""Models and swarms made of numbers, for whoever tests the planner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise, permutations, product
from random import Random
from typing import Any

from swarm.plan import OUTPUT, Goal, Plan
from swarm.strategies.chain import draft
from swarm.strategies.costs import Costs
from swarm.types import (
    Inside,
    Link,
    ModelProfile,
    PeerId,
    PeerLoad,
    PeerProfile,
    PeerRecord,
    PeerState,
    PeerView,
    Stage,
    TensorSpec,
    View,
)

DIGEST = "a" * 64
SPEC = TensorSpec((4,))
GB = 10**9


def model(flops: Sequence[int], uncut: str | None = None, *, nbytes: int = 0, spec: TensorSpec = SPEC) -> ModelProfile:
    """A chain with one block for each stage but the first and the last; `nbytes` of parameters in each stage."""
    last = len(flops) - 1
    names = [f"blocks.{i}" for i in range(last)] + [OUTPUT]
    stages = tuple(
        Stage(name, cost, nbytes or cost * 10, spec, (i - 1,) if i else ())
        for i, (name, cost) in enumerate(zip(names, flops, strict=True))
    )
    return ModelProfile("net", DIGEST, spec, stages, tuple(range(1, last + 1)), uncut)


def vit(
    blocks: int = 12,
    heads: int = 12,
    neurons: int = 3072,
    tokens: int = 197,
    width: int = 768,
    *,
    needed: int = 1,
    resilience: Sequence[tuple[float, float]] = (),
) -> ModelProfile:
    """A vision transformer, by default ViT-B/16: all figures are what they are there, up to the norms' operations."""
    inside, hidden = Inside(heads, neurons, tokens, width, width), TensorSpec((tokens, width))
    attention = 8 * tokens * width * width + 4 * tokens * tokens * width
    parameters = 4 * width * (width + 1) + neurons * (2 * width + 1) + width + 4 * width
    block = (attention + 4 * tokens * width * neurons, 4 * parameters)
    stem = Stage("stem", 2 * 196 * 768 * width, 4 * (768 * width + 198 * width), hidden, (), 4 * 2 * tokens * width)
    working = 4 * tokens * (3 * width + neurons)
    run = [Stage(f"blocks.{i}", *block, hidden, (i,), working, "block", inside) for i in range(blocks)]
    tail = Stage(OUTPUT, 2 * width * 1000, 4 * (1000 * (width + 1) + 2 * width), TensorSpec((1000,)), (blocks,), 4000)
    stages, edges = (stem, *run, tail), tuple(range(1, blocks + 2))
    return ModelProfile(
        "vit", DIGEST, TensorSpec((3, 224, 224)), stages, edges, needed=needed, resilience=tuple(resilience)
    )


def lan(names: str, rates: Sequence[float], link: Link, **more: Any) -> list[PeerRecord]:
    """Peers of these rates, each with the same link to every other."""
    return [
        record(name, rate, links=dict.fromkeys(set(names) - {name}, link), **more)
        for name, rate in zip(names, rates, strict=True)
    ]


def record(
    name: str,
    rate: float = 1.0,
    client: bool = False,
    *,
    free: int | None = None,
    links: Mapping[str, Link] | None = None,
    wait_s: float = 0.0,
    step_s: float = 0.0,
    coding: Mapping[str, float] | None = None,
) -> PeerRecord:
    """A peer whose id is its name; `free` bytes of memory, or an unknown amount."""
    profile = PeerProfile(
        memory_total_bytes=0 if free is None else 10 * GB,
        memory_free_bytes=free or 0,
        flops_per_s={"float32": rate} if rate else {},
        step_s=step_s,
        wire_elements_per_s=coding or {},
        links={PeerId(peer): link for peer, link in (links or {}).items()},
    )
    return PeerRecord(PeerId(name), name, (), 1, client=client, profile=profile, load=PeerLoad(wait_s=wait_s))


def view(*records: PeerRecord, stage_s: Mapping[str, Sequence[float]] | None = None) -> View:
    """The first is the requester."""
    peers = tuple(PeerView(r, PeerState.ALIVE) for r in sorted(records, key=lambda r: r.id))
    return View(records[0].id, peers, {PeerId(peer): times for peer, times in (stage_s or {}).items()})


def goal(**more: object) -> Goal:
    return Goal(**more)  # type: ignore[arg-type]


def ids(*names: str) -> tuple[PeerId, ...]:
    return tuple(map(PeerId, names))


def spans(plan: Plan) -> list[tuple[str, str, str]]:
    return [(step.peers[0], step.part.start, step.part.end) for step in plan.steps]


def fast_links(*names: str) -> dict[str, Link]:
    return dict.fromkeys(names, Link(0.0, 1e12))


def random_world(seed: int, *, devices: int = 3, tight: bool = False) -> tuple[ModelProfile, View]:
    """Nothing in it is like anything else: stages, devices, links in each direction; some links are dead or unknown."""
    random = Random(seed)
    count = random.randint(3, 5)
    stages = tuple(
        Stage(
            OUTPUT if i == count - 1 else f"s{i}",
            random.randint(1, 100),
            random.randint(1, 100),
            TensorSpec((random.randint(1, 30), random.randint(1, 30)), random.choice(["float32", "float32", "int64"])),
            (i - 1,) if i else (),
            random.randint(0, 50),
        )
        for i in range(count)
    )
    net = ModelProfile("net", DIGEST, TensorSpec((3, 5, 5)), stages, (1, *range(2, count)))
    names = [chr(ord("a") + i) for i in range(devices)]
    total = net.parameter_bytes
    records = [
        record(
            name,
            random.uniform(50, 500),
            client=name == "a" and random.random() < 0.3,
            free=random.randint(total // 4, total) if tight else None,
            links={peer: _random_link(random) for peer in names if peer != name and random.random() < 0.8},
            wait_s=random.choice([0.0, 0.3, 5.0]),
            step_s=random.uniform(0, 0.1),
            coding={"float16": random.uniform(1e3, 1e5), "int8": random.uniform(1e3, 1e5)},
        )
        for name in names
    ]
    measured = {name: [random.uniform(0.01, 1) for _ in stages] for name in names if random.random() < 0.5}
    return net, view(*records, stage_s=measured)


def random_group_world(seed: int, *, tight: bool = False) -> tuple[ModelProfile, View]:
    """Small transformers on devices of all sorts; some requesters compute, some do not."""
    random = Random(seed)
    heads, tokens = random.randint(1, 5), random.randint(2, 9)
    net = vit(
        random.randint(1, 3), heads, random.randint(3, 20), tokens, 4 * heads, needed=random.choice([0, 1, tokens])
    )
    names = "abcdef"[: random.randint(2, 6)]
    records = [
        record(
            name,
            random.uniform(1e6, 1e8),
            client=name == "a" and random.random() < 0.3,
            free=random.randint(net.parameter_bytes // 8, net.parameter_bytes) if tight else None,
            links={peer: _random_link(random) for peer in names if peer != name and random.random() < 0.8},
            wait_s=random.choice([0.0, 0.3]),
            step_s=random.uniform(0, 0.01),
            coding={"float16": random.uniform(1e5, 1e7), "int8": random.uniform(1e5, 1e7)},
        )
        for name in names
    ]
    return net, view(*records)


def _random_link(random: Random) -> Link:
    return Link(random.uniform(0, 0.2), 0.0 if random.random() < 0.1 else random.uniform(1e3, 1e5))


def every_chain(costs: Costs, goal: Goal, *, returning: bool = False) -> Iterator[Plan]:
    """All chains over two devices or more, with all cuts and wires, that fit and can be reached."""
    stages = len(costs.model.stages)
    names = [costs.records[row].id for row in costs.devices]
    for steps in range(2, stages + 1):
        orders = product(names, repeat=steps) if returning else permutations(names, steps)
        for peers in orders:
            if any(a == b for a, b in pairwise(peers)):
                continue
            for inner in combinations(range(1, stages), steps - 1):
                for wires in product(goal.wires, repeat=steps):
                    plan = draft("slices", costs, goal, peers, (0, *inner, stages), wires)
                    if plan.estimate.latency_s and fits(plan, costs):
                        yield plan


def fits(plan: Plan, costs: Costs) -> bool:
    return all(n <= costs.limit_bytes[costs.index[peer]] for peer, n in plan.estimate.peak_memory_bytes.items())
