"""`swarm split importance`: find out, on labelled pictures of the user's own, which heads and neurons a model needs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from swarm.cli import loop, show
from swarm.errors import UsageError

if TYPE_CHECKING:
    from swarm.models.importance.kept import Importance

SHOWN = 5
"""Of each block's heads, for people."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked on the command line."""

    model: str
    data: str
    weights: str
    samples: int
    batch: int
    out: str | None
    models: tuple[str, ...]
    threads: int | None


def importance(wish: Wish, *, as_json: bool) -> None:
    loop.run(_importance(wish, as_json))


async def _importance(wish: Wish, as_json: bool) -> None:
    from swarm.models.importance.kept import place
    from swarm.models.workshop import Workshop

    cache = Path(platformdirs.user_cache_dir("swarm", appauthor=False))
    workshop = Workshop(cache, tuple(map(Path, wish.models)), "auto", wish.threads)
    with show.progress(as_json) as progress:
        blueprint = await workshop.study(wish.model, progress)
        manifest = await workshop.resolve(blueprint, wish.weights, progress)
        found = await workshop.measure_importance(
            blueprint, manifest, Path(wish.data), wish.samples, wish.batch, progress
        )
    file = place(cache, blueprint, manifest)
    if wish.out is not None:
        file = Path(wish.out)
        await asyncio.to_thread(_copy, found, file)
    if as_json:
        show.print_json(_report(found, file))
    else:
        _print(found, file)


def _copy(found: Importance, file: Path) -> None:
    try:
        found.save(file)
    except OSError as error:
        raise UsageError(f"The importance cannot be written to {file}: {error.strerror or error}.") from error


def _report(found: Importance, file: Path) -> dict[str, Any]:
    origin = found.origin
    return {
        "model": origin.model,
        "anatomy": origin.anatomy,
        "weights": origin.weights,
        "file": str(file),
        "samples": origin.samples,
        "batch": origin.batch,
        "held_out": origin.held_out,
        "heads": [[float(score) for score in heads] for heads in found.heads],
        "neurons": [len(neurons) for neurons in found.neurons],
        "resilience": [list(pair) for pair in found.resilience],
    }


def _print(found: Importance, file: Path) -> None:
    from rich.console import Console

    console, origin = Console(), found.origin
    rows = [
        (str(block), _best(heads), str(len(neurons)), f"{heads.sum() / (heads.sum() + neurons.sum()):.0%}")
        for block, (heads, neurons) in enumerate(zip(found.heads, found.neurons, strict=True))
        if heads.sum() + neurons.sum() > 0
    ]
    headers = ("block", "heads, the most important first", "neurons", "of it in heads")
    console.print(
        show.table(headers, rows, f"What {origin.model} needs, by {origin.samples} × {origin.batch} pictures")
    )
    pairs = [(f"{fraction:.0%}", f"{accuracy:.1%}") for fraction, accuracy in found.resilience]
    title = f"With so much of all blocks, on {origin.held_out} other pictures"
    console.print(show.table(("kept", "right answers"), pairs, title))
    show.tell(f"It is kept in {file}; plans of {origin.model} with these weights use it.")


def _best(heads: Any) -> str:
    order = [int(head) for head in (-heads).argsort(kind="stable")]
    return ", ".join(f"{head} ({heads[head] / heads.sum():.0%})" for head in order[:SHOWN]) + (
        ", …" if len(order) > SHOWN else ""
    )
