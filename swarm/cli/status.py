"""`swarm status`: look at the swarm once."""

from __future__ import annotations

import asyncio

from swarm.cli import loop
from swarm.cli.show import address, peer_json, print_json, table, tell
from swarm.peer import Peer
from swarm.types import PeerView


def run(peer: Peer, wait_s: float, *, as_json: bool) -> None:
    loop.run(_status(peer, wait_s, as_json))


async def _status(peer: Peer, wait_s: float, as_json: bool) -> None:
    async with peer:
        await asyncio.sleep(wait_s)
        peers = [seen for seen in peer.view().peers if not seen.record.client]
        strangers = peer.strangers
    if as_json:
        print_json({"peers": [peer_json(seen) for seen in peers], "strangers": strangers})
        return
    if peers:
        _table(peers)
    else:
        tell(
            f"No peer was seen within {wait_s:g} s. Start `swarm join` on a device, or name one with --peer; "
            "`swarm doctor` looks for the cause."
        )
    if strangers:
        who = "1 peer of another swarm is" if strangers == 1 else f"{strangers} peers of another swarm are"
        hint = " If this device belongs there, `swarm doctor` says what to do." if len(peers) <= 1 else ""
        tell(f"{who} here too, and left alone.{hint}")


def _table(peers: list[PeerView]) -> None:
    """Who is here, and below it what each holds: the names of parts are long."""
    from rich.console import Console

    rows = [
        (
            seen.record.name,
            str(seen.state),
            address(seen.record),
            seen.record.profile.device,
            f"{seen.record.profile.memory_free_bytes / 2**30:.1f} GiB",
        )
        for seen in peers
    ]
    Console().print(table(("name", "state", "address", "device", "memory free"), rows))
    for seen in peers:
        for part in seen.record.holds:
            tell(f"  {seen.record.name} holds {part}")
        for part, fraction in seen.record.load.loading.items():
            tell(f"  {seen.record.name} loads {part}: {fraction:.0%}")
