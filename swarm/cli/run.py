"""`swarm run`: ask the swarm to classify pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from swarm.cli import loop, show
from swarm.errors import BadInput
from swarm.loading import wires_of
from swarm.peer import Peer
from swarm.plan import OnLoss
from swarm.result import Result
from swarm.session import Session

SETTLE_S = 0.5
"""After the first peer was seen, how long to look for more."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked on the command line."""

    model: str
    images: list[str]
    strategy: str
    goal: str
    replicate: tuple[float, ...] | None
    on_loss: OnLoss
    split: list[int | str] | None
    on: list[str] | None
    weights: str
    wire: str | None
    repeat: int
    deadline_s: float
    wait_s: float


def places(text: str | None) -> list[int | str] | None:
    """`4,8` as numbers of blocks; what is not a number is the name of a cut."""
    return None if text is None else [int(place) if place.isdecimal() else place for place in names(text) or ()]


def names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def run(peer: Peer, wish: Wish, *, as_json: bool) -> None:
    check(wish)
    loop.run(_run(peer, wish, as_json))


def check(wish: Wish) -> None:
    """Raise `UsageError` for what this device alone can see to be wrong, before others work for it."""
    wires_of(wish.wire)
    for image in wish.images:
        if not _is_file(Path(image)):
            raise BadInput(f"There is no picture '{image}': it does not exist, or is no regular file.")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, a folder that may not be entered
        return False


async def _run(peer: Peer, wish: Wish, as_json: bool) -> None:
    async with peer:
        with show.progress(as_json) as progress:
            if wish.strategy != "local" or wish.on:
                await peer.wait_for(wish.on or (), timeout_s=wish.wait_s, settle_s=0.0 if wish.on else SETTLE_S)
            session = await peer.load(
                wish.model,
                wish.strategy,
                wish.split,
                wish.on,
                wish.weights,
                wish.wire,
                wish.goal,
                replicate=wish.replicate,
                on_loss=wish.on_loss,
                progress=progress,
            )
        async with session:
            results = [await ask(session, wish.images, wish.deadline_s) for _ in range(wish.repeat)]
        view = peer.view()
    if as_json:
        show.print_json(_report(wish, session, results, show.plan_json(session.plan, view)))
    else:
        _print(wish, results)


async def ask(session: Session, images: list[str], deadline_s: float) -> list[Result]:
    """One result for each run of as many pictures as the plan takes at once."""
    most = session.plan.max_batch
    groups = [images[i : i + most] for i in range(0, len(images), most)]
    return [await session(group, deadline_s=deadline_s) for group in groups]


def _report(wish: Wish, session: Session, results: list[list[Result]], plan: Any) -> dict[str, Any]:
    last = results[-1]
    labels = [row for result in last for row in show.labels_json(result)]
    degraded = [result.degraded for result in last for _ in result.labels]
    return {
        "model": wish.model,
        "strategy": session.plan.strategy,
        "results": [
            {"input": image, "labels": row, "degraded": why}
            for image, row, why in zip(wish.images, labels, degraded, strict=True)
        ],
        "plan": plan,
        "trace": [row for result in last for row in show.trace_json(result)],
        "answer": {"wire_s": sum(r.answer_wire_s for r in last), "bytes": sum(r.answer_bytes for r in last)},
        "latency_s": median(sum(result.latency_s for result in group) for group in results),
    }


def _print(wish: Wish, results: list[list[Result]]) -> None:
    from rich.console import Console

    rows = [row for result in results[-1] for row in result.labels]
    for image, row in zip(wish.images, rows, strict=True):
        best = ", ".join(f"{label.label} {label.score:.1%}" for label in row[:3])
        show.tell(f"{image}: {best}")
    for sentence in dict.fromkeys(result.degraded for result in results[-1] if result.degraded):
        show.note(sentence)
    latency_s = median(sum(result.latency_s for result in group) for group in results)
    flat = [result for group in results for result in group]
    Console().print(show.trace_table(flat, f"{show.milliseconds(latency_s)} a request"))
