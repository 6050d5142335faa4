"""Which of this machine's addresses other devices can reach.

A laptop has a dozen interfaces, and one or two of them lead to the LAN: the others belong to containers, virtual
machines and VPNs, and announcing them sends other peers into the void.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address

import psutil

from swarm.errors import BadInput

NOT_THE_LAN = (
    *("docker*", "br-*", "veth*", "virbr*", "lxc*", "lxd*", "podman*", "cni*", "flannel*", "cali*", "kube*"),
    *("vmnet*", "vboxnet*", "vethernet*", "virtualbox*", "vmware*", "bridge1[0-9][0-9]", "vnet*", "dummy*", "ifb*"),
    *("tun*", "tap*", "utun*", "wg*", "ppp*", "ipsec*", "tailscale*", "zt*", "zerotier*", "nordlynx*", "wireguard*"),
    *("awdl*", "llw*", "anpi*"),
)
"""Lower-case name patterns: containers, virtual machines, VPNs, and Apple's device-to-device links."""


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface as the operating system names it, with its IPv4 addresses."""

    name: str
    up: bool
    addresses: tuple[str, ...]


def lan_addresses() -> list[str]:
    """IPv4 addresses at which the LAN can reach this machine, the most likely first; loopback when it has none.

    Asks the operating system: a few milliseconds, longer on Windows.
    """
    return reachable(_interfaces())


def announced(chosen: Sequence[str]) -> list[str]:
    """Addresses to announce: exactly those the user chose, or else `lan_addresses()`.

    An announced 127.0.0.1 means another peer on every other machine, so loopback is told only when it was chosen or
    is all there is; and whoever dials must check the id that answers. Raises `BadInput` for an address that this
    machine does not have.
    """
    if not chosen:
        return lan_addresses()
    own = own_addresses()
    for address in chosen:
        if address not in own and not _is_loopback(address):
            raise BadInput(f"'{address}' is not an IPv4 address of this machine; it has {', '.join(sorted(own))}.")
    return list(dict.fromkeys(chosen))


def own_addresses() -> set[str]:
    """Every IPv4 address that this machine has now, on whatever interface. Asks the operating system."""
    return {address for interface in _interfaces() for address in interface.addresses}


def is_own(host: str) -> bool:
    """Whether this machine can listen at that address."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(place)
    except OSError:
        return False
    return True


def reachable(interfaces: Iterable[Interface]) -> list[str]:
    """The choice behind `lan_addresses`: LAN addresses, else self-assigned (169.254) ones, else loopback."""
    lan, self_assigned = [], []
    for interface in sorted(interfaces, key=lambda i: i.name):
        if not interface.up or _is_elsewhere(interface.name):
            continue
        for address in (IPv4Address(text) for text in interface.addresses):
            if address.is_link_local:
                self_assigned.append(str(address))
            elif not address.is_loopback and not address.is_unspecified:
                lan.append(str(address))
    return list(dict.fromkeys(lan or self_assigned)) or ["127.0.0.1"]


def _is_elsewhere(name: str) -> bool:
    return any(fnmatchcase(name.lower(), pattern) for pattern in NOT_THE_LAN)


def _is_loopback(text: str) -> bool:
    try:
        return IPv4Address(text).is_loopback
    except ValueError:
        return False


def _interfaces() -> list[Interface]:
    stats = psutil.net_if_stats()
    return [
        Interface(
            name=name,
            up=name in stats and stats[name].isup,
            addresses=tuple(a.address for a in addresses if a.family == socket.AF_INET),
        )
        for name, addresses in psutil.net_if_addrs().items()
    ]
