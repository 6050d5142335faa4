"""HTTP/1.1 as far as a load generator needs it: requests as ready bytes, answers by their Content-Length."""

from __future__ import annotations

import json
import re
from typing import Final

from tests.bench.serving.subject import Array

PATHS: Final = {
    "swarm": "/v2/models/fashion-vit/infer",
    "mosec": "/inference",
    "LitServe": "/predict",
    "trivial": "/",
}
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def request(server: str, port: int, x: Array, timeout_s: float | None = None) -> bytes:
    """Pictures `[B, 1, 28, 28]` for a server: raw floats, and before them what the Open Inference Protocol asks for."""
    raw = x.tobytes()
    more = ""
    if server == "swarm":
        head = _inference_header(x, timeout_s)
        more = f"Inference-Header-Content-Length: {len(head)}\r\n"
        raw = head + raw
    return (
        f"POST {PATHS[server]} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/octet-stream\r\n"
        f"{more}Content-Length: {len(raw)}\r\n\r\n"
    ).encode() + raw


def _inference_header(x: Array, timeout_s: float | None) -> bytes:
    wish: dict[str, object] = {
        "inputs": [
            {
                "name": "input",
                "shape": x.shape,
                "datatype": "FP32",
                "parameters": {"binary_data_size": x.nbytes},
            }
        ],
        "outputs": [{"name": "output", "parameters": {"binary_data": True}}],
    }
    if timeout_s is not None:
        wish["parameters"] = {"timeout": round(timeout_s * 1e6)}
    return json.dumps(wish, separators=(",", ":")).encode()


def message_bytes(buffer: bytes) -> int:
    """How long the first message in the buffer is as a whole; 0 while its head is not there."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return 0
    found = _LENGTH.search(buffer, 0, end)
    return end + 4 + (int(found[1]) if found else 0)


def says_when(buffer: bytes) -> bool:
    """A refusal that tells when to come back."""
    return b"\r\nretry-after:" in buffer[: buffer.find(b"\r\n\r\n") + 2].lower()
