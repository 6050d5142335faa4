"""An HTTP server that computes nothing: what the load generator can do when nobody holds it up."""

from __future__ import annotations

import asyncio
import json

import uvloop

from tests.bench.serving.subject import ANSWER_BYTES
from tests.bench.serving.web import message_bytes

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % ANSWER_BYTES + bytes(ANSWER_BYTES)


class Trivial(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (nbytes := message_bytes(self._buffer)) and len(self._buffer) >= nbytes:
            self._buffer = self._buffer[nbytes:]
            assert hasattr(self._transport, "write")
            self._transport.write(ANSWER)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Trivial, "127.0.0.1", 0)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
