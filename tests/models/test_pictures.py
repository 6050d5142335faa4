"""Our telling of timm's evaluation transform is timm's, to the last bit but one; bad pictures are named."""

from __future__ import annotations

import os
import struct
import sys
import zlib
from io import BytesIO
from pathlib import Path
from threading import Lock
from time import sleep
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from swarm.errors import BadInput, SwarmError
from swarm.models import Blueprint, PictureConfig
from swarm.models.parts import Normaliser
from swarm.models.pictures import DECODERS, MAX_SCANS, SENT_FORMATS, Array, Pixels, check, load, top_labels
from swarm.models.workshop import Interpreter

SIZES = [(300, 200), (200, 301), (224, 224), (37, 53), (1000, 31), (259, 256)]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _picture(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, shape, np.uint8), mode=None)


def _normalised(pixels: Pixels, config: PictureConfig) -> Array:
    """As the part does that takes the model's input."""
    result: Array = Normaliser(config, "cpu")(torch.from_numpy(pixels)).numpy()
    return result


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("input_size", [(3, 224, 224), (1, 28, 28), (3, 96, 128)])
def test_it_is_timms_transform(
    interpolation: str, crop_pct: float, crop_mode: str, input_size: tuple[int, int, int]
) -> None:
    from timm.data import create_transform

    channels = input_size[0]
    config = PictureConfig(input_size, MEAN[:channels], STD[:channels], interpolation, crop_pct, crop_mode)
    transform = create_transform(
        input_size=input_size,
        interpolation=interpolation,
        mean=config.mean,
        std=config.std,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
    )
    for size in SIZES:
        picture = _picture(size, "RGB" if channels == 3 else "L")
        ours = _normalised(load([picture], config), config)[0]
        theirs = transform(picture)
        assert isinstance(theirs, torch.Tensor)
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-6)


def test_files_of_any_mode_become_the_models_channels(tmp_path: Path) -> None:
    grey = PictureConfig((1, 28, 28), (0.2860,), (0.3530,))
    colour = PictureConfig((3, 32, 32), MEAN, STD)
    for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "LA"):
        path = tmp_path / f"{mode}.tiff"
        Image.new(mode, (40, 30)).save(path)
        assert load([path, str(path)], grey).shape == (2, 1, 28, 28)
        assert load([path], colour).shape == (1, 3, 32, 32)
    out = load([Image.new("L", (28, 28), 255)], grey)
    assert out.dtype == np.uint8
    np.testing.assert_allclose(_normalised(out, grey), (1 - 0.2860) / 0.3530, rtol=1e-6)


@pytest.mark.parametrize("config", [PictureConfig((1, 28, 28), MEAN, STD), PictureConfig((3, 32, 32), (0.5,), (0.25,))])
def test_normalising_is_done_in_float32_step_by_step(config: PictureConfig) -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(config.input_size[0]).reshape(-1, config.input_size[0], 1, 1)
    mean, std = (np.float32(np.mean(values)) for values in (config.mean, config.std))
    wanted = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    np.testing.assert_array_equal(_normalised(pixels, config), wanted)


async def test_pictures_stay_pixels_and_arrays_stay_what_they_are(fashion: Blueprint) -> None:
    interpreter = Interpreter(fashion)
    assert (await interpreter.input(_picture((40, 30)))).dtype == np.uint8
    assert (await interpreter.input([_picture((40, 30))] * 2)).shape == (2, 1, 28, 28)
    for given, kept in ((np.uint8, np.uint8), (np.float32, np.float32), (np.float64, np.float32), (int, np.float32)):
        assert (await interpreter.input(np.zeros((2, 1, 28, 28), given))).dtype == kept


def test_bad_pictures_are_named(tmp_path: Path) -> None:
    config = PictureConfig((3, 32, 32), MEAN, STD)
    noise, cut, none = tmp_path / "noise.png", tmp_path / "cut.jpg", tmp_path / "none.png"
    noise.write_bytes(b"not a picture")
    _picture((200, 200)).save(cut)
    cut.write_bytes(cut.read_bytes()[:3000])
    for path in (noise, cut, none, tmp_path):
        with pytest.raises(BadInput, match=path.name):
            load([path], config)
    with pytest.raises(BadInput, match="No picture"):
        load([], config)


