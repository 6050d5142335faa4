"""Who comes into a swarm and who does not, as people see it: commands, folders, a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from swarm.secret import Secret
from tests.e2e.command import PICTURES, START_S, SWARM, Joined, check_sentence, env, joined, line_of, swarm, swarm_json
from tests.lab import Lab

LOOPBACK = ("--interface", "127.0.0.1")
APART = ("--no-mdns", *LOOPBACK)
posix = pytest.mark.skipif(os.name != "posix", reason="a terminal of this kind, and these modes, are POSIX's")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def with_secret(home: Path, secret: Secret) -> Path:
    home.mkdir(mode=0o700, exist_ok=True)
    (home / "secret").write_text(secret.reveal())
    (home / "secret").chmod(0o600)
    return home


def secret_in(home: Path) -> str:
    return (home / "secret").read_text().strip()


def said(peer: Joined) -> str:
    """All that it wrote for people, after stopping it."""
    assert peer.stop() == 0
    assert peer.process.stderr is not None
    return peer.process.stderr.read()


@contextmanager
def invitation(
    home: Path, *arguments: str, lab: Lab | None = None
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`swarm invite` that shows its code."""
    where = () if lab else (*LOOPBACK, "--port", "0")
    options: dict[str, Any] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "env": env(lab, home),
    }
    argv = [*SWARM, "invite", "--json", *where, *arguments]
    process = lab.popen(0, argv, **options) if lab else subprocess.Popen(argv, **options)
    with process:
        try:
            yield process, json.loads(line_of(process))
        finally:
            if process.poll() is None:
                process.kill()


# The first device, and those that come back


@posix
def test_the_first_device_makes_a_secret_and_says_how_to_let_others_in(home: Path) -> None:
    with joined("--no-mdns", name="first", home=home) as first:
        assert (home / "secret").stat().st_mode & 0o777 == 0o600
        seen = swarm_json("status", "--wait", "1", "--peer", first.address, *APART, home=home)
        assert [peer["name"] for peer in seen["peers"]] == ["first"]
        words = said(first)
    assert len(words.strip().splitlines()) == 1
    assert "begins a new swarm" in words
    assert "swarm invite" in words
    assert secret_in(home) not in words


def test_a_peer_that_comes_back_is_the_same_peer(home: Path) -> None:
    with joined("--no-mdns", name="pi", home=home) as first, joined("--no-mdns", name="two", home=home) as second:
        assert first.id != second.id
        first.process.kill()
        first.process.wait()
        with joined("--no-mdns", name="pi", home=home) as again:
            assert again.id == first.id
    with joined("--no-mdns", "--new-identity", name="pi", home=home) as other:
        assert other.id != first.id


def test_one_device_alone_looks_around_first(home: Path) -> None:
    with Lab(1) as lab, joined(name="first", lab=lab, home=home) as first:
        assert "begins a new swarm" in said(first)


# A further device


def test_a_code_brings_a_device_in_that_finds_the_rest_by_itself(tmp_path: Path) -> None:
    with Lab(2) as lab:
        a, b = tmp_path / "a", tmp_path / "b"
        with joined(name="ant", lab=lab, home=a) as ant, invitation(a, lab=lab) as (inviting, shown):
            assert re.fullmatch(r"[0-9A-Z]{4}-[0-9A-Z]{4}", shown["code"])
            assert (shown["seconds"], shown["attempts"]) == (120, 3)
            with joined("--code", shown["code"].lower(), name="bee", lab=lab, device=1, home=b) as bee:
                assert json.loads(line_of(inviting)) == {"event": "joined", "name": "bee", "host": lab.address(1)}
                assert inviting.wait(START_S) == 0
                assert secret_in(a) == secret_in(b)
                seen = swarm_json("status", "--wait", "3", lab=lab, device=1, home=b)["peers"]
                assert {peer["id"] for peer in seen} == {ant.id, bee.id}
                assert "is in the swarm now" in said(bee)


