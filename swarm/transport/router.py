"""The usual service: a table of methods, each with the handler that answers it and the guard of what it may receive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from swarm.errors import FrameTooLarge, SwarmError, UsageError
from swarm.transport.base import Call, Served
from swarm.transport.channel import Channel
from swarm.wire import Frame

Handler = Callable[[Channel, Call], Served]
"""`async def` when it has to wait; a plain function when it answers at once, which costs no task."""

Guard = Callable[[Channel, dict[str, Any], int], object]
"""Called with the fields of a call before its body of so many bytes is received; raises a `SwarmError` to refuse it.
What it gives back is the `admitted` of the call: what was understood once need not be read again."""


class Router:
    """Serves each call by the handler of its method. A method added without a guard takes no body."""

    def __init__(self) -> None:
        self._routes: dict[str, tuple[Handler, Guard]] = {}

    def add(self, method: str, handler: Handler, admit: Guard | None = None) -> None:
        """Answer `method` from now on. Raises `UsageError` when it is answered already."""
        if method in self._routes:
            raise UsageError(f"'{method}' has a handler already.")
        self._routes[method] = (handler, admit or _no_body)

    def admit(self, channel: Channel, frame: Frame, nbytes: int) -> object:
        return self._route(frame.method)[1](channel, frame.fields, nbytes)

    def serve(self, channel: Channel, call: Call) -> Served:
        return self._route(call.method)[0](channel, call)

    def _route(self, method: str) -> tuple[Handler, Guard]:
        try:
            return self._routes[method]
        except KeyError:
            raise SwarmError(f"This peer does not know '{method}'; it may run another version of swarm.") from None


def _no_body(_channel: Channel, _fields: dict[str, Any], nbytes: int) -> None:
    raise FrameTooLarge(f"{nbytes} bytes were sent with a message that has no body.")
