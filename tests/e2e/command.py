"""The command `swarm` as real processes, on loopback or on a lab's device."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import Lab

PICTURES = sorted(str(path) for path in (Path(__file__).resolve().parents[2] / "models/data/pictures").glob("*.png"))
SWARM = [sys.executable, "-P", "-m", "swarm"]
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
START_S, STOP_S, RUN_S = 30, 10, 120


@dataclass
class Joined:
    """A `swarm join` that said it is ready."""

    process: subprocess.Popen[str]
    name: str
    id: str
    address: str
    http: str = ""
    """Where its HTTP clients ask."""

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(STOP_S)


@contextmanager
def joined(
    *arguments: str, name: str, lab: Lab | None = None, device: int = 0, home: Path | None = None
) -> Iterator[Joined]:
    """A peer in a process of its own; killed when the block ends, if it still runs. With `home` it has a user's folder
    of its own, and no other secret than the one in there."""
    where = [] if lab else ["--interface", "127.0.0.1", "--port", "0"]
    argv = [*SWARM, "join", "--json", "--name", name, "--threads", "1", *where, *arguments]
    options: dict[str, Any] = {**PIPES, "text": True, "env": env(lab, home)}
    process = lab.popen(device, argv, **options) if lab else subprocess.Popen(argv, **options)
    try:
        ready = json.loads(line_of(process))
        assert ready["event"] == "ready"
        yield Joined(process, ready["name"], ready["id"], ready["address"], ready.get("http", ""))
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(STOP_S)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def swarm(
    *arguments: str, lab: Lab | None = None, device: int = 0, home: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    argv = [*SWARM, *arguments]
    options: dict[str, Any] = {**PIPES, "text": True, "env": env(lab, home)}
    process = lab.popen(device, argv, **options) if lab else subprocess.Popen(argv, **options)
    with process:
        try:
            out, err = process.communicate(timeout=RUN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


def swarm_json(*arguments: str, lab: Lab | None = None, device: int = 0, home: Path | None = None) -> dict[str, Any]:
    done = swarm(*arguments, "--json", lab=lab, device=device, home=home)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def labels(report: dict[str, Any]) -> list[str]:
    return [row["labels"][0]["label"] for row in report["results"]]


def check_sentence(done: subprocess.CompletedProcess[str], exit_code: int, *words: str) -> None:
    """One sentence on stderr with these words, the exit code of its kind, and no traceback."""
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line of its output; the process is killed when none comes in time."""
    assert process.stdout is not None
    assert process.stderr is not None
    timer = threading.Timer(START_S, process.kill)
    timer.start()
    line = process.stdout.readline()
    timer.cancel()
    if not line:
        raise AssertionError(f"a peer was not ready: {process.stderr.read()}")
    return line


def env(lab: Lab | None = None, home: Path | None = None) -> dict[str, str]:
    """In a lab the namespace keeps everything in; elsewhere `SWARM_INTERFACE` does."""
    dropped = {"SWARM_INTERFACE"} if lab else set()
    own = {}
    if home is not None:
        dropped.add("SWARM_SECRET")
        own = {"SWARM_HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "HOME": str(home)}
        give_speed(home / "cache")
    return {key: value for key, value in os.environ.items() if key not in dropped} | own


def give_speed(cache: Path) -> None:
    """It is the same machine, whoever's home: what it measured once need not be measured again."""
    known = Path(os.environ["XDG_CACHE_HOME"]) / "swarm" / "speed"
    if known.is_dir() and not (cache / "swarm" / "speed").exists():
        shutil.copytree(known, cache / "swarm" / "speed", ignore=shutil.ignore_patterns("*.lock", "*.part"))


def without(values: Sequence[str], *dropped: str) -> list[str]:
    return [value for value in values if value not in dropped]
