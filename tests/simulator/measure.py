"""How soon a swarm knows, in virtual seconds; and what knowing costs at rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from swarm.types import PeerState
from tests.simulator.node import Node, Process
from tests.simulator.world import World

STEP_S: Final = 0.02
FRAME_BYTES: Final = 90
"""About what a message takes besides: the frame's prefix and header, TLS's record, TCP's and IP's headers."""
ACK_BYTES: Final = 66
"""A TCP acknowledgement in an Ethernet frame; one for each message, though many ride along with an answer."""


def a_swarm(size: int, seed: int, *, loss: float = 0.0, slowest_s: float = 0.02) -> World:
    """All run, are connected, and know one another."""
    world = World(size, seed, loss=loss, slowest_s=slowest_s)
    for index in range(size):
        world.clock.at(0.2 * world.random.random(), world.start, index, [0, 1])
    world.run(1.0)
    world.settle(30.0)
    world.run(world.clock.now + 2.0 + world.random.random())
    return world


def until(world: World, true: Callable[[], bool], within_s: float) -> float:
    """Seconds until it is true; fails after `within_s`."""
    began = world.clock.now
    while not true():
        if world.clock.now - began > within_s:
            world.fail(None, f"not within {within_s} s")
        world.run(world.clock.now + STEP_S)
    return world.clock.now - began


def others_see(world: World, index: int, *states: PeerState) -> Callable[[], bool]:
    """Whether all others who run and can be reached believe this of a node."""
    peer = world.nodes[index].id
    others = [node for node in world.nodes if node.process is Process.RUNNING and node.id != peer]

    def true() -> bool:
        while others and _believes(others[-1], index, states):
            others.pop()
        return not others

    return true


def _believes(node: Node, index: int, states: tuple[PeerState, ...]) -> bool:
    return node.membership.state(node.world.nodes[index].id) in states


def kill_s(world: World, index: int, within_s: float = 30.0) -> float:
    world.kill(index)
    return until(world, others_see(world, index, PeerState.DEAD), within_s)


def unplug_s(world: World, index: int, within_s: float = 60.0) -> float:
    world.unplug(index)
    return until(world, others_see(world, index, PeerState.DEAD), within_s)


def leave_s(world: World, index: int, within_s: float = 30.0) -> float:
    world.leave(index)
    return until(world, others_see(world, index, PeerState.LEFT), within_s)


def join_s(world: World, within_s: float = 30.0) -> float:
    """Until all know the new one, and it knows all."""
    node = world.add()
    world.start(node.index, [0, 1])
    known = others_see(world, node.index, PeerState.ALIVE)
    peers = [other.id for other in world.nodes if other.process is Process.RUNNING]
    return until(world, lambda: known() and all(node.membership.state(peer) for peer in peers), within_s)


def update_s(world: World, index: int, within_s: float = 60.0) -> float:
    world.update(index, holds=("a new part",))
    newest = world.nodes[index].membership.me
    others = [node for node in world.nodes if node.process is Process.RUNNING]

    def true() -> bool:
        while others and others[-1].membership._table[newest.id].record == newest:
            others.pop()
        return not others

    return until(world, true, within_s)


def rest_bytes_per_s(world: World, seconds: float = 60.0) -> float:
    """What one peer sends and receives in a second, with all headers."""
    world.messages = world.bytes = 0
    world.is_counting = True
    world.run(world.clock.now + seconds)
    world.is_counting = False
    sent = world.bytes + world.messages * (FRAME_BYTES + ACK_BYTES)
    return 2 * sent / seconds / sum(node.process is Process.RUNNING for node in world.nodes)
