"""Tensors by content: only what is right gets in, and the cache stays within its limit."""

from __future__ import annotations

import os
import threading
import time
from hashlib import sha256
from pathlib import Path

import pytest

from swarm.errors import WeightsError
from swarm.store import Store
from swarm.types import Location


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()


def put(store: Store, content: bytes) -> str:
    with store.writer(digest(content), len(content)) as blob:
        blob.write(content[:3])
        blob.write(content[3:])
    return digest(content)


def test_a_blob_is_found_by_its_content(tmp_path: Path) -> None:
    store = Store(tmp_path)
    name = put(store, b"parameters")
    place = store.find(name)
    assert place is not None
    assert place.path.read_bytes() == b"parameters"
    assert store.read(name, 4, 100) == b"meters"
    assert store.missing([name, digest(b"other")]) == [digest(b"other")]


@pytest.mark.parametrize("sent", [b"paramet", b"parameters!", b"pArameters"])
def test_what_is_not_what_was_promised_is_thrown_away(tmp_path: Path, sent: bytes) -> None:
    store = Store(tmp_path)
    blob = store.writer(digest(b"parameters"), 10).__enter__()
    blob.write(sent)
    with pytest.raises(WeightsError, match="SHA-256"):
        blob.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_blob_leaves_nothing(tmp_path: Path) -> None:
    blob = Store(tmp_path).writer(digest(b"parameters"), 10).__enter__()
    blob.write(b"param")
    blob.__exit__(RuntimeError, RuntimeError(), None)
    assert list(tmp_path.iterdir()) == []


def test_bytes_inside_another_file_are_found_while_it_is_there(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"headparameters")
    store = Store(tmp_path / "cache")
    store.note({digest(b"parameters"): Location(file, 4, 10)})
    assert store.read(digest(b"parameters"), 0, 100) == b"parameters"
    file.unlink()
    assert store.find(digest(b"parameters")) is None
    with pytest.raises(WeightsError, match="ask another peer"):
        store.read(digest(b"parameters"), 0, 100)


def test_pruning_drops_the_longest_unused_but_never_what_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=20)
    names = [put(store, bytes([i]) * 10) for i in range(4)]
    for age, name in enumerate(names):
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    store.prune(keep=[names[0]])
    assert store.missing(names) == [names[1], names[2]]


def test_what_was_found_was_used(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=20)
    names = [put(store, bytes([i]) * 10) for i in range(3)]
    for age, name in enumerate(names):
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    assert store.find(names[0]) is not None
    store.prune(keep=[])
    assert store.missing(names) == [names[1]]


def test_pruning_takes_what_was_given_up_and_leaves_what_is_being_written(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=0)
    blob = store.writer(digest(b"parameters"), 10).__enter__()
    blob.write(b"parameters")
    given_up = tmp_path / f"{'0' * 64}.12345678.part"
    given_up.write_bytes(b"par")
    long_ago = time.time() - 7200
    os.utime(given_up, (long_ago, long_ago))
    store.prune(keep=[])
    assert not given_up.exists()
    blob.__exit__(None, None, None)
    assert store.find(digest(b"parameters")) is not None


def test_pruning_bears_others_who_write_and_delete(tmp_path: Path) -> None:
    store, over = Store(tmp_path, limit_bytes=0), threading.Event()

    def write() -> None:
        while not over.is_set():
            name = put(Store(tmp_path), os.urandom(16))
            (tmp_path / name).unlink(missing_ok=True)

    other = threading.Thread(target=write)
    other.start()
    try:
        for _ in range(200):
            store.prune(keep=[])
    finally:
        over.set()
        other.join()


def test_an_end_that_overtakes_the_beginning_leaves_nothing(tmp_path: Path) -> None:
    blob = Store(tmp_path).writer(digest(b"parameters"), 10)
    blob.__exit__(RuntimeError, RuntimeError(), None)
    blob.__enter__()
    assert list(tmp_path.iterdir()) == []
