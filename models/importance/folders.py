"""Pictures in one folder for each class: FOLDER/CLASS/PICTURE."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swarm.errors import BadInput

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}


def by_class(path: Path, model: str, names: Sequence[str] | None, classes: int) -> list[tuple[Path, int]]:
    """Every picture with the number of its class, sorted by name.

    Folders that bear the model's own names of classes are matched by them; others count in order, and then there must
    be as many of them as the model has classes. Raises `BadInput`.
    """
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise BadInput(
            f"{path} has neither MNIST's IDX files nor a folder for each class, so its pictures have no labels; put "
            f"them into {path / 'CLASS'}."
        )
    numbers = _numbers(folders, path, model, names, classes)
    found = [
        (file, number)
        for folder, number in zip(folders, numbers, strict=True)
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in SUFFIXES and file.is_file()
    ]
    if not found:
        raise BadInput(f"The folders in {path} have no pictures; they may be {', '.join(sorted(SUFFIXES))}.")
    return found


def _numbers(folders: Sequence[Path], path: Path, model: str, names: Sequence[str] | None, classes: int) -> list[int]:
    titles = [_plain(folder.name) for folder in folders]
    known = {_plain(name): number for number, name in enumerate(names or ())}
    if all(title in known for title in titles):
        return [known[title] for title in titles]
    if len(folders) == classes:
        ordered = sorted(titles, key=lambda title: (int(title) if title.isdecimal() else -1, title))
        return [ordered.index(title) for title in titles]
    stranger = next((folder.name for folder in folders if _plain(folder.name) not in known), "")
    raise BadInput(
        f"{path} has {len(folders)} folders and {model} tells {classes} classes apart; bring one for each class, or "
        f"name them as the model does ('{stranger}' is no name of its)."
    )


def _plain(name: str) -> str:
    """`T-shirt/top` cannot be a folder's name: letters and digits alone count."""
    return "".join(letter for letter in name.lower() if letter.isalnum())
