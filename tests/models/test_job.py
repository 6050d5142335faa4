"""A child process and its log, when whoever started it goes away."""

from __future__ import annotations

import asyncio
import gc
import warnings
from pathlib import Path

import pytest

from swarm.models import job


@pytest.mark.parametrize("turns", range(4))
async def test_who_is_cancelled_while_the_log_opens_leaves_it_closed(tmp_path: Path, turns: int) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        for _ in range(20):
            opening = asyncio.ensure_future(job._fresh_log(tmp_path))
            for _ in range(turns):
                await asyncio.sleep(0)
            opening.cancel()
            for log in await asyncio.gather(opening, return_exceptions=True):
                if not isinstance(log, BaseException):
                    log.close()
            await asyncio.sleep(0.005)
        gc.collect()
    assert [str(each.message) for each in caught if "log.txt" in str(each.message)] == []
