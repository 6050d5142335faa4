"""The own entry: nobody else writes it, and whoever says otherwise is answered.

A peer that hears itself accused says with a higher incarnation that it lives. One that hears of a newer record or a
higher incarnation of its own than it ever gave out has been started anew with an older clock, and goes on from there;
or, when that happens again and again, somebody else lives with its key.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from swarm.errors import BadInput
from swarm.membership.messages import KEYS, News
from swarm.membership.records import MAX_COUNT, is_sound
from swarm.membership.table import Entry, Table, claimed, first_entry
from swarm.types import Address, PeerRecord, PeerState

REFUTE_S: Final = 0.2
"""Least time between two answers; it doubles with each in which somebody else speaks with this peer's key."""
UNSEEN: Final = 2**20
"""So many versions an earlier life may have given out after the one that is heard of; two records must share none."""
MOST_REFUTE_S: Final = 10.0
TWIN_S: Final = 30.0
TWIN_SIGNS: Final = 3
"""So many times within `TWIN_S` must somebody else speak with this peer's key."""


class Own:
    """This peer's entry in its table. `twin` is where another device speaks with its key, once that is clear."""

    def __init__(self, me: PeerRecord, table: Table) -> None:
        self._id = me.id
        self._table = table
        self._answered_at = -MOST_REFUTE_S
        self._overruled_at: list[float] = []
        self._elsewhere: tuple[Address, ...] = ()
        self.twin: tuple[Address, ...] | None = None
        table.put(first_entry(_sound(me)))

    @property
    def entry(self) -> Entry:
        return self._table[self._id]

    @property
    def has_left(self) -> bool:
        return self.entry.claim is PeerState.LEFT

    def change(self, fields: dict[str, Any]) -> int | None:
        """The version before; None when nothing is different. Raises `BadInput` and `TypeError`."""
        if unknown := fields.keys() - set(KEYS):
            raise TypeError(f"a peer cannot change its own {', '.join(sorted(unknown))}")
        entry = self.entry
        before = entry.record.version
        given = {key: value for key, value in fields.items() if getattr(entry.record, key) != value}
        if not given:
            return None
        record = _sound(replace(entry.record, version=before + 1, **given))
        versions = tuple(before + 1 if key in given else at for key, at in zip(KEYS, entry.changed, strict=True))
        self._table.put(Entry(record, versions, entry.claim))
        return before

    def leave(self) -> None:
        self._table.put(claimed(self.entry, self.entry.record.incarnation, PeerState.LEFT))

    def is_accused(self, news: News) -> bool:
        return news.claim is not PeerState.ALIVE and news.incarnation >= self.entry.record.incarnation

    def answer(self, news: News, t: float) -> bool:
        """Hear what is said of this peer; True when that was wrong, and the entry outranks it now."""
        record = self.entry.record
        is_overruled = news.version > record.version or news.incarnation > record.incarnation
        if self.has_left or not (is_overruled or self.is_accused(news)):
            return False
        signs = sum(t - at < TWIN_S for at in self._overruled_at)
        if t - self._answered_at < min(MOST_REFUTE_S, REFUTE_S * 2**signs):
            return False
        self._answered_at = t
        if is_overruled:
            self._note_twin(news, t)
        self._outrank(news)
        return True

    def _outrank(self, news: News) -> None:
        entry = self.entry
        record, changed = entry.record, entry.changed
        incarnation = min(max(news.incarnation, record.incarnation) + 1, MAX_COUNT)
        if news.version > record.version:
            version = min(news.version + UNSEEN, MAX_COUNT)
            record, changed = replace(record, version=version), (version,) * len(KEYS)
        self._table.put(Entry(replace(record, incarnation=incarnation), changed, PeerState.ALIVE))

    def _note_twin(self, news: News, t: float) -> None:
        """Whoever overrules this peer again and again lives now, and has its key."""
        self._overruled_at = [at for at in self._overruled_at if t - at < TWIN_S] + [t]
        if news.changes is not None and news.changes.addresses:
            self._elsewhere = news.changes.addresses
        if len(self._overruled_at) >= TWIN_SIGNS and self.twin is None:
            self.twin = self._elsewhere or self.entry.record.addresses


def _sound(me: PeerRecord) -> PeerRecord:
    if not is_sound(me):
        raise BadInput(
            f"Other peers would not accept this peer's record. A name has to be 1 to 128 printable characters "
            f"(this one is {me.name[:128]!r}), and there may be 16 addresses and 256 parts at most."
        )
    return me
