"""Swarms of thousands, which start as if they had run for long: joining one by one would take a day."""

from __future__ import annotations

from typing import Final

from swarm.membership.core import MESH
from swarm.membership.detector import PERIOD_S
from swarm.membership.table import Table
from tests.simulator.network import Connection
from tests.simulator.world import World

SETTLED_S: Final = 2.0


def a_large_swarm(size: int, seed: int, *, loss: float = 0.0, slowest_s: float = 0.02) -> World:
    """All know the same; each is connected to `MESH` others or so, at random, as it would be after a while."""
    world = World(size, seed, loss=loss, slowest_s=slowest_s, max_peers=2 * size)
    for index in range(size):
        world.start(index, is_watched=False)
    _share_what_is_known(world)
    _connect(world)
    world.run(SETTLED_S)
    return world


def _share_what_is_known(world: World) -> None:
    everything = Table(node.membership._own.entry for node in world.nodes)
    ring = sorted(node.id for node in world.nodes)
    place = {peer: at for at, peer in enumerate(ring)}
    for node in world.nodes:
        copy, detector = everything.copy(), node.membership._detector
        node.membership._table._entries, node.membership._table._hashes = copy._entries, copy._hashes
        detector._ring = ring.copy()
        del detector._ring[place[node.id]]
        detector._round = world.random.sample(detector._ring, len(detector._ring))
        detector._probe_at = PERIOD_S * world.random.random()


def _connect(world: World) -> None:
    """A ring, and random pairs besides; everybody with everybody where a mesh takes them all."""
    nodes = world.nodes
    for node in nodes:
        if len(nodes) <= MESH:
            others = nodes[node.index + 1 :]
        else:
            others = [nodes[(node.index + 1) % len(nodes)], *world.random.sample(nodes, MESH // 2 - 1)]
        for other in others:
            if other is not node and other.id not in node.links:
                connection = Connection(node, other, {node.index, other.index}, is_pending=False)
                for one, another in ((node, other), (other, node)):
                    one.links[another.id] = [connection]
                    one.membership._contacts[another.id] = 0.0
