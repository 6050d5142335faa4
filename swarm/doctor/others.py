"""What is wrong with other peers, or with the way to them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from swarm.doctor.device import clock_cure
from swarm.doctor.words import PORT, Announced, Answer, Facts, Finding, Level, Mode, Place, Source, Visit
from swarm.errors import plain
from swarm.types import Address

MOST_NAMED: Final = 4
CODE_CURE: Final = "Run `swarm invite` on a device of the other swarm, and `swarm join --code CODE` here."
SAME_VERSION: Final = "Install the same version of swarm on all devices (`swarm --version` shows it)."


@dataclass(frozen=True, slots=True)
class _Reading:
    """What an answer means; `{at}` is where, `{detail}` what the other side said."""

    code: str
    title: str
    cure: str
    seen: str
    is_always_bad: bool = False


_READINGS: Final = {
    Answer.VERSION: _Reading(
        "version",
        "At {at} another version of the swarm's protocol is spoken.",
        SAME_VERSION,
        "the hellos differ in version",
        is_always_bad=True,
    ),
    Answer.CLOCK_HERE: _Reading(
        "clock-here",
        "At {at} the certificate is not valid at the time which this device's clock tells.",
        "Compare the clocks of both devices; this one's can be set with {clock}. If both are right, run "
        "`swarm join --new-identity` there.",
        "{detail}",
        is_always_bad=True,
    ),
    Answer.CLOCK_THERE: _Reading(
        "clock-there",
        "At {at} a peer of this swarm refuses this device's certificate; most likely its clock is wrong.",
        "Set the clock of that device; on Linux: sudo timedatectl set-ntp true.",
        "{detail}",
        is_always_bad=True,
    ),
    Answer.TURNED_AWAY: _Reading(
        "turned-away",
        "At {at} a peer turned this device away.",
        "Do what it says, or try again in a moment.",
        "{detail}",
    ),
    Answer.OTHER_SWARM: _Reading(
        "other-swarm",
        "At {at} is another swarm, which holds another secret than this device.",
        CODE_CURE,
        "TLS was refused, for the certificates come from different secrets",
    ),
    Answer.SECURED_THERE: _Reading(
        "secured-there",
        "At {at} all is encrypted, and this device is told to be --open.",
        "Run all devices with --open, or all without.",
        "it answered by TLS alone",
    ),
    Answer.OPEN_THERE: _Reading(
        "open-there",
        "At {at} nothing is encrypted, as --open says, and this device is not --open.",
        "Run all devices with --open, or all without.",
        "it answered a hello without encryption alone",
    ),
    Answer.NOT_SWARM: _Reading(
        "not-a-peer",
        "At {at} something listens that is no swarm peer.",
        "Check the port; `swarm join` says it when it starts.",
        "what came was no hello",
    ),
    Answer.BUSY: _Reading(
        "busy",
        "At {at} connections are taken and nothing is said: the peer hangs or is stopped, or it is another program.",
        "Look at that device: is it out of memory, or was the process suspended? Start `swarm join` there again.",
        "no hello came within 3 s",
    ),
    Answer.SHUT: _Reading(
        "refused",
        "At {at} nothing listens: the device is there, and swarm does not run on that port.",
        "Run `swarm join` there; it says its address and port when it starts.",
        "the connection was refused",
    ),
    Answer.FORBIDDEN: _Reading(
        "forbidden",
        "This device may not connect to {at}: a firewall or a sandbox on it says no.",
        "Allow outgoing connections of Python to the LAN in this device's firewall.",
        "the operating system forbade it",
    ),
    Answer.NO_ROUTE: _Reading(
        "no-route",
        "This device has no way to {at}.",
        "Connect both devices to the same network, and check the address.",
        "the operating system has no route",
    ),
    Answer.NO_NAME: _Reading(
        "unknown-name",
        "Nobody here knows the name in {at}.",
        "Write the IP address instead, as in --peer 192.168.1.20:4747.",
        "the name does not resolve",
    ),
    Answer.UNKNOWN: _Reading(
        "unknown",
        "Whether a peer is at {at} could not be told.",
        "Try again; this device may have been too busy.",
        "neither an answer nor an error came",
    ),
}
_SILENT: Final = _Reading(
    "silent",
    "At {at} nobody answers: the device is off, asleep or unplugged, or its address has changed.",
    "Check that it is switched on and in the same network; `swarm join` there says its address.",
    "nothing came back",
)
_FIREWALL: Final = _Reading(
    "peer-firewall",
    "At {at} nobody answers, though the device was on this network just now: its firewall drops the port, or it left.",
    "If it is still on, allow the port there: sudo ufw allow {port}/tcp; in Windows, let Python through its firewall.",
    "nothing came back, and its network card is in this device's ARP table",
)
_ELSEWHERE: Final = _Reading(
    "other-network",
    "At {at} nobody answers, and that is another network than this device's.",
    "Put both devices in the same network; a guest Wi-Fi is another one.",
    "nothing came back, and no network of this device holds that address",
)


def sees(facts: Facts) -> Iterator[Finding]:
    if facts.seen:
        named = [f"{_who(visit)} at {visit.address} ({visit.hello_s * 1000:.0f} ms)" for visit in facts.seen]
        title = f"Sees {len(named)} peer{'s' * (len(named) > 1)}: {_some(named)}."
        yield Finding("sees", Level.OK, title, "Knocked, agreed on encryption and said hello to each.")


def twins(facts: Facts) -> Iterator[Finding]:
    """Anybody can announce any id; a twin is who answered elsewhere with the key that belongs to it.

    Two devices with one key share one record in mDNS, so that its addresses may be this device's, too.
    """
    own = {network.host for network in facts.networks}
    for each in facts.announced:
        elsewhere = [address for address in each.addresses if address.host not in own]
        if each.id not in facts.trust.own_ids or not elsewhere:
            continue
        visits = [visit for place in facts.places if place.announced == each for visit in place.visits]
        proven = [v.address for v in visits if v.answer is Answer.HELLO and v.id == each.id and v.address in elsewhere]
        if proven:
            yield _twin(each, proven[0])
        elif len(elsewhere) == len(each.addresses):
            yield _namesake(each)


def _twin(each: Announced, where: Address) -> Finding:
    return Finding(
        "twin",
        Level.PROBLEM,
        f"Another device, at {where}, runs with a key of this one ({each.id[:8]}): the configuration of "
        "one was copied to the other, and peers take the two for one.",
        "Compared the ids that are announced with those of the keys in this device's folder; it proved to have the "
        "key.",
        "Run `swarm join --new-identity` on one of the two.",
    )


def _namesake(each: Announced) -> Finding:
    return Finding(
        "namesake",
        Level.WARN,
        f"At {each.addresses[0]} a peer with the id of this device ({each.id[:8]}) is announced, and nobody there "
        "proves to have its key: an old address of this device, or somebody who makes it up.",
        "Compared the ids that are announced with those of the keys in this device's folder, and said hello there.",
        "Nothing, unless this device's configuration was copied to that one: then run `swarm join --new-identity` on "
        "one of the two.",
    )


def versions(facts: Facts) -> Iterator[Finding]:
    others = _of_other_versions(facts)
    if others:
        theirs = ", ".join(sorted({each.version or "none" for each in others}))
        yield Finding(
            "version",
            Level.PROBLEM,
            f"{_count(others)} of this swarm speak{'s' * (len(others) == 1)} another version of the protocol "
            f"({theirs}; this device {facts.protocol}): {_some([str(each.addresses[0]) for each in others])}.",
            "Read the versions in what is announced by mDNS.",
            SAME_VERSION,
        )


def failures(facts: Facts) -> Iterator[Finding]:
    """Places where a hello should have come and did not; those that fail alike are told of together."""
    alike: dict[tuple[Level, _Reading], list[Place]] = {}
    told = {address for each in _of_other_versions(facts) for address in each.addresses}
    for place in facts.places:
        is_told = place.best.answer is Answer.VERSION and place.best.address in told
        if place.best.answer is not Answer.HELLO and not is_told and not facts.is_own(place.best.address):
            reading = _reading(facts, place.best)
            alike.setdefault((_level(facts, place, reading), reading), []).append(place)
    for (level, reading), places in alike.items():
        visit = places[0].best
        words = {
            "at": _some([str(place.best.address) for place in places]),
            "port": str(visit.address.port),
            "clock": clock_cure(facts.machine),
            "detail": visit.detail,
        }
        sources = " and ".join(sorted({source for place in places for source in place.sources}))
        test = f"Knocked, and said hello where a door was open (told of by {sources}): "
        title, seen, cure = (text.format_map(words) for text in (reading.title, reading.seen, reading.cure))
        yield Finding(reading.code, level, title, test + _end(seen), cure)


def _of_other_versions(facts: Facts) -> list[Announced]:
    return [each for each in facts.announced if facts.is_ours(each) and each.version != str(facts.protocol)]


def _reading(facts: Facts, visit: Visit) -> _Reading:
    if visit.answer is Answer.SILENT:
        if not facts.is_near(visit):
            return _ELSEWHERE
        return _FIREWALL if visit.on_link else _SILENT
    reading = _READINGS[visit.answer]
    if visit.answer is Answer.OTHER_SWARM and facts.trust.mode is not Mode.CLOSED:
        title = "At {at} is a swarm that lets nobody in without its secret, which this device does not hold."
        return _Reading(reading.code, title, reading.cure, reading.seen)
    return reading


def _level(facts: Facts, place: Place, reading: _Reading) -> Level:
    """An old address among others that answer is no problem; what a person named or announces itself is."""
    if reading.is_always_bad or Source.PEER in place.sources or not facts.seen:
        return Level.PROBLEM
    return Level.WARN


def strangers(facts: Facts) -> Iterator[Finding]:
    """Peers that are announced, and not in the swarm that this device would enter."""
    level = Level.OK if facts.seen else Level.PROBLEM
    test = "Read the tags in what is announced by mDNS; a tag comes from the secret, and does not tell it."
    others = [each for each in _elsewhere(facts) if not facts.is_ours(each)]
    secured = [each for each in others if each.tag is not None]
    bare = [each for each in others if each.tag is None]
    if secured and facts.trust.mode is Mode.CLOSED:
        tags = ", ".join(sorted({each.tag or "" for each in secured}))
        title = f"{_count(secured)} of another swarm (tag {tags}; this device's is {facts.trust.tag}) announced here."
        yield Finding(
            "other-swarm", level, _is_or_are(title, secured), test, CODE_CURE if level is not Level.OK else ""
        )
    if secured and facts.trust.mode is Mode.OPEN:
        cure = "Run all devices with --open, or all without."
        title = f"{_count(secured)} of a swarm that is not open announced here, and this device is told to be --open."
        yield Finding("secured-there", level, _is_or_are(title, secured), test, cure if level is not Level.OK else "")
    if bare:
        cure = "Run all devices with --open, or all without."
        title = f"{_count(bare)} of an open swarm announced here, and this device is not told to be --open."
        yield Finding("open-there", level, _is_or_are(title, bare), test, cure if level is not Level.OK else "")


def nobody(facts: Facts) -> Iterator[Finding]:
    """Why mDNS shows nobody, where this device's own part of it works."""
    if not facts.looked_s or _elsewhere(facts) or (facts.stays_on_loopback and not facts.is_chosen):
        return
    if not all(echo.heard for echo in facts.echoes):
        return
    test = f"Listened to mDNS for {facts.looked_s:g} s; this device's own packet came back, and no peer was announced."
    near = [p.best for p in facts.places if p.best.answer is Answer.SILENT and facts.is_near(p.best)]
    others = sum(echo.others for echo in facts.echoes)
    if facts.seen:
        yield Finding(
            "multicast-filtered",
            Level.WARN,
            "Peers answer at their addresses and are not announced: the network does not carry multicast between "
            "devices, or they run with --no-mdns.",
            test,
            "In the access point or switch, allow multicast (turn off its filter, or IGMP snooping without a querier); "
            "or keep naming peers with --peer.",
        )
    elif near and not others:
        yield Finding(
            "isolated",
            Level.PROBLEM,
            "Nobody is heard and no known address answers: if those devices are on, the network keeps its devices "
            "apart (client isolation, or a guest network).",
            f"{test} {_some([str(visit.address) for visit in near])} did not answer either.",
            "Check that the others are on; then put all devices in the same network, not a guest one, and turn off "
            "client isolation (AP isolation) in the access point.",
        )
    else:
        yield _alone(others, test)


