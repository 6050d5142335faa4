"""Check everything, as CI does: `python tools/check.py`.

python tools/check.py                  every step, up to the first that fails
python tools/check.py --keep-going     every step, whatever fails
python tools/check.py lint types       only these
python tools/check.py tests -- -k foo  what follows `--` goes to the last step's tool
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
PYTHON = [sys.executable, "-P", "-m"]  # -P: the repository root on sys.path would make second copies of modules
TYPED = ("swarm", "tests", "tools", "examples")
POLITE = ("nice", "-n", "5") if shutil.which("nice") else ()
COMPUTING = ("tests/membership", "tests/models", "tests/simulator", "tests/strategies")
STARTING = ("tests/e2e", "tests/test_discovery.py")
QUIET = tuple(f"tests/e2e/test_{name}.py" for name in ("every_cut", "groups", "http", "split"))
"""Of these, what announces nothing by multicast, and so may run beside the others."""


def run(command: Sequence[str], folder: Path = ROOT) -> int:
    return subprocess.run(command, cwd=folder, check=False, env=os.environ | {"PYTHONSAFEPATH": "1"}).returncode


def links(extra: Sequence[str] = ()) -> int:
    return run([sys.executable, str(ROOT / "tools" / "links.py"), *extra])


def formatting(extra: Sequence[str]) -> int:
    return run([*PYTHON, "ruff", "format", "--check", "--quiet", ".", *extra])


def lint(extra: Sequence[str]) -> int:
    return run([*PYTHON, "ruff", "check", "--quiet", ".", *extra])


def types(extra: Sequence[str]) -> int:
    return run([*PYTHON, "mypy", *(flag for name in TYPED for flag in ("-p", name)), *extra])


def floors(extra: Sequence[str]) -> int:
    """Inside the links, where `swarm` is whole; no cache, for it misses modules that came since."""
    script = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    return run(
        [sys.executable, "-c", script, "--no-logo", "--no-cache", "--config", str(ROOT / "pyproject.toml"), *extra],
        ROOT / ".links",
    )


def tests(extra: Sequence[str]) -> int:
    """All at once; without further arguments in three processes, for what computes and what starts processes need not
    wait for each other, nor the rest for them."""
    if extra:
        return run([*PYTHON, "pytest", *extra])
    rest = [*_others(), *QUIET]
    with ExitStack() as stack:
        beside = [_beside(stack, [*POLITE, *PYTHON, "pytest", *COMPUTING]), _beside(stack, [*PYTHON, "pytest", *rest])]
        codes = [run([*PYTHON, "pytest", *STARTING, *(f"--ignore={file}" for file in QUIET)])]
        for process, output in beside:
            codes.append(process.wait())
            output.seek(0)
            print(output.read().decode("utf-8", "replace"), flush=True)
    return next((code for code in codes if code), 0)


def _others() -> list[str]:
    """Files and folders of tests that have no process of their own."""
    places = (path for path in (ROOT / "tests").iterdir() if path.match("test_*.py") or any(path.rglob("test_*.py")))
    return sorted({path.relative_to(ROOT).as_posix() for path in places} - {*COMPUTING, *STARTING})


def _beside(stack: ExitStack, command: Sequence[str]) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """Started; what it says is kept until it has ended."""
    output = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    stack.callback(process.wait)
    return process, output


STEPS: dict[str, Callable[[Sequence[str]], int]] = {
    "links": links,
    "format": formatting,
    "lint": lint,
    "types": types,
    "floors": floors,
    "tests": tests,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Check everything, as CI does.", epilog="What follows -- goes to the last step's tool."
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)}; all of them by default")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first step that fails")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    parsed = parser.parse_args(given[:end])
    parsed.extra = given[end + 1 :]
    if unknown := set(parsed.steps) - set(STEPS):
        parser.error(f"no step is called {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    return parsed


def main() -> int:
    chosen = arguments()
    names = chosen.steps or list(STEPS)
    if "links" not in names:
        links()
    failed: list[str] = []
    for name in names:
        began = time.monotonic()
        code = STEPS[name](chosen.extra if name == names[-1] else ())
        print(f"{'ok    ' if code == 0 else 'FAILED'} {name:7} {time.monotonic() - began:6.1f} s", flush=True)
        if code:
            failed.append(name)
            if not chosen.keep_going:
                break
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
