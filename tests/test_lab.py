"""The lab itself: devices hear each other, a cable can be pulled, and nothing stays behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.lab import Lab, _namespaces, remove_stale

LISTEN = "import socket; s = socket.create_server(('0.0.0.0', 9)); print('here', flush=True)\nwhile True: s.accept()"
KNOCK = "import socket; socket.create_connection(('10.77.0.2', 9), 0.5)"


def reaches(lab: Lab) -> bool:
    return lab.popen(0, [sys.executable, "-c", KNOCK], stderr=subprocess.DEVNULL).wait(10) == 0


def test_a_cable_is_pulled_and_put_back() -> None:
    with Lab(2) as lab:
        door = lab.popen(1, [sys.executable, "-c", LISTEN], stdout=subprocess.PIPE)
        assert door.stdout is not None
        door.stdout.readline()
        assert reaches(lab)
        lab.unplug(1)
        assert not reaches(lab)
        lab.plug(1)
        assert reaches(lab)
        names = [lab.namespace(0), lab.namespace(1)]
        assert set(names) <= set(_namespaces())
    assert not set(names) & set(_namespaces())
    assert door.poll() is not None


def test_what_a_killed_run_left_is_removed() -> None:
    code = (
        f"import sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r}); from lab import Lab\n"
        "with Lab(1) as lab: print(lab.namespace(0), flush=True); time.sleep(60)"
    )
    with Lab(1) as lab:
        mine = lab.namespace(0)
        killed = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        with killed:
            assert killed.stdout is not None
            theirs = killed.stdout.readline().strip()
            assert {mine, theirs} <= set(_namespaces())
            killed.kill()
        remove_stale()
        assert theirs not in _namespaces()
        assert mine in _namespaces()
