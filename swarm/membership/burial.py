"""The gone: shown for a while, then only remembered, and in the end forgotten."""

from __future__ import annotations

from typing import Final

from swarm.types import PeerId

VISIBLE_S: Final = 60.0
"""How long a peer that left or died stays in the view, and is told to others."""
BURIED_S: Final = 600.0
"""How long its death is remembered, so that late gossip does not raise it."""


class Burial:
    """Since when which peers are gone, and which of them are `hidden` by now."""

    def __init__(self) -> None:
        self._since: dict[PeerId, float] = {}
        self._due_at = float("inf")
        self.hidden: set[PeerId] = set()

    def __contains__(self, peer: object) -> bool:
        return peer in self._since

    def __bool__(self) -> bool:
        return bool(self._since)

    def bury(self, peer: PeerId, t: float) -> None:
        self.hidden.discard(peer)
        self._since[peer] = t
        self._due_at = min(self._due_at, t + VISIBLE_S)

    def raise_(self, peer: PeerId) -> None:
        """It lives, or is forgotten."""
        self.hidden.discard(peer)
        self._since.pop(peer, None)

    def oldest(self) -> PeerId:
        return min(self._since, key=lambda peer: (self._since[peer], peer))

    def due(self, t: float) -> tuple[bool, list[PeerId]]:
        """Whether somebody is to be hidden now, and who is to be forgotten."""
        if t < self._due_at:
            return False, []
        forgotten = [peer for peer, since in self._since.items() if t - since >= BURIED_S]
        hidden = {peer for peer, since in self._since.items() if VISIBLE_S <= t - since < BURIED_S}
        is_new = not hidden <= self.hidden
        self.hidden |= hidden
        left = [since + (BURIED_S if peer in self.hidden else VISIBLE_S) for peer, since in self._since.items()]
        self._due_at = min((at for at in left if at > t), default=float("inf"))
        return is_new, forgotten
