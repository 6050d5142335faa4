"""Parameters from other peers: piece by piece, from whoever has them, verified before anybody sees them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from swarm import schema
from swarm.errors import SwarmError, WeightsError
from swarm.exchange import Exchange
from swarm.store import BlobWriter, Store
from swarm.transport import Call, Reply, Router
from swarm.types import Count, Digest, PeerId

PIECE_BYTES = 2**18
AT_ONCE = 4
PIECE_TIMEOUT_S = 30.0
SLOWEST_BYTES_PER_S = 2**16
"""A source that gives a tensor more slowly than this, after the first `PIECE_TIMEOUT_S`, is given up."""


@dataclass(frozen=True, slots=True)
class PieceWish:
    """Bytes of one tensor, from `offset` on."""

    sha256: Digest
    offset: Count
    length: Annotated[int, Meta(ge=0, le=PIECE_BYTES)]


class _CacheFailed(Exception):
    """This device cannot keep what comes, whoever sends it: no error of a source. Leaves `fetch` as `WeightsError`."""


class WeightsServer:
    """Gives pieces of this peer's tensors to others of the swarm."""

    def __init__(self, store: Store):
        self._store = store

    def register(self, router: Router) -> None:
        router.add("weights", self._weights)

    async def _weights(self, caller: Any, call: Call) -> Reply:
        wish = schema.unpack(PieceWish, call.fields)
        return Reply({}, await asyncio.to_thread(self._store.read, wish.sha256, wish.offset, wish.length))


async def fetch(
    exchange: Exchange,
    store: Store,
    wanted: Mapping[str, int],
    sources: Sequence[PeerId],
    progress: Callable[[float], None],
) -> None:
    """Bring every tensor of `wanted` (SHA-256 to bytes) into the store.

    :raises WeightsError: no source had one of them, what came was not what was promised, or this device's cache failed.
    """
    total, done = max(1, sum(wanted.values())), 0
    slots = asyncio.Semaphore(AT_ONCE)

    def came(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress(min(1.0, done / total))

    async def one(digest: str, nbytes: int, first: int) -> None:
        order = [sources[(first + i) % len(sources)] for i in range(len(sources))]
        async with slots:
            await _from_any(exchange, store, digest, nbytes, order, came)

    if not sources:
        raise WeightsError("Nobody was named who has the parameters of this part.")
    try:
        async with asyncio.TaskGroup() as tasks:
            for i, (digest, nbytes) in enumerate(wanted.items()):
                tasks.create_task(one(digest, nbytes, i))
    except BaseExceptionGroup as group:
        first = group.exceptions[0]
        raise (WeightsError(str(first)) if isinstance(first, _CacheFailed) else first) from None


@asynccontextmanager
async def _in_thread(writer: BlobWriter, root: Path) -> AsyncIterator[Callable[[Any], Awaitable[None]]]:
    """The writer's opening, writing, checking and renaming touch the disk. Gives its `write`, which does not block."""

    async def write(piece: Any) -> None:
        await _on_disk(root, writer.write, piece)

    try:
        await _on_disk(root, writer.__enter__)
        yield write
    except BaseException as error:
        await _surely(writer.__exit__, type(error), error, None)
        raise
    with _cache_errors(root):
        await _surely(writer.__exit__, None, None, None)


def _surely(act: Callable[..., object], *arguments: Any) -> Awaitable[object]:
    """Runs in a thread whatever becomes of the caller: it is queued now, and no cancellation reaches it.

    A task would not do: a loop that closes cancels every task, also one that a shield guards.
    """
    return asyncio.shield(asyncio.get_running_loop().run_in_executor(None, act, *arguments))


async def _on_disk(root: Path, act: Callable[..., object], *arguments: Any) -> None:
    with _cache_errors(root):
        await asyncio.to_thread(act, *arguments)


@contextmanager
def _cache_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _CacheFailed(
            f"The parameters of this part cannot be kept in the cache {root}: {error.strerror or error}. Make room "
            "there, or use another cache."
        ) from error


async def _from_any(
    exchange: Exchange,
    store: Store,
    digest: str,
    nbytes: int,
    sources: Sequence[PeerId],
    came: Callable[[int], None],
) -> None:
    reasons = []
    for source in sources:
        try:
            await _in_time(exchange, store, digest, nbytes, source, came)
        except (SwarmError, OSError) as error:
            reasons.append(str(error))
        else:
            return
    raise WeightsError(f"The parameters of this part could not be fetched: {' '.join(dict.fromkeys(reasons))}")


async def _in_time(
    exchange: Exchange, store: Store, digest: str, nbytes: int, source: PeerId, came: Callable[[int], None]
) -> None:
    limit_s = PIECE_TIMEOUT_S + nbytes / SLOWEST_BYTES_PER_S
    try:
        async with asyncio.timeout(limit_s):
            await _from_one(exchange, store, digest, nbytes, source, came)
    except TimeoutError:
        raise WeightsError(
            f"The peer {source[:8]} did not give the {nbytes} bytes of a tensor within {limit_s:.0f} s."
        ) from None


async def _from_one(
    exchange: Exchange, store: Store, digest: str, nbytes: int, source: PeerId, came: Callable[[int], None]
) -> None:
    done = 0
    async with _in_thread(store.writer(digest, nbytes), store.root) as write:
        while done < nbytes:
            length = min(PIECE_BYTES, nbytes - done)
            reply = await exchange.request(
                source,
                "weights",
                {"sha256": digest, "offset": done, "length": length},
                purpose="tensors",
                timeout_s=PIECE_TIMEOUT_S,
                reply_bytes=length,
            )
            if len(reply.body) != length:
                raise WeightsError(
                    f"The peer {source[:8]} gave {len(reply.body)} bytes for {length}, after {done} of the {nbytes} "
                    "bytes of a tensor."
                )
            await write(reply.body)
            done += length
            came(length)
