"""Does the planner know what it says? Every way that `swarm plan` finds is run in the lab, predicted against measured.

    python -m tests.bench.prediction [SCENE…]          Linux, root; about ten minutes for all scenes

Each scene is a swarm of emulated devices and some models; a client on its first device asks. Predictions are printed as
they were before the first request: nothing is learned from the runs. Steps are long enough for the emulation, whose
quotas let whoever was idle compute for some milliseconds at full speed, as no slow device does. The last lines sum up:
errors, whether the way that was chosen is the best, and how it compares with equal shares.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from swarm.secret import Secret
from tests.lab import Device, Lab

MBIT = 10**6
SWARM = [sys.executable, "-P", "-m", "swarm"]
READY_S, PLAN_S = 240, 900
CALM_S = 25
"""How long a device tells that it was busy of late, which a planner takes for a queue."""


@dataclass(frozen=True)
class Scene:
    """Shares of a core, the link of each device, and what is run there."""

    shares: Sequence[float]
    link_mbit: float
    models: Sequence[str]

    @property
    def devices(self) -> list[Device]:
        link = int(self.link_mbit * MBIT)
        return [Device(share, None, link, f"{share:.0%}-{i}") for i, share in enumerate(self.shares)]


SCENES = {
    "hetero": Scene((0.4, 0.2, 0.2, 0.1), 1000, ("vit_base_patch16_224", "vit_small_patch16_224")),
    "weak-asks": Scene((0.2, 0.9), 100, ("vit_small_patch16_224", "resnet50")),
    "strong": Scene((0.8, 0.8), 1000, ("fashion-vit", "vit_base_patch16_224")),
    "equal": Scene((0.4, 0.4, 0.4), 1000, ("swin_tiny_patch4_window7_224",)),
    "narrow": Scene((0.4, 0.7, 0.7), 20, ("vit_tiny_patch16_224",)),
}


def study_at_full_speed(
    models: Sequence[str], cache: Path, source: str | None = None, files: Sequence[str] = ()
) -> None:
    """Taking a model apart costs seconds of a whole core: done once, and copied to every device."""
    env = os.environ | {"XDG_CACHE_HOME": str(cache)}
    alone = ["--no-mdns", "--interface", "127.0.0.1", "--wait", "0", "--json"]
    more = [word for file in files for word in ("--models", file)]
    for model in models:
        argv = [*SWARM, "plan", model, "--weights", source or weights(model), *alone, *more]
        subprocess.run(argv, env=env, check=True, capture_output=True, timeout=PLAN_S)


def runs(model: str) -> int:
    return 7 if "base" in model else 15


def weights(model: str) -> str:
    return "pretrained" if model == "fashion-vit" else "random:0"


@contextmanager
def joined(lab: Lab, studies: Path, models: Sequence[str]) -> Iterator[None]:
    """A peer on every device, and all of them measured."""
    with ExitStack() as stack:
        for number in range(lab.size):
            cache = Path(lab.env(number)["XDG_CACHE_HOME"]) / "swarm"
            cache.mkdir(parents=True, exist_ok=True)
            for folder in ("studies", "weights"):
                subprocess.run(
                    ["cp", "-r", str(studies / "swarm" / folder), str(cache)], check=False, capture_output=True
                )
        for number in range(lab.size):
            measure_alone(lab, number, models)
        for number, device in enumerate(lab.devices):
            argv = [*SWARM, "join", "--json", "--name", device.name, "--threads", "1"]
            process = lab.popen(number, argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.terminate)
        wait_until_measured(lab)
        yield


def measure_alone(lab: Lab, number: int, models: Sequence[str]) -> None:
    """One device after another: they share this machine's cores and caches, as real ones do not."""
    argv = [
        *SWARM,
        "bench",
        *models,
        "--threads",
        "1",
        "--no-mdns",
        "--interface",
        "127.0.0.1",
        "--wait",
        "0",
        "--json",
    ]
    done = lab.run(number, argv, timeout_s=READY_S)
    if done.returncode:
        raise SystemExit(done.stderr)


