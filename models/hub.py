"""Trained weights from the Hugging Face hub, as timm names them. Child process only; safetensors only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swarm.errors import WeightsError
from swarm.models.catalogue import Entry

_INSTEAD = "use --weights FILE or --weights random:SEED, or run this once on a device that has them"


def fetch(model: str, entry: Entry) -> Path:
    """The path of the model's safetensors file in the hub's own cache, downloaded if need be.

    Raises `WeightsError` when the hub cannot be reached or has the weights only as a pickle.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from timm.models._hub import hf_split

    repository, revision = hf_split(entry.pretrained["hub"])
    filename = _safe(entry.pretrained["filename"])
    try:
        return Path(hf_hub_download(repository, filename, revision=revision))
    except LocalEntryNotFoundError as error:
        raise WeightsError(
            f"The weights of {model} are not on this device and the hub is unreachable; {_INSTEAD}."
        ) from error
    except EntryNotFoundError as error:
        raise WeightsError(
            f"The hub has the weights of {model} only as a pickle, which can run code; convert them to safetensors "
            "on a machine that you trust and pass --weights FILE."
        ) from error
    except Exception as error:  # no connection shows as many kinds of error, by library version
        raise WeightsError(
            f"The weights of {model} could not be fetched ({type(error).__name__}); {_INSTEAD}."
        ) from error


def _safe(filename: str) -> str:
    """The name under which the hub keeps the safetensors twin of a pickle."""
    stem = filename.rpartition(".")[0].replace("pytorch_model", "model")
    return f"{stem}.safetensors"


def normalised(model: str, file: Path) -> dict[str, Any]:
    """The state of a model that timm itself loaded from this file, with whatever renaming it does for the model."""
    import timm
    from safetensors.torch import load_file

    overlay = {"state_dict": load_file(file), "custom_load": False}
    try:
        built = timm.create_model(model.removeprefix("timm/"), pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise WeightsError(f"The hub's weights do not fit {model}: {reason[:200]}.") from error
    return dict(built.state_dict())
