"""What a doctor sees, and what it says about it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from ipaddress import IPv4Address, IPv4Interface, ip_address

from swarm.types import Address, PeerId

PORT = 4747


class Level(IntEnum):
    """How bad it is; the worst sorts first."""

    PROBLEM = 0
    WARN = 1
    OK = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found out. Texts may hold names from the network: print them through `errors.plain`."""

    code: str
    level: Level
    title: str
    """What it means."""
    test: str
    """What was done, and what was seen."""
    cure: str = ""
    """What to do; empty where nothing is to be done."""


@dataclass(frozen=True, slots=True)
class Report:
    """Findings, the likeliest cause first; `next_step` is the one thing to do now."""

    findings: tuple[Finding, ...]
    next_step: str
    seen: tuple[Visit, ...]
    """The peers on other devices (or on this one's loopback, where it was told to stay there) that said hello."""

    @property
    def is_well(self) -> bool:
        return all(finding.level is not Level.PROBLEM for finding in self.findings)


class Use(StrEnum):
    """Whether an address of this device is one at which the swarm uses it, or why not."""

    USED = "used"
    DOWN = "down"
    ELSEWHERE = "of a container, a virtual machine or a VPN"
    LOOPBACK = "loopback"
    SELF_ASSIGNED = "self-assigned"
    NOT_CHOSEN = "not chosen"


@dataclass(frozen=True, slots=True)
class Network:
    """One address of this device, with the network that it is in."""

    interface: str
    at: IPv4Interface
    use: Use
    does_multicast: bool = True
    """What the operating system says of the interface."""

    @property
    def host(self) -> str:
        return str(self.at.ip)


@dataclass(frozen=True, slots=True)
class Machine:
    """What this device is, as far as it bears on its network."""

    now: dt.datetime
    system: str = "linux"
    """As `sys.platform` names it."""
    container: str = ""
    """What says that this is a container; empty when nothing does."""
    is_wsl: bool = False
    is_remote: bool = False
    """Used over SSH."""


class Mode(StrEnum):
    """How this device would enter a swarm."""

    CLOSED = "closed"
    OPEN = "open"
    NONE = "none"
    UNUSABLE = "unusable"


@dataclass(frozen=True, slots=True)
class Trust:
    """The secret that this device holds, told without telling it."""

    mode: Mode
    tag: str | None = None
    source: str = ""
    """Where the secret comes from, in words."""
    trouble: str = ""
    """Why it cannot be used."""
    loose: tuple[str, ...] = ()
    """Files with secrets or keys that other users of this device can get at."""
    own_ids: frozenset[PeerId] = frozenset()
    """Of the peers whose keys are kept here."""


@dataclass(frozen=True, slots=True)
class Echo:
    """Whether an mDNS packet that was sent from an address of this device came back to it."""

    host: str
    heard: bool
    error: str = ""
    others: int = 0
    """Other devices whose multicast was heard meanwhile, whatever they spoke of."""


@dataclass(frozen=True, slots=True)
class Announced:
    """A record of our service, also one of another version."""

    id: PeerId
    addresses: tuple[Address, ...]
    tag: str | None
    version: str
    """Of the protocol, as the record has it."""


class Answer(StrEnum):
    """What a visit came to, the best first: of several addresses of a peer, the best counts."""

    HELLO = "hello"
    VERSION = "another version"
    CLOCK_HERE = "its certificate is not valid by this device's clock"
    CLOCK_THERE = "it refuses this device's certificate"
    TURNED_AWAY = "turned away"
    OTHER_SWARM = "another swarm"
    SECURED_THERE = "encrypted"
    OPEN_THERE = "not encrypted"
    NOT_SWARM = "no swarm peer"
    BUSY = "no hello"
    SHUT = "refused"
    SILENT = "silent"
    FORBIDDEN = "not allowed"
    NO_ROUTE = "no route"
    NO_NAME = "unknown name"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Visit:
    """One attempt to say hello at an address."""

    address: Address
    answer: Answer
    detail: str = ""
    """More about it, as the rest of a sentence that begins with the address."""
    name: str = ""
    id: PeerId | None = None
    hello_s: float = 0.0
    """From the first packet to the other side's hello."""
    ip: str = ""
    """The host by number, where it has one."""
    on_link: bool | None = None
    """Whether this device's ARP table knew the host; None where there is none, or it is not in the same network."""


class Source(StrEnum):
    """Who says that a peer is at an address."""

    MDNS = "mDNS"
    KNOWN = "the last-known peers"
    PEER = "--peer"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer is said to be, and what visits there came to."""

    sources: frozenset[Source]
    visits: tuple[Visit, ...]
    announced: Announced | None = None

    @property
    def best(self) -> Visit:
        return min(self.visits, key=lambda visit: list(Answer).index(visit.answer))


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was seen, for `judge`."""

    machine: Machine
    networks: tuple[Network, ...]
    trust: Trust
    protocol: int
    is_chosen: bool = False
    """A person said which addresses to use."""
    echoes: tuple[Echo, ...] = ()
    announced: tuple[Announced, ...] = ()
    places: tuple[Place, ...] = ()
    port: tuple[Visit, ...] = ()
    """Visits at this device's own addresses, loopback among them, on the usual port."""
    holder: str = ""
    """The program that listens there, if it could be found out."""
    looked_s: float = 0.0
    """How long mDNS was listened to; 0 when it was told not to."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses of this device that the swarm uses."""
        return tuple(network.host for network in self.networks if network.use is Use.USED)

    @property
    def stays_on_loopback(self) -> bool:
        return all(IPv4Address(host).is_loopback for host in self.hosts)

    def is_own(self, address: Address) -> bool:
        """Whether a peer there is on this device, which says nothing of the network."""
        own = {network.host for network in self.networks}
        return not self.stays_on_loopback and address.host in own

    def is_ours(self, announced: Announced) -> bool:
        """Of the swarm that this device would enter, as far as a record tells."""
        if self.trust.mode is Mode.OPEN:
            return announced.tag is None
        return self.trust.mode is Mode.CLOSED and announced.tag == self.trust.tag

    def is_near(self, visit: Visit) -> bool:
        """Whether the place is in a network that this device is in itself, so that no router stands between."""
        try:
            ip = ip_address(visit.ip)
        except ValueError:
            return False
        return any(ip in network.at.network for network in self.networks if network.use is Use.USED)

    @property
    def seen(self) -> tuple[Visit, ...]:
        """Peers elsewhere that said hello, each once."""
        hellos = [place.best for place in self.places if place.best.answer is Answer.HELLO]
        return tuple({visit.id: visit for visit in hellos if not self.is_own(visit.address)}.values())
