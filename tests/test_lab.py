"""The lab itself: devices hear each other, are as slow and small as they should be, and nothing stays behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import Device, Lab, namespaces, presets, remove_stale, why_no_lab
from tests.lab.discovery import NoGroups, find_groups
from tests.lab.groups import quota

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
RUN_S = 15
LISTEN = "import socket; s = socket.create_server(('0.0.0.0', 9)); print('here', flush=True)\nwhile True: s.accept()"
KNOCK = "import socket; socket.create_connection(('10.77.0.2', 9), 0.5)"
BUSY = """
import time
began, used = time.monotonic(), time.process_time()
while time.monotonic() < began + 1: pass
print((time.process_time() - used) / (time.monotonic() - began))
"""
ALLOCATE = "import sys; data = b'x' * (int(sys.argv[1]) << 20); print(len(data) >> 20)"
TAKE = """
import socket, sys, time
server = socket.create_server(('0.0.0.0', 9)); print('here', flush=True)
while True:
    with server.accept()[0] as line:
        size, began = 0, None
        while data := line.recv(1 << 20):
            began, size = began or time.monotonic(), size + len(data)
        print(size * 8 / (time.monotonic() - began), flush=True)
"""
SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 9)) as line:
    line.sendall(bytes(int(sys.argv[2]))); line.shutdown(1); line.recv(1)
"""


def left_behind(tag: str) -> list[str]:
    """Namespaces, groups and homes whose names begin so."""
    groups = [name for _, inside, _ in os.walk("/sys/fs/cgroup") for name in inside]
    homes = [path.name for path in Path(tempfile.gettempdir()).iterdir()]
    return [name for name in (*namespaces(), *groups, *homes) if name.startswith(tag)]


def reaches(lab: Lab) -> bool:
    return lab.popen(0, [PYTHON, "-c", KNOCK], stderr=subprocess.DEVNULL).wait(10) == 0


def share_used(lab: Lab) -> float:
    return float(lab.run(0, [PYTHON, "-c", BUSY], RUN_S).stdout)


def allocates(lab: Lab, mebibytes: int) -> int:
    return lab.run(0, [PYTHON, "-c", ALLOCATE, str(mebibytes)], RUN_S).returncode


