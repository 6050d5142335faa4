"""Markdown of figures, and whether they reach their bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")
    print(flush=True)


def mid(rows: Rows, key: str) -> float:
    """The median over the rounds."""
    return median(float(row[key]) for row in rows)


def figures(rows: Rows) -> list[str]:
    """Throughput, p50, p99, how busy the load process was, and what else came than answers."""
    wrong = sum(row["wrong"] for row in rows)
    others: dict[str, int] = {}
    for row in rows:
        for reason, count in row["reasons"].items():
            others[reason] = others.get(reason, 0) + count
    return [
        f"{mid(rows, 'per_s'):.0f}",
        f"{mid(rows, 'p50_ms'):.2f}",
        f"{mid(rows, 'p99_ms'):.2f}",
        f"{mid(rows, 'busy'):.0%}",
        f"{mid(rows, 'server_busy'):.0%}",
        str(wrong),
        ", ".join(f"{count} × {reason}" for reason, count in others.items()) or "none",
    ]


HEAD = ("answers/s", "p50 ms", "p99 ms", "load process busy", "server busy", "wrong", "errors")


def bar(what: str, is_met: bool, figure: str, wanted: str) -> None:
    print(f"{'met   ' if is_met else 'MISSED'} {what}: {figure} (bar {wanted})", flush=True)
