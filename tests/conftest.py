"""What every test gets: an empty home, loopback only, a swarm of its own run, and an event loop that may not block."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from blockbuster import BlockBuster

if TYPE_CHECKING:
    from tests.lab import Lab

ROOT = Path(__file__).resolve().parent.parent

# `python -m pytest` puts the repository root here, and with it bare `models`: a second copy of `swarm.models`.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]

FOLDERS = {
    "HOME": "",
    "USERPROFILE": "",
    "APPDATA": "config",
    "LOCALAPPDATA": "data",
    "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "data",
    "XDG_RUNTIME_DIR": "run",
    "XDG_STATE_HOME": "state",
}
OFFLINE = {
    "SWARM_INTERFACE": "127.0.0.1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONSAFEPATH": "1",
}
home = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module is imported, since some libraries read the environment only then."""
    folder = config.stash[home] = Path(tempfile.mkdtemp(prefix="swarm-tests-"))
    for name in [name for name in os.environ if name.startswith("SWARM_")]:
        del os.environ[name]
    for name, inside in FOLDERS.items():
        (folder / inside).mkdir(mode=0o700, exist_ok=True)
        os.environ[name] = str(folder / inside)
    os.environ.update(OFFLINE)
    from swarm.secret import Secret

    os.environ["SWARM_SECRET"] = Secret.new().reveal()  # other runs may go on beside it, on the same loopback


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[home], ignore_errors=True)


def pytest_report_header() -> str:
    import swarm

    return f"swarm: {swarm.__version__} from {Path(swarm.__file__).parent}"


def _scanned() -> list[ModuleType]:
    """Our four folders, by place: importing them here would load torch into every test."""
    modules = []
    for folder in ("swarm", "models", "strategies", "tui"):
        module = ModuleType(folder)
        module.__path__ = [f"{ROOT / folder}{os.sep}"]
        modules.append(module)
    return modules


@pytest.fixture(scope="session")
def _blockbuster() -> BlockBuster:
    return BlockBuster(_scanned())


@pytest.fixture(autouse=True)
def _loop_never_blocks(request: pytest.FixtureRequest, _blockbuster: BlockBuster) -> Iterator[None]:
    """A blocking call below our code in a running event loop raises `BlockingError` there."""
    if request.node.get_closest_marker("may_block"):
        yield
        return
    _blockbuster.activate()
    yield
    _blockbuster.deactivate()


@pytest.fixture
def make_lab() -> Iterator[Callable[..., Lab]]:
    """`make_lab(presets.hetero, homes=True)`: emulated devices until the test ends, or a skip with the reason."""
    from tests.lab import Lab

    with ExitStack() as stack:
        yield lambda devices, **options: stack.enter_context(Lab(devices, **options))
