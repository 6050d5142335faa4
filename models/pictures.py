"""Pictures to pixels of the model's size and its output to labels, on the requester's side.

The resizing and cropping are those of timm's evaluation transform, told again with Pillow and numpy: importing timm for
it would cost a small device 200 MB and seconds. The rest of it, normalising, is done by the part that takes the input
(`swarm.models.parts`), so that pictures travel in a byte for each pixel and channel. A test holds the two equal.
"""

from __future__ import annotations

import math
import stat
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from swarm.errors import BadInput, SwarmError
from swarm.models.blueprint import PictureConfig

Array = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

Picture = str | Path | bytes | Image.Image
"""A path, an encoded file, or a picture that is open."""

SENT_FORMATS = ("JPEG", "PNG", "WEBP")
"""Of encoded files that come as bytes, from whomever: each format is another reader that has to withstand them."""
FILE_FORMATS = (*SENT_FORMATS, "BMP", "GIF", "PPM", "TIFF")
"""Of files on this device's own disk."""
MAX_SENT_PIXELS = 2**25
"""Of an encoded file that comes as bytes: a few of them say that they are gigabytes. 8K is just below."""
MAX_SCANS = 100

DECODERS = ThreadPoolExecutor(2, "swarm-pictures")
"""Where pictures are decoded: so many are whole in memory at once, and no other thread waits for them."""
_HEADERS = Lock()
"""Warnings are turned into errors for the whole process, so by one thread at a time."""

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "random": Image.Resampling.BILINEAR,
}


def load(inputs: Sequence[Picture], config: PictureConfig) -> Pixels:
    """Read, resize and crop pictures: `[B, C, H, W]` uint8.

    :param inputs: paths of files, encoded files as bytes, or PIL pictures.
    :raises BadInput: it names the file which is at fault, or the place of the bytes among the others.
    """
    if not inputs:
        raise BadInput("No picture was given.")
    return np.stack([_prepare(item, _name(item, place), config) for place, item in enumerate(inputs)])


def top_labels(output: Array, labels: Sequence[str] | None, k: int = 5) -> list[list[tuple[str, float]]]:
    """For each row of logits `[B, classes]` the k likeliest with their softmax, best first; `class 17` if unnamed.

    Rows are empty for an output of another shape.
    """
    if output.ndim != 2:
        return [[] for _ in output]
    return [_top(row, labels, k) for row in np.asarray(output, np.float64)]


def check(output: Array) -> None:
    """Raises `SwarmError` for logits `[B, classes]` that are not finite."""
    if output.ndim == 2 and not np.isfinite(output).all():
        raise SwarmError(
            "The model's output is not a number: too large a value for the way it went, or broken weights; try a wider "
            "--wire, such as float32."
        )


def _top(row: npt.NDArray[np.float64], labels: Sequence[str] | None, k: int) -> list[tuple[str, float]]:
    exponents = np.exp(row - row.max())
    scores = exponents / exponents.sum()
    best = np.argsort(-scores, kind="stable")[:k]
    return [(labels[i] if labels is not None and i < len(labels) else f"class {i}", float(scores[i])) for i in best]


def _name(item: Picture, place: int) -> str:
    return str(item) if isinstance(item, (str, Path)) else f"Picture {place + 1}"


