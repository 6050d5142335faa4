"""Nodes and the network between them, and whatever can befall them. The same arguments give the same run, always."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from random import Random
from typing import Any

from swarm.membership import MAX_MESSAGE_BYTES, MAX_PEERS, Dial, Knock, decode, encode
from swarm.membership.messages import Changes, Message, News, Tell
from swarm.membership.records import MAX_COUNT
from swarm.types import Door, PeerId, PeerState
from tests.simulator.clock import Clock
from tests.simulator.network import Connection, Cut, Network
from tests.simulator.node import Node, Process, an_id
from tests.simulator.truth import Truth, Violation

DIAL_S = 2.0
RETRY_S = 1.0
"""After which TCP sends a lost SYN again."""
SILENCE_S = (10.0, 14.0)
"""A connection on which nothing is heard for about so long is given up by the transport."""
REMEMBERED = 60
CHECKED = 20
"""One in so many messages is encoded and decoded again; all of them in small swarms."""


class World:
    """A swarm of `size` nodes, none of which runs yet."""

    def __init__(
        self,
        size: int,
        seed: int,
        *,
        loss: float = 0.0,
        slowest_s: float = 0.05,
        max_peers: int = MAX_PEERS,
        name: str = "",
    ) -> None:
        self.seed = seed
        self.name = name or f"seed {seed}"
        self.random = Random(seed)
        self.clock = Clock()
        self.network = Network(Random(self.random.getrandbits(64)), loss, slowest_s)
        self.max_peers = max_peers
        self.truth = Truth(self)
        self.nodes: list[Node] = []
        self.by_id: dict[PeerId, list[Node]] = defaultdict(list)
        self.log: deque[tuple[Any, ...]] = deque(maxlen=REMEMBERED)
        self.messages = self.bytes = self.dials = self.knocks = 0
        self.is_counting = False
        self.calm_at = 0.0
        """When the last of what befell it is over."""
        self._unplugged: dict[int, list[Cut]] = {}
        self._checked = 1 if size <= 3 else CHECKED
        for _ in range(size):
            self.add()

    def add(self, twin_of: int | None = None) -> Node:
        node = Node(self, len(self.nodes), Random(self.random.getrandbits(64)), twin_of)
        self.nodes.append(node)
        self.by_id[node.id].append(node)
        self.network.places[node.place] = node
        return node

    def note(self, *what: Any) -> None:
        self.log.append((self.clock.now, *what))

    def _befalls(self, *what: Any, for_s: float = 0.0) -> None:
        self.note(*what)
        self.calm_at = max(self.calm_at, self.clock.now + for_s)

    def fail(self, node: Node | None, why: str) -> None:
        lines = [f"{self.name}, at {self.clock.now:.3f} s, {node}: {why}"]
        lines += ["  " + f"{when:9.3f} " + " ".join(map(str, what)) for when, *what in self.log]
        raise Violation("\n".join(lines))

    # What befalls it

    def start(
        self, index: int, seeds: Iterable[int] = (), *, incarnation: int | None = None, is_watched: bool = True
    ) -> None:
        """`incarnation`: by the clock, unless it is given. Not watched: nobody checks what it believes."""
        node = self.nodes[index]
        if node.is_alive:
            return
        self._befalls("start", node)
        node.start(10**9 + int(self.clock.now * 1e6) if incarnation is None else incarnation)
        if is_watched:
            self.truth.watch(node)
        for seed in seeds:
            if seed != index:
                node.membership.introduce((self.nodes[seed].place,), self.clock.now, seed=True)

    def introduce(self, a: int, b: int) -> None:
        """As mDNS does."""
        one, other = self.nodes[a], self.nodes[b]
        if one.is_alive and other.is_alive and self.network.is_whole(a, b):
            for node, found in ((one, other), (other, one)):
                node.hand(node.life, self._introduce, node, found)

    def _introduce(self, node: Node, found: Node) -> None:
        node.membership.introduce((found.place,), self.clock.now, found.id)
        node.tick()

    def kill(self, index: int) -> None:
        node = self.nodes[index]
        if node.is_alive:
            self._befalls("kill", node)
            node.end(Process.DEAD)

    def leave(self, index: int) -> None:
        """Says goodbye to all that it is connected to, and ends."""
        node = self.nodes[index]
        if node.process is not Process.RUNNING or node.is_leaving:
            return
        self._befalls("leave", node)
        node.is_leaving = True
        node.membership.leave(self.clock.now)
        node.tick()
        for connections in list(node.links.values()):
            other = connections[-1].other(node)
            if not self.network.loses() and self.network.carries(index, other.index):
                self.clock.after(self.network.delay_s(), other.hand, other.life, other.hear_goodbye, node.id)
        self.clock.after(0.05 + 0.2 * self.random.random(), self._finish, node, node.life)

    def _finish(self, node: Node, life: int) -> None:
        if node.life == life and node.is_alive:
            node.end(Process.LEFT)

    def stall(self, index: int, seconds: float) -> None:
        """SIGSTOP, or a loop that holds the interpreter's lock."""
        node = self.nodes[index]
        if node.process is Process.RUNNING and not node.is_leaving:
            self._befalls("stall", node, f"{seconds:.2f} s", for_s=seconds)
            node.stall()
            self.clock.after(seconds, self._wake, node, node.life)
            self._later_give_up()

    def _wake(self, node: Node, life: int) -> None:
        if node.life == life and node.process is Process.STALLED:
            self.note("wake", node)
            node.wake()

    def burst(self, index: int, seconds: float, running_s: float = 0.25, stalled_s: float = 1.0) -> None:
        """Busy: it runs for a moment, and stalls again."""
        until = self.clock.now + seconds
        when = self.clock.now
        while when < until:
            self.clock.at(when, self.stall, index, stalled_s)
            when += running_s + stalled_s

    def unplug(self, index: int) -> None:
        self._befalls("unplug", self.nodes[index])
        others = [node.index for node in self.nodes if node.index != index]
        self._unplugged.setdefault(index, []).extend(self._cut((index,), others))

    def plug(self, index: int) -> None:
        self._befalls("plug", self.nodes[index])
        self.network.heal(self._unplugged.pop(index, ()), self.clock.now)

    def part(self, group: Iterable[int]) -> list[Cut]:
        """A partition: this group here, all the others there."""
        here = set(group)
        self._befalls("part", *sorted(here))
        return self._cut(here, (node.index for node in self.nodes if node.index not in here))

    def block(self, source: int, target: int) -> list[Cut]:
        """One way only."""
        self._befalls("block", source, target)
        return self._cut((source,), (target,), both=False)

    def heal(self) -> None:
        """Every cut; what is unplugged, too."""
        self._befalls("heal")
        self._unplugged.clear()
        self.network.heal(self.network.cuts, self.clock.now)

    def update(self, index: int, **changes: Any) -> None:
        node = self.nodes[index]
        if node.process is Process.RUNNING and not node.is_leaving:
            self._befalls("update", node)
            node.membership.update(self.clock.now, **changes)
            node.tick()

    def poison(self, index: int, victim: int) -> None:
        """A member tells somebody what no honest one would say of another."""
        node, about = self.nodes[index], self.nodes[victim].id
        if node.process is not Process.RUNNING or not node.links:
            return
        now = self.nodes[victim].membership.me.incarnation if self.nodes[victim].is_alive else 1
        lies = (
            News(about, MAX_COUNT, PeerState.DEAD),
            News(about, MAX_COUNT, PeerState.ALIVE, since=0, version=MAX_COUNT, changes=Changes(name="nobody")),
            News(about, now + 1, PeerState.DEAD, an_id(77)),
            News(about, now, PeerState.SUSPECT, an_id(78)),
            News(about, now, PeerState.DEAD),
            News(about, now, PeerState.ALIVE, since=0, version=2**40, changes=Changes(holds=("bell\x07",))),
            News(an_id(79), 1, PeerState.DEAD),
        )
        self._befalls("poison", node, about)
        for listener in self.random.sample(sorted(node.links), min(3, len(node.links))):
            self.send(node, listener, Tell((self.random.choice(lies),)))

    def _cut(self, sources: Iterable[int], targets: Iterable[int], *, both: bool = True) -> list[Cut]:
        self._later_give_up()
        return self.network.cut(sources, targets, self.clock.now, both=both)

    # What the edge and the kernel do

    def send(self, node: Node, peer: PeerId, message: Message) -> None:
        """Over the newest connection; without one, a connection is made for it first."""
        self.messages += 1
        if self.is_counting:
            self.bytes += len(encode(message))
        elif self.messages % self._checked == 0:
            self._check_size(node, message)
        connections = node.links.get(peer)
        if not connections:
            self._send_anew(node, peer, message)
        elif not self.network.loses():
            connection = connections[-1]
            when = self.clock.now + self.network.delay_s()
            if connection.lost_at is not None:
                when = max(when, self._stuck_until(connection))
            self.clock.at(when, self._arrive, node, connection, message)

    def _stuck_until(self, connection: Connection) -> float:
        now, lost_at = self.clock.now, connection.lost_at
        assert lost_at is not None
        if not self.network.is_whole(connection.dialler.index, connection.listener.index):
            connection.stuck_until = 0.0
        elif not connection.stuck_until:
            connection.stuck_until = now + (now - lost_at) * self.random.random()
        elif now > connection.stuck_until:
            connection.lost_at, connection.stuck_until = None, 0.0
        return connection.stuck_until

    def _check_size(self, node: Node, message: Message) -> None:
        body = encode(message)
        if len(body) > MAX_MESSAGE_BYTES:
            self.fail(node, f"sends {len(body)} bytes")
        if decode(body) != message:
            self.fail(node, f"sends what reads otherwise: {message}")

    def _arrive(self, sender: Node, connection: Connection, message: Message) -> None:
        node = connection.other(sender)
        if connection.is_pending:
            self.clock.after(0.005, self._arrive, sender, connection, message)
            return
        if self.network._cuts and not self.network.carries(sender.index, node.index):
            if connection.lost_at is None:
                connection.lost_at = self.clock.now
            return
        if node.index not in connection.ends or not node.is_alive:
            self._reset(node, sender, connection)
        else:
            node.hand(node.life, node.hear, sender.id, message)

    def _reset(self, node: Node, sender: Node, connection: Connection) -> None:
        """A kernel without such a connection says so."""
        if self.network.carries(node.index, sender.index):
            self.clock.after(self.network.delay_s(), sender.hand, sender.life, sender.closed, connection)

    def _send_anew(self, node: Node, peer: PeerId, message: Message) -> None:
        """A connection for this message alone, in swarms too large for a full mesh; elsewhere it is lost."""
        found = [other for other in self.by_id[peer] if other.process is Process.RUNNING]
        if found and len(self.nodes) > 64 and self.network.is_whole(node.index, found[0].index):
            self.clock.after(3 * self.network.delay_s(), found[0].hand, found[0].life, found[0].hear, node.id, message)

    def let_go(self, node: Node, connection: Connection) -> None:
        """One end closes; the other hears of it where the network carries that."""
        connection.ends.discard(node.index)
        self.hang_up(node, connection)

    def hang_up(self, node: Node, connection: Connection) -> None:
        other = connection.other(node)
        if self.network.carries(node.index, other.index):
            self.clock.after(self.network.delay_s(), other.hand, other.life, other.closed, connection)

    def _later_give_up(self) -> None:
        self.clock.after(self.random.uniform(*SILENCE_S), self._give_up)

    def _give_up(self) -> None:
        """The transports' keep-alive, for connections over which nothing comes."""
        for node in self.nodes:
            if node.process is not Process.RUNNING:
                continue
            for connections in list(node.links.values()):
                for connection in list(connections):
                    other = connection.other(node)
                    stalled_s = self.clock.now - other.stalled_at if other.process is Process.STALLED else 0.0
                    if not self.network.is_whole(node.index, other.index) or stalled_s > SILENCE_S[0]:
                        node.drop(connection)
                        self.hang_up(node, connection)
            node.tick()

    def dial(self, node: Node, dial: Dial) -> None:
        self.dials += 1
        other = self.network.find(dial.addresses)
        begun = self.clock.now
        life, way_s = node.life, self.network.delay_s()
        if self.network.loses(4):
            way_s += RETRY_S
        if other is None or not other.is_alive:
            reached = other is None or self.network.is_whole(node.index, other.index)
            self.clock.after(2 * way_s if reached and dial.addresses else DIAL_S, node.hand, life, node.failed, dial)
        elif not self.network.is_whole(node.index, other.index):
            self.clock.after(DIAL_S, node.hand, life, node.failed, dial)
        elif dial.peer_id is not None and other.id != dial.peer_id:
            self.clock.after(2 * way_s, node.hand, life, node.failed, dial)
        else:
            state = [False]
            self.clock.after(way_s, self._greet, node, life, other, dial, begun, state)
            self.clock.after(DIAL_S, self._dial_late, node, life, dial, state)

    def _dial_late(self, node: Node, life: int, dial: Dial, state: list[bool]) -> None:
        if not state[0]:
            state[0] = True
            node.hand(life, node.failed, dial)

    def _greet(self, node: Node, life: int, other: Node, dial: Dial, begun: float, state: list[bool]) -> None:
        """TLS needs the process: a stalled one answers when it wakes, if that is soon enough."""
        other.hand(other.life, self._accept, node, life, other, dial, begun, state)

    def _accept(self, node: Node, life: int, other: Node, dial: Dial, begun: float, state: list[bool]) -> None:
        late = state[0] or self.clock.now - begun > DIAL_S
        if late or node.life != life or not node.is_alive or not self.network.is_whole(node.index, other.index):
            return
        state[0] = True
        if node.id == other.id:
            node.hand(life, node.membership.connected, node.id, self.clock.now, dial)
            return
        connection = Connection(node, other)
        self._retire_twins(other, node)
        other.opened(connection, None)
        self.clock.after(self.network.delay_s(), self._open, node, life, connection, dial)

    def _open(self, node: Node, life: int, connection: Connection, dial: Dial) -> None:
        node.hand(life, node.opened, connection, dial)
        if node.life != life or not node.is_alive:
            connection.is_pending = False
            self.hang_up(node, connection)

    def _retire_twins(self, node: Node, newer: Node) -> None:
        """Of two connections with one id, the older is given up."""
        for connection in list(node.links.get(newer.id, ())):
            if connection.other(node) is not newer:
                self.clock.after(0.05, self._retire, node, connection)

    def _retire(self, node: Node, connection: Connection) -> None:
        if node.index in connection.ends:
            node.drop(connection)
            self.hang_up(node, connection)

    def knock(self, node: Node, knock: Knock) -> None:
        self.knocks += 1
        other = self.network.find(knock.addresses)
        if self.network.loses(2):
            self._knocked(node, node.life, knock, Door.SILENT, knock.timeout_s)
        else:
            way_s = self.network.delay_s()
            self.clock.after(way_s, self._at_the_door, node, node.life, other, knock, way_s)

    def _at_the_door(self, node: Node, life: int, other: Node | None, knock: Knock, way_s: float) -> None:
        if other is None or not self.network.is_whole(node.index, other.index):
            self._knocked(node, life, knock, Door.SILENT, knock.timeout_s - way_s)
        else:
            self._knocked(node, life, knock, Door.OPEN if other.is_alive else Door.SHUT, way_s)

    def _knocked(self, node: Node, life: int, knock: Knock, door: Door, after_s: float) -> None:
        due_at = self.clock.now + after_s
        self.clock.at(due_at, node.hand, life, node.knocked, knock.peer_id, door, due_at)

    # Running it

    def run(self, until: float) -> None:
        self.clock.run(until)

    def settle(self, within_s: float, step_s: float = 0.25) -> float:
        """Run on until all agree; how long that took. Fails when it takes longer than `within_s`."""
        began = self.clock.now
        while not self.truth.is_converged():
            if self.clock.now - began > within_s:
                self.fail(None, f"no agreement within {within_s} s:\n  " + "\n  ".join(self.truth.differences()[:20]))
            self.run(self.clock.now + step_s)
        self.truth.check_bounds()
        return self.clock.now - began