def test_a_code_brings_a_device_in_where_multicast_does_not_reach(tmp_path: Path) -> None:
    a, b = with_secret(tmp_path / "a", Secret.new()), tmp_path / "b"
    with invitation(a, "--no-mdns") as (inviting, shown):
        where = ("--no-mdns", "--peer", shown["addresses"][0])
        with joined(*where, "--code", shown["code"], name="bee", home=b):
            assert secret_in(a) == secret_in(b)
            assert inviting.wait(START_S) == 0


def test_a_wrong_code_is_told_and_three_close_the_door(tmp_path: Path) -> None:
    a, b = with_secret(tmp_path / "a", Secret.new()), tmp_path / "b"
    with invitation(a, "--no-mdns") as (inviting, shown):
        code = shown["code"][:-1] + ("0" if shown["code"][-1] != "0" else "1")
        where = (*APART, "--peer", shown["addresses"][0])
        for left in ("2 more", "1 more", "no more"):
            check_sentence(swarm("join", *where, "--code", code, home=b), 8, "not the code", left)
        assert inviting.wait(START_S) == 8
        events = [json.loads(line) for line in inviting.communicate()[0].splitlines()]
        assert [event["left"] for event in events[:-1]] == [2, 1, 0]
        assert events[-1]["error"]["code"] == "door-closed"
        check_sentence(swarm("join", *where, "--code", shown["code"], home=b), 3, "No invitation answers")
    assert not (b / "secret").exists()


def test_a_code_is_not_used_up_where_its_secret_could_not_be_kept(tmp_path: Path) -> None:
    a, b = with_secret(tmp_path / "a", Secret.new()), tmp_path / "b"
    (b / "secret.lock").mkdir(parents=True)  # in the way, whatever user this is
    with invitation(a, "--no-mdns") as (inviting, shown):
        ask = ("join", *APART, "--peer", shown["addresses"][0], "--code", shown["code"])
        check_sentence(swarm(*ask, home=b), 2, "cannot be kept", "SWARM_HOME")
        check_sentence(swarm(*ask), 2, "SWARM_SECRET is set")
        with joined(*ask[1:], name="bee", home=tmp_path / "c"):
            assert inviting.wait(START_S) == 0


def test_a_device_without_a_terminal_hears_what_to_do(tmp_path: Path) -> None:
    a, b = with_secret(tmp_path / "a", Secret.new()), tmp_path / "b"
    with joined(name="ant", home=a) as ant:
        done = swarm("join", *LOOPBACK, "--port", "0", home=b)
        check_sentence(done, 8, "swarm is here already", "swarm invite", "swarm join --code", "--new")
        named = swarm("join", *APART, "--peer", ant.address, home=b)
        check_sentence(named, 8, ant.address, "swarm invite")
        assert not (b / "secret").exists()
        with joined("--new", name="bee", home=b):
            assert secret_in(a) != secret_in(b)


@pytest.mark.parametrize("command", [("status",), ("invite",), ("secret", "show"), ("secret", "rotate")])
def test_other_commands_need_a_secret(home: Path, command: tuple[str, ...]) -> None:
    where = () if command[0] == "secret" else APART
    check_sentence(swarm(*command, *where, home=home), 8, "swarm join")
    assert not (home / "secret").exists()


def test_a_device_that_works_alone_needs_none(home: Path) -> None:
    report = swarm_json("run", "fashion-vit", PICTURES[0], "--strategy", "local", *LOOPBACK, home=home)
    assert len(report["results"]) == 1
    assert not (home / "secret").exists()


def test_flags_that_contradict_each_other(home: Path) -> None:
    check_sentence(swarm("join", "--open", "--new", *APART, home=home), 2, "--open and --new")
    check_sentence(swarm("join", "--code", "abc", *APART, home=home), 2, "A code has 8")
    check_sentence(swarm("join", "--new", *APART, home=with_secret(home, Secret.new())), 2, "in a swarm already")


