"""Last-known addresses of peers, kept in a small file: the first way back in after a restart.

Only a hint. Whatever is in the file, whoever dials checks the id that answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import platformdirs

from swarm.atomic import replace
from swarm.errors import BadInput
from swarm.types import Address

MAX_KNOWN = 64
MAX_FILE_BYTES = 64 * 1024


def known_file(cache: Path | None = None) -> Path:
    """Where a peer with that cache folder keeps them; the user's by default."""
    return (cache or Path(platformdirs.user_cache_dir("swarm", appauthor=False))) / "known-peers.json"


def read_known(file: Path) -> list[Address]:
    """Addresses in the file, at most `MAX_KNOWN`; none when it is missing, too long or damaged."""
    try:
        with file.open("rb") as stream:
            entries = json.loads(stream.read(MAX_FILE_BYTES))
    except (OSError, ValueError, RecursionError):
        return []
    texts = [entry for entry in entries if isinstance(entry, str)] if isinstance(entries, list) else []
    return [address for text in texts[:MAX_KNOWN] if (address := _address(text)) is not None]


def write_known(file: Path, addresses: Iterable[Address]) -> None:
    """Replace the file in one step, so that a crash leaves the old one or the new one. Raises `OSError`."""
    texts = [str(address) for address in dict.fromkeys(addresses)][:MAX_KNOWN]
    replace(file, json.dumps(texts).encode("utf-8"))


def _address(text: str) -> Address | None:
    try:
        address = Address.parse(text)
    except BadInput:
        return None
    return address if len(address.host) <= 128 and address.port else None