def _alone(others: int, test: str) -> Finding:
    name = f"name one here: swarm doctor --peer HOST:{PORT}"
    if others:
        title = (
            "No peer is announced, though other devices' multicast arrives: swarm runs nowhere else on this network."
        )
        cure = f"Run `swarm join` on another device. If it runs there, {name}."
    else:
        title = "No other peer is announced on this network."
        cure = f"Run `swarm join` on another device. If it runs there, the network may keep its devices apart: {name}."
    return Finding("nobody", Level.PROBLEM, title, f"{test} Other devices' mDNS: {others or 'none'}.", cure)


def _elsewhere(facts: Facts) -> list[Announced]:
    """What is announced and not by this device itself."""
    return [each for each in facts.announced if not all(facts.is_own(address) for address in each.addresses)]


def _count(peers: Sequence[Announced]) -> str:
    many = len({each.id for each in peers})
    return f"{many} peer{'s' * (many != 1)}"


def _is_or_are(title: str, peers: Sequence[Announced]) -> str:
    return title.replace(" announced here", f" {'is' if len({p.id for p in peers}) == 1 else 'are'} announced here", 1)


def _who(visit: Visit) -> str:
    return plain(f"{visit.name} ({str(visit.id)[:8]})")


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - MOST_NAMED} more" if len(texts) > MOST_NAMED else ""
    return ", ".join(plain(text) for text in texts[:MOST_NAMED]) + more


def _end(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."
