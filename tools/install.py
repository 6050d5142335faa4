"""Set everything up in `.venv`: `python3 tools/install.py`, and `--dev` adds what the tests need.

Needs Python 3.11 or newer and pip, and nothing else: it works where the system refuses `pip install` outside a virtual
environment, and where the system's Python comes without `ensurepip`. By hand it would be `pip install -e .`, or
`pip install -e ".[dev]"`, in any virtual environment.
"""

import compileall
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".venv"
PYTHON = str(HOME / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
OLDEST = (3, 11)
SIGN_OF_LIFE_S = 20


def demand_known_flags() -> None:
    unknown = [flag for flag in sys.argv[1:] if flag != "--dev"]
    if unknown:
        sys.exit(f"{__doc__}\nThere is no flag {unknown[0]}.")


def demand_python() -> None:
    """Old Pythons get as far as here and say what is wrong; keep this file's syntax plain."""
    if sys.version_info < OLDEST:
        sys.exit(
            f"This is Python {sys.version.split()[0]} ({sys.executable}); swarm needs 3.11 or newer.\n"
            f"Install one and run this file with it, as in: python3.12 {sys.argv[0]}"
        )


def works(*command: str) -> bool:
    try:
        return subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def make_environment() -> None:
    """A virtual environment with a pip in it; what is there and works is kept."""
    if not works(PYTHON, "-c", f"import sys; sys.exit(sys.version_info < {OLDEST})") and not works(
        sys.executable, "-m", "venv", "--clear", "--without-pip", str(HOME)
    ):
        sys.exit(f"No virtual environment could be made in {HOME}; on Debian and Ubuntu: apt install python3-venv")
    if works(PYTHON, "-c", "import pip"):
        return
    from_index = (sys.executable, "-m", "pip", "--python", PYTHON, "install", "pip")
    if not works(*from_index) and not works(PYTHON, "-m", "ensurepip"):
        sys.exit(
            f"No pip could be put into {HOME}: this Python ({sys.executable}) has none, or cannot reach the package\n"
            f"index. To see which: {' '.join(from_index)}\n"
            "On Debian and Ubuntu, for the first: apt install python3-pip"
        )


def run_aloud(*command: str) -> int:
    """Run it; where nobody sees pip's progress bars, say now and then that it is still at work."""
    began = time.monotonic()
    quiet = {"PYTHONWARNINGS": "ignore:Editable installation"}  # setuptools' long note about what we do on purpose
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **quiet})
    while True:
        try:
            return process.wait(None if sys.stdout.isatty() else SIGN_OF_LIFE_S)
        except subprocess.TimeoutExpired:
            print(f"... still installing, {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    demand_python()
    demand_known_flags()
    print("Installing into .venv. PyTorch is large: a minute or two on a fast line, more on a slow one.", flush=True)
    make_environment()
    what = ".[dev]" if "--dev" in sys.argv[1:] else "."
    if run_aloud(PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--editable", what):
        sys.exit("pip could not install swarm; what it said stands above.")
    for folder in ("swarm", "models", "strategies", "tui"):  # pip compiles what it installs, but not a clone
        compileall.compile_dir(ROOT / folder, quiet=2)
    swarm = Path(PYTHON).with_name("swarm").relative_to(ROOT)
    print(f"\nswarm is installed. `{swarm} demo` shows one on this machine alone, `{swarm} join` begins a real one.")


if __name__ == "__main__":
    main()
