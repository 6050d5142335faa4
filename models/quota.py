"""How much of the processor this process may use, where its control group limits it (Linux; containers, services).

    /proc/self/cgroup      0::/a/b           version 2: cpu.max in a/b, in a, and at the top
                           4:cpu,cpuacct:/a  version 1: cpu.cfs_quota_us and cpu.cfs_period_us there

Inside a container the path may be the one outside; what is mounted at the top are then the container's own files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores that this process may keep busy; None where nothing limits it. Reads a few small files."""
    own = _text(root / "proc/self/cgroup") or ""
    limits = [limit for folder in _folders(own) if (limit := _limit(root / "sys/fs/cgroup" / folder)) is not None]
    return min(limits, default=None)


def parse_max(text: str) -> float | None:
    """Cores in a version 2 `cpu.max`: `50000 100000` is half of one; `max 100000` is no limit."""
    quota, _, period = text.strip().partition(" ")
    return _cores(quota, period)


def parse_cfs(quota: str, period: str) -> float | None:
    """Cores in the two files of version 1; a quota of -1 is no limit."""
    return _cores(quota.strip(), period.strip())


def _cores(quota: str, period: str) -> float | None:
    if not (quota.isdecimal() and period.isdecimal() and int(period)):
        return None
    return int(quota) / int(period)


def _folders(own: str) -> Iterator[PurePosixPath]:
    """Of this process's group and of all above it, below the place where groups are mounted."""
    for line in own.splitlines():
        _, _, named = line.partition(":")
        controllers, colon, path = named.partition(":")
        if not colon or (controllers and "cpu" not in controllers.split(",")):
            continue
        mounts = [controllers, "cpu"] if controllers else ["", "unified"]
        inside = PurePosixPath(path.lstrip("/"))
        yield from (mount / folder for mount in map(PurePosixPath, mounts) for folder in (inside, *inside.parents))


def _limit(folder: Path) -> float | None:
    if (found := _text(folder / "cpu.max")) is not None:
        return parse_max(found)
    quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    return None if quota is None or period is None else parse_cfs(quota, period)


def _text(file: Path) -> str | None:
    try:
        return file.read_text()
    except (OSError, ValueError):
        return None
