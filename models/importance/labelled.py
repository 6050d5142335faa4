"""A user's own labelled pictures, from the files that they have them in.

    FOLDER with train-images-idx3-ubyte[.gz], … t10k-…   MNIST's and Fashion-MNIST's files; the test files are held out
    FOLDER/CLASS/PICTURE                                  one folder for each class
    FILE.npz                                              arrays `pictures` and `labels`

Raises `BadInput` with a sentence for all that is missing or does not fit the model. Nothing is read that could run
code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from swarm.errors import BadInput
from swarm.models.blueprint import PictureConfig
from swarm.models.importance import arrays, folders

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

HELD_OUT_PART, MOST_HELD_OUT, LEAST_HELD_OUT = 10, 2000, 20
"""One in so many pictures is held out where nothing else is; so many are used at most; fewer say nothing."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Some pictures; they are read when they are asked for."""

    labels: Labels
    take: Callable[[Labels], Pixels]
    """`[B, C, H, W]` of the pictures at these places."""

    def __len__(self) -> int:
        return len(self.labels)

    def some(self, places: Labels) -> Labelled:
        return Labelled(self.labels[places], lambda chosen: self.take(places[chosen]))


@dataclass(frozen=True, slots=True)
class Pictures:
    """All that there are: those to measure with, and others, which no score has seen."""

    measuring: Labelled
    held_out: Labelled


def open_pictures(
    path: Path, model: str, config: PictureConfig, names: Sequence[str] | None, classes: int, seed: int
) -> Pictures:
    """The pictures at `path` for a model that tells `classes` apart, named so if they have names."""
    generator = np.random.default_rng(seed)
    if path.is_file() and path.suffix == ".npz":
        every = _arrays(*arrays.npz(path), path, model, config, classes)
    elif not path.is_dir():
        raise BadInput(f"There is no folder and no .npz file {path}; --data takes labelled pictures of your own.")
    elif sets := arrays.idx_sets(path):
        of_set = [_arrays(*arrays.idx(*files), path, model, config, classes) for files in sets]
        if len(of_set) == 2:
            held = of_set[1].some(generator.permutation(len(of_set[1]))[:MOST_HELD_OUT])
            return _enough(Pictures(of_set[0], held), path)
        every = of_set[0]
    else:
        every = _files(path, model, config, names, classes)
    return _enough(_parted(every, generator), path)


def batches(labelled: Labelled, batch: int, count: int, where: Path, seed: int) -> list[Labels]:
    """Places of `count` batches of different pictures, drawn by `seed`."""
    if len(labelled) < batch * count:
        most = len(labelled) // batch
        advice = f"--samples {most}" if most else f"--samples 1 --batch {len(labelled)}"
        raise BadInput(
            f"{where} has {len(labelled)} pictures to measure with, and {count} samples of {batch} need "
            f"{batch * count}; bring more, or use {advice}."
        )
    return list(np.random.default_rng(seed).permutation(len(labelled))[: batch * count].reshape(count, batch))


def _parted(every: Labelled, generator: np.random.Generator) -> Pictures:
    order = generator.permutation(len(every))
    held = len(every) // HELD_OUT_PART
    return Pictures(every.some(order[held:]), every.some(order[: min(held, MOST_HELD_OUT)]))


def _enough(pictures: Pictures, path: Path) -> Pictures:
    if len(pictures.held_out) < LEAST_HELD_OUT:
        raise BadInput(
            f"{path} has too few pictures: {len(pictures.held_out)} of them would be held out to test on, and fewer "
            f"than {LEAST_HELD_OUT} say nothing; bring {LEAST_HELD_OUT * HELD_OUT_PART} or more."
        )
    return pictures


def _arrays(
    pixels: Pixels, labels: npt.NDArray[np.integer], path: Path, model: str, config: PictureConfig, classes: int
) -> Labelled:
    """Pictures `[N, H, W]` or `[N, C, H, W]`, of the model's own size."""
    shape, wanted = pixels.shape[1:] if pixels.ndim == 4 else (1, *pixels.shape[1:]), config.input_size
    if shape != wanted:
        raise BadInput(
            f"The pictures in {path} are {_size(shape)}, and {model} takes {_size(wanted)}; bring arrays of that size, "
            "or a folder of picture files, which are resized."
        )
    if len(labels) != len(pixels):
        raise BadInput(f"{path} has {len(pixels)} pictures and {len(labels)} labels; there must be one for each.")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise BadInput(
            f"The labels in {path} go from {labels.min()} to {labels.max()}, and {model} tells {classes} classes "
            f"apart, 0 to {classes - 1}; bring data of the model's own classes."
        )
    whole = pixels.reshape(len(pixels), *wanted)
    return Labelled(labels.astype(np.int64), lambda places: whole[places])


def _size(shape: Sequence[int]) -> str:
    """[C, H, W] for people."""
    return f"{' × '.join(map(str, shape[1:]))} with {shape[0]} channel{'s' * (shape[0] != 1)}"


def _files(path: Path, model: str, config: PictureConfig, names: Sequence[str] | None, classes: int) -> Labelled:
    from swarm.models.pictures import load

    found = folders.by_class(path, model, names, classes)
    files = [file for file, _ in found]
    return Labelled(
        np.array([label for _, label in found], np.int64),
        lambda places: load([files[place] for place in places], config),
    )
