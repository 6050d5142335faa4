"""How one of two channels with the same peer for the same purpose ends, and neither side takes it for a loss.

one side                              the other
────────────────────── RETIRE ──────▶ asks nothing new here
answers and hears what is outstanding on both sides
◀───────────────────── RETIRE ─────── when nothing is
closes, when nothing is
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from swarm.errors import MalformedFrame
from swarm.wire import Frame, Kind

_LOOK_S: Final = 0.02
"""Between two looks at whether anything is outstanding."""


class Retirement:
    """Of one channel; it takes `wait_s` at least, for those who were given the channel just before."""

    def __init__(
        self, wait_s: float, is_busy: Callable[[], bool], send: Callable[[Frame], None], close: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._wait_s = wait_s
        self._is_busy = is_busy
        self._send = send
        self._close = close
        self._is_heard = False
        self._timer: asyncio.TimerHandle | None = None
        self.has_begun = False

    def begin(self) -> None:
        """Tell the other side. Idempotent."""
        if not self.has_begun:
            self.has_begun = True
            self._agree()

    def heard(self, _frame: Frame) -> None:
        """The other side asks nothing new any more. Raises `MalformedFrame` when it says so twice."""
        if self._is_heard:
            raise MalformedFrame("The other side retired this channel twice.")
        self._is_heard = True
        then, self.has_begun = self._close if self.has_begun else self._agree, True
        self._timer = self._loop.call_later(self._wait_s, self._when_idle, then)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _agree(self) -> None:
        self._send(Frame(Kind.RETIRE))

    def _when_idle(self, then: Callable[[], None]) -> None:
        if self._is_busy():
            self._timer = self._loop.call_later(_LOOK_S, self._when_idle, then)
        else:
            then()
