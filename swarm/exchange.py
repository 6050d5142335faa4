"""Asking any peer of a plan, this one included, in the same words."""

from __future__ import annotations

import asyncio
import inspect
import logging
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol, cast

from swarm.errors import DeadlineExceeded, SwarmError
from swarm.transport import Call, Channel, Hello, Links, Purpose, Reply, Service
from swarm.types import PeerId

log = logging.getLogger(__name__)


class Caller(Protocol):
    """Who asked: what a handler may know of the other end."""

    @property
    def remote(self) -> Hello: ...
    @property
    def clock_offset_s(self) -> float: ...
    @property
    def rtt_s(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Myself:
    """The caller of a peer's own methods."""

    remote: Hello
    clock_offset_s: float = 0.0
    rtt_s: float | None = 0.0


class Exchange:
    """Requests and notices to a peer by its id; a call to oneself takes the short way to the same handler."""

    def __init__(self, me: Hello, links: Links, service: Service):
        self._me = me
        self._links = links
        self._service = service

    @property
    def me(self) -> PeerId:
        return self._me.id

    async def request(
        self,
        peer: PeerId,
        method: str,
        fields: dict[str, Any],
        body: Any = b"",
        *,
        timeout_s: float,
        purpose: Purpose = "control",
        reply_bytes: int = 0,
    ) -> Reply:
        """Ask and wait for the answer; raises what the peer raised, or a `PeerError`, or `DeadlineExceeded`."""
        if peer == self._me.id:
            return await self._serve_myself(method, fields, body, timeout_s) or Reply({}, b"")
        began = monotonic()
        channel = await self._links.get(peer, purpose, timeout_s)
        left_s = max(0.001, timeout_s - (monotonic() - began))
        return await channel.request(method, fields, body, timeout_s=left_s, reply_bytes=reply_bytes)

    async def notify(self, peer: PeerId, method: str, fields: dict[str, Any], *, timeout_s: float) -> None:
        """Tell on the control connection, without an answer; returns when the bytes are handed over."""
        if peer == self._me.id:
            await self._serve_myself(method, fields, b"", timeout_s)
            return
        began = monotonic()
        channel = await self._links.get(peer, "control", timeout_s)
        await channel.notify(method, fields, timeout_s=max(0.001, timeout_s - (monotonic() - began)))

    def tell(
        self, peer: PeerId, method: str, fields: dict[str, Any], body: Any, *, timeout_s: float, purpose: Purpose
    ) -> bool:
        """Tell at once, on a connection that is there; False where there is none."""
        channel = self._links.at_hand(peer, purpose)
        if channel is None or channel.is_closed:
            return False
        channel.tell(method, fields, body, timeout_s=timeout_s)
        return True

    async def reach(self, peer: PeerId, purpose: Purpose, timeout_s: float) -> Channel | None:
        """Open the connection before it is needed; None for oneself."""
        return None if peer == self._me.id else await self._links.get(peer, purpose, timeout_s)

    async def _serve_myself(self, method: str, fields: dict[str, Any], body: Any, timeout_s: float) -> Reply | None:
        call = Call(method, fields, body, monotonic() + timeout_s)
        try:
            served = self._service.serve(cast(Channel, Myself(self._me)), call)
            if not inspect.isawaitable(served):
                return served
            async with asyncio.timeout(timeout_s):
                return await served
        except SwarmError:
            raise
        except TimeoutError:
            raise DeadlineExceeded(f"This peer did not finish '{method}' within {timeout_s:.3g} s.") from None
        except Exception as error:
            log.exception("serving '%s' for this peer itself failed", method)
            raise SwarmError(f"This peer failed while serving '{method}'; its log says why.") from error


def describe(error: SwarmError) -> dict[str, str]:
    """An error as fields of a message."""
    return {"code": error.code, "sentence": str(error)}
