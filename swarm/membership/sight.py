"""What this peer believes, as others in this process see it: what is claimed, and its own doubts besides."""

from __future__ import annotations

from collections.abc import Collection

from swarm.membership.burial import Burial
from swarm.membership.detector import Detector
from swarm.membership.dialling import ATTEMPTS, Dialling
from swarm.membership.table import Entry, Table
from swarm.types import PeerId, PeerState, PeerView, View


class Sight:
    """Makes a new view when something has changed, and only then."""

    def __init__(
        self,
        me: PeerId,
        table: Table,
        contacts: Collection[PeerId],
        burial: Burial,
        dialling: Dialling,
        detector: Detector,
    ) -> None:
        self._me = me
        self._table = table
        self._contacts = contacts
        self._burial = burial
        self._dialling = dialling
        self._detector = detector
        self._doubts = detector.revision
        self._view = self._look()
        self.is_stale = False
        """Whether something may have changed since."""

    def view(self) -> View:
        """The same object until something in it changes."""
        if self.is_stale or self._doubts != self._detector.revision:
            self.is_stale, self._doubts = False, self._detector.revision
            view = self._look()
            if view != self._view:
                self._view = view
        return self._view

    def state(self, entry: Entry) -> PeerState:
        """A claim of others, but SUSPECT at least where this peer itself has its doubts."""
        peer = entry.record.id
        if entry.claim is PeerState.ALIVE and peer != self._me:
            unreached = peer not in self._contacts and self._dialling.failures(peer) >= ATTEMPTS
            if unreached or self._detector.watches(peer):
                return PeerState.SUSPECT
        return entry.claim

    def _look(self) -> View:
        hidden = self._burial.hidden
        seen = [PeerView(e.record, self.state(e)) for e in self._table if e.record.id not in hidden]
        return View(self._me, tuple(sorted(seen, key=lambda p: p.record.id)))
