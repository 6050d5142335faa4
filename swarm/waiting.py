"""Waiting until others are here, or gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from time import monotonic
from typing import Final

from swarm.errors import NoPeers
from swarm.types import PeerId, View

LOOK_EVERY_S: Final = 0.02


async def until_here(
    view: Callable[[], View], names: Sequence[str], count: int, settle_s: float, timeout_s: float
) -> View:
    """See `Peer.wait_for`."""
    deadline, calm_since, seen = monotonic() + timeout_s, monotonic(), -1
    while True:
        here = view()
        others = sum(host.id != here.me for host in here.hosts())
        if others != seen:
            seen, calm_since = others, monotonic()
        enough = not here.missing(names) if names else others >= count
        if enough and (monotonic() - calm_since >= settle_s or monotonic() >= deadline):
            return here
        if monotonic() >= deadline:
            raise _missing(here.missing(names), timeout_s)
        await asyncio.sleep(LOOK_EVERY_S)


def _missing(names: Sequence[str], timeout_s: float) -> NoPeers:
    who = f"No peer named {', '.join(names)}" if names else "No other peer"
    return NoPeers(
        f"{who} was seen within {timeout_s:g} s. Start `swarm join` on the other devices, name one with "
        "--peer HOST:PORT if multicast does not reach it, or use --strategy local to work alone. "
        "`swarm doctor` says why peers are not seen."
    )


async def watch_losses(changes: AsyncIterator[View], tell: Sequence[Callable[[PeerId, str], None]]) -> None:
    """Tell of everybody who goes, with the last name; not of who is only busy."""
    before: dict[PeerId, str] = {}
    async for view in changes:
        here = {seen.record.id: seen.record.name for seen in view.peers if not seen.state.is_gone}
        for peer in before.keys() - here.keys():
            for lost in tell:
                lost(peer, before[peer])
        before = here
