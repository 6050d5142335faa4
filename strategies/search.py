"""The best chain of devices through a model, exactly: dynamic programming over sets of devices, cuts and wires.

    entered[place, wire, row] ── a step on the row's device ──▶ closed[place, wire, row]
           ▲                                                          │
           └────────────── the edge to the next row's device ◀────────┘   and from the last place, the way home

A *row* says what came before: for the exact search a set of devices and the one of them that has the tensor
(Held and Karp's states, and those of PipeEdge's pipelines), for the relaxed one only the device. A layer of rows is
one step longer than the layer before, so that the best way of every length falls out. What is added up, or what the
largest is taken of, is the board's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from swarm.strategies.links import Floats, Ints


@dataclass(frozen=True, slots=True, eq=False)
class Board:
    """The costs of all moves of D devices between M + 1 places, with W wire dtypes; infinite where none is allowed."""

    step: Floats  # [M + 1, W, M + 1, W, D]
    """From entering at a place to closing at a later one."""
    edge: Floats  # [M + 1, W, D, D]
    enter: Floats  # [D]
    leave: Floats  # [W, D]
    combine: np.ufunc
    """`np.add` or `np.maximum`."""

    def below(self, bound: float) -> Board:
        """Without moves that alone cost more than `bound`."""
        step, edge = (np.where(moves <= bound, moves, np.inf) for moves in (self.step, self.edge))
        return Board(step, edge, self.enter, self.leave, self.combine)

    def onwards(self, *, everybody: bool) -> Board:
        """With devices only in their order: each of them, or some."""
        ahead = np.subtract.outer(np.arange(self.devices), np.arange(self.devices))  # sender − receiver
        edge = np.where(ahead == -1 if everybody else ahead < 0, self.edge, np.inf)
        if not everybody:
            return Board(self.step, edge, self.enter, self.leave, self.combine)
        ends = np.arange(self.devices)
        enter = np.where(ends == 0, self.enter, np.inf)
        leave = np.where(ends == self.devices - 1, self.leave, np.inf)
        return Board(self.step, edge, enter, leave, self.combine)

    def rounded(self) -> Board:
        """In single precision: twice as fast, and still far finer than what was measured."""
        step, edge, enter, leave = (
            costs.astype(np.float32) for costs in (self.step, self.edge, self.enter, self.leave)
        )
        return Board(step, edge, enter, leave, self.combine)

    @property
    def devices(self) -> int:
        return len(self.enter)

    @property
    def last(self) -> int:
        """The last place."""
        return len(self.step) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The rows of ways of one length, grouped by their last device: equally many for each."""

    device: Ints  # [R]
    before: Ints  # [J, R]
    """Rows of the layer before from which each row may come."""
    sender: Ints  # [J, R]
    """Their devices."""


@dataclass(frozen=True, slots=True)
class Way:
    """A chain as the search found it: step i runs on `devices[i]`, from `places[i]` to `places[i + 1]`."""

    cost: float
    devices: tuple[int, ...]
    places: tuple[int, ...]
    wires: tuple[int, ...]
    """How each step's output travels."""


def search(board: Board, layers: Iterable[Layer], *, least: int = 1, rivals: bool = False) -> list[Way]:
    """The best way of each number of steps for which there is one, the shortest first.

    It ends when longer ways cannot be better than one of `least` steps or more; with `rivals` it goes on all the same.
    """
    runs, trail, ways = _runs(board), list[_Reached](), list[Way]()
    for layer in layers:
        reached = _Reached(layer, _enter(board, layer, trail), runs, board)
        best = min((way.cost for way in ways if len(way.devices) >= least), default=np.inf)
        if (reached.entered.min() >= best and not rivals) or np.isinf(reached.entered.min()):
            break
        trail.append(reached)
        if (way := _finish(board, trail)) is not None:
            ways.append(way)
    return ways


@lru_cache(maxsize=32)
def subsets(devices: int) -> tuple[Layer, ...]:
    """Ways that use each device at most once: a row for each set of devices and each last one of the set."""
    masks = np.arange(1 << devices)
    members = (masks[:, None] >> np.arange(devices)) & 1  # [2^D, D]
    sizes = members.sum(axis=1)
    layers = [_first(devices)]
    rank = np.zeros((devices, 1 << devices), np.int64)
    for size in range(2, devices + 1):
        for device in range(devices):
            before = masks[(sizes == size - 1) & (members[:, device] == 1)]
            rank[device, before] = device * len(before) + np.arange(len(before))
        rows = [masks[(sizes == size) & (members[:, device] == 1)] for device in range(devices)]
        last = np.repeat(np.arange(devices), len(rows[0]))
        others = np.concatenate(rows) ^ (1 << last)  # [R]
        sender = np.nonzero(members[others])[1].reshape(len(others), size - 1).T
        layers.append(Layer(last, rank[sender, others], sender))
    return tuple(layers)


