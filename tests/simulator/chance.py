"""Scenarios that nobody thought of: a size, a network and up to eight faults, all from one integer."""

from __future__ import annotations

from random import Random

from tests.simulator.script import Script
from tests.simulator.world import World

FAULTS_FROM_S = 3.0
FAULTS_FOR_S = 7.0
AGREED_S = 30.0
"""After the last fault: a dial that waits in vain, the pause before the next, and a comparison that gets lost."""

FAULTS = ("stall", "burst", "kill", "leave", "unplug", "part", "block", "update", "poison")


def a_size(random: Random) -> int:
    """Mostly a few: what goes wrong among fifty goes wrong among five, and sooner."""
    share = random.random()
    if share < 0.70:
        return random.randint(2, 6)
    if share < 0.90:
        return random.randint(7, 16)
    return random.randint(17, 50)


def a_world(seed: int, size: int | None = None) -> tuple[World, Script]:
    """Every node starts with two seeds that are never killed; some are held back to join in the midst of trouble."""
    random = Random(seed)
    size = size or a_size(random)
    loss, slowest_s = random.choice((0.0, 0.0, 0.02, 0.05)), random.choice((0.002, 0.02, 0.05))
    world = World(size, random.getrandbits(48), loss=loss, slowest_s=slowest_s, name=f"seed {seed}")
    anchors = [0, 1][: 1 + (size > 3)]
    late = [i for i in range(2, size) if random.random() < 0.15]
    script = Script()
    spread_s = random.choice((0.0, 0.1, 1.5))
    for index in range(size):
        if index not in late:
            script.at(spread_s * random.random()).start(index, anchors)
    mortal = [i for i in range(size) if i not in anchors and i not in late]
    for _ in range(random.randint(1, 8)):
        _add_fault(script, random, size, anchors, mortal)
    for index in late:
        script.at(FAULTS_FROM_S + FAULTS_FOR_S * random.random()).start(index, anchors)
    return world, script


def _add_fault(script: Script, random: Random, size: int, anchors: list[int], mortal: list[int]) -> None:
    when = FAULTS_FROM_S + FAULTS_FOR_S * random.random()
    fault, anybody = random.choice(FAULTS), random.randrange(size)
    script.at(when)
    if fault == "stall":
        script.stall(anybody, random.choice((0.5, 1.0, 2.0, 5.0, 8.0)))
    elif fault == "burst":
        script.burst(anybody, random.uniform(1, 6), random.choice((0.05, 0.25, 0.6)), random.choice((0.4, 1.0, 2.0)))
    elif fault == "update":
        for again in range(random.randint(1, 5)):
            script.at(when + again * random.uniform(0, 0.2)).update(anybody, holds=(f"part {again} {when}",))
    elif fault == "poison":
        script.poison(anybody, random.randrange(size))
    elif fault == "block":
        script.block(anybody, random.randrange(size))
        script.at(when + random.uniform(0.5, 8)).heal()
    elif fault == "part":
        script.part(random.sample(range(size), random.randint(1, size - 1)))
        script.at(when + random.uniform(0.5, 8)).heal()
    elif fault == "unplug":
        script.unplug(anybody).at(when + random.uniform(0.5, 8)).plug(anybody)
    elif mortal:
        _end_one(script, random, fault, mortal.pop(random.randrange(len(mortal))), anchors, when)


def _end_one(script: Script, random: Random, fault: str, index: int, anchors: list[int], when: float) -> None:
    """Killed, or left; and perhaps started anew, now and then with a clock that went back."""
    if fault == "leave":
        script.leave(index)
    else:
        script.kill(index)
    if random.random() < 0.5:
        older = random.random() < 0.3
        script.at(when + random.uniform(0.3, 5)).start(index, anchors, incarnation=5 if older else None)


def play(seed: int, size: int | None = None) -> World:
    """The whole scenario; raises `Violation`."""
    world, script = a_world(seed, size)
    script.begin(world)
    world.run(script.end)
    while world.calm_at > world.clock.now:
        world.run(world.calm_at)
    world.settle(AGREED_S)
    return world
