"""How soon a swarm knows: `python -P tests/bench/membership.py [N …]`; Linux, root, some minutes.

N real peers in as many network namespaces on one bridge: joining, a killed process, a pulled cable, a clean leave, and
stalls of 2 s and 5 s, stopped by a signal and in a loop that holds the interpreter's lock. Seconds until the last of
the others knows; the anchor is HashiCorp's serf 0.9.4 on the same kind of machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # at the end: `swarm` is the installed one

from tests.lab import Lab
from tests.members import Member, Members

BARS_S = {"join": 1.5, "kill": 1.5, "unplug": 4.0, "leave": 0.5}
SERF_S = {3: {"join": 0.10, "kill": 5.6}, 20: {"join": 0.69, "kill": 6.8, "leave": 0.72}}
STALLS_S = (2.0, 5.0)


def settle(members: Members, count: int) -> None:
    members.all_alive(within_s=60.0)
    assert len(members.others()) == count
    time.sleep(3.0)


def last(found: list[float], of: int) -> float:
    assert len(found) == of, f"only {len(found)} of {of} noticed"
    return found[-1]


def joining(lab: Lab, members: Members, number: int) -> float:
    """From the first packet, which follows the opening of the door, until all know of it."""
    member = members.start(number)
    members.all_alive()
    assert member.ready is not None
    began = float(member.ready["t"])
    return last(members.noticed(member.name, "alive", began), len(members.others()) - 1)


def killing(members: Members, victim: Member) -> float:
    began = time.monotonic()
    _inner(victim, signal.SIGKILL)
    victim.process.wait(10)
    members.see(members.others(victim.name), lambda states: states.get(victim.name) == "dead", 20)
    return last(members.noticed(victim.name, "dead", began), len(members.others(victim.name)))


def leaving(members: Members, victim: Member) -> float:
    began = time.monotonic()
    _inner(victim, signal.SIGTERM)
    members.see(members.others(victim.name), lambda states: states.get(victim.name) == "left", 20)
    victim.process.wait(10)
    return last(members.noticed(victim.name, "left", began), len(members.others(victim.name)))


def unplugging(lab: Lab, members: Members, number: int) -> float:
    name = f"m{number}"
    began = time.monotonic()
    lab.unplug(number)
    others = members.others(name)
    members.see(others, lambda states: states.get(name) == "dead", 20)
    found = last(members.noticed(name, "dead", began), len(others))
    lab.plug(number)
    members.all_alive(within_s=40.0)
    return found


def stalling(members: Members, victim: Member, seconds: float, *, spin: bool) -> list[tuple[str, str]]:
    """Who was wrongly seen dead, by whom."""
    began = time.monotonic()
    if spin:
        assert victim.process.stdin is not None
        victim.process.stdin.write(f"spin {seconds}\n")
        victim.process.stdin.flush()
        time.sleep(seconds)
    else:
        _inner(victim, signal.SIGSTOP)
        time.sleep(seconds)
        _inner(victim, signal.SIGCONT)
    time.sleep(4.0)
    members.all_alive(within_s=20.0)
    return members.wrongly("dead", began)


def _inner(member: Member, number: int) -> None:
    """`ip netns exec` becomes the program that it starts, so its process is the peer's."""
    os.kill(member.process.pid, number)


def measure(size: int) -> None:
    print(f"\nN = {size}", flush=True)
    env = {"SWARM_SECRET": secrets_text()}
    with Lab(size + 1) as lab, Members(lab, env) as members:
        for number in range(size):
            members.start(number)
        settle(members, size)
        report(size, "join", joining(lab, members, size))
        time.sleep(3.0)
        report(size, "leave", leaving(members, members.all[f"m{size}"]))
        time.sleep(2.0)
        for seconds in STALLS_S:
            for spin in (False, True):
                wrong = stalling(members, members.all["m1"], seconds, spin=spin)
                how = "loop that holds the lock" if spin else "SIGSTOP"
                print(f"  stall of {seconds:g} s ({how}): {len(wrong)} false deaths {wrong[:3]}", flush=True)
        report(size, "unplug", unplugging(lab, members, 0))
        time.sleep(3.0)
        report(size, "kill", killing(members, members.all["m2"]))


def report(size: int, what: str, seconds: float) -> None:
    serf = SERF_S.get(size, {}).get(what)
    beside = f"; serf {serf:.2f} s, {serf / seconds:.1f} times as long" if serf else ""
    verdict = "met" if seconds <= BARS_S[what] else "NOT MET"
    print(f"  {what}: all know after {seconds:.2f} s (bar {BARS_S[what]} s, {verdict}){beside}", flush=True)


def secrets_text() -> str:
    from swarm.secret import Secret

    return Secret.new().reveal()


if __name__ == "__main__":
    sizes = [int(word) for word in sys.argv[1:]] or [3, 20]
    if subprocess.run(["ip", "-V"], capture_output=True).returncode:
        sys.exit("this needs iproute2")
    print(Path(__file__).name, "on", os.cpu_count(), "cores")
    for wanted in sizes:
        measure(wanted)