def _prepare(item: Picture, name: str, config: PictureConfig) -> Pixels:
    channels, height, width = config.input_size
    picture = _opened(item, name, {1: "L", 3: "RGB"}.get(channels), channels)
    cropped = _cropped(_resized(picture, (height, width), config), (height, width), config)
    return np.asarray(cropped, np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def _opened(item: Picture, name: str, mode: str | None, channels: int) -> Image.Image:
    if mode is None:
        raise BadInput(f"The model takes {channels} channels, which a picture file does not have; give it an array.")
    if isinstance(item, Image.Image):
        return item.convert(mode)
    try:
        if isinstance(item, bytes):
            return _decoded(BytesIO(item), name, SENT_FORMATS, MAX_SENT_PIXELS, mode)
        if not stat.S_ISREG(Path(item).stat().st_mode):  # opening a pipe would wait for a writer
            raise BadInput(f"{name} is not a file.")
        return _decoded(item, name, FILE_FORMATS, Image.MAX_IMAGE_PIXELS or MAX_SENT_PIXELS, mode)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadInput(f"{name} has more pixels than a picture should; make it smaller and try again.") from error
    except FileNotFoundError as error:
        raise BadInput(f"There is no picture {name}.") from error
    except UnidentifiedImageError as error:
        raise BadInput(f"{name} cannot be read as a picture: it is none, or of another kind.") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise BadInput(f"{name} cannot be read as a picture: {error}.") from error


def _decoded(file: str | Path | BytesIO, name: str, formats: tuple[str, ...], limit: int, mode: str) -> Image.Image:
    """The header is read first: what it promises must be within bounds before any pixel is unpacked."""
    with _HEADERS, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        picture = Image.open(file, formats=formats)
    with picture:
        if picture.width * picture.height > limit:
            raise BadInput(
                f"{name} has more pixels than a picture should, {picture.width} × {picture.height}; at most {limit} "
                "are taken, so make it smaller and try again."
            )
        if isinstance(file, BytesIO) and _scans(file) > MAX_SCANS:
            raise BadInput(f"{name} is a JPEG in more than {MAX_SCANS} passes; save it anew and try again.")
        return picture.convert(mode)


def _scans(file: BytesIO) -> int:
    """In how many passes a JPEG refines itself: each costs as much as the whole picture, and takes few bytes."""
    data = file.getvalue()
    return data.count(b"\xff\xda") if data.startswith(b"\xff\xd8") else 0


def _resized(picture: Image.Image, size: tuple[int, int], config: PictureConfig) -> Image.Image:
    """To the size from which `crop_pct` is cut, [H, W]."""
    resample = _FILTERS.get(config.interpolation, Image.Resampling.BILINEAR)
    target = tuple(math.floor(side / config.crop_pct) for side in size)
    if config.crop_mode == "squash":
        height, width = target
    elif config.crop_mode == "border" or target[0] != target[1]:
        height, width = _keep_ratio(picture, target, longest=config.crop_mode == "border")
    else:
        height, width = _short_side(picture, target[0])
    return picture if picture.size == (width, height) else picture.resize((width, height), resample)


def _short_side(picture: Image.Image, side: int) -> tuple[int, int]:
    """torchvision's Resize: the shorter side becomes `side`, the longer one is cut down to whole pixels."""
    width, height = picture.size
    if width <= height:
        return int(side * height / width), side
    return side, int(side * width / height)


def _keep_ratio(picture: Image.Image, target: tuple[int, ...], *, longest: bool) -> tuple[int, int]:
    """timm's ResizeKeepRatio: into the target (`longest`) or around it."""
    width, height = picture.size
    ratios = (height / target[0], width / target[1])
    ratio = max(ratios) if longest else min(ratios)
    return round(height / ratio), round(width / ratio)


def _cropped(picture: Image.Image, size: tuple[int, int], config: PictureConfig) -> Image.Image:
    """The middle; where the picture is too small, a margin in the mean colour (`border`) or black."""
    height, width = size
    canvas, border = picture, config.crop_mode == "border"
    if picture.width < width or picture.height < height:
        canvas = _padded(picture, size, config if border else None)
    left, top = round((canvas.width - width) / 2), round((canvas.height - height) / 2)  # as torchvision rounds
    return canvas.crop((left, top, left + width, top + height))


def _padded(picture: Image.Image, size: tuple[int, int], config: PictureConfig | None) -> Image.Image:
    height, width = size
    wide, high = max(picture.width, width), max(picture.height, height)
    colour: Any = 0
    if config is not None:
        colour = tuple(round(255 * value) for value in config.channel_mean)
        colour = colour if len(colour) > 1 else colour[0]
    canvas = Image.new(picture.mode, (wide, high), colour)
    canvas.paste(picture, ((wide - picture.width) // 2, (high - picture.height) // 2))
    return canvas
