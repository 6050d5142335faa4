"""One connection between two peers, on which both may ask.

        request, notify                            Service.admit, Service.serve
              │                                              ▲
        Asking: who waits for what                 Serving: what is being done
              │                                              │
              └──────────▶ encode      Decoder, admit ───────┘
                              │            ▲
                         Gate ▼            │  KeepAlive
                    asyncio transport, or the in-memory pipe

A channel is an `asyncio.BufferedProtocol`: anything that moves bytes as an asyncio transport does can carry it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from swarm.errors import DeadlineExceeded, FrameTooLarge, MalformedFrame, PeerLost, SwarmError, TwinIdentity
from swarm.transport.asking import Asking, reported
from swarm.transport.base import Hello, Purpose, Reply, Service
from swarm.transport.gate import Gate
from swarm.transport.greeting import MAX_HELLO_BYTES, greeting, read_greeting
from swarm.transport.keepalive import KeepAlive
from swarm.transport.retirement import Retirement
from swarm.transport.serving import Serving, failure
from swarm.transport.terms import Terms
from swarm.wire import JOINED_BYTES, Buffer, Decoder, Frame, Kind, encode, timeout_on_wire

logger = logging.getLogger(__name__)

MOST_TOGETHER: Final = 32
CLOSE_S: Final = 1.0
"""How long a closing channel may take to send what is in its buffer."""

_REQUEST: Final = Kind.REQUEST  # an enum's attribute takes longer to look up than the test that it is for
_REPLY: Final = Kind.REPLY
_WITH_BODY: Final = (Kind.REQUEST, Kind.REPLY, Kind.NOTICE)
_NO_PEER: Final = (MalformedFrame, FrameTooLarge)

OnClose = Callable[["Channel", SwarmError | None], None]


class Channel(asyncio.BufferedProtocol):
    """Made by a `Transport`, inside a running loop; ready for use once `opened()` returned or `on_open` was called.

    Used from the loop's thread only. `on_close` callbacks get the channel and the error that ended it, None when it was
    closed on this side or had retired; each is called once.
    """

    remote: Hello
    """Who is on the other side; known once the channel is open."""

    def __init__(
        self,
        hello: Hello,
        service: Service,
        terms: Terms,
        *,
        dialled: bool,
        on_open: Callable[[Channel], None] | None = None,
    ) -> None:
        limits = terms.limits
        self.hello = hello
        self.dialled = dialled
        self.is_closed = False
        self.on_close: list[OnClose] = []
        self.outlet: Callable[[Sequence[Buffer]], None] = self._write
        """Takes the buffers of one frame at a time; where faults are put in."""
        self._terms = terms
        self._limits = limits
        self._on_open = on_open
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._gone = asyncio.Event()
        self._mover: asyncio.Transport | None = None
        self._error: SwarmError | None = None
        self._abort_timer: asyncio.TimerHandle | None = None
        self._unread = 0
        self._together: list[Buffer] | None = None
        """Small frames that wait for the end of this turn of the event loop; None before the first one has gone."""
        self._gate = Gate()
        self._asking = Asking(limits.asking, self.who)
        self._serving = Serving(self, service, limits, terms.allowance, self._gate, self._send)
        self._alive = KeepAlive(limits, self._gate, self._needs_watching, self._send, self._silent)
        self._pulse = self._alive.pulse
        self._retirement = Retirement(limits.retire_s, self._is_busy, self._send, self._close)
        self._decoder = Decoder(self._admit, first_header_bytes=MAX_HELLO_BYTES)
        self._handle: Callable[[Frame], None] = self._greet
        self._take = self._by_kind()

    async def request(
        self, method: str, fields: dict[str, Any], body: Buffer = b"", *, timeout_s: float, reply_bytes: int = 0
    ) -> Reply:
        """Ask the other side; `body` must not change until the answer is here: it may not have been copied.

        Raises the error that the other side reports, `DeadlineExceeded` after `timeout_s`, `PeerLost` when the
        connection breaks, `Overloaded` when too much is asked at once, and `FrameTooLarge` for a reply whose body is
        longer than `reply_bytes`. When the caller is cancelled or out of time, the other side stops serving it.
        """
        if self.is_closed or self._gate.is_shut:
            timeout_s = await self._clear(method, timeout_s)
        self._use()
        asked = self._asking.open(method, timeout_s, reply_bytes)
        try:
            self._send(Frame(_REQUEST, asked.id, method, fields, body, timeout_on_wire(timeout_s)))
            return await asked.future
        except BaseException:
            if self._asking.close(asked) and not self.is_closed:
                self._send(Frame(Kind.CANCEL, asked.id))
            raise

    async def notify(self, method: str, fields: dict[str, Any], body: Buffer = b"", *, timeout_s: float = 10.0) -> None:
        """Tell the other side, one way. Returns when the bytes are handed over and the write buffer is below its
        high-water mark; `body` must not change until it is sent. Raises `DeadlineExceeded` and `PeerLost`."""
        if self.is_closed or self._gate.is_shut:
            timeout_s = await self._clear(method, timeout_s)
        self.tell(method, fields, body, timeout_s=timeout_s)
        if self._gate.is_shut:
            await self._clear(method, timeout_s)

    def tell(self, method: str, fields: dict[str, Any], body: Buffer = b"", *, timeout_s: float) -> None:
        """Notify without waiting for room: for who cannot run ahead of the other side anyway. Raises `PeerLost`."""
        if self.is_closed:
            raise self._lost(method)
        self._use()
        self._send(Frame(Kind.NOTICE, 0, method, fields, body, timeout_on_wire(timeout_s)))

    async def aclose(self) -> None:
        """Send what is in the buffer, for a moment at most, then close. Idempotent."""
        self._end(None)
        await self.wait_closed()

    def abort(self) -> None:
        """Close at once, dropping what was not sent. Idempotent."""
        self._break(None)

    def retire(self) -> None:
        """Close it once both sides have nothing outstanding on it: for a channel that has a better twin. Ask nothing
        new on it. Neither side's `on_close` hears of an error. Idempotent."""
        if not self.is_closed:
            self._retirement.begin()
            self._alive.rouse()

    async def wait_closed(self) -> None:
        """Return when the connection is gone and nothing is being served any more, the caller's own call apart."""
        await self._gone.wait()
        await self._serving.ended()

    async def opened(self) -> None:
        """Return when both sides have said hello. Raises the `SwarmError` that came instead; for one caller."""
        await self._opened

    @property
    def purpose(self) -> Purpose:
        """What the one who dialled wants it for."""
        return self.hello.purpose if self.dialled else self.remote.purpose

    @property
    def is_retiring(self) -> bool:
        """Another channel has taken its place; it ends when nothing is outstanding on it any more."""
        return self._retirement.has_begun

    @property
    def heard_at(self) -> float:
        """When bytes were last read from the other side, in the event loop's time."""
        return self._pulse.heard_at

    @property
    def rtt_s(self) -> float | None:
        """The smallest recent keep-alive round trip; None until the first has come back."""
        return self._pulse.rtt_s

    @property
    def clock_offset_s(self) -> float:
        """The remote monotonic clock minus the local one; zero until the first round trip has come back."""
        return self._pulse.clock_offset_s

    def who(self) -> str:
        """The other side, as sentences name it."""
        return f"Peer '{self.remote.name}' ({self.remote.id[:8]})" if hasattr(self, "remote") else "A stranger"

    # What the carrier calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._mover = cast(asyncio.Transport, transport)  # uvloop's are not subclasses of it
        if self.is_closed:
            self._mover.abort()
            return
        self._mover.set_write_buffer_limits(high=self._limits.high_water_bytes)
        if self.dialled:
            self._send(greeting(self.hello))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._decoder.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if self.is_closed:
            return
        self._pulse.heard_at = self._loop.time()
        try:
            self._decoder.received(nbytes)
            while (frame := self._decoder.next()) is not None:
                self._handle(frame)
        except SwarmError as error:
            self._complain(error)
            self._end(error)

    def _complain(self, error: SwarmError) -> None:
        """Say what was wrong; a stranger that does not even say hello hears nothing."""
        if not self.is_closed and (self._opened.done() or not isinstance(error, _NO_PEER)):
            self._send(failure(0, error))

    def pause_writing(self) -> None:
        self._gate.shut()

    def resume_writing(self) -> None:
        self._unread = 0
        self._gate.open()

    def connection_lost(self, exc: Exception | None) -> None:
        why = f": {exc}" if exc else ""
        gone = PeerLost(f"{self.who()} is gone; the connection broke{why}.")
        self._end(None if self.is_retiring and exc is None and not self._is_busy() else gone)
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._gone.set()

    # What frames do.

    def _admit(self, frame: Frame, nbytes: int) -> None:
        if self.is_closed or not self._opened.done():
            raise MalformedFrame("More than a hello came from a stranger, or after the end.")
        if frame.kind not in _WITH_BODY:
            raise MalformedFrame("This kind of message has no body.")
        (self._asking if frame.kind is _REPLY else self._serving).admit(frame, nbytes)

    def _greet(self, frame: Frame) -> None:
        remote = read_greeting(frame, self.hello)
        try:
            self._terms.check(remote, self.hello, self._mover)
        except TwinIdentity:
            if not self.dialled:
                self._send(greeting(self.hello))  # so that the twin knows what to tell its own people
            raise
        self.remote = remote
        self._handle = self._dispatch
        if not self.dialled:
            self._send(greeting(self.hello))  # only now: it says that whoever dialled is let in
        if not self._opened.done():
            self._opened.set_result(None)
        if self._on_open is not None:
            self._on_open(self)
        self._alive.start(linger_s=self._limits.silence_s if self.purpose == "tensors" else 0.0)

    def _dispatch(self, frame: Frame) -> None:
        kind = frame.kind
        if kind in _WITH_BODY:
            self._use()
        elif frame.refused is not None:
            raise frame.refused
        self._take[kind](frame)

    def _use(self) -> None:
        self._alive.is_used = True
        if self._pulse.is_resting:
            self._alive.rouse()

    def _second_hello(self, _frame: Frame) -> None:
        raise MalformedFrame("The other side said hello twice.")

    def _by_kind(self) -> tuple[Callable[[Frame], None], ...]:
        take: dict[Kind, Callable[[Frame], None]] = {
            Kind.HELLO: self._second_hello,
            Kind.REQUEST: self._serving.begin,
            Kind.NOTICE: self._serving.begin,
            Kind.REPLY: self._asking.reply,
            Kind.FAILURE: self._failure,
            Kind.CANCEL: self._serving.cancel,
            Kind.PING: self._alive.ping,
            Kind.PONG: self._alive.pong,
            Kind.RETIRE: self._retirement.heard,
        }
        return tuple(take[kind] for kind in Kind)

    def _failure(self, frame: Frame) -> None:
        if frame.id:
            self._asking.failure(frame)
        else:
            self._end(PeerLost(f"{self.who()} ended the connection: {reported(frame)}"))

    def _close(self) -> None:
        self._end(None)

    def _needs_watching(self) -> bool:
        return self.is_retiring or self._is_busy()

    def _is_busy(self) -> bool:
        return self._asking.is_waiting or self._serving.is_serving

    # Sending and ending.

    def _send(self, frame: Frame) -> None:
        if self._gate.is_shut:
            self._unread += 1
            if self._unread > self._limits.unread:
                self._break(PeerLost(f"{self.who()} asks and does not read the answers; it was cut off."))
                return
        self.outlet(encode(frame))

    def _write(self, buffers: Sequence[Buffer]) -> None:
        """The first small frame of a turn of the event loop goes at once, those that follow go together: each write
        costs a record of TLS, a call of the system, and often a turn of the other side's loop."""
        if self._mover is None:
            return
        if len(buffers) > 1 or len(buffers[0]) > JOINED_BYTES:
            self._flush()
            for buffer in buffers:
                self._mover.write(buffer)
        elif self._together is None:
            self._together = []
            self._loop.call_soon(self._end_turn)
            self._mover.write(buffers[0])
        else:
            self._together.append(buffers[0])
            if len(self._together) >= MOST_TOGETHER:
                self._flush()

    def _flush(self) -> None:
        if self._together and self._mover is not None:
            self._mover.write(b"".join(self._together))
            self._together = []

    def _end_turn(self) -> None:
        self._flush()
        self._together = None

    async def _clear(self, method: str, timeout_s: float) -> float:
        """Wait until there is room to send; the seconds that are left then."""
        start = self._loop.time()
        try:
            async with asyncio.timeout(timeout_s if math.isfinite(timeout_s) else None):
                await self._gate.passed()
        except TimeoutError:
            raise DeadlineExceeded(
                f"{self.who()} did not take in '{method}' within {timeout_s:.3g} s; it or its link may be busy."
            ) from None
        if self.is_closed:
            raise self._lost(method)
        return timeout_s - (self._loop.time() - start)

    def _lost(self, method: str) -> SwarmError:
        if self._error is None:
            return PeerLost(f"'{method}' was not answered: the connection to {self.who()} was closed on this side.")
        return PeerLost(f"'{method}' was not answered. {self._error}")

    def _silent(self) -> None:
        self._break(PeerLost(f"{self.who()} has said nothing for {self._limits.silence_s:g} s and counts as lost."))

    def _break(self, error: SwarmError | None) -> None:
        self._end(error)
        if self._mover is not None:
            self._mover.abort()

    def _end(self, error: SwarmError | None) -> None:
        """The one ending; only the first call counts."""
        if self.is_closed:
            return
        self.is_closed, self._error, self._handle = True, error, _ignore
        self._alive.stop()
        self._retirement.stop()
        if not self._opened.done():
            self._opened.set_exception(error or PeerLost("The connection was closed before it was open."))
            self._opened.exception()  # seen: a dial that never connected has nobody waiting for its hello
        self._asking.fail(self._lost)
        self._serving.shut()
        self._gate.open()
        if self._mover is None:
            self._gone.set()
        else:
            self._flush()
            self._mover.close()
            self._abort_timer = self._loop.call_later(CLOSE_S, self._mover.abort)
        for callback in self.on_close:
            try:
                callback(self, error)
            except Exception:
                logger.exception("A callback of a closing channel failed")


def _ignore(_frame: Frame) -> None:
    pass
