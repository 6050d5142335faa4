"""Processes of a run. Ours speak JSON, a line each way; all of them, and whatever they start, end with the block."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[3]
LEAVE_S = 5.0


class Child:
    """`with Child(argv, env, log) as child: child.ask({"do": …}, 10)`. `log` takes what it says on stderr."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self._argv = argv
        self._log = log.open("ab")
        paths = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))
        variables = {**os.environ, **env, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=variables,
            cwd=log.parent,
            start_new_session=True,  # so that its own children can be ended with it
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._collect, daemon=True).start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGCONT, signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                if number != signal.SIGCONT:
                    self.process.wait(LEAVE_S)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        self._log.close()

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, command: Mapping[str, Any], within_s: float) -> dict[str, Any]:
        """One command, and the object that it answers."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self.line(within_s)

    def line(self, within_s: float) -> dict[str, Any]:
        """The next object that it prints."""
        try:
            text = self._lines.get(timeout=within_s)
        except queue.Empty:
            text = ""
        if not text:
            raise RuntimeError(f"{' '.join(self._argv[-3:])} said nothing within {within_s:g} s.\n{self.last_words()}")
        found: dict[str, Any] = json.loads(text)
        return found

    def last_words(self) -> str:
        return Path(self._log.name).read_text(errors="replace")[-2000:]

    def pause(self) -> None:
        """Whatever it would do while it has nothing to do disturbs nobody."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    def resident_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def busy_s(self) -> float:
        """Processor seconds so far, of it and what it started."""
        me = psutil.Process(self.process.pid)
        return sum(sum(one.cpu_times()[:2]) for one in (me, *me.children(recursive=True)))

    def _collect(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")
