"""Work that nobody waits for: in a thread that may outlive the process's end, or in a task among others."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


async def logged(work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    """A bug in one task of a group is written to the log and must not end the others."""
    try:
        await work(*arguments)
    except Exception:
        log.exception("a task failed")


async def in_daemon_thread(call: Callable[[], T]) -> T:
    """Like `asyncio.to_thread`, for what takes seconds and cannot be interrupted, such as importing torch."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as caught:  # noqa: BLE001 - handed to whoever awaits
            error = caught
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="swarm-background", daemon=True).start()
    return await done
