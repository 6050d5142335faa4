"""A session outlives what a home network does to it, and says so when it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swarm import host, session
from swarm.errors import DeadlineExceeded, PeerError, SwarmError
from swarm.negotiation import negotiate
from swarm.session import Session
from swarm.types import Array
from tests.toy import Node, chain_of, offer_of, swarm_of, view_of


class Plain:
    """Takes arrays as they are, and gives no labels."""

    async def input(self, x: Any) -> Array:
        if isinstance(x, str):
            await asyncio.sleep(3600)
        return np.asarray(x, np.float32)

    def labels(self, output: Array) -> list[list[tuple[str, float]]]:
        return [[("sum", float(row.sum()))] for row in output]


@pytest.fixture(autouse=True)
def _short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (host, session):
        monkeypatch.setattr(module, "LEASE_S", 2.0)
    monkeypatch.setattr(session, "RETRY_S", 0.1)


@asynccontextmanager
async def opened(me: Node, *nodes: Node) -> AsyncIterator[Session]:
    plan = chain_of(me, *nodes)
    await negotiate(me.exchange, view_of(me, *nodes), lambda view: plan, offer_of, timeout_s=10)
    made = Session(plan, me.exchange, me.dataflow, Plain(), lambda closed: None)
    keeper = asyncio.create_task(made.keep_leases())
    try:
        async with made:
            yield made
    finally:
        keeper.cancel()


async def test_a_broken_connection_does_not_end_the_session(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee") as [me, ant, bee], opened(me, ant, bee) as vit:
        for _ in range(6):
            for channel in (*me.links.channels(), *ant.links.channels()):
                channel.abort()
            result = await vit(np.ones((1, 4)))
            assert result.output.tolist() == [[1112] * 4]
            assert result.labels[0][0].score == 4 * 1112
            await asyncio.sleep(0.5)  # in all longer than a lease


async def test_a_lease_that_is_over_ends_it_with_the_reason_each_time_anew(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant], opened(me, ant) as vit:
        ant.host.lost(me.id)
        async with asyncio.timeout(10):
            while vit._broken is None:
                await asyncio.sleep(0.05)
        errors = []
        for _ in range(2):
            with pytest.raises(SwarmError, match="no lease for this plan; load the model again") as caught:
                await vit(np.ones((1, 4)))
            errors.append(caught.value)
        assert errors[0] is not errors[1]


async def test_the_deadline_covers_reading_the_input(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant], opened(me, ant) as vit:
        with pytest.raises(DeadlineExceeded, match=r"not read within 0\.1 s"):
            await vit("a path on a hung disk", deadline_s=0.1)


async def test_a_closed_session_says_so(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        async with opened(me, ant) as vit:
            pass
        with pytest.raises(SwarmError, match="closed"):
            await vit(np.ones((1, 4)))
        assert not ant.host._leases


async def test_peers_that_left_are_named_in_the_error(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee") as [me, ant, bee], opened(me, ant, bee) as vit:
        await bee.links.aclose()
        ant.links._address_of = lambda peer: []
        with pytest.raises(PeerError, match="bee"):
            await vit(np.ones((1, 4)))
