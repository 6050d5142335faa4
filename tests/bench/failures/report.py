"""The figures as a table, as comma-separated values, and as a chart."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from swarm.models.importance.roles import BlockRoles
from tests.bench.failures.chart import chart
from tests.bench.failures.schemes import TITLES, Shared, unit_costs


@dataclass(frozen=True, slots=True)
class Row:
    """One mean accuracy."""

    scheme: str
    r: float
    failures: int
    accuracy: float
    memory: float
    """What the requester holds of the blocks' heads and neurons, as a fraction of their parameters."""


def memory(blocks: Sequence[BlockRoles], shared: Sequence[Shared]) -> float:
    held, total = 0.0, 0.0
    for block, of in zip(blocks, shared, strict=True):
        parts = list(zip((of.matches, of.values, of.neurons), unit_costs(block), strict=True))
        held += sum(cost * int(np.count_nonzero(owners == 0)) for owners, cost in parts)
        total += sum(cost * len(owners) for owners, cost in parts)
    return held / total


def table(rows: Sequence[Row], title: str) -> None:
    """For each r the accuracies with 0, 1, 2 and 3 missing, and what each scheme is."""
    schemes = list(dict.fromkeys(row.scheme for row in rows))
    fractions = sorted({row.r for row in rows})
    print(f"\n{title}\n\n| scheme | {' | '.join(f'r = {r:g}' for r in fractions)} | mean of 1 to 3 missing |")
    print("|---|" + "---|" * (len(fractions) + 1))
    for scheme in schemes:
        cells = [
            " / ".join(f"{100 * row.accuracy:.1f}" for row in rows if (row.scheme, row.r) == (scheme, r))
            for r in fractions
        ]
        print(f"| {scheme} | {' | '.join(cells)} | {100 * mean(rows, scheme):.2f} |")
    print("\n" + "\n".join(f"{scheme}: {TITLES[scheme]}" for scheme in schemes))
    print(
        "\nmemory at the requester: "
        + "; ".join(
            f"{scheme} "
            + " ".join(
                f"{next(row.memory for row in rows if (row.scheme, row.r) == (scheme, r)):.3f}" for r in fractions
            )
            for scheme in schemes
        )
    )


def mean(rows: Sequence[Row], scheme: str) -> float:
    """Where something is lost and not everything is replicated."""
    return fmean(row.accuracy for row in rows if row.scheme == scheme and row.failures and row.r < 1)


def write(rows: Sequence[Row], folder: Path, model: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "failures.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    panels = {
        f"{model}: {failures} of 4 devices missing": {
            scheme: {row.r: row.accuracy for row in rows if (row.scheme, row.failures) == (scheme, failures)}
            for scheme in dict.fromkeys(row.scheme for row in rows)
        }
        for failures in sorted({row.failures for row in rows} - {0})
    }
    (folder / "failures.svg").write_text(chart(panels), encoding="utf-8")
