"""One peer's process: the core, and what the edge does for it. It runs, stalls, dies, leaves, and is started anew."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from random import Random
from typing import TYPE_CHECKING, Any

from swarm.membership import Action, Dial, Drop, Knock, Membership, Send
from swarm.membership.messages import Message
from swarm.types import Address, Door, PeerId, PeerRecord

if TYPE_CHECKING:
    from tests.simulator.network import Connection
    from tests.simulator.world import World

TICK_S = 0.1
LATE_S = 0.25
"""A knock that found nothing means nothing when its process looked later than this."""


class Process(Enum):
    ABSENT = auto()
    RUNNING = auto()
    STALLED = auto()
    DEAD = auto()
    LEFT = auto()


def an_id(number: int) -> PeerId:
    return PeerId(f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}{number:016x}")


def a_place(number: int) -> Address:
    return Address(f"10.{number // 65536}.{number // 256 % 256}.{number % 256}", 4747)


class Node:
    """Number `index` of a world. `peer` differs from it for a twin, which has another's id."""

    def __init__(self, world: World, index: int, random: Random, peer: int | None = None) -> None:
        self.world = world
        self.index = index
        self.id = an_id(index if peer is None else peer)
        self.place = a_place(index)
        self.process = Process.ABSENT
        self.membership: Membership
        self.links: dict[PeerId, list[Connection]] = {}
        self.life = 0
        self.born_at = 0.0
        self.past_incarnation = -1
        self.stalled_at = 0.0
        self.is_leaving = False
        self.fresh_dead: list[PeerId] = []
        self._random = random
        self._inbox: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._clock = world.clock
        self._gate = 0

    def __repr__(self) -> str:
        return f"node {self.index}"

    @property
    def is_alive(self) -> bool:
        """As a process, whether it runs or stalls."""
        return self.process in (Process.RUNNING, Process.STALLED)

    # Its life

    def start(self, incarnation: int) -> None:
        self.life += 1
        self.process, self.is_leaving, self.born_at = Process.RUNNING, False, self._clock.now
        record = PeerRecord(self.id, f"peer {self.index}", (self.place,), incarnation)
        self.membership = Membership(record, Random(self._random.getrandbits(64)), max_peers=self.world.max_peers)
        self.links.clear()
        self._inbox.clear()
        self._gate += 1
        self._clock.after(self._random.random() * TICK_S, self._beat, self._gate)

    def stall(self) -> None:
        self.process, self.stalled_at = Process.STALLED, self._clock.now
        self._gate += 1

    def wake(self) -> None:
        """What came meanwhile is read first, mostly; a loop may also look at its timers first."""
        self.process = Process.RUNNING
        inbox, self._inbox = self._inbox, []
        self._gate += 1
        gate = self._gate
        if self._random.random() < 0.3:
            self.tick()
        for what, given in inbox:
            if gate != self._gate:  # stalled or killed by what it has just read
                self._inbox.append((what, given))
            else:
                what(*given)
        if gate == self._gate:
            self.tick()
            self._clock.after(TICK_S, self._beat, gate)

    def end(self, process: Process) -> None:
        """The kernel lets go of its connections."""
        self.process = process
        self.past_incarnation = max(self.past_incarnation, self.membership.me.incarnation)
        self._gate += 1
        self._inbox.clear()
        for connections in list(self.links.values()):
            for connection in list(connections):
                self.world.let_go(self, connection)
        self.links.clear()

    def hand(self, life: int, what: Callable[..., None], *given: Any) -> None:
        """Something for this process: now, or when it wakes; a dead one misses it."""
        if life != self.life:
            return
        if self.process is Process.RUNNING:
            what(*given)
        elif self.process is Process.STALLED:
            self._inbox.append((what, given))

    # What reaches it

    def _beat(self, gate: int) -> None:
        if gate == self._gate:
            self.tick()
            self._clock.after(TICK_S * (0.8 + 0.4 * self._random.random()), self._beat, gate)

    def tick(self) -> None:
        actions = self.membership.tick(self._clock.now)
        if actions:
            self._act(actions)
        if self.fresh_dead:
            self._cut_off_the_dead()

    def hear(self, sender: PeerId, message: Message) -> None:
        self.membership.received(sender, message, self._clock.now)
        self.tick()

    def opened(self, connection: Connection, dial: Dial | None) -> None:
        other = connection.other(self)
        peer = other.id
        if dial is not None:
            connection.is_pending = False
            if other.index not in connection.ends:
                self.failed(dial)
                return
        connection.ends.add(self.index)
        self.links.setdefault(peer, []).append(connection)
        self.membership.connected(peer, self._clock.now, dial)
        self.tick()

    def failed(self, dial: Dial) -> None:
        self.membership.failed(dial, self._clock.now)
        self.tick()

    def closed(self, connection: Connection) -> None:
        """Its other side let go."""
        if self.index in connection.ends:
            self.drop(connection)
            self.tick()

    def drop(self, connection: Connection) -> None:
        peer = connection.other(self).id
        connection.ends.discard(self.index)
        left = self.links[peer]
        left.remove(connection)
        if not left:
            del self.links[peer]
            self.membership.disconnected(peer, self._clock.now)

    def knocked(self, peer: PeerId, door: Door, due_at: float) -> None:
        if door is Door.SILENT and self._clock.now - due_at > LATE_S:
            door = Door.UNKNOWN
        self.membership.knocked(peer, door, self._clock.now)
        self.tick()

    def hear_goodbye(self, peer: PeerId) -> None:
        self.membership.said_goodbye(peer, self._clock.now)
        self.tick()

    # What it does

    def _act(self, actions: list[Action]) -> None:
        world = self.world
        for action in actions:
            if type(action) is Send:
                world.send(self, action.peer_id, action.message)
            elif type(action) is Dial:
                world.dial(self, action)
            elif type(action) is Knock:
                world.knock(self, action)
            elif type(action) is Drop:
                self._cut_off(action.peer_id)

    def _cut_off_the_dead(self) -> None:
        """As the edge does: nobody waits any longer for an answer of the dead."""
        dead, self.fresh_dead = self.fresh_dead, []
        for peer in dead:
            self._cut_off(peer)

    def _cut_off(self, peer: PeerId) -> None:
        for connection in list(self.links.get(peer, ())):
            self.drop(connection)
            self.world.hang_up(self, connection)
