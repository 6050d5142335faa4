"""Real processes are killed under load and come back: no request is lost, none is answered wrongly.

The long form, with figures, is `tests/bench/chaos.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from swarm import Peer, Session
from swarm.types import PeerId
from tests.workers import Workers

MODEL = "fashion-vit"
KILLS = 3
ASKING = 4


@asynccontextmanager
async def asked_all_the_time(session: Session, x: np.ndarray, wanted: np.ndarray) -> AsyncIterator[list[int]]:
    """Asks without pause while the block runs; gives the attempts of each answer so far, every one of them checked."""
    attempts: list[int] = []
    over = asyncio.Event()

    async def ask() -> None:
        while not over.is_set():
            result = await session(x, deadline_s=30)
            np.testing.assert_allclose(result.output, wanted, atol=1e-4)
            attempts.append(result.attempts)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(ASKING):
            tasks.create_task(ask())
        try:
            yield attempts
        finally:
            over.set()


def _worker_of(session: Session, peer: Peer) -> tuple[PeerId, str]:
    """A worker that the session's plan uses; any where all of them were thought lost and it computes for itself."""
    workers = {seen.record.id: seen.record.name for seen in peer.view().peers if seen.record.id != peer.id}
    victim = next((used for used in session.plan.peers() if used in workers), next(iter(workers)))
    return victim, workers[victim]


async def test_no_request_is_lost_while_workers_are_killed_and_come_back(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(1, 1, 28, 28)).astype(np.float32)
    with Workers(3, tmp_path) as workers:
        await asyncio.to_thread(workers.ready)
        options = {"port": 0, "interfaces": ["127.0.0.1"], "mdns": False, "client": True, "cache": tmp_path / "client"}
        async with Peer("app", peers=workers.addresses, **options) as peer:  # type: ignore[arg-type]
            await peer.wait_for(workers.names, timeout_s=30)
            async with await peer.load(MODEL, "slices", wire="float32") as session:
                wanted = (await session(x)).output
                async with asked_all_the_time(session, x, wanted) as attempts:
                    for _ in range(KILLS):
                        before = len(attempts)
                        async with asyncio.timeout(30):
                            while len(attempts) < before + 20:
                                await asyncio.sleep(0.05)
                        victim, name = _worker_of(session, peer)
                        await asyncio.to_thread(workers.kill, name)
                        async with asyncio.timeout(30):
                            while victim in session.plan.peers():
                                await asyncio.sleep(0.02)
                        await asyncio.to_thread(workers.restart, name)
                        await peer.wait_for([name], timeout_s=30)
                assert max(attempts) >= 2, "some were under way when their peer died"
                assert len(attempts) > KILLS * 20
