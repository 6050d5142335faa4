"""Peers that compute, as processes to kill and to start again: each with a home, a name and a port of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LEAVE_S = 10.0


class Workers:
    """`size` times `swarm join` on loopback; all are killed when the block ends."""

    def __init__(self, size: int, folder: Path) -> None:
        self.names = [f"worker-{i}" for i in range(size)]
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._ports: dict[str, str] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._processes):
            self.kill(name)

    @property
    def addresses(self) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self._ports.values()]

    def ready(self) -> None:
        """Start all, and wait until each has said that it is ready."""
        for name in self.names:
            self.restart(name)

    def process(self, name: str) -> subprocess.Popen[str]:
        return self._processes[name]

    def kill(self, name: str) -> None:
        """SIGKILL."""
        process = self._processes.pop(name)
        process.kill()
        process.wait(LEAVE_S)
        if process.stdout is not None:
            process.stdout.close()

    def restart(self, name: str) -> None:
        """Start it, with the key and the port that it had, if it had any."""
        home = self._folder / name
        home.mkdir(exist_ok=True)
        argv = [sys.executable, "-P", "-m", "swarm", "join", "--json", "--name", name, "--threads", "1", "--no-mdns"]
        argv += ["--interface", "127.0.0.1", "--port", self._ports.get(name, "0")]
        argv += [word for address in self.addresses for word in ("--peer", address)]
        env = os.environ | {"SWARM_HOME": str(home), "XDG_CACHE_HOME": str(self._folder / "cache"), "HOME": str(home)}
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "env": env}
        process = self._processes[name] = subprocess.Popen(argv, **options)
        assert process.stdout is not None
        self._ports[name] = json.loads(process.stdout.readline())["address"].rpartition(":")[2]
