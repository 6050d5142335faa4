"""What is known of each peer: its record, as of a version, and the worst claim of its newest incarnation.

Both only ever grow: a record by its version, a claim by incarnation and then by gravity (SWIM, section 4.2). So merging
is commutative and idempotent, and the order in which news arrive does not matter. Versions start at the time of a
peer's start, so that a peer that comes back goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Final

import msgspec
from msgspec import UNSET

from swarm.membership.messages import BUCKETS, KEYS, Changes, Known, News
from swarm.membership.records import MAX_LEAP, is_sound
from swarm.types import PeerId, PeerRecord, PeerState

NOBODY: Final = PeerId("")
GRAVITY: Final = {PeerState.ALIVE: 0, PeerState.SUSPECT: 1, PeerState.DEAD: 2, PeerState.LEFT: 3}
GONE: Final = frozenset({PeerState.DEAD, PeerState.LEFT})


class Entry(msgspec.Struct, frozen=True):
    """One peer. `changed` is the version in which each of `KEYS` last changed, or a later one."""

    record: PeerRecord
    changed: tuple[int, ...]
    claim: PeerState

    @property
    def is_gone(self) -> bool:
        return self.claim in GONE

    @property
    def rank(self) -> tuple[int, int]:
        """Orders claims of one peer."""
        return (self.record.incarnation, GRAVITY[self.claim])

    @property
    def known(self) -> Known:
        record = self.record
        return Known(record.id, record.incarnation, record.version, self.claim)

    def news(self, since: int | None, accuser: PeerId = NOBODY) -> News:
        """What somebody lacks who knows it up to version `since`; None: the claim alone."""
        record = self.record
        if since is None or since >= record.version:
            return News(record.id, record.incarnation, self.claim, accuser)
        changes = Changes(
            **{key: getattr(record, key) for key, at in zip(KEYS, self.changed, strict=True) if at > since}
        )
        return News(record.id, record.incarnation, self.claim, accuser, since, record.version, changes)


class Table:
    """Entries by id, and a hash of each bucket of them. Entries are immutable: tables may share them."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries: dict[PeerId, Entry] = {}
        self._hashes = [0] * BUCKETS
        for entry in entries:
            self.put(entry)

    def copy(self) -> Table:
        twin = Table()
        twin._entries, twin._hashes = self._entries.copy(), self._hashes.copy()
        return twin

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._entries

    def get(self, peer: PeerId) -> Entry | None:
        return self._entries.get(peer)

    def __getitem__(self, peer: PeerId) -> Entry:
        return self._entries[peer]

    def put(self, entry: Entry) -> None:
        self.drop(entry.record.id)
        self._entries[entry.record.id] = entry
        self._hashes[bucket_of(entry.record.id)] ^= _hash(entry)

    def drop(self, peer: PeerId) -> None:
        entry = self._entries.pop(peer, None)
        if entry is not None:
            self._hashes[bucket_of(peer)] ^= _hash(entry)

    @property
    def hashes(self) -> tuple[int, ...]:
        """One for each bucket, of the peers that are not gone: those are forgotten at different times."""
        return tuple(self._hashes)

    def within(self, buckets: int) -> Iterator[Entry]:
        """The entries of the buckets whose bits are set."""
        return (entry for peer, entry in self._entries.items() if buckets >> bucket_of(peer) & 1)


def is_plausible(news: News, entry: Entry | None, me: PeerRecord) -> bool:
    """Numbers that leap up so far that nobody could outrank them for long are no honest peer's."""
    known = entry.record if entry is not None else me
    return (
        news.incarnation <= max(known.incarnation, me.incarnation) + MAX_LEAP
        and news.version <= max(known.version, me.version) + MAX_LEAP
    )


def first_entry(record: PeerRecord) -> Entry:
    """A peer as it describes itself when it starts."""
    record = replace(record, version=max(record.version, record.incarnation))
    return Entry(record, (record.version,) * len(KEYS), PeerState.ALIVE)


def newcomer(news: News) -> Entry | None:
    """The entry of a peer that was not known; None where the news are not all of it, or no honest peer's."""
    changes = news.changes
    if news.since or changes is None:
        return None
    fields = _given(changes)
    if "name" not in fields or "addresses" not in fields:
        return None
    record = PeerRecord(news.id, incarnation=news.incarnation, version=news.version, **fields)
    return Entry(record, (news.version,) * len(KEYS), news.claim) if is_sound(record) else None


def changed(entry: Entry, news: News) -> Entry | None:
    """The entry with what is new; None where nothing is, where something between is missing, or it is unsound."""
    if news.changes is None or not news.since <= entry.record.version < news.version:
        return None
    fields = _given(news.changes)
    record = replace(entry.record, version=news.version, **fields)
    versions = tuple(news.version if key in fields else at for key, at in zip(KEYS, entry.changed, strict=True))
    return Entry(record, versions, entry.claim) if is_sound(record) else None


def claimed(entry: Entry, incarnation: int, claim: PeerState) -> Entry:
    """The entry with another claim."""
    record = entry.record
    if incarnation != record.incarnation:
        record = replace(record, incarnation=incarnation)
    return Entry(record, entry.changed, claim)


def bucket_of(peer: PeerId) -> int:
    return int(peer[-1], BUCKETS)


def _given(changes: Changes) -> dict[str, Any]:
    return {key: value for key in KEYS if (value := getattr(changes, key)) is not UNSET}


def _hash(entry: Entry) -> int:
    if entry.is_gone:
        return 0
    record = entry.record
    text = f"{record.id} {record.incarnation} {record.version} {entry.claim}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1  # msgspec checks bounds of int64
