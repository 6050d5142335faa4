"""Is multicast heard? A packet that only this device knows, sent to the mDNS group on each of its networks.

It should come back: to this device itself at once, which a firewall here or a missing permission prevents. It also asks
every device what services it announces; printers, phones and televisions answer that, and whoever hears none of them
on a home network sits behind an access point that keeps its guests apart.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Any, Final

from swarm.doctor.words import Echo

GROUP: Final = "224.0.0.251"
MDNS_PORT: Final = 5353
AGAIN_S: Final = 0.5
"""A packet that is not back by then is sent once more."""

_ALL_GROUPS: Final = 49  # IP_MULTICAST_ALL, which Python does not name
_HEADER: Final = struct.pack(">6H", 0, 0, 2, 0, 0, 0)
_ONE_QUESTION: Final = struct.pack(">2H", 12, 1)  # PTR, IN
_ANYTHING: Final = ("_services", "_dns-sd", "_udp", "local")
_OURS: Final = ("_edge-swarm", "_tcp", "local")


async def echoes(hosts: Sequence[str], own: Sequence[str], wait_s: float) -> tuple[Echo, ...]:
    """One for each of `hosts`, after `wait_s`; `own` are all addresses of this device, which are not others."""
    return tuple(await asyncio.gather(*(_echo(host, frozenset(own), wait_s) for host in hosts)))


async def _echo(host: str, own: frozenset[str], wait_s: float) -> Echo:
    nonce = secrets.token_hex(8)
    ear = _Ear(nonce.encode("ascii"), own)
    packet = question(nonce)
    loop = asyncio.get_running_loop()
    carriers: list[asyncio.BaseTransport] = []
    try:
        carriers.append((await loop.create_datagram_endpoint(lambda: ear, sock=_listening(host)))[0])
        with _sending(host) as mouth:
            mouth.sendto(packet, (GROUP, MDNS_PORT))
            await asyncio.sleep(min(AGAIN_S, wait_s / 2))
            if not ear.heard:
                mouth.sendto(packet, (GROUP, MDNS_PORT))
            await asyncio.sleep(max(0.0, wait_s - min(AGAIN_S, wait_s / 2)))
    except OSError as error:
        return Echo(host, False, error.strerror or str(error))
    finally:
        for carrier in carriers:
            carrier.close()
    return Echo(host, ear.heard, others=len(ear.others))


def question(nonce: str) -> bytes:
    """An mDNS query: for a name that nobody has, and for all kinds of services."""
    names = (f"doctor-{nonce}", *_OURS), _ANYTHING
    return _HEADER + b"".join(_name(labels) + _ONE_QUESTION for labels in names)


def _name(labels: Sequence[str]) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode("ascii") for label in labels) + b"\0"


class _Ear(asyncio.DatagramProtocol):
    """Hears one's own packet, and counts who else speaks."""

    MOST: Final = 256

    def __init__(self, nonce: bytes, own: frozenset[str]) -> None:
        self._nonce = nonce
        self._own = own
        self.heard = False
        self.others: set[str] = set()

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        if self._nonce in data:
            self.heard = True
        elif addr[0] not in self._own and len(self.others) < self.MOST:
            self.others.add(addr[0])

    def error_received(self, exc: Exception) -> None:
        """What a network says of packets that it did not like is no answer of ours."""


def _listening(host: str) -> socket.socket:
    sock = _shared()
    try:
        if sys.platform == "linux":
            sock.setsockopt(socket.IPPROTO_IP, _ALL_GROUPS, 0)  # only what comes through this interface
        sock.bind(("", MDNS_PORT))
        member = socket.inet_aton(GROUP) + socket.inet_aton(host)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    except BaseException:
        sock.close()
        raise
    return sock


def _sending(host: str) -> socket.socket:
    """From the mDNS port, so that answers come by multicast."""
    sock = _shared()
    try:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(host))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        sock.bind((host, MDNS_PORT))
    except BaseException:
        sock.close()
        raise
    return sock


def _shared() -> socket.socket:
    """One that others on this machine, such as the system's own mDNS, may have besides."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return sock
