"""Devices of a lab, all but the first as hosts, and one that asks and leads on the first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swarm.secret import Secret
from tests.bench.ready import SWARM, get_ready
from tests.lab import Device, Lab

ROOT = Path(__file__).resolve().parents[3]
READY_S, LOAD_S = 400.0, 600.0


class Scene:
    """The lab, its hosts' processes by name, and the asker's words."""

    def __init__(self, lab: Lab, model: str, weights: str, models: Sequence[str], *, is_open: bool) -> None:
        self.lab = lab
        self.hosts: dict[str, subprocess.Popen[Any]] = {}
        more = [word for file in models for word in ("--models", file)] + (["--open"] if is_open else [])
        self._more = more
        for device in range(1, lab.size):
            self.join(device)
        script = Path(__file__).with_name("asker.py")
        argv = [sys.executable, "-P", str(script), *self.hosts, "--model", model, "--weights", weights, *more]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
        self._process = lab.popen(0, argv, **pipes)
        self.lines: list[dict[str, Any]] = []
        self._came = threading.Condition()
        threading.Thread(target=self._collect, daemon=True).start()
        self.wait(lambda: self.all("ready"), READY_S)

    def join(self, device: int) -> None:
        argv = [*SWARM, "join", "--json", "--name", f"d{device}", "--threads", "1", *self._more]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.hosts[f"d{device}"] = self.lab.popen(device, argv, **quiet)

    def all(self, event: str, key: str | None = None) -> list[dict[str, Any]]:
        return [line for line in list(self.lines) if line["event"] == event and key in (None, line.get("key"))]

    def do(self, what: str, key: str, within_s: float = LOAD_S, **more: Any) -> dict[str, Any]:
        """Tell the asker, and wait until it has done it."""
        before = len(self.all(f"{what} done", key))
        self.tell(what, key, **more)
        self.wait(lambda: len(self.all(f"{what} done", key)) > before, within_s)
        return self.all(f"{what} done", key)[-1]

    def tell(self, what: str, key: str, **more: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, "key": key, **more}) + "\n")
        self._process.stdin.flush()

    def load(self, key: str, **how: Any) -> dict[str, Any]:
        done = self.do("load", key, how=how)
        if "sentence" in done:
            print(f"{key} could not be loaded: {done['sentence']}", flush=True)
        return done

    def ask(self, key: str, requests: int) -> list[dict[str, Any]]:
        before = len(self.all("result", key))
        self.do("ask", key, requests=requests)
        return self.all("result", key)[before:]

    def cpu_s(self) -> dict[str, float]:
        """Seconds of a core that each device's process has used so far."""
        processes = {"me": self._process, **self.hosts}
        used = {}
        for name, process in processes.items():
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            used[name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return used

    def wait(self, so: Any, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        with self._came:
            while not so():
                if time.monotonic() >= deadline or self._process.poll() is not None:
                    raise AssertionError(f"not so within {within_s} s; it said last: {self.lines[-3:]}")
                self._came.wait(0.5)

    def _collect(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._came:
                self.lines.append(json.loads(line))
                self._came.notify_all()


@contextmanager
def scene(
    devices: Sequence[Device],
    model: str,
    weights: str,
    models: Sequence[str] = (),
    *,
    is_open: bool = False,
    data: str = "",
) -> Iterator[Scene]:
    if not is_open:
        os.environ["SWARM_SECRET"] = Secret.new().reveal()
    with Lab(devices, homes=True) as lab:
        get_ready(lab, model, asking=[0], weights=weights, files=models, data=data)
        yield Scene(lab, model, weights, models, is_open=is_open)
