"""Real members on a LAN in a box: they come, leave, stall, die and lose their cables, and everybody knows the truth."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from swarm.secret import Secret
from tests.lab import Lab
from tests.members import Member, Members

pytestmark = [pytest.mark.timeout(180), pytest.mark.may_block("it watches processes")]

SIZE = 5
SOON_S = 20.0


@pytest.fixture(scope="module")
def lan() -> Iterator[tuple[Lab, Members]]:
    with Lab(SIZE) as lab, Members(lab, {"SWARM_SECRET": Secret.new().reveal()}) as members:
        for number in range(SIZE):
            members.start(number)
        members.all_alive()
        yield lab, members


@pytest.fixture(autouse=True)
def whole_again(lan: tuple[Lab, Members]) -> Iterator[None]:
    """Each test begins with everybody there, and puts back whom it took."""
    lab, members = lan
    yield
    for number in range(SIZE):
        lab.plug(number)
        if members.all[f"m{number}"].process.poll() is not None:
            members.start(number)
    members.all_alive(within_s=60.0)


def kill(member: Member, number: int = signal.SIGKILL) -> None:
    os.kill(member.process.pid, number)


def all_see(members: Members, name: str, state: str) -> None:
    members.see(members.others(name), lambda states: states.get(name) == state, SOON_S)


def test_a_stopped_process_is_busy_and_never_dead(lan: tuple[Lab, Members]) -> None:
    _, members = lan
    began, victim = time.monotonic(), members.all["m1"]
    kill(victim, signal.SIGSTOP)
    time.sleep(3.0)
    assert any(states.get("m1") == "suspect" for m in members.others("m1") for _, states in m.since(began))
    time.sleep(2.0)
    kill(victim, signal.SIGCONT)
    members.all_alive(SOON_S)
    time.sleep(2.0)
    assert members.wrongly("dead", began) == []


def test_a_loop_that_holds_the_interpreter_kills_nobody(lan: tuple[Lab, Members]) -> None:
    _, members = lan
    began, victim = time.monotonic(), members.all["m2"]
    assert victim.process.stdin is not None
    victim.process.stdin.write("spin 3\n")
    victim.process.stdin.flush()
    time.sleep(5.0)
    members.all_alive(SOON_S)
    assert members.wrongly("dead", began) == []


def test_a_pulled_cable_is_noticed_and_mended(lan: tuple[Lab, Members]) -> None:
    lab, members = lan
    began = time.monotonic()
    lab.unplug(3)
    all_see(members, "m3", "dead")
    lab.plug(3)
    members.all_alive(60.0)
    back = time.monotonic()
    time.sleep(2.0)
    assert members.wrongly("dead", back) == []
    others = [found for found in members.wrongly("dead", began, "m3") if found[0] != "m3"]
    assert others == [], "those who kept their network accused only the one who lost it"


def test_a_killed_process_is_dead_at_once(lan: tuple[Lab, Members]) -> None:
    _, members = lan
    kill(members.all["m4"])
    all_see(members, "m4", "dead")


def test_a_clean_leave(lan: tuple[Lab, Members]) -> None:
    _, members = lan
    began = time.monotonic()
    kill(members.all["m0"], signal.SIGTERM)
    all_see(members, "m0", "left")
    members.all["m0"].process.wait(SOON_S)
    assert members.wrongly("dead", began) == []
