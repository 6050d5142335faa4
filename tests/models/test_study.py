"""A study runs in a child, once, and everything that can go wrong there comes back as a sentence."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from swarm.errors import CannotSplit, DeadlineExceeded, Overloaded, UnknownModel, UsageError
from swarm.models import Blueprint, anatomy, job
from swarm.models import study as studies
from swarm.models.anatomy import dissect
from swarm.models.blueprint import BLUEPRINT_FILE
from swarm.models.catalogue import check_name, find
from swarm.models.registry import load_owner_models
from swarm.models.source import code_digest
from swarm.models.study import study
from swarm.models.workshop import MAX_STUDIES, Workshop
from swarm.plan import INPUT, OUTPUT, Goal, Part
from swarm.strategies import choose
from swarm.types import PeerId, PeerRecord, PeerState, PeerView, View
from tests.models.anatomies import OWNER_MODELS, take_apart

HOSTILE = [
    "hf-hub:someone/model",
    "hf_hub:someone/model",
    "local-dir:/tmp/model",
    "timm/hf-hub:someone/model",
    "../../etc/passwd",
    "timm/../resnet18",
    "/etc/passwd",
    "https://example.com/model",
    "os.system('true')",
    "resnet18;true",
    "resnet18\n",
    "résnet18",
    "a" * 200,
    "torchvision/timm/resnet18",
    "",
    ".",
    "-c",
    "--models",
]


SLEEPER = """
import os, pathlib, time
pathlib.Path(__file__).with_suffix(".pid").write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_start_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownModel):
        check_name(name)
    with pytest.raises(UnknownModel):
        asyncio.run(study(name, cache=tmp_path))
    assert list(tmp_path.iterdir()) == []


async def test_an_unknown_name_comes_back_with_names_like_it(cache: Path) -> None:
    with pytest.raises(UnknownModel, match=r"did you mean .*vit_base_patch16_224"):
        await study("vit_base_patch16_242", cache=cache)


async def test_two_children_come_to_the_same_digest(fashion: Blueprint, tmp_path: Path) -> None:
    again = await study("fashion-vit", cache=tmp_path)
    assert again.profile == fashion.profile
    assert again.tensors == fashion.tensors
    assert len(fashion.profile.blocks) == 13
    assert fashion.labels is not None
    assert fashion.labels[9] == "Ankle boot"


async def test_peers_on_one_machine_study_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, real = [], job.run

    async def counted(kind: str, model: str, folder: Path, model_files: Sequence[Path], *extra: str) -> None:
        runs.append(model)
        await real(kind, model, folder, model_files, *extra)

    monkeypatch.setattr(job, "run", counted)
    found = await asyncio.gather(
        *(study("tiny-residual", model_files=[OWNER_MODELS], cache=tmp_path) for _ in range(4))
    )
    assert runs == ["tiny-residual"]
    assert len({blueprint.profile.digest for blueprint in found}) == 1


async def test_a_damaged_cache_is_studied_again(tmp_path: Path) -> None:
    first = await study("tiny-residual", model_files=[OWNER_MODELS], cache=tmp_path)
    file = Path(first.home) / BLUEPRINT_FILE
    file.write_bytes(file.read_bytes()[:-20])
    assert await study("tiny-residual", model_files=[OWNER_MODELS], cache=tmp_path) == first


async def test_time_runs_out(tmp_path: Path) -> None:
    with pytest.raises(DeadlineExceeded, match="fashion-vit"):
        await study("fashion-vit", cache=tmp_path, timeout_s=0.3)


async def test_cancelling_kills_the_child(tmp_path: Path) -> None:
    sleeper = tmp_path / "sleeper.py"
    await asyncio.to_thread(sleeper.write_text, SLEEPER)
    task = asyncio.create_task(study("my-net", model_files=[sleeper], cache=tmp_path / "cache"))
    pid_file = sleeper.with_suffix(".pid")
    while not (pid := await asyncio.to_thread(_text, pid_file)):
        await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not psutil.pid_exists(int(pid))


