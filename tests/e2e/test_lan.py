"""The promise of the README: three devices on a LAN, and a fourth that asks them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.command import PICTURES, Joined, check_sentence, joined, labels, swarm, swarm_json
from tests.lab import Lab

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def lan() -> Iterator[tuple[Lab, list[Joined]]]:
    """Devices 0 to 2 have joined; device 3 is free to ask."""
    with Lab(4) as lab, ExitStack() as stack:
        yield lab, [stack.enter_context(joined(name=f"pi{i}", lab=lab, device=i)) for i in range(3)]


@pytest.fixture(scope="module")
def whole() -> list[str]:
    """The labels that the whole model gives on one device."""
    return labels(swarm_json("run", "fashion-vit", *PICTURES, "--strategy", "local", "--no-mdns"))


def test_each_device_sees_the_others_at_their_lan_addresses(lan: tuple[Lab, list[Joined]]) -> None:
    lab, peers = lan
    seen = swarm_json("status", "--wait", "3", lab=lab, device=3)["peers"]
    assert {(p["name"], p["id"], p["address"], p["state"]) for p in seen} == {
        (peer.name, peer.id, f"{lab.address(i)}:4747", "alive") for i, peer in enumerate(peers)
    }
    assert all(set(p) == {"name", "id", "address", "state", "profile", "holds"} for p in seen)


def test_the_swarm_gives_the_whole_models_labels(lan: tuple[Lab, list[Joined]], whole: list[str]) -> None:
    lab, peers = lan
    report = swarm_json("run", "fashion-vit", *PICTURES, "--on", "pi0,pi1,pi2", "--split", "4,8", lab=lab, device=3)
    assert labels(report) == whole
    assert report["strategy"] == "slices"
    assert {name for step in report["plan"]["steps"] for name in step["peers"]} == {peer.name for peer in peers}
    assert [row["peer"] for row in report["trace"]] == [step["peers"][0] for step in report["plan"]["steps"]]
    assert all(row["degraded"] is None for row in report["results"])


def test_with_split_and_on_the_parts_are_where_the_json_says(lan: tuple[Lab, list[Joined]], whole: list[str]) -> None:
    lab, _ = lan
    report = swarm_json("run", "fashion-vit", *PICTURES, "--split", "3,9", "--on", "pi2,pi0,pi1", lab=lab, device=3)
    assert labels(report) == whole
    steps = report["plan"]["steps"]
    assert [step["peers"] for step in steps] == [["pi2"], ["pi0"], ["pi1"]]
    ends = [step["part"].split("[")[1].split("]")[0] for step in steps]
    assert ends == ["input..blocks.2", "blocks.2..blocks.8", "blocks.8..output"]
    holds = {p["name"]: p["holds"] for p in swarm_json("status", "--wait", "2", lab=lab, device=3)["peers"]}
    assert all(step["part"] in holds[step["peers"][0]] for step in steps)


def test_head_here_and_tail_there(lan: tuple[Lab, list[Joined]], whole: list[str]) -> None:
    """Without multicast, by address alone."""
    lab, _ = lan
    where = ("--no-mdns", "--peer", f"{lab.address(1)}:4747")
    report = swarm_json("run", "fashion-vit", *PICTURES, "--split", "6", "--on", "pi1,pi0", *where, lab=lab, device=3)
    assert labels(report) == whole


def test_who_names_a_peer_that_is_not_there_hears_so(lan: tuple[Lab, list[Joined]]) -> None:
    lab, _ = lan
    done = swarm("run", "fashion-vit", PICTURES[0], "--on", "pi7", "--wait", "1", lab=lab, device=3)
    check_sentence(done, 3, "pi7")


def test_a_pulled_cable_ends_the_request_within_its_deadline(lan: tuple[Lab, list[Joined]]) -> None:
    """Nothing tells a machine that the other one's cable was pulled: packets just vanish."""
    lab, _ = lan
    timer = threading.Timer(4, lab.unplug, (1,))
    timer.start()
    try:
        on = ("--on", "pi0,pi1", "--split", "6", "--repeat", "1000000", "--deadline", "5")
        done = swarm("run", "fashion-vit", PICTURES[0], *on, lab=lab, device=3)
    finally:
        timer.join()
        lab.plug(1)
    assert done.returncode in (3, 4), done.stderr
    check_sentence(done, done.returncode, "deadline" if done.returncode == 4 else "pi1")
    report = swarm_json("run", "fashion-vit", PICTURES[0], "--on", "pi0,pi1", "--split", "6", lab=lab, device=3)
    assert [row["peer"] for row in report["trace"]] == ["pi0", "pi1"], "back in the swarm when it is plugged in again"


def test_a_pulled_plug_is_noticed_and_the_others_serve_on(lan: tuple[Lab, list[Joined]], whole: list[str]) -> None:
    lab, peers = lan
    peers[2].process.kill()
    report = swarm_json("run", "fashion-vit", *PICTURES, "--on", "pi0,pi1", lab=lab, device=3)
    assert labels(report) == whole
    states = {p["name"]: p["state"] for p in swarm_json("status", "--wait", "4", lab=lab, device=3)["peers"]}
    assert (states["pi0"], states["pi1"]) == ("alive", "alive")
    assert states.get("pi2") != "alive"
