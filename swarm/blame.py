"""Whose fault is it? What a failure or a late request tells of peers and links, as doubts for the next plan."""

from __future__ import annotations

from time import monotonic

from swarm.doubts import Doubts
from swarm.errors import PeerLost, PeerUnreachable, SwarmError
from swarm.plan import INPUT, Plan
from swarm.types import PeerId, View
from swarm.whereabouts import Sighting, Stand

HUNG: float = 10.0
"""So many times slower counts a peer that does not say what it does, or whose step nobody predicted."""
DEAD_LINK_BYTES_PER_S: float = 1.0


def of_failure(doubts: Doubts, view: View, plan: Plan, error: SwarmError) -> None:
    """A request on this plan ended so: for peers that are gone, a link that broke, or the peer that reported it."""
    now = monotonic()
    here = {seen.record.id for seen in view.peers if not seen.state.is_gone}
    gone = [peer for peer in plan.peers() if peer not in here]
    for peer in gone:
        doubts.lost(peer, now)
    if error.culprit in plan.peers() and error.culprit not in (view.me, error.reporter):
        doubts.lost(PeerId(error.culprit), now)
        return
    if gone or not error.reporter:
        return
    if not isinstance(error, (PeerLost, PeerUnreachable)):
        doubts.lost(PeerId(error.reporter), now)
        return
    for edge in plan.edges:
        if edge.sender == error.reporter != edge.receiver:
            doubts.narrow(edge.sender, edge.receiver, DEAD_LINK_BYTES_PER_S, now)


def of_delay(doubts: Doubts, plan: Plan, seen: Sighting) -> None:
    """A late request was found there."""
    now, stand = monotonic(), seen.stand
    if stand is None:
        doubts.slow(seen.peer, HUNG, now)
    elif stand.to:
        doubts.narrow(seen.peer, PeerId(stand.to), at_most(stand), now)
    elif stand.step != INPUT:
        expected_s = next((s.compute_s for s in plan.estimate.steps if s.step == stand.step), 0.0) * stand.rows
        doubts.slow(seen.peer, max(2.0, stand.since_s / expected_s) if expected_s else HUNG, now)


def at_most(stand: Stand) -> float:
    """Bytes a second of a transfer that is not over yet."""
    return max(DEAD_LINK_BYTES_PER_S, stand.nbytes / max(stand.since_s, 1e-3))