def wait_until_measured(lab: Lab) -> None:
    deadline, known = time.monotonic() + READY_S, list[Any]()
    while time.monotonic() < deadline:
        argv = [*SWARM, "status", "--wait", "3", "--json"]
        done = lab.run(0, argv, timeout_s=90)
        peers = json.loads(done.stdout)["peers"] if done.returncode == 0 else []
        known = [p for p in peers if p["profile"]["step_s"] and len(p["profile"]["links"]) >= lab.size - 1]
        if len(known) == lab.size:
            return
    raise SystemExit(f"after {READY_S} s only {len(known)} of {lab.size} devices know themselves and their links")


def contest(lab: Lab, model: str) -> list[dict[str, Any]]:
    argv = [*SWARM, "plan", model, "--weights", weights(model), "--run", str(runs(model)), "--wait", "6", "--json"]
    done = lab.run(0, argv, timeout_s=PLAN_S)
    if done.returncode:
        raise SystemExit(f"{model}: {done.stderr}")
    rows: list[dict[str, Any]] = json.loads(done.stdout)["candidates"]
    return rows


def show(scene: str, model: str, rows: Sequence[dict[str, Any]]) -> list[float]:
    """Print what came out; the errors."""
    errors = []
    for row in rows:
        measured = row.get("measured") or {}
        if measured.get("error") is None:
            print(
                f"| {scene} | {model} | {row['title']} | | | {measured.get('problem') or row['verdict']} |", flush=True
            )
            continue
        errors.append(measured["error"])
        seconds = f"{row['latency_s'] * 1e3:.1f} | {measured['latency_s'] * 1e3:.1f}"
        print(f"| {scene} | {model} | {row['title']} | {seconds} | {measured['error']:+.1%} |", flush=True)
    return errors


def regret(rows: Sequence[dict[str, Any]]) -> float | None:
    """How much longer the chosen way took than the best measured one."""
    times = [row["measured"]["latency_s"] for row in rows if (row.get("measured") or {}).get("latency_s")]
    chosen = (rows[0].get("measured") or {}).get("latency_s")
    return chosen / min(times) - 1 if times and chosen else None


def against_equal(rows: Sequence[dict[str, Any]]) -> float | None:
    equal = next((r["measured"]["latency_s"] for r in rows if "equal" in r["title"] and r.get("measured")), None)
    chosen = (rows[0].get("measured") or {}).get("latency_s")
    return 1 - chosen / equal if equal and chosen else None


def main() -> None:
    os.environ["SWARM_SECRET"] = Secret.new().reveal()
    names = sys.argv[1:] or list(SCENES)
    errors, regrets = list[float](), list[float]()
    print("| scene | model | way | predicted ms | measured ms | error |\n|---|---|---|---|---|---|")
    with Lab([Device(None, None, None, "study")], homes=True) as library:
        studies = Path(library.env(0)["XDG_CACHE_HOME"])
        study_at_full_speed(sorted({model for name in names for model in SCENES[name].models}), studies)
        for name in names:
            with Lab(SCENES[name].devices, homes=True) as lab, joined(lab, studies, SCENES[name].models):
                for model in SCENES[name].models:
                    time.sleep(CALM_S)
                    rows = contest(lab, model)
                    errors += show(name, model, rows)
                    regrets += [r for r in [regret(rows)] if r is not None]
                    if (gain := against_equal(rows)) is not None:
                        print(f"{name}, {model}: auto takes {gain:.0%} less than equal shares", flush=True)
    sizes = sorted(abs(error) for error in errors)
    print(f"{len(sizes)} combinations: median error {median(sizes):.1%} (bar 15 %), worst {sizes[-1]:.1%} (bar 30 %)")
    near = sum(r <= 0.05 for r in regrets)
    print(f"the chosen way is within 5 % of the best measured one in {near} of {len(regrets)} contests (bar 9 of 10)")


if __name__ == "__main__":
    main()
