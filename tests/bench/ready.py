"""Devices of a lab that know a model and their own speed before anybody asks, as they do after their first day.

A model is studied once, at this machine's full speed, and copied to all. Devices of one name are alike: the first of
them is measured, alone, and the others take over its figures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.prediction import study_at_full_speed
from tests.lab import Device, Lab

SWARM = [sys.executable, "-P", "-m", "swarm"]
ALONE = ["--threads", "1", "--no-mdns", "--interface", "127.0.0.1", "--wait", "0", "--json"]
COPIED = ("studies", "weights", "importance")
MEASURE_S = 400.0


def cache(lab: Lab, device: int) -> Path:
    return Path(lab.env(device)["XDG_CACHE_HOME"]) / "swarm"


def get_ready(
    lab: Lab,
    model: str,
    *,
    asking: Sequence[int],
    weights: str | None = None,
    files: Sequence[str] = (),
    data: str = "",
) -> Mapping[str, float]:
    """Seconds of the whole model, by the device's name. Only devices that ask have the parameters: others fetch what
    they need from them."""
    with Lab([Device(None, None, None, "study")], homes=True) as library:
        study_at_full_speed([model], Path(library.env(0)["XDG_CACHE_HOME"]), weights, files)
        if data:
            argv = [
                *SWARM,
                "split",
                "importance",
                model,
                "--data",
                data,
                "--weights",
                weights or "pretrained",
                "--json",
            ]
            argv += [word for file in files for word in ("--models", file)]
            subprocess.run(argv, env=library.env(0), check=True, capture_output=True, timeout=MEASURE_S)
        for device in range(lab.size):
            for folder in COPIED if device in asking else COPIED[:1]:
                _link(cache(library, 0) / folder, cache(lab, device))
    first, whole_s = dict[str, int](), dict[str, float]()
    for device, word in enumerate(lab.devices):
        if word.name in first:
            _link(cache(lab, first[word.name]) / "speed", cache(lab, device))
        else:
            first[word.name], whole_s[word.name] = device, _measured_s(lab, device, model, files)
    return whole_s


def _measured_s(lab: Lab, device: int, model: str, files: Sequence[str]) -> float:
    more = [word for file in files for word in ("--models", file)]
    done = lab.run(device, [*SWARM, "bench", model, *ALONE, *more], timeout_s=MEASURE_S)
    if done.returncode:
        raise SystemExit(done.stderr)
    return sum(float(stage["seconds"]) for stage in json.loads(done.stdout)["stages"][model])


def join(lab: Lab, device: int, name: str) -> None:
    """A host; it goes with the lab."""
    argv = [*SWARM, "join", "--json", "--name", name, "--threads", "1"]
    lab.popen(device, argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _link(folder: Path, into: Path) -> None:
    """Hard links: devices on one disk need not have the bytes of a model several times."""
    into.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        return
    subprocess.run(["cp", "-rl", str(folder), str(into)], check=True, timeout=60)
