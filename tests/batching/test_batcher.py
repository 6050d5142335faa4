"""The worker and its queue: batches form while it is busy, and nobody's rows get lost or mixed up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest

from swarm.batching import Batcher, Batching, Plain
from swarm.errors import BadInput, DeadlineExceeded, Overloaded, SwarmError
from swarm.types import Array


class Gate:
    """A part that adds one to its rows, once the test lets it; it notes the batches that it was given."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.batches: list[tuple[str, int]] = []

    def __call__(self, part: str, x: Array) -> Array:
        assert self.open.wait(10)
        self.batches.append((part, len(x)))
        if part == "broken":
            raise ValueError("secret")
        if part == "picky":
            raise BadInput("The shape is wrong.")
        return x + 1


def one_part(gate: Gate, **options: Any) -> Batcher:
    """Parts by any name, each in one slice; the curves are told that bigger batches are better."""
    batcher = Batcher(lambda part: (part,), lambda part: Plain(lambda x: gate(part, x)), **options)
    for part in ("p", "q", "broken"):
        for size in (1, 2, 64) * 3:
            batcher._queue.curves(part).took(part, size, 1e-6)
    return batcher


def rows(*values: float) -> Array:
    return np.array(values, np.float32)[:, None]


async def waiting(batcher: Batcher, count: int) -> None:
    async with asyncio.timeout(5):
        while batcher.queued < count:
            await asyncio.sleep(0)


def later(seconds: float = 10) -> float:
    return monotonic() + seconds


async def test_what_gathers_while_the_worker_is_busy_becomes_one_batch() -> None:
    gate = Gate()
    async with one_part(gate) as batcher:
        first = batcher.run("p", rows(0), later())
        await asyncio.sleep(0.05)
        others = [batcher.run("p", rows(i, i + 0.5), later()) for i in (1, 2, 3)]
        await waiting(batcher, 3)
        gate.open.set()
        await asyncio.gather(first, *others)
    assert gate.batches == [("p", 1), ("p", 6)]
    assert first.result().output.tolist() == [[1]]
    assert [task.result().output.ravel().tolist() for task in others] == [[2, 2.5], [3, 3.5], [4, 4.5]]
    assert all(task.result().queue_s > 0 for task in others)


async def test_other_parts_and_shapes_and_too_many_rows_wait_for_their_own_batch() -> None:
    gate = Gate()
    async with one_part(gate, batching=Batching(max_batch=3)) as batcher:
        jobs = [
            ("p", rows(0)),
            ("p", rows(1, 1)),
            ("q", rows(2)),
            ("p", rows(3, 3)),
            ("p", np.ones((1, 2), np.float32)),
        ]
        asked = [batcher.run("block", rows(9), later())]
        await asyncio.sleep(0.05)
        for part, x in jobs:
            asked.append(batcher.run(part, x, later()))
        await waiting(batcher, len(jobs))
        gate.open.set()
        await asyncio.gather(*asked)
    assert gate.batches[1:] == [("p", 3), ("q", 1), ("p", 2), ("p", 1)]


async def test_a_full_queue_refuses_at_once() -> None:
    gate = Gate()
    async with one_part(gate, batching=Batching(max_waiting=2), owner="attic-pi") as batcher:
        batcher.run("p", rows(0), later())
        await asyncio.sleep(0.05)
        for _ in range(2):
            batcher.run("p", rows(0), later())
        await waiting(batcher, 2)
        with pytest.raises(Overloaded, match="attic-pi"):
            await batcher.run("p", rows(0), later())
        gate.open.set()


async def test_the_late_and_the_cancelled_are_not_run() -> None:
    gate = Gate()
    async with one_part(gate) as batcher:
        batcher.run("p", rows(0), later())
        await asyncio.sleep(0.05)
        cancelled = batcher.run("p", rows(1), later())
        late = batcher.run("p", rows(2), later(0.05))
        await waiting(batcher, 2)
        await asyncio.sleep(0.1)
        cancelled.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        with pytest.raises(DeadlineExceeded):
            await late
    assert gate.batches == [("p", 1)]


async def test_an_error_reaches_its_own_callers_and_the_worker_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    gate.open.set()
    async with one_part(gate, owner="attic-pi") as batcher:
        with pytest.raises(BadInput, match="shape"):
            await batcher.run("picky", rows(0), later())
        with pytest.raises(SwarmError, match="attic-pi failed to run its part") as caught:
            await batcher.run("broken", rows(0), later())
        assert "secret" not in str(caught.value)
        assert "secret" in caplog.text
        assert (await batcher.run("p", rows(0), later())).output.tolist() == [[1]]


