"""The house itself: what `import swarm` costs, what the wheel holds, what no source may say."""

from __future__ import annotations

import ast
import asyncio
import builtins
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import FunctionType

import platformdirs
import pytest
from blockbuster import BlockingError

import swarm
from swarm.errors import SwarmError

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"swarm": "swarm", "models": "swarm.models", "strategies": "swarm.strategies", "tui": "swarm.tui"}
HEAVY = ("torch", "timm", "torchvision", "transformers", "textual", "zeroconf", "aiohttp", "numpy", "cryptography")


def python(code: str, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, env=variables or None, check=False
    )


def sources(*folders: str) -> list[Path]:
    """Every Python file of ours in these folders; all of them by default."""
    return sorted(
        path
        for folder in folders or (*PACKAGES, "examples", "tools", "tests")
        for path in (ROOT / folder).rglob("*.py")
    )


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def packages() -> dict[str, Path]:
    """Every package of ours, by the name that it is imported under."""
    found = {}
    for folder, name in PACKAGES.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found[".".join((name, *init.parent.relative_to(ROOT / folder).parts))] = init.parent
    return found


# What a user sees


def test_swarm_shows_about_a_dozen_names_and_each_is_there() -> None:
    assert len(swarm.__all__) <= 14
    assert {"Peer", "Session", "Result", "View", "Plan", "SwarmError"} <= set(swarm.__all__)
    assert all(getattr(swarm, name) is not None for name in swarm.__all__)
    assert set(dir(swarm)) == set(swarm.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'swarm' has no attribute 'Pear'"):
        _ = swarm.Pear  # type: ignore[attr-defined]


@pytest.mark.parametrize("use", ["import swarm", "import swarm.errors", "from swarm import Plan, View, SwarmError"])
def test_words_load_nothing_heavy(use: str) -> None:
    done = python(f"{use}\nimport sys\nprint(*sorted(set(sys.modules) & {set(HEAVY)!r}))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("use", ["from swarm import Peer, Session, Result", "from swarm.cli import main"])
def test_a_peer_and_the_command_line_load_no_torch_before_they_need_it(use: str) -> None:
    done = python(f"{use}\nimport sys\nprint(*sorted(set(sys.modules) & {{'torch', 'timm', 'textual', 'aiohttp'}}))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_every_error_has_a_code_of_its_own_and_stands_in_the_drawing() -> None:
    drawing = (ROOT / "swarm" / "errors.py").read_text(encoding="utf-8").split('"""')[1]
    kinds = [SwarmError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert [kind.__name__ for kind in kinds if kind.__name__ not in drawing] == []


# What the wheel holds


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that neither leftovers of older builds nor this build stay in the clone."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir")
    built = subprocess.run([*pip, folder / "out", folder], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return next((folder / "out").glob("edge_swarm-*.whl"))


def test_the_wheel_holds_every_package_and_all_data(wheel: Path) -> None:
    expected = {"swarm/py.typed"}
    for name, folder in packages().items():
        expected |= {f"{name.replace('.', '/')}/{path.name}" for path in folder.glob("*.py")}
    data = (path for path in (ROOT / "models" / "data").rglob("*") if path.is_file())
    expected |= {f"swarm/{path.relative_to(ROOT).as_posix()}" for path in data}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected


def test_installed_only_swarm_lands_in_a_users_namespace(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if not path.name.endswith(".dist-info")} == {"swarm"}
    here = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    libraries = [entry for entry in sys.path if entry.endswith("site-packages")]
    for name in PACKAGES.values():
        found = python(f"{here}; sys.path.extend({libraries!r}); import {name}; print({name}.__file__)", "-I", "-S")
        assert found.stdout.startswith(str(tmp_path)), found.stderr
    for name in ("models", "strategies", "tui"):
        missing = python(f"{here}; import {name}", "-I", "-S")
        assert f"No module named '{name}'" in missing.stderr


@pytest.mark.parametrize("name", ["models", "strategies", "tui"])
def test_these_tests_see_no_second_copy_either(name: str) -> None:
    with pytest.raises(ModuleNotFoundError):
        __import__(name)


def test_the_wheels_metadata_name_the_command_and_the_licence(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    read = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    assert "swarm = swarm.cli:main" in read["entry_points.txt"]
    assert "License-Expression: Apache-2.0" in read["METADATA"]
    assert f"Version: {swarm.__version__}" in read["METADATA"]


# What these tests watch


async def test_a_call_of_ours_that_blocks_the_loop_fails() -> None:
    code = compile("import time; time.sleep(0.001)", str(ROOT / "swarm" / "imagined.py"), "exec")
    blocking = FunctionType(code, {"__builtins__": builtins})
    with pytest.raises(BlockingError):
        blocking()
    await asyncio.to_thread(blocking)


def test_nothing_here_leaves_loopback_or_touches_a_home() -> None:
    assert os.environ["SWARM_INTERFACE"] == "127.0.0.1"
    assert sorted(name for name in os.environ if name.startswith("SWARM_")) == ["SWARM_INTERFACE", "SWARM_SECRET"]
    assert "swarm-tests-" in str(Path.home())
    assert "swarm-tests-" in str(platformdirs.user_config_path("swarm"))


# What no source may say


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_reads_bytes_that_can_run_code(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert imported.isdisjoint({"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"})
    assert called.isdisjoint({"torch.load", "torch.save", "torch.hub.load", "np.load", "eval", "exec"})
    remote = [node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "trust_remote_code"]
    assert all(isinstance(node.value, ast.Constant) and node.value.value is False for node in remote)


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_outgrows_one_idea(path: Path) -> None:
    length = lines(path)
    assert length <= 400, "which second idea crept in?"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_an_example_fits_on_a_screen(path: Path) -> None:
    length = lines(path)
    assert length < 60


# What the README promises


def commands() -> dict[str, str]:
    """The README's commands, by the marker above each."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return dict(re.findall(r"<!-- command: (\w+) -->\n```\w*\n(.+)\n```", text))


def test_the_readme_has_its_two_commands_of_one_line() -> None:
    assert set(commands()) == {"demo", "test"}
    assert commands()["demo"].endswith("swarm demo")
    assert commands()["test"].endswith("tools/check.py")


def test_ci_runs_the_readmes_test_command(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    marked = "# title\n\n<!-- command: test -->\n```bash\necho the command itself\n```\n\n```bash\necho another\n```\n"
    (tmp_path / "README.md").write_text(marked, encoding="utf-8")
    done = subprocess.run(["bash", ".ci/run"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-2:] == ["ci: echo the command itself", "the command itself"]
    extract = re.search(r"sed -n '(.+)' README\.md", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert extract
    assert "command: test" in extract[1]
