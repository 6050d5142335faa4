"""The examples run as their first lines say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.e2e.command import PICTURES, joined, swarm_json

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_embed() -> None:
    done = subprocess.run(
        [sys.executable, "-P", str(EXAMPLES / "embed.py")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    first, *_, app, helper = done.stdout.splitlines()
    assert first.startswith("sneaker-1.png: Sneaker")
    assert (app.split(":")[0], helper.split(":")[0]) == ("app", "helper")


def test_a_model_of_ones_own_is_shared_by_peers_that_have_its_file() -> None:
    own = ("--models", str(EXAMPLES / "my_models.py"))
    with joined(*own, "--no-mdns", name="owner") as owner, joined(*own, "--no-mdns", name="second") as second:
        where = ("--peer", owner.address, "--peer", second.address, "--no-mdns", "--on", "owner,second")
        report = swarm_json("run", "tiny-net", PICTURES[0], *own, *where, "--split", "2", "--weights", "random:7")
        alone = swarm_json("run", "tiny-net", PICTURES[0], *own, "--strategy", "local", "--weights", "random:7")
    assert [row["peer"] for row in report["trace"]] == ["owner", "second"]
    assert {label["label"] for label in report["results"][0]["labels"]} == {"cat", "dog"}
    for here, there in zip(alone["results"][0]["labels"], report["results"][0]["labels"], strict=True):
        assert here["label"] == there["label"]
        assert abs(here["score"] - there["score"]) < 1e-5
