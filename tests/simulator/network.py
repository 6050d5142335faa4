"""The LAN: who reaches whom, how long it takes, what gets lost, and the connections between processes.

A lost message is lost for good, which is harsher than TCP. A connection has two ends; each side closes its own, and the
other hears of it only if the network carries that: a process that dies lets go of its own, a pulled cable of none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from swarm.types import Address

if TYPE_CHECKING:
    from tests.simulator.node import Node

FOREVER = float("inf")


@dataclass(slots=True, eq=False)
class Connection:
    """Between two nodes; `ends` are those who hold it. Pending: the dialler does not know of it yet."""

    dialler: Node
    listener: Node
    ends: set[int] = field(default_factory=set)
    is_pending: bool = True
    lost_at: float | None = None
    """Since when packets got lost to a cut: TCP tries again after as long as it has tried in vain, more or less."""
    stuck_until: float = 0.0

    def other(self, node: Node) -> Node:
        return self.listener if node is self.dialler else self.dialler


@dataclass(slots=True)
class Cut:
    """Packets from one of `sources` to one of `targets` do not arrive, from `since` to `until`."""

    sources: frozenset[int]
    targets: frozenset[int]
    since: float
    until: float = FOREVER

    def parts(self, a: int, b: int) -> bool:
        """In either direction."""
        return (a in self.sources and b in self.targets) or (b in self.sources and a in self.targets)


class Network:
    def __init__(self, random: Random, loss: float, slowest_s: float) -> None:
        self._random = random
        self.loss = loss
        self._slowest_s = slowest_s
        self._cuts: list[Cut] = []
        self.history: list[Cut] = []
        self.places: dict[Address, Node] = {}

    def delay_s(self) -> float:
        """One way: mostly short, now and then as long as it gets."""
        share = self._random.random()
        return 0.0002 + self._slowest_s * share * share * share

    def loses(self, packets: int = 1) -> bool:
        return self.loss > 0 and self._random.random() > (1 - self.loss) ** packets

    def carries(self, source: int, target: int) -> bool:
        return not any(source in cut.sources and target in cut.targets for cut in self._cuts)

    def is_whole(self, a: int, b: int) -> bool:
        """Both ways."""
        return not self._cuts or (self.carries(a, b) and self.carries(b, a))

    def was_cut(self, a: int, b: int, since: float, before: float = FOREVER) -> bool:
        """At any time after `since`, by something that happened before `before`."""
        return any(cut.until >= since and cut.since < before and cut.parts(a, b) for cut in self.history)

    def isolated_since(self, index: int) -> float:
        """Since when nobody at all hears of it, as far as one cut does that; long ago for all others."""
        alone = [cut.since for cut in self._cuts if cut.sources == {index} and len(cut.targets) == len(self.places) - 1]
        return min(alone, default=-FOREVER)

    def cut(self, sources: Iterable[int], targets: Iterable[int], now: float, *, both: bool = True) -> list[Cut]:
        ways = [Cut(frozenset(sources), frozenset(targets), now)]
        if both:
            ways.append(Cut(ways[0].targets, ways[0].sources, now))
        self._cuts += ways
        self.history += ways
        return ways

    def heal(self, cuts: Collection[Cut], now: float) -> None:
        for cut in cuts:
            if cut in self._cuts:
                self._cuts.remove(cut)
                cut.until = now

    @property
    def cuts(self) -> list[Cut]:
        return list(self._cuts)

    def find(self, addresses: Sequence[Address]) -> Node | None:
        return next((self.places[address] for address in addresses if address in self.places), None)
