"""Who gets which heads and neurons of a block: the lead the most important ones, the others shares of equal weight.

order      0 1 2 3 │ 4 5 6 7 8 9 …
           the lead│ dealt round and round, so that each of the others has its fair part of every rank
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from swarm.errors import CannotSplit
from swarm.models.inside.extents import Picks


def order_of(scores: Sequence[float] | None, count: int) -> Picks:
    """Numbers of `count` heads or neurons, the most important first; in their own order where nobody knows.

    Raises `CannotSplit` for scores of another block.
    """
    if scores is None:
        return np.arange(count)
    if len(scores) != count:
        raise CannotSplit(f"A block has {count} heads or neurons, but {len(scores)} of them have a score.")
    return np.argsort(-np.asarray(scores, np.float64), kind="stable")


def deal(order: Picks, counts: Sequence[int]) -> list[Picks]:
    """Which of them each member gets, ascending: as many as `counts` says, all of them together, each once.

    Member 0 gets the first ones. The rest is dealt by rank: a member with n of m gets one of every m / n ranks, the
    first about half that way in, and all shares have about the same mean rank. Raises `CannotSplit` for other counts.
    """
    if not counts or min(counts) < 0 or sum(counts) != len(order):
        raise CannotSplit(f"{len(order)} heads or neurons cannot be dealt out as {', '.join(map(str, counts))}.")
    rest = order[counts[0] :]
    owners = _dealt(counts[1:])
    return [np.sort(order[: counts[0]]), *(np.sort(rest[owners == member]) for member in range(len(counts) - 1))]


def _dealt(counts: Sequence[int]) -> Picks:
    """For each rank whose it is: a member's k-th is due at (k + 1/2) / n of the way, and all are sorted by that.

    Where several are due at once, their order turns round from time to time.
    """
    due = np.concatenate([(np.arange(count) + 0.5) / count for count in counts] or [np.empty(0)])
    owner = np.repeat(np.arange(len(counts)), counts)
    turn = np.concatenate([np.arange(count) for count in counts] or [np.empty(0, np.int64)])
    snake = np.where(turn % 2 == 0, owner, -owner)
    return owner[np.lexsort((snake, due))]
