"""A user's folders for each device, so that no two devices share an identity, a secret's file or a cache."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tests.lab.names import PREFIX, is_of, is_stale

FOLDERS = {
    "HOME": "",
    "SWARM_HOME": "swarm",
    "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "data",
    "XDG_RUNTIME_DIR": "run",
    "XDG_STATE_HOME": "state",
    "TMPDIR": "tmp",
}


def make_home(tag: str, device: int) -> dict[str, str]:
    """Make the folders of a device; the variables that name them."""
    root = _temporary() / f"{tag}home{device}"
    for inside in FOLDERS.values():
        (root / inside).mkdir(mode=0o700)
    return {name: str(root / inside) for name, inside in FOLDERS.items()}


def remove_homes(tag: str) -> None:
    for home in _temporary().glob(f"{tag}home*"):
        if is_of(home.name, tag):
            shutil.rmtree(home, ignore_errors=True)


def remove_stale_homes() -> None:
    for home in _temporary().glob(f"{PREFIX}*home*"):
        if is_stale(home.name):
            shutil.rmtree(home, ignore_errors=True)


def _temporary() -> Path:
    return Path(tempfile.gettempdir())
