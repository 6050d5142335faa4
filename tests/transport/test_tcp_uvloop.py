"""The contract over TCP on uvloop, with TLS and without."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from swarm.transport import Limits, TcpTransport
from swarm.transport.base import OnTwin
from tests.transport.contract import TransportContract

uvloop = pytest.importorskip("uvloop")


def _on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*args, **kwargs))

    return run


class TestTcpOnUvloop(TransportContract):
    def transport(self, limits: Limits, on_twin: OnTwin | None = None) -> TcpTransport:
        assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")
        return TcpTransport(limits=limits, on_twin=on_twin)


for _name, _test in inspect.getmembers(TransportContract, inspect.iscoroutinefunction):
    if _name.startswith("test_"):
        setattr(TestTcpOnUvloop, _name, _on_uvloop(_test))
