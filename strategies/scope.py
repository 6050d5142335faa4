"""Which devices may run what between which cuts: the boards on which the best chain is looked for.

latency      the sum of all steps and edges
throughput   the largest share of a CPU's or a link's time that one request takes
share        the largest share of the model's memory
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from swarm.strategies.costs import Costs
from swarm.strategies.links import Cargo, Floats, Ints, cargo, raw_cargo
from swarm.strategies.prediction import together_bytes
from swarm.strategies.search import Board, Way


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """D devices, M + 1 places from the first to the last, and W wire dtypes to choose from."""

    costs: Costs
    devices: tuple[int, ...]
    """Rows of the costs; quick ones first make the search quick."""
    places: tuple[int, ...]
    wires: tuple[str, ...]
    most_bytes: float = np.inf
    """What no device may use more of, whatever it has."""
    at_every_place: bool = False
    """Whether every place has to be a cut."""

    def within(self, most_bytes: float) -> Scope:
        return replace(self, most_bytes=most_bytes)

    def latency(self) -> Board:
        spent = self._compute_s() + (self.costs.wait_s + self.costs.step_s)[self._rows]
        shape = (len(self.places), len(self.wires)) * 2 + (len(self.devices),)
        step = np.broadcast_to(self._allowed(spent)[:, None, :, None, :], shape)
        enter = self.costs.links.crossing_s(raw_cargo(self.costs.model.input), self.costs.me, self._rows)
        return self._board(step, enter, self._crossing(occupied=False), np.add)

    def throughput(self) -> Board:
        """A CPU is busy with its step, and with coding what comes in and goes out."""
        spent = self._allowed(self._compute_s() + self.costs.step_s[self._rows])
        coding = np.stack([self.costs.links.encoding_s(load, self._rows) for load in self._loads(1)], axis=1)
        into, out = coding.copy(), coding  # [M + 1, W, D]
        into[0] = 0.0  # raw pixels
        out[-1, :, self._rows == self.costs.me] = 0.0  # the answer stays
        step = spent[:, None, :, None, :] + into[:, :, None, None, :] + out[None, None, :, :, :]
        enter = self.costs.links.occupied_s(raw_cargo(self.costs.model.input), self.costs.me, self._rows)
        return self._board(step, enter, self._crossing(occupied=True), np.maximum)

    def share(self) -> Board:
        """In bytes; links count only in so far as they can be used, and wires not at all."""
        board = fastest_wires(self.latency())
        step = np.where(np.isfinite(board.step), self._bytes()[:, None, :, None, None], np.inf)
        edge, enter, leave = (np.where(np.isfinite(s), 0.0, np.inf) for s in (board.edge, board.enter, board.leave))
        return Board(step, edge, enter, leave, np.maximum)

    def holds(self, way: Way) -> bool:
        """Whether a way that comes back to devices fits them with all that each of them has to hold."""
        spans: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for device, start, end in zip(way.devices, way.places, way.places[1:], strict=False):
            spans[device].append((self.places[start], self.places[end]))
        limits = np.minimum(self.costs.limit_bytes, self.most_bytes)
        return all(together_bytes(self.costs, held) <= limits[self.devices[d]] for d, held in spans.items())

    @property
    def _rows(self) -> Ints:
        return np.array(self.devices, np.int64)

    def _compute_s(self) -> Floats:
        """`[M + 1, M + 1, D]`."""
        done_s = self.costs.done_s[self._rows][:, self.places].T  # [M + 1, D]
        return done_s[None, :, :] - done_s[:, None, :]

    def _allowed(self, spent: Floats) -> Floats:
        """Infinite for spans `[M + 1, M + 1, D]` that lead nowhere, or need more memory than there is."""
        ahead = np.arange(len(self.places))[None, :] - np.arange(len(self.places))[:, None]
        forward = ahead == 1 if self.at_every_place else ahead > 0
        limits = np.minimum(self.costs.limit_bytes[self._rows], self.most_bytes)
        fits = self._bytes()[:, :, None] <= limits
        return np.where(forward[:, :, None] & fits, spent, np.inf)

    def _bytes(self) -> Floats:
        """`[M + 1, M + 1]`."""
        held = self.costs.held_bytes[list(self.places)]
        between = np.maximum.reduceat(self.costs.working_bytes, self.places[:-1])  # [M]
        working = np.zeros((len(self.places), len(self.places)))
        for start in range(len(between)):
            working[start, start + 1 :] = np.maximum.accumulate(between[start:])
        return held[None, :] - held[:, None] + working

    def _loads(self, *beside: int) -> list[Cargo]:
        """By wire, what travels at each place, as arrays `[M + 1, *beside]`; nothing of the kind at the first."""
        outputs = [self.costs.model.stages[place - 1].output for place in self.places[1:]]
        return [_stacked([cargo(spec, wire) for spec in outputs], beside) for wire in self.wires]

    def _crossing(self, *, occupied: bool) -> Floats:
        """`[M + 1, W, P', P']`, where P' are the devices and, last, the requester."""
        links, rows = self.costs.links, np.array([*self.devices, self.costs.me], np.int64)
        price = links.occupied_s if occupied else links.crossing_s
        return np.stack([price(load, rows[:, None], rows[None, :]) for load in self._loads(1, 1)], axis=1)

    def _board(self, step: Floats, enter: Floats, crossing: Floats, combine: np.ufunc) -> Board:
        return Board(step, crossing[:, :, :-1, :-1], enter, crossing[-1, :, :-1, -1], combine)


def fastest_wires(board: Board) -> Board:
    """Where the wire matters to edges alone, each can take the best."""
    edge, leave = board.edge.min(axis=1, keepdims=True), board.leave.min(axis=0, keepdims=True)
    return Board(board.step[:, :1, :, :1], edge, board.enter, leave, board.combine)


def narrowed(board: Board, other: Board, bound: float) -> Board:
    """`board` without the moves that cost more than `bound` on the `other` one."""
    enter, leave, edge, step = (
        np.where(theirs <= bound, ours, np.inf)
        for ours, theirs in (
            (board.enter, other.enter),
            (board.leave, other.leave),
            (board.edge, other.edge),
            (board.step, other.step),
        )
    )
    return Board(step, edge, enter, leave, board.combine)


def _stacked(loads: Sequence[Cargo], beside: tuple[int, ...]) -> Cargo:
    nbytes, coded = (
        np.array([0, *amounts]).reshape(-1, *beside)
        for amounts in zip(*((c.nbytes, c.coded) for c in loads), strict=True)
    )
    return Cargo(nbytes, coded, loads[0].wire)
