"""Who is in the swarm, decided purely: no sockets, no clocks. `now` comes in, actions come out.

First version: every peer keeps a connection to every other one, and a broken connection is the detector.

    introduce ──▶ lead ──Dial──▶ connected ──Exchange──▶ merge ──▶ more peers to dial
                                     │ broke                        goodbye ──▶ LEFT
                                     ▼
                                  SUSPECT ──two dials failed──▶ DEAD

What gossip spreads of a peer is its newest record and the worst claim made of that incarnation; both only grow, so
merging is commutative and idempotent, as in SWIM (Das et al., 2002, section 4.2). A peer that hears itself accused
answers with a higher incarnation. A claim never overrules a connection that this peer itself holds, except a goodbye.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from swarm.acquaintances import (
    ATTEMPTS,
    BACKOFF_S,
    Action,
    Contact,
    Dial,
    Exchange,
    Known,
    Lead,
    backoff_s,
    is_due,
    start,
)
from swarm.errors import BadInput
from swarm.records import MAX_COUNT, is_sound
from swarm.types import Address, PeerId, PeerRecord, PeerState, PeerView, View

MAX_PEERS = 1024
MAX_LEADS = 256
MAX_DIALS = 16
MAX_DEAD_DIALS = 4
"""The dead are dialled only while fewer than this are under way: the living come first."""

LEAD_ATTEMPTS = len(BACKOFF_S)
SEED_S = 5.0
EXCHANGE_S = 5.0
HURRY_S = 0.1
"""Least time between two exchanges with one peer, however fast this peer's record changes."""
STRANGER_S = 60.0
"""How long a peer that others vouch for, but this one never reached, is dialled before it is accused again."""
VISIBLE_S = 60.0
"""How long a peer that left or died stays in the view, and is told to others."""
BURIED_S = 600.0
"""How long its death is remembered, so that late gossip does not raise it."""
BURIED_DIAL_S = 30.0

_GRAVITY = {PeerState.ALIVE: 0, PeerState.SUSPECT: 1, PeerState.DEAD: 2, PeerState.LEFT: 3}
_CHANGEABLE = frozenset({"name", "addresses", "client", "profile", "holds"})

Entry = tuple[PeerRecord, PeerState]


