"""`swarm doctor` on a LAN in a box, where each thing that it tells of really is so."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from swarm.identity import Keyring
from swarm.known import write_known
from swarm.secret import Secret
from swarm.transport import PROTOCOL
from swarm.types import Address
from tests.e2e.command import SWARM, env, joined
from tests.lab import Lab, ip

pytestmark = [pytest.mark.timeout(180), pytest.mark.may_block("it watches processes")]

STRANGERS = Path(__file__).parents[1] / "strangers.py"
DOCTOR, OURS, OTHERS, OPEN, ODD, MOVED = range(6)
"""Devices: the doctor's; a peer of this swarm, of another, of an open one; odd peers; one whose network is changed."""
VERSION, FUTURE, PAST, MUTE, BABBLE, FULL = range(5001, 5007)
"""Ports on the device of odd peers."""
WAIT_S = "5"  # a dozen of them start at once on slow machines
NAME_PROBING_S = 1.5
"""What mDNS takes before it announces a peer, and a little more."""


@dataclass
class Report:
    """What the doctor printed as JSON."""

    json: dict[str, Any]
    exit_code: int
    took_s: float

    def level(self, code: str, *words: str) -> str | None:
        """Of the findings with that code whose title or cure has all words, the first; None without any."""
        for each in self.json["findings"]:
            if each["code"] == code and all(word in f"{each['title']} {each['cure']}" for word in words):
                return str(each["level"])
        return None

    @property
    def codes(self) -> list[str]:
        return [each["code"] for each in self.json["findings"] if each["level"] != "ok"]


@dataclass
class Lan:
    lab: Lab
    folder: Path
    secret: Secret

    def home(self, name: str, secret: Secret | None = None, known: Sequence[Address] = ()) -> Path:
        """A user's folder with that secret, or without."""
        home = self.folder / name
        home.mkdir(mode=0o700, exist_ok=True)
        if secret is not None:
            Keyring(home).keep(secret)
        if known:
            write_known(home / "cache" / "swarm" / "known-peers.json", known)
        return home

    def address(self, device: int, port: int = 4747) -> str:
        return f"{self.lab.address(device)}:{port}"

    def doctor(
        self, *flags: str, home: Path, device: int = DOCTOR, variables: dict[str, str] | None = None
    ) -> Callable[[], Report]:
        """Start it; what is returned waits for its report."""
        argv = [*SWARM, "doctor", "--json", "--wait", WAIT_S, *flags]
        variables = env(self.lab, home) | (variables or {})
        start = monotonic()
        process = self.lab.popen(device, argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)

        def report() -> Report:
            out, err = process.communicate(timeout=30)
            assert not err, err
            return Report(json.loads(out), process.returncode, monotonic() - start)

        return report

    def examine(self, *flags: str, home: Path, device: int = DOCTOR, variables: dict[str, str] | None = None) -> Report:
        return self.doctor(*flags, home=home, device=device, variables=variables)()

    def ip(self, device: int, *words: str) -> None:
        ip("-n", self.lab.namespace(device), *words)

    def switch(self, device: int, *words: str) -> None:
        """Set a port of the switch."""
        ip("-n", self.lab.hub, "link", "set", f"p{device}", "type", "bridge_slave", *words)

    def sysctl(self, device: int, setting: str) -> None:
        argv = ["sysctl", "-q", "-w", setting]
        assert self.lab.popen(device, argv).wait(5) == 0


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    with Lab(6) as lab, ExitStack() as stack:
        lan = Lan(lab, tmp_path_factory.mktemp("doctor"), Secret.new())
        ours, others = lan.home("ours", lan.secret), lan.home("others", Secret.new())
        _strangers(lan)
        stack.enter_context(joined(name="ant", lab=lab, device=OURS, home=ours))
        stack.enter_context(joined(name="wasp", lab=lab, device=OTHERS, home=others))
        stack.enter_context(joined("--open", name="moth", lab=lab, device=OPEN, home=lan.home("open")))
        sleep(NAME_PROBING_S)
        yield lan


def _strangers(lan: Lan) -> None:
    secret = lan.secret.reveal()
    odd: list[dict[str, Any]] = [
        {"kind": "peer", "port": VERSION, "secret": secret, "protocol": PROTOCOL + 1, "announce": lan.lab.address(ODD)},
        {"kind": "peer", "port": FUTURE, "secret": secret, "years": (2090, 2100)},
        {"kind": "peer", "port": PAST, "secret": secret, "years": (2001, 2002)},
        {"kind": "mute", "port": MUTE},
        {"kind": "mute", "port": 4747},
        {"kind": "babble", "port": BABBLE},
        {"kind": "full", "port": FULL},
    ]
    _start(lan, ODD, *odd)


