"""`swarm split importance` as a real process, on a few generated pictures: what it finds is there for plans."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from swarm.errors import WeightsError
from swarm.models.importance.kept import Importance
from swarm.models.workshop import Workshop
from tests.e2e.command import SWARM, check_sentence, env, swarm, swarm_json

COUNT, HELD_OUT = 96, 40
SMALL = ("--samples", "2", "--batch", "32", "--threads", "1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IDX files of noise."""
    folder, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, count in (("train", COUNT), ("t10k", HELD_OUT)):
        for kind, array in (
            ("images-idx3", generator.integers(0, 256, (count, 28, 28), np.uint8)),
            ("labels-idx1", generator.integers(0, 10, count, np.uint8)),
        ):
            head = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            (folder / f"{name}-{kind}-ubyte").write_bytes(head + array.tobytes())
    return folder


@pytest.mark.may_block("the test itself starts processes")
async def test_what_is_found_is_there_for_these_weights_alone(data: Path, tmp_path: Path) -> None:
    command = ("split", "importance", "fashion-vit", "--data", str(data), *SMALL)
    report = swarm_json(*command, "--out", str(tmp_path / "copy"), home=tmp_path)
    assert (report["model"], report["samples"], report["batch"]) == ("fashion-vit", 2, 32)
    assert (report["held_out"], report["file"]) == (HELD_OUT, str(tmp_path / "copy"))
    assert [len(heads) for heads in report["heads"]] == [4] * 12
    assert report["neurons"] == [256] * 12
    assert report["resilience"][-1][0] == 1.0

    workshop = Workshop(tmp_path / "cache" / "swarm", (), "cpu", 1)
    blueprint = await workshop.study("fashion-vit")
    manifest = await workshop.resolve(blueprint, "pretrained")
    found = await workshop.importance(blueprint, manifest)
    assert found is not None
    assert [list(pair) for pair in found.resilience] == report["resilience"]
    assert [heads.tolist() for heads in found.heads] == report["heads"]
    assert found.origin.weights == manifest.digest == report["weights"]
    assert found.vital[-1] == (1.0, (4,) * 12, (256,) * 12)
    copy = Importance.load(tmp_path / "copy")
    copy.check(blueprint, manifest)

    others = await workshop.resolve(blueprint, "random:3")
    assert await workshop.importance(blueprint, others) is None
    with pytest.raises(WeightsError, match="importance is of the weights"):
        copy.check(blueprint, others)

    again = swarm_json(*command, home=tmp_path)
    assert (again["heads"], again["resilience"]) == (report["heads"], report["resilience"])


def test_people_see_a_table(data: Path) -> None:
    done = swarm("split", "importance", "fashion-vit", "--data", str(data), *SMALL)
    assert done.returncode == 0, done.stderr
    assert "What fashion-vit needs" in done.stdout
    assert "right answers" in done.stdout
    assert "With so much of all blocks" in " ".join(done.stdout.split())


def ask(*arguments: str, model: str = "fashion-vit") -> subprocess.CompletedProcess[str]:
    return swarm("split", "importance", model, *arguments)


def test_wrong_words_are_one_sentence(data: Path, tmp_path: Path) -> None:
    check_sentence(ask(), 2, "--data", "swarm split importance --help")
    check_sentence(ask("--data", str(tmp_path / "none")), 2, "There is no folder")
    check_sentence(ask("--data", str(data)), 2, "96 pictures", "6400", "--samples 1 --batch 96")
    check_sentence(ask("--data", str(data), "--weights", "random:1", model="resnet18"), 2, "resnet18")
    check_sentence(ask("--data", str(data), *SMALL, "--out", str(data / "train-labels-idx1-ubyte" / "x")), 2, "written")


def test_an_interrupt_leaves_nothing_behind(data: Path, tmp_path: Path) -> None:
    ask("--data", str(tmp_path / "none"))
    argv = [*SWARM, "split", "importance", "fashion-vit", "--data", str(data), "--samples", "48", "--batch", "2"]
    workplace = tmp_path / "cache" / "swarm" / "importance"
    with subprocess.Popen(argv, env=env(home=tmp_path)) as process:
        deadline = time.monotonic() + 60
        while not list(workplace.glob(".measuring-*/log.txt")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert list(workplace.iterdir()) == []


def test_a_settings_file_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "swarm.toml"
    file.write_text(f'json = true\n[split.importance]\ndata = "{(tmp_path / "none").as_posix()}"\n')
    monkeypatch.setenv("SWARM_CONFIG", str(file))
    done = swarm("split", "importance", "fashion-vit")
    assert done.returncode == 2
    assert "There is no folder" in done.stdout + done.stderr
    for text, words in (
        ("[split.importance]\ndate = 1\n", "'date' under [split.importance]"),
        ("[split]\nimportance = 1\n", "'split.importance'"),
        ("split = 1\n", "'split' in"),
    ):
        file.write_text(text)
        check_sentence(swarm("status", "--wait", "0"), 2, words)
