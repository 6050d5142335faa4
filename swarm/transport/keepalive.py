"""The timer behind a channel's pulse: pings at once and then every few seconds, until the peer falls silent."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from swarm.errors import MalformedFrame
from swarm.transport.base import Limits
from swarm.transport.gate import Gate
from swarm.transport.pulse import Pulse
from swarm.wire import Frame, Kind


class KeepAlive:
    """Pings through `send` and calls `lost` once when nothing was heard for too long. Whoever does not read is not
    pinged or answered: the gate is shut for it."""

    def __init__(self, limits: Limits, gate: Gate, send: Callable[[Frame], None], lost: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._interval_s = limits.keepalive_s
        self._gate = gate
        self._send = send
        self._lost = lost
        self._timer: asyncio.TimerHandle | None = None
        self.pulse = Pulse(limits.keepalive_s, limits.silence_s, self._loop.time())

    def beat(self) -> None:
        """Start, and go on."""
        if not self.pulse.tick(self._loop.time()):
            self._lost()
            return
        self._timer = self._loop.call_later(self._interval_s, self.beat)
        if not self._gate.is_shut:
            self._send(Frame(Kind.PING, self.pulse.ping(time.monotonic())))

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def ping(self, frame: Frame) -> None:
        if not self._gate.is_shut:
            self._send(Frame(Kind.PONG, frame.id, "", {"clock": time.monotonic()}))

    def pong(self, frame: Frame) -> None:
        clock = frame.fields.get("clock")
        if type(clock) is not float or not math.isfinite(clock):
            raise MalformedFrame("A pong tells no time.")
        self.pulse.pong(frame.id, clock, time.monotonic())
