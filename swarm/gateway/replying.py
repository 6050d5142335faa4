"""From a session's answer to the bytes of a response. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from swarm.errors import SwarmError
from swarm.gateway.asking import Asked, Wanted
from swarm.gateway.protocol import (
    HEADER_LENGTH,
    VERSION,
    AnswerNotes,
    AnswerParameters,
    AnswerTensor,
    AnswerWords,
    pack,
)
from swarm.gateway.signature import LABELS, Signature
from swarm.gateway.statuses import Reply
from swarm.plan import OUTPUT
from swarm.result import Label, Result
from swarm.types import Array

_ENCODER: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Answered:
    """All rows of one request."""

    output: Array
    """`[B, ...]` float32."""
    results: Sequence[Result]
    """What it was joined from."""

    @property
    def labels(self) -> list[tuple[Label, ...]]:
        """Made only where they were asked for: they cost more than all else here."""
        return [row for result in self.results for row in result.labels]


def reply(asked: Asked, answered: Answered, signature: Signature) -> Reply:
    """The response with the outputs that were asked for. Raises `SwarmError` for values that JSON cannot hold."""
    tensors, parts = [], [b""]
    for wanted in asked.outputs:
        tensor, raw = _tensor(wanted, answered)
        tensors.append(tensor)
        if raw is not None:
            parts.append(raw)
    degraded = next((result.degraded for result in answered.results if result.degraded), None)
    notes = None if degraded is None else AnswerNotes(degraded)
    parts[0] = _ENCODER.encode(AnswerWords(signature.model, VERSION, tensors, asked.id, notes))
    if len(parts) == 1:
        return Reply(200, parts[0])
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(parts[0]))}
    return Reply(200, b"".join(parts), headers)


def _tensor(wanted: Wanted, answered: Answered) -> tuple[AnswerTensor, bytes | None]:
    if wanted.name == OUTPUT and not wanted.classes:
        return _numbers(wanted, answered.output)
    if wanted.name == OUTPUT:
        return _texts(wanted, _classified(answered, wanted.classes))
    if wanted.name == LABELS:
        return _texts(wanted, [[label.label.encode() for label in row] for row in answered.labels])
    return _numbers(wanted, np.array([[label.score for label in row] for row in answered.labels], np.float32))


def _numbers(wanted: Wanted, array: Array) -> tuple[AnswerTensor, bytes | None]:
    tensor = AnswerTensor(wanted.name, "FP32", list(array.shape))
    if wanted.binary:
        raw = array.astype("<f4", copy=False).tobytes()
        tensor.parameters = AnswerParameters(len(raw))
        return tensor, raw
    if not np.isfinite(array).all():
        raise SwarmError(
            f"'{wanted.name}' has values that are no numbers, which JSON cannot hold; ask for binary_data."
        )
    tensor.data = array.ravel().tolist()
    return tensor, None


def _texts(wanted: Wanted, rows: list[list[bytes]]) -> tuple[AnswerTensor, bytes | None]:
    flat = [text for row in rows for text in row]
    tensor = AnswerTensor(wanted.name, "BYTES", [len(rows), len(rows[0])])
    if wanted.binary:
        raw = pack(flat)
        tensor.parameters = AnswerParameters(len(raw))
        return tensor, raw
    tensor.data = [text.decode() for text in flat]
    return tensor, None


def _classified(answered: Answered, classes: int) -> list[list[bytes]]:
    """Triton's classification extension: `score:index:label`, best first; only the best have labels here."""
    return [_classified_row(row, labels, classes) for row, labels in zip(answered.output, answered.labels, strict=True)]


def _classified_row(row: Array, labels: Sequence[Label], classes: int) -> list[bytes]:
    wide = np.asarray(row, np.float64)
    exponents = np.exp(wide - wide.max())  # ranked as the labels were, ties included
    best = np.argsort(-(exponents / exponents.sum()), kind="stable")[:classes]
    names = [f":{label.label}" for label in labels] + [""] * classes
    return [f"{row[index]:.6f}:{index}{names[rank]}".encode() for rank, index in enumerate(best)]
