"""What a model's code is: the versions of the libraries, and the content of an owner's file and of its neighbours.

A study is as old as this code, and a model without a graph is known by nothing else. Neighbours are the Python files
that the file imports by name from its own folder or package, directly or through one another; nothing else of the
folder is read, which may be somebody's home. What an owner's file imports from elsewhere is not looked at.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache as remember
from hashlib import sha256
from importlib import metadata
from pathlib import Path

LIBRARIES = ("torch", "timm", "torchvision")
MISSING = "missing"


@remember
def library_versions() -> str:
    """Without the build behind a `+`: the same release is the same code with and without a GPU."""
    return repr([(name, _version(name)) for name in LIBRARIES])


def _version(package: str) -> str:
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return ""


def code_digest(file: Path) -> str:
    """SHA-256 over the contents of a Python file and its neighbours, wherever they lie; `missing` without the file."""
    contents = dict[Path, bytes]()
    waiting = [file.resolve()]
    while waiting:
        path = waiting.pop()
        if path in contents:
            continue
        try:
            contents[path] = path.read_bytes()
        except OSError:
            continue
        waiting.extend(_neighbours(path, contents[path]))
    found = sorted(sha256(content).hexdigest() for content in contents.values())
    return sha256("\n".join(found).encode()).hexdigest() if found else MISSING


def _neighbours(path: Path, content: bytes) -> Iterator[Path]:
    for folder, dotted in _imported(path, content):
        parts = dotted.split(".")
        for i in range(1, len(parts) + 1):
            module = folder.joinpath(*parts[:i])
            for candidate in (module.with_name(f"{module.name}.py"), module / "__init__.py"):
                if candidate.is_file():
                    yield candidate.resolve()


def _imported(path: Path, content: bytes) -> Iterator[tuple[Path, str]]:
    """The dotted names that a file imports, each with the folders where a neighbour of that name would lie."""
    try:
        nodes = list(ast.walk(ast.parse(content)))
    except (SyntaxError, ValueError, RecursionError):
        return  # importing it fails too, with the right sentence
    homes = dict.fromkeys((path.parent, _above_package(path)))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((home, alias.name) for home in homes for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            bases = [path.parents[node.level - 1]] if 0 < node.level <= len(path.parents) else homes
            prefix = f"{node.module}." if node.module else ""
            yield from ((base, prefix + alias.name) for base in bases for alias in node.names)


def _above_package(path: Path) -> Path:
    """The folder from which a file inside a package is imported."""
    return next((folder for folder in path.parents if not (folder / "__init__.py").is_file()), path.parent)
