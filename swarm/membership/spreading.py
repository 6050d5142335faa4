"""How what one peer knows reaches the others: news at once, and now and then a comparison of everything.

A peer tells its own changes to all whom it is connected to. What it heard of others it passes on a few times, to a few
of them; that reaches everybody in about log N steps (Demers et al., 1987). What got lost is found by comparing hashes
with somebody, and then, for the buckets that differ, versions (Scuttlebutt: van Renesse et al., 2008).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from random import Random
from typing import Final

from swarm.membership.actions import Send
from swarm.membership.messages import MAX_DIGEST, MAX_NEWS, Digest, Known, Message, News, Sync, Tell
from swarm.membership.records import weight_bytes
from swarm.membership.table import GRAVITY, NOBODY, Entry, Table
from swarm.types import PeerId, PeerState

FLUSH_S: Final = 0.05
"""Least time between two rounds of news."""
FANOUT: Final = 3
SYNC_S: Final = 10.0
TELL_BYTES: Final = 512 * 1024


@dataclass(slots=True)
class _Rumour:
    since: int | None
    left: int
    to_all: bool
    accuser: PeerId


class Spreading:
    """What is still to be told, and the comparing. `peers` gives those who can be told, in a fixed order."""

    def __init__(self, table: Table, random: Random, send: Callable[[Send], None]) -> None:
        self._table = table
        self._random = random
        self._send = send
        self._rumours: dict[PeerId, _Rumour] = {}
        self._flush_at = 0.0
        self._sync_at = SYNC_S * random.random()

    def tell(
        self,
        peer: PeerId,
        since: int | None,
        *,
        to_all: bool = False,
        is_first_hand: bool = False,
        accuser: PeerId = NOBODY,
    ) -> None:
        """Something is new of `peer`: what changed after version `since`, or only the claim, for None.

        It is passed on about log N times (SWIM, section 4.1), or, as a reserve, to a few where it came `is_first_hand`
        from `peer` itself, which tells all whom it is connected to.
        """
        left = FANOUT if is_first_hand else FANOUT * len(self._table).bit_length()
        before = self._rumours.get(peer)
        if before is not None:
            older = [version for version in (since, before.since) if version is not None]
            since = min(older) if older else None
            to_all = to_all or before.to_all
            accuser = accuser or before.accuser
            left = max(left, before.left)
        self._rumours[peer] = _Rumour(since, left, to_all, accuser)

    def forget(self, peer: PeerId) -> None:
        self._rumours.pop(peer, None)

    def tick(self, t: float, peers: Collection[PeerId]) -> bool:
        """Send what is due. True when it was time to compare with somebody."""
        if self._rumours and t >= self._flush_at:
            self._flush_at = t + FLUSH_S
            self._flush(peers)
        if t < self._sync_at:
            return False
        self._sync_at = t + SYNC_S * self._random.uniform(0.75, 1.25)
        if peers:
            self.compare(self._random.choice(tuple(peers)))
        return True

    def compare(self, peer: PeerId) -> None:
        self._send(Send(peer, Sync(self._table.hashes)))

    def synced(self, peer: PeerId, message: Sync) -> None:
        """Answer with all that is known of the peers in buckets that differ, as many as fit; with nothing for none."""
        differ = [i for i, mine in enumerate(self._table.hashes) if mine != message.hashes[i]]
        if not differ:
            return
        self._random.shuffle(differ)
        buckets, known = 0, list[Known]()
        for bucket in differ:
            more = [entry.known for entry in self._table.within(1 << bucket)]
            if len(known) + len(more) <= MAX_DIGEST:
                buckets |= 1 << bucket
                known += more
        self._send(Send(peer, Digest(buckets, tuple(known))))

    def digested(self, peer: PeerId, message: Digest, told: Callable[[Entry], bool]) -> None:
        """Tell what the other lacks, ask for what is lacking here. `told`: who is still spoken of."""
        news: list[News] = []
        lacking: list[Known] = []
        named = set()
        for known in message.known:
            named.add(known.id)
            entry = self._table.get(known.id)
            if entry is None:
                if known.claim in (PeerState.ALIVE, PeerState.SUSPECT):
                    lacking.append(Known(known.id, 0, 0, PeerState.ALIVE))
                continue
            mine, theirs = entry.known, known
            if mine.version > theirs.version or _rank(mine) > _rank(theirs):
                news.append(entry.news(theirs.version))
            if theirs.version > mine.version or _rank(theirs) > _rank(mine):
                lacking.append(mine)
        if message.buckets:
            others = self._table.within(message.buckets)
            news += [entry.news(0) for entry in others if entry.record.id not in named and told(entry)]
        self._tell(peer, news)
        if lacking:
            self._send(Send(peer, Digest(0, tuple(lacking))))

    def _flush(self, peers: Collection[PeerId]) -> None:
        if not peers:
            self._rumours.clear()  # whoever connects is told everything
            return
        chosen = self._random.sample(tuple(peers), min(FANOUT, len(peers)))
        everybody, few = list[News](), list[News]()
        for peer, rumour in list(self._rumours.items()):
            entry = self._table.get(peer)
            if entry is not None:
                (everybody if rumour.to_all else few).append(entry.news(rumour.since, rumour.accuser))
            rumour.left -= len(chosen)
            if entry is None or rumour.to_all or rumour.left <= 0:
                del self._rumours[peer]
        for peer in peers if everybody else chosen:
            self._tell(peer, [*everybody, *(few if peer in chosen else ())])

    def _tell(self, peer: PeerId, news: Iterable[News]) -> None:
        for some in _in_pieces(news):
            message: Message = Tell(tuple(some))
            self._send(Send(peer, message))


def _in_pieces(news: Iterable[News]) -> Iterable[list[News]]:
    """Lists that fit into one message each."""
    piece: list[News] = []
    room = TELL_BYTES
    for one in news:
        nbytes = 128 if one.changes is None else 128 + weight_bytes(one.changes)
        if piece and (nbytes > room or len(piece) == MAX_NEWS):
            yield piece
            piece, room = [], TELL_BYTES
        piece.append(one)
        room -= nbytes
    if piece:
        yield piece


def _rank(known: Known) -> tuple[int, int]:
    return (known.incarnation, GRAVITY[known.claim])