class Membership:
    """The swarm as `me` knows it. Not thread-safe; `now` must not go backwards.

    Its owner reports what happens (`introduce`, `connected`, `disconnected`, `failed`, `said_goodbye`, `merge`) and
    carries out what `tick` asks for. At most `MAX_PEERS` peers, `MAX_LEADS` leads and `MAX_DIALS` dials at once,
    whatever others send.
    """

    def __init__(self, me: PeerRecord) -> None:
        """Raises `BadInput` for a record that others would not take in; so does `update`."""
        self._me = _sound(me)
        self._my_state = PeerState.ALIVE
        self._known: dict[PeerId, Known] = {}
        self._leads: dict[tuple[Address, ...], Lead] = {}
        self._contacts: dict[PeerId, Contact] = {}
        self._hidden: frozenset[PeerId] = frozenset()
        self._view: View | None = None
        self._stale = True

    @property
    def me(self) -> PeerRecord:
        return self._me

    def view(self) -> View:
        """The same object until something in it changes."""
        if self._view is None or self._stale:
            self._stale = False
            view = self._look()
            if view != self._view:
                self._view = view
        assert self._view is not None
        return self._view

    def entries(self) -> tuple[Entry, ...]:
        """What to tell others: own record first, then the peers in the view, with the claims made of them.

        Claims, not states: a connected peer hears in this way what is said of it, and can refute it.
        """
        others = ((k.record, k.claim) for _, k in sorted(self._known.items()) if k.record.id not in self._hidden)
        return ((self._me, self._my_state), *others)

    # What this peer does

    def update(self, now: float, **changes: Any) -> None:
        """Change fields of the own record; connected peers hear of it at once."""
        if unknown := changes.keys() - _CHANGEABLE:
            raise TypeError(f"a peer cannot change its own {', '.join(sorted(unknown))}")
        if any(getattr(self._me, name) != value for name, value in changes.items()):
            self._me = _sound(replace(self._me, version=self._me.version + 1, **changes))
            self._tell(now)

    def leave(self, now: float) -> None:
        """From here on this peer is LEFT, and does not refute it."""
        self._my_state = PeerState.LEFT
        self._tell(now)

    # What this peer sees

    def introduce(
        self, addresses: Iterable[Address], now: float, peer_id: PeerId | None = None, *, seed: bool = False
    ) -> bool:
        """Somebody said that a peer may be there. A seed is tried for ever. False when there are too many leads."""
        key = tuple(address for address in addresses if address not in self._me.addresses)
        if not key or peer_id == self._me.id or (peer_id in self._contacts and not seed):
            return True
        known = self._known.get(peer_id) if peer_id is not None else None
        if known is not None and known.claim is not PeerState.LEFT and set(key) <= set(known.record.addresses):
            known.dial_at = min(known.dial_at, now)
            return True
        lead = self._leads.get(key)
        if lead is None and len(self._leads) >= MAX_LEADS:
            return False
        if lead is None:
            self._leads[key] = Lead(key, peer_id, seed, now)
        else:
            lead.seed = lead.seed or seed
            lead.peer_id = peer_id or lead.peer_id
            lead.failures = 0
        return True

    def connected(self, peer_id: PeerId, now: float, dial: Dial | None = None) -> None:
        """A connection is up; `dial` names the action that made it. Own id: a dial that came back to this peer."""
        self._settle(dial, peer_id)
        if peer_id == self._me.id or peer_id in self._contacts:
            return
        self._contacts[peer_id] = Contact(exchange_at=now)
        self._hidden -= {peer_id}
        known = self._known.get(peer_id)
        if known is not None:
            known.connected = known.met = True
            known.failures = 0
            self._stale = True

    def failed(self, dial: Dial, now: float) -> None:
        """Nobody answered a `Dial`, or somebody else than it was meant for."""
        for lead in [lead for lead in self._leads.values() if lead.dial == dial]:
            self._lead_failed(lead, now)
        known = self._known.get(dial.peer_id) if dial.peer_id is not None else None
        if known is not None and known.dial == dial:
            self._peer_failed(known, now)

    def disconnected(self, peer_id: PeerId, now: float) -> None:
        """The connection broke. The peer is suspect at once, and dialled again soon."""
        self._contacts.pop(peer_id, None)
        known = self._known.get(peer_id)
        if known is None or not known.connected:
            return
        known.connected = False
        known.failures = 0
        known.dial_at = now + BACKOFF_S[0]
        if known.claim is not PeerState.LEFT:
            self._claim(known, PeerState.SUSPECT, now)
        self._stale = True

    def said_goodbye(self, peer_id: PeerId, now: float) -> None:
        """The peer itself said that it leaves."""
        known = self._known.get(peer_id)
        if known is not None:
            self._claim(known, PeerState.LEFT, now)

    # What others say

    def merge(self, entries: Iterable[Entry], now: float) -> None:
        """Take in gossip. Invalid records are passed over, and new peers beyond `MAX_PEERS`."""
        for record, state in entries:
            if not is_sound(record):
                continue
            if record.id == self._me.id:
                self._refute(record, state, now)
            elif record.id in self._known:
                self._merge_known(self._known[record.id], record, state, now)
            else:
                self._merge_new(record, state, now)

    def _merge_new(self, record: PeerRecord, claim: PeerState, now: float) -> None:
        reached = record.id in self._contacts
        if len(self._known) >= MAX_PEERS - 1 and not self._forget_one(reached):
            return
        self._known[record.id] = Known(record, claim, now, connected=reached, met=reached, dial_at=now)
        self._stale = True

    def _merge_known(self, known: Known, record: PeerRecord, claim: PeerState, now: float) -> None:
        if record.incarnation > known.record.incarnation:
            if known.gone:
                known.failures, known.dial_at = 0, now
            known.record = record
            self._claim(known, claim, now)
        elif record.incarnation == known.record.incarnation:
            newest = max(known.record, record, key=_age)
            if newest != known.record:
                known.record = newest
                self._stale = True
            if _GRAVITY[claim] > _GRAVITY[known.claim]:
                self._claim(known, claim, now)

    def _refute(self, record: PeerRecord, claim: PeerState, now: float) -> None:
        """Somebody accuses this peer, or knows more of it than it does: it restarted, or its clock went back."""
        mine = (self._me.incarnation, self._me.version)
        told = (record.incarnation, record.version)
        if self._my_state is PeerState.LEFT or told[0] < mine[0]:
            return
        if claim is not PeerState.ALIVE or told > mine:
            self._me = replace(self._me, incarnation=min(told[0] + 1, MAX_COUNT), version=self._me.version + 1)
            self._tell(now)

    # Time

    def tick(self, now: float) -> list[Action]:
        """What is due. Call it often: about ten times a second, and after every report. Sorted, the urgent first."""
        self._bury(now)
        self._drop_leads(now)
        return [*self._exchanges(now), *self._dials(now)]

    def _exchanges(self, now: float) -> list[Action]:
        due = [(peer_id, contact) for peer_id, contact in sorted(self._contacts.items()) if contact.exchange_at <= now]
        for _, contact in due:
            contact.exchanged_at, contact.exchange_at = now, now + EXCHANGE_S
        return [Exchange(peer_id) for peer_id, _ in due]

    def _dials(self, now: float) -> list[Action]:
        """Leads and the living first; the dead only while little else is under way. Nobody twice at once."""
        if self._my_state is PeerState.LEFT:
            return []
        everybody: list[Known | Lead] = [*self._known.values(), *self._leads.values()]
        under_way = [whom.dial for whom in everybody if whom.dial is not None]
        taken = {dial.peer_id for dial in under_way if dial.peer_id is not None} | self._contacts.keys()
        leads = [lead for lead in self._leads.values() if is_due(lead, now) and lead.peer_id not in taken]
        taken |= {lead.peer_id for lead in leads if lead.peer_id is not None}
        peers = [k for i, k in sorted(self._known.items()) if is_due(k, now) and i not in taken]
        living: list[Known | Lead] = [*leads, *(k for k in peers if not k.gone)]
        dead = [k for k in peers if k.claim is PeerState.DEAD]
        chosen = living[: max(0, MAX_DIALS - len(under_way))]
        chosen += dead[: max(0, MAX_DEAD_DIALS - len(under_way) - len(chosen))]
        return [start(whom) for whom in chosen]

    def _settle(self, dial: Dial | None, peer_id: PeerId) -> None:
        """A dial ended well. Its leads are followed: a seed stays, to be tried when that peer is lost."""
        for key, lead in list(self._leads.items()):
            if dial is not None and lead.dial == dial:
                lead.dial, lead.failures, lead.peer_id = None, 0, peer_id
            if lead.peer_id == peer_id and (not lead.seed or peer_id == self._me.id):
                del self._leads[key]
        for known in self._known.values():
            if dial is not None and known.dial == dial:
                known.dial = None

    def _lead_failed(self, lead: Lead, now: float) -> None:
        lead.dial = None
        lead.failures += 1
        lead.dial_at = now + (SEED_S if lead.seed else backoff_s(lead.failures))
        if lead.seed:
            lead.peer_id = None  # whoever listens there now is welcome

    def _peer_failed(self, known: Known, now: float) -> None:
        known.dial = None
        known.failures += 1
        known.dial_at = now + (BURIED_DIAL_S if known.record.id in self._hidden else backoff_s(known.failures + 1))
        self._stale = True
        if known.failures >= ATTEMPTS and not known.gone and (known.met or now - known.since >= STRANGER_S):
            known.met = False
            self._claim(known, PeerState.DEAD, now)

    def _drop_leads(self, now: float) -> None:
        for key, lead in list(self._leads.items()):
            if not lead.seed and lead.failures >= LEAD_ATTEMPTS:
                del self._leads[key]

    def _bury(self, now: float) -> None:
        """Hide the gone from the view after `VISIBLE_S`, forget them after `BURIED_S`."""
        for peer_id, known in list(self._known.items()):
            if known.gone and now - known.since >= BURIED_S:
                del self._known[peer_id]
        hidden = frozenset(i for i, k in self._known.items() if k.gone and now - k.since >= VISIBLE_S)
        if hidden != self._hidden:
            self._hidden = hidden
            self._stale = True

    def _forget_one(self, for_contact: bool) -> bool:
        """Make room: by the peer that is gone for longest, or, for one that is connected, by a mere rumour."""
        spare = [k for k in self._known.values() if not k.connected and (k.gone or (for_contact and not k.met))]
        if spare:
            oldest = min(spare, key=lambda k: (not k.gone, k.since, k.record.id))
            del self._known[oldest.record.id]
        return bool(spare)

    def _claim(self, known: Known, claim: PeerState, now: float) -> None:
        known.claim, known.since = claim, now
        self._hidden -= {known.record.id}
        self._stale = True

    def _tell(self, now: float) -> None:
        self._stale = True
        for contact in self._contacts.values():
            contact.exchange_at = min(contact.exchange_at, max(now, contact.exchanged_at + HURRY_S))

    def _look(self) -> View:
        peers = [PeerView(k.record, k.state) for i, k in self._known.items() if i not in self._hidden]
        peers.append(PeerView(self._me, self._my_state))
        return View(self._me.id, tuple(sorted(peers, key=lambda p: p.record.id)))


def _sound(me: PeerRecord) -> PeerRecord:
    if not is_sound(me):
        raise BadInput(
            f"Other peers would not accept this peer's record. A name has to be 1 to 128 printable characters "
            f"(this one is {me.name[:128]!r}), and there may be 16 addresses and 256 parts at most."
        )
    return me


def _age(record: PeerRecord) -> tuple[int, int, str]:
    """Orders records of one peer; the text settles what no honest peer sends, two records of one version."""
    return (record.incarnation, record.version, repr(record))
