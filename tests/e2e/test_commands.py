"""The commands' contracts and their bad days, as real processes on loopback."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from tests.e2e.command import PICTURES, Joined, check_sentence, joined, labels, swarm, swarm_json

ALONE = ("--strategy", "local", "--no-mdns")
QUICK = ("--wait", "1", "--no-mdns")


@pytest.fixture(scope="module")
def ant() -> Iterator[Joined]:
    with joined(name="ant") as peer:
        yield peer


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_join_runs_until_a_signal_and_leaves_with_zero(number: int) -> None:
    with joined("--no-mdns", name="short") as peer:
        assert len(peer.id) == 32
        assert peer.address.startswith("127.0.0.1:")
        assert peer.stop(number) == 0
        assert peer.process.stderr is not None
        assert peer.process.stderr.read() == ""


def test_peers_on_one_machine_find_each_other(ant: Joined) -> None:
    with joined(name="bee") as bee:
        seen = {p["name"]: p for p in swarm_json("status", "--wait", "2.5")["peers"]}
        assert {"ant", "bee"} <= seen.keys()
        assert seen["bee"] | {"profile": 0, "holds": 0} == {
            "name": "bee",
            "id": bee.id,
            "address": bee.address,
            "state": "alive",
            "profile": 0,
            "holds": 0,
        }


def test_run_prints_all_that_its_contract_promises(ant: Joined) -> None:
    report = swarm_json(
        "run", "fashion-vit", *PICTURES[:3], "--peer", ant.address, "--no-mdns", "--split", "4", "--repeat", "2"
    )
    assert report["model"] == "fashion-vit"
    assert report["strategy"] == "slices"
    assert [row["input"] for row in report["results"]] == PICTURES[:3]
    scores = [label["score"] for label in report["results"][0]["labels"]]
    assert scores == sorted(scores, reverse=True)
    assert set(report["plan"]["steps"][0]) == {"id", "peers", "part"}
    times = {"queue_s", "compute_s", "wire_s", "exchange_s"}
    assert set(report["trace"][0]) == {"step", "peer", "bytes", "missing", *times}
    assert report["latency_s"] > 0


@pytest.mark.parametrize("wire", ["float16", "bfloat16", "int8"])
def test_a_narrow_wire_keeps_the_labels(ant: Joined, wire: str) -> None:
    where = ("--peer", ant.address, "--no-mdns", "--split", "4")
    wide = swarm_json("run", "fashion-vit", *PICTURES, *where, "--wire", "float32")
    narrow = swarm_json("run", "fashion-vit", *PICTURES, *where, "--wire", wire)
    same = sum(a == b for a, b in zip(labels(wide), labels(narrow), strict=True))
    assert same >= len(PICTURES) - 1
    assert narrow["trace"][1]["bytes"] < wide["trace"][1]["bytes"] * 0.6


def test_settings_come_from_the_environment_and_a_file_and_flags_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "swarm.toml"
    file.write_text('no-mdns = true\n[join]\nname = "from-file"\nmemory = 12345678\n')
    monkeypatch.setenv("SWARM_CONFIG", str(file))
    monkeypatch.setenv("SWARM_MEMORY", "23456789")
    with joined(name="from-flag") as peer:
        assert peer.name == "from-flag"
        seen = swarm_json("status", "--wait", "1.5", "--peer", peer.address)["peers"]
        [profile] = [p["profile"] for p in seen if p["name"] == "from-flag"]  # peers of other tests may be remembered
        assert 12345678 < profile["memory_free_bytes"] <= 23456789
    file.write_text("name = ")
    check_sentence(swarm("status"), 2, "swarm.toml", "cannot be read")


# Bad input: one sentence, an exit code, no traceback


@pytest.fixture
def nobody_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache without last-known peers."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.usefixtures("nobody_known")
def test_no_other_peer() -> None:
    check_sentence(
        swarm("run", "fashion-vit", PICTURES[0], *QUICK), 3, "No other peer", "swarm join", "--strategy local"
    )


def test_unknown_model() -> None:
    check_sentence(swarm("run", "fashion-vitt", PICTURES[0], *ALONE), 2, "fashion-vitt", "fashion-vit")


def test_unreadable_pictures(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n nonsense")
    check_sentence(swarm("run", "fashion-vit", str(broken), *ALONE), 2, "broken.png")
    check_sentence(swarm("run", "fashion-vit", str(tmp_path / "missing.png"), *ALONE), 2, "missing.png")


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = swarm("join", "--interface", "127.0.0.1", "--port", str(port), "--no-mdns")
        check_sentence(done, 7, str(port))


def test_a_peer_that_declines(ant: Joined) -> None:
    with joined("--memory", "1000", name="tiny") as tiny:
        where = ("--peer", ant.address, "--peer", tiny.address, "--no-mdns", "--on", "ant,tiny")
        check_sentence(swarm("run", "fashion-vit", PICTURES[0], *where), 3, "tiny", "MB free", "--memory")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--split", "99"), ("12 blocks", "99")),
        (("--split", "block.3"), ("no cut", "blocks.3")),
        (("--strategy", "magic"), ("magic", "slices")),
        (("--weights", "random:x"), ("random:SEED",)),
        (("--weights", "missing.safetensors"), ("missing.safetensors",)),
    ],
)
def test_wishes_that_cannot_be(ant: Joined, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    done = swarm("run", "fashion-vit", PICTURES[0], "--peer", ant.address, "--no-mdns", *arguments)
    check_sentence(done, 6 if arguments[0] == "--weights" else 2, *words)


@pytest.mark.usefixtures("nobody_known")
def test_errors_are_json_too_when_json_is_asked_for() -> None:
    done = swarm("run", "fashion-vit", PICTURES[0], *QUICK, "--json")
    assert json.loads(done.stdout)["error"]["code"] == "no-peers"
    check_sentence(done, 3, "No other peer")


def test_a_usage_error_shows_no_traceback() -> None:
    check_sentence(swarm("run", "fashion-vit", PICTURES[0], "--nonsense"), 2, "--nonsense")
    check_sentence(swarm("join", "--peer", "nowhere", "--no-mdns"), 2, "nowhere", "HOST:PORT")


def test_a_peer_killed_in_mid_request_ends_it_at_once_and_the_others_serve_on(ant: Joined) -> None:
    with joined("--no-mdns", name="doomed") as doomed:
        where = ("--peer", ant.address, "--peer", doomed.address, "--no-mdns", "--on", "ant,doomed", "--split", "6")
        swarm_json("run", "vit_tiny_patch16_224", PICTURES[0], *where, "--weights", "random:0")
        threading.Timer(6, doomed.process.kill).start()
        began = monotonic()
        done = swarm("run", "vit_tiny_patch16_224", PICTURES[0], *where, "--weights", "random:0", "--repeat", "100000")
        check_sentence(done, 3, "doomed")
        assert monotonic() - began < 40, "it ends with the peer, not with the deadline of 60 s"
    assert labels(swarm_json("run", "fashion-vit", PICTURES[0], "--peer", ant.address, "--no-mdns", "--split", "6"))


def test_an_owners_model_is_unknown_where_its_file_is_not(ant: Joined) -> None:
    own = Path(__file__).resolve().parents[2] / "examples/my_models.py"
    where = ("--peer", ant.address, "--no-mdns", "--on", "ant", "--models", str(own))
    done = swarm("run", "tiny-net", PICTURES[0], *where, "--strategy", "local", "--weights", "random:0")
    check_sentence(done, 3, "tiny-net")


def test_a_stranger_who_talks_nonsense_disturbs_nobody(ant: Joined) -> None:
    host, port = ant.address.split(":")
    for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 70000, b""):
        with socket.create_connection((host, int(port)), 5) as stranger:
            stranger.sendall(nonsense)
            stranger.shutdown(socket.SHUT_WR)
            stranger.settimeout(10)
            try:
                while stranger.recv(65536):
                    pass
            except ConnectionError:
                pass
    report = swarm_json("run", "fashion-vit", PICTURES[0], "--peer", ant.address, "--no-mdns", "--split", "6")
    assert [row["peer"] for row in report["trace"]][1] == "ant"
