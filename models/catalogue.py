"""Names of models and what builds them. Only names travel, so a name can never make a peer import anything new.

Order: registered by the device's owner, `fashion-vit`, timm, torchvision; `timm/NAME` and `torchvision/NAME` are exact.
timm and torchvision are imported inside functions: all but `check_name` is for the child process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from swarm.errors import UnknownModel
from swarm.models import fashion_vit
from swarm.models.blueprint import PictureConfig
from swarm.models.registry import REGISTERED, Registered

_NAME = re.compile(r"((timm|torchvision)/)?[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}", re.ASCII)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Entry:
    """How to build one model, and what its outputs and pictures mean."""

    build: Callable[[], Any]
    pictures: PictureConfig
    labels: tuple[str, ...] | None
    pretrained: Mapping[str, str] = field(default_factory=dict)
    source: Path | None = None
    """The owner's file that registered it."""


def check_name(name: str) -> None:
    """Raises `UnknownModel` for what is not a plain name: a path, a URL, a hub's repository."""
    if not _NAME.fullmatch(name) or ".." in name:
        shown = name[:60].encode("ascii", "backslashreplace").decode()
        raise UnknownModel(f"'{shown}' is not a model's name; names are letters, digits, '_', '-' and '.'.")


def find(name: str) -> Entry:
    """The model of that name. Raises `UnknownModel`, with names that look alike."""
    check_name(name)
    source, _, bare = name.rpartition("/")
    if not source and bare in REGISTERED:
        return _registered(REGISTERED[bare])
    if not source and bare == fashion_vit.NAME:
        return _fashion_vit()
    for wanted, lookup in (("timm", _timm), ("torchvision", _torchvision)):
        if source in ("", wanted) and (entry := lookup(bare)) is not None:
            return entry
    raise UnknownModel(_unknown(name, bare))


def _registered(model: Registered) -> Entry:
    channels = model.input_shape[0]
    pictures = PictureConfig(
        model.input_shape,
        model.mean or (0.0,) * channels,
        model.std or (1.0,) * channels,
        model.interpolation,
        model.crop_pct,
    )
    refused = "No trained weights are registered for it; pass weights='FILE.safetensors' to register()."
    pretrained = {"file": str(model.weights)} if model.weights else {"refused": refused}
    return Entry(model.factory, pictures, model.labels, pretrained, model.source)


def _fashion_vit() -> Entry:
    pictures = PictureConfig(fashion_vit.INPUT_SHAPE, fashion_vit.MEAN, fashion_vit.STD, "bilinear", 1.0)
    return Entry(fashion_vit.build, pictures, fashion_vit.LABELS, {"file": str(fashion_vit.WEIGHTS)})


def _timm(name: str) -> Entry | None:
    import timm

    if not timm.is_model(name.split(".", maxsplit=1)[0]):
        return None
    if "." in name and name not in timm.list_pretrained(name.split(".", maxsplit=1)[0] + ".*"):
        return None
    known = timm.get_pretrained_cfg(name)
    config = known.to_dict() if known is not None else {}
    pictures = _timm_pictures(config)
    labels = _imagenet_labels(config)
    return Entry(lambda: timm.create_model(name, pretrained=False), pictures, labels, _timm_pretrained(config))


def _timm_pictures(config: Mapping[str, Any]) -> PictureConfig:
    from timm.data import resolve_data_config

    data = resolve_data_config(pretrained_cfg=dict(config))
    return PictureConfig(
        tuple(data["input_size"]),
        tuple(map(float, data["mean"])),
        tuple(map(float, data["std"])),
        data["interpolation"],
        float(data["crop_pct"]),
        data["crop_mode"],
    )


def _imagenet_labels(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(dict(config))
    return tuple(ImageNetInfo(subset).label_descriptions()) if subset else None


def _timm_pretrained(config: Mapping[str, Any]) -> Mapping[str, str]:
    if config.get("hf_hub_id"):
        return {"hub": str(config["hf_hub_id"]), "filename": str(config.get("hf_hub_filename") or "model.safetensors")}
    return {"refused": "timm has no trained weights for it on the Hugging Face hub."}


def _torchvision(name: str) -> Entry | None:
    import torchvision.models as tv

    if name not in tv.list_models(module=tv):
        return None
    # As the trained weights of these two expect; their auxiliary heads do not take part in an answer.
    extra = {"init_weights": False, "transform_input": True} if name in ("googlenet", "inception_v3") else {}
    default = next(iter(tv.get_model_weights(name)), None)
    weights = getattr(tv.get_model_weights(name), "DEFAULT", default)
    labels = tuple(weights.meta["categories"]) if weights is not None else None
    refused = (
        "torchvision keeps its trained weights as pickles, which can run code; convert them to safetensors on a "
        "machine that you trust and pass --weights FILE."
    )
    return Entry(
        lambda: tv.get_model(name, weights=None, **extra), _torchvision_pictures(weights), labels, {"refused": refused}
    )


def _torchvision_pictures(weights: Any) -> PictureConfig:
    if weights is None:
        return PictureConfig((3, 224, 224), _IMAGENET_MEAN, _IMAGENET_STD, "bilinear", 224 / 256)
    preset = weights.transforms()
    crop, resize = preset.crop_size[0], preset.resize_size[0]
    # The ratio is turned into whole pixels again by rounding down: aim between two of them.
    ratio = 1.0 if crop >= resize else crop / (resize + 0.5)
    return PictureConfig(
        (3, crop, crop), tuple(preset.mean), tuple(preset.std), preset.interpolation.value, ratio, "center"
    )


def _unknown(name: str, bare: str) -> str:
    import timm
    import torchvision.models as tv

    known = [*REGISTERED, fashion_vit.NAME, *timm.list_models(), *tv.list_models(module=tv)]
    near = get_close_matches(bare, dict.fromkeys(known), n=3, cutoff=0.6)
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else "names are timm's, torchvision's, or registered with --models."
    )
    return f"No model is called '{name}' here; {hint}"
