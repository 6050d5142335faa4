"""What this device is: its networks, whether it is a container or WSL, its clock, its secret and keys."""

from __future__ import annotations

import datetime as dt
import os
import platform
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Final

import psutil

from swarm import entrance
from swarm.doctor.words import Machine, Mode, Network, Trust, Use
from swarm.errors import BadInput
from swarm.identity import MAX_FILE_BYTES, Keyring, check_private
from swarm.interfaces import NOT_THE_LAN
from swarm.secret import Secret
from swarm.trust import Authority, identify
from swarm.types import PeerId

_MARKS: Final = ("/.dockerenv", "/run/.containerenv")
_CGROUP_WORDS: Final = ("docker", "kubepods", "containerd", "libpod", "lxc")
_ARP_TABLE: Final = Path("/proc/net/arp")
_ARP_COMPLETE: Final = 0x2
_SOURCES: Final = {"file": "--secret-file", "variable": entrance.VARIABLE, "kept": "the one kept here"}


def machine(environment: Mapping[str, str] | None = None) -> Machine:
    """Reads a few small files."""
    environment = os.environ if environment is None else environment
    return Machine(
        now=dt.datetime.now(dt.UTC),
        system=sys.platform,
        container=_container(environment),
        is_wsl="microsoft" in platform.release().lower(),
        is_remote="SSH_CONNECTION" in environment,
    )


def _container(environment: Mapping[str, str]) -> str:
    if named := environment.get("container"):
        return f"the variable container={named}"
    if "KUBERNETES_SERVICE_HOST" in environment:
        return "the variable KUBERNETES_SERVICE_HOST"
    for mark in _MARKS:
        if Path(mark).exists():
            return f"the file {mark}"
    try:
        groups = Path("/proc/1/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return next((f"'{word}' in /proc/1/cgroup" for word in _CGROUP_WORDS if word in groups), "")


def networks(chosen: Sequence[str]) -> tuple[Network, ...]:
    """This device's IPv4 addresses. Asks the operating system."""
    stats = psutil.net_if_stats()
    found = [
        (name, IPv4Interface(f"{entry.address}/{entry.netmask or 32}"), name in stats and stats[name])
        for name, entries in sorted(psutil.net_if_addrs().items())
        for entry in entries
        if entry.family == socket.AF_INET
    ]
    plain = [
        Network(name, at, _use(name, at, is_up=bool(stat and stat.isup)), _does_multicast(stat))
        for name, at, stat in found
    ]
    return in_use(plain, chosen)


def in_use(found: Iterable[Network], chosen: Sequence[str]) -> tuple[Network, ...]:
    """The same, with those that a peer uses marked so: the chosen ones, or else those that lead to the LAN, or else
    self-assigned ones, or else loopback, as `interfaces.reachable` does."""
    found = list(found)
    if chosen:
        return tuple(_marked(n, Use.USED if n.host in chosen else _spare(n.use)) for n in found)
    for second_best in (Use.USED, Use.SELF_ASSIGNED, Use.LOOPBACK):
        if any(n.use is second_best for n in found):
            return tuple(_marked(n, Use.USED) if n.use is second_best else n for n in found)
    return tuple(found)


def _marked(network: Network, use: Use) -> Network:
    return Network(network.interface, network.at, use, network.does_multicast)


def _spare(use: Use) -> Use:
    return Use.NOT_CHOSEN if use is Use.USED else use


def _use(name: str, at: IPv4Interface, *, is_up: bool) -> Use:
    if not is_up:
        return Use.DOWN
    if at.is_loopback:
        return Use.LOOPBACK
    if any(fnmatchcase(name.lower(), pattern) for pattern in NOT_THE_LAN):
        return Use.ELSEWHERE
    return Use.SELF_ASSIGNED if at.is_link_local else Use.USED


def _does_multicast(stat: object) -> bool:
    """Windows and old versions of psutil do not say."""
    flags = getattr(stat, "flags", "")
    return not flags or "multicast" in flags.split(",") or "loopback" in flags.split(",")


def trust(keyring: Keyring, secret_file: Path | None, *, is_open: bool) -> tuple[Trust, Secret | None]:
    """How this device would enter, and with which secret. Reads files."""
    loose, own_ids = _keys(keyring)
    if is_open:
        return Trust(Mode.OPEN, own_ids=own_ids), None
    try:
        held = entrance.held(keyring, secret_file)
    except BadInput as error:
        return Trust(Mode.UNUSABLE, trouble=str(error), loose=loose, own_ids=own_ids), None
    if held is None:
        return Trust(Mode.NONE, loose=loose, own_ids=own_ids), None
    if held.warning and secret_file is not None:
        loose = (*loose, str(secret_file))
    return Trust(Mode.CLOSED, Authority(held.secret).tag, _SOURCES[held.source], "", loose, own_ids), held.secret


def _keys(keyring: Keyring) -> tuple[tuple[str, ...], frozenset[PeerId]]:
    """Files that others can get at, and the ids of the peers whose keys are here."""
    loose, ids = [], set()
    keys = sorted((keyring.folder / "identity").glob("*.pem"))
    for file in (keyring.secret_file, *keys):
        try:
            check_private(file)
        except BadInput:
            loose.append(str(file))
        except OSError:
            continue
        if file in keys and (peer_id := _id_in(file)) is not None:
            ids.add(peer_id)
    return tuple(loose), frozenset(ids)


def _id_in(file: Path) -> PeerId | None:
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_pem_x509_certificate

    try:
        with file.open("rb") as stream:
            leaf = load_pem_x509_certificate(stream.read(MAX_FILE_BYTES))
    except (OSError, ValueError):
        return None
    return identify(leaf.public_bytes(Encoding.DER))


def is_on_link(host: str) -> bool | None:
    """Whether a host's network card answered this device lately; None where only other routers would know."""
    try:
        rows = [line.split() for line in _ARP_TABLE.read_text(encoding="ascii").splitlines()[1:]]
    except OSError:
        return None
    flags = [int(row[2], 16) for row in rows if len(row) > 2 and row[0] == host]
    return any(flag & _ARP_COMPLETE for flag in flags) if flags else None


def listener(port: int) -> str:
    """The program that listens on a TCP port of this device; empty when that is not for this user to know."""
    try:
        for connection in psutil.net_connections("tcp"):
            is_there = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if is_there and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (psutil.Error, OSError):
        return ""
    return ""
