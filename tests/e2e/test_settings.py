"""Where settings come from: flags, the environment and a file say the same things in the same words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from swarm.cli import app as cli
from swarm.cli import join
from swarm.cli.flags import Output
from tests.e2e.command import check_sentence, swarm


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "swarm.toml"
    path.touch()
    monkeypatch.setenv("SWARM_CONFIG", str(path))
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `swarm join`, run in this process, asked of its peer."""
    seen: dict[str, Any] = {}

    def peer(name: str | None, **more: Any) -> None:
        seen.update(more, name=name)

    monkeypatch.setattr(cli, "_peer", peer)
    monkeypatch.setattr(join, "run", lambda make, wish, device, as_json: make())
    return seen


def call(*arguments: str) -> Output:
    output = Output()
    cli.app(arguments, standalone_mode=False, obj=output)
    return output


def test_one_value_stands_for_a_list_of_one(file: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWARM_INTERFACE")
    file.write_text('interface = "127.0.0.1"\npeer = ["a:1", "b:2"]\nwait = 3\nmemory = 1\n[join]\nmemory = 5\n')
    call("join")
    assert (asked["interface"], asked["peer"], asked["memory_bytes"]) == (("127.0.0.1",), ("a:1", "b:2"), 5)


def test_a_variable_may_hold_several(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_PEER", "a:1, b:2  c:3,")
    monkeypatch.setenv("SWARM_INTERFACE", "127.0.0.1,127.0.0.2")
    monkeypatch.setenv("SWARM_MODELS", os.pathsep.join(["/my models/one.py", "two.py", ""]))
    call("join")
    assert asked["peer"] == ("a:1", "b:2", "c:3")
    assert asked["interface"] == ("127.0.0.1", "127.0.0.2")
    assert asked["models"] == ("/my models/one.py", "two.py")


@pytest.mark.usefixtures("asked")
def test_json_and_debug_come_from_everywhere(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("join") == Output()
    file.write_text("json = true\n[join]\ndebug = true\n")
    assert call("join") == Output(json=True, debug=True)
    monkeypatch.setenv("SWARM_DEBUG", "0")
    assert call("join") == Output(json=True), "variables win over the file"
    assert call("join", "--debug") == Output(json=True, debug=True), "flags win over variables"


@pytest.mark.parametrize("arguments", [("run", "fashion-vit", "missing.png"), ("join", "--nonsense"), ("nonsense",)])
def test_errors_are_json_wherever_json_was_asked_for(arguments: tuple[str, ...], file: Path) -> None:
    os.environ["SWARM_JSON"] = "1"
    try:
        from_variable = swarm(*arguments)
    finally:
        del os.environ["SWARM_JSON"]
    assert json.loads(from_variable.stdout)["error"]["sentence"] in from_variable.stderr
    if arguments != ("nonsense",):
        file.write_text("json = true")
        assert swarm(*arguments).stdout == from_variable.stdout


def test_debug_shows_the_traceback_wherever_it_was_asked_for(file: Path) -> None:
    file.write_text("debug = true")
    assert "Traceback" in swarm("run", "fashion-vit", "missing.png").stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("join = 5", ("'join'", "[join]")),
        ("nmae = 'attic'", ("'nmae'", "not a setting")),
        ("[joyn]\nname = 'attic'", ("'joyn'", "not a setting")),
        ("[status]\nmemory = 5", ("'memory'", "[status]", "not a setting")),
        ("port = '4747'", ("'port'", "whole number")),
        ("port = true", ("'port'", "whole number")),
        ("port = 70000", ("'port'", "70000")),
        ("json = 'yes'", ("'json'", "true or false")),
        ("interface = [1]", ("'interface'", "text in quotes, or a list")),
        ("[status]\nwait = nan", ("'wait'", "not a time")),
        ('[join]\nname = "a\\nb"', ("'name'", "printable")),
    ],
)
def test_what_the_file_may_not_say(file: Path, text: str, words: tuple[str, ...]) -> None:
    file.write_text(text)
    check_sentence(swarm("status"), 2, "swarm.toml", *words)


def test_a_name_that_others_would_not_accept_is_refused_in_a_sentence() -> None:
    done = swarm("join", "--no-mdns", "--name", "a\nb")
    check_sentence(done, 2, "--name", "printable")
    assert "PeerRecord" not in done.stderr
    check_sentence(swarm("status", "--wait", "nan"), 2, "--wait", "not a time")
