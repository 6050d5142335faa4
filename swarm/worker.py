"""One thread that does one thing after another, for what blocks or computes.

Leaner than an executor: two hops, a queue there and `call_soon_threadsafe` back, because every request of the swarm
takes them at every step.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final

EXIT_S: Final = 10.0

Settle = Callable[[Any, BaseException | None], None]
"""Told the result or the error, in the event loop."""


class Worker:
    """A daemon thread, which the process does not wait for for ever at its end; but for a while, because an
    interpreter that ends under native code takes the process down with an abort."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Settle] | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Call it once, in the event loop that is to hear of results."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="swarm-worker", daemon=True)
        self._thread.start()
        atexit.register(self._wait)

    def stop(self) -> None:
        """What is under way goes on to its end, and nobody hears of it; what waits is not begun."""
        self._loop = None
        self._jobs.put(None)

    def do(self, call: Callable[[], Any], settle: Settle) -> None:
        """Queue `call` for the thread."""
        self._jobs.put((call, settle))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None and self._loop is not None:
            call, settle = job
            result, error = None, None
            try:
                result = call()
            except BaseException as caught:  # noqa: BLE001 - handed to whoever asked
                error = caught
            self._tell(settle, result, error)
            del job, call, settle, result, error  # nothing of a request stays while the thread waits for the next
        atexit.unregister(self._wait)

    def _wait(self) -> None:
        self.stop()
        self._thread.join(EXIT_S)

    def _tell(self, settle: Settle, result: Any, error: BaseException | None) -> None:
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            return  # the loop closed in between
