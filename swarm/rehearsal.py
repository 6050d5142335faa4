"""What a request costs beside its compute and its wire, found by asking oneself for nothing.

Plans of one step and of several run on this peer alone, through the very code that real ones take, with a part that
gives back what it gets. The difference is what a step costs; the rest is what asking costs.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from time import monotonic
from typing import Final, NoReturn, cast

import numpy as np

from swarm.batching import Batcher, Plain
from swarm.dataflow import Dataflow
from swarm.errors import PlanGone
from swarm.exchange import Exchange
from swarm.lockstep import Lockstep
from swarm.plan import INPUT, OUTPUT, Edge, Part, Plan, Step
from swarm.transport import PROTOCOL, Hello, Links, Router
from swarm.types import PeerId, TensorSpec

ME: Final = PeerId("0" * 32)
SPEC: Final = TensorSpec((16,))
LONG: Final = 5
"""Steps of the longer plan."""
ROUNDS: Final = 2
ROUND_S: Final = 0.04
"""Of each plan; a device that gets a slice of a core now and then needs several slices."""
DEADLINE_S: Final = 10.0


async def rehearse() -> tuple[float, float]:
    """Seconds of asking, and seconds of each step: sustained means. Takes about 0.2 s."""
    router = Router()
    exchange = Exchange(Hello(PROTOCOL, ME, "rehearsal", "control"), cast(Links, None), router)
    async with Batcher(lambda part: (part,), lambda part: Plain(lambda x: x)) as batcher:
        lockstep = partial(Lockstep, ME, "rehearsal", exchange, batcher.do, _no_shard)
        run = Dataflow(
            ME, "rehearsal", exchange, lambda part, x, deadline, me: batcher.run(part.key, x, deadline), lockstep
        )
        run.register(router)
        async with run:
            short, long = _plan(1), _plan(LONG)
            run.install(short)
            run.install(long)
            pairs = [(await _sustained(run, short), await _sustained(run, long)) for _ in range(1 + ROUNDS)][1:]
    short_s, long_s = (sum(column) / ROUNDS for column in zip(*pairs, strict=True))
    step_s = max(0.0, (long_s - short_s) / (LONG - 1))
    return max(0.0, short_s - step_s), step_s


def _no_shard(_part: Part) -> NoReturn:
    raise PlanGone("A rehearsal has no groups.")


async def _sustained(dataflow: Dataflow, plan: Plan) -> float:
    x, asked, began = np.zeros((1, *SPEC.shape), np.float32), 0, monotonic()
    while not asked or monotonic() - began < ROUND_S:
        await dataflow.ask(plan, x, monotonic() + DEADLINE_S)
        asked += 1
    return (monotonic() - began) / asked


def _plan(steps: int) -> Plan:
    names = [INPUT, *map(str, range(steps)), OUTPUT]
    edges = tuple(Edge(a, b, ME, ME, SPEC) for a, b in pairwise(names))
    part = Part("nothing", "0" * 64, weights="0" * 64)
    return Plan(f"rehearsal-{steps}", "local", ME, tuple(Step(name, part, (ME,)) for name in names[1:-1]), edges)