def test_a_decompression_bomb_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tmp_path / "bomb.png"
    Image.new("1", (4000, 4000)).save(bomb)
    for limit in (9_000_000, 1_000_000):  # Pillow warns above one, refuses above two times its limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(BadInput, match=r"bomb\.png has more pixels"):
            load([bomb], PictureConfig((3, 32, 32), MEAN, STD))


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", SENT_FORMATS)
def test_encoded_bytes_are_what_their_file_is(kind: str, tmp_path: Path) -> None:
    config = PictureConfig((3, 32, 32), MEAN, STD)
    path = tmp_path / "picture"
    path.write_bytes(_encoded(_picture((60, 40)), kind))
    np.testing.assert_array_equal(load([path.read_bytes()], config), load([path], config))


def test_bytes_of_other_formats_are_refused_by_their_place() -> None:
    config = PictureConfig((3, 32, 32), MEAN, STD)
    good = _encoded(_picture((40, 30)), "PNG")
    for bad in (_encoded(_picture((40, 30)), "TIFF"), good[: len(good) // 2], b"", b"GIF89a"):
        with pytest.raises(BadInput, match="Picture 2 cannot be read"):
            load([good, bad], config)


def _claims(width: int, height: int) -> bytes:
    """A tiny PNG whose header says that it is so large."""
    small = bytearray(_encoded(Image.new("L", (8, 8)), "PNG"))
    small[16:24] = struct.pack(">II", width, height)
    small[29:33] = struct.pack(">I", zlib.crc32(small[12:29]))
    return bytes(small)


@pytest.mark.parametrize("size", [(8192, 4097), (16000, 16000), (60000, 60000)])
def test_a_bomb_of_bytes_is_refused_by_its_header(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(BadInput, match="Picture 1 has more pixels"):
        load([_claims(*size)], PictureConfig((3, 32, 32), MEAN, STD))


def test_a_jpeg_of_endless_passes_is_refused() -> None:
    good = _encoded(_picture((64, 64)), "JPEG", progressive=True)
    config = PictureConfig((3, 32, 32), MEAN, STD)
    assert load([good], config).shape == (1, 3, 32, 32)
    scan = good[good.rindex(b"\xff\xda") : -2]
    with pytest.raises(BadInput, match="passes"):
        load([good[:-2] + scan * MAX_SCANS + good[-2:]], config)


def test_only_so_many_pictures_are_unpacked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, most, lock, convert = 0, 0, Lock(), Image.Image.convert

    def slow(self: Image.Image, *arguments: Any) -> Image.Image:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        sleep(0.02)
        with lock:
            busy -= 1
        return convert(self, *arguments)

    monkeypatch.setattr(Image.Image, "convert", slow)
    picture, config = _encoded(_picture((40, 30)), "PNG"), PictureConfig((3, 32, 32), MEAN, STD)
    done = list(DECODERS.map(lambda _: load([picture], config), range(12)))
    assert len(done) == 12
    assert most == 2


def test_labels_come_best_first() -> None:
    output = np.array([[0.0, 2.0, 1.0], [1000.0, 0.0, -1000.0]], np.float32)
    best, sure = top_labels(output, ["a", "b", "c"], k=2)
    assert [label for label, _ in best] == ["b", "c"]
    assert best[0][1] == pytest.approx(np.exp(2) / (1 + np.exp(2) + np.exp(1)))
    assert sure[0] == ("a", 1.0)
    assert top_labels(output, None, k=9)[0][0][0] == "class 1"
    assert len(top_labels(output, None, k=9)[0]) == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_has_no_labels(value: float) -> None:
    with pytest.raises(SwarmError, match=r"not a number.*wider --wire"):
        check(np.array([[0.0, 1.0], [value, 0.0]], np.float32))


@pytest.mark.parametrize("shape", [(2,), (2, 3, 4), (2, 3, 4, 4)])
def test_what_is_not_one_score_for_each_class_has_no_labels(shape: tuple[int, ...]) -> None:
    assert top_labels(np.zeros(shape, np.float32), ["a", "b", "c"]) == [[], []]


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes among its files")
@pytest.mark.timeout(10)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadInput, match=r"pipe\.png is not a file"):
        load([tmp_path / "pipe.png"], PictureConfig((3, 32, 32), MEAN, STD))