@posix
def test_a_secret_that_others_can_read_is_told(home: Path) -> None:
    with_secret(home, Secret.new())
    (home / "secret").chmod(0o644)
    check_sentence(swarm("join", *APART, home=home), 2, "chmod 600", str(home / "secret"))


def test_a_fleet_hands_its_secret_over_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "fleet"
    file.write_text(Secret.new().reveal())
    file.chmod(0o600)
    given = ("--secret-file", str(file))
    with joined("--no-mdns", *given, name="ant", home=tmp_path / "a") as ant:
        where = ("--peer", ant.address, *APART)
        seen = swarm_json("status", "--wait", "1", *given, *where, home=tmp_path / "b")["peers"]
        assert [peer["name"] for peer in seen] == ["ant"]
        assert not (tmp_path / "a" / "secret").exists()
        check_sentence(swarm("status", "--secret-file", "none", *where), 2, "no secret file")


# A terminal


@posix
def test_on_a_terminal_the_code_is_asked_for(tmp_path: Path) -> None:
    a, b = with_secret(tmp_path / "a", Secret.new()), tmp_path / "b"
    with joined(name="ant", home=a), invitation(a) as (inviting, shown):
        terminal, theirs = pty.openpty()
        argv = [*SWARM, "join", *LOOPBACK, "--port", "0", "--name", "bee", "--threads", "1"]
        with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env(None, b)) as process:
            os.close(theirs)
            try:
                read_until(terminal, "Code that it shows:")
                os.write(terminal, b"abc\n")
                assert "A code has 8" in read_until(terminal, "Code that it shows:")
                os.write(terminal, shown["code"].lower().encode() + b"\n")
                assert "is in the swarm now" in read_until(terminal, "is ready at")
                assert inviting.wait(START_S) == 0
                assert secret_in(a) == secret_in(b)
            finally:
                process.kill()
                os.close(terminal)


def read_until(terminal: int, words: str) -> str:
    """What a terminal shows, up to and with these words."""
    shown, deadline = "", time.monotonic() + START_S
    while words not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"no '{words}' came: {shown}"
        shown += os.read(terminal, 4096).decode("utf-8", "replace")
    return shown


# Strangers, open swarms and twins


def test_two_devices_with_different_secrets_see_that_the_other_is_there_and_no_more(tmp_path: Path) -> None:
    a, b = with_secret(tmp_path / "a", Secret.new()), with_secret(tmp_path / "b", Secret.new())
    with joined(name="ant", home=a) as ant, joined("--peer", ant.address, name="bee", home=b):
        seen = swarm_json("status", "--wait", "3", *LOOPBACK, home=b)
        assert [peer["name"] for peer in seen["peers"]] == ["bee"]
        assert seen["strangers"] >= 1
        assert ant.id not in json.dumps(seen)
        assert "of another swarm" in swarm("status", "--wait", "2", *LOOPBACK, home=b).stdout


def test_an_open_swarm_says_so_loudly_and_keeps_to_itself(tmp_path: Path) -> None:
    with joined("--open", "--no-mdns", name="ant", home=tmp_path) as ant:
        where = ("--peer", ant.address, *APART)
        done = swarm("status", "--json", "--wait", "1", "--open", *where, home=tmp_path)
        assert [peer["name"] for peer in json.loads(done.stdout)["peers"]] == ["ant"]
        assert "OPEN SWARM" in done.stderr
        assert swarm_json("status", "--wait", "1", *where)["peers"] == []
        assert "OPEN SWARM" in said(ant)
    assert not (tmp_path / "secret").exists()


def test_a_copied_configuration_is_noticed_by_both_and_parted(tmp_path: Path) -> None:
    a, b = with_secret(tmp_path / "a", Secret.new()), tmp_path / "b"
    with joined("--no-mdns", name="ant", home=a):
        pass
    shutil.copytree(a, b)
    with joined(name="ant", home=a) as ant, joined(name="copy", home=b) as copy:
        assert ant.id == copy.id
        time.sleep(3)
        for words in (said(ant), said(copy)):
            assert "--new-identity" in words
            assert "127.0.0.1" in words
    with joined(name="ant", home=a) as ant, joined("--new-identity", name="copy", home=b) as copy:
        assert ant.id != copy.id
        time.sleep(2)
        assert "--new-identity" not in said(copy) + said(ant)


