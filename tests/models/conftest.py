"""Studies cost seconds, so tests that only read them share one cache."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from swarm.models import Blueprint
from swarm.models.study import study


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def fashion(cache: Path) -> Blueprint:
    """The anatomy of `fashion-vit`, found by a child process."""
    return asyncio.run(study("fashion-vit", cache=cache))
