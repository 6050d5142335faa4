"""Show static tools the packages as they are installed.

    models/  strategies/  tui/  swarm/*   ──links──▶   .links/swarm/*

Setuptools maps four top-level folders to `swarm`, `swarm.models`, `swarm.strategies` and `swarm.tui`. Type checkers,
import-linter and editors do not see that mapping; the tree of links shows it to them. Run it as often as you like.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TREE = ROOT / ".links" / "swarm"
MAPPED = ("models", "strategies", "tui")


def wanted() -> dict[str, Path]:
    """What the tree holds, by name."""
    inside = {entry.name: entry for entry in (ROOT / "swarm").iterdir() if entry.name != "__pycache__"}
    return inside | {name: ROOT / name for name in MAPPED if (ROOT / name).is_dir()}


def remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)


def link(entry: Path, target: Path) -> None:
    """Point `entry` at `target` in one move, so that a tool which reads the tree meanwhile misses nothing."""
    relative = os.path.relpath(target, entry.parent)
    if entry.is_symlink() and os.readlink(entry) == relative:  # noqa: PTH115
        return
    fresh = entry.with_name(f".{entry.name}.{os.getpid()}")
    fresh.symlink_to(relative, target_is_directory=target.is_dir())
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    fresh.replace(entry)


def copy(entry: Path, target: Path) -> None:
    remove(entry)
    if target.is_dir():
        shutil.copytree(target, entry, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(target, entry)


def rebuild() -> str:
    """Bring the tree up to date; returns a sentence about what it holds now."""
    TREE.mkdir(parents=True, exist_ok=True)
    entries = wanted()
    for entry in TREE.iterdir():
        if entry.name not in entries:
            remove(entry)
    try:
        for name, target in entries.items():
            link(TREE / name, target)
    except OSError as error:
        # Windows makes links only with developer mode on.
        for name, target in entries.items():
            copy(TREE / name, target)
        return f"{len(entries)} copies in .links/swarm, since links cannot be made here ({error}); editors see old code"
    return f"{len(entries)} links in .links/swarm"


if __name__ == "__main__":
    sys.stdout.write(rebuild() + "\n")