def walks(devices: int, steps: int) -> Iterator[Layer]:
    """Ways that may come back to a device, though never from itself: a row for each device."""
    yield _first(devices)
    others = np.array([[other for other in range(devices) if other != device] for device in range(devices)]).T
    for _ in range(steps - 1 if devices > 1 else 0):
        yield Layer(np.arange(devices), others, others)


def best(ways: Sequence[Way], least: int = 1) -> Way | None:
    """The cheapest of those with `least` steps or more; of equally cheap ones the shortest."""
    return min((way for way in ways if len(way.devices) >= least), key=lambda way: way.cost, default=None)


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """All steps of one length in places, from one wire to another."""

    length: int
    wire_in: int
    wire_out: int
    devices: int
    """Only the first so many devices can go so far at all."""
    cost: Floats  # [M + 1 - length, devices, 1]


def _runs(board: Board) -> list[_Run]:
    wires, found = range(board.step.shape[1]), []
    for length in range(1, board.last + 1):
        starts = np.arange(board.last + 1 - length)
        for wire_in in wires:
            for wire_out in wires:
                cost = board.step[starts, wire_in, starts + length, wire_out]
                able = np.flatnonzero(np.isfinite(cost).any(axis=0))
                if len(able):
                    devices = int(able[-1]) + 1
                    found.append(_Run(length, wire_in, wire_out, devices, cost[:, :devices, None].copy()))
    return found


class _Reached:
    """What a layer costs, entered and closed `[M + 1, W, R]`."""

    def __init__(self, layer: Layer, entered: Floats, runs: Sequence[_Run], board: Board) -> None:
        self.layer, self.entered = layer, entered
        self.closed = np.full_like(entered, np.inf)
        grouped = (*entered.shape[:2], board.devices, -1)  # [M + 1, W, D, R / D]
        source, target = entered.reshape(grouped), self.closed.reshape(grouped)
        first, last = _extent(entered)
        for run in runs:
            end = min(last, board.last - run.length) + 1
            into = target[first + run.length : end + run.length, run.wire_out, : run.devices]
            ran = board.combine(source[first:end, run.wire_in, : run.devices], run.cost[first:end])
            np.minimum(into, ran, out=into)


def _extent(costs: Floats) -> tuple[int, int]:
    """The first and the last place that any row has come to; none if nothing has."""
    alive = np.flatnonzero(np.isfinite(costs).any(axis=(1, 2)))
    return (int(alive[0]), int(alive[-1])) if len(alive) else (0, -1)


def _first(devices: int) -> Layer:
    nobody = np.zeros((0, devices), np.int64)
    return Layer(np.arange(devices), nobody, nobody)


def _enter(board: Board, layer: Layer, trail: Sequence[_Reached]) -> Floats:
    shape = board.edge.shape[:2]  # [M + 1, W]
    entered = np.full((*shape, len(layer.device)), np.inf, board.step.dtype)
    if not trail:
        entered[0, 0] = board.enter[layer.device]
        return entered
    first, last = _extent(trail[-1].closed[:-1])
    within = slice(first, last + 1)
    closed, edge = trail[-1].closed[within], board.edge.reshape(*shape, -1)[within]
    for before, sender in zip(layer.before, layer.sender, strict=True):
        crossed = closed.take(before, axis=2)
        board.combine(crossed, edge.take(sender * board.devices + layer.device, axis=2), out=crossed)
        np.minimum(entered[within], crossed, out=entered[within])
    return entered


def _finish(board: Board, trail: Sequence[_Reached]) -> Way | None:
    """The best way that ends with the last layer, traced back by looking again where its cost came from."""
    reached = trail[-1]
    totals = board.combine(reached.closed[board.last], board.leave[:, reached.layer.device])  # [W, R]
    wire, row = _lowest(totals)
    cost, place = float(totals[wire, row]), board.last
    if not np.isfinite(cost):
        return None
    devices, places, wires = [int(reached.layer.device[row])], [place], [wire]
    for reached, earlier in zip(reversed(trail), [*reversed(trail[:-1]), None], strict=True):
        device = reached.layer.device[row]
        place, wire = _lowest(board.combine(reached.entered[:, :, row], board.step[:, :, place, wire, device]))
        places.append(place)
        if earlier is not None:
            before, sender = reached.layer.before[:, row], reached.layer.sender[:, row]
            crossed = board.combine(earlier.closed[place, wire, before], board.edge[place, wire, sender, device])
            row = int(before[int(crossed.argmin())])
            devices.append(int(earlier.layer.device[row]))
            wires.append(wire)
    return Way(cost, tuple(reversed(devices)), tuple(reversed(places)), tuple(reversed(wires)))


def _lowest(costs: Floats) -> tuple[int, int]:
    first, second = np.unravel_index(int(costs.argmin()), costs.shape)
    return int(first), int(second)
