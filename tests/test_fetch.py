"""Pieces from other peers: a source that errs or dawdles is left for the next, a cache that fails ends it at once."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import pytest

from swarm import fetch as fetching
from swarm.errors import WeightsError
from swarm.exchange import Exchange
from swarm.fetch import PIECE_BYTES, fetch
from swarm.store import BlobWriter, Store
from swarm.transport import Reply
from swarm.types import PeerId

CONTENT = bytes(range(256)) * 2048  # two pieces
DIGEST = sha256(CONTENT).hexdigest()
GOOD, BAD = PeerId("good"), PeerId("bad")

Give = Callable[[int, int], Awaitable[bytes]]


class Sources:
    """In the place of an exchange: what each peer gives, and who was asked."""

    def __init__(self, **gives: Give) -> None:
        self.gives = gives
        self.asked: list[str] = []

    async def request(self, peer: str, method: str, fields: dict[str, Any], **_: Any) -> Reply:
        self.asked.append(peer)
        return Reply({}, await self.gives[peer](fields["offset"], fields["length"]))


async def honest(offset: int, length: int) -> bytes:
    return CONTENT[offset : offset + length]


async def bring(sources: Sources, store: Store, *order: PeerId) -> None:
    await fetch(cast(Exchange, sources), store, {DIGEST: len(CONTENT)}, order, lambda _: None)


async def test_the_pieces_come_together(tmp_path: Path) -> None:
    sources, store = Sources(good=honest), Store(tmp_path)
    await bring(sources, store, GOOD)
    assert sources.asked == ["good"] * (len(CONTENT) // PIECE_BYTES)
    assert await asyncio.to_thread(store.read, DIGEST, 0, len(CONTENT)) == CONTENT


@pytest.mark.parametrize("given", [0, 1, PIECE_BYTES + 1])
async def test_a_piece_of_another_length_sends_to_the_next_source(tmp_path: Path, given: int) -> None:
    async def odd(offset: int, length: int) -> bytes:
        return b"x" * given

    sources = Sources(good=honest, bad=odd)
    await bring(sources, Store(tmp_path), BAD, GOOD)
    assert sources.asked == ["bad", "good", "good"]
    with pytest.raises(WeightsError, match=f"bad gave {given} bytes for {PIECE_BYTES}"):
        await bring(sources, Store(tmp_path / "other"), BAD)


async def test_a_source_that_dawdles_is_left_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def dawdle(offset: int, length: int) -> bytes:
        await asyncio.sleep(20 if offset else 0)
        return await honest(offset, length)

    monkeypatch.setattr(fetching, "PIECE_TIMEOUT_S", 0.3)
    monkeypatch.setattr(fetching, "SLOWEST_BYTES_PER_S", len(CONTENT) / 0.3)
    sources, store = Sources(good=honest, bad=dawdle), Store(tmp_path)
    await bring(sources, store, BAD, GOOD)
    with pytest.raises(WeightsError, match=f"bad did not give the {len(CONTENT)} bytes"):
        await bring(sources, Store(tmp_path / "other"), BAD)
    assert [path.name for path in await asyncio.to_thread(_files, tmp_path)] == [DIGEST]


@pytest.mark.parametrize("when", ["__enter__", "write", "__exit__"])
async def test_a_cache_that_fails_ends_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    real = getattr(BlobWriter, when)

    def full(writer: BlobWriter, *arguments: Any) -> None:
        if when == "__exit__":
            real(writer, OSError, OSError(), None)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(BlobWriter, when, full)
    sources = Sources(good=honest, bad=honest)
    with pytest.raises(WeightsError, match="No space left on device") as caught:
        await bring(sources, Store(tmp_path / "cache"), GOOD, BAD)
    assert str(tmp_path / "cache") in str(caught.value)
    assert "bad" not in sources.asked
    assert await asyncio.to_thread(_files, tmp_path) == []


async def test_cancelling_while_the_file_is_opened_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on, writers = threading.Event(), threading.Event(), list[BlobWriter]()
    real = Path.mkdir

    def slow(path: Path, *arguments: Any, **named: Any) -> None:
        began.set()
        go_on.wait(5)
        real(path, *arguments, **named)

    made = Store.writer

    def noted(store: Store, digest: str, nbytes: int) -> BlobWriter:
        writers.append(made(store, digest, nbytes))
        return writers[-1]

    monkeypatch.setattr(Path, "mkdir", slow)
    monkeypatch.setattr(Store, "writer", noted)
    task = asyncio.create_task(bring(Sources(good=honest), Store(tmp_path / "cache"), GOOD))
    assert await asyncio.to_thread(began.wait, 5)
    task.cancel()
    await asyncio.sleep(0.05)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(_files, tmp_path) == []
    assert writers[0]._file is None


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("turns", range(0, 60, 3))
@pytest.mark.may_block("the loops are its own")
def test_a_loop_that_ends_leaves_no_open_file_behind(tmp_path: Path, turns: int) -> None:
    async def ends_in_the_middle() -> None:
        fetching = asyncio.ensure_future(bring(Sources(good=honest), Store(tmp_path), GOOD))
        for _ in range(turns):
            await asyncio.sleep(0.0001)
        fetching.cancel()
        await asyncio.sleep(0)

    for _ in range(3):
        asyncio.run(ends_in_the_middle())
        assert not list(tmp_path.glob("*.part"))