# Another secret


def test_a_new_secret_puts_a_lost_device_out(tmp_path: Path) -> None:
    old = Secret.new()
    homes = [with_secret(tmp_path / name, old) for name in ("ant", "bee", "lost")]
    with joined(name="ant", home=homes[0]) as ant, joined("--peer", ant.address, name="bee", home=homes[1]) as bee:
        fleet = tmp_path / "fleet"
        fleet.write_text(old.reveal())
        fleet.chmod(0o600)
        given = ("--peer", ant.address)
        with (
            joined(*given, name="lost", home=homes[2]),
            joined(*given, "--secret-file", str(fleet), name="fleet", home=tmp_path / "f"),
        ):
            rotate = ("secret", "rotate", "--without", "lost", *given, *LOOPBACK)
            refused = swarm(*rotate, home=homes[0])
            assert refused.returncode == 2
            assert "--yes" in refused.stderr
            assert "bee" in refused.stderr
            assert secret_in(homes[0]) == old.reveal(), "nothing was changed"
            report = swarm_json(*rotate, "--yes", home=homes[0])
            kept = {row["name"]: row["kept"] for row in report["peers"]}
            assert kept == {"ant": True, "bee": True, "lost": False, "fleet": False}
            for peer in (ant, bee):
                assert json.loads(line_of(peer.process))["event"] == "rotated"
                again = json.loads(line_of(peer.process))
                assert again["event"] == "ready"
                assert again["address"] == peer.address, "it comes back where it was"
                assert again["id"] != peer.id
            assert secret_in(homes[0]) == secret_in(homes[1]) != old.reveal()
            assert secret_in(homes[2]) == old.reveal()
            seen = swarm_json("status", "--wait", "3", *given, *LOOPBACK, home=homes[1])["peers"]
            assert {row["name"] for row in seen} == {"ant", "bee"}
            outside = swarm_json("status", "--wait", "3", *given, *LOOPBACK, home=homes[2])["peers"]
            assert {row["name"] for row in outside if row["state"] == "alive"} <= {"lost", "fleet"}


def test_the_secret_is_shown_only_when_asked_for(home: Path) -> None:
    secret = Secret.new()
    with_secret(home, secret)
    done = swarm("secret", "show", home=home)
    assert str(home / "secret") in done.stdout
    assert secret.reveal() not in done.stdout + done.stderr
    assert swarm("secret", "show", "--reveal", home=home).stdout.strip() == secret.reveal()
    assert swarm_json("secret", "show", home=home).keys() == {"where", "swarm"}


def test_no_command_shows_the_secret_in_its_logs(home: Path) -> None:
    secret = Secret.new()
    with_secret(home, secret)
    with joined("--debug", "--no-mdns", name="ant", home=home) as ant:
        done = swarm("status", "--debug", "--wait", "1", "--peer", ant.address, *APART, home=home)
        shown = done.stdout + done.stderr + said(ant)
    assert secret.reveal() not in shown
    assert secret.raw().hex() not in shown


def test_a_wrong_interface_makes_no_secret(home: Path) -> None:
    """Else the next start, on the right one, would begin a swarm of its own instead of asking for a code."""
    check_sentence(swarm("join", "--interface", "203.0.113.7", "--no-mdns", home=home), 2, "203.0.113.7")
    assert not (home / "secret").exists()


def test_a_name_that_nobody_has_stops_a_rotation_that_nobody_looks_at(home: Path) -> None:
    before = Secret.new()
    with_secret(home, before)
    done = swarm("secret", "rotate", "--yes", "--without", "typo", "--wait", "0.5", *APART, home=home)
    check_sentence(done, 2, "typo")
    assert secret_in(home) == before.reveal()