async def test_only_whoever_spoils_a_batch_hears_of_it(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()

    def spoiled(x: Array) -> Array:
        y = gate("p", x)
        if (x == 13).any():
            raise ValueError("thirteen")
        return y

    async with Batcher(lambda part: (part,), lambda part: Plain(spoiled), owner="attic-pi") as batcher:
        for size in (1, 64) * 3:
            batcher._queue.curves("p").took("p", size, 1e-6)
        first = batcher.run("p", rows(0), later())
        await asyncio.sleep(0.05)
        others = [batcher.run("p", rows(i), later()) for i in (12, 13, 14)]
        gate.open.set()
        outcomes = await asyncio.gather(first, *others, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["Ran", "Ran", "SwarmError", "Ran"]
    assert [n for _, n in gate.batches] == [1, 3, 1, 1, 1]


async def test_what_cannot_be_answered_in_time_is_refused_at_once() -> None:
    gate = Gate()
    async with one_part(gate) as batcher:
        for _ in range(200):
            batcher._queue.curves("p").took("p", 1, 1.0)
        first = batcher.run("p", rows(0), later())
        with pytest.raises(Overloaded) as caught:
            await batcher.run("p", rows(0), later(0.5))
        assert caught.value.retry_after_s > 0
        gate.open.set()
        await first


async def test_an_estimate_that_is_wrong_is_found_out() -> None:
    """A first run that waited for the disk must not have all others refused."""
    gate = Gate()
    gate.open.set()
    async with Batcher(lambda part: (part,), lambda part: Plain(lambda x: gate(part, x))) as batcher:
        batcher._queue.curves("p").took("p", 1, 100.0)
        for _ in range(20):
            await batcher.run("p", rows(0), later(2))
        assert batcher._queue.curves("p").work_s("p", 1) < 2


async def test_a_deadline_ends_the_wait_for_company() -> None:
    gate = Gate()
    gate.open.set()
    async with one_part(gate, batching=Batching(max_delay_s=30)) as batcher:
        ran = await batcher.run("p", rows(0), later(0.5))
    assert ran.output.tolist() == [[1]]
    assert ran.queue_s > 0.2, "company was waited for"


async def test_company_is_waited_for_if_that_is_wanted() -> None:
    gate = Gate()
    gate.open.set()
    async with one_part(gate, batching=Batching(max_delay_s=0.2)) as batcher:
        await asyncio.gather(*(batcher.run("p", rows(i), later()) for i in range(3)))
        assert gate.batches == [("p", 3)]
        await asyncio.gather(*(batcher.run("p", rows(i), later()) for i in range(64)))
        assert sum(rows for _, rows in gate.batches[1:]) == 64
        assert gate.batches[1][1] >= 32, "nobody waits once there are as many as fit"


async def test_a_part_in_slices_goes_through_all_of_them() -> None:
    def slice_of(name: str) -> Plain:
        return Plain(lambda x: x * 10 + int(name))

    async with Batcher(tuple, slice_of) as batcher:
        asked = [batcher.run(part, rows(0), later()) for part in ("123", "23", "3", "123")]
        outcomes = await asyncio.gather(*asked)
    assert [ran.output.ravel().tolist() for ran in outcomes] == [[123], [23], [3], [123]]
    assert all(ran.compute_s > 0 for ran in outcomes)


async def test_a_queue_that_breaks_keeps_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    gate.open.set()
    async with one_part(gate, owner="attic-pi") as batcher:
        broken, batcher.policy.next = batcher.policy.next, None  # type: ignore[assignment, method-assign]
        with pytest.raises(SwarmError, match="attic-pi failed in its queue"):
            await batcher.run("p", rows(0), later())
        assert broken is not None
        assert (await batcher.run("p", rows(1), later())).output.tolist() == [[2]]


def test_a_process_that_ends_waits_for_the_batch_that_runs(tmp_path: Path) -> None:
    """Native code that finds no interpreter any more takes the process down with an abort."""
    program = f"""
import asyncio, time
from pathlib import Path
import numpy as np
from swarm.batching import Batcher, Plain

def slow(x):
    Path({str(tmp_path / "began")!r}).touch()
    time.sleep(0.5)
    Path({str(tmp_path / "ended")!r}).touch()
    return x

async def main():
    async with Batcher(lambda part: (part,), lambda part: Plain(slow)) as batcher:
        batcher.run("p", np.zeros((1, 1)), time.monotonic() + 9).add_done_callback(lambda done: done.exception())
        while not Path({str(tmp_path / "began")!r}).exists():
            await asyncio.sleep(0.01)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "ended").exists()
