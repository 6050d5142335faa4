"""Gathers the facts with real sockets, all at once, each wait with an end: a look takes `wait_s`, a visit five seconds.

mDNS is listened to while the addresses that are known already are visited; then those that were announced are.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from swarm.discovery import SERVICE
from swarm.doctor import machine as here
from swarm.doctor.echo import echoes
from swarm.doctor.judge import judge
from swarm.doctor.visit import Visitor
from swarm.doctor.words import PORT, Announced, Answer, Echo, Facts, Place, Report, Source, Visit
from swarm.errors import plain
from swarm.identity import Keyring
from swarm.interfaces import announced as announced_hosts
from swarm.known import read_known
from swarm.mdns import Record, is_loopback, look
from swarm.secret import Secret
from swarm.transport import PROTOCOL, Hello
from swarm.trust import ephemeral
from swarm.types import Address, PeerId

NAME: Final = "doctor"
LOOPBACK: Final = "127.0.0.1"
MAX_PEERS: Final = 64
"""Announced peers that are looked at; anybody on the network can announce thousands."""
MAX_ADDRESSES: Final = 3
"""Of one announced peer that are visited."""
AT_ONCE: Final = 128
LEAST_WAIT_S: Final = 0.5

_PEER_ID: Final = re.compile(r"[0-9a-f]{32}")
_TAG: Final = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Question:
    """What to examine; the words are those of the command's flags."""

    interfaces: Sequence[str] = ()
    peers: Sequence[Address] = ()
    known: Path | None = None
    """File of last-known peers."""
    mdns: bool = True
    is_open: bool = False
    secret_file: Path | None = None
    wait_s: float = 2.0
    keyring: Keyring = field(default_factory=Keyring)
    port: int = PORT


async def examine(question: Question) -> Report:
    """Raises `BadInput` for an interface that this device does not have; whatever else is wrong is in the report."""
    return judge(await collect(question))


async def collect(question: Question) -> Facts:
    """All facts; see `Question`."""
    if question.interfaces:
        await asyncio.to_thread(announced_hosts, question.interfaces)
    machine = await asyncio.to_thread(here.machine)
    networks = await asyncio.to_thread(here.networks, question.interfaces)
    trust, secret = await asyncio.to_thread(
        here.trust, question.keyring, question.secret_file, is_open=question.is_open
    )
    known = await asyncio.to_thread(read_known, question.known) if question.known else []
    facts = Facts(machine, networks, trust, PROTOCOL, is_chosen=bool(question.interfaces))
    return await Round(question, facts, await _visitor(secret, is_open=question.is_open)).go(known)


async def _visitor(secret: Secret | None, *, is_open: bool) -> Visitor:
    """With a key of its own, so that no running peer meets its twin; with a secret of its own where there is none."""
    mine = await asyncio.to_thread(ephemeral, secret or Secret.new())
    return Visitor(Hello(PROTOCOL, mine.id, NAME, "tensors"), None if is_open else mine.client, mine.client)


class Round:
    """One round of visits, for a question."""

    def __init__(self, question: Question, facts: Facts, visitor: Visitor) -> None:
        self._question = question
        self._facts = facts
        self._visitor = visitor
        self._wait_s = max(LEAST_WAIT_S, question.wait_s)
        self._visits: dict[Address, asyncio.Task[Visit]] = {}
        self._room = asyncio.Semaphore(AT_ONCE)

    async def go(self, known: Iterable[Address]) -> Facts:
        named = [(Source.KNOWN, address) for address in known]
        named += [(Source.PEER, address) for address in self._question.peers]
        hosts = self._facts.hosts
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            own = [self._visit(Address(host, self._question.port)) for host in dict.fromkeys((LOOPBACK, *hosts))]
            for _, address in named:
                self._visit(address)
            hearing = tasks.create_task(self._hear(hosts))
            announced = await self._look(hosts)
            for each in announced:
                for address in each.addresses if self._is_of_interest(each) else ():
                    self._visit(address)
        port = tuple(task.result() for task in own)
        return replace(
            self._facts,
            echoes=hearing.result(),
            announced=announced,
            places=tuple(self._places(announced, named)),
            port=port,
            holder=await self._holder(port),
            looked_s=self._wait_s if self._question.mdns else 0.0,
        )

    def _visit(self, address: Address) -> asyncio.Task[Visit]:
        """Each address is visited once, whoever told of it."""
        if address not in self._visits:
            self._visits[address] = self._tasks.create_task(self._in_turn(address))
        return self._visits[address]

    async def _in_turn(self, address: Address) -> Visit:
        async with self._room:
            return await self._visitor.visit(address)

    async def _hear(self, hosts: Sequence[str]) -> tuple[Echo, ...]:
        if not self._question.mdns:
            return ()
        return await echoes(hosts, [network.host for network in self._facts.networks], self._wait_s)

    async def _look(self, hosts: Sequence[str]) -> tuple[Announced, ...]:
        if not self._question.mdns:
            return ()
        records = await look(SERVICE, hosts, self._wait_s, enough=lambda _: False)
        heard = [each for record in records if (each := read(record, loopback=is_loopback(hosts))) is not None]
        return tuple(sorted(heard, key=lambda each: (not self._facts.is_ours(each), each.id))[:MAX_PEERS])

    def _is_of_interest(self, each: Announced) -> bool:
        """One of this device's swarm that it could talk to; the others would only send a visitor away."""
        return self._facts.is_ours(each) and each.version == str(self._facts.protocol)

    def _places(self, announced: Sequence[Announced], named: Sequence[tuple[Source, Address]]) -> Iterable[Place]:
        """Announced peers with all their addresses; every other address is a place of its own."""
        sources: dict[Address, set[Source]] = {}
        for source, address in named:
            sources.setdefault(address, set()).add(source)
        for each in announced:
            if self._is_of_interest(each):
                told = {source for address in each.addresses for source in sources.pop(address, ())}
                yield Place(frozenset({Source.MDNS, *told}), self._came_to(each.addresses), each)
        for address, by in sources.items():
            yield Place(frozenset(by), self._came_to([address]))

    def _came_to(self, addresses: Collection[Address]) -> tuple[Visit, ...]:
        return tuple(self._visits[address].result() for address in addresses)

    async def _holder(self, port: Sequence[Visit]) -> str:
        if all(visit.answer not in (Answer.NOT_SWARM, Answer.BUSY) for visit in port):
            return ""
        return await asyncio.to_thread(here.listener, self._question.port)


def read(record: Record, *, loopback: bool = False) -> Announced | None:
    """What a record of our service says, of whatever version; None for one that makes no sense."""
    peer_id, tag, version = record.text("id"), record.text("s"), record.text("v")
    if not _PEER_ID.fullmatch(peer_id) or (tag and not _TAG.fullmatch(tag)):
        return None
    addresses = record.addresses(loopback=loopback)[:MAX_ADDRESSES]
    return Announced(PeerId(peer_id), addresses, tag or None, plain(version[:16])) if addresses else None
