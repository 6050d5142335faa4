"""mosec, set up as well as it can be for this: raw bytes in and out, one stage, decoded batch-wise in its worker.

Runs in the environment that `environment` makes. `--port`, `--address`, `--path` are mosec's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mosec import Server, Worker  # type: ignore[import-not-found]

from tests.bench.serving.subject import MAX_BATCH, SHAPE, WAIT_S, exported


class Vit(Worker):  # type: ignore[misc]
    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        self._run = exported()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: Any) -> bytes:
        raw: bytes = data.tobytes()
        return raw

    def forward(self, data: Sequence[bytes]) -> list[Any]:
        x = np.frombuffer(bytearray().join(data), np.float32).reshape(-1, *SHAPE)
        return list(self._run(x))


if __name__ == "__main__":
    server = Server()
    server.append_worker(Vit, num=1, max_batch_size=MAX_BATCH, max_wait_time=round(WAIT_S * 1000))
    server.run()
