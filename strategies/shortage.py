"""Why a model does not fit: how much is missing, or which piece is too large for everybody."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from swarm.strategies.costs import Costs
from swarm.strategies.links import Floats
from swarm.strategies.strategy import counted, megabytes

ADVICE = "Add a device, or give one more memory with --memory."


def shortage(costs: Costs, rows: Sequence[int] | None = None, cuts: Sequence[int] | None = None) -> str:
    """A sentence for `NoFit`; `rows` and `cuts` are the devices and places that the user insists on."""
    rows = costs.devices or (costs.me,) if rows is None else rows
    return _missing(costs, rows) or _too_large(costs, rows, cuts) or _unshared(costs, rows)


def _missing(costs: Costs, rows: Sequence[int]) -> str | None:
    """All of them together have too little."""
    free, needed = float(_free(costs, rows).sum()), costs.span_bytes(0, len(costs.model.stages))
    if needed <= free:
        return None
    have = f"{counted(len(rows), 'device')} here {'has' if len(rows) == 1 else 'have'} {megabytes(free)} free"
    return (
        f"{costs.model.name} needs {megabytes(needed)}, and the {have}{' together' if len(rows) > 1 else ''}: "
        f"{megabytes(needed - free)} are missing. {ADVICE}"
    )


def _too_large(costs: Costs, rows: Sequence[int], cuts: Sequence[int] | None) -> str | None:
    """One piece is too large for every one of them."""
    model, free = costs.model, _free(costs, rows)
    inner = range(1, len(model.stages) if model.uncut_reason is None else 1)
    places = (0, *inner, len(model.stages)) if cuts is None else cuts
    needed, end = max((costs.span_bytes(*span), span[1]) for span in pairwise(places))
    if needed <= free.max():
        return None
    piece = "it cannot be cut, and" if len(places) == 2 else f"the part that ends with {model.stages[end - 1].name}"
    roomiest = costs.records[rows[int(free.argmax())]].name
    return (
        f"{model.name} does not fit: {piece} needs {megabytes(needed)}, and no device has more free than {roomiest} "
        f"with {megabytes(float(free.max()))}. {ADVICE}"
    )


def _unshared(costs: Costs, rows: Sequence[int]) -> str:
    known = [(costs.records[row].name, float(free)) for row, free in zip(rows, _free(costs, rows), strict=True)]
    room = ", ".join(name if np.isinf(free) else f"{name} ({megabytes(free)} free)" for name, free in known)
    return (
        f"{costs.model.name} cannot be shared out over {room}: no cuts leave each a part that it has the memory for, "
        f"over links that work. {ADVICE}"
    )


def _free(costs: Costs, rows: Sequence[int]) -> Floats:
    return np.maximum(0.0, costs.limit_bytes[list(rows)])
