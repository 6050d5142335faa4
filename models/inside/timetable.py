"""What one member does in each exchange of a group, worked out once from `swarm.collectives`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from swarm import collectives
from swarm.plan import Group


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange as a member sees it."""

    receivers: tuple[int, ...]
    """To whom it sends."""
    senders: tuple[int, ...]
    """From whom something comes; where that is nobody there is nothing to wait for."""


@lru_cache(64)
def timetable(group: Group, me: int) -> tuple[Turn, ...]:
    members = range(len(group.members))
    return tuple(
        Turn(
            tuple(other for other in members if collectives.message_bytes(group, exchange, me, other, 1)),
            tuple(other for other in members if collectives.message_bytes(group, exchange, other, me, 1)),
        )
        for exchange in range(collectives.exchanges(group))
    )
