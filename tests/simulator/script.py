"""Scenarios in a few words: `Script().at(3).stall(4, 5.0).kill(2).at(9).heal()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulator.world import World


class Script:
    """What befalls a world, and when: after `at(seconds)`, every method of `World` can be named, with its arguments."""

    def __init__(self) -> None:
        self._when = 0.0
        self._steps: list[tuple[float, str, tuple[Any, ...], dict[str, Any]]] = []

    def at(self, when: float) -> Script:
        self._when = when
        return self

    def __getattr__(self, fault: str) -> Callable[..., Script]:
        def add(*given: Any, **named: Any) -> Script:
            self._steps.append((self._when, fault, given, named))
            return self

        return add

    @property
    def end(self) -> float:
        return max((when for when, *_ in self._steps), default=0.0)

    def begin(self, world: World) -> World:
        """Put everything off to its time, from the world's present on."""
        for when, fault, given, named in self._steps:
            world.clock.after(when, lambda f=fault, g=given, n=named: getattr(world, f)(*g, **n))
        return world
