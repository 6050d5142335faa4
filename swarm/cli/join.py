"""`swarm join`: be a peer until a signal comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from swarm.background import in_daemon_thread
from swarm.cli import loop
from swarm.cli.entry import Wish, admit
from swarm.cli.http import opened
from swarm.cli.show import address, note, print_json, say, tell
from swarm.errors import SwarmError
from swarm.identity import Keyring
from swarm.models.devices import AUTO, CPU, pick
from swarm.peer import Peer
from swarm.secret import Secret
from swarm.types import PeerId, PeerState, View

if TYPE_CHECKING:
    from swarm.gateway import Gateway

_WORDS = {
    PeerState.ALIVE: "is here",
    PeerState.SUSPECT: "does not answer",
    PeerState.DEAD: "is gone",
    PeerState.LEFT: "has left",
}


def run(make: Callable[..., Peer], wish: Wish, *, device: str, as_json: bool) -> None:
    """`make` gives a peer of the flags, with those of `Peer` that it is called with changed."""
    loop.run(_join(make, wish, device, as_json), signal_is_success=True)


async def _join(make: Callable[..., Peer], wish: Wish, device: str, as_json: bool) -> None:
    """Live after life: a new secret that another peer hands over begins the next one."""
    if device not in (AUTO, CPU):
        await in_daemon_thread(partial(pick, device))  # who asks for a device that is not here hears it now
    keyring = Keyring()
    admitted = await admit(wish, keyring)
    changes: dict[str, Any] = {"secret": admitted.secret, "peer": admitted.peers}
    http = wish.http
    while True:
        fresh: asyncio.Future[tuple[Secret, str]] = asyncio.get_running_loop().create_future()

        async def keep(secret: Secret, name: str, fresh: asyncio.Future[tuple[Secret, str]] = fresh) -> None:
            await asyncio.to_thread(keyring.keep, secret)
            if not fresh.done():
                fresh.set_result((secret, name))

        def failed(error: SwarmError, fresh: asyncio.Future[tuple[Secret, str]] = fresh) -> None:
            if not fresh.done():
                fresh.set_exception(error)

        joined = make(**changes, on_secret=keep if admitted.kept else None)
        async with joined as peer, opened(peer, http, failed) as gateway:
            http = http.at(gateway.address) if http is not None and gateway is not None else None
            secret, name = await _live(peer, gateway, fresh, as_json)
            changes |= {"secret": secret, "port": _port(peer), "new_identity": False}
        if as_json:
            print_json({"event": "rotated", "by": name})
        else:
            say(f"{name} changed the swarm's secret; this device comes back with the new one.")


async def _live(
    peer: Peer, gateway: Gateway | None, fresh: asyncio.Future[tuple[Secret, str]], as_json: bool
) -> tuple[Secret, str]:
    """Be there, until a new secret came."""
    me = peer.view().find(peer.id)
    assert me is not None
    if as_json:
        http = {} if gateway is None else {"http": gateway.url}
        print_json({"event": "ready", "name": me.name, "id": me.id, "address": address(me), **http})
    else:
        http_too = "" if gateway is None else f" HTTP clients ask at {gateway.url}."
        tell(f"{me.name} is ready at {address(me)} ({me.id[:8]}).{http_too} Ctrl-C leaves.")
    watching = asyncio.create_task(_watch(peer, as_json))
    try:
        return await fresh
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch(peer: Peer, as_json: bool) -> None:
    before: dict[PeerId, PeerState] = {}
    async for view in peer.changes():
        if not as_json:
            before = _tell(view, before)


def _port(peer: Peer) -> int:
    me = peer.view().find(peer.id)
    return me.addresses[0].port if me is not None and me.addresses else 0


def _tell(view: View, before: dict[PeerId, PeerState]) -> dict[PeerId, PeerState]:
    """Print who came and went since the view before, on stderr."""
    now = {seen.record.id: seen.state for seen in view.peers if seen.record.id != view.me and not seen.record.client}
    for seen in view.peers:
        if now.get(seen.record.id) not in (None, before.get(seen.record.id)):
            note(f"{seen.record.name} ({address(seen.record)}) {_WORDS[seen.state]}")
    return now
