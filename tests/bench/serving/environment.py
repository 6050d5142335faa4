"""The environment of mosec and LitServe: their own packages, and the project's for all the rest, torch among it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

PACKAGES = ("mosec", "litserve", "py-spy")
INSTALL_S = 600.0


def environment(folder: Path) -> Path:
    """Its interpreter. What is there already is kept."""
    python = folder / "bin" / "python"
    if not _works(python):
        _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)])
        code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
        own = Path(_run([str(python), "-c", code]).strip())
        shared = sysconfig.get_paths()["purelib"]
        (own / "project.pth").write_text(f"import site; site.addsitedir({shared!r})\n")
        _run([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *PACKAGES])
    return python


def versions(python: Path) -> str:
    code = "from importlib.metadata import version as v; print(*(f'{n} {v(n)}' for n in %r), sep=', ')"
    return _run([str(python), "-c", code % (("mosec", "litserve", "torch"),)]).strip()


def _works(python: Path) -> bool:
    try:
        command = [str(python), "-c", "import mosec, litserve, torch"]
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    except OSError:
        return False


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout
