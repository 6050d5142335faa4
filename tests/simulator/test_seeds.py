"""A thousand random scenarios, and proof that they would notice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swarm.membership import inquiry
from swarm.membership.core import Membership
from swarm.membership.detector import Detector
from swarm.membership.own import Own
from swarm.membership.spreading import Spreading
from swarm.membership.table import Entry
from tests.simulator.chance import a_world, play
from tests.simulator.measure import a_swarm
from tests.simulator.truth import Violation
from tests.simulator.world import World

ROOT = Path(__file__).resolve().parent.parent.parent
SEEDS = 1000
TOGETHER = 50


@pytest.mark.parametrize("first", range(0, SEEDS, TOGETHER))
def test_a_thousand_seeds(first: int) -> None:
    """Said by `python -m tests.simulator SEED` again, for the seed that fails."""
    for seed in range(first, first + TOGETHER):
        play(seed)


def test_the_seeds_are_of_all_sizes() -> None:
    sizes = [len(a_world(seed)[0].nodes) for seed in range(SEEDS)]
    assert {min(sizes), max(sizes)} == {2, 50}
    assert sum(size >= 17 for size in sizes) >= 30


def test_a_seed_says_everything_whatever_strings_hash_to() -> None:
    def told(hashing: str) -> str:
        env = {**os.environ, "PYTHONHASHSEED": hashing}
        env.pop("PYTHONSAFEPATH", None)
        argv = [sys.executable, "-m", "tests.simulator", "148"]
        done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
        return done.stdout.rpartition(" seeds are well")[0]

    assert told("1") == told("2") != ""


def found(seeds: range) -> str:
    """What the first seed that fails complains of."""
    for seed in seeds:
        try:
            play(seed)
        except Violation as violation:
            return str(violation)
    return ""


def test_a_violation_tells_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inquiry, "STALLED_S", 0.5)
    complaint = found(range(100))
    assert complaint.startswith("seed ")
    assert " s, node " in complaint.splitlines()[0]
    assert "start node" in complaint


def believe(self: Membership, sender: str, entry: Entry, news: Any, t: float) -> None:
    self._claim(entry, news.incarnation, news.claim, t)


def overwrite(self: Own, news: Any, t: float) -> bool:
    self._table.put(Entry(self.entry.record, self.entry.changed, news.claim))
    return False


MUTATIONS: dict[str, tuple[object, str, object, str]] = {
    "the busy are taken for dead": (inquiry, "STALLED_S", 0.5, "dead, and it lives"),
    "the deaf do not blame themselves": (inquiry, "DEAF_S", 0.0, "dead, and it lives"),
    "deaths are believed unseen": (Membership, "_heed", believe, "dead, and it lives"),
    "nobody refutes": (Own, "answer", lambda *_: False, "no agreement"),
    "others write the own entry": (Own, "answer", overwrite, "its own entry"),
    "nothing is compared": (Spreading, "synced", lambda *_: None, "no agreement"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_seeds_notice_when(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, wrong, complaint = MUTATIONS[mutation]
    monkeypatch.setattr(owner, name, wrong)
    assert complaint in found(range(100))


def test_one_lost_knock_too_many_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a single silent round as proof, loss kills the stalled."""
    monkeypatch.setattr(inquiry, "ROUNDS_ALONE", 1)
    monkeypatch.setattr(inquiry, "ROUNDS_LEAST", 1)

    def stalls(seed: int) -> None:
        world = World(3, seed, loss=0.05)
        for index in range(3):
            world.start(index, [0])
        world.run(3.0)
        for _ in range(4):
            world.stall(1, 5.0)
            world.run(world.clock.now + 7.0)

    assert _fails(stalls, range(50))


def test_evidence_of_an_earlier_life_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Detector, "refuted", lambda *_: None)

    def restarts(seed: int) -> None:
        world = a_swarm(5, seed, loss=0.1)
        for _ in range(10):
            world.kill(3)
            world.clock.after(0.4, world.start, 3, [0])
            world.run(world.clock.now + 4.0)

    assert _fails(restarts, range(50))


def _fails(scenario: Callable[[int], None], seeds: range) -> bool:
    for seed in seeds:
        try:
            scenario(seed)
        except Violation:
            return True
    return False
