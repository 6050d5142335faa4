"""A session outlives what a home network does to it, and says so when it cannot."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from swarm import host, route, routes
from swarm.batching import Batching
from swarm.errors import DeadlineExceeded, Overloaded, PeerError, SwarmError
from swarm.plan import Goal
from tests.toy import Swarm, session_of, swarm_of


@pytest.fixture(autouse=True)
def _short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (host, route):
        monkeypatch.setattr(module, "LEASE_S", 2.0)
    monkeypatch.setattr(route, "RETRY_S", 0.1)
    monkeypatch.setattr(routes, "PATIENCE_S", 1.0)


async def test_a_broken_connection_does_not_end_the_session(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee") as [me, ant, bee], session_of(Swarm(me, ant, bee)) as vit:
        for _ in range(6):
            for channel in (*me.links.channels(), *ant.links.channels()):
                channel.abort()
            result = await vit(np.ones((1, 4)))
            assert result.output.tolist() == [[1112] * 4]
            assert result.labels[0][0].score == 4 * 1112
            await asyncio.sleep(0.5)  # in all longer than a lease


async def test_a_lease_that_is_over_is_replaced_by_a_new_plan(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant], session_of(Swarm(me, ant)) as vit:
        first = vit.plan.id
        ant.host.lost(me.id)
        result = await vit(np.ones((1, 4)))
        assert result.output.tolist() == [[1112] * 4]
        assert vit.plan.id != first


async def test_the_deadline_covers_reading_the_input(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant], session_of(Swarm(me, ant)) as vit:
        with pytest.raises(DeadlineExceeded, match=r"The 0\.1 s of the request were over"):
            await vit("a path on a hung disk", deadline_s=0.1)


async def test_a_closed_session_says_so(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant") as [me, ant]:
        async with session_of(Swarm(me, ant)) as vit:
            pass
        with pytest.raises(SwarmError, match="closed"):
            await vit(np.ones((1, 4)))
        assert not ant.host._leases


async def test_peers_that_left_are_named_in_the_error(tmp_path: Path) -> None:
    async with swarm_of(tmp_path, "me", "ant", "bee") as [me, ant, bee]:
        swarm = Swarm(me, ant, bee)
        async with session_of(swarm) as vit:
            me.holdings._limit_bytes = 0  # it cannot do it alone
            await bee.die()
            await ant.die()
            swarm.change(gone=[ant, bee])
            errors = []
            for _ in range(2):
                with pytest.raises(PeerError, match=r"(bee|ant).*no other plan works") as caught:
                    await vit(np.ones((1, 4)))
                errors.append(caught.value)
            assert errors[0] is not errors[1]


async def test_where_one_plan_is_full_a_standby_is_asked(tmp_path: Path) -> None:
    async with (
        swarm_of(tmp_path, "me", "ant", "bee", "cat", "dog") as [me, ant, *others],
        session_of(Swarm(me, ant, *others), Goal(survive=1)) as vit,
    ):
        ant.holdings.batcher._queue.batching = Batching(max_waiting=0)
        result = await vit(np.ones((1, 4)), waits=False)
        assert result.output.tolist() == [[1112.0] * 4]
        assert result.attempts == 2
        for other in others:
            other.holdings.batcher._queue.batching = Batching(max_waiting=0)
        with pytest.raises(Overloaded):
            await vit(np.ones((1, 4)), waits=False)
        assert vit._answering.hedges == 0
