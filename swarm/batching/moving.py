"""What becomes of a batch that went through a slice: some rows are through, others stand before the next one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
    :param leave: brings it back; while some rows go on, what leaves is copied, or a small answer would keep the memory
        of the whole batch.
    """
    spans = list(_spans(batch.jobs))
    through = [(job, span) for job, span in spans if job.at + 1 == len(job.slices)]
    if len(through) == len(spans):
        everybody = leave(y)
        outputs = [everybody[span] for _, span in through]
    else:
        outputs = [np.array(leave(y[span])) for _, span in through]
    for job in batch.jobs:  # not before everything that can fail is over
        job.at += 1
        job.compute_s += ended - began
    finished = [
        (job, Ran(output, max(0.0, ended - job.arrived - job.compute_s), job.compute_s))
        for (job, _), output in zip(through, outputs, strict=True)
    ]
    return finished, _groups([item for item in spans if item[0].at < len(item[0].slices)], y)


def _spans(jobs: Sequence[Job]) -> Iterator[tuple[Job, slice]]:
    """Each job's rows in the batch."""
    row = 0
    for job in jobs:
        yield job, slice(row, row + job.rows)
        row += job.rows


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
