"""What commands print: JSON for programs on stdout, tables for people, progress on stderr.

Names come from other devices and from files: all that goes to a terminal passes through `plain`, and no markup in it
is obeyed. JSON escapes what is not printable by itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

from swarm.errors import plain
from swarm.plan import Plan
from swarm.result import Result
from swarm.types import PeerRecord, PeerView, View
from swarm.workshop import Progress


def print_json(value: Any) -> None:
    """One line. Raises `ValueError` for NaN and infinity, which JSON does not have."""
    print(json.dumps(value, allow_nan=False), flush=True)


def tell(text: str) -> None:
    """A line for people on stdout, whole however long it is."""
    print(plain(text), flush=True)


def note(text: str) -> None:
    """A line for people on stderr, beside what the command prints."""
    print(plain(text), file=sys.stderr, flush=True)


def say(sentence: str) -> None:
    note(f"swarm: {sentence}")


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Any:
    from rich.table import Column, Table
    from rich.text import Text

    made = Table(*(Column(Text(plain(header))) for header in headers), title=title, title_justify="left")
    for row in rows:
        made.add_row(*(Text(plain(cell)) for cell in row))
    return made


def peer_json(seen: PeerView) -> dict[str, Any]:
    from swarm import schema

    record = seen.record
    return {
        "name": record.name,
        "id": record.id,
        "address": address(record),
        "state": str(seen.state),
        "profile": schema.pack(record.profile),
        "holds": list(record.holds),
    }


def address(record: PeerRecord) -> str:
    return str(record.addresses[0]) if record.addresses else ""


def plan_json(plan: Plan, view: View) -> dict[str, Any]:
    return {
        "steps": [
            {"id": step.id, "peers": [name_of(view, peer) for peer in step.peers], "part": step.part.name}
            for step in plan.steps
        ]
    }


def name_of(view: View, peer: Any) -> str:
    record = view.find(peer)
    return record.name if record else str(peer)[:8]


def labels_json(result: Result) -> list[list[dict[str, Any]]]:
    return [[{"label": label.label, "score": label.score} for label in row] for row in result.labels]


def trace_json(result: Result) -> list[dict[str, Any]]:
    from swarm import schema

    return [schema.pack(row) for row in result.trace]


def trace_table(results: list[Result], title: str) -> Any:
    """Where the time of requests went: one row a step, the mean over all that went the way of the last one."""
    results = [result for result in results if _way(result) == _way(results[-1])]
    headers = ["step", "peer", "wire", "queue", "compute", "received"]
    rows = [
        [
            steps[0].step,
            steps[0].peer,
            milliseconds(fmean(step.wire_s for step in steps)),
            milliseconds(fmean(step.queue_s for step in steps)),
            milliseconds(fmean(step.compute_s for step in steps)),
            kibibytes(fmean(step.bytes for step in steps)),
            milliseconds(fmean(step.exchange_s for step in steps)),
        ]
        for steps in zip(*(result.trace for result in results), strict=True)
    ]
    back_s = fmean(result.answer_wire_s for result in results)
    rows.append(["answer", "here", milliseconds(back_s), "", "", kibibytes(fmean(r.answer_bytes for r in results)), ""])
    if any(step.exchange_s for result in results for step in result.trace):
        return table([*headers, "exchange"], rows, title)
    return table(headers, [row[:-1] for row in rows], title)


def _way(result: Result) -> list[tuple[str, str]]:
    return [(step.step, step.peer) for step in result.trace]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def kibibytes(size: float) -> str:
    return f"{size / 1024:.1f} KiB"


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """A bar for each long step on a terminal's stderr; silent when `quiet` or not on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda what, fraction: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def advance(what: str, fraction: float | None) -> None:
            what = plain(what)
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=None if fraction is None else 1.0)
            if fraction is not None:
                bars.update(tasks[what], total=1.0, completed=fraction)

        yield advance
