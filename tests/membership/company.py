"""One membership in virtual time, and others that are played: who answers, who stalls, who is dead or out of reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random
from typing import Any

from swarm.membership import Action, Dial, Knock, Membership, Message, Send
from swarm.membership.messages import Ack, Ask, Changes, Nack, News, Ping, Tell
from swarm.types import Address, Door, PeerId, PeerRecord, PeerState

ALIVE, SUSPECT, LEFT, DEAD = PeerState.ALIVE, PeerState.SUSPECT, PeerState.LEFT, PeerState.DEAD


def an_id(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


def a_record(number: int, **changes: Any) -> PeerRecord:
    place = Address(f"10.0.{number // 250}.{number % 250 + 1}", 4747)
    return replace(PeerRecord(an_id(number), f"peer {number}", (place,), incarnation=10, version=10), **changes)


def all_of(record: PeerRecord, claim: PeerState = ALIVE, accuser: int | None = None) -> News:
    """Everything about a peer."""
    keys = ("name", "addresses", "client", "profile", "load", "holds")
    changes = Changes(**{key: getattr(record, key) for key in keys})
    who = an_id(accuser) if accuser is not None else PeerId("")
    return News(record.id, record.incarnation, claim, who, 0, record.version, changes)


def says(number: int, claim: PeerState, incarnation: int = 10, accuser: int | None = None) -> News:
    """A claim alone."""
    return News(an_id(number), incarnation, claim, an_id(accuser) if accuser is not None else PeerId(""))


class Company:
    """Peer 0 and whom it is with. `doors` are what knocks find; who is in `living` answers, and helps as it can."""

    def __init__(self, size: int = 3, **kwargs: Any) -> None:
        self.it = Membership(a_record(0), Random(1), **kwargs)
        self.now = 0.0
        self.done: list[tuple[float, Action]] = []
        self.living = set(range(1, size))
        self.doors: dict[int, Door] = {}
        self._on_its_way: list[Callable[[], None]] = []
        self.dialled: Callable[[Dial], bool] = lambda dial: False
        for number in range(1, size):
            self.it.connected(an_id(number), 0.0)
            self.it.received(an_id(number), Tell((all_of(a_record(number)),)), 0.0)
        self.run(0.5)

    def tell(self, sender: int, *news: News) -> None:
        self.hear(sender, Tell(news))

    def hear(self, sender: int, message: Message) -> None:
        self.it.received(an_id(sender), message, self.now)
        self.tick()

    def run(self, seconds: float, step_s: float = 0.05) -> list[tuple[float, Action]]:
        """What it did in these seconds."""
        before, end = len(self.done), self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(end, self.now + step_s)
            arrived, self._on_its_way = self._on_its_way, []
            for answer in arrived:
                answer()
            self.tick()
        return self.done[before:]

    def sleep(self, seconds: float) -> None:
        """It does not run for so long."""
        self.now += seconds
        self.tick()

    def tick(self) -> None:
        for action in self.it.tick(self.now):
            self.done.append((self.now, action))
            match action:
                case Send():
                    self._answer(int(action.peer_id, 16), action.message)
                case Knock():
                    self._knock(action)
                case Dial():
                    if not self.dialled(action):
                        self.it.failed(action, self.now)

    def _answer(self, number: int, message: Message) -> None:
        if number not in self.living:
            return
        if isinstance(message, Ping):
            self._reply(number, Ack(message.number))
        elif isinstance(message, Ask):
            target = int(message.target, 16)
            lives = target in self.living
            self._reply(number, Ack(message.number) if lives else Nack(message.number, self.door(target)))

    def _reply(self, number: int, message: Message) -> None:
        self._on_its_way.append(lambda: self.it.received(an_id(number), message, self.now))

    def door(self, number: int) -> Door:
        return self.doors.get(number, Door.OPEN)

    def _knock(self, knock: Knock) -> None:
        self._on_its_way.append(lambda: self.it.knocked(knock.peer_id, self.door(int(knock.peer_id, 16)), self.now))

    def states(self) -> dict[int, PeerState]:
        return {int(p.record.id, 16): p.state for p in self.it.view().peers}

    def claims(self) -> dict[int, PeerState]:
        """What others would hear of it."""
        return {int(entry.record.id, 16): entry.claim for entry in self.it._table}

    def until(self, number: int, state: PeerState, within_s: float = 60.0) -> float:
        began = self.now
        while self.states().get(number) is not state:
            assert self.now - began < within_s, f"{number} is not {state} within {within_s} s"
            self.run(0.05)
        return self.now - began


def sent(done: Iterable[tuple[float, Action]], kind: type, to: int | None = None) -> list[Any]:
    """The messages of one kind."""
    return [
        action.message
        for _, action in done
        if isinstance(action, Send) and isinstance(action.message, kind) and (to is None or action.peer_id == an_id(to))
    ]


def recipients(done: Iterable[tuple[float, Action]], kind: type) -> list[int]:
    """To whom messages of that kind went."""
    return [int(a.peer_id, 16) for _, a in done if isinstance(a, Send) and isinstance(a.message, kind)]


def told(done: Iterable[tuple[float, Action]], about: int, to: int | None = None) -> list[News]:
    return [news for message in sent(done, Tell, to) for news in message.news if news.id == an_id(about)]