MOODY = """
from torch import nn
from swarm.models import register
from layers.ending import finish
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(24, 2)
    def forward(self, x):
        y = self.out(x.flatten(1))
        return finish(-y if bool(y.sum() > 0) else y)
register("my-net", input_shape=(1, 4, 6))(Net)
"""


def _with_ending(folder: Path, ending: str) -> Path:
    file, layers = folder / "moody.py", folder / "layers"
    layers.mkdir(parents=True, exist_ok=True)
    file.write_text(MOODY)
    (layers / "ending.py").write_text(f"def finish(x):\n    return {ending}\n")
    (folder / "unrelated.py").write_text(f"# {ending}")
    return file


async def test_a_neighbour_that_changed_is_another_study_and_another_uncut_model(tmp_path: Path) -> None:
    digests = list[str]()
    for folder, ending in (("a", "x.relu()"), ("a", "x.sigmoid()"), ("b", "x.sigmoid()")):
        file = await asyncio.to_thread(_with_ending, tmp_path / folder, ending)
        found = await study("my-net", model_files=[file], cache=tmp_path / "cache")
        assert found.graph is None
        digests.append(found.profile.digest)
    assert digests[0] != digests[1]
    assert digests[1] == digests[2], "where the files lie made a difference"


def test_an_uncut_model_is_known_by_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    load_owner_models([OWNER_MODELS])
    before = dissect("moody", find("moody"))[0].profile
    assert dissect("moody", find("moody"))[0].profile == before
    whole = dissect("tiny-residual", find("tiny-residual"))[0].profile
    monkeypatch.setattr(anatomy, "library_versions", lambda: "[('torch', '9.9')]")
    assert dissect("moody", find("moody"))[0].profile.digest != before.digest
    assert dissect("tiny-residual", find("tiny-residual"))[0].profile == whole, "its graph says it all"


def test_only_what_is_imported_counts_as_a_models_code(tmp_path: Path) -> None:
    package = tmp_path / "pkg"
    (package / "deep").mkdir(parents=True)
    file = package / "model.py"
    file.write_text("import os, one\nfrom . import two\nfrom .deep.three import x\nfrom pkg.four import *\n")
    names = ("one", "two", "deep/three", "four", "five")
    for name in names:
        (package / f"{name}.py").write_text("import five\n" if name == "two" else "")
    (package / "unrelated.py").write_text("")
    (package / "__init__.py").write_text("")
    before = code_digest(file)
    (package / "unrelated.py").write_text("1")
    assert code_digest(file) == before
    for name in names:
        (package / f"{name}.py").write_text(f"# {name}\nimport five\n")
        assert code_digest(file) != before, name
        before = code_digest(file)
    assert code_digest(package / "none.py") == "missing"
    file.write_text("not Python")
    assert code_digest(file) != before


@pytest.mark.filterwarnings("ignore")
def test_a_model_without_a_cut_inside_says_so(tmp_path: Path) -> None:
    specimen = take_apart("two-ways", tmp_path)
    profile = specimen.blueprint.profile
    assert len(profile.stages) == 1
    assert profile.uncut_reason == "It has no place where a single tensor is live."
    x = specimen.pictures(2)
    np.testing.assert_allclose(specimen.built()(x), specimen.eager(x), rtol=1e-5, atol=1e-5)
    view = View(PeerId("a"), tuple(PeerView(PeerRecord(PeerId(i), i, (), 1), PeerState.ALIVE) for i in "ab"))
    with pytest.raises(CannotSplit, match="no place where a single tensor is live"):
        choose("slices", profile, view, Goal())
    whole = choose("auto", profile, view, Goal()).plan
    assert whole is not None
    assert len(whole.steps) == 1
    with pytest.raises(CannotSplit, match="use block numbers with --split"):
        specimen.blueprint.boundary("blocks.1")


