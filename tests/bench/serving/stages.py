"""The model alone, the native stream, and HTTP beside mosec and LitServe."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

from tests.bench.serving.child import Child
from tests.bench.serving.servers import ROOM_S, Bench, Server
from tests.bench.serving.tables import HEAD, bar, figures, mid, table

BATCHES = (1, 2, 4, 8, 16, 32, 64)
LEVELS = (1, 16, 64)
WARM_S = 1.0
SERVERS = ("swarm", "mosec", "LitServe")
NATIVE_BAR, LATENCY_BAR_MS = 0.95, 0.5
MOSEC_BAR, LITSERVE_BAR, ONE_BAR = 1.0, 2.0, 2.0


def watched(child: Child, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the work answers, and how many processors its server kept busy meanwhile, start and end included."""
    began, busy_s = time.perf_counter(), child.busy_s()
    answer = work()
    return answer | {"server_busy": (child.busy_s() - busy_s) / (time.perf_counter() - began)}


def alone(bench: Bench, seconds: float) -> dict[int, dict[str, float]]:
    """Figures by batch size; `seconds` in all."""
    command = {"do": "rate", "batches": BATCHES, "seconds": seconds / len(BATCHES)}
    rows = bench.alone().ask(command, seconds + ROOM_S)["answer"]
    return {row["batch"]: row for row in rows}


def show_alone(runs: list[dict[int, dict[str, float]]]) -> None:
    rows = [
        [size, *(f"{mid([run[size] for run in runs], key):.{d}f}" for key, d in (("per_s", 0), ("p50_ms", 2)))]
        for size in BATCHES
    ]
    print(f"The model alone, one thread, {len(runs)} times:\n")
    table(("batch", "samples/s", "p50 ms of a batch"), rows)


def best(run: dict[int, dict[str, float]]) -> float:
    return max(row["per_s"] for row in run.values())


def native(bench: Bench, seconds: float, rounds: int) -> None:
    """The native stream between two runs of the model alone, again and again."""
    asker, server = bench.asker(), bench.peer().child
    anchors = [alone(bench, seconds)]
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for _ in range(rounds):
        for n in LEVELS:
            command = {"do": "closed", "n": n, "seconds": seconds, "warm": WARM_S}
            found[n].append(watched(server, partial(asker.ask, command, seconds + ROOM_S)))
        anchors.append(alone(bench, seconds))
    show_alone(anchors)
    print(f"Native stream, {rounds} rounds of {seconds:g} s at each level:\n")
    table(("in flight", *HEAD), [[n, *figures(rows)] for n, rows in found.items()])
    bests = [(best(before) + best(after)) / 2 for before, after in pairwise(anchors)]
    singles = [(a[1]["p50_ms"] + b[1]["p50_ms"]) / 2 for a, b in pairwise(anchors)]
    ratios = [{"x": row["per_s"] / one} for row, one in zip(found[64], bests, strict=True)]
    extra = [{"x": row["p50_ms"] - one} for row, one in zip(found[1], singles, strict=True)]
    ratio, extra_ms = mid(ratios, "x"), mid(extra, "x")
    bar("native, 64 in flight ÷ the model alone at its best", ratio >= NATIVE_BAR, f"{ratio:.3f}", f"≥ {NATIVE_BAR}")
    met = extra_ms <= LATENCY_BAR_MS
    bar("native, one: median over the model alone", met, f"{extra_ms:.3f} ms", f"≤ {LATENCY_BAR_MS} ms")
    print()


def http(bench: Bench, seconds: float, rounds: int, names: tuple[str, ...]) -> None:
    """The servers in turns, so that whatever else the machine does hits them alike."""
    bench.alone()
    trivial = bench.web("trivial")
    servers = [bench.web(name) for name in names]
    anchors = [alone(bench, seconds)]
    capacity = {n: [_round(bench, trivial, n, min(2.0, seconds))] for n in LEVELS}
    found: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for _ in range(rounds):
        for n in LEVELS:
            for server in servers:
                found[n, server.name].append(_round(bench, server, n, seconds))
    anchors.append(alone(bench, seconds))
    show_alone(anchors)
    print(
        f"HTTP, {rounds} rounds of {seconds:g} s for each; the load generator alone against a trivial server first:\n"
    )
    rows = [[n, "trivial", *figures(row)] for n, row in capacity.items()]
    table(("clients", "server", *HEAD), rows + [[n, name, *figures(each)] for (n, name), each in found.items()])
    if set(SERVERS) <= set(names):
        _http_bars(found)


def _round(bench: Bench, server: Server, n: int, seconds: float) -> dict[str, Any]:
    with bench.only(server):
        return watched(server.child, lambda: bench.call(server, "closed", seconds, n=n, warm=WARM_S))


def _http_bars(found: dict[tuple[int, str], list[dict[str, Any]]]) -> None:
    for n in LEVELS:
        swarm, mosec, litserve = (found[n, name] for name in SERVERS)
        for name, others, wanted in (("mosec", mosec, MOSEC_BAR), ("LitServe", litserve, LITSERVE_BAR)):
            wanted_now = ONE_BAR if n == 1 else wanted
            pairs = zip(swarm, others, strict=True)
            ratio = mid([{"x": mine["per_s"] / theirs["per_s"]} for mine, theirs in pairs], "x")
            bar(f"http, {n}: answers/s ÷ {name}'s", ratio >= wanted_now, f"{ratio:.2f}", f"≥ {wanted_now}")
        if n > 1:
            p99, better = mid(swarm, "p99_ms"), min(mid(mosec, "p99_ms"), mid(litserve, "p99_ms"))
            bar(f"http, {n}: p99 ÷ the better of the two", p99 <= better, f"{p99 / better:.2f}", "≤ 1")
    print()
