"""The file of last-known peers: a hint that survives anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.known import MAX_KNOWN, read_known, write_known
from swarm.types import Address

PLACES = [Address("10.0.0.1", 4747), Address("fe80::1", 4747), Address("pi.local", 1)]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "known.json"
    write_known(file, PLACES)
    assert read_known(file) == PLACES
    assert [path.name for path in file.parent.iterdir()] == ["known.json"], "no temporary file stays"


def test_it_is_bounded_and_says_nothing_twice(tmp_path: Path) -> None:
    write_known(tmp_path / "known", [Address("10.0.0.1", port // 2 + 1) for port in range(1000)])
    assert read_known(tmp_path / "known") == [Address("10.0.0.1", port) for port in range(1, MAX_KNOWN + 1)]


@pytest.mark.parametrize(
    ("content", "left"),
    [
        (b"", []),
        (b"\xff\xfe\x00", []),
        (b"{}", []),
        (b'"10.0.0.1:1"', []),
        (b"[" * 60_000, []),
        (
            b'["10.0.0.1:1", 7, null, "nonsense", "10.0.0.1:99999", "10.0.0.1:0", "a:' + b"9" * 5000 + b'"]',
            [Address("10.0.0.1", 1)],
        ),
        (b'["10.0.0.1:1"' + b" " * 70_000 + b"]", []),
    ],
)
def test_a_damaged_file_is_no_reason_to_stop(tmp_path: Path, content: bytes, left: list[Address]) -> None:
    file = tmp_path / "known"
    file.write_bytes(content)
    assert read_known(file) == left


def test_a_missing_file_is_an_empty_one(tmp_path: Path) -> None:
    assert read_known(tmp_path / "none") == []
    assert read_known(tmp_path) == []
