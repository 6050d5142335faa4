"""Members of a swarm as processes: started, watched, stalled and killed; see `tests/member.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab import Lab

SCRIPT = Path(__file__).resolve().parent / "member.py"
LEAVE_S = 10.0


@dataclass
class Member:
    """One process, and all that it has said."""

    name: str
    process: subprocess.Popen[str]
    started: float
    lines: list[dict[str, Any]] = field(default_factory=list)

    def states(self) -> dict[str, str]:
        """Its newest view."""
        return next((line["states"] for line in reversed(self.lines) if "states" in line), {})

    def since(self, t: float) -> Iterable[tuple[float, dict[str, str]]]:
        """Its views after the time `t`."""
        return [(line["t"], line["states"]) for line in list(self.lines) if "states" in line and line["t"] >= t]

    @property
    def ready(self) -> dict[str, Any] | None:
        return next((line for line in list(self.lines) if "ready" in line), None)


class Members:
    """Processes on a lab's devices, or all on loopback. Leaves none behind."""

    def __init__(self, lab: Lab | None = None, env: dict[str, str] | None = None) -> None:
        self._lab = lab
        self._env = {**os.environ, "SWARM_INTERFACE": "", **(env or {})}
        self.all: dict[str, Member] = {}

    def __enter__(self) -> Members:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.all.values():
            if member.process.poll() is None:
                member.process.kill()
            member.process.wait(LEAVE_S)

    def start(self, number: int, *peers: str) -> Member:
        """Start `m<number>`, on the lab's device of that number; with `peers`, those instead of multicast."""
        name = f"m{number}"
        host = self._lab.address(number) if self._lab else "127.0.0.1"
        argv = [sys.executable, "-P", str(SCRIPT), "--name", name, "--interface", host]
        argv += ["--port", "4747" if self._lab else "0", *(word for peer in peers for word in ("--peer", peer))]
        options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": self._env}
        started = time.monotonic()
        process = self._lab.popen(number, argv, **options) if self._lab else subprocess.Popen(argv, **options)
        member = self.all[name] = Member(name, process, started)
        threading.Thread(target=_collect, args=(member,), daemon=True).start()
        return member

    def others(self, *names: str) -> list[Member]:
        return [member for member in self.all.values() if member.name not in names and member.process.poll() is None]

    def see(self, members: Sequence[Member], true: Callable[[dict[str, str]], bool], within_s: float) -> None:
        """Wait until the newest views of all these are so."""
        deadline = time.monotonic() + within_s
        while not all(true(member.states()) for member in members):
            if time.monotonic() > deadline:
                late = {m.name: m.states() for m in members if not true(m.states())}
                raise AssertionError(f"not so within {within_s} s for {len(late)} of {len(members)}: {late}")
            time.sleep(0.02)

    def all_alive(self, within_s: float = 30.0) -> None:
        """Wait until everybody who runs sees exactly those as alive."""
        running = {member.name for member in self.others()}
        self.see(
            self.others(),
            lambda states: {name for name, state in states.items() if state == "alive"} == running,
            within_s,
        )

    def noticed(self, name: str, state: str, since: float) -> list[float]:
        """After how many seconds each other one first saw `name` in that state."""
        found = []
        for member in self.others(name):
            times = [t - since for t, states in member.since(since) if states.get(name) == state]
            found += times[:1]
        return sorted(found)

    def wrongly(self, state: str, since: float, *but: str) -> list[tuple[str, str]]:
        """Who was ever seen in that state after `since`, and by whom; `but` are really so."""
        return [
            (member.name, name)
            for member in self.all.values()
            for _, states in member.since(since)
            for name, seen in states.items()
            if seen == state and name not in but
        ]


def _collect(member: Member) -> None:
    assert member.process.stdout is not None
    for line in member.process.stdout:
        member.lines.append(json.loads(line))
