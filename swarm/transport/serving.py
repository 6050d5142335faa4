"""Calls of the other side that are being served: at once, in a task of their own, or not at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from swarm.errors import DeadlineExceeded, MalformedFrame, Overloaded, SwarmError
from swarm.transport.allowance import Allowance
from swarm.transport.base import Call, Limits, Reply, Service
from swarm.transport.gate import Gate
from swarm.wire import Frame, Kind

if TYPE_CHECKING:
    from swarm.transport.channel import Channel

logger = logging.getLogger(__name__)

MAX_SENTENCE: Final = 2000

_REQUEST: Final = Kind.REQUEST  # an enum's attribute takes longer to look up than the test that it is for
_REPLY: Final = Kind.REPLY


class Serving:
    """The inbound side of one channel. It owns a task for each call that is not answered at once."""

    def __init__(
        self,
        channel: Channel,
        service: Service,
        limits: Limits,
        allowance: Allowance,
        gate: Gate,
        send: Callable[[Frame], None],
    ) -> None:
        self._channel = channel
        self._service = service
        self._limits = limits
        self._allowance = allowance
        self._gate = gate
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._notices = count(-1, -1)  # keys of their tasks; requests have ids of their own, from zero up
        self._incoming = 0
        """Bytes of a body that was agreed to and is being received; there is one at a time."""
        self._admitted: object = None

    @property
    def is_serving(self) -> bool:
        return bool(self._tasks)

    def admit(self, frame: Frame, nbytes: int) -> None:
        """Agree to a body, or raise why not. A bug in the service's own `admit` is logged and refuses too."""
        self._check_room()
        self._allowance.take(self._channel.remote.id, nbytes)
        self._incoming = nbytes
        try:
            self._admitted = self._service.admit(self._channel, frame, nbytes)
        except SwarmError:
            self._give_back_incoming()
            raise
        except Exception as error:
            self._give_back_incoming()
            raise self._bug(frame.method, error) from error

    def _check_room(self) -> None:
        if len(self._tasks) >= self._limits.serving:
            raise Overloaded(f"This peer serves {len(self._tasks)} of your calls already; try again in a moment.")

    def begin(self, frame: Frame) -> None:
        """Serve a request or notice. Raises `MalformedFrame` when its id is in use."""
        if frame.refused is not None:
            self._give_back_incoming()  # there may be some: it was agreed to, and then no memory was left
            self._fail(frame, frame.refused)
            return
        if frame.id in self._tasks and frame.kind is _REQUEST:
            raise MalformedFrame("Two requests have the same id.")
        deadline = None if frame.timeout_s is None else self._clock() + frame.timeout_s
        try:
            self._check_room()
            admitted, self._admitted = self._admitted, None
            call = Call(frame.method, frame.fields, frame.body, deadline, self._clock, admitted)
            served = self._service.serve(self._channel, call)
            if served is not None and not isinstance(served, Reply):
                self._spawn(frame, self._finish(frame, served, deadline), served)
                return
            if frame.kind is _REQUEST:
                self._answer(frame, served)
        except Exception as error:  # noqa: BLE001  a bug of the service: logged, and answered
            self._fail(frame, error)
        if self._incoming:
            self._give_back_incoming()

    def cancel(self, frame: Frame) -> None:
        """Stop serving the request that `frame` names, for nobody waits; it is not answered."""
        task = self._tasks.get(frame.id)
        if task is not None:
            task.cancel()

    def shut(self) -> None:
        """Cancel everything."""
        self._give_back_incoming()
        for task in self._tasks.values():
            task.cancel()

    async def ended(self) -> None:
        """Return when no call is being served any more, the caller's own apart."""
        me = asyncio.current_task()
        while others := [task for task in self._tasks.values() if task is not me]:
            await asyncio.wait(others)

    def _answer(self, frame: Frame, reply: Reply | None) -> None:
        if self._gate.is_shut:
            self._spawn(frame, self._answer_later(frame, reply))
        else:
            self._reply(frame, reply)

    def _spawn(
        self, frame: Frame, work: Coroutine[Any, Any, None], inner: Coroutine[Any, Any, Any] | None = None
    ) -> None:
        key = frame.id if frame.kind is _REQUEST else next(self._notices)
        held, self._incoming = self._incoming, 0
        task = self._tasks[key] = self._loop.create_task(work)

        def ended(_: asyncio.Task[None]) -> None:
            del self._tasks[key]
            self._give_back(held)
            if inner is not None:
                inner.close()  # a task that is cancelled before its first step never awaits it

        task.add_done_callback(ended)

    def _give_back_incoming(self) -> None:
        held, self._incoming = self._incoming, 0
        self._give_back(held)

    def _give_back(self, nbytes: int) -> None:
        if nbytes:
            self._allowance.give_back(self._channel.remote.id, nbytes)

    async def _answer_later(self, frame: Frame, reply: Reply | None) -> None:
        await self._gate.passed()
        self._reply(frame, reply)

    async def _finish(self, frame: Frame, served: Coroutine[Any, Any, Reply | None], deadline: float | None) -> None:
        scope = asyncio.timeout_at(deadline)
        try:
            async with scope:
                reply = await served
            if frame.kind is _REQUEST:
                await self._gate.passed()
                self._reply(frame, reply)
        except TimeoutError as error:
            self._fail(frame, _too_late(frame) if scope.expired() else error)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._fail(frame, error)  # not this task was cancelled, but something that it waited for
        except Exception as error:  # noqa: BLE001  a bug of the service: logged, and answered
            self._fail(frame, error)

    def _reply(self, frame: Frame, reply: Reply | None) -> None:
        if self._channel.is_closed:
            return
        try:
            if reply is None:
                self._send(Frame(_REPLY, frame.id))
            else:
                self._send(Frame(_REPLY, frame.id, "", reply.fields, reply.body))
        except Exception as error:  # noqa: BLE001  a reply that cannot be encoded
            self._fail(frame, error)

    def _fail(self, frame: Frame, error: BaseException) -> None:
        if not isinstance(error, SwarmError):
            error = self._bug(frame.method, error)
        if frame.kind is not _REQUEST:
            logger.debug("A notice '%s' was not served: %s", frame.method, error)
        elif not self._channel.is_closed:
            self._send(failure(frame.id, error))

    def _bug(self, method: str, error: BaseException) -> SwarmError:
        logger.error("Serving '%s' failed", method, exc_info=error)
        return SwarmError(f"This peer failed while serving '{method}'; its log says why.")


def failure(number: int, error: SwarmError) -> Frame:
    """The frame that tells the other side of an error; number 0 speaks of the whole connection."""
    fields: dict[str, Any] = {"code": error.code, "sentence": str(error)[:MAX_SENTENCE]}
    if isinstance(error, Overloaded):
        fields["retry_after_s"] = error.retry_after_s
    return Frame(Kind.FAILURE, number, "", fields)


def _too_late(frame: Frame) -> SwarmError:
    return DeadlineExceeded(f"'{frame.method}' was not finished within the {frame.timeout_s:.3g} s that it was given.")