class Rates:
    """What a TCP stream from one device to another reaches, in bits a second."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.takers = [lab.popen(i, [PYTHON, "-c", TAKE], stdout=subprocess.PIPE, text=True) for i in range(lab.size)]
        for i in range(lab.size):
            self._line(i)

    def __call__(self, sender: int, taker: int, size: int) -> float:
        self.lab.run(sender, [PYTHON, "-c", SEND, self.lab.address(taker), str(size)], RUN_S)
        return float(self._line(taker))

    def _line(self, taker: int) -> str:
        stream = self.takers[taker].stdout
        assert stream is not None
        line: str = stream.readline()
        return line


# The network


def test_a_cable_is_pulled_and_put_back() -> None:
    with Lab(2) as lab:
        door = lab.popen(1, [PYTHON, "-c", LISTEN], stdout=subprocess.PIPE)
        assert door.stdout is not None
        door.stdout.readline()
        assert reaches(lab)
        lab.unplug(1)
        assert not reaches(lab)
        lab.plug(1)
        assert reaches(lab)
        names = [lab.namespace(0), lab.namespace(1)]
        assert set(names) <= set(namespaces())
    assert not set(names) & set(namespaces())
    assert door.poll() is not None


def test_a_link_has_its_rate_both_ways_and_can_collapse() -> None:
    slow = 20_000_000
    with Lab([Device(), Device(link_bits_per_s=slow)]) as lab:
        rate = Rates(lab)
        assert 0.6 * slow < rate(0, 1, 2_000_000) < 1.1 * slow
        assert 0.6 * slow < rate(1, 0, 2_000_000) < 1.1 * slow
        lab.relink(1, slow // 10)
        assert 0.6 * slow / 10 < rate(1, 0, 200_000) < 1.3 * slow / 10
        lab.relink(1, None)
        assert rate(0, 1, 20_000_000) > 5 * slow


# Shares and memory


def test_a_share_of_a_core_is_what_a_busy_device_gets(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab([Device(cpu=0.2)])
    assert 0.1 < share_used(lab) < 0.3
    lab.limit(0, cpu=0.05)
    assert share_used(lab) < 0.15
    lab.limit(0, cpu=None)
    assert share_used(lab) > 0.3


@pytest.mark.parametrize(
    ("share", "quota_us", "period_us"),
    [
        (0.001, 1000, 1_000_000),
        (0.1, 1000, 10_000),
        (0.2, 1000, 5_000),
        (0.3, 1200, 4_000),
        (1.0, 4000, 4_000),
        (1.5, 6000, 4_000),
    ],
)
def test_the_quota_is_as_small_as_works_that_slowness_be_even(share: float, quota_us: int, period_us: int) -> None:
    assert quota(share) == (quota_us, period_us)


def test_who_takes_more_memory_than_the_device_has_is_killed(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab([Device(memory_bytes=64 << 20)])
    assert allocates(lab, 16) == 0
    assert allocates(lab, 128) == -signal.SIGKILL
    lab.limit(0, memory_bytes=256 << 20)
    assert allocates(lab, 128) == 0
    lab.limit(0, memory_bytes=64 << 20)
    assert allocates(lab, 128) == -signal.SIGKILL


def test_limits_need_device_words() -> None:
    with Lab(1) as lab, pytest.raises(RuntimeError, match="Device words"):
        lab.limit(0, cpu=0.1)


@pytest.mark.parametrize("wrong", [{"cpu": 0.0}, {"memory_bytes": 0}, {"link_bits_per_s": 1}])
def test_a_device_is_not_nothing(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least"):
        Device(**wrong)  # type: ignore[arg-type]


# Version 2 of cgroups, on a tree that only records


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A machine with cgroups v2 only, on which this process is in /user/session."""
    root = tmp_path / "cgroup"
    (root / "user" / "session").mkdir(parents=True)
    (root / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (root / "cgroup.subtree_control").write_text("cpu memory pids\n")
    (root / "user" / "cgroup.subtree_control").write_text("memory\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("0::/user/session\n")
    (tmp_path / "mounts").write_text(f"proc /proc proc rw 0 0\ncgroup2 {root} cgroup2 rw 0 0\n")
    yield root
    shutil.rmtree(root)


def test_version_2_makes_groups_beside_our_own(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = find_groups(tree.parent)
    assert (tree / "user" / "cgroup.subtree_control").read_text() == "+cpu"
    assert (tree / "cgroup.subtree_control").read_text() == "cpu memory pids\n"
    groups.add("pi")
    pi = tree / "user" / "pi"
    (pi / "memory.swap.max").touch()
    groups.limit("pi", 0.2, 1000)
    files = ("cpu.max", "memory.max", "memory.swap.max")
    assert [(pi / name).read_text() for name in files] == ["1000 5000", "1000", "0"]
    groups.limit("pi", None, None)
    assert [(pi / name).read_text() for name in files] == ["max", "max", "max"]
    assert groups.entrances("pi") == [pi / "cgroup.procs"]
    (pi / "cgroup.kill").touch()
    seen = []

    def rmdir(folder: Path) -> None:
        """As the kernel does it: the files of a group go with its folder."""
        seen.append((folder / "cgroup.kill").read_text())
        shutil.rmtree(folder)

    monkeypatch.setattr(Path, "rmdir", rmdir)
    groups.remove("pi")
    assert seen == ["1"]
    assert not pi.exists()


def test_a_missing_controller_is_named(tree: Path) -> None:
    (tree / "cgroup.controllers").write_text("cpu pids\n")
    with pytest.raises(NoGroups, match="there is no memory"):
        find_groups(tree.parent)


def test_no_cgroups_at_all_are_named(tree: Path) -> None:
    (tree.parent / "mounts").write_text("proc /proc proc rw 0 0\n")
    with pytest.raises(NoGroups, match="there is no cpu and no memory"):
        find_groups(tree.parent)


# Homes, the command, and the end


def test_devices_share_no_home() -> None:
    with Lab(2, homes=True) as lab:
        write = 'echo "$1" > "$HOME/mine"; echo "$1" > "$SWARM_HOME/mine"; cat "$HOME/mine"'
        said = [lab.run(i, ["sh", "-c", write, "sh", str(i)], RUN_S) for i in range(2)]
        assert [done.stdout for done in said] == ["0\n", "1\n"]
        homes = [Path(lab.env(i)["HOME"]) for i in range(2)]
        assert [(home / "mine").read_text() for home in homes] == ["0\n", "1\n"]
        with pytest.raises(subprocess.TimeoutExpired):
            lab.run(0, ["sleep", "60"], timeout_s=0.1)
    assert not any(home.exists() for home in homes)


def command(*arguments: str) -> subprocess.Popen[str]:
    if reason := why_no_lab(presets.hetero):
        pytest.skip(reason)
    argv, env = [PYTHON, "-m", "tests.lab", *arguments], os.environ | {"PYTHONSAFEPATH": ""}
    return subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)


def test_the_command_runs_on_every_device() -> None:
    with command("pi5:2", "--link", "100mbit", "--", "sh", "-c", "echo '{i} {address}'; exit {i}") as process:
        out, _ = process.communicate(timeout=RUN_S)
    lines = out.splitlines()
    assert lines[1].split() == ["0", "pi5", "10.77.0.1", "35%", "2048", "MiB", "100", "Mbit/s"]
    assert sorted(lines[3:]) == ["[0] 0 10.77.0.1", "[1] 1 10.77.0.2"]
    assert process.returncode == 1
    assert left_behind(f"swl{process.pid}x") == []


def test_a_terminated_command_leaves_nothing() -> None:
    with command("hetero", "--on", "3", "--", "sh", "-c", "echo up; sleep 60") as process:
        assert process.stdout is not None
        assert any(line == "[3] up\n" for line in process.stdout)
        assert len(left_behind(f"swl{process.pid}x")) >= 4 + 1 + 4 + 4
        process.terminate()
        assert process.wait(RUN_S) == 128 + signal.SIGTERM
    assert left_behind(f"swl{process.pid}x") == []


def test_what_a_killed_run_left_is_removed(make_lab: Callable[..., Lab]) -> None:
    mine = make_lab([Device(cpu=0.5)], homes=True)
    running = mine.popen(0, ["sleep", "60"])
    with command("hetero", "--on", "3", "--", "sh", "-c", "echo $$; exec sleep 60") as killed:
        assert killed.stdout is not None
        inner = next(int(line.split()[1]) for line in killed.stdout if line.startswith("[3]"))
        killed.kill()
    assert Path(f"/proc/{inner}").exists()
    assert left_behind(f"swl{killed.pid}x")
    remove_stale()
    assert left_behind(f"swl{killed.pid}x") == []
    assert not Path(f"/proc/{inner}").exists() or "zombie" in Path(f"/proc/{inner}/status").read_text()
    assert running.poll() is None
    assert mine.namespace(0) in namespaces()
