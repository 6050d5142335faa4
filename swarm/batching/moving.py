"""What becomes of a batch that went through a slice: some rows are through, others stand before the next one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from swarm.batching.jobs import Batch, Group, Job, Ran
from swarm.types import Array


def advance(
    batch: Batch, y: Any, began: float, ended: float, leave: Callable[[Any], Array]
) -> tuple[list[tuple[Job, Ran]], list[Group]]:
    """Those that are through, with their rows; and the others, by the slice that comes next.

    :param y: `[rows of the batch, ...]` on the run device.
    :param leave: brings it back; while some rows go on, what leaves is copied, for they may be overwritten.
    """
    jobs = batch.jobs
    everybody = leave(y) if all(job.at + 1 == len(job.slices) for job in jobs) else None
    finished: list[tuple[Job, Ran]] = []
    going: list[tuple[Job, slice]] = []
    row = 0
    for job in jobs:
        span = slice(row, row + job.rows)
        row = span.stop
        job.at += 1
        job.compute_s += ended - began
        if job.at < len(job.slices):
            going.append((job, span))
        else:
            rows = everybody[span] if everybody is not None else np.array(leave(y[span]))
            finished.append((job, Ran(rows, max(0.0, ended - job.arrived - job.compute_s), job.compute_s)))
    return finished, _groups(going, y)


def _groups(going: Sequence[tuple[Job, slice]], y: Any) -> list[Group]:
    """Neighbouring rows stay one piece."""
    groups = []
    ordered = sorted(going, key=lambda item: (item[0].slices[item[0].at], item[1].start))
    for _, members in groupby(ordered, key=lambda item: item[0].slices[item[0].at]):
        jobs, spans = zip(*members, strict=True)
        pieces: list[slice] = []
        for span in spans:
            if pieces and pieces[-1].stop == span.start:
                pieces[-1] = slice(pieces[-1].start, span.stop)
            else:
                pieces.append(span)
        groups.append(Group.together(list(jobs), [y if span == slice(0, len(y)) else y[span] for span in pieces]))
    return groups
