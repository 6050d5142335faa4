"""Shares in whole units, exactly: the largest cost of any member is as small as it can be.

A member's cost is affine, fixed + units · each. That holds well enough: with its weights laid out beforehand one ViT-B
block took 30.6, 15.9, 8.9 and 5.3 ms for 197, 99, 50 and 25 tokens, with the keys and values of all (the project's own
measurement on one core): 0.05 + 0.95 · share of the whole, and no point is further from it than 0.02.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Final

import numpy as np

from swarm.strategies.links import Floats, Ints

ALIKE: Final = 1.35
"""Devices are about as fast up to so many times the quickest of them."""

FIXED: Final = 0.05
"""The part of a block's time that does not shrink with a member's share of it; see above. It was measured for tokens,
and is taken for heads and neurons, too."""


@dataclass(frozen=True, slots=True)
class Load:
    """What units cost one member, and how many it can bear."""

    fixed: float
    unit: float
    most: int


@dataclass(frozen=True, slots=True)
class Holder:
    """A member that shares heads and neurons: seconds of both phases, which end one after the other, and bytes."""

    heads: Load
    neurons: Load
    head_bytes: float
    neuron_bytes: float
    free_bytes: float


def alike(seconds: Floats) -> Floats:
    """The same, with devices that are about as fast counted as equally fast.

    A device's figure differs by a fifth from one look to the next, more where it shares a machine; and lock-step waits
    for the slowest: shares that followed such differences would cost more than they gain.
    """
    made, order = seconds.copy(), np.argsort(seconds, kind="stable")
    first = 0
    for place in range(1, len(order) + 1):
        if place == len(order) or seconds[order[place]] > ALIKE * seconds[order[first]]:
            made[order[first:place]] = seconds[order[first:place]].mean()
            first = place
    return made


def affine(share: float) -> float:
    """The part of a block's time that a share of it takes."""
    return FIXED + (1 - FIXED) * share if share > 0 else 0.0


def load(whole_s: float, units: int, most: int | None = None) -> Load:
    """Of a member that alone would take `whole_s` for all the units."""
    return Load(FIXED * whole_s, (1 - FIXED) * whole_s / max(1, units), units if most is None else most)


def apportion(units: int, loads: Sequence[Load], least: int = 1) -> tuple[int, ...] | None:
    """Whole units for each member, at least `least`, with the smallest possible largest cost; None if they cannot bear
    all of them.

    Every next unit goes where it is done soonest. Each member's costs rise with its units, so these are the `units`
    smallest of all costs, and no other choice has a smaller largest one. Of equals the first gets it.
    """
    shares = [least] * len(loads)
    left = units - sum(shares)
    if left < 0 or any(one.most < least for one in loads):
        return None
    queue = [(_next(one, least), i) for i, one in enumerate(loads) if one.most > least]
    heapify(queue)
    for _ in range(left):
        if not queue:
            return None
        _, i = heappop(queue)
        shares[i] += 1
        if shares[i] < loads[i].most:
            heappush(queue, (_next(loads[i], shares[i]), i))
    return tuple(shares)


