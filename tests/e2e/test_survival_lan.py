"""What a session does when a link or a device of the LAN gets into trouble, on emulated devices."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.asker import Asker
from tests.e2e.command import give_speed
from tests.lab import Device, Lab

NAMES = ("ant", "bee", "cat")
MBIT = 10**6


@contextmanager
def swarm_of_three(link_mbit: int) -> Iterator[Lab]:
    """Workers on devices 0 to 2; device 3 is for who asks."""
    with Lab([Device(None, None, link_mbit * MBIT, name) for name in (*NAMES, "asker")], homes=True) as lab:
        for number, name in enumerate(NAMES):
            give_speed(Path(lab.env(number)["XDG_CACHE_HOME"]))
            argv = [sys.executable, "-P", "-m", "swarm", "join", "--name", name, "--threads", "1", "--json"]
            lab.popen(number, argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        yield lab


def test_a_link_that_collapses_in_mid_run_is_planned_around() -> None:
    with swarm_of_three(50) as lab:
        asker = Asker(lab, 3, *NAMES, "--model", "fashion-vit", "--at-once", "2")
        asker.wait(lambda it: len(it.all("request")) >= 10)
        victim = next(name for name in asker.all("plan")[-1]["peers"] if name in NAMES)
        lab.relink(NAMES.index(victim), MBIT // 2)
        asker.wait(lambda it: victim not in it.all("plan")[-1]["peers"], within_s=60)
        answered = len(asker.all("request"))
        asker.wait(lambda it: len(it.all("request")) >= answered + 10, within_s=60)
        asker.stop()
    assert not asker.all("lost")
    assert all(row["right"] for row in asker.all("request"))
    assert not asker.all("gone"), "slow is not dead"
