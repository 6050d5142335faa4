"""`Peer` in one process, on loopback."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from swarm import Peer, rotation
from swarm.discovery import Discovery
from swarm.errors import BadInput, NoPeers, NotInvited, UsageError
from swarm.secret import Secret
from swarm.trust import Authority

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


async def test_whoever_announces_this_peers_id_has_to_prove_that_it_has_its_key(tmp_path: Path) -> None:
    told: list[str] = []
    options = {"interfaces": LOOPBACK, "client": True, "remember": False, "cache": tmp_path}
    async with Peer("a", port=0, on_problem=told.append, **options) as a:  # type: ignore[arg-type]
        visited = asyncio.Event()

        async def lie(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            visited.set()
            writer.close()

        liar = await asyncio.start_server(lie, LOOPBACK[0], 0)
        port = liar.sockets[0].getsockname()[1]
        tag = Authority(Secret.parse(os.environ["SWARM_SECRET"])).tag
        announced = Discovery(a.id, port, LOOPBACK, tag=tag, interfaces=LOOPBACK, on_found=lambda *_: None)
        async with liar, announced, asyncio.timeout(10):
            await visited.wait()
            await asyncio.sleep(0.5)
    assert told == []


async def test_in_an_open_swarm_nobody_changes_the_secret_that_this_device_keeps(tmp_path: Path) -> None:
    kept: list[Secret] = []

    async def keep(secret: Secret, _: str) -> None:
        kept.append(secret)

    options = {"open": True, "port": 0, "interfaces": LOOPBACK, "mdns": False, "client": True, "cache": tmp_path}
    async with Peer("a", on_secret=keep, **options) as a:  # type: ignore[arg-type]
        places = a.view().peers[0].record.addresses
        async with Peer("b", peers=places, **options) as b:  # type: ignore[arg-type]
            async with asyncio.timeout(5):
                async for view in b.changes():
                    if not view.missing(["a"]):
                        break
            answers = await rotation.hand_over(b._links, Secret.new(), [a.id])
    assert "its own folder" in (answers[a.id] or "")
    assert kept == []


@pytest.mark.may_block("a peer that hosts measures itself, in this process")
async def test_a_device_without_a_secret_asks_nobody_and_begins_where_nobody_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SWARM_SECRET")
    options = {"port": 0, "interfaces": LOOPBACK, "mdns": False, "home": tmp_path, "cache": tmp_path}
    with pytest.raises(NotInvited, match="swarm join"):
        await Peer("app", client=True, **options).__aenter__()  # type: ignore[arg-type]
    with pytest.raises(NotInvited, match="swarm invite"):
        await Peer("app", peers=["127.0.0.1:9"], **options).__aenter__()  # type: ignore[arg-type]
    assert not (tmp_path / "secret").exists()
    async with Peer("a", **options) as first, Peer("b", **options) as second:  # type: ignore[arg-type]
        assert first.id != second.id
        first_id = first.id
    async with Peer("a", **options) as again, Peer("app", client=True, **options):  # type: ignore[arg-type]
        assert again.id == first_id


async def test_one_process_may_be_in_two_swarms(tmp_path: Path) -> None:
    ours, theirs = Secret.new(), Secret.new()
    options = {"port": 0, "interfaces": LOOPBACK, "mdns": False, "client": True, "cache": tmp_path}
    async with Peer("a", secret=ours, **options) as a:  # type: ignore[arg-type]
        places = a.view().peers[0].record.addresses
        async with (
            Peer("b", secret=ours.reveal(), peers=places, **options) as b,  # type: ignore[arg-type]
            Peer("c", secret=theirs, peers=places, **options) as c,  # type: ignore[arg-type]
        ):
            async for view in b.changes():
                if view.missing(["a"]) == []:
                    break
            await asyncio.sleep(0.5)
            assert c.view().missing(["a", "b"]) == ["a", "b"]
            assert a.view().missing(["c"]) == ["c"]


def test_what_cannot_be_a_secret_is_told_at_once() -> None:
    with pytest.raises(BadInput, match="The secret given"):
        Peer(secret="password")
    with pytest.raises(UsageError, match="open"):
        Peer(secret=Secret.new(), open=True)


async def test_an_open_swarm_is_said_aloud(tmp_path: Path) -> None:
    said: list[str] = []
    async with Peer(
        "a", port=0, interfaces=LOOPBACK, mdns=False, client=True, open=True, cache=tmp_path, on_problem=said.append
    ):
        assert "OPEN SWARM" in said[0]
