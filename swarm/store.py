"""Tensors on this device's disk, found by the SHA-256 of their bytes.

Two kinds live side by side: bytes inside files that exist anyway (a safetensors file that this peer resolved), noted by
their place; and blobs fetched from other peers, one file each in the cache. Whatever is found here was verified when it
was written.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from hashlib import sha256
from pathlib import Path
from stat import S_ISREG
from threading import Lock
from time import time
from types import TracebackType
from typing import BinaryIO

from swarm.errors import WeightsError
from swarm.types import Location

CACHE_LIMIT_BYTES = 16 * 2**30
PARTIAL, PARTIAL_S = ".part", 3600.0
"""How a blob that is being written ends, and how long after its last byte nobody can still be at it."""


class Store:
    """Content-addressed tensors; the root folder is made when the first blob is written."""

    def __init__(self, root: Path, limit_bytes: int = CACHE_LIMIT_BYTES):
        self._root = root
        self._limit_bytes = limit_bytes
        self._noted: dict[str, Location] = {}

    @property
    def root(self) -> Path:
        """The folder of the blobs."""
        return self._root

    def note(self, locations: Mapping[str, Location]) -> None:
        """Remember where bytes lie in files that are not the store's own."""
        self._noted.update(locations)

    def find(self, digest: str) -> Location | None:
        """Where the bytes with this SHA-256 lie, or None; blobs count as used now. The digest must be a valid one."""
        noted = self._noted.get(digest)
        if noted is not None and noted.path.exists():
            return noted
        blob = self._root / digest
        try:
            size = blob.stat().st_size
        except OSError:
            return None
        with suppress(OSError):  # it may be on a disk that takes no more; then it has no more to give way to
            os.utime(blob)
        return Location(blob, 0, size)

    def missing(self, digests: Iterable[str]) -> list[str]:
        return [digest for digest in dict.fromkeys(digests) if self.find(digest) is None]

    def read(self, digest: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes of a tensor, from `offset` on. Raises `WeightsError` when it is not here."""
        place = self.find(digest)
        if place is None:
            raise WeightsError(f"The tensor {digest[:12]}… is not on this device; ask another peer.")
        with place.path.open("rb") as file:
            file.seek(place.offset + offset)
            return file.read(max(0, min(length, place.nbytes - offset)))

    def writer(self, digest: str, nbytes: int) -> BlobWriter:
        """Takes in a blob of `nbytes`, piece by piece."""
        return BlobWriter(self._root, digest, nbytes)

    def prune(self, keep: Iterable[str]) -> None:
        """Delete the blobs longest unused until the cache is below its limit; those in `keep` stay.

        Other peers may write and prune the same cache meanwhile. What one of them left half written goes after an hour.
        """
        now, blobs = time(), list[tuple[float, int, Path]]()
        for path in self._root.glob("*"):
            with suppress(FileNotFoundError):
                status = path.stat()
                if not S_ISREG(status.st_mode):
                    continue
                if path.suffix != PARTIAL:
                    blobs.append((status.st_mtime, status.st_size, path))
                elif now - status.st_mtime > PARTIAL_S:
                    path.unlink()
        excess = sum(size for _, size, _ in blobs) - self._limit_bytes
        kept = set(keep)
        for _, size, blob in sorted(blobs):
            if excess <= 0:
                return
            if blob.name not in kept:
                with suppress(PermissionError):  # Windows does not let go of what another peer has mapped
                    blob.unlink(missing_ok=True)
                    excess -= size


class BlobWriter:
    """`with store.writer(...) as blob: blob.write(piece)…`: the blob is there only if all of it came and is right.

    Each call may be in another thread, and the last may overtake the others: who is cancelled while a thread is at the
    first calls `__exit__` nevertheless, and nothing stays open or behind.
    """

    def __init__(self, root: Path, digest: str, nbytes: int):
        self._digest = digest
        self._nbytes = nbytes
        self._target = root / digest
        self._partial = root / f"{digest}.{secrets.token_hex(4)}{PARTIAL}"
        self._hash = sha256()
        self._file: BinaryIO | None = None
        self._over = False
        self._turn = Lock()
        self.written = 0

    def __enter__(self) -> BlobWriter:
        with self._turn:
            if not self._over:
                self._partial.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._partial.open("wb")
        return self

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        with self._turn:
            assert self._file is not None
            self._file.write(piece)
            self._hash.update(piece)
            self.written += len(piece)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._turn:
            file, self._file, self._over = self._file, None, True
            if file is None:
                return
            try:
                with suppress(OSError) if error is not None else nullcontext():  # what came before is the reason
                    file.close()
                if error is None:
                    self._check()
                    self._partial.replace(self._target)
            finally:
                with suppress(OSError):
                    self._partial.unlink(missing_ok=True)

    def _check(self) -> None:
        if self.written != self._nbytes or self._hash.hexdigest() != self._digest:
            raise WeightsError(
                f"A tensor came as {self.written} bytes with another SHA-256 than promised ({self._digest[:12]}…); "
                "it was thrown away."
            )
