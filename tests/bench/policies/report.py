"""Tables in markdown, and how `joining` stands against the bars.

Of several rounds the median stands in a table, of ratios the median of each round's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from tests.bench.policies.chart import Lines
from tests.bench.policies.stages import POLICIES, Row
from tests.bench.serving.tables import bar, table

MEMORY_BAR, RATE_BAR, WORST_BAR = 1.05, 1.0, 1.2
MB = 10**6


def held(memory: Mapping[str, Row]) -> None:
    """Parameters: the bytes of each storage once, over all slices that are held."""
    head = ("policy", "parameters held, MB", "a copy for each tail would be, MB", "memory after loading, MB more")
    rows = []
    for policy, found in memory.items():
        copies = f"{found['copies'] / MB:.1f}" if policy == "tails" else ""
        rows.append((policy, f"{found['held'] / MB:.1f}", copies, f"{found['over'] / MB:.1f}"))
    table(head, rows)
    ratio = memory["joining"]["held"] / memory["slices"]["held"]
    _bar("parameters of joining over those of slices", ratio <= MEMORY_BAR, ratio, f"at most {MEMORY_BAR}")
    whole = memory["tails"]["copies"] / memory["joining"]["held"]
    print(f"       tails, each with weights of its own, would hold {whole:.2f} times as many as joining\n")


HEAD = (
    "largest batch, requests in flight",
    "policy",
    "requests/s",
    "median ms",
    "p99 ms",
    "worst ms",
    "rows a batch",
    "computing",
    "processor ms a request",
    "peak MB more",
    "answers",
    "wrong",
)


def mixed(rows: Sequence[Row]) -> None:
    lines = []
    scenes = list(dict.fromkeys(row["scene"] for row in rows))
    for scene in scenes:
        for policy in POLICIES:
            some = [row for row in rows if row["scene"] == scene and row["policy"] == policy]
            lines.append(
                (
                    scene,
                    policy,
                    f"{_mid(some, 'per_s'):.2f}",
                    *(f"{_mid(some, key) * 1e3:.0f}" for key in ("p50_s", "p99_s", "worst_s")),
                    f"{_mid(some, 'rows'):.1f}",
                    f"{_mid(some, 'busy'):.1%}",
                    f"{_mid(some, 'cpu_s') * 1e3:.2f}",
                    f"{min(row['peak'] for row in some) / MB:.0f}",
                    sum(row["count"] for row in some),
                    sum(row["wrong"] for row in some),
                )
            )
    table(HEAD, lines)
    for scene in scenes:
        _bars(scene, [row for row in rows if row["scene"] == scene])
    bar("all answers right", not any(row["wrong"] for row in rows), str(sum(row["wrong"] for row in rows)), "0 wrong")
    left = max(row["left"] for row in rows)
    bar("nothing left once all clients went", left < 1e-9, f"{left:.3g}", "0")
    print()


def _bars(scene: str, rows: Sequence[Row]) -> None:
    rate = _against(rows, "per_s", lambda tails, slices: tails)
    _bar(f"{scene}: throughput of joining over that of tails", rate >= RATE_BAR, rate, f"at least {RATE_BAR}")
    cost = _against(rows, "cpu_s", lambda tails, slices: tails)
    print(f"       {scene}: processor time of joining over that of tails (of one thread, hardly noisy): {cost:.3f}")
    worst = _against(rows, "worst_s", min)
    wanted = f"at most {WORST_BAR}"
    _bar(f"{scene}: worst latency of joining over the better of the others", worst <= WORST_BAR, worst, wanted)
    peak = {policy: min(row["peak"] for row in rows if row["policy"] == policy) for policy in POLICIES}
    ratio = peak["joining"] / max(1, peak["slices"])
    _bar(f"{scene}: peak memory of joining over that of slices", ratio <= MEMORY_BAR, ratio, f"{MEMORY_BAR}")


def _against(rows: Sequence[Row], key: str, choose: Callable[[float, float], float]) -> float:
    """`joining` over what is chosen of `tails` and `slices`."""
    ratios = list[float]()
    for number in _values(rows, "round"):
        of = {row["policy"]: row[key] for row in rows if row["round"] == number}
        ratios.append(of["joining"] / choose(of["tails"], of["slices"]))
    return median(ratios)


def lines(rows: Sequence[Row], key: str, title: str) -> Lines:
    """Prints them as a table."""
    found = {
        policy: {
            value: median(row["took"] for row in rows if row["policy"] == policy and row[key] == value)
            for value in _values(rows, key)
        }
        for policy in POLICIES
    }
    body = [
        (value, *(f"{found[policy][value] * 1e3:.1f}" for policy in POLICIES), *_ratios(found, value))
        for value in _values(rows, key)
    ]
    table((title, *(f"{policy}, ms" for policy in POLICIES), "joining : tails", "slices : tails"), body)
    return found


def _ratios(found: Lines, value: int) -> list[str]:
    return [f"{found[policy][value] / found['tails'][value]:.3f}" for policy in ("joining", "slices")]


def _values(rows: Sequence[Row], key: str) -> list[int]:
    return list(dict.fromkeys(row[key] for row in rows))


def _mid(rows: Sequence[Row], key: str) -> float:
    return median(float(row[key]) for row in rows)


def _bar(what: str, is_met: bool, ratio: float, wanted: str) -> None:
    bar(what, is_met, f"{ratio:.3f}", wanted)
