"""Members of a group are killed under a request: what the answer is then, how long it took, and when all is whole."""

from __future__ import annotations

import argparse
import time
from typing import Any

from tests.bench.inside.scene import Scene, scene
from tests.bench.ready import cache
from tests.lab import Device

DEVICES = 4
WHOLE_S = 60.0
HEALED_BAR_S = 5.0
PICTURES, BATCH = 1000, 50


def deaths(given: argparse.Namespace) -> None:
    """For each way to take a loss: one, two, three of the others are killed at once, under a request."""
    devices = [Device(given.share, None, int(given.link * 1e6), f"{given.share:.0%}")] * DEVICES
    model = given.model or "fashion-vit"
    with scene(devices, model, given.weights, given.models, is_open=given.open, data=given.data) as lab:
        print("| on loss | killed | the request under it | attempts | seconds | the next | whole again after s |")
        print("|---|---|---|---|---|---|---|")
        for on_loss in ("degrade", "retry"):
            for count in range(1, DEVICES):
                under_a_request(lab, given, on_loss, count)
        if given.data:
            accuracies(lab, given)


def under_a_request(lab: Scene, given: argparse.Namespace, on_loss: str, count: int) -> None:
    key = f"{on_loss}-{count}"
    how: dict[str, Any] = {"strategy": "columns", "goal": "memory"}
    if on_loss == "degrade":
        how = {"strategy": "partial", "goal": f"survive={DEVICES - 1}", "replicate": [0.5]}
    plan = lab.load(key, wire=given.wire, on_loss=on_loss, **how)
    if "sentence" in plan:
        return
    lab.ask(key, 3)
    lab.tell("ask", key, requests=120)
    time.sleep(0.5)
    killed = time.monotonic()
    for number in range(DEVICES - count, DEVICES):
        lab.hosts[f"d{number}"].kill()
    lab.wait(lambda: len(lab.all("ask done", key)) >= 2, WHOLE_S * 4)
    after = [line for line in lab.lines if line["event"] in ("result", "lost") and line["key"] == key]
    after = [line for line in after if line["asked"] + line["seconds"] > killed]
    first, rest = after[0], after[1:]
    whole = next(
        (row for row in rest if row["event"] == "result" and not row["degraded"] and row["plan"] != plan["plan"]), None
    )
    said = first.get("degraded") or first.get("sentence") or f"exact, {first['away']:.0e} away"
    later = rest[0].get("degraded") or rest[0].get("sentence") or "exact" if rest else ""
    took = "never" if whole is None else f"{whole['asked'] + whole['seconds'] - killed:.1f}"
    print(
        f"| {on_loss} | {count} | {said} | {first.get('attempts', '')} | {first['seconds']:.2f} | {later} | {took} |",
        flush=True,
    )
    lost = [line["sentence"] for line in after if line["event"] == "lost"]
    if lost:
        print(f"LOST {len(lost)}: {lost[0]}")
    lab.do("drop", key)
    for number in range(DEVICES - count, DEVICES):
        lab.join(number)
    time.sleep(20.0)


def accuracies(lab: Scene, given: argparse.Namespace) -> None:
    """With exactly these peers nothing heals: the answers stay as they are without the dead."""
    from tests.bench.inside.offline import predicted

    print("\n| replicated | killed | live accuracy | predicted offline | said |\n|---|---|---|---|---|")
    names = ["me", *(f"d{number}" for number in range(1, DEVICES))]
    for fraction in (0.0, 0.33, 0.53):
        key = f"live-{fraction}"
        how: dict[str, Any] = {"strategy": "partial", "on_loss": "degrade", "replicate": [fraction], "peers": names}
        plan = lab.load(key, wire=given.wire, **how)
        for count in range(DEVICES):
            if count:
                lab.hosts[f"d{DEVICES - count}"].kill()
                time.sleep(2.0)
            done = lab.do("label", key, folder=given.data, first=0, count=PICTURES, batch=BATCH)
            live = done["right"] / done["count"]
            lost = list(range(DEVICES - count, DEVICES))
            expected = predicted(plan["groups"][0], lost, given, PICTURES, cache(lab.lab, 0))
            print(
                f"| {fraction} | {count} | {live:.4f} | {expected:.4f} | {done['degraded'][-1]} |",
                flush=True,
            )
        lab.do("drop", key)
        for number in range(1, DEVICES):
            lab.join(number)
        time.sleep(20.0)
