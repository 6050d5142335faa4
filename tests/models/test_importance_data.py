"""Labelled pictures of a user's own: every kind of file, and a sentence for everything that does not fit."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swarm.errors import BadInput
from swarm.models.blueprint import PictureConfig
from swarm.models.importance import arrays
from swarm.models.importance.labelled import Pictures, batches, open_pictures

CONFIG = PictureConfig((1, 6, 5), (0.5,), (0.5,))
NAMES = ("cat", "T-shirt/top", "dog")
COUNT = 300


def idx(path: Path, array: np.ndarray) -> None:
    head = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    content = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def pixels(count: int = COUNT, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *(shape or (6, 5))), np.uint8)


def labels(count: int = COUNT) -> np.ndarray:
    return np.arange(count) % 3


def opened(path: Path, names: tuple[str, ...] | None = NAMES) -> Pictures:
    return open_pictures(path, "toy", CONFIG, names, 3, seed=0)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_files_hold_their_test_pictures_out(tmp_path: Path, end: str) -> None:
    for name, count in (("train", COUNT), ("t10k", 50)):
        idx(tmp_path / f"{name}-images-idx3-ubyte{end}", pixels(count))
        idx(tmp_path / f"{name}-labels-idx1-ubyte{end}", labels(count))
    found = opened(tmp_path)
    assert (len(found.measuring), len(found.held_out)) == (COUNT, 50)
    some = np.array([7, 3])
    np.testing.assert_array_equal(found.measuring.take(some), pixels()[some][:, None])
    np.testing.assert_array_equal(found.measuring.labels[some], labels()[some])


def test_without_test_files_a_tenth_is_held_out_and_never_measured_with(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", pictures=pixels(), labels=labels())
    found = opened(tmp_path / "data.npz")
    assert (len(found.measuring), len(found.held_out)) == (270, 30)
    both = np.concatenate([part.take(np.arange(len(part))) for part in (found.measuring, found.held_out)])
    assert len(np.unique(both.reshape(COUNT, -1), axis=0)) == COUNT
    np.testing.assert_array_equal(opened(tmp_path / "data.npz").held_out.labels, found.held_out.labels)


def test_npz_in_fortran_order_and_compressed(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "data.npz", pictures=np.asfortranarray(pixels(COUNT, 1, 6, 5)), labels=labels())
    read, numbers = arrays.npz(tmp_path / "data.npz")
    np.testing.assert_array_equal(read, pixels(COUNT, 1, 6, 5))
    np.testing.assert_array_equal(numbers, labels())


def folders(path: Path, *names: str, count: int = 100) -> None:
    for place, name in enumerate(names):
        (path / name).mkdir()
        for number in range(count):
            Image.fromarray(np.full((9, 9), 10 * place + number % 10, np.uint8)).save(path / name / f"{number}.png")


def test_folders_are_matched_by_the_models_own_names(tmp_path: Path) -> None:
    folders(tmp_path, "dog", "t-shirt_TOP")
    found = opened(tmp_path)
    assert set(found.measuring.labels.tolist()) == {1, 2}
    taken = found.measuring.take(np.arange(5))
    assert taken.shape == (5, 1, 6, 5)
    assert taken.dtype == np.uint8
    is_dog = found.measuring.labels[:5] == 2
    assert ((taken.max((1, 2, 3)) < 10) == is_dog).all()


def test_other_folders_count_in_order_and_numbers_as_numbers(tmp_path: Path) -> None:
    folders(tmp_path, "10", "9", "2")
    found = open_pictures(tmp_path, "toy", CONFIG, None, 3, seed=0).measuring
    shade = found.take(np.arange(len(found))).max((1, 2, 3)) // 10
    assert set(zip(shade.tolist(), found.labels.tolist(), strict=True)) == {(0, 2), (1, 1), (2, 0)}


def test_batches_are_different_pictures_and_the_same_every_time(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", pictures=pixels(), labels=labels())
    measuring = opened(tmp_path / "data.npz").measuring
    drawn = batches(measuring, 16, 4, tmp_path, seed=0)
    assert len(np.unique(np.concatenate(drawn))) == 64
    np.testing.assert_array_equal(drawn, batches(measuring, 16, 4, tmp_path, seed=0))
    with pytest.raises(BadInput, match=r"270 pictures .* 17 samples of 16 need 272; .* --samples 16"):
        batches(measuring, 16, 17, tmp_path, seed=0)
    with pytest.raises(BadInput, match="use --samples 1 --batch 270"):
        batches(measuring, 271, 1, tmp_path, seed=0)


def nothing(path: Path) -> Path:
    return path / "none"


def unlabelled(path: Path) -> Path:
    Image.new("L", (5, 6)).save(path / "1.png")
    return path


def half_idx(path: Path) -> Path:
    idx(path / "train-images-idx3-ubyte", pixels())
    return path


def short_idx(path: Path) -> Path:
    idx(path / "train-labels-idx1-ubyte", labels())
    idx(path / "train-images-idx3-ubyte", pixels())
    whole = (path / "train-images-idx3-ubyte").read_bytes()
    (path / "train-images-idx3-ubyte").write_bytes(whole[:-1])
    return path


def no_idx(path: Path) -> Path:
    idx(path / "train-labels-idx1-ubyte", labels())
    (path / "train-images-idx3-ubyte").write_bytes(b"PNG")
    return path


def broken_gzip(path: Path) -> Path:
    idx(path / "train-labels-idx1-ubyte", labels())
    (path / "train-images-idx3-ubyte.gz").write_bytes(b"not gzip")
    return path


def npz(path: Path, **content: Any) -> Path:
    np.savez(path / "data.npz", **content)
    return path / "data.npz"


def no_zip(path: Path) -> Path:
    (path / "data.npz").write_bytes(b"not a zip")
    return path / "data.npz"


def huge(path: Path) -> Path:
    with zipfile.ZipFile(npz(path, pictures=pixels(1), labels=labels(1)), "w") as archive:
        head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999, 6, 5), }\n"
        for name in ("pictures", "labels"):
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
    return path / "data.npz"


def strange_folders(path: Path) -> Path:
    folders(path, "cat", "horse", count=1)
    return path


def empty_folders(path: Path) -> Path:
    folders(path, "cat", "dog", count=0)
    return path


BAD: list[tuple[Callable[[Path], Path], str]] = [
    (nothing, "There is no folder and no .npz file"),
    (unlabelled, "its pictures have no labels"),
    (half_idx, "has train-images-idx3-ubyte but no train-labels-idx1-ubyte"),
    (short_idx, "ends too early: it has 8999 of 9000 bytes"),
    (no_idx, "is not an IDX file of bytes with 3 dimensions"),
    (broken_gzip, "cannot be read: Not a gzipped file"),
    (no_zip, "cannot be read: File is not a zip file"),
    (huge, "says that it has .* at most"),
    (lambda p: npz(p, pictures=pixels()), "no array 'labels'"),
    (lambda p: npz(p, pictures=pixels() / 255, labels=labels()), "has to be uint8"),
    (lambda p: npz(p, pictures=pixels(), labels=labels() / 2), "has to be whole numbers"),
    (lambda p: npz(p, pictures=pixels(), labels=np.array([None] * COUNT)), "holds objects and not numbers"),
    (lambda p: npz(p, pictures=pixels(), labels=labels(299)), "300 pictures and 299 labels"),
    (lambda p: npz(p, pictures=pixels(), labels=labels() + 1), "from 1 to 3, and toy tells 3 classes apart, 0 to 2"),
    (lambda p: npz(p, pictures=pixels(), labels=labels() - 1), "from -1 to 1"),
    (lambda p: npz(p, pictures=pixels(COUNT, 5, 5), labels=labels()), "are 5 × 5 with 1 channel, and toy takes 6 × 5"),
    (lambda p: npz(p, pictures=pixels(COUNT, 3, 6, 5), labels=labels()), "are 6 × 5 with 3 channels"),
    (lambda p: npz(p, pictures=pixels(199), labels=labels(199)), "too few pictures: 19 .* bring 200 or more"),
    (strange_folders, "'horse' is no name of its"),
    (empty_folders, "have no pictures"),
]


@pytest.mark.parametrize(("make", "words"), BAD, ids=[words[:30] for _, words in BAD])
def test_what_does_not_fit_is_one_sentence(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        opened(make(tmp_path))
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folders(tmp_path, "cat", "dog")
    (tmp_path / "cat" / "0.png").write_bytes(b"no picture")
    found = opened(tmp_path)
    with pytest.raises(BadInput, match=r"cat/0.png cannot be read as a picture"):
        _ = [part.take(np.arange(len(part))) for part in (found.measuring, found.held_out)]
