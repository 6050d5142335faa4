"""The link of a worker collapses to 1 % in mid-run: is a request lost, and how soon is the worker planned around?

    python -m tests.bench.collapse [MODEL]          Linux, root; about two minutes

Three workers and a device that asks, on emulated links. Slow is not dead: nobody may count as gone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from statistics import median

from swarm.secret import Secret
from tests.asker import Asker
from tests.lab import Device, Lab

NAMES = ("ant", "bee", "cat")
BEFORE, AFTER = 100_000_000, 1_000_000
"""Bits a second."""
ENOUGH = 30
"""Requests before, and after the new plan."""


def main() -> None:
    os.environ["SWARM_SECRET"] = Secret.new().reveal()
    model = sys.argv[1] if len(sys.argv) > 1 else "vit_tiny_patch16_224"
    weights = "pretrained" if model == "fashion-vit" else "random:0"
    with Lab([Device(None, None, BEFORE, name) for name in (*NAMES, "asker")], homes=True) as lab:
        for number, name in enumerate(NAMES):
            argv = [sys.executable, "-P", "-m", "swarm", "join", "--name", name, "--threads", "1", "--json"]
            lab.popen(number, argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        asker = Asker(lab, 3, *NAMES, "--model", model, "--weights", weights, "--at-once", "2")
        asker.wait(lambda it: len(it.all("request")) >= ENOUGH)
        victim = next(name for name in asker.all("plan")[-1]["peers"] if name in NAMES)
        lab.relink(NAMES.index(victim), AFTER)
        collapsed = time.monotonic()
        asker.wait(lambda it: victim not in it.all("plan")[-1]["peers"], within_s=120)
        answered = len(asker.all("request"))
        asker.wait(lambda it: len(it.all("request")) >= answered + ENOUGH, within_s=120)
        asker.stop()
    report(asker, collapsed, victim)


def report(asker: Asker, collapsed: float, victim: str) -> None:
    requests = asker.all("request")
    plans = [plan for plan in asker.all("plan") if plan["t"] > collapsed]
    around = next(plan["t"] for plan in plans if victim not in plan["peers"])
    took = {
        "before": [r["answered"] - r["asked"] for r in requests if r["answered"] <= collapsed],
        "between": [r["answered"] - r["asked"] for r in requests if collapsed < r["answered"] and r["asked"] < around],
        "after": [r["answered"] - r["asked"] for r in requests if r["asked"] >= around],
    }
    usual = median(took["before"])
    wrong = sum(not row["right"] for row in requests)
    print(
        f"{len(requests)} requests answered, {len(asker.all('lost'))} lost, {wrong} wrong; {len(plans)} further plans"
    )
    print(f"planned around after {(around - collapsed) / usual:.0f} times a usual request")
    for when, seconds in took.items():
        typical, worst = median(seconds) / usual, max(seconds) / usual
        print(f"{when}: median {typical:.1f}, worst {worst:.1f} times the usual, {len(seconds)} requests")
    print("nobody was taken for gone" if not asker.all("gone") else f"taken for gone: {asker.all('gone')}")


if __name__ == "__main__":
    main()
