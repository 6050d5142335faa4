"""What one peer keeps in mind of others: who they are, where they may be, and when to call them next.

`Membership` owns these records and decides; here is only their shape, and when a dial is due.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from swarm.types import Address, PeerId, PeerRecord, PeerState

BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
ATTEMPTS = 2
"""Failed dials until a suspect is declared dead."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to any of `addresses`; then call `connected(…, dial=this)` or `failed(this)`.

    Without addresses (a peer that only ever connects outwards) it has failed already.
    """

    addresses: tuple[Address, ...]
    peer_id: PeerId | None = None
    """Who should answer, where that is known."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Send `entries()` to this peer and merge what it answers."""

    peer_id: PeerId


Action = Dial | Exchange


@dataclass(slots=True)
class Known:
    """One other peer: what gossip says of it, and what this peer saw itself."""

    record: PeerRecord
    claim: PeerState
    since: float
    """When the claim was made or heard."""
    connected: bool = False
    met: bool = False
    """It was connected since it was last accused, so this peer may accuse it."""
    failures: int = 0
    dial_at: float = 0.0
    dial: Dial | None = None

    @property
    def gone(self) -> bool:
        return self.state in (PeerState.LEFT, PeerState.DEAD)

    @property
    def state(self) -> PeerState:
        """A goodbye stands; otherwise the connection counts for more than anybody's word."""
        if self.connected and self.claim is not PeerState.LEFT:
            return PeerState.ALIVE
        if self.claim is PeerState.ALIVE and self.failures >= ATTEMPTS:
            return PeerState.SUSPECT
        return self.claim


@dataclass(slots=True)
class Lead:
    """A place where somebody said a peer may be."""

    addresses: tuple[Address, ...]
    peer_id: PeerId | None
    seed: bool
    dial_at: float
    failures: int = 0
    dial: Dial | None = None


@dataclass(slots=True)
class Contact:
    """A connection that is up, perhaps to a peer whose record has not come yet."""

    exchange_at: float
    exchanged_at: float = field(default=-math.inf)


def is_due(whom: Known | Lead, now: float) -> bool:
    return whom.dial is None and whom.dial_at <= now


def start(whom: Known | Lead) -> Dial:
    if isinstance(whom, Known):
        whom.dial = Dial(whom.record.addresses, whom.record.id)
    else:
        whom.dial = Dial(whom.addresses, whom.peer_id)
    return whom.dial


def backoff_s(failures: int) -> float:
    return BACKOFF_S[min(failures, len(BACKOFF_S)) - 1]
