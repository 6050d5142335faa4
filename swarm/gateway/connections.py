"""Connections of HTTP clients, held to bounds: how many, how long an idle or slow one stays, what a bug answers.

aiohttp reads and writes them; `Connections` is its low-level server, without applications, routers and middlewares, of
which a small request would feel the cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from swarm.gateway.statuses import COMMON, refused

IDLE_S: Final = 75.0
"""A connection without a request, or with a request's head that does not come to its end, is closed then."""
LINGER_S: Final = 2.0
"""How long what a refused client still sends is read, so that it gets to read why."""
STUCK_S: Final = 30.0
"""A client that takes nothing of its answer for so long is dropped."""
LOOK_S: Final = 5.0
MAX_CONNECTIONS: Final = 1024
MAX_HEAD_BYTES: Final = 8190
_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: 52\r\n\r\n"
    b'{"error":"Too many connections; try again later."}\r\n'
)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Connections(web.Server):
    """The protocol factory of a listening socket; `handler` answers each request, and is cancelled with its client."""

    def __init__(self, handler: Handler, *, most: int = MAX_CONNECTIONS, stuck_s: float = STUCK_S) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._most = most
        self._stuck_s = stuck_s
        self._waiting: dict[asyncio.Transport, tuple[int, float]] = {}
        """Connections with bytes that their client has not taken: how many, and since when it is so many."""

    def __call__(self) -> RequestHandler:
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type] # documented; its annotation forgets it
            keepalive_timeout=IDLE_S,
            lingering_time=LINGER_S,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            auto_decompress=False,
        )

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self.connections) > self._most:
            transport.write(_FULL)
            handler.force_close()

    async def watch(self) -> None:
        """Drop clients that do not read, until cancelled."""
        while True:
            await asyncio.sleep(min(LOOK_S, self._stuck_s / 4))
            self._look(asyncio.get_running_loop().time())

    def _look(self, now: float) -> None:
        waiting = {}
        for connection in self.connections:
            transport = connection.transport
            if not isinstance(transport, asyncio.Transport) or not (size := transport.get_write_buffer_size()):
                continue
            before, since = self._waiting.get(transport, (size, now))
            waiting[transport] = (size, since if size >= before else now)
            if now - waiting[transport][1] >= self._stuck_s:
                transport.abort()
        self._waiting = waiting


class _Connection(RequestHandler):
    """aiohttp's, with the protocol's errors for what is not HTTP and for bugs."""

    __slots__ = ()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if status == 500:
            self.log_exception("a request failed", exc_info=exc)
            reply = refused(status, "This server failed; please report what its log says.")
        else:
            reply = refused(status, "This is no HTTP request that can be understood.")
        response = web.Response(status=status, body=reply.body, headers={**reply.headers, **COMMON})
        response.force_close()
        return response
