"""Workers are killed under load and come back: is a request lost, or wrong, and how long did the unlucky ones wait?

    python -m tests.bench.chaos          Linux, root; about three minutes

Three workers and the device that asks are devices of the lab. 1,000 requests, a few at a time, go through a pipeline
over the workers while a random one is killed every five seconds and started again. Then one is killed for good. Printed
are ratios of this run: the worst latency against what was allowed, and the time to full service again.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from swarm.secret import Secret
from tests.asker import Asker
from tests.lab import Device, Lab

NAMES = ("ant", "bee", "cat")
WORK = ("--model", "vit_tiny_patch16_224", "--weights", "random:0", "--requests", "1000")
KILL_EVERY_S, CALM_S = 5.0, 15.0
HEALED_BAR_S = 5.0


class Kill(NamedTuple):
    """When, and whom."""

    at: float
    name: str


class Aftermath(NamedTuple):
    """Seconds after a kill of a worker that was in use."""

    name: str
    seen: float
    planned: float
    worst: float


class Fleet:
    """Workers on the lab's first devices, killed and started again."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._processes: dict[str, subprocess.Popen[Any]] = {}

    def start(self, name: str) -> None:
        argv = [sys.executable, "-P", "-m", "swarm", "join", "--name", name, "--threads", "1", "--json"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._processes[name] = self._lab.popen(NAMES.index(name), argv, **quiet)

    def kill(self, name: str) -> Kill:
        process = self._processes.pop(name)
        process.kill()
        process.wait()
        return Kill(time.monotonic(), name)


def main() -> None:
    os.environ["SWARM_SECRET"] = Secret.new().reveal()
    devices = [*(Device(0.5, None, 10**9, name) for name in NAMES), Device(0.4, None, 10**9, "asker")]
    kills: list[Kill] = []
    rng = random.Random(0)
    with Lab(devices, homes=True) as lab:
        fleet = Fleet(lab)
        for name in NAMES:
            fleet.start(name)
        asker = Asker(lab, len(NAMES), *NAMES, *WORK)
        asker.wait(lambda it: it.all("ready"))
        while not asker.all("answered"):
            time.sleep(KILL_EVERY_S)
            kills.append(fleet.kill(rng.choice(NAMES)))
            fleet.start(kills[-1].name)
        time.sleep(CALM_S)  # the last one is back
        using = asker.all("plan")[-1]["peers"]
        last = fleet.kill(next(name for name in using if name in NAMES))
        time.sleep(CALM_S)
        asker.stop()
    report(asker, kills, last)


def report(asker: Asker, kills: Sequence[Kill], last: Kill) -> None:
    requests, lost = asker.all("request"), asker.all("lost")
    usual = median(row["answered"] - row["asked"] for row in requests)
    wrong = sum(not row["right"] for row in requests)
    print(f"{len(requests)} requests answered, {len(lost)} lost, {wrong} wrong; {len(kills)} kills")
    for row in lost[:3]:
        print(f"  lost: {row['sentence']}")
    print("| killed | seen | new plan | worst latency | allowed: 2 × seen + replan + a request | ratio |")
    print("|---|---|---|---|---|---|")
    for hit in filter(None, (after(asker, kill) for kill in kills)):
        allowed = hit.seen + hit.planned + usual
        figures = " | ".join(f"{figure:.3f}" for figure in (hit.seen, hit.planned, hit.worst, allowed))
        print(f"| {hit.name} | {figures} | {hit.worst / allowed:.2f} |")
    again = sum(row["attempts"] > 1 for row in requests)
    print(f"{again} requests were asked more than once; the usual latency is {usual:.3f} s")
    healed = after(asker, last)
    print(
        f"after a loss for good: served again in {healed.planned / HEALED_BAR_S:.2f} of the bar (5 s)" if healed else ""
    )


def after(asker: Asker, kill: Kill) -> Aftermath | None:
    """None for a worker that the plan of that moment did not need."""
    plans = asker.all("plan")
    using = [plan["peers"] for plan in plans if plan["t"] <= kill.at]
    seen = [row["t"] - kill.at for row in asker.all("gone") if row["peer"] == kill.name and row["t"] >= kill.at]
    planned = [plan["t"] - kill.at for plan in plans if plan["t"] > kill.at]
    if not using or kill.name not in using[-1] or not seen or not planned:
        return None
    ends = kill.at + planned[0]
    hit = [r["answered"] - r["asked"] for r in asker.all("request") if r["asked"] <= ends and r["answered"] >= kill.at]
    return Aftermath(kill.name, seen[0], max(planned[0], seen[0]), max(hit, default=0.0))


if __name__ == "__main__":
    main()