class Children:
    """In the place of `study.study`: how many run at once, and each waits to be told how to end."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.now = self.most = 0
        self.go_on = asyncio.Event()

    async def study(self, model: str, **_: object) -> Any:
        self.started.append(model)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.go_on.wait()
        finally:
            self.now -= 1
        if model == "unknown":
            raise UnknownModel("No model is called so.")
        return f"blueprint of {model}"


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    found = Children()
    monkeypatch.setattr(studies, "study", found.study)
    return found


async def test_a_peer_studies_one_model_at_a_time_and_each_once(children: Children, tmp_path: Path) -> None:
    workshop: Any = Workshop(tmp_path, (), "cpu", 1)
    names = ["a", "b", "a", "unknown", "c", "unknown", "a"]
    asked = [asyncio.create_task(workshop.study(name)) for name in names]
    await asyncio.sleep(0.01)
    children.go_on.set()
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert children.most == 1
    assert sorted(children.started) == ["a", "b", "c", "unknown"]
    for name, outcome in zip(names, found, strict=True):
        assert isinstance(outcome, UnknownModel) if name == "unknown" else outcome == f"blueprint of {name}"
    assert found[3] is not found[5]


async def test_who_waits_for_a_study_takes_over_when_it_is_cancelled(children: Children, tmp_path: Path) -> None:
    workshop: Any = Workshop(tmp_path, (), "cpu", 1)
    first, second, third = (asyncio.create_task(workshop.study("a")) for _ in range(3))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.wait([first])
    await asyncio.sleep(0.01)
    assert children.started == ["a", "a"]
    assert children.now == 1
    third.cancel()
    children.go_on.set()
    assert await second == "blueprint of a"
    assert first.cancelled()


async def test_too_many_models_to_study_are_refused_at_once(children: Children, tmp_path: Path) -> None:
    workshop: Any = Workshop(tmp_path, (), "cpu", 1)
    asked = [asyncio.create_task(workshop.study(f"model{i}")) for i in range(MAX_STUDIES)]
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded, match="wait to be studied"):
        await workshop.study("one-more")
    children.go_on.set()
    await asyncio.gather(*asked)
    assert await workshop.study("one-more") == "blueprint of one-more"


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


async def test_a_model_file_that_fails_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    with pytest.raises(UsageError, match=r"broken\.py does not load: ZeroDivisionError"):
        await study("my-net", model_files=[broken], cache=tmp_path)


async def test_an_owners_model_is_found_and_the_child_stays_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWARM_TEST_NOISE", "1")
    blueprint = await study("tiny-residual", model_files=[OWNER_MODELS], cache=tmp_path)
    assert blueprint.labels == ("left", "right")
    assert blueprint.pictures.mean == (0.5,)
    assert capfd.readouterr() == ("", "")


async def test_a_requester_cannot_name_another_peers_model(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel):
        await study("tiny-residual", cache=tmp_path)


async def test_what_has_no_one_graph_runs_only_whole(tmp_path: Path) -> None:
    blueprint = await study("moody", model_files=[OWNER_MODELS], cache=tmp_path)
    profile = blueprint.profile
    assert profile.uncut_reason is not None
    assert profile.uncut_reason.startswith("It cannot be exported")
    assert [stage.name for stage in profile.stages] == [OUTPUT]
    whole = Part("moody", profile.digest)
    assert [slot.name for slot in blueprint.tensors_of(whole)] == ["out.bias", "out.weight"]
    with pytest.raises(CannotSplit, match="runs only as a whole"):
        blueprint.tensors_of(Part("moody", profile.digest, INPUT, "out"))


def test_unknown_cuts_are_refused(fashion: Blueprint) -> None:
    for ends in ((INPUT, "blocks.99"), ("blocks.5", "blocks.5"), ("blocks.6", "blocks.5"), (OUTPUT, OUTPUT)):
        with pytest.raises(CannotSplit):
            fashion.tensors_of(Part("fashion-vit", fashion.profile.digest, *ends))
    with pytest.raises(CannotSplit):
        fashion.boundary("blocks.99")


def test_importing_the_package_loads_no_torch() -> None:
    code = (
        "import sys, swarm.models, swarm.models.study, swarm.models.weights, swarm.models.pictures;"
        "import swarm.models.workshop;"
        "print([name for name in ('torch', 'timm', 'torchvision', 'safetensors') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
