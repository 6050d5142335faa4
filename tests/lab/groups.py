"""Limits of CPU and memory: a cgroup for each device, under given folders, in both versions of the kernel's interface.

The quota is 1 ms in every period, the least that the kernel takes, so that a device is slow evenly instead of fast and
then away. But the kernel looks at its clock's tick, every 4 ms with 250 a second: a device of 20 % runs about 4 ms,
then waits 16; and of periods that pass within one tick the quota is lost (measured with 1 ms throughout: 0.43 of a core
for a share of 0.5, 0.62 for 1.0). So no period is shorter than 4 ms, and above a share of 0.25 the quota grows.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

LEAST_QUOTA_US, TICK_US, LONGEST_PERIOD_US = 1_000, 4_000, 1_000_000
REMOVE_S = 5.0


class Groups(ABC):
    """The cgroups of one lab's devices, by name. Only `add` and `remove` make and remove folders."""

    def __init__(self, cpu: Path, memory: Path) -> None:
        self._cpu, self._memory = cpu, memory

    def add(self, name: str) -> None:
        for folder in self._folders(name):
            folder.mkdir()

    def entrances(self, name: str) -> list[Path]:
        """Write a process's id into each of these, and it and what it starts are in the group."""
        return [folder / "cgroup.procs" for folder in self._folders(name)]

    def limit(self, name: str, cpu: float | None, memory_bytes: int | None) -> None:
        """At once, for who is in it and who comes; None takes a limit away.

        :raises OSError: the group holds more memory than that, and cannot give it back.
        """
        self._limit_cpu(self._cpu / name, cpu)
        self._limit_memory(self._memory / name, memory_bytes)

    def remove(self, name: str) -> None:
        """Kill all who are in it, and wait till it is gone; idempotent."""
        for folder in self._folders(name):
            remove_group(folder)

    def _folders(self, name: str) -> Iterable[Path]:
        return dict.fromkeys((self._cpu / name, self._memory / name))

    @abstractmethod
    def _limit_cpu(self, folder: Path, share: float | None) -> None: ...

    @abstractmethod
    def _limit_memory(self, folder: Path, limit: int | None) -> None: ...


class GroupsV1(Groups):
    """A hierarchy for each controller."""

    def _limit_cpu(self, folder: Path, share: float | None) -> None:
        if share is None:
            (folder / "cpu.cfs_quota_us").write_text("-1")
            return
        quota_us, period_us = quota(share)
        (folder / "cpu.cfs_period_us").write_text(str(period_us))
        (folder / "cpu.cfs_quota_us").write_text(str(quota_us))

    def _limit_memory(self, folder: Path, limit: int | None) -> None:
        """Memory and swap together may never be less than memory alone, not even between two writes."""
        files = [folder / "memory.limit_in_bytes", folder / "memory.memsw.limit_in_bytes"]
        if not files[1].exists():
            files.pop()  # a kernel that does not count swap
        elif limit is None or limit > int(files[1].read_text()):
            files.reverse()
        for file in files:
            file.write_text("-1" if limit is None else str(limit))


class GroupsV2(Groups):
    """One hierarchy; its controllers are switched on in the folder above the groups."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, folder)

    def _limit_cpu(self, folder: Path, share: float | None) -> None:
        words = "max" if share is None else "{} {}".format(*quota(share))
        (folder / "cpu.max").write_text(words)

    def _limit_memory(self, folder: Path, limit: int | None) -> None:
        (folder / "memory.max").write_text("max" if limit is None else str(limit))
        swap = folder / "memory.swap.max"
        if swap.exists():
            swap.write_text("max" if limit is None else "0")


def quota(share: float) -> tuple[int, int]:
    """Microseconds of CPU in each period, and the period, which is as short as works."""
    period_us = min(LONGEST_PERIOD_US, max(TICK_US, round(LEAST_QUOTA_US / share)))
    return max(LEAST_QUOTA_US, round(share * period_us)), period_us


def remove_group(folder: Path) -> None:
    """Kill all who are in it, and wait till it is gone; nothing, if it is not there.

    :raises TimeoutError: somebody in it does not die.
    """
    deadline = time.monotonic() + REMOVE_S
    while folder.exists():
        _kill(folder)
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as busy:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{folder} cannot be removed: {busy}") from busy
            time.sleep(0.005)


def _kill(folder: Path) -> None:
    try:
        if (folder / "cgroup.kill").exists():
            (folder / "cgroup.kill").write_text("1")
            return
        inside = [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
    except FileNotFoundError:
        return
    for pid in inside:
        if pid > 0:  # 0 is a process of another PID namespace; to kill 0 would be to kill ourselves
            _end(pid)


def _end(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return
