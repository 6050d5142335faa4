"""Changing the swarm's secret while it runs: over the old secret's connections, the new one goes to those who stay.

    rotate ──"rotate": the new secret──▶ each peer that stays: keeps it, leaves, comes back with it
           ◀────────── kept, or why not ──

Only a peer that proved to hold the old secret is listened to. A device that was lost holds it too: so a person says
who stays, and whoever is left out finds nobody any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta

from swarm import schema
from swarm.errors import SwarmError
from swarm.secret import Secret
from swarm.transport import Call, Channel, Links, Reply, Router
from swarm.types import PeerId, Text

log = logging.getLogger(__name__)

METHOD: Final = "rotate"
HAND_OVER_S: Final = 10.0

OnSecret = Callable[[Secret, str], Awaitable[None]]
"""Keeps a new secret that the peer of that name brings. Raises `SwarmError` when it cannot."""


@dataclass(frozen=True, slots=True, repr=False)
class NewSecret:
    secret: Annotated[str, Meta(max_length=128)]


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of it; `why` is empty when it was kept."""

    why: Text = ""


def listen(router: Router, on_secret: OnSecret | None) -> None:
    """Take new secrets from now on; without `on_secret`, say that this peer's comes from elsewhere."""

    async def take(channel: Channel, call: Call) -> Reply:
        secret = Secret.parse(schema.unpack(NewSecret, call.fields).secret, f"What {channel.who()} handed over")
        if on_secret is None:
            return Reply(
                schema.pack(Kept("its secret does not come from its own folder, so it has to be changed there"))
            )
        await on_secret(secret, channel.remote.name)
        return Reply(schema.pack(Kept()))

    router.add(METHOD, take)


async def hand_over(links: Links, secret: Secret, peers: Sequence[PeerId]) -> dict[PeerId, str | None]:
    """Give the new secret to all `peers` at once; for each None, or why it has not got it."""

    async def give(peer: PeerId) -> str | None:
        try:
            channel = await links.get(peer, "control", HAND_OVER_S)
            reply = await channel.request(METHOD, schema.pack(NewSecret(secret.reveal())), timeout_s=HAND_OVER_S)
            return schema.unpack(Kept, reply.fields).why or None
        except SwarmError as error:
            return str(error)

    return dict(zip(peers, await asyncio.gather(*(give(peer) for peer in peers)), strict=True))
