"""The device's rates: sustained, kept for this hardware and its quota, measured again when what is kept is damaged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swarm.errors import SwarmError, UsageError
from swarm.models import job, speed
from swarm.models.benchmark import measure
from swarm.models.quota import cpu_quota, parse_cfs, parse_max
from swarm.models.speed import BENCHMARK_FILE, Benchmark, benchmark, speed_folder, stored
from swarm.models.stopwatch import mean_s, warm_up

FAST = Benchmark({"float32": 2e9, "float16": 3e9}, 5e9)


def test_rates_are_plausible() -> None:
    found = measure("cpu", 1)
    assert 1e8 < found.flops_per_s["float32"] < 1e15
    assert 1e7 < found.memory_bytes_per_s < 1e13
    assert set(found.flops_per_s) <= {"float32", "bfloat16", "float16"}


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[Benchmark | bytes]:
    """What the child would find, one after another."""
    left: list[Benchmark | bytes] = []

    async def run(kind: str, device: str, folder: Path, files: Sequence[Path], threads: str) -> None:
        assert (kind, device, threads) == ("measure", "cpu", "1")
        found = left.pop(0)
        content = found if isinstance(found, bytes) else msgspec.json.encode(found)
        await asyncio.to_thread((folder / BENCHMARK_FILE).write_bytes, content)

    monkeypatch.setattr(job, "run", run)
    return left


@pytest.mark.may_block("a lock file is opened")
async def test_a_device_is_measured_once_unless_asked_for_afresh(
    tmp_path: Path, measurements: list[Benchmark | bytes]
) -> None:
    slow = Benchmark({"float32": 1e9}, 1e9)
    measurements += [FAST, slow]
    assert await benchmark(tmp_path, "cpu", 1) == FAST
    assert await benchmark(tmp_path, "cpu", 1) == FAST
    assert await benchmark(tmp_path, "cpu", 1, fresh=True) == slow
    assert await benchmark(tmp_path, "cpu", 1) == slow


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"12345.0",
        b'{"flops_per_s":{},"memory_bytes_per_s":1.0}',
        b'{"flops_per_s":{"float32":-1.0},"memory_bytes_per_s":1.0}',
        b'{"flops_per_s":{"float32":NaN},"memory_bytes_per_s":1.0}',
        b'{"flops_per_s":{"float32":1e99},"memory_bytes_per_s":1.0}',
        b'{"flops_per_s":{"float32":1.0}}',
        msgspec.json.encode(FAST)[:-3],
    ],
)
@pytest.mark.may_block("a lock file is opened")
async def test_damaged_figures_are_measured_again(
    tmp_path: Path, measurements: list[Benchmark | bytes], content: bytes
) -> None:
    measurements += [content, FAST]
    with pytest.raises(SwarmError, match="was measured but is not in"):
        await benchmark(tmp_path, "cpu", 1)
    assert stored(speed_folder(tmp_path, "cpu", 1)) is None
    assert await benchmark(tmp_path, "cpu", 1) == FAST


@pytest.mark.may_block("a lock file is opened")
async def test_a_device_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nonsense"):
        await benchmark(tmp_path, "nonsense", None)


def test_half_a_core_has_figures_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = set[Path]()
    for quota in (None, 0.5, 2.0):
        monkeypatch.setattr(speed, "cpu_quota", lambda quota=quota: quota)
        folders |= {speed_folder(tmp_path, "cpu", threads) for threads in (None, 1)}
        assert speed_folder(tmp_path, "cpu", 1) == speed_folder(tmp_path, "cpu", 1)
    assert len(folders) == 6


def test_quotas_are_read() -> None:
    assert parse_max("50000 100000\n") == 0.5
    assert parse_max("150000 100000") == 1.5
    assert parse_cfs("1000\n", "10000\n") == 0.1
    for nothing in ("max 100000", "", "100", "x y", "-1 100000", "100000 0"):
        assert parse_max(nothing) is None
    assert parse_cfs("-1\n", "100000\n") is None


def _tree(root: Path, own: str, files: dict[str, str]) -> Path:
    contents = {f"sys/fs/cgroup/{name}": content for name, content in files.items()}
    for name, content in (contents | {"proc/self/cgroup": own}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "20000 100000"}, 0.2),
        ("0::/a/b\n", {"a/b/cpu.max": "10000 100000", "a/cpu.max": "20000 100000"}, 0.1),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "c/cpu.max": "10000 100000"}, None),
        ("0::/\n", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/../outside\n", {"cpu.max": "50000 100000"}, 0.5),
        (
            "4:cpu,cpuacct:/docker/x\n0::/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "30000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            0.3,
        ),
        (
            "9:name=systemd:/\n1:cpu:/lab\n2:cpuacct:/\n",
            {
                "cpu/lab/cpu.cfs_quota_us": "1000",
                "cpu/lab/cpu.cfs_period_us": "5000",
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
            },
            0.2,
        ),
        ("1:cpu:/\n", {"unified/cpu.max": "10000 100000"}, None),
        ("nonsense\n0:\n", {"cpu.max": "10000 100000"}, None),
        ("", {"cpu.max": "10000 100000"}, None),
    ],
)
def test_the_tightest_quota_of_a_group_and_those_above_counts(
    tmp_path: Path, own: str, files: dict[str, str], quota: float | None
) -> None:
    assert cpu_quota(_tree(tmp_path, own, files)) == quota


def test_where_there_are_no_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


class Throttled:
    """A clock, and work that takes 1 ms of it; after each 20 of them the device has to wait for 80 ms."""

    def __init__(self) -> None:
        self.now = self.worked = 0.0

    def work(self) -> None:
        self.now += 0.001
        self.worked += 0.001
        if round(self.worked * 1000) % 20 == 0:
            self.now += 0.08


def test_a_throttled_device_shows_its_throttled_rate() -> None:
    device = Throttled()
    warm_up(device.work, quick_s=1, clock=lambda: device.now)
    assert device.worked == 0.002
    assert mean_s(device.work, least_s=0.3, clock=lambda: device.now) == pytest.approx(0.005, rel=0.3)


def _clock(steps: Sequence[float]) -> Iterator[float]:
    now = 0.0
    for step in steps:
        yield now
        now += step


def test_a_slow_run_is_not_repeated_for_long() -> None:
    ran: list[Any] = []
    ticks = _clock([0.4] * 20)
    assert mean_s(lambda: ran.append(1), least_s=0.1, least_runs=3, enough_s=0.6, clock=lambda: next(ticks)) == 0.4
    assert len(ran) == 2
    ticks, ran = _clock([0.01] * 99), []
    mean_s(lambda: ran.append(1), least_s=0.08, least_runs=3, enough_s=0.6, clock=lambda: next(ticks))
    assert len(ran) == 8
