"""Triton's statistics extension: what each model answered since it was loaded. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from swarm.gateway.protocol import VERSION
from swarm.gateway.repository import Model


def statistics(models: Iterable[Model]) -> dict[str, Any]:
    return {"model_stats": [_of(model) for model in models]}


def _of(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": VERSION,
        "last_inference": model.last_ms,
        "inference_count": model.answered,
        "execution_count": model.answered,
        "inference_stats": {
            "success": {"count": model.answered, "ns": model.answered_ns},
            "fail": {"count": model.failed, "ns": model.failed_ns},
        },
    }
