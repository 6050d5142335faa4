"""LitServe, set up as well as it can be for this: raw bytes in and out, no JSON, its fast queue, no access log.

Runs in the environment that `environment` makes. Its annotations are read by FastAPI: they must not become strings.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, Request, Response  # type: ignore[import-not-found]
from litserve import LitAPI, LitServer  # type: ignore[import-not-found]

from tests.bench.serving.subject import MAX_BATCH, SHAPE, WAIT_S, Array, exported


async def raw(request: Request) -> bytes:
    body: bytes = await request.body()
    return body


class Vit(LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self._run = exported()

    def decode_request(self, request: Annotated[bytes, Depends(raw)]) -> bytes:
        return request

    def batch(self, inputs: Sequence[bytes]) -> Array:
        return np.frombuffer(bytearray().join(inputs), np.float32).reshape(-1, *SHAPE)

    def predict(self, x: Array) -> Array:
        return self._run(x)

    def unbatch(self, output: Array) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any) -> Response:
        return Response(output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    api = Vit(max_batch_size=MAX_BATCH, batch_timeout=WAIT_S)
    is_fast = "--slow-queue" not in sys.argv
    server = LitServer(api, accelerator="cpu", workers_per_device=1, timeout=False, fast_queue=is_fast)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="error",
        access_log=False,
        generate_client_file=False,
    )
