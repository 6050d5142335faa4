"""What a loaded model takes and gives, read off its plan. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from swarm.gateway.protocol import VERSION
from swarm.plan import INPUT, OUTPUT, Plan
from swarm.types import TensorSpec

IMAGE: Final = "image"
LABELS, SCORES = "labels", "scores"
TOP: Final = 5
"""How many labels and scores a session gives for each sample."""

NUMBERS: Final[Mapping[str, np.dtype[Any]]] = {
    "FP32": np.dtype("<f4"),
    "FP16": np.dtype("<f2"),
    "UINT8": np.dtype("u1"),
}
"""Datatypes of `input`, as numpy calls them; UINT8 are raw pixels."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Shapes without the batch dimension."""

    model: str
    input: TensorSpec
    output: TensorSpec

    @classmethod
    def of(cls, model: str, plan: Plan) -> Signature:
        output = next(edge.tensor for edge in plan.edges if edge.target == OUTPUT)
        return cls(model, plan.outputs(INPUT)[0].tensor, output)

    @property
    def takes_pictures(self) -> bool:
        """A picture file has one channel or three."""
        return len(self.input.shape) == 3 and self.input.shape[0] in (1, 3)

    @property
    def top(self) -> int:
        """How many labels each sample gets; 0 when the output is not a score for each class."""
        return min(TOP, self.output.shape[0]) if len(self.output.shape) == 1 else 0

    @property
    def outputs(self) -> tuple[str, ...]:
        return (OUTPUT, LABELS, SCORES) if self.top else (OUTPUT,)

    def metadata(self) -> dict[str, Any]:
        """The protocol's model metadata. Of the inputs a request has one."""
        inputs = [_tensor(INPUT, "FP32", -1, *self.input.shape)]
        if self.takes_pictures:
            inputs.append(_tensor(IMAGE, "BYTES", -1))
        outputs = [_tensor(OUTPUT, "FP32", -1, *self.output.shape)]
        if self.top:
            outputs += [_tensor(LABELS, "BYTES", -1, self.top), _tensor(SCORES, "FP32", -1, self.top)]
        return {"name": self.model, "versions": [VERSION], "platform": "swarm", "inputs": inputs, "outputs": outputs}


def _tensor(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}