def divide(heads: int, neurons: int, holders: Sequence[Holder]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Heads and neurons of each member, at least one of each, with the smallest possible sum of the slowest attention
    and the slowest MLP; None if there is no room for them. Of equals the last gets more: the first also leads.

    Where memory lets it, each is shared on its own, and that is best. Else every bound on the attention's time is tried
    with the least bound on the MLP's that leaves everybody room.
    """
    backwards = holders[::-1]
    own_heads = apportion(heads, [one.heads for one in backwards])
    own_neurons = apportion(neurons, [one.neurons for one in backwards])
    if own_heads is None or own_neurons is None:
        return None
    if all(map(_has_room, backwards, own_heads, own_neurons)):
        return own_heads[::-1], own_neurons[::-1]
    squeezed = _Squeeze(heads, neurons, backwards).best()
    return None if squeezed is None else (squeezed[0][::-1], squeezed[1][::-1])


def _next(one: Load, units: int) -> float:
    return one.fixed + one.unit * (units + 1)


def _has_room(one: Holder, heads: int, neurons: int) -> bool:
    return heads * one.head_bytes + neurons * one.neuron_bytes <= one.free_bytes


class _Squeeze:
    """`divide` where memory ties heads to neurons."""

    def __init__(self, heads: int, neurons: int, holders: Sequence[Holder]) -> None:
        self.heads, self.neurons, self.holders = heads, neurons, holders
        self.head_s = [one.heads.fixed + one.heads.unit * np.arange(1, heads + 1) for one in holders]
        self.neuron_s = [one.neurons.fixed + one.neurons.unit * np.arange(1, neurons + 1) for one in holders]
        self.room = [_room(one, heads, neurons) for one in holders]

    def best(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        bounds = np.unique(np.concatenate(self.neuron_s))
        found, lowest_s = None, np.inf
        for head_s in np.unique(np.concatenate(self.head_s)):
            enough = bounds[bounds < lowest_s - head_s]
            if not len(enough):
                break
            least = self._least(head_s, enough)
            if least is not None:
                found, lowest_s = least, head_s + self._slowest(least[1])
        return found

    def _least(self, head_s: float, bounds: Floats) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """With the lowest bound on the MLP's seconds, if any of these rising ones can be kept to."""
        if self._within(head_s, bounds[-1]) is None:
            return None
        low, high = 0, len(bounds) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._within(head_s, bounds[middle]) is not None else (middle + 1, high)
        heads = self._within(head_s, bounds[low])
        assert heads is not None
        loads = [
            Load(one.neurons.fixed, one.neurons.unit, int(room[n]))
            for one, room, n in zip(self.holders, self.room, heads, strict=True)
        ]
        neurons = apportion(self.neurons, loads)
        assert neurons is not None
        return heads, neurons

    def _within(self, head_s: float, neuron_s: float) -> tuple[int, ...] | None:
        """Heads that keep to the bounds and leave room for all neurons: the ones that leave most, member by member."""
        most = np.full(self.heads + 1, -1, np.int64)
        most[0] = 0
        chosen = list[Ints]()
        for times_h, times_n, room in zip(self.head_s, self.neuron_s, self.room, strict=True):
            able = np.minimum(room, int(np.searchsorted(times_n, neuron_s, "right")))
            able[int(np.searchsorted(times_h, head_s, "right")) + 1 :] = 0
            most, choice = _joined(most, able)
            chosen.append(choice)
        if most[self.heads] < self.neurons:
            return None
        shares, left = list[int](), self.heads
        for choice in reversed(chosen):
            shares.append(int(choice[left]))
            left -= shares[-1]
        return tuple(reversed(shares))

    def _slowest(self, neurons: Sequence[int]) -> float:
        return max(float(times[n - 1]) for times, n in zip(self.neuron_s, neurons, strict=True))


def _room(one: Holder, heads: int, neurons: int) -> Ints:
    """`[heads + 1]`: the neurons for which there is room beside so many heads; none beside no head."""
    left = one.free_bytes - one.head_bytes * np.arange(heads + 1)
    room = (
        np.minimum(neurons, np.floor(left / one.neuron_bytes)) if one.neuron_bytes else np.where(left >= 0, neurons, 0)
    )
    room = np.maximum(0, np.minimum(room, one.neurons.most)).astype(np.int64)
    room[0] = 0
    room[one.heads.most + 1 :] = 0
    return room


def _joined(most: Ints, able: Ints) -> tuple[Ints, Ints]:
    """The most neurons for each number of heads with one member more, and the heads that this one takes for it."""
    count = len(most)
    before = np.arange(count)[:, None] - np.arange(count)[None, :]  # [all heads, this member's]
    sums = np.where((before >= 0) & (most[before] >= 0) & (able > 0), most[before] + able, -1)
    choice = sums.argmax(axis=1)
    return sums[np.arange(count), choice], choice
