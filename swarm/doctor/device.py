"""What is wrong with this device itself. Pure: each function looks at one thing, and yields what it found there."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from swarm.doctor.words import Answer, Echo, Facts, Finding, Level, Machine, Mode, Network, Use, Visit
from swarm.errors import plain

_PLAUSIBLE_YEARS: Final = range(2024, 2101)
_BRIDGES: Final = tuple(
    IPv4Network(text)
    for text in (
        "172.16.0.0/12",
        "10.88.0.0/16",
        "10.0.2.0/24",
        "10.0.3.0/24",
        "10.42.0.0/16",
        "10.244.0.0/16",
        "192.168.65.0/24",
    )
)
"""Where Docker, Podman, LXC and Kubernetes put their containers unless they are told otherwise."""
_WSL_NETWORK: Final = IPv4Network("172.16.0.0/12")

_SWARM_ANSWERS: Final = (
    *(Answer.HELLO, Answer.VERSION, Answer.OTHER_SWARM, Answer.SECURED_THERE, Answer.OPEN_THERE),
    *(Answer.CLOCK_HERE, Answer.CLOCK_THERE, Answer.TURNED_AWAY),
)
"""What only a peer of some swarm answers."""
_UNHEARD: Final = (Answer.SILENT, Answer.FORBIDDEN)


def networks(facts: Facts) -> Iterator[Finding]:
    used = [network for network in facts.networks if network.use is Use.USED]
    skipped = [network for network in facts.networks if network.use not in (Use.USED, Use.LOOPBACK)]
    test = f"Looked at this device's addresses: {_named(facts.networks) or 'it has none'}."
    if facts.stays_on_loopback and not facts.is_chosen:
        yield _no_network(skipped, test)
    elif all(network.use is Use.USED and network.at.is_link_local for network in used):
        yield Finding(
            "self-assigned",
            Level.WARN,
            f"The network gave this device no address; it made one up: {_named(used)}.",
            test,
            "Check the router and the cable, or leave the Wi-Fi and join it again.",
        )
    else:
        loopback = " only, so it sees no other device" if facts.stays_on_loopback else ""
        yield Finding("network", Level.OK, f"Uses {_named(used)}{loopback}.", test)
    for network in used:
        if not network.does_multicast and not facts.seen:
            yield Finding(
                "no-multicast-flag",
                Level.WARN,
                f"The interface {network.interface} is set to do no multicast.",
                "Read the interface's flags.",
                f"Turn it on: sudo ip link set {network.interface} multicast on.",
            )


def _no_network(skipped: list[Network], test: str) -> Finding:
    tunnels = [network for network in skipped if network.use is Use.ELSEWHERE]
    if tunnels:
        return Finding(
            "only-tunnels",
            Level.PROBLEM,
            f"This device is in no LAN; its only addresses are those of containers or VPNs: {_named(tunnels)}.",
            test,
            f"Connect it to the LAN; or, to run the swarm there, name the address: --interface {tunnels[0].host}.",
        )
    return Finding(
        "no-network",
        Level.PROBLEM,
        "This device is in no network.",
        test,
        "Connect it by cable or Wi-Fi, and wait until it has an address.",
    )


def _named(found: tuple[Network, ...] | list[Network]) -> str:
    why = {Use.USED: "", Use.LOOPBACK: ""}
    return ", ".join(f"{n.host} ({n.interface}{why.get(n.use, f', {n.use}')})" for n in found)


def clock(facts: Facts) -> Iterator[Finding]:
    now = facts.machine.now
    if now.year not in _PLAUSIBLE_YEARS:
        yield Finding(
            "clock",
            Level.PROBLEM,
            f"The clock of this device is wrong: it says {now:%Y-%m-%d}. Certificates look invalid to it.",
            "Read this device's clock.",
            f"Set it: {clock_cure(facts.machine)}.",
        )


def clock_cure(machine: Machine) -> str:
    return {"darwin": "sudo sntp -sS time.apple.com", "win32": "w32tm /resync"}.get(
        machine.system, "sudo timedatectl set-ntp true, or sudo date -s '2026-01-31 12:00'"
    )


def trust(facts: Facts) -> Iterator[Finding]:
    held = facts.trust
    test = "Looked for the swarm's secret: --secret-file, SWARM_SECRET, the one that `swarm join` keeps here."
    is_why = any(file in held.trouble for file in held.loose)
    if held.loose:
        yield _loose(held.loose, Level.PROBLEM if is_why else Level.WARN)
    if held.mode is Mode.UNUSABLE and not is_why:
        cure = (
            "Mend what it says, or come in by a code: `swarm invite` on another device, `swarm join --code CODE` here."
        )
        yield Finding("secret-unusable", Level.PROBLEM, "The secret cannot be used.", f"{test} {held.trouble}", cure)
    elif held.mode is Mode.NONE:
        yield _no_secret(facts, test)
    elif held.mode is Mode.CLOSED:
        yield Finding("trust", Level.OK, f"Holds the secret of swarm {held.tag} ({held.source}).", test)
    elif held.mode is Mode.OPEN:
        yield Finding(
            "trust", Level.OK, "Looks for an open swarm, as --open says; it needs no secret.", "Read the flags."
        )


def _no_secret(facts: Facts, test: str) -> Finding:
    secured = len({each.id for each in facts.announced if each.tag is not None})
    here = (
        f" {secured} peer{'s' * (secured > 1)} of a swarm {'are' if secured > 1 else 'is'} announced."
        if secured
        else ""
    )
    code = "Run `swarm invite` on a device that is in the swarm, and `swarm join --code CODE` here"
    return Finding(
        "no-secret",
        Level.PROBLEM,
        "This device is in no swarm: it holds no secret.",
        f"{test} There was none.{here}",
        f"{code}." if secured or facts.places else f"{code}; or `swarm join` here, to begin a swarm.",
    )


def _loose(files: tuple[str, ...], level: Level) -> Finding:
    return Finding(
        "loose-permissions",
        level,
        f"Other users of this device can get at {', '.join(files)}.",
        "Read the permissions of the secret and of this device's keys.",
        f"chmod 600 {' '.join(files)}; and if one of them may have done so, change the secret: swarm secret rotate.",
    )


def container(facts: Facts) -> Iterator[Finding]:
    mark = facts.machine.container
    if mark and not facts.is_chosen and _all_in(facts, _BRIDGES):
        yield Finding(
            "container",
            _grave(facts),
            f"This is a container behind a bridge: other devices cannot reach {', '.join(facts.hosts)}, and no "
            "multicast goes through.",
            f"Looked for signs of a container, and found {mark}; and its address is one that containers get.",
            "Start it in the host's network (docker run --network host …); or publish the port (-p 4747:4747) and name "
            "peers with --peer HOST:PORT on both sides.",
        )


def wsl(facts: Facts) -> Iterator[Finding]:
    if facts.machine.is_wsl and _all_in(facts, (_WSL_NETWORK,)):
        yield Finding(
            "wsl",
            _grave(facts),
            f"WSL hides this Linux from the LAN: {', '.join(facts.hosts)} is an address inside of Windows.",
            "Read the kernel's name and this device's addresses.",
            "In Windows, write networkingMode=mirrored below [wsl2] in %UserProfile%\\.wslconfig, and run wsl "
            "--shutdown; or run swarm in Windows itself.",
        )


def _all_in(facts: Facts, places: tuple[IPv4Network, ...]) -> bool:
    hosts = [IPv4Address(host) for host in facts.hosts]
    return not facts.stays_on_loopback and all(any(host in place for place in places) for host in hosts)


def multicast(facts: Facts) -> Iterator[Finding]:
    for echo in facts.echoes:
        test = f"Sent an mDNS packet from {echo.host} to 224.0.0.251, UDP port 5353, and listened for it: "
        if echo.heard:
            others = f"{echo.others} other device{'s' * (echo.others != 1)} spoke mDNS meanwhile"
            title = f"Multicast works on {echo.host}, as far as this device itself is concerned."
            yield Finding("multicast", Level.OK, title, f"{test}it came back; {others}.")
        elif facts.machine.system == "darwin":
            yield _local_permission(facts, echo, test)
        elif echo.error:
            title = f"Multicast does not work on {echo.host}, so peers cannot find this device or be found."
            yield Finding("multicast-blocked", _grave(facts), title, f"{test}{echo.error}.", _sending_cure(echo))
        else:
            title = f"This device does not hear its own multicast on {echo.host}; a firewall on it drops UDP port 5353."
            cure = _firewall_cure(facts.machine, "5353/udp")
            yield Finding("multicast-unheard", _grave(facts), title, f"{test}it did not come back.", cure)


def _local_permission(facts: Facts, echo: Echo, test: str) -> Finding:
    over_ssh = (
        " Over SSH nobody is asked: run it once in a terminal on the Mac itself." if facts.machine.is_remote else ""
    )
    return Finding(
        "local-permission",
        _grave(facts),
        f"macOS keeps this program from the local network on {echo.host}.",
        f"{test}{echo.error or 'it did not come back'}.",
        "System Settings, Privacy & Security, Local Network: turn on the terminal (or Python) from which swarm is "
        f"started, and start it again.{over_ssh}",
    )


def _sending_cure(echo: Echo) -> str:
    if "buffer space" in echo.error:
        return "Let more groups be joined: sudo sysctl -w net.ipv4.igmp_max_memberships=64."
    return "Use another network with --interface IP, or name peers with --peer HOST:PORT, which needs no multicast."


def _firewall_cure(machine: Machine, what: str) -> str:
    port, _, protocol = what.partition("/")
    return {
        "win32": f"Allow Python in Windows Defender Firewall for private networks ({protocol.upper()} port {port}), "
        "and set this network to private.",
        "darwin": "System Settings, Network, Firewall: allow incoming connections for Python.",
    }.get(machine.system, f"Allow it: sudo ufw allow {what}, or sudo firewall-cmd --add-port={what}.")


def door(facts: Facts) -> Iterator[Finding]:
    """What others meet at this device's own addresses, as far as that can be told from here."""
    at = ", ".join(str(visit.address) for visit in facts.port)
    test = f"Knocked at this device's own addresses: {at}."
    foreign = [visit for visit in facts.port if visit.answer in (Answer.NOT_SWARM, Answer.BUSY)]
    ours = [visit for visit in facts.port if visit.answer in _SWARM_ANSWERS]
    own = [place.best for place in facts.places if facts.is_own(place.best.address)]
    silent = [visit for visit in (*facts.port, *own) if visit.answer in _UNHEARD and facts.is_own(visit.address)]
    if foreign:
        yield _taken(foreign[0], facts.holder, test)
    elif silent and (ours or any(visit in own for visit in silent)):
        title = f"A firewall on this device keeps others from the peer that runs on it: {silent[0].address} is silent."
        port = silent[0].address.port
        yield Finding("own-firewall", Level.PROBLEM, title, test, _firewall_cure(facts.machine, f"{port}/tcp"))
    elif ours and not facts.stays_on_loopback and all(IPv4Address(v.address.host).is_loopback for v in ours):
        yield Finding(
            "loopback-only",
            _grave(facts),
            "The peer on this device listens on loopback alone: no other device reaches it.",
            test,
            "Start it without --interface 127.0.0.1 (also look at SWARM_INTERFACE and swarm.toml).",
        )
    elif ours or any(visit.answer in _SWARM_ANSWERS for visit in own):
        yield Finding("door", Level.OK, "A peer runs on this device.", test)
    elif facts.port:
        title = f"No peer runs on this device at the usual port {facts.port[0].address.port}."
        yield Finding("door", Level.OK, title, f"{test} Nothing listens there.")


def _taken(visit: Visit, holder: str, test: str) -> Finding:
    who = f" {plain(holder)}" if holder else ""
    seen = "no hello came within 3 s" if visit.answer is Answer.BUSY else "what came was not a peer's hello"
    return Finding(
        "port-taken",
        Level.WARN,
        f"Port {visit.address.port} of this device belongs to another program{who or ', or to a peer that hangs'}.",
        f"{test} At {visit.address} {seen}.",
        "Stop it; or join with another --port, and write that one where this device is named with --peer.",
    )


def _grave(facts: Facts) -> Level:
    """Whoever sees peers in spite of it can live with it."""
    return Level.WARN if facts.seen else Level.PROBLEM
