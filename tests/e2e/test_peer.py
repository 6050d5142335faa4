"""`Peer` in one process, on loopback."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm import Peer
from swarm.errors import NoPeers

LOOPBACK = ["127.0.0.1"]


async def test_waiting_looks_before_it_gives_up(tmp_path: Path) -> None:
    async with Peer("a", port=0, interfaces=LOOPBACK, mdns=False, client=True, cache=tmp_path) as a:
        await a.wait_for(["a"], timeout_s=0)
        with pytest.raises(NoPeers):
            await a.wait_for(timeout_s=0)


async def test_a_peer_that_shall_not_remember_writes_nothing(tmp_path: Path) -> None:
    known = tmp_path / "known-peers.json"
    known.write_text("as it was")
    options = {"interfaces": LOOPBACK, "mdns": False, "client": True, "remember": False, "cache": tmp_path}
    async with Peer("a", port=0, **options) as a:  # type: ignore[arg-type]
        me = a.view().find(a.id)
        assert me is not None
        async with Peer("b", port=0, peers=me.addresses, **options) as b:  # type: ignore[arg-type]
            async for view in b.changes():
                if view.missing(["a"]) == []:
                    break
    assert known.read_text() == "as it was"