def _start(lan: Lan, device: int, *odd: dict[str, Any]) -> None:
    argv = [sys.executable, "-P", str(STRANGERS), *(json.dumps(each) for each in odd)]
    process = lan.lab.popen(device, argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"


@pytest.fixture(scope="module")
def reports(lan: Lan) -> dict[str, Report]:
    """Of all cases in which nobody touches the network, at once: each takes seconds, most of them waiting."""
    plain = lan.home("plain", lan.secret)
    loose = lan.home("loose", lan.secret)
    (loose / "secret").chmod(0o644)
    copied = lan.folder / "copied"
    shutil.copytree(lan.home("ours"), copied)
    dead = [Address(lan.lab.address(DOCTOR), 4999), Address(lan.lab.address(OURS), 4999)]
    here = [Address(lan.lab.address(OURS), 4747)]
    odd = [address for port in range(VERSION, FULL + 1) for address in ("--peer", lan.address(ODD, port))]
    gone = ("--peer", "10.77.0.99:4747", "--peer", "10.99.0.1:4747", "--peer", "nobody.invalid:4747")
    waiting = {
        "well": lan.doctor(home=plain),
        "odd": lan.doctor(*odd, *gone, "--no-mdns", home=plain),
        "foreign": lan.doctor("--peer", lan.address(OURS), home=lan.home("foreign", Secret.new())),
        "no secret": lan.doctor("--peer", lan.address(OURS), home=lan.home("nobody")),
        "loose": lan.doctor(home=loose),
        "open": lan.doctor("--open", "--peer", lan.address(OURS), home=plain),
        "open there": lan.doctor("--no-mdns", "--peer", lan.address(OPEN), home=plain),
        "copied": lan.doctor(home=copied),
        "known": lan.doctor("--no-mdns", home=lan.home("known", lan.secret, [*here, *dead])),
        "dead": lan.doctor("--no-mdns", home=lan.home("dead", lan.secret, dead[1:])),
        "taken": lan.doctor("--no-mdns", home=plain, device=ODD),
    }
    return {name: wait() for name, wait in waiting.items()}


def test_it_says_whom_it_sees_and_how_long_a_hello_took(reports: dict[str, Report]) -> None:
    report = reports["well"]
    assert [peer["name"] for peer in report.json["peers"]] == ["ant"]
    assert 0 < report.json["peers"][0]["hello_s"] < 1
    assert report.level("sees", "ant") == "ok"
    assert report.level("multicast") == "ok"
    assert report.level("other-swarm") == "ok", "another swarm next door is no trouble for who sees its own"
    assert set(report.json) == {"ok", "findings", "next", "peers"}
    assert all(set(each) == {"code", "level", "title", "test", "cure"} for each in report.json["findings"])


@pytest.mark.parametrize(
    ("code", "port"),
    [
        ("version", VERSION),
        ("clock-here", FUTURE),
        ("clock-here", PAST),
        ("busy", MUTE),
        ("not-a-peer", BABBLE),
        ("peer-firewall", FULL),
    ],
)
def test_what_stops_an_open_door(reports: dict[str, Report], lan: Lan, code: str, port: int) -> None:
    assert reports["odd"].level(code, lan.address(ODD, port)) == "problem", reports["odd"].json
    assert reports["odd"].exit_code == 1


@pytest.mark.parametrize(
    ("code", "address"),
    [("silent", "10.77.0.99:4747"), ("no-route", "10.99.0.1:4747"), ("unknown-name", "nobody.invalid:4747")],
)
def test_what_stops_a_knock(reports: dict[str, Report], code: str, address: str) -> None:
    assert reports["odd"].level(code, address) == "problem"


def test_another_version_is_read_from_what_is_announced(reports: dict[str, Report], lan: Lan) -> None:
    assert reports["well"].level("version", lan.address(ODD, VERSION), str(PROTOCOL + 1)) == "problem"


def test_another_secret(reports: dict[str, Report], lan: Lan) -> None:
    report = reports["foreign"]
    assert report.level("other-swarm", lan.address(OURS), "swarm join --code") == "problem"
    assert report.level("other-swarm", "3 peers of another swarm") == "problem"
    assert report.level("open-there", "1 peer") == "problem"
    assert report.json["peers"] == []


def test_no_secret(reports: dict[str, Report], lan: Lan) -> None:
    report = reports["no secret"]
    assert report.codes[0] == "no-secret"
    assert "swarm join --code" in report.json["next"]
    assert report.level("other-swarm", lan.address(OURS), "does not hold") == "problem"


def test_a_secret_that_others_can_read(reports: dict[str, Report]) -> None:
    report = reports["loose"]
    assert report.codes[0] == "loose-permissions"
    assert "chmod 600" in report.json["next"]


def test_one_side_is_open(reports: dict[str, Report], lan: Lan) -> None:
    assert [peer["name"] for peer in reports["open"].json["peers"]] == ["moth"]
    assert reports["open"].level("secured-there", lan.address(OURS)) == "problem"
    assert reports["open there"].level("open-there", lan.address(OPEN)) == "problem"


def test_a_copied_configuration(reports: dict[str, Report], lan: Lan) -> None:
    assert reports["copied"].level("twin", lan.lab.address(OURS), "--new-identity") == "problem"


def test_a_dead_peer_among_the_last_known(reports: dict[str, Report], lan: Lan) -> None:
    address = lan.address(OURS, 4999)
    assert reports["known"].level("refused", address) == "warning"
    assert reports["known"].exit_code == 0
    assert reports["dead"].level("refused", address) == "problem"
    assert reports["dead"].exit_code == 1


def test_the_port_is_taken(reports: dict[str, Report]) -> None:
    assert reports["taken"].level("port-taken", "4747", "python", "pid") == "warning"


# Cases in which the network itself is changed, one after another


@pytest.fixture
def plain(lan: Lan) -> Path:
    return lan.home("plain", lan.secret)


def test_multicast_that_a_device_cannot_do(lan: Lan, plain: Path) -> None:
    lan.sysctl(MOVED, "net.ipv4.igmp_max_memberships=0")
    try:
        alone = lan.doctor(home=plain, device=MOVED)
        named = lan.doctor("--peer", lan.address(OURS), home=plain, device=MOVED)
        assert alone().level("multicast-blocked", lan.lab.address(MOVED), "igmp_max_memberships") == "problem"
        assert named().level("multicast-blocked") == "warning", "who sees peers all the same can live with it"
    finally:
        lan.sysctl(MOVED, "net.ipv4.igmp_max_memberships=20")


def test_multicast_that_the_network_does_not_carry(lan: Lan, plain: Path) -> None:
    for device in range(lan.lab.size):
        lan.switch(device, "mcast_flood", "off")
    try:
        named = lan.doctor("--peer", lan.address(OURS), home=plain)
        alone = lan.doctor(home=plain)
        assert named().level("multicast-filtered") == "warning"
        assert alone().level("nobody", "--peer") == "problem"
    finally:
        for device in range(lan.lab.size):
            lan.switch(device, "mcast_flood", "on")


def test_a_network_that_keeps_its_devices_apart(lan: Lan) -> None:
    known = [Address(lan.lab.address(device), 4747) for device in (OURS, OTHERS)]
    home = lan.home("isolated", lan.secret, known)
    for device in range(lan.lab.size):
        lan.switch(device, "isolated", "on")
    try:
        report = lan.examine(home=home)
    finally:
        for device in range(lan.lab.size):
            lan.switch(device, "isolated", "off")
    assert report.codes[0] == "isolated"
    assert "client isolation" in report.json["next"]
    assert report.level("multicast") == "ok"


def test_an_unplugged_peer_is_silent(lan: Lan, plain: Path) -> None:
    lan.lab.unplug(OTHERS)
    try:
        report = lan.examine("--peer", lan.address(OTHERS), home=plain)
    finally:
        lan.lab.plug(OTHERS)
    assert {"silent", "peer-firewall"} & set(report.codes)
    assert report.level("sees", "ant") == "ok"


def test_the_networks_of_a_device(lan: Lan, plain: Path) -> None:
    """From bad to worse: loopback only, the own firewall, a container's bridge, a VPN only, no network at all."""
    _start(lan, MOVED, {"kind": "peer", "port": 4747, "secret": lan.secret.reveal(), "host": "127.0.0.1"})
    alone = ("--no-mdns",)
    assert lan.examine(*alone, home=plain, device=MOVED).level("loopback-only") == "problem"

    _start(lan, MOVED, {"kind": "full", "port": 4747, "host": lan.lab.address(MOVED)})
    assert lan.examine(*alone, home=plain, device=MOVED).level("own-firewall", "4747/tcp") == "problem"

    lan.ip(MOVED, "addr", "replace", "172.17.0.2/16", "dev", "eth0")
    lan.ip(MOVED, "addr", "del", f"{lan.lab.address(MOVED)}/24", "dev", "eth0")
    assert lan.examine(*alone, home=plain, device=MOVED, variables={"container": "docker"}).codes[0] == "container"

    lan.ip(MOVED, "link", "set", "eth0", "down")
    lan.ip(MOVED, "link", "set", "eth0", "name", "wg0")
    lan.ip(MOVED, "link", "set", "wg0", "up")
    report = lan.examine(*alone, home=plain, device=MOVED)
    assert report.codes[0] == "only-tunnels"
    assert report.level("only-tunnels", "--interface 172.17.0.2") == "problem"

    lan.ip(MOVED, "link", "set", "wg0", "down")
    assert lan.examine(home=plain, device=MOVED).codes == ["no-network"]


def test_it_reads_well(lan: Lan, plain: Path) -> None:
    """To a person, with all waits as they are by default, the longest of them included."""
    named = [address for port in (MUTE, 4999) for address in ("--peer", lan.address(ODD, port))]
    argv = [*SWARM, "doctor", *named]
    process = lan.lab.popen(DOCTOR, argv, stdout=subprocess.PIPE, text=True, env=env(lan.lab, plain))
    out, _ = process.communicate(timeout=30)
    lines = out.splitlines()
    assert lines[0].startswith("problem  1 peer of this swarm speaks another version")
    assert lines[1].startswith("         test: ")
    assert lines[2].startswith("         cure: ")
    assert lines[-2:] == ["", f"Next: {lines[2].removeprefix('         cure: ')}"]
    assert any(line.startswith("ok       Sees 1 peer: ant (") for line in lines)
    assert process.returncode == 1
