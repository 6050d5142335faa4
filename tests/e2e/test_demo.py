"""`swarm demo` shows a whole swarm, ends by itself and leaves nothing running."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import platformdirs
import psutil
import pytest

from tests.e2e.command import swarm, swarm_json


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own, none of which is for the demo."""
    file = tmp_path / "swarm.toml"
    file.write_text("memory = 1000\nport = 1\n")
    monkeypatch.setenv("SWARM_CONFIG", str(file))
    monkeypatch.setenv("SWARM_PEER", "127.0.0.1:9")
    monkeypatch.setenv("SWARM_MODELS", str(tmp_path / "missing.py"))
    monkeypatch.setenv("SWARM_NO_MDNS", "1")


@pytest.fixture
def known() -> Iterator[Path]:
    """The user's last-known peers; a peer that remembers would put its own in their place."""
    file = Path(platformdirs.user_cache_dir("swarm", appauthor=False)) / "known-peers.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('["127.0.0.1:9"]')
    yield file
    file.unlink()


@pytest.mark.usefixtures("settings")
def test_the_demo_shows_labels_hops_and_that_the_answer_is_the_whole_models(known: Path) -> None:
    report = swarm_json("demo")
    assert known.read_text() == '["127.0.0.1:9"]'
    assert report["same_as_whole_model"]
    assert report["largest_difference"] < 1e-5
    assert len(report["results"]) == 20
    assert [step["peers"] for step in report["plan"]["steps"]] == [["ant"], ["bee"], ["cricket"]]
    right = sum(_truth(row["input"]) == row["labels"][0]["label"].lower() for row in report["results"])
    assert right >= 17, "at ninety percent accuracy, three wrong of twenty are rare"
    assert not _peers_left()


def test_the_demo_speaks_to_people_too() -> None:
    done = swarm("demo")
    assert done.returncode == 0, done.stderr
    for step in ("ant holds fashion-vit[input..", "cricket holds fashion-vit[blocks."):
        assert step in done.stdout
    for word in ("ant", "bee", "cricket", "Ankle boot", "gives the same 20 labels"):
        assert word in done.stdout
    assert not _peers_left()


def _truth(picture: str) -> str:
    name = picture.rsplit("-", 1)[0]
    return {"t-shirt": "t-shirt/top", "ankle-boot": "ankle boot"}.get(name, name)


def _peers_left() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "join" in " ".join(child.cmdline())]
