"""Bytes in flight, by peer: however many channels one opens, it has one allowance."""

from __future__ import annotations

from swarm.errors import Overloaded
from swarm.types import PeerId


class Allowance:
    """What each peer has sent that is being received or served here, at most `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held: dict[PeerId, int] = {}

    def held_bytes(self, peer: PeerId) -> int:
        return self._held.get(peer, 0)

    def take(self, peer: PeerId, nbytes: int) -> None:
        """Make room for a body. Raises `Overloaded`; then nothing is taken."""
        held = self._held.get(peer, 0) + nbytes
        if held > self._limit_bytes:
            raise Overloaded(
                f"This peer holds {held - nbytes} bytes of your calls already and takes {self._limit_bytes} at most; "
                "try again in a moment."
            )
        self._held[peer] = held

    def give_back(self, peer: PeerId, nbytes: int) -> None:
        left = self._held[peer] - nbytes
        if left:
            self._held[peer] = left
        else:
            del self._held[peer]
