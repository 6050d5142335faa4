"""Stage times: each kind measured once for a machine, kept, and corrected by what real runs take."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from swarm.models import Blueprint, timing
from swarm.models.pace import MAX_KINDS, Measured, Pace
from swarm.models.study import study
from swarm.models.timekeeper import STAGES_FILE, Timekeeper
from swarm.models.workshop import Workshop
from swarm.plan import INPUT, OUTPUT, Part
from tests.models.anatomies import OWNER_MODELS

CALL_S = 0.25
pytestmark = pytest.mark.may_block("a lock file is opened")


class Device:
    """In the place of a stopwatch: a stage takes as many seconds as its index and one, and `in_worker` keeps count."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.timed: list[int] = []
        self.refuses: set[int] = set()
        self.now = 0.0
        self.slower = 1.0
        self.keeper = self.another()

    def another(self) -> Timekeeper:
        return Timekeeper(lambda: self.folder, self._stage_s, lambda: CALL_S, lambda: self.now)

    def _stage_s(self, blueprint: Blueprint, index: int) -> float | None:
        self.timed.append(index)
        return None if index in self.refuses else (index + 1.0) * self.slower

    async def in_worker(self, call: Callable[[], Any]) -> Any:
        await asyncio.sleep(0)
        return call()

    async def ask(self, blueprint: Blueprint, free_bytes: int | None = None) -> tuple[float, ...] | None:
        return await self.keeper.time_stages(blueprint, self.in_worker, free_bytes)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path / "speed")


@pytest.fixture
def tiny(cache: Path) -> Blueprint:
    return asyncio.run(study("tiny-residual", model_files=[OWNER_MODELS], cache=cache))


TINY_S = (1.0, 2.0, 3.0, 3.0, 3.0, 6.0)
"""Its stages 2, 3 and 4 are of one kind."""


def _part(blueprint: Blueprint, start: str = INPUT, end: str = OUTPUT) -> Part:
    return Part(blueprint.profile.name, blueprint.profile.digest, start, end)


async def test_each_kind_is_timed_once_and_kept_for_the_next_peer(device: Device, tiny: Blueprint) -> None:
    assert device.keeper.stage_s(tiny.profile) is None
    assert await asyncio.gather(*(device.ask(tiny) for _ in range(3))) == [TINY_S] * 3
    assert device.timed == [0, 1, 2, 5]
    device.keeper = device.another()
    assert device.keeper.stage_s(tiny.profile) is None
    await asyncio.to_thread(device.keeper.recall)
    assert device.keeper.stage_s(tiny.profile) == TINY_S
    assert await device.ask(tiny) == TINY_S
    assert device.timed == [0, 1, 2, 5]


async def test_who_was_cancelled_leaves_what_was_found(device: Device, tiny: Blueprint) -> None:
    first = asyncio.create_task(device.ask(tiny))
    while len(device.timed) < 2:
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert await device.ask(tiny) == TINY_S
    assert sorted(set(device.timed)) == [0, 1, 2, 5]
    assert len(device.timed) <= 5


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"call_s":0.1,"stage_s":{"a":-1.0}}', b'{"call_s":0.1,"stage_s":{"a":NaN}}', b"[1]"]
)
async def test_damaged_figures_are_measured_again(device: Device, tiny: Blueprint, content: bytes) -> None:
    await asyncio.to_thread(device.folder.mkdir)
    await asyncio.to_thread((device.folder / STAGES_FILE).write_bytes, content)
    assert await device.ask(tiny) == TINY_S
    kept = msgspec.json.decode(await asyncio.to_thread((device.folder / STAGES_FILE).read_bytes), type=Measured)
    assert set(kept.stage_s.values()) == set(TINY_S)


