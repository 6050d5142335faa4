"""Who still answers? SWIM's probes, with Lifeguard's caution.

    every period, by turns the next one of a ring and
    the next one of a shuffled round: Ping ────────────────no Ack in time──▶ Inquiry
    a connection broke, a dial failed twice, somebody says that it is dead ─▶ Inquiry
    somebody else hears nothing, and asks ──────────────────────────────────▶ Inquiry, on its behalf

The round is SWIM's: everybody is looked after by everybody in the end. The ring, by id, sees to it that somebody looks
after everybody soon: a round alone leaves one in a hundred unseen for four periods and a half.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from random import Random
from typing import Final

from swarm.membership.actions import Action, Drop, Knock, Send
from swarm.membership.health import LocalHealth
from swarm.membership.inquiry import ROUNDS_LEAST, Inquiry, Verdict
from swarm.membership.messages import Ack, Ask, Nack, News, Ping
from swarm.types import Address, Door, PeerId, PeerState

PERIOD_S: Final = 0.5
SLOWEST: Final = 2.0
"""How much more rarely a peer in bad health probes, at most: it is by probing that it learns of its recovery."""
PING_S: Final = 0.3
KNOCK_S: Final = 0.5
HELPERS: Final = 3
MAX_ASKERS: Final = 32


@dataclass(frozen=True, slots=True)
class _Ping:
    target: PeerId
    sent_at: float
    until: float


class Detector:
    """Probes on behalf of one peer. `contacts` are those it is connected to; `can_send` tells whom it can reach.

    Its owner gives it everything that arrives (`heard`, `acked`, `nacked`, `asked`, `knocked`), and takes its verdicts.
    """

    def __init__(
        self,
        me: PeerId,
        health: LocalHealth,
        random: Random,
        do: Callable[[Action], None],
        contacts: Collection[PeerId],
        addresses_of: Callable[[PeerId], tuple[Address, ...]],
        news_of: Callable[[PeerId], tuple[News, ...]],
    ) -> None:
        self._me = me
        self._health = health
        self._random = random
        self._do = do
        self._contacts = contacts
        self._addresses_of = addresses_of
        self._news_of = news_of
        self._ring: list[PeerId] = []
        self._round: list[PeerId] = []
        self._next = 0
        self._probe_at = 0.0
        self._is_ring_next = True
        self._number = 0
        self._pings: dict[int, _Ping] = {}
        self._inquiries: dict[PeerId, Inquiry] = {}
        self._heard: dict[PeerId, float] = {}
        self._heard_at = 0.0
        self.revision = 0
        """Grows with every change of whom this peer doubts."""

    def watches(self, peer: PeerId) -> bool:
        """Whether this peer itself doubts that one."""
        inquiry = self._inquiries.get(peer)
        return inquiry is not None and inquiry.is_mine and (inquiry.silent > 0 or not inquiry.is_declared_dead)

    def enlist(self, peer: PeerId) -> None:
        """Probe it from now on; at a random place of the round, so that not everybody probes it next."""
        self._round.insert(self._random.randint(0, len(self._round)), peer)
        insort(self._ring, peer)

    def dismiss(self, peer: PeerId) -> None:
        """It is gone: no more probes."""
        self._inquiries.pop(peer, None)
        self._heard.pop(peer, None)
        at = bisect_left(self._ring, peer)
        if at < len(self._ring) and self._ring[at] == peer:
            del self._ring[at]
            at = self._round.index(peer)
            del self._round[at]
            self._next -= at < self._next

    # What happens

    def heard(self, peer: PeerId, t: float) -> None:
        """Anything came from this peer itself: it lives."""
        self._heard[peer] = self._heard_at = t
        if self._inquiries:
            self._lives(peer)

    def acked(self, sender: PeerId, number: int) -> None:
        """An `Ack` came, from the peer itself or passed on. (`heard` has seen to the sender.)"""
        ping = self._pings.pop(number, None)
        if ping is not None and ping.target == sender:
            self._health.better()
            return
        inquiry = self._inquiry(number)
        if inquiry is not None:
            self._lives(inquiry.target)

    def nacked(self, sender: PeerId, message: Nack) -> None:
        """A helper is there, and the target did not answer it either."""
        inquiry = self._inquiry(message.number)
        if inquiry is not None:
            inquiry.nacked(sender, message.door)

    def asked(self, sender: PeerId, message: Ask, t: float) -> None:
        """Somebody hears nothing from the target: ask it, and pass on what comes."""
        inquiry = self._about(message.target, t)
        if len(inquiry.askers) < MAX_ASKERS:
            inquiry.askers[sender] = message.number
        if not inquiry.is_going_on:
            self._begin(inquiry, t)
        elif inquiry.door is not None:
            self._do(Send(sender, Nack(message.number, inquiry.door)))

    def accused(self, peer: PeerId, accuser: PeerId) -> None:
        """Another peer found it silent, too."""
        inquiry = self._inquiries.get(peer)
        if inquiry is not None and accuser not in (self._me, peer):
            inquiry.accusers.add(accuser)

    def doubt(self, peer: PeerId, t: float, *, is_declared_dead: bool = False, is_cut_off: bool = False) -> None:
        """Look after it now. `is_cut_off`: its connection has just broken; what was found before is out of date."""
        inquiry = self._about(peer, t)
        is_anew = is_cut_off or not inquiry.is_mine
        if not inquiry.is_mine:
            inquiry.is_mine, inquiry.since = True, t
            self.revision += 1
        inquiry.is_declared_dead |= is_declared_dead
        if is_anew or not inquiry.is_going_on:
            self._begin(inquiry, t)

    def refuted(self, peer: PeerId, t: float) -> None:
        """It has spoken with a higher incarnation, if not to this peer: whatever was found before is out of date."""
        inquiry = self._inquiries.get(peer)
        if inquiry is not None and inquiry.is_mine:
            inquiry.forgive(t, KNOCK_S * self._health.patience)

    def knocked(self, peer: PeerId, door: Door) -> None:
        """Those who asked hear of the door at once; should the peer itself answer after all, they hear of that, too."""
        inquiry = self._inquiries.get(peer)
        if inquiry is not None and inquiry.is_going_on:
            inquiry.door = door
            for asker, number in inquiry.askers.items():
                self._do(Send(asker, Nack(number, door)))

    # Time

    def tick(self, t: float, can_send: Callable[[PeerId], bool]) -> list[Verdict]:
        """Probe, and judge what is due."""
        verdicts: list[Verdict] = []
        if self._inquiries:
            for inquiry in list(self._inquiries.values()):
                self._go_on(inquiry, t, verdicts)
        if self._pings:
            for number, ping in list(self._pings.items()):
                if ping.until <= t:
                    del self._pings[number]
                    if self._heard.get(ping.target, 0.0) <= ping.sent_at:
                        self.doubt(ping.target, t)
        if t >= self._probe_at:
            self._probe_at = t + PERIOD_S * min(SLOWEST, self._health.patience) * self._random.uniform(0.9, 1.1)
            self._probe(t, can_send)
        return verdicts

    def _probe(self, t: float, can_send: Callable[[PeerId], bool]) -> None:
        """Ping the next one that nobody inquires about; those without a connection are dialled anyway."""
        candidates = self._after_me() if self._is_ring_next else self._of_the_round()
        self._is_ring_next = not self._is_ring_next
        for target in candidates:
            if target not in self._inquiries and can_send(target):
                number = self._new_number()
                self._pings[number] = _Ping(target, t, t + PING_S * self._health.patience)
                self._do(Send(target, Ping(number, self._news_of(target))))
                return

    def _after_me(self) -> Iterator[PeerId]:
        at = bisect_left(self._ring, self._me)
        return chain(islice(self._ring, at, None), islice(self._ring, at))

    def _of_the_round(self) -> Iterator[PeerId]:
        for _ in range(len(self._round)):
            if self._next >= len(self._round):
                self._random.shuffle(self._round)
                self._next = 0
            self._next += 1
            yield self._round[self._next - 1]

    def _begin(self, inquiry: Inquiry, t: float) -> None:
        """One round: ping, knock, and, on this peer's own account, ask others. A favour is done without hesitation."""
        target = inquiry.target
        patience = self._health.patience if inquiry.is_mine else 1.0
        knock_s = KNOCK_S * patience
        is_contact = target in self._contacts
        inquiry.begin(t, PING_S * patience if is_contact else 0.0, knock_s)
        if is_contact:
            self._do(Send(target, Ping(inquiry.number, self._news_of(target))))
        if inquiry.is_mine:
            helpers = [peer for peer in self._contacts if peer != target and peer not in self._inquiries]
            inquiry.helpers.update(self._random.sample(helpers, min(HELPERS, len(helpers))))
            for helper in sorted(inquiry.helpers):
                self._do(Send(helper, Ask(inquiry.number, target)))
        addresses = self._addresses_of(target)
        if addresses:
            self._do(Knock(target, addresses, knock_s))
        else:  # it only ever connects outwards
            inquiry.door, inquiry.ping_until = Door.SILENT, t + knock_s

    def _go_on(self, inquiry: Inquiry, t: float, verdicts: list[Verdict]) -> None:
        if not inquiry.is_going_on:
            if t >= inquiry.next_at:
                self._begin(inquiry, t)
        elif inquiry.is_over(t):
            self._conclude(inquiry, t, verdicts)

    def _conclude(self, inquiry: Inquiry, t: float, verdicts: list[Verdict]) -> None:
        """A round is over without a sign of life."""
        if not inquiry.is_mine:
            del self._inquiries[inquiry.target]
            return
        if inquiry.door is Door.UNKNOWN or (inquiry.helpers and not inquiry.is_helped):
            self._health.worse()
        inquiry.askers.clear()
        is_contact = inquiry.target in self._contacts
        has_others = len(self._contacts) > is_contact
        was_cut_off = inquiry.silent >= ROUNDS_LEAST
        verdict = inquiry.conclude(t, is_contact, is_deaf=has_others and self._heard_at <= inquiry.began_at)
        self.revision += 1
        if is_contact and was_cut_off and inquiry.door is Door.OPEN:
            self._do(Drop(inquiry.target))
        if verdict is not None:
            verdicts.append(verdict)
            if verdict.claim is PeerState.DEAD:
                del self._inquiries[inquiry.target]

    def _lives(self, peer: PeerId) -> None:
        inquiry = self._inquiries.pop(peer, None)
        if inquiry is not None:
            self.revision += 1
            for asker, number in inquiry.askers.items():
                self._do(Send(asker, Ack(number)))

    def _about(self, peer: PeerId, t: float) -> Inquiry:
        inquiry = self._inquiries.get(peer)
        if inquiry is None:
            inquiry = self._inquiries[peer] = Inquiry(peer, self._new_number(), t)
        return inquiry

    def _inquiry(self, number: int) -> Inquiry | None:
        return next((inquiry for inquiry in self._inquiries.values() if inquiry.number == number), None)

    def _new_number(self) -> int:
        self._number += 1
        return self._number
