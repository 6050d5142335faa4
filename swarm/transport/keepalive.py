"""The timer behind a channel's pulse: pings often while the channel is used and rarely at rest, until silence falls."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from swarm.errors import MalformedFrame
from swarm.transport.base import Limits
from swarm.transport.gate import Gate
from swarm.transport.pulse import Beat, Pulse
from swarm.wire import Frame, Kind


class KeepAlive:
    """Pings through `send` and calls `lost` once when nothing was heard for too long. Whoever does not read is not
    pinged or answered: the gate is shut for it. `busy` tells whether calls are outstanding or being served."""

    def __init__(
        self,
        limits: Limits,
        gate: Gate,
        busy: Callable[[], bool],
        send: Callable[[Frame], None],
        lost: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._gate = gate
        self._busy = busy
        self._send = send
        self._lost = lost
        self._timer: asyncio.TimerHandle | None = None
        self.is_used = False
        """To be set at every use; at the first one after a rest call `rouse`."""
        self.pulse = Pulse(limits.keepalive_s, limits.silence_s, limits.rest_s, self._loop.time())

    def start(self, linger_s: float) -> None:
        """Ping at once, and go on; attentive for `linger_s` after each use."""
        self.pulse.linger_s = linger_s
        self.pulse.next_at = self._loop.time()
        self._beat()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def rouse(self) -> None:
        """Use ends a rest."""
        self.pulse.rouse(self._loop.time())
        self.stop()
        self._timer = self._loop.call_at(self.pulse.next_at, self._beat)

    def ping(self, frame: Frame) -> None:
        if not self._gate.is_shut:
            self._send(Frame(Kind.PONG, frame.id, "", {"clock": time.monotonic()}))

    def pong(self, frame: Frame) -> None:
        clock = frame.fields.get("clock")
        if type(clock) is not float or not math.isfinite(clock):
            raise MalformedFrame("A pong tells no time.")
        self.pulse.pong(frame.id, clock, time.monotonic())

    def _beat(self) -> None:
        now = self._loop.time()
        used, self.is_used = self.is_used and self.pulse.linger_s > 0, False
        beat = self.pulse.tick(now, used or self._busy() or self._gate.is_shut)
        if beat is Beat.LOST:
            self._lost()
            return
        self._timer = self._loop.call_at(self.pulse.next_at, self._beat)
        if beat is Beat.PING and not self._gate.is_shut:
            self._send(Frame(Kind.PING, self.pulse.ping(now, time.monotonic())))
