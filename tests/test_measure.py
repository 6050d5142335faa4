"""What a device measures of itself, and who pays for it how often."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from swarm import measure
from swarm.batching import Batcher, Plain
from swarm.errors import SwarmError, UsageError
from swarm.holdings import Holdings
from swarm.portrait import Portrait
from swarm.rehearsal import rehearse
from swarm.tensors import WIRE_DTYPES
from swarm.types import Link, PeerId, PeerProfile


@dataclass
class ToySpeed:
    flops_per_s: Mapping[str, float] = field(default_factory=lambda: {"float32": 1e9, "float16": 2e9})
    memory_bytes_per_s: float = 1e10


@dataclass
class ToyBench:
    """Fails as often as `failures` says, then measures."""

    failures: list[Exception] = field(default_factory=list)
    measured: int = 0
    gpu_bytes: tuple[int, int] | None = None

    async def benchmark(self, fresh: bool) -> ToySpeed:
        self.measured += 1
        await asyncio.sleep(0.01)
        if self.failures:
            raise self.failures.pop()
        return ToySpeed()

    def device(self) -> str:
        return "gpu" if self.gpu_bytes else "cpu"

    def memory(self) -> tuple[int, int] | None:
        return self.gpu_bytes

    def warm(self) -> None:
        return


class Sitter:
    """A device whose portrait is made."""

    def __init__(self, batcher: Batcher, bench: ToyBench) -> None:
        self.told: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.bench = bench
        self.changed = asyncio.Event()
        profile = measure.profile("cpu", 1, 1000)
        self.holdings = SimpleNamespace(batcher=batcher, free_bytes=500, loading={})
        holdings = cast(Holdings, self.holdings)
        self.portrait = Portrait("toy", profile, holdings, lambda: bench, self.tell, self.problems.append)

    def tell(self, **changes: Any) -> None:
        self.told.append(changes)
        self.changed.set()


@pytest.fixture
async def batcher() -> AsyncIterator[Batcher]:
    async with Batcher(lambda part: (part,), lambda part: Plain(lambda x: x)) as batcher:
        yield batcher


def is_whole(profile: PeerProfile) -> bool:
    rates = [*profile.flops_per_s.values(), *profile.wire_elements_per_s.values()]
    numbers = [*rates, profile.memory_bytes_per_s, profile.step_s]
    return bool(rates) and all(math.isfinite(number) and number > 0 for number in numbers)


async def test_a_rehearsal_tells_what_asking_and_a_step_cost() -> None:
    ask_s, step_s = await rehearse()
    assert 0 <= ask_s < 1
    assert 0 < step_s < 1


async def test_every_wire_dtype_has_a_rate(batcher: Batcher) -> None:
    rates = await measure.coding_rates(batcher.in_worker)
    assert tuple(rates) == WIRE_DTYPES
    assert all(0 < rate <= measure.MAX_ELEMENTS_PER_S for rate in rates.values())


@pytest.mark.parametrize("wire", WIRE_DTYPES)
def test_a_coding_rate_is_taken_even_without_time(wire: str) -> None:
    x = np.ones((1, 8, 8), np.float32)
    assert 0 < measure.coding_rate(x, wire, 0.0) <= measure.MAX_ELEMENTS_PER_S


async def test_callers_share_one_measurement_and_later_ones_get_it_at_once(batcher: Batcher) -> None:
    sitter = Sitter(batcher, ToyBench())
    profiles = await asyncio.gather(*(sitter.portrait.measured() for _ in range(3)))
    assert is_whole(profiles[0])
    assert profiles[0].flops_per_s == {"float32": 1e9, "float16": 2e9}
    assert profiles == [await sitter.portrait.measured()] * 3
    assert sitter.bench.measured == 1
    assert sitter.told[-1] == {"profile": profiles[0]}


async def test_when_the_first_caller_gives_up_the_next_measures(batcher: Batcher) -> None:
    sitter = Sitter(batcher, ToyBench())
    first, second = (asyncio.create_task(sitter.portrait.measured()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert is_whole(await second)
    assert first.cancelled()


async def test_a_device_that_cannot_compute_says_so_and_may_be_asked_again(batcher: Batcher) -> None:
    sitter = Sitter(batcher, ToyBench([UsageError("There is no such device.")]))
    with pytest.raises(SwarmError, match=r"toy cannot compute on cpu: There is no such device\."):
        await sitter.portrait.measured()
    assert is_whole(await sitter.portrait.measured())


async def test_links_are_told_beside_what_was_measured(batcher: Batcher) -> None:
    sitter = Sitter(batcher, ToyBench())
    links = {PeerId("other"): Link(0.001, 1e8)}
    sitter.portrait.links_changed(links)
    assert sitter.told[-1]["profile"].links == links
    profile = await sitter.portrait.measured()
    assert profile.links == links
    assert is_whole(profile)


async def test_a_host_tells_its_rates_and_its_load(batcher: Batcher) -> None:
    sitter = Sitter(batcher, ToyBench())
    keeping = asyncio.create_task(sitter.portrait.keep())
    async with asyncio.timeout(10):
        while not any("load" in changes for changes in sitter.told):
            sitter.changed.clear()
            await sitter.changed.wait()
    keeping.cancel()
    assert is_whole(sitter.told[-1]["profile"])
    assert sitter.told[-1]["profile"].memory_free_bytes == 500


async def test_a_host_that_cannot_compute_stays_as_a_client(batcher: Batcher) -> None:
    sitter = Sitter(batcher, ToyBench([ImportError("No module named 'torch'")]))
    await sitter.portrait.keep()
    assert sitter.told[-1] == {"client": True}
    assert sitter.problems == ["Nobody will plan with this peer. toy cannot compute on cpu: No module named 'torch'"]


async def test_fresh_figures_are_measured_anew(batcher: Batcher) -> None:
    sitter = Sitter(batcher, ToyBench())
    await sitter.portrait.measured()
    await sitter.portrait.measured(fresh=True)
    assert sitter.bench.measured == 2


async def test_what_is_being_loaded_is_told(batcher: Batcher) -> None:
    sitter = Sitter(batcher, ToyBench())
    sitter.holdings.loading["net[input..output]@12345678"] = 0.4
    sitter.portrait.progressed()
    sitter.holdings.loading.clear()
    assert sitter.told[-1]["load"].loading == {"net[input..output]@12345678": 0.4}


class Counting:
    """A batcher's counters."""

    queued = 0
    busy_s = stayed_s = waited_s = 0.0
    answered = 0


def test_load_tells_what_requests_have_met_since_the_last_look() -> None:
    batcher = Counting()
    work = measure.Work(batcher)
    assert work.load({}).wait_s == 0
    batcher.answered, batcher.stayed_s, batcher.waited_s = 4, 2.0, 1.0
    assert work.load({"part": 0.5}).wait_s == 0.25
    assert work.now({}).wait_s == 0.25
    batcher.queued = 3
    assert work.load({}).wait_s == 0.25, "nobody came through, and some wait: it is a long batch"
    batcher.queued = 0
    assert work.load({}).wait_s == 0.0, "nobody is there"


def test_what_hardly_changes_is_told_as_the_same() -> None:
    assert [measure.rounded(value) for value in (0.0, 0.0004, 0.1234, 12.34)] == [0.0, 0.0, 0.12, 12.0]


async def test_a_device_with_memory_of_its_own_tells_that(batcher: Batcher) -> None:
    sitter = Sitter(batcher, ToyBench(gpu_bytes=(7, 8)))
    profile = await sitter.portrait.measured()
    assert (profile.device, profile.memory_total_bytes) == ("gpu", 8)
    assert sitter.holdings.memory() == (7, 8)
