"""Asks the processes of the three policies in turns, and keeps what they answer."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.serving.child import Child

POLICIES = ("joining", "tails", "slices")
SIZES = (1, 2, 3, 4, 6, 12)
"""Blocks in a slice."""
CUTS = 4
MEASURED_BATCH = 8
RUNS = 3
FACTORS = (1, 4)
"""Requests in flight, in batches: as many as there are cuts fill one at each, and leave less to choose."""
AUTOMATIC = (0, 16)
"""No limit, and so many requests in flight."""

ENOUGH = 0.8
"""Of the time that a process has for an answer: whoever is slow says so, whoever hangs is ended."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Wish:
    """Of the person who runs this."""

    models: Sequence[str]
    batches: Sequence[int]
    seconds: float
    rounds: int
    device: str
    threads: int
    patience_s: float
    cache: Path


Children = Mapping[str, Child]


@contextmanager
def children(wish: Wish, model: str, blocks: Sequence[int], folder: Path) -> Iterator[tuple[Children, dict[str, Row]]]:
    """A process for each policy, and the memory that it holds."""
    with ExitStack() as stack:
        running, memory = {}, {}
        for policy in POLICIES:
            argv = [sys.executable, "-P", "-m", "tests.bench.policies.server"]
            child = stack.enter_context(Child(argv, {}, folder / f"{policy}.log"))
            first = {
                "model": model,
                "policy": policy,
                "blocks": blocks,
                "cache": str(wish.cache),
                "device": wish.device,
                "threads": wish.threads,
            }
            running[policy], memory[policy] = child, child.ask(first, wish.patience_s)
        yield running, memory


def mixed(running: Children, wish: Wish) -> list[Row]:
    """Clients of all cuts at once; a `most` of 0 is what the policies choose for themselves."""
    rows: list[Row] = []
    scenes = [*((most, factor * most) for most in wish.batches for factor in FACTORS), AUTOMATIC]
    for number in range(wish.rounds):
        for most, in_flight in scenes:
            command = {
                "do": "closed",
                "most": most or None,
                "in_flight": in_flight,
                "seconds": wish.seconds,
                "warm": in_flight if most else 4 * in_flight,
                "within_s": wish.patience_s * ENOUGH,
            }
            for policy in _turned(number):
                answer = running[policy].ask(command, wish.patience_s)
                scene = {"round": number, "scene": f"{most or 'automatic'}, {in_flight}", "policy": policy}
                rows.append({**scene, **answer})
                print(".", end="", file=sys.stderr, flush=True)
    return rows


def alone(running: Children, wish: Wish, blocks: int) -> tuple[list[Row], list[Row]]:
    """Over batch size, and over slice size."""
    sizes = [size for size in SIZES if blocks % size == 0]
    by_batch = [{"do": "batch", "rows": rows, "runs": RUNS} for rows in wish.batches]
    by_slice = [{"do": "slices", "every": size, "rows": MEASURED_BATCH, "runs": RUNS} for size in sizes]
    return _each(running, wish, by_batch, "rows"), _each(running, wish, by_slice, "every")


def _each(running: Children, wish: Wish, commands: Sequence[Row], key: str) -> list[Row]:
    rows: list[Row] = []
    for number in range(wish.rounds):
        for command in commands:
            for policy in _turned(number):
                answer = running[policy].ask(command, wish.patience_s)
                rows.append({"round": number, key: command[key], "policy": policy, "took": min(answer["took"])})
                print(".", end="", file=sys.stderr, flush=True)
    return rows


def _turned(number: int) -> Iterable[str]:
    """Whoever comes first heats the machine for the others: each in its turn."""
    first = number % len(POLICIES)
    return (*POLICIES[first:], *POLICIES[:first])
