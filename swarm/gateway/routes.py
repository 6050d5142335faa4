"""Which of the protocol's endpoints a request line means. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final
from urllib.parse import unquote

from swarm.gateway.protocol import MAX_NAME, VERSION
from swarm.gateway.statuses import Reply, refused


class Endpoint(Enum):
    SERVER = auto()
    LIVE = auto()
    READY = auto()
    INDEX = auto()
    METRICS = auto()
    METADATA = auto()
    MODEL_READY = auto()
    STATISTICS = auto()
    INFER = auto()
    LOAD = auto()
    UNLOAD = auto()


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint, and the model that it is about."""

    endpoint: Endpoint
    model: str = ""


_FIXED: Final = {
    "/v2": (Endpoint.SERVER, "GET"),
    "/v2/health/live": (Endpoint.LIVE, "GET"),
    "/v2/health/ready": (Endpoint.READY, "GET"),
    "/v2/repository/index": (Endpoint.INDEX, "POST"),
    "/v2/models/stats": (Endpoint.STATISTICS, "GET"),
    "/metrics": (Endpoint.METRICS, "GET"),
}
_OF_MODEL: Final = {
    "infer": (Endpoint.INFER, "POST"),
    "ready": (Endpoint.MODEL_READY, "GET"),
    "stats": (Endpoint.STATISTICS, "GET"),
}
_TRITONS: Final = ("config", "trace")
"""What Triton has beyond the protocol."""
_OF_REPOSITORY: Final = {"load": (Endpoint.LOAD, "POST"), "unload": (Endpoint.UNLOAD, "POST")}
_MODELS, _REPOSITORY = "/v2/models/", "/v2/repository/models/"


def route(method: str, target: str) -> Route | Reply:
    """What the method and the target of a request line mean; a refusal for what is nothing here.

    Names of models may have slashes in them, encoded or not.
    """
    path = target.partition("?")[0]
    if len(path) > 1:
        path = path.rstrip("/")
    if path in _FIXED:
        endpoint, wanted = _FIXED[path]
        return Route(endpoint) if method == wanted else _wrong_method(wanted)
    if path.startswith(_MODELS):
        return _model(method, path[len(_MODELS) :])
    if path.startswith(_REPOSITORY):
        name, _, action = path[len(_REPOSITORY) :].rpartition("/")
        if action in _OF_REPOSITORY:
            return _named(method, name, *_OF_REPOSITORY[action])
    return refused(404, "There is nothing at this path; see the Open Inference Protocol v2.", closes=True)


def _model(method: str, rest: str) -> Route | Reply:
    name, _, action = rest.rpartition("/")
    if name and action in _TRITONS:
        return refused(404, f"This server has no '{action}' of a model; see its metadata.", closes=True)
    endpoint, wanted = Endpoint.METADATA, "GET"
    if name and action in _OF_MODEL:
        endpoint, wanted = _OF_MODEL[action]
    else:
        name = rest
    model, mark, version = name.rpartition("/versions/")
    if mark and version != VERSION:
        return refused(404, f"Models have version {VERSION} alone, not '{unquote(version)[:50]}'.", closes=True)
    return _named(method, model if mark else name, endpoint, wanted)


def _named(method: str, quoted: str, endpoint: Endpoint, wanted: str) -> Route | Reply:
    if method != wanted:
        return _wrong_method(wanted)
    name = unquote(quoted)
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        return refused(404, f"No model is called so: a name is 1 to {MAX_NAME} printable characters.", closes=True)
    return Route(endpoint, name)


def _wrong_method(wanted: str) -> Reply:
    return refused(405, f"Only {wanted} is understood here.", {"Allow": wanted}, closes=True)
