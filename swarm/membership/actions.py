"""What `Membership` asks its owner to do."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.membership.messages import Message
from swarm.types import Address, PeerId


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to any of `addresses`; then call `connected(…, dial=this)` or `failed(this)`.

    Without addresses (a peer that only ever connects outwards) it has failed already.
    """

    addresses: tuple[Address, ...]
    peer_id: PeerId | None = None
    """Who should answer, where that is known."""


@dataclass(frozen=True, slots=True)
class Knock:
    """Try a bare TCP connection to any of `addresses`, for `timeout_s` at most; then call `knocked(peer_id, door)`."""

    peer_id: PeerId
    addresses: tuple[Address, ...]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Send:
    """Give this peer a message, over the connection to it. It may get lost; nobody waits for it."""

    peer_id: PeerId
    message: Message


@dataclass(frozen=True, slots=True)
class Drop:
    """Break the connection to this peer and report it: packets got lost on it for so long that it may never recover.

    A host whose network comes back answers at once, but TCP tries an old connection again only after a minute or so.
    """

    peer_id: PeerId


Action = Dial | Knock | Send | Drop
