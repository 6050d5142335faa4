"""Where the time goes at the server and at a program that asks it, as py-spy sees it: the dearest functions.

It samples without stopping the process, so that what it sees is what happens unseen; now and then a sample is torn.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from tests.bench.serving.child import Child
from tests.bench.serving.environment import environment
from tests.bench.serving.overload import Ask, ways
from tests.bench.serving.servers import ROOM_S, Bench
from tests.bench.serving.tables import table

SECONDS, RATE = 12, 200
LEVELS = (64, 1)
MOST = 20
WARM_S, LEAST_US = 0.5, 5.0
WAITS = re.compile(r"_worker \(thread|Runner\.run|wait \(threading|get \(queue|readline|_read_ready")
"""Innermost frames of threads that wait: for work, for an event."""

Samples = list[tuple[Sequence[str], int]]


def profile(bench: Bench, folder: Path, names: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    spy = str(environment(bench.cache).parent / "py-spy")
    for way in ways(bench, names):
        ends = {"server": way.server} | ({"asker": bench.asker()} if way.name == "native" else {})
        for n in LEVELS:
            for end, child in ends.items():
                _profile(spy, way.ask, child, folder.resolve() / f"{way.name}-{end}-{n}.folded", n)


def _profile(spy: str, ask: Ask, child: Child, file: Path, n: int) -> None:
    before = _cpu_s(child)
    found = _spied(spy, child, partial(ask, "closed", SECONDS, n=n, warm=WARM_S), file)
    requests = found["all_per_s"] * (SECONDS + WARM_S)
    each_us = {thread: (after - before.get(thread, 0)) * 1e6 / requests for thread, after in _cpu_s(child).items()}
    print(f"{file.stem}: {found['all_per_s']:.0f} requests a second while it was watched\n")
    for thread, samples in _by_thread(file).items():
        if each_us.get(thread, 0) >= LEAST_US:
            _show(samples, each_us[thread])


def _cpu_s(child: Child) -> dict[int, float]:
    """Processor seconds by thread."""
    return {one.id: one.user_time + one.system_time for one in psutil.Process(child.process.pid).threads()}


def _spied(spy: str, child: Child, work: Callable[[], dict[str, Any]], file: Path) -> dict[str, Any]:
    argv = [spy, "record", "--pid", str(child.process.pid), "--duration", str(SECONDS), "--rate", str(RATE)]
    argv += ["--format", "raw", "--nonblocking", "--threads", "--output", str(file)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as watching:
        try:
            answer = work()
            watching.wait(ROOM_S)
        finally:
            watching.kill()
    return answer


def _by_thread(file: Path) -> dict[int, Samples]:
    """Stacks, outermost first, and how often each was seen; those of threads that wait are left out."""
    found: dict[int, Samples] = defaultdict(list)
    for line in file.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        number = re.match(r"thread \((\d+)\)", thread)
        if number and frames and not WAITS.search(frames[-1]):
            found[int(number[1])].append(([_short(frame) for frame in frames], int(count)))
    return found


def _show(samples: Samples, cpu_us: float) -> None:
    """The processor time that one thread takes for a request, shared out as its samples lie."""
    own, whole = Counter[str](), Counter[str]()
    for frames, count in samples:
        own[frames[-1]] += count
        for frame in set(frames):
            whole[frame] += count
    each_us = cpu_us / own.total()
    print(f"A thread that takes {cpu_us:.0f} µs of processor time for each request:\n")
    dearest = [place for place, _ in own.most_common(MOST)]
    widest = [place for place, count in whole.most_common() if place not in dearest and count < own.total()][:MOST]
    rows = [[place, f"{own[place] * each_us:.1f}", f"{whole[place] * each_us:.1f}"] for place in dearest + widest]
    table(("function", "itself, µs", "with all it calls, µs"), rows)


def _short(frame: str) -> str:
    """`function (file)`, the file without its folders, and no line: a function's lines count together."""
    name, _, place = frame.partition(" (")
    return f"{name} ({place.rpartition('/')[2].partition(':')[0]})" if place else name
