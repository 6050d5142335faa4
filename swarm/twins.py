"""Another device that runs with this peer's own key: its configuration was copied. Noticed, proved, and said once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from swarm.types import Address, PeerId

MAX_TWINS: Final = 8
MAX_PLACES: Final = 4


class Twins:
    """`visit` dials an address, where a twin has to prove its key; `tell` gets a sentence for people."""

    def __init__(self, tell: Callable[[str], None], visit: Callable[[Address], None]) -> None:
        self.me = PeerId("")
        self._tell = tell
        self._visit = visit
        self._told: set[str] = set()

    def announced(self, addresses: tuple[Address, ...]) -> None:
        """Anybody on the LAN can announce this peer's id; a twin is who proves, when dialled, that it has its key."""
        for address in addresses[:MAX_PLACES]:
            self._visit(address)

    def met(self, addresses: tuple[Address, ...]) -> None:
        """It has proved it."""
        hosts = {address.host for address in addresses} or {"Another device"}
        if hosts <= self._told or len(self._told) >= MAX_TWINS:
            return
        self._told |= hosts
        self._tell(
            f"{', '.join(sorted(hosts))} runs with this peer's own key ({self.me[:8]}): the configuration of one was "
            "copied to the other. Stop swarm on one of the two, and start it there with `swarm join --new-identity`."
        )
