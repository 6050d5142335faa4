"""What must never happen, looked at with every entry that a node believes, and what must come true in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm.membership.dialling import MAX_DIALS, MAX_LEADS
from swarm.membership.inquiry import STALLED_S
from swarm.membership.table import GONE, Entry
from swarm.types import PeerId, PeerRecord, PeerState
from tests.simulator.network import FOREVER
from tests.simulator.node import Process

if TYPE_CHECKING:
    from tests.simulator.node import Node
    from tests.simulator.world import World

GRACE_S = 12.0
"""After a cut has healed, those who could not see one another may still say so for so long."""


DEAF_LEAST_S = 10.0
"""For so long at least nobody who is cut off from all blames the others."""


class Violation(AssertionError):
    """Something happened that must not."""


class Truth:
    """Watches one world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def watch(self, node: Node) -> None:
        table = node.membership._table
        put = table.put

        def checked(entry: Entry) -> None:
            self._check(node, table.get(entry.record.id), entry)
            put(entry)

        table.put = checked  # type: ignore[method-assign]

    def _check(self, node: Node, before: Entry | None, entry: Entry) -> None:
        record = entry.record
        if before is not None:
            was = before.record
            if record.incarnation < was.incarnation or record.version < was.version:
                self._world.fail(node, f"{record.name} goes back, from {was} to {record}")
        if record.id == node.id:
            if record.name != f"peer {node.index}" or (entry.claim is not PeerState.ALIVE) is not node.is_leaving:
                self._world.fail(node, f"its own entry became {entry}")
        elif entry.claim in GONE and (before is None or before.claim is not entry.claim):
            self._world.note("gone", node, record.name, entry.claim.value, record.incarnation)
            if entry.claim is PeerState.DEAD:
                node.fresh_dead.append(record.id)
            self._check_death(node, entry)

    def _check_death(self, node: Node, entry: Entry) -> None:
        """Nobody who lives and can be reached is believed dead by anybody who runs and can be reached."""
        alive = [subject for subject in self._world.by_id[entry.record.id] if subject.is_alive]
        if alive and not any(self._is_excused(node, subject, entry) for subject in alive):
            self._world.fail(node, f"believes {entry.record.name} {entry.claim.value}, and it lives")

    def _is_excused(self, node: Node, subject: Node, entry: Entry) -> bool:
        now = self._world.clock.now
        if subject.is_leaving:
            return True
        if subject.process is Process.STALLED and now - subject.stalled_at > STALLED_S:
            return True
        if entry.record.incarnation <= subject.past_incarnation and now - subject.born_at < GRACE_S:
            return True  # an earlier life of it
        network = self._world.network
        alone_since = network.isolated_since(node.index)
        is_deaf = len(node.membership._contacts) >= 2 and now - alone_since < DEAF_LEAST_S
        before = alone_since if is_deaf else FOREVER  # whoever hears from nobody blames itself at first
        return network.was_cut(node.index, subject.index, now - GRACE_S, before)

    def is_converged(self) -> bool:
        """Everybody who runs knows exactly all who run, alive and as of their newest version."""
        running = [node for node in self._world.nodes if node.process is Process.RUNNING]
        newest = {node.id: node.membership.me for node in running}
        return all(self._is_informed(node, newest) for node in running)

    def _is_informed(self, node: Node, newest: dict[PeerId, PeerRecord]) -> bool:
        membership = node.membership
        alive = 0
        for entry in membership._table:
            if entry.claim in GONE:
                continue
            if newest.get(entry.record.id) != entry.record or membership._sight.state(entry) is not PeerState.ALIVE:
                return False
            alive += 1
        return alive == len(newest)

    def check_bounds(self) -> None:
        """No queue grows with time."""
        for node in self._world.nodes:
            if not node.is_alive:
                continue
            inner = node.membership
            peers = len(inner._table)
            sizes = {
                "pings": (len(inner._detector._pings), 16),
                "inquiries": (len(inner._detector._inquiries), peers),
                "the round": (len(inner._detector._round), peers),
                "heard": (len(inner._detector._heard), peers + len(inner._contacts)),
                "rumours": (len(inner._spreading._rumours), peers),
                "leads": (len(inner._dialling._leads), MAX_LEADS),
                "missed": (len(inner._dialling._missed), peers),
                "dials": (sum(p.dial is not None for p in inner._dialling._missed.values()), MAX_DIALS),
            }
            for name, (size, most) in sizes.items():
                if size > most:
                    self._world.fail(node, f"{size} {name}, with {peers} peers")

    def differences(self) -> list[str]:
        """What keeps the swarm from agreeing, for a person."""
        running = [node for node in self._world.nodes if node.process is Process.RUNNING]
        newest = {node.id: node for node in running}
        found = []
        for node in running:
            for peer, subject in newest.items():
                entry = node.membership._table.get(peer)
                mine = subject.membership.me
                state = node.membership.state(peer)
                if entry is None or state is not PeerState.ALIVE or entry.record != mine:
                    what = (
                        "nothing"
                        if entry is None
                        else f"{state} {entry.claim} @{entry.record.incarnation} v{entry.record.version}"
                    )
                    contact = "connected" if peer in node.membership._contacts else "not connected"
                    found.append(f"{node} of {subject} ({contact}): {what}; it is @{mine.incarnation} v{mine.version}")
            found += [
                f"{node} of {entry.record.name}: {entry.claim}, and it is gone"
                for entry in node.membership._table
                if entry.record.id not in newest and entry.claim not in GONE
            ]
        return found
