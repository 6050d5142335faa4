"""Splits inside the block between real processes: exact, and alive when members are killed or hang."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swarm import Peer
from swarm.errors import UsageError
from swarm.result import Result
from swarm.secret import Secret
from tests.workers import Workers

HEALED_S = 30.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Peers of this test have a secret, homes and a cache of their own."""
    monkeypatch.setenv("SWARM_SECRET", Secret.new().reveal())
    monkeypatch.setenv("SWARM_HOME", str(tmp_path / "me"))
    return tmp_path


@pytest.fixture
def workers(folder: Path) -> Iterator[Workers]:
    with Workers(3, folder) as workers:
        workers.ready()
        yield workers


@asynccontextmanager
async def asking(workers: Workers, folder: Path) -> AsyncIterator[Peer]:
    options: dict[str, Any] = {"interfaces": ["127.0.0.1"], "mdns": False, "remember": False, "threads": 1}
    async with Peer("me", peers=workers.addresses, cache=folder / "cache" / "swarm", **options) as peer:
        await peer.wait_for(workers.names, timeout_s=60)
        yield peer


def pictures(count: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 1, 28, 28), np.uint8)


def away(result: Result, wanted: Any) -> float:
    return float(np.abs(result.output - wanted).max() / np.abs(wanted).max())


async def test_every_split_answers_as_the_whole_model_does_and_survives_kills(workers: Workers, folder: Path) -> None:
    async with asking(workers, folder) as peer:
        async with await peer.load("fashion-vit", "local") as whole:
            wanted = (await whole(pictures(3))).output
        named = ["me", *workers.names]
        for strategy, most in (("tokens", 1e-4), ("columns", 1e-4), ("partial", 1e-4)):
            async with await peer.load("fashion-vit", strategy, peers=named) as session:
                assert [len(step.peers) for step in session.plan.steps] == [1, 4, 1]
                result = await session(pictures(3))
                assert away(result, wanted) < most
                assert result.degraded is None
                assert result.trace[1].exchange_s > 0
            async with await peer.load("fashion-vit", strategy, peers=named, wire="float16") as session:
                result = await session(pictures(3))
                assert (result.output.argmax(1) == wanted.argmax(1)).all()
        await _retries(peer, workers, wanted)


async def _retries(peer: Peer, workers: Workers, wanted: Any) -> None:
    """A member is killed under requests: each is answered exactly, none is lost, and the plan has one peer less."""
    async with await peer.load("fashion-vit", "columns") as session:
        before = session.plan
        assert len(before.peers()) > 1
        victim = next(name for name in workers.names if any(r.id in before.peers() for r in peer.view().called(name)))
        requests = [asyncio.create_task(session(pictures(3), deadline_s=60)) for _ in range(6)]
        await asyncio.sleep(0.02)
        workers.kill(victim)
        for request in requests:
            result = await request
            assert away(result, wanted) < 1e-4
            assert result.degraded is None


async def test_degrading_answers_at_once_says_what_is_missing_and_heals(workers: Workers, folder: Path) -> None:
    async with asking(workers, folder) as peer:
        async with await peer.load("fashion-vit", "local") as whole:
            wanted = (await whole(pictures(2))).output
        named: dict[str, Any] = {"replicate": [0.5], "on_loss": "degrade"}
        async with await peer.load("fashion-vit", "partial", peers=["me", *workers.names], **named) as session:
            assert away(await session(pictures(2)), wanted) < 1e-4
            workers.kill("worker-0")
            result = await _degraded(session)
            assert "worker-0 was lost" in result.degraded
            assert "heads" in result.degraded
            assert np.isfinite(result.output).all()
            hung = workers.process("worker-1")
            os.kill(hung.pid, signal.SIGSTOP)
            try:
                result = await session(pictures(2), deadline_s=60)
                assert result.degraded is not None
                assert "worker-1" in result.degraded
            finally:
                os.kill(hung.pid, signal.SIGCONT)
        async with await peer.load("fashion-vit", "partial", **named) as session:
            before = session.plan
            name = next(n for n in workers.names[1:] if any(r.id in before.peers() for r in peer.view().called(n)))
            workers.kill(name)
            async with asyncio.timeout(HEALED_S):
                while True:
                    result = await session(pictures(2))
                    if session.plan.id != before.id and result.degraded is None:
                        break
                    await asyncio.sleep(0.05)
            assert away(result, wanted) < 1e-4


async def _degraded(session: Any) -> Any:
    async with asyncio.timeout(10):
        while (result := await session(pictures(2))).degraded is None:
            await asyncio.sleep(0.01)
    return result


async def test_what_cannot_be_is_said_in_a_sentence(workers: Workers, folder: Path) -> None:
    async with asking(workers, folder) as peer:
        with pytest.raises(UsageError, match="between 0 and 1"):
            await peer.load("fashion-vit", "partial", replicate=[1.5])
        with pytest.raises(UsageError, match="12 blocks"):
            await peer.load("fashion-vit", "partial", replicate=[0.5, 0.5])
        with pytest.raises(UsageError, match="'retry' or 'degrade'"):
            await peer.load("fashion-vit", "tokens", on_loss="shrug")  # type: ignore[arg-type]
