"""Who is in the swarm, decided purely: no sockets, no clocks. `now` comes in, actions come out.

                 introduce, connected, disconnected, received, knocked, …
                                       │
        Dialling ◀──────────── Membership ────────────▶ Sight
        whom to connect to       │       │
                        Detector ▼       ▼ Spreading
                 who still answers       what others should know
                                 └ Table ┘

After SWIM (Das, Gupta and Motivala, 2002) with Lifeguard's caution (Dadgar, Phillips and Currey, 2018). A peer that
hears itself accused answers with a higher incarnation. Nobody is declared dead on the word of another alone, as long as
the swarm is so small that everybody can look for himself: it is asked once more, and told what is said of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any, Final

from swarm.membership.actions import Action, Dial, Send
from swarm.membership.burial import Burial
from swarm.membership.detector import Detector
from swarm.membership.dialling import ATTEMPTS, BACKOFF_S, Dialling
from swarm.membership.health import LocalHealth
from swarm.membership.inquiry import Verdict
from swarm.membership.messages import Ack, Ask, Digest, Message, Nack, News, Ping, Sync, Tell
from swarm.membership.own import Own
from swarm.membership.sight import Sight
from swarm.membership.spreading import Spreading
from swarm.membership.table import GONE, GRAVITY, NOBODY, Entry, Table, changed, claimed, is_plausible, newcomer
from swarm.types import Address, Door, PeerId, PeerRecord, PeerState, View

MAX_PEERS: Final = 1024
MESH: Final = 64
"""Up to so many connections are sought; beyond, peers are connected to when there is something to say."""
GIVE_WAY_S: Final = 0.3
"""How much later the peer with the greater id dials, so that two do not dial each other at once."""
BURIED_DIAL_S: Final = 30.0


class Membership:
    """The swarm as `me` knows it. Not thread-safe.

    Its owner reports what happens, calls `tick` several times a second and after each report, and carries out what it
    asks for. Time in which it was not called is taken for a stall of this process, for which nobody else is blamed.
    """

    def __init__(self, me: PeerRecord, random: Random | None = None, *, max_peers: int = MAX_PEERS) -> None:
        """Raises `BadInput` for a record that others would not take in; so does `update`."""
        self._id = me.id
        self._random = random or Random()
        self._max_peers = max_peers
        self._health = LocalHealth()
        self._table = Table()
        self._own = Own(me, self._table)
        self._contacts: dict[PeerId, float] = {}  # since when
        self._burial = Burial()
        self._out: list[Action] = []
        self._dialling = Dialling()
        self._detector = Detector(
            me.id,
            self._health,
            self._random,
            self._out.append,
            self._contacts.keys(),
            self._addresses_of,
            self._accusation,
        )
        self._spreading = Spreading(self._table, self._random, self._out.append)
        self._sight = Sight(me.id, self._table, self._contacts.keys(), self._burial, self._dialling, self._detector)

    @property
    def me(self) -> PeerRecord:
        return self._own.entry.record

    @property
    def twin(self) -> tuple[Address, ...] | None:
        """Where another device speaks with this peer's key, once that is clear."""
        return self._own.twin

    def view(self) -> View:
        """The same object until something in it changes."""
        return self._sight.view()

    def state(self, peer: PeerId) -> PeerState | None:
        """What is believed of one peer; None when it is not known."""
        entry = self._table.get(peer)
        return None if entry is None else self._sight.state(entry)

    # What this peer does

    def update(self, now: float, **changes: Any) -> None:
        """Change fields of the own record; everybody hears of it at once."""
        before = self._own.change(changes)
        if before is not None:
            self._health.lived(now)
            self._tell_own(before)

    def leave(self, now: float) -> None:
        """From here on this peer has LEFT, and does not refute it."""
        self._health.lived(now)
        self._own.leave()
        self._tell_own(None)

    # What this peer sees

    def introduce(
        self, addresses: Iterable[Address], now: float, peer_id: PeerId | None = None, *, seed: bool = False
    ) -> bool:
        """Somebody said that a peer may be there. A seed is tried for ever. False when there are too many leads."""
        t = self._health.lived(now)
        own = self.me.addresses
        places = tuple(address for address in addresses if address not in own)
        if not places or peer_id == self._id or (peer_id in self._contacts and not seed):
            return True
        entry = self._table.get(peer_id) if peer_id is not None else None
        if entry is not None and entry.claim is not PeerState.LEFT and set(places) <= set(entry.record.addresses):
            self._dialling.miss(entry.record.id, t)
            return True
        return self._dialling.follow(places, peer_id, t, is_seed=seed)

    def connected(self, peer: PeerId, now: float, dial: Dial | None = None) -> None:
        """A connection is up; `dial` names the action that made it. Own id: a dial that came back to this peer."""
        t = self._health.lived(now)
        self._dialling.found(peer, dial, is_me=peer == self._id)
        if peer == self._id or peer in self._contacts:
            return
        self._contacts[peer] = t
        self._health.better()  # it takes several round trips in time
        self._detector.heard(peer, t)
        self._sight.is_stale = True
        self._say(peer, Tell((self._own.entry.news(0), *self._accusation(peer))))
        self._spreading.compare(peer)

    def failed(self, dial: Dial, now: float) -> None:
        """Nobody answered a `Dial`, or somebody else than it was meant for."""
        t = self._health.lived(now)
        peer = dial.peer_id
        self._dialling.failed(dial, t, BURIED_DIAL_S if peer in self._burial.hidden else 0.0)
        if peer is not None and peer not in self._burial and self._dialling.failures(peer) >= ATTEMPTS:
            self._sight.is_stale = True
            if peer in self._table:
                self._detector.doubt(peer, t)

    def disconnected(self, peer: PeerId, now: float) -> None:
        """The connection broke: evidence at once. Its door tells whether the process is dead."""
        t = self._health.lived(now)
        if peer not in self._contacts:
            return
        lasted_s = t - self._contacts.pop(peer)
        entry = self._table.get(peer)
        is_missed = entry is not None and not entry.is_gone
        self._dialling.lost(peer, t, lasted_s, is_missed=is_missed)
        if is_missed:
            self._sight.is_stale = True
            self._detector.doubt(peer, t, is_cut_off=True)

    def said_goodbye(self, peer: PeerId, now: float) -> None:
        """The peer itself said that it leaves."""
        t = self._health.lived(now)
        entry = self._table.get(peer)
        if entry is not None and entry.claim is not PeerState.LEFT:
            self._claim(entry, entry.record.incarnation, PeerState.LEFT, t)

    def knocked(self, peer: PeerId, door: Door, now: float) -> None:
        """What came of a `Knock`."""
        self._health.lived(now)
        self._detector.knocked(peer, door)

    def received(self, peer: PeerId, message: Message, now: float) -> None:
        """A message came from this peer, which has proved who it is."""
        t = self._health.lived(now)
        self._detector.heard(peer, t)
        match message:
            case Ping():
                self._merge(peer, message.news, t)
                mine = (self._own.entry.news(None),) if message.news else ()  # it may have missed the answer to that
                self._say(peer, Ack(message.number, (*mine, *self._accusation(peer))))
            case Ack():
                self._merge(peer, message.news, t)
                self._detector.acked(peer, message.number)
            case Ask():
                self._asked(peer, message, t)
            case Nack():
                self._detector.nacked(peer, message)
            case Tell():
                self._merge(peer, message.news, t)
            case Sync():
                self._spreading.synced(peer, message)
            case Digest():
                self._spreading.digested(peer, message, lambda entry: entry.record.id not in self._burial.hidden)
        if self._burial and peer in self._burial and not isinstance(message, Ping):
            self._say(peer, Tell(self._accusation(peer)))

    def _asked(self, sender: PeerId, message: Ask, t: float) -> None:
        """Whatever is believed of the target here: who asks wants to know what can be seen of it now."""
        if message.target == self._id:
            self._say(sender, Ack(message.number))
        elif message.target in self._table:
            self._detector.asked(sender, message, t)
        else:
            self._say(sender, Nack(message.number, Door.UNKNOWN))

    # What others say

    def _merge(self, sender: PeerId, news: Iterable[News], t: float) -> None:
        for one in news:
            entry = self._table.get(one.id)
            if not is_plausible(one, entry, self.me):
                continue
            if one.id == self._id:
                self._hear_of_oneself(one, t)
            elif entry is None:
                self._meet(one, t)
            else:
                self._learn(sender, entry, one, t)

    def _hear_of_oneself(self, news: News, t: float) -> None:
        is_accused = self._own.is_accused(news)
        before = self.me.version
        if self._own.answer(news, t):
            if is_accused:
                self._health.worse()
            self._tell_own(None if self.me.version == before else 0)

    def _meet(self, news: News, t: float) -> None:
        """Somebody new. The gone that are not known are not taken in: their deaths would never be forgotten."""
        entry = newcomer(news) if news.claim not in GONE else None
        if entry is None or (len(self._table) >= self._max_peers and not self._forget_one(news.id)):
            return
        self._put(entry)
        self._detector.enlist(news.id)
        self._spreading.tell(news.id, 0, accuser=news.accuser)
        self._seek(news.id, t)

    def _learn(self, sender: PeerId, entry: Entry, news: News, t: float) -> None:
        fresh = changed(entry, news)
        if fresh is not None:
            entry = fresh
            self._put(entry)
            self._spreading.tell(news.id, news.since, is_first_hand=self._is_first_hand(sender, news))
        if (news.incarnation, GRAVITY[news.claim]) > entry.rank:
            self._heed(sender, entry, news, t)
        elif news.claim is PeerState.SUSPECT and news.accuser and news.incarnation == entry.record.incarnation:
            self._detector.accused(news.id, news.accuser)

    def _heed(self, sender: PeerId, entry: Entry, news: News, t: float) -> None:
        """A claim that outranks what is known. Deaths are checked where that can be done."""
        peer = news.id
        if news.claim is PeerState.DEAD and (peer in self._contacts or self._knows_everybody()):
            self._detector.doubt(peer, t, is_declared_dead=True)
            if peer in self._contacts:  # so that it can refute it, for all who believe it
                self._say(peer, Tell((News(peer, news.incarnation, news.claim, news.accuser),)))
        else:
            is_first_hand = self._is_first_hand(sender, news)
            self._claim(entry, news.incarnation, news.claim, t, news.accuser, is_first_hand=is_first_hand)
        if news.claim is PeerState.SUSPECT and news.accuser:
            if self._knows_everybody():
                self._detector.doubt(peer, t)
            self._detector.accused(peer, news.accuser)

    def _is_first_hand(self, sender: PeerId, news: News) -> bool:
        """Whether it told the same to everybody."""
        return sender == news.id and self._knows_everybody()

    def _knows_everybody(self) -> bool:
        return len(self._table) <= MESH

    # Time

    def tick(self, now: float) -> list[Action]:
        """What is to be done now. Call it about ten times a second, and after every report."""
        t = self._health.lived(now)
        for verdict in self._detector.tick(t, self._can_send):
            self._judge(verdict, t)
        if self._spreading.tick(t, self._contacts) and len(self._contacts) < MESH:
            self._seek_anybody(t)
        if self._burial:
            self._bury(t)
        if not self._own.has_left:
            room = MESH - len(self._contacts)
            self._out += self._dialling.due(t, self._contacts, self._burial, room, self._addresses_of)
        actions, self._out[:] = self._out[:], []
        return actions

    def _judge(self, verdict: Verdict, t: float) -> None:
        """This peer's own finding becomes a claim that others hear."""
        entry = self._table.get(verdict.peer)
        self._sight.is_stale = True
        if entry is None:
            return
        accuser = self._id if verdict.is_silent else NOBODY
        if GRAVITY[verdict.claim] > GRAVITY[entry.claim]:
            self._claim(entry, entry.record.incarnation, verdict.claim, t, accuser)
        elif accuser and verdict.claim is entry.claim:
            self._spreading.tell(verdict.peer, None, accuser=accuser)

    def _claim(
        self,
        entry: Entry,
        incarnation: int,
        claim: PeerState,
        t: float,
        accuser: PeerId = NOBODY,
        *,
        is_first_hand: bool = False,
    ) -> None:
        peer, was_gone = entry.record.id, entry.is_gone
        if incarnation > entry.record.incarnation:
            self._detector.refuted(peer, t)
        self._put(claimed(entry, incarnation, claim))
        self._spreading.tell(peer, None, accuser=accuser, is_first_hand=is_first_hand)
        if claim in GONE:
            self._burial.bury(peer, t)
            self._detector.dismiss(peer)
            if claim is PeerState.LEFT:
                self._dialling.forget(peer)
            else:
                self._dialling.miss(peer, t + BACKOFF_S[-1])
        elif was_gone:
            self._burial.raise_(peer)
            self._detector.enlist(peer)
            self._seek(peer, t)

    def _bury(self, t: float) -> None:
        is_new, forgotten = self._burial.due(t)
        self._sight.is_stale |= is_new
        for peer in forgotten:
            self._drop(peer)

    def _forget_one(self, newcomer: PeerId) -> bool:
        """Make room: by the peer that is gone for longest, or, for one that is connected, by a mere rumour."""
        if self._burial:
            self._drop(self._burial.oldest())
            return True
        rumours = [e.record.id for e in self._table if e.record.id not in self._contacts and e.record.id != self._id]
        if newcomer in self._contacts and rumours:
            self._drop(min(rumours))
            return True
        return False

    def _drop(self, peer: PeerId) -> None:
        self._table.drop(peer)
        self._burial.raise_(peer)
        self._detector.dismiss(peer)
        self._dialling.forget(peer)
        self._spreading.forget(peer)
        self._sight.is_stale = True

    # Beside

    def _seek(self, peer: PeerId, t: float) -> None:
        if peer not in self._contacts and len(self._contacts) < MESH:
            pause = self._random.uniform(0, BACKOFF_S[0] / 4) + (GIVE_WAY_S if self._id > peer else 0.0)
            self._dialling.miss(peer, t + pause)

    def _seek_anybody(self, t: float) -> None:
        """Where there are more peers than connections are sought, those that were lost are made up for by others."""
        if not self._knows_everybody():
            entry = self._random.choice([entry for entry in self._table if not entry.is_gone])
            if entry.record.id != self._id:
                self._seek(entry.record.id, t)

    def _can_send(self, peer: PeerId) -> bool:
        return peer in self._contacts or len(self._contacts) >= MESH

    def _say(self, peer: PeerId, message: Message) -> None:
        self._out.append(Send(peer, message))

    def _tell_own(self, since: int | None) -> None:
        self._sight.is_stale = True
        self._spreading.tell(self._id, since, to_all=True)

    def _accusation(self, peer: PeerId) -> tuple[News, ...]:
        """What is claimed of a peer, for itself to hear and refute (Lifeguard's buddy system)."""
        entry = self._table.get(peer)
        return () if entry is None or entry.claim is PeerState.ALIVE else (entry.news(None),)

    def _addresses_of(self, peer: PeerId) -> tuple[Address, ...]:
        entry = self._table.get(peer)
        return entry.record.addresses if entry is not None else ()

    def _put(self, entry: Entry) -> None:
        self._table.put(entry)
        self._sight.is_stale = True
