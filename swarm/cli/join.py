"""`swarm join`: be a peer until a signal comes."""

from __future__ import annotations

from swarm.cli import loop
from swarm.cli.show import address, note, print_json, tell
from swarm.peer import Peer
from swarm.types import PeerId, PeerState, View


def run(peer: Peer, *, as_json: bool) -> None:
    loop.run(_join(peer, as_json), signal_is_success=True)


async def _join(peer: Peer, as_json: bool) -> None:
    async with peer:
        me = peer.view().find(peer.id)
        assert me is not None
        if as_json:
            print_json({"event": "ready", "name": me.name, "id": me.id, "address": address(me)})
        else:
            tell(f"{me.name} is ready at {address(me)} ({me.id[:8]}). Ctrl-C leaves.")
        before: dict[PeerId, PeerState] = {}
        async for view in peer.changes():
            if not as_json:
                before = _tell(view, before)


def _tell(view: View, before: dict[PeerId, PeerState]) -> dict[PeerId, PeerState]:
    """Print who came and went since the view before, on stderr."""
    now = {seen.record.id: seen.state for seen in view.peers if seen.record.id != view.me and not seen.record.client}
    for seen in view.peers:
        if now.get(seen.record.id) not in (None, before.get(seen.record.id)):
            note(f"{seen.record.name} ({address(seen.record)}) is {seen.state}")
    return now