async def test_what_does_not_fit_or_does_not_run_is_not_timed(
    device: Device, tiny: Blueprint, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert await device.ask(tiny, free_bytes=100) is None
    assert device.timed == []
    assert "does not fit" in caplog.text
    device.refuses = {1}
    assert await device.ask(tiny) is None
    assert await device.ask(tiny) is None
    assert device.timed == [0, 1]
    assert await device.ask(replace(tiny, graph=None)) is None


async def test_real_runs_correct_the_stages_that_they_run(device: Device, tiny: Blueprint) -> None:
    await device.ask(tiny)
    device.keeper.built(tiny.profile, _part(tiny, "1", "4"))
    for _ in range(100):
        device.keeper.learn(_part(tiny, "1", "4"), 1, CALL_S + 2 * 9.0)
        device.keeper.learn(_part(tiny, "1", "4"), 8, 1000.0)
        device.keeper.learn(Part("stranger", "f" * 64), 1, 1000.0)
    found = device.keeper.stage_s(tiny.profile)
    assert found == pytest.approx((1.0, 2.0, 6.0, 6.0, 6.0, 6.0), rel=0.02)
    assert await device.ask(tiny) == found
    device.keeper = device.another()
    assert await device.ask(tiny) == TINY_S, "what is kept is what was measured"


async def test_a_device_that_has_run_nothing_for_a_while_looks_again_how_fast_it_is(
    device: Device, tiny: Blueprint
) -> None:
    """Something else may run on it now; one stage tells, the shortest of those that can be timed well."""
    await device.ask(tiny)
    device.timed.clear()
    device.slower, device.now = 3.0, 10.0
    assert await device.ask(tiny) == TINY_S
    found: tuple[float, ...] | None = None
    for _ in range(6):
        device.now += 30.0
        found = await device.ask(tiny)
    assert device.timed == [0] * 6
    assert found == pytest.approx([3 * seconds for seconds in TINY_S], rel=0.02)
    device.keeper.built(tiny.profile, _part(tiny))
    device.now += 30.0
    for _ in range(2):
        device.keeper.learn(_part(tiny), 1, CALL_S + 3 * sum(TINY_S))
    await device.ask(tiny)
    assert len(device.timed) == 6, "it has run something just now"


async def test_the_first_run_of_a_part_brings_its_weights_and_teaches_nothing(device: Device, tiny: Blueprint) -> None:
    await device.ask(tiny)
    for _ in range(2):
        before = device.keeper.stage_s(tiny.profile)
        device.keeper.built(tiny.profile, _part(tiny))
        device.keeper.learn(_part(tiny), 1, 2 * sum(TINY_S))
        assert device.keeper.stage_s(tiny.profile) == before
        device.keeper.learn(_part(tiny), 1, 2 * sum(TINY_S))
        assert device.keeper.stage_s(tiny.profile) != before


def test_what_was_never_timed_learns_nothing(device: Device, tiny: Blueprint) -> None:
    device.keeper.built(tiny.profile, _part(tiny))
    for _ in range(3):
        device.keeper.learn(_part(tiny), 1, 1.0)
    assert device.keeper.stage_s(tiny.profile) is None


def _pace(**seconds: float) -> Pace:
    pace = Pace()
    pace.take(Measured(CALL_S, seconds))
    return pace


def _seconds(pace: Pace, kind: str) -> float:
    found = pace.stage_s([kind])
    assert found is not None
    return found[0]


def test_learning_starts_with_big_steps() -> None:
    pace, steps = _pace(block=1.0), []
    for _ in range(30):
        before = _seconds(pace, "block")
        pace.learn(Counter(block=12), CALL_S + 12 * 1.5)
        steps.append(_seconds(pace, "block") - before)
    assert 0.2 < steps[0] < 0.3
    assert all(step >= 0 for step in steps)
    assert _seconds(pace, "block") == pytest.approx(1.5, rel=0.02)


def test_a_device_that_gets_busy_is_slower_in_what_it_does_not_run_too() -> None:
    pace = _pace(head=1.0, tail=4.0)
    for _ in range(40):
        pace.learn(Counter(head=1), CALL_S + 1.0)
    for _ in range(100):
        pace.learn(Counter(head=1), 2 * (CALL_S + 1.0))
    assert _seconds(pace, "tail") == pytest.approx(8.0, rel=0.25)
    assert _seconds(pace, "head") == pytest.approx(2.25, rel=0.05)


def test_a_stray_is_ignored_and_a_new_truth_is_not() -> None:
    pace = _pace(block=1.0)
    for _ in range(20):
        pace.learn(Counter(block=1), CALL_S + 1.0)
        pace.learn(Counter(block=1), 60.0)
    assert _seconds(pace, "block") == pytest.approx(1.0)
    for _ in range(100):
        pace.learn(Counter(block=1), CALL_S + 20.0)
    assert _seconds(pace, "block") == pytest.approx(20.0, rel=0.02)


def test_unknown_kinds_and_runs_of_no_time_teach_nothing() -> None:
    pace = _pace(block=1.0)
    pace.learn(Counter(block=1, other=1), 3.0)
    pace.learn(Counter(block=1), 0.0)
    Pace().learn(Counter(block=1), 1.0)
    assert pace.stage_s(["block", "block"]) == (1.0, 1.0)
    assert pace.stage_s(["block", "other"]) is None
    assert pace.unknown(["block", "other"]) == ["other"]


def test_the_oldest_kinds_are_forgotten() -> None:
    pace = _pace(**{f"kind{i}": 1.0 for i in range(MAX_KINDS)})
    pace.take(Measured(1.0, {"new": 2.0}))
    assert pace.unknown(["kind0", "kind1", "new"]) == ["kind0"]
    assert pace.measured is not None
    assert pace.measured.call_s == CALL_S
    assert len(pace.measured.stage_s) == MAX_KINDS


async def test_a_workshop_times_a_real_model_and_learns(tmp_path: Path, fashion: Blueprint) -> None:
    workshop = Workshop(tmp_path, (), "cpu", 1)

    async def in_worker(call: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(call)

    found = await workshop.time_stages(fashion, in_worker)
    assert found is not None
    assert workshop.stage_s(fashion) == found
    assert len(found) == len(fashion.profile.stages)
    assert len(workshop.kinds(fashion)) < len(found)
    assert all(0 < seconds < 10 for seconds in found)
    assert len(set(found[fashion.profile.blocks[0] : fashion.profile.blocks[-1]])) == 1
    manifest = await workshop.resolve(fashion, "random:0")
    part = _part(fashion)
    digests = [manifest.refs[slot.name].sha256 for slot in fashion.tensors_of(part)]
    await asyncio.to_thread(workshop.build, fashion, part, digests, manifest.locations.__getitem__)
    for _ in range(2):
        workshop.learn(part, 1, 3 * sum(found))
    learnt = workshop.stage_s(fashion)
    assert learnt is not None
    assert sum(learnt) == pytest.approx(sum(found) * 3**0.5, rel=0.1)
    later = Workshop(tmp_path, (), "cpu", 1)
    await asyncio.to_thread(later.warm)
    assert later.stage_s(fashion) == found


def test_a_stage_that_does_not_run_on_made_up_values_is_left_out(
    fashion: Blueprint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(run: object, alike: int) -> float:
        raise IndexError("index 7 is out of bounds")

    monkeypatch.setattr(timing, "_timed", refuse)
    assert timing.stage_s(fashion, 0, "cpu") is None
    assert "index 7" in caplog.text
    assert np.isfinite(timing._anything(fashion.tensors[0]).numpy()).all()
