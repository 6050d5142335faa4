"""What `swarm doctor` makes of what it sees, case by case. Pure: no network, no clock."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from ipaddress import IPv4Interface

import pytest

from swarm.doctor import judge
from swarm.doctor.judge import ORDER
from swarm.doctor.machine import in_use
from swarm.doctor.words import (
    Announced,
    Answer,
    Echo,
    Facts,
    Finding,
    Level,
    Machine,
    Mode,
    Network,
    Place,
    Report,
    Source,
    Trust,
    Use,
    Visit,
)
from swarm.transport import PROTOCOL
from swarm.types import Address, PeerId

NOW = dt.datetime(2026, 5, 17, tzinfo=dt.UTC)
TAG, OTHER_TAG = "0a1b2c3d", "ffffffff"
LOOPBACK = Network("lo", IPv4Interface("127.0.0.1/8"), Use.LOOPBACK)
WIFI = Network("wlan0", IPv4Interface("192.168.1.20/24"), Use.USED)
PEER = Address("192.168.1.21", 4747)


def an_id(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


def facts(**changes: object) -> Facts:
    """A device in a good network, with a secret, that sees nobody; with changes."""
    well = Facts(
        Machine(NOW),
        (LOOPBACK, WIFI),
        Trust(Mode.CLOSED, TAG, "the one kept here"),
        PROTOCOL,
        echoes=(Echo(WIFI.host, heard=True),),
        port=(shut("127.0.0.1"), shut(WIFI.host)),
        looked_s=2.0,
    )
    return replace(well, **changes)  # type: ignore[arg-type]


def shut(host: str) -> Visit:
    return Visit(Address(host, 4747), Answer.SHUT, ip=host)


def a_visit(answer: Answer, address: Address = PEER, on_link: bool | None = None, detail: str = "") -> Visit:
    who = {"name": "attic", "id": an_id(1), "hello_s": 0.004} if answer is Answer.HELLO else {}
    return Visit(address, answer, detail, ip=address.host, on_link=on_link, **who)  # type: ignore[arg-type]


def a_place(answer: Answer, *sources: Source, **more: object) -> Place:
    return Place(frozenset(sources or {Source.PEER}), (a_visit(answer, **more),))  # type: ignore[arg-type]


def announced(
    tag: str | None = TAG, address: Address = PEER, version: str = str(PROTOCOL), number: int = 1
) -> Announced:
    return Announced(an_id(number), (address,), tag, version)


SEEN = Place(frozenset({Source.MDNS}), (a_visit(Answer.HELLO),), announced())


def troubles(report: Report) -> list[str]:
    return [finding.code for finding in report.findings if finding.level is not Level.OK]


def the(report: Report, code: str) -> Finding:
    return next(finding for finding in report.findings if finding.code == code)


# All well, and the form of it


def test_all_well() -> None:
    report = judge(facts(announced=(announced(),), places=(SEEN,)))
    assert report.is_well
    assert report.findings[0].code == "sees"
    assert "attic (00000000) at 192.168.1.21:4747 (4 ms)" in report.findings[0].title
    assert report.next_step == "Nothing to do."
    assert troubles(report) == []


def test_every_trouble_has_a_title_a_test_and_a_cure() -> None:
    answers = [a_place(answer, address=Address(f"192.168.1.{n}", 4747)) for n, answer in enumerate(Answer, 100)]
    worst = facts(
        machine=Machine(NOW.replace(year=1970), container="x", is_wsl=True),
        networks=(LOOPBACK, Network("eth0", IPv4Interface("172.17.0.2/16"), Use.USED, does_multicast=False)),
        trust=Trust(Mode.UNUSABLE, trouble="It is torn."),
        places=tuple(place for place in answers if place.best.answer is not Answer.HELLO),
        announced=(announced(None), announced(OTHER_TAG)),
        echoes=(Echo("172.17.0.2", heard=False, error="No buffer space available"),),
        port=(a_visit(Answer.BUSY),),
    )
    report = judge(worst)
    for finding in report.findings:
        assert finding.code in ORDER
        assert finding.title.endswith((".", ")")), finding
        assert finding.test.endswith("."), finding
        assert finding.level is Level.OK or finding.cure.endswith((".", "'.")), finding
    assert len(set(troubles(report))) > 15
    assert [finding.level for finding in report.findings] == sorted(finding.level for finding in report.findings)
    assert report.next_step == report.findings[0].cure


# This device


def test_no_network_at_all_comes_before_what_follows_from_it() -> None:
    report = judge(facts(networks=in_use([LOOPBACK], ()), echoes=(), port=()))
    assert troubles(report) == ["no-network"]


def test_only_a_vpn() -> None:
    vpn = Network("tun0", IPv4Interface("10.8.0.2/24"), Use.ELSEWHERE)
    report = judge(facts(networks=in_use([LOOPBACK, vpn], ())))
    assert report.findings[0].code == "only-tunnels"
    assert "--interface 10.8.0.2" in report.next_step


def test_loopback_that_was_chosen_is_no_problem() -> None:
    networks = in_use([LOOPBACK, WIFI], ["127.0.0.1"])
    assert [network.use for network in networks] == [Use.USED, Use.NOT_CHOSEN]
    there = Place(frozenset({Source.PEER}), (a_visit(Answer.HELLO, Address("127.0.0.1", 5000)),))
    report = judge(facts(networks=networks, is_chosen=True, places=(there,), announced=(announced(),)))
    assert report.is_well
    assert len(report.seen) == 1
    assert "192.168.1.20 (wlan0, not chosen)" in the(report, "network").test


def test_an_address_that_the_device_made_up() -> None:
    networks = in_use([LOOPBACK, Network("eth0", IPv4Interface("169.254.7.7/16"), Use.SELF_ASSIGNED)], ())
    assert the(judge(facts(networks=networks)), "self-assigned").level is Level.WARN


@pytest.mark.parametrize(("year", "is_wrong"), [(1970, True), (2023, True), (2024, False), (2099, False), (2137, True)])
def test_an_absurd_clock(year: int, is_wrong: bool) -> None:
    report = judge(facts(machine=Machine(NOW.replace(year=year))))
    assert (report.findings[0].code == "clock") is is_wrong


@pytest.mark.parametrize(("system", "word"), [("linux", "timedatectl"), ("darwin", "sntp"), ("win32", "w32tm")])
def test_the_cure_of_a_clock_is_for_this_system(system: str, word: str) -> None:
    assert word in judge(facts(machine=Machine(NOW.replace(year=1970), system))).next_step


def test_no_secret_while_a_swarm_is_here() -> None:
    report = judge(facts(trust=Trust(Mode.NONE), announced=(announced(OTHER_TAG),)))
    assert troubles(report) == ["no-secret"]
    assert report.next_step.startswith("Run `swarm invite`")
    assert "begin a swarm" in judge(facts(trust=Trust(Mode.NONE))).next_step


def test_a_secret_that_cannot_be_used() -> None:
    report = judge(facts(trust=Trust(Mode.UNUSABLE, trouble="It was mistyped.")))
    assert "It was mistyped." in the(report, "secret-unusable").test


@pytest.mark.parametrize(("mode", "level"), [(Mode.UNUSABLE, Level.PROBLEM), (Mode.CLOSED, Level.WARN)])
def test_files_that_others_can_read(mode: Mode, level: Level) -> None:
    trouble = "Others can get at /home/me/secret." if mode is Mode.UNUSABLE else ""
    report = judge(facts(trust=Trust(mode, TAG, trouble=trouble, loose=("/home/me/secret",))))
    assert "secret-unusable" not in troubles(report)
    assert the(report, "loose-permissions").level is level
    assert "chmod 600 /home/me/secret" in the(report, "loose-permissions").cure


@pytest.mark.parametrize(
    ("address", "mark", "found"),
    [
        ("172.17.0.2/16", "the file /.dockerenv", True),
        ("10.88.0.4/16", "the variable container=podman", True),
        ("192.168.1.20/24", "the file /.dockerenv", False),
        ("172.17.0.2/16", "", False),
    ],
)
def test_a_container_behind_a_bridge(address: str, mark: str, found: bool) -> None:
    networks = (LOOPBACK, Network("eth0", IPv4Interface(address), Use.USED))
    report = judge(facts(machine=Machine(NOW, container=mark), networks=networks))
    assert ("container" in troubles(report)) is found


@pytest.mark.parametrize(("address", "found"), [("172.29.80.3/20", True), ("192.168.1.20/24", False)])
def test_wsl_behind_windows_and_mirrored(address: str, found: bool) -> None:
    networks = (LOOPBACK, Network("eth0", IPv4Interface(address), Use.USED))
    report = judge(facts(machine=Machine(NOW, is_wsl=True), networks=networks))
    assert ("wsl" in troubles(report)) is found
    assert not found or "networkingMode=mirrored" in report.next_step


@pytest.mark.parametrize(
    ("system", "echo", "code", "word"),
    [
        ("linux", Echo(WIFI.host, False, "No such device"), "multicast-blocked", "--peer"),
        ("linux", Echo(WIFI.host, False), "multicast-unheard", "5353/udp"),
        ("win32", Echo(WIFI.host, False), "multicast-unheard", "Defender"),
        ("darwin", Echo(WIFI.host, False, "No route to host"), "local-permission", "Over SSH"),
    ],
)
def test_multicast_that_does_not_come_back(system: str, echo: Echo, code: str, word: str) -> None:
    seen_in_spite = facts(machine=Machine(NOW, system, is_remote=True), echoes=(echo,), places=(SEEN,))
    report = judge(replace(seen_in_spite, places=()))
    assert report.findings[0].code == code
    assert word in report.next_step
    assert "nobody" not in troubles(report), "it follows from the other"
    assert the(judge(seen_in_spite), code).level is Level.WARN


def test_an_interface_that_does_no_multicast() -> None:
    report = judge(facts(networks=(LOOPBACK, replace(WIFI, does_multicast=False))))
    assert "ip link set wlan0 multicast on" in the(report, "no-multicast-flag").cure


def at_home(loopback: Answer, lan: Answer, **changes: object) -> Report:
    port = (a_visit(loopback, Address("127.0.0.1", 4747)), a_visit(lan, Address(WIFI.host, 4747)))
    return judge(facts(port=port, **changes))


def test_the_own_door() -> None:
    assert the(at_home(Answer.HELLO, Answer.SILENT), "own-firewall").level is Level.PROBLEM
    assert "4747/tcp" in the(at_home(Answer.HELLO, Answer.SILENT), "own-firewall").cure
    assert "loopback alone" in the(at_home(Answer.HELLO, Answer.SHUT), "loopback-only").title
    assert the(at_home(Answer.HELLO, Answer.HELLO), "door").title == "A peer runs on this device."
    assert "No peer runs" in the(at_home(Answer.SHUT, Answer.SHUT), "door").title
    taken = the(at_home(Answer.NOT_SWARM, Answer.NOT_SWARM, holder="nc (pid 3)"), "port-taken")
    assert "nc (pid 3)" in taken.title
    assert taken.level is Level.WARN


def test_a_peer_of_this_device_on_another_port_is_not_one_that_is_seen() -> None:
    own = a_place(Answer.HELLO, Source.MDNS, address=Address(WIFI.host, 5000))
    report = judge(facts(places=(own,), announced=(announced(address=Address(WIFI.host, 5000)),)))
    assert report.seen == ()
    assert "nobody" in troubles(report)
    silent = a_place(Answer.SILENT, Source.MDNS, address=Address(WIFI.host, 5000))
    assert "5000/tcp" in the(judge(facts(places=(silent,))), "own-firewall").cure


# Others


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (Answer.VERSION, "version", "same version"),
        (Answer.CLOCK_HERE, "clock-here", "timedatectl"),
        (Answer.CLOCK_THERE, "clock-there", "clock of that device"),
        (Answer.TURNED_AWAY, "turned-away", "what it says"),
        (Answer.OTHER_SWARM, "other-swarm", "swarm join --code"),
        (Answer.SECURED_THERE, "secured-there", "--open"),
        (Answer.OPEN_THERE, "open-there", "--open"),
        (Answer.NOT_SWARM, "not-a-peer", "port"),
        (Answer.BUSY, "busy", "suspended"),
        (Answer.SHUT, "refused", "swarm join"),
        (Answer.SILENT, "silent", "switched on"),
        (Answer.FORBIDDEN, "forbidden", "firewall"),
        (Answer.NO_ROUTE, "no-route", "same network"),
        (Answer.NO_NAME, "unknown-name", "IP address"),
        (Answer.UNKNOWN, "unknown", "again"),
    ],
)
def test_what_an_answer_means(answer: Answer, code: str, words: str) -> None:
    report = judge(facts(places=(a_place(answer, detail="So it was."),), announced=(announced(OTHER_TAG, number=9),)))
    found = the(report, code)
    assert found.level is Level.PROBLEM
    assert str(PEER) in found.title
    assert words in found.cure
    assert "--peer" in found.test


def test_a_silent_place_may_be_a_firewall_or_another_network() -> None:
    assert (
        "ufw allow 4747/tcp" in the(judge(facts(places=(a_place(Answer.SILENT, on_link=True),))), "peer-firewall").cure
    )
    far = a_place(Answer.SILENT, address=Address("10.5.5.5", 4747))
    assert "guest Wi-Fi" in the(judge(facts(places=(far,))), "other-network").cure


def test_an_old_address_is_a_warning_when_others_answer() -> None:
    old = a_place(Answer.SHUT, Source.KNOWN, address=Address("192.168.1.99", 4747))
    assert the(judge(facts(places=(old,))), "refused").level is Level.PROBLEM
    assert the(judge(facts(places=(old, SEEN))), "refused").level is Level.WARN
    assert the(judge(facts(places=(replace(old, sources=frozenset(Source)), SEEN))), "refused").level is Level.PROBLEM


def test_a_peer_that_answers_at_one_of_its_addresses_is_well() -> None:
    both = Place(
        frozenset({Source.MDNS}), (a_visit(Answer.SILENT, Address("10.9.9.9", 4747)), *SEEN.visits), announced()
    )
    assert judge(facts(places=(both,), announced=(announced(),))).is_well


def test_those_that_fail_alike_are_told_of_together() -> None:
    many = tuple(a_place(Answer.SHUT, address=Address(f"192.168.1.{n}", 4747)) for n in range(50, 60))
    report = judge(facts(places=many))
    assert [f.code for f in report.findings].count("refused") == 1
    assert "192.168.1.50:4747" in the(report, "refused").title
    assert "and 6 more" in the(report, "refused").title


def test_another_swarm_next_door() -> None:
    report = judge(facts(announced=(announced(OTHER_TAG), announced(None, number=2))))
    assert troubles(report) == ["other-swarm", "open-there"]
    assert OTHER_TAG in the(report, "other-swarm").title
    assert TAG in the(report, "other-swarm").title
    assert judge(facts(announced=(announced(OTHER_TAG), announced()), places=(SEEN,))).is_well


def test_an_open_device_among_secured_ones() -> None:
    report = judge(facts(trust=Trust(Mode.OPEN), announced=(announced(),)))
    assert troubles(report) == ["secured-there"]


def test_another_version_that_is_announced() -> None:
    report = judge(facts(announced=(announced(version="7"),)))
    assert troubles(report) == ["version"]
    assert "(7; this device" in report.findings[0].title


def test_a_twin_is_announced_elsewhere_and_not_here() -> None:
    mine = Trust(Mode.CLOSED, TAG, own_ids=frozenset({an_id(1)}))
    there = replace(SEEN, visits=(a_visit(Answer.HELLO),))
    twin = the(judge(facts(trust=mine, announced=(announced(),), places=(there,))), "twin")
    assert twin.level is Level.PROBLEM
    assert "--new-identity" in twin.cure
    here = announced(address=Address(WIFI.host, 4747))
    assert "twin" not in troubles(judge(facts(trust=mine, announced=(here,))))


def test_two_devices_with_one_key_share_one_record() -> None:
    mine = Trust(Mode.CLOSED, TAG, own_ids=frozenset({an_id(1)}))
    shared = replace(announced(), addresses=(Address(WIFI.host, 4747), *announced().addresses))
    theirs = a_visit(Answer.HELLO)
    ours = replace(theirs, address=Address(WIFI.host, 4747))
    both = replace(SEEN, announced=shared, visits=(ours, theirs))
    assert str(theirs.address) in the(judge(facts(trust=mine, announced=(shared,), places=(both,))), "twin").title
    alone = replace(both, visits=(ours,))
    assert "twin" not in troubles(judge(facts(trust=mine, announced=(shared,), places=(alone,))))


def test_whoever_announces_this_devices_id_without_its_key_is_no_twin() -> None:
    mine = Trust(Mode.CLOSED, TAG, own_ids=frozenset({an_id(1)}))
    for answer, peer in ((Answer.SILENT, None), (Answer.OTHER_SWARM, None), (Answer.HELLO, an_id(2))):
        there = replace(SEEN, visits=(replace(a_visit(answer), id=peer),))
        own = announced(address=Address(WIFI.host, 4747))
        here = replace(SEEN, announced=own)  # its own peer has the key, and that proves nothing of the other
        report = judge(facts(trust=mine, announced=(announced(), own), places=(there, here)))
        assert "twin" not in troubles(report)
        assert the(report, "namesake").level is Level.WARN


def test_nobody_is_there() -> None:
    assert troubles(judge(facts())) == ["nobody"]
    assert "keep its devices apart" in judge(facts()).next_step
    heard = judge(facts(echoes=(Echo(WIFI.host, heard=True, others=3),)))
    assert "multicast arrives" in heard.findings[0].title
    assert "apart" not in heard.next_step
    assert judge(facts(looked_s=0.0, echoes=())).is_well, "who was told not to look cannot say that nobody is there"


def test_client_isolation_comes_before_each_silent_peer() -> None:
    report = judge(facts(places=(a_place(Answer.SILENT, Source.KNOWN),)))
    assert troubles(report) == ["isolated", "silent"]
    assert "AP isolation" in report.next_step
    heard = judge(facts(places=(a_place(Answer.SILENT),), echoes=(Echo(WIFI.host, heard=True, others=1),)))
    assert troubles(heard) == ["silent", "nobody"]


def test_a_network_without_multicast_between_devices() -> None:
    report = judge(facts(places=(replace(SEEN, sources=frozenset({Source.PEER}), announced=None),)))
    assert troubles(report) == ["multicast-filtered"]
    assert report.is_well


def test_names_from_the_network_cannot_drive_the_terminal() -> None:
    rude = Visit(PEER, Answer.HELLO, name="at\x1b[2Jtic", id=an_id(1), ip=PEER.host)
    assert "\x1b" not in the(judge(facts(places=(Place(frozenset({Source.PEER}), (rude,)),))), "sees").title
