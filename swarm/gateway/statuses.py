"""What goes back over HTTP, as a value; errors are the protocol's own `{"error": sentence}`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from types import MappingProxyType
from typing import Any, Final

import msgspec

from swarm.errors import (
    DeadlineExceeded,
    Overloaded,
    PeerError,
    SwarmError,
    UnknownModel,
    UsageError,
    WeightsError,
    plain,
)

JSON: Final = MappingProxyType({"Content-Type": "application/json"})
COMMON: Final = MappingProxyType({"Server": "swarm", "X-Content-Type-Options": "nosniff"})
"""In every response."""
RETRY_AFTER_S: Final = 1

_STATUSES: Final[tuple[tuple[type[SwarmError], int], ...]] = (
    (UnknownModel, 404),
    (UsageError, 400),
    (PeerError, 503),
    (DeadlineExceeded, 504),
    (WeightsError, 503),
)
_ELSEWHERE: Final = (
    ("allow more time with --deadline", "allow more time with the parameter 'timeout'"),
    ("use --weights FILE", "load it on the device itself with --weights FILE"),
)
"""Advice for a command line, and what it is over HTTP."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP response. `closes` ends the connection after it, for a request whose body was not read."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    closes: bool = False


def said(value: Any, status: int = 200) -> Reply:
    """`value` as JSON."""
    return Reply(status, msgspec.json.encode(value))


def refused(status: int, sentence: str, headers: Mapping[str, str] | None = None, *, closes: bool = False) -> Reply:
    """The protocol's error."""
    return Reply(status, msgspec.json.encode({"error": plain(sentence)}), {**JSON, **(headers or {})}, closes)


def failed(error: SwarmError) -> Reply:
    """An error of the swarm as the status that clients know how to treat."""
    sentence = str(error)
    for there, here in _ELSEWHERE:
        sentence = sentence.replace(there, here)
    if isinstance(error, Overloaded):
        return refused(503, sentence, {"Retry-After": str(max(RETRY_AFTER_S, ceil(error.retry_after_s)))})
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    return refused(status, sentence)
