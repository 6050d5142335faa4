"""Running a command's coroutine: on uvloop where there is one, ended cleanly by SIGINT and SIGTERM."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from time import perf_counter
from typing import Any, NoReturn

LEAVE_S = 5.0
LONG_S, MOST_FREEZES = 0.01, 5
"""A garbage collection that takes longer holds up every request. Then what is there, torch above all, is left out of
all later ones; a few times only, for what is left out is never collected."""
SWITCH_S = 0.0005
"""How long one thread of Python may keep another waiting: the one that computes asks between two batches, and the
interpreter's own 5 ms are longer than many a batch."""


KEPT_BYTES, MAPPED_BYTES = 32 * 2**20, 4 * 2**20
"""Freed memory that the process keeps, and what is large enough to be mapped for itself: tensors of a request come and
go all the time, and asking the system for their pages anew costs more than copying them."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def run(command: Coroutine[Any, Any, None], *, signal_is_success: bool = False) -> None:
    """Run until it ends or a signal cancels it, then end the process at once.

    Threads that still compute or import are not waited for: everything that others must know was said by then.
    """
    sys.setswitchinterval(SWITCH_S)
    _keep_freed_memory()
    gc.callbacks.append(_Collections())
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        interrupted = runner.run(_until_signal(command))
        sys.stdout.flush()
        sys.stderr.flush()
        _end(130 if interrupted and not signal_is_success else 0)


def _keep_freed_memory() -> None:
    """Only glibc is told; others know better, or not at all."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
            libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


class _Collections:
    """Told of garbage collections as they begin and end."""

    def __init__(self) -> None:
        self._began = 0.0
        self._freezes = 0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = perf_counter()
        elif perf_counter() - self._began > LONG_S and self._freezes < MOST_FREEZES:
            self._freezes += 1
            gc.freeze()


def _loop_factory() -> Any:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


async def _until_signal(command: Coroutine[Any, Any, None]) -> bool:
    task = asyncio.ensure_future(command)
    interrupted = False

    def stop() -> None:
        nonlocal interrupted
        if interrupted:  # asked twice: somebody is in a hurry
            _end(130)
        interrupted = True
        task.cancel()
        asyncio.get_running_loop().call_later(LEAVE_S, _end, 130)

    _on_signals(stop)
    try:
        await task
    except asyncio.CancelledError:
        if not interrupted:
            raise
    return interrupted


def _on_signals(stop: Any) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    os._exit(code)
