"""Three times as much as a server can bear: who is answered in time, who is refused, how soon, and does memory grow?"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.bench.serving.child import Child
from tests.bench.serving.servers import ROOM_S, Bench
from tests.bench.serving.tables import bar, table

TIMES = 3.0
UNLOADED = 0.5
"""Of the capacity: what `unloaded` means."""
DEADLINE = 2.0
"""Times the unloaded p99: what a request of the overload is given."""
PATIENT_S = 5.0
CONNECTIONS = 1000
AT_ONCE = 64
P99_BAR, REFUSAL_BAR_MS, GROWTH_BAR, LATE_BAR = 2.0, 5.0, 0.02, 0.01
SETTLE_S = 2.0
LOOK_S = 0.25

Ask = Callable[..., dict[str, Any]]
"""Closed (`n`) or open (`rate`, `deadline`) loop for some seconds."""


class Memory:
    """Watches what a process holds, in a thread, while the block lasts."""

    def __init__(self, child: Child) -> None:
        self.seen: list[int] = []
        self._child = child
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            self.seen.append(self._child.resident_bytes())

    @property
    def growth(self) -> float:
        """From the second tenth of the time, when all buffers have been made, to the last."""
        tenth = max(1, len(self.seen) // 10)
        early, late = self.seen[tenth : 2 * tenth] or self.seen, self.seen[-tenth:]
        return median(late) / median(early) - 1


@dataclass
class Way:
    name: str
    server: Child
    ask: Ask


def ways(bench: Bench, names: Sequence[str]) -> list[Way]:
    found = []
    if "native" in names:
        asker = bench.asker()

        def natively(do: str, seconds: float, **more: Any) -> dict[str, Any]:
            return asker.ask({"do": do, "seconds": seconds, **more}, seconds + ROOM_S)

        found.append(Way("native", bench.peer().child, natively))
    if "http" in names:
        server = bench.web("swarm")

        def by_http(do: str, seconds: float, **more: Any) -> dict[str, Any]:
            return bench.call(server, do, seconds, **({"n": CONNECTIONS} | more))

        found.append(Way("http", server.child, by_http))
    return found


def overload(way: Way, seconds: float, overload_s: float, rows: int) -> None:
    """`rows` in each request: where a machine has too few cores to ask for three times as much one by one."""
    capacity = way.ask("closed", seconds, n=AT_ONCE, warm=1.0, rows=rows)["per_s"]
    calm = way.ask("open", max(5.0, seconds), rate=UNLOADED * capacity, deadline=PATIENT_S, rows=rows)
    deadline_s = DEADLINE * calm["p99_ms"] / 1e3
    time.sleep(SETTLE_S)
    with Memory(way.server) as memory:
        storm = way.ask("open", overload_s, rate=TIMES * capacity, deadline=deadline_s, rows=rows)
    time.sleep(SETTLE_S)
    after = way.ask("closed", seconds, n=AT_ONCE, warm=1.0, rows=rows)["per_s"]
    _show(way.name, capacity, calm, storm, deadline_s)
    ok, refused = storm["outcomes"]["ok"], storm["outcomes"]["refused"]
    ratio = ok["p99_ms"] / calm["p99_ms"]
    bar(f"{way.name}, overload: p99 of answers ÷ unloaded", ratio <= P99_BAR, f"{ratio:.2f}", f"≤ {P99_BAR}")
    p99 = refused["p99_ms"]
    bar(f"{way.name}, overload: p99 until refused", p99 < REFUSAL_BAR_MS, f"{p99:.2f} ms", f"< {REFUSAL_BAR_MS} ms")
    megabytes = f"{memory.growth:+.1%}, most {max(memory.seen) / 1e6:.0f} MB"
    bar(f"{way.name}, overload: memory of the server", memory.growth <= GROWTH_BAR, megabytes, f"≤ {GROWTH_BAR:+.0%}")
    late = storm["outcomes"]["late"]["count"] / max(1, sum(found["count"] for found in storm["outcomes"].values()))
    bar(
        f"{way.name}, overload: neither answered nor refused in time",
        late <= LATE_BAR,
        f"{late:.1%}",
        f"≤ {LATE_BAR:.0%}",
    )
    others = storm["outcomes"]["failed"]["count"] + storm["wrong"]
    bar(f"{way.name}, overload: failures and wrong answers", not others, f"{others}", "0")
    if way.name == "http":
        bar("http, overload: refusals without Retry-After", not storm["notes"], f"{storm['notes']}", "0")
    print(
        f"answers during the overload ÷ capacity {storm['per_s'] / capacity:.2f}; "
        f"capacity afterwards {after / capacity:.2f}"
    )
    print(
        f"offered {storm['all_per_s'] / capacity:.2f} × capacity; the load process was {storm['busy']:.0%} busy and "
        f"left out {storm['skipped']} requests for which it had no time or connection; reasons: {storm['reasons']}\n"
    )


def _show(name: str, capacity: float, calm: dict[str, Any], storm: dict[str, Any], deadline_s: float) -> None:
    print(f"Overload, {name}: capacity {capacity:.0f} requests/s, deadline {deadline_s * 1e3:.1f} ms\n")
    rows = [["unloaded (0.5 ×)", "ok", *_times(calm["outcomes"]["ok"])]]
    rows += [[f"overload ({TIMES:g} ×)", outcome, *_times(found)] for outcome, found in storm["outcomes"].items()]
    table(("load", "outcome", "count", "p50 ms", "p99 ms", "worst ms"), rows)


def _times(found: dict[str, float]) -> list[str]:
    return [f"{found['count']}", *(f"{found[key]:.2f}" for key in ("p50_ms", "p99_ms", "max_ms"))]
