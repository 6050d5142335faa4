"""Where this process may make cgroups: read off /proc/mounts and /proc/self/cgroup.

Version 1: below our own group of each controller, so that whatever limits us limits the devices too. Version 2: beside
our own group, for a group with processes in it may have none below that has controllers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tests.lab.groups import Groups, GroupsV1, GroupsV2, remove_group
from tests.lab.names import PREFIX, is_stale, probe_name

CONTROLLERS = ("cpu", "memory")
PROC = Path("/proc")


class NoGroups(Exception):
    """CPU and memory cannot be limited here; says why."""


def find_groups(proc: Path = PROC) -> Groups:
    """Folders in which groups were tried to be made, just now.

    :raises NoGroups: there is none, with the reason.
    """
    mounts, own = _mounts(proc), _own(proc)
    missing = [name for name in CONTROLLERS if name not in mounts]
    if not missing:
        cpu, memory = (_below(mounts[name], own.get(name, "/")) for name in CONTROLLERS)
        _try(cpu)
        _try(memory)
        return GroupsV1(cpu, memory)
    unified = mounts.get("")
    offered = (unified / "cgroup.controllers").read_text().split() if unified else []
    missing = [name for name in CONTROLLERS if name not in offered]
    if unified is None or missing:
        raise NoGroups(f"limits of CPU and memory need cgroup controllers, and there is no {' and no '.join(missing)}")
    folder = _beside(unified, own.get("", "/"))
    _switch_on(unified, folder)
    _try(folder)
    return GroupsV2(folder)


def remove_stale_groups(proc: Path = PROC) -> None:
    """Of all hierarchies, wherever a killed owner had its place."""
    mounts = _mounts(proc)
    for mount in {mounts[name] for name in (*CONTROLLERS, "") if name in mounts}:
        for folder, inside, _ in os.walk(mount):
            for name in inside:
                if name.startswith(PREFIX) and is_stale(name):
                    remove_group(Path(folder) / name)


def _mounts(proc: Path) -> Mapping[str, Path]:
    """Where each controller is mounted; "" is version 2."""
    found = {}
    for line in (proc / "mounts").read_text().splitlines():
        _, folder, kind, options, *_ = line.split()
        if kind == "cgroup2":
            found[""] = Path(folder)
        elif kind == "cgroup":
            found.update({option: Path(folder) for option in options.split(",")})
    return found


def _own(proc: Path) -> Mapping[str, str]:
    """Our own group in the hierarchy of each controller; "" is version 2."""
    found = {}
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _below(mount: Path, own: str) -> Path:
    """Our own group; in a container its path is often the host's, and the mount itself is ours."""
    folder = mount / own.lstrip("/")
    return folder if folder.is_dir() else mount


def _beside(mount: Path, own: str) -> Path:
    folder = _below(mount, own)
    return mount if folder == mount else folder.parent


def _switch_on(mount: Path, folder: Path) -> None:
    """A controller is on for the groups in a folder if every folder above, and this one, hands it down."""
    down = folder.relative_to(mount).parts
    for place in (mount.joinpath(*down[:depth]) for depth in range(len(down) + 1)):
        file = place / "cgroup.subtree_control"
        if lacking := [f"+{name}" for name in CONTROLLERS if name not in file.read_text().split()]:
            try:
                file.write_text(" ".join(lacking))
            except OSError as refused:
                raise NoGroups(f"cgroup controllers cannot be switched on in {place}: {refused.strerror}") from refused


def _try(folder: Path) -> None:
    probe = folder / probe_name()
    try:
        probe.mkdir(exist_ok=True)
    except OSError as refused:
        raise NoGroups(f"no cgroups can be made in {folder}: {refused.strerror}") from refused
    probe.rmdir()
