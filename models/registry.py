"""A user's own models: factories that the owner of a device registers under a name.

    from swarm.models import register

    @register("my-net", input_shape=(1, 28, 28), labels=["cat", "dog"], mean=[0.5], std=[0.5])
    def my_net() -> nn.Module: ...

The file with this code is named by the device's owner (`swarm join --models my_models.py`) or comes from an installed
package's entry point `swarm.models`. A requester sends names only, so nobody can make a peer import anything.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any, TypeVar

from swarm.errors import UsageError

ENTRY_POINTS = "swarm.models"
F = TypeVar("F", bound=Callable[[], Any])


@dataclass(frozen=True, slots=True)
class Registered:
    """What `register` was told about one model."""

    factory: Callable[[], Any]
    input_shape: tuple[int, int, int]
    labels: tuple[str, ...] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    interpolation: str
    crop_pct: float
    weights: Path | None
    source: Path
    """The file that registered it."""


REGISTERED: dict[str, Registered] = {}
_LOADED: set[str] = set()


def register(
    name: str,
    *,
    input_shape: Sequence[int],
    labels: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str = "bilinear",
    crop_pct: float = 1.0,
    weights: str | Path | None = None,
) -> Callable[[F], F]:
    """Make the decorated factory, `() -> nn.Module`, known as `name`.

    `input_shape` is [C, H, W]. `weights` may name a safetensors file, relative to the file that registers the model;
    it is what `pretrained` then means. Raises `UsageError` for a name that is taken.
    """
    source = Path(sys._getframe(1).f_code.co_filename)

    def keep(factory: F) -> F:
        if name in REGISTERED:
            raise UsageError(f"Two models are registered as '{name}'; give one of them another name.")
        channels, height, width = (int(size) for size in input_shape)
        REGISTERED[name] = Registered(
            factory,
            (channels, height, width),
            tuple(labels) if labels is not None else None,
            tuple(mean) if mean is not None else None,
            tuple(std) if std is not None else None,
            interpolation,
            float(crop_pct),
            (source.parent / weights).resolve() if weights is not None else None,
            source.resolve(),
        )
        return factory

    return keep


def entry_points() -> tuple[tuple[str, str, str], ...]:
    """Installed packages that register models: (entry point's name, its value, the package's version), sorted."""
    found = metadata.entry_points(group=ENTRY_POINTS)
    return tuple(sorted((point.name, point.value, point.dist.version if point.dist else "") for point in found))


def load_owner_models(files: Sequence[Path]) -> None:
    """Import the owner's model files and entry points, each once. Raises `UsageError` that names what failed."""
    for point in metadata.entry_points(group=ENTRY_POINTS):
        if point.value in _LOADED:
            continue
        _LOADED.add(point.value)
        try:
            point.load()
        except Exception as error:
            raise UsageError(f"The installed models '{point.name}' ({point.value}) do not load: {error}.") from error
    for file in (Path(file).resolve() for file in files):
        if str(file) not in _LOADED:
            _LOADED.add(str(file))
            _import_file(file, f"_swarm_owner_models_{len(_LOADED)}")


def _import_file(file: Path, module_name: str) -> None:
    spec = util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise UsageError(f"The model file {file} is not a Python file; --models takes files that call register().")
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # its own neighbours, as when it runs as a script
    module = util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"The model file {file} does not load: {type(error).__name__}: {error}.") from error
