"""The best chain of two devices or more for each goal, out of all that use each device at most once.

Latency is looked for twice. Ways that may come back to a device are few enough to be searched at once; when their best
one fits everybody's memory, it is the best of all plans. Otherwise the exact search over sets of devices decides, and a
plan that would come back to a device is not considered: a gap that only memory can open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from swarm.plan import Metric
from swarm.strategies.scope import Scope, fastest_wires, narrowed
from swarm.strategies.search import Board, Way, best, search, subsets, walks

SAME: Final = 1.01
"""Plans whose throughput differs by less are as good as each other, and the quicker answer decides."""


@dataclass(frozen=True, slots=True)
class Found:
    """A chain in terms of the costs' rows and the model's places; `wires` is None where the fastest will do."""

    devices: tuple[int, ...]
    cuts: tuple[int, ...]
    wires: tuple[str, ...] | None


def optimum(scope: Scope, metric: Metric) -> Found | None:
    """The best chain of at least two devices; None when nothing fits."""
    return _SEARCHES.get(metric, _quickest)(scope)


def shortlist(scope: Scope, metric: Metric, most: int) -> list[Found]:
    """The best chain of exactly two devices, of exactly three, and so on up to `most`, as far as there are any."""
    layers = subsets(len(scope.devices))[:most]
    if metric == "throughput":
        ways = search(scope.throughput().rounded(), layers, rivals=True)
        return [_found(scope, way, wired=True) for way in ways if len(way.devices) > 1]
    caps = [way.cost for way in search(scope.share(), layers, rivals=True)] if metric == "memory" else [np.inf]
    tries = [search(fastest_wires(scope.within(cap).latency()), layers, rivals=True) for cap in caps]
    firsts = {len(way.devices): way for ways in tries for way in ways}
    return [_found(scope, way, wired=False) for steps, way in sorted(firsts.items()) if steps > 1]


def in_order(scope: Scope, metric: Metric) -> Found | None:
    """The best chain through all of the scope's devices, in their order."""

    def ordered(board: Board) -> Way | None:
        board = board.onwards(everybody=True)
        return best(search(board, walks(board.devices, board.devices), rivals=True), board.devices)

    if metric == "throughput":
        way = ordered(scope.throughput())
        return None if way is None else _found(scope, way, wired=True)
    if metric == "memory":
        evenest = ordered(scope.share())
        scope = scope if evenest is None else scope.within(evenest.cost)
    way = ordered(fastest_wires(scope.latency()))
    return None if way is None else _found(scope, way, wired=False)


def first_fit(scope: Scope) -> Found | None:
    """The quickest chain through some of the scope's devices in their order: for more than can be searched in full."""
    board = fastest_wires(scope.latency()).onwards(everybody=False)
    way = best(search(board, walks(board.devices, board.devices), least=2), 2)
    return None if way is None else _found(scope, way, wired=False)


def _quickest(scope: Scope) -> Found | None:
    board = fastest_wires(scope.latency())
    way = best(search(board, walks(board.devices, board.last), least=2), 2)
    if way is not None and not scope.holds(way):
        way = best(search(board, subsets(board.devices), least=2), 2)
    return None if way is None else _found(scope, way, wired=False)


def _busiest_least(scope: Scope) -> Found | None:
    """The least bottleneck; of the shortest plans that come near it, with the same devices, the quickest."""
    board = scope.throughput().rounded()
    ways = search(board.below(_upper_bound(board)), subsets(board.devices), least=2)
    least = best(ways, 2)
    if least is None:
        return None
    enough = least.cost * SAME
    shortest = next(way for way in ways if len(way.devices) > 1 and way.cost <= enough)
    few = replace(scope, devices=tuple(scope.devices[device] for device in sorted(shortest.devices)))
    quick = narrowed(few.latency(), few.throughput(), enough).rounded()
    near = best(search(quick, subsets(len(few.devices)), least=2), 2)
    return _found(scope, shortest, wired=True) if near is None else _found(few, near, wired=True)


def _evenest(scope: Scope) -> Found | None:
    """The least largest share, and the quickest plan in which nobody has a larger one."""
    board = scope.share()
    way = best(search(board.below(_upper_bound(board)), subsets(board.devices), least=2), 2)
    return None if way is None else _quickest(scope.within(way.cost))


def _upper_bound(board: Board) -> float:
    """What the best way costs that takes devices in their order only: moves that alone cost more are of no use."""
    onwards = board.onwards(everybody=False)
    way = best(search(onwards, walks(board.devices, board.devices), least=2), 2)
    return np.inf if way is None else way.cost


_SEARCHES: Final[dict[str, Callable[[Scope], Found | None]]] = {
    "latency": _quickest,
    "throughput": _busiest_least,
    "memory": _evenest,
}


def _found(scope: Scope, way: Way, *, wired: bool) -> Found:
    devices = tuple(scope.devices[device] for device in way.devices)
    cuts = tuple(scope.places[place] for place in way.places)
    return Found(devices, cuts, tuple(scope.wires[wire] for wire in way.wires) if wired else None)
