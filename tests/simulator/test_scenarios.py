"""What befalls a swarm, case by case: nobody who lives is accused of being dead, and what is dead is known soon.

The bounds are about a third above the slowest of a hundred seeds. A lost knock costs half a second, so that 2 % loss
shows in the worst case.
"""

from __future__ import annotations

import pytest

from swarm.types import PeerState
from tests.simulator.measure import (
    a_swarm,
    join_s,
    kill_s,
    leave_s,
    others_see,
    rest_bytes_per_s,
    unplug_s,
    until,
    update_s,
)
from tests.simulator.script import Script
from tests.simulator.world import World

SIZES = [2, 3, 5, 20, 50]
LOSSES = [0.0, 0.02]


def seeds(size: int) -> range:
    return range(10 if size <= 5 else 2)


def play(world: World, script: Script, agreed_s: float = 20.0) -> World:
    script.begin(world)
    world.run(world.clock.now + script.end + 0.01)
    while world.calm_at > world.clock.now:
        world.run(world.calm_at)
    world.settle(agreed_s)
    return world


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", SIZES)
def test_how_soon_a_swarm_knows(size: int, loss: float) -> None:
    for seed in seeds(size):
        world, victim = a_swarm(size, seed, loss=loss), seed % size
        assert update_s(world, victim) <= (0.5 if loss else 0.2)
        assert join_s(world) <= 1.5
        world.run(world.clock.now + 2.0)
        assert leave_s(world, size) <= (1.5 if loss else 0.5)
        assert kill_s(a_swarm(size, seed, loss=loss), victim) <= 1.5
        assert unplug_s(a_swarm(size, seed, loss=loss), victim) <= 4.0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [3, 20, 50])
@pytest.mark.parametrize("seconds", [2.0, 5.0])
def test_nobody_dies_of_a_stall(seconds: float, size: int, loss: float) -> None:
    """One's own and others', stopped and in bursts; the world itself checks that nobody is believed dead."""
    for seed in seeds(size):
        world = a_swarm(size, seed, loss=loss)
        script = Script().at(0).stall(0, seconds).at(0.3).stall(1, seconds).at(seconds + 3).burst(2, seconds)
        script.at(seconds + 4).burst(0, seconds, 0.05, seconds).at(2 * seconds + 9).stall(1, seconds)
        play(world, script)


@pytest.mark.parametrize("loss", LOSSES)
def test_nobody_dies_where_most_stall_at_once(loss: float) -> None:
    for seed in range(10):
        world = a_swarm(10, seed, loss=loss)
        script = Script().at(0)
        for index in range(8):
            script.stall(index, 2.0 + index / 2)
        play(world, script)


def test_a_stall_is_seen_as_one() -> None:
    world = a_swarm(5, 1)
    world.stall(3, 5.0)
    assert until(world, others_see(world, 3, PeerState.SUSPECT), 5.0) < 3.0
    world.run(world.calm_at)
    assert until(world, others_see(world, 3, PeerState.ALIVE), 5.0) < 0.5


def test_who_stalls_for_very_long_is_dead_and_comes_back() -> None:
    world = a_swarm(5, 1)
    world.stall(3, 70.0)
    assert 30.0 < until(world, others_see(world, 3, PeerState.DEAD), 69.0) < 50.0
    world.run(world.calm_at)
    world.settle(10.0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [2, 3, 8, 30])
def test_a_partition_heals(size: int, loss: float) -> None:
    """Each half believes the other dead, and nobody believes it of his own half afterwards."""
    for seed in range(3):
        world = a_swarm(size, seed, loss=loss)
        play(world, Script().at(0).part(range(size // 2)).at(20).heal(), agreed_s=15.0)


def test_a_partition_heals_after_the_dead_are_hidden() -> None:
    play(a_swarm(6, 1), Script().at(0).part([0, 1, 2]).at(100).heal(), agreed_s=40.0)


@pytest.mark.parametrize("seed", range(5))
def test_one_pair_that_cannot_see_one_another_is_nobody_elses_trouble(seed: int) -> None:
    world = a_swarm(6, seed, loss=0.02)
    world.block(2, 3)
    world.run(world.clock.now + 40.0)
    for node in world.nodes:
        assert PeerState.DEAD not in [node.membership.state(other.id) for other in world.nodes]
    world.heal()
    world.settle(10.0)


@pytest.mark.parametrize("incarnation", [None, 5])
@pytest.mark.parametrize("pause_s", [0.05, 0.5, 4.0])
def test_who_restarts_is_the_same_peer(pause_s: float, incarnation: int | None) -> None:
    for seed in range(5):
        world = a_swarm(5, seed, loss=0.02)
        script = Script().at(0).kill(3).at(pause_s).start(3, [0], incarnation=incarnation)
        world = play(world, script, agreed_s=15.0)
        assert all(node.membership.twin is None for node in world.nodes)


def test_the_record_of_an_earlier_life_is_never_taken_for_the_new_one() -> None:
    """The first to answer it knows an older version than the others."""
    world = a_swarm(4, 1)
    script = Script().at(0).part([0]).at(0.1).update(2, holds=("once",)).at(1).kill(2).heal().part([0, 2])
    play(world, script.at(1.5).start(2, [0], incarnation=5).at(4).heal(), agreed_s=20.0)


def test_who_leaves_while_it_is_suspect_has_left() -> None:
    for seed in range(5):
        world = a_swarm(5, seed)
        Script().at(0).stall(3, 1.5).at(1.52).leave(3).begin(world)
        world.run(world.clock.now + 1.6)
        until(world, others_see(world, 3, PeerState.LEFT), 1.0)
        world.run(world.clock.now + 20.0)
        assert others_see(world, 3, PeerState.LEFT)()


@pytest.mark.parametrize("seed", range(5))
def test_a_twin_is_noticed_and_there_is_no_storm(seed: int) -> None:
    world = a_swarm(5, seed)
    one, other = world.nodes[3], world.add(twin_of=3)
    world.start(other.index, [0])
    until(world, lambda: (one.membership.twin or other.membership.twin) is not None, 30.0)
    world.run(world.clock.now + 30.0)
    messages, dials, incarnation = world.messages, world.dials, other.membership.me.incarnation
    world.run(world.clock.now + 60.0)
    assert (world.messages - messages) / 60.0 < 6 * 20, "a dozen a second and peer, where six at rest send four"
    assert (world.dials - dials) / 60.0 < 6
    assert other.membership.me.incarnation - incarnation < 60


@pytest.mark.parametrize("size", [3, 50])
def test_at_rest_a_peer_is_quiet(size: int) -> None:
    """Sent and received, with all headers; the bar is 2 KB/s."""
    assert rest_bytes_per_s(a_swarm(size, 1)) < 1400


def test_the_same_seed_gives_the_same_run() -> None:
    def story() -> tuple[float, int, list[object]]:
        world = a_swarm(6, 7, loss=0.02)
        play(world, Script().at(0).kill(3).at(0.2).stall(2, 2.0).at(4).start(3, [0]))
        return world.clock.now, world.messages, list(map(str, world.log))

    assert story() == story()
