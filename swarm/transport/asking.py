"""Requests that wait for their answers, and what each of them agreed to receive."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from itertools import count
from typing import Final

import msgspec

from swarm.errors import DeadlineExceeded, FrameTooLarge, MalformedFrame, Overloaded, SwarmError, from_code
from swarm.transport.base import Reply
from swarm.wire import MAX_TIMEOUT_S, Frame

MAX_RETRY_S: Final = 3600.0
_SWEEP_EARLY_S: Final = 0.001
"""Event loops count milliseconds: a timer may come this much before its time."""


class Asked(msgspec.Struct, frozen=True):
    """One outstanding request; `future` becomes its reply or the error that came instead."""

    id: int
    method: str
    timeout_s: float
    deadline: float
    reply_bytes: int
    future: asyncio.Future[Reply]


class Asking:
    """The outstanding requests of one channel, at most `limit`. `who` names the peer in sentences.

    All deadlines share one timer, set for the earliest. It is not taken back when a request is answered, for another
    usually follows; a timer for each request would cost every one of them a turn of the event loop.
    """

    def __init__(self, limit: int, who: Callable[[], str]) -> None:
        self._limit = limit
        self._who = who
        self._loop = asyncio.get_running_loop()
        self._ids = count(1)
        self._asked: dict[int, Asked] = {}
        self._sweep_at = math.inf
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        return bool(self._asked)

    def open(self, method: str, timeout_s: float, reply_bytes: int) -> Asked:
        """Begin to wait, for `timeout_s` at most. Raises `Overloaded` when too many wait already."""
        if len(self._asked) >= self._limit:
            raise Overloaded(f"{len(self._asked)} requests to {self._who()} are waiting already; ask for less at once.")
        deadline = self._loop.time() + timeout_s if timeout_s < MAX_TIMEOUT_S else math.inf
        number = next(self._ids)
        asked = self._asked[number] = Asked(
            number, method, timeout_s, deadline, reply_bytes, self._loop.create_future()
        )
        if deadline < self._sweep_at:
            self._sweep_by(deadline)
        return asked

    def close(self, asked: Asked) -> bool:
        """Stop waiting. True when the peer has not answered, and should be told that nobody waits any more."""
        if asked.future.done() and not asked.future.cancelled():
            asked.future.exception()  # seen, even when the caller was cancelled just then
        return self._asked.pop(asked.id, None) is not None

    def admit(self, frame: Frame, nbytes: int) -> None:
        """Agree to the body of a reply when the request that it answers did. Raises `FrameTooLarge`."""
        asked = self._asked.get(frame.id)
        if asked is None:
            raise FrameTooLarge("Nobody waits for this reply any more.")
        if nbytes > asked.reply_bytes:
            raise FrameTooLarge(
                f"{self._who()} answered '{asked.method}' with {nbytes} bytes; {asked.reply_bytes} were agreed to."
            )

    def reply(self, frame: Frame) -> None:
        asked = self._asked.pop(frame.id, None)
        if asked is None or asked.future.done():
            return
        if frame.refused is None:
            asked.future.set_result(Reply(frame.fields, frame.body))
        else:
            asked.future.set_exception(frame.refused)

    def failure(self, frame: Frame) -> None:
        asked = self._asked.pop(frame.id, None)
        if asked is not None and not asked.future.done():
            asked.future.set_exception(reported(frame))

    def fail(self, error: Callable[[str], SwarmError]) -> None:
        """Give up on all requests; `error` makes the error for the method of each."""
        self._stop_sweeping()
        asked_now, self._asked = self._asked, {}
        for asked in asked_now.values():
            if not asked.future.done():
                asked.future.set_exception(error(asked.method))

    def _sweep_by(self, deadline: float) -> None:
        self._stop_sweeping()
        if deadline < math.inf:
            self._sweep_at = deadline
            self._sweeper = self._loop.call_at(deadline, self._sweep)

    def _stop_sweeping(self) -> None:
        self._sweep_at = math.inf
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _sweep(self) -> None:
        """Fail the requests whose time is over; come back for the next one."""
        now = self._loop.time() + _SWEEP_EARLY_S
        waiting = [asked for asked in self._asked.values() if not asked.future.done()]
        for asked in waiting:
            if asked.deadline <= now:
                asked.future.set_exception(self._too_late(asked))
        self._sweep_by(min((asked.deadline for asked in waiting if asked.deadline > now), default=math.inf))

    def _too_late(self, asked: Asked) -> SwarmError:
        return DeadlineExceeded(
            f"{self._who()} did not answer '{asked.method}' within {asked.timeout_s:.3g} s; "
            "it may be busy: try again, or allow more time."
        )


def reported(frame: Frame) -> SwarmError:
    """The error that a FAILURE frame tells of."""
    code, sentence = frame.fields.get("code"), frame.fields.get("sentence")
    if not isinstance(code, str) or not isinstance(sentence, str):
        raise MalformedFrame("A failure was reported without a code and a sentence.")
    error = from_code(code, sentence)
    retry_s = frame.fields.get("retry_after_s")
    if isinstance(error, Overloaded) and isinstance(retry_s, float) and 0 <= retry_s <= MAX_RETRY_S:
        error.retry_after_s = retry_s
    return error
