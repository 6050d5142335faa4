"""What a tensor costs on its way between two peers: bytes, time on the wire, and work of both CPUs to encode it.

    sender ── encode ──▶ half a round trip, and bytes ÷ rate ──▶ decode ── receiver

All in seconds for one sample. Arrays by peer have the order of the records that they were made from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from swarm.types import DTYPE_BYTES, RAW_PICTURE, Link, PeerRecord, TensorSpec

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

GUESSED_LINK: Final = Link(rtt_s=0.005, bytes_per_s=10e6)
"""A middling Wi-Fi: what an unmeasured link is taken for where no link at all was measured."""

SLOWEST_BYTES_PER_S: Final = 1.0
"""Through anything slower nothing gets at all."""


@dataclass(frozen=True, slots=True, eq=False)
class Cargo:
    """What one sample of a tensor is on the wire; numbers, or arrays of them for several tensors at once."""

    nbytes: Any
    coded: Any
    """float32 elements that are encoded by the sender and decoded by the receiver."""
    wire: str


def cargo(spec: TensorSpec, wire: str) -> Cargo:
    """As `swarm.tensors` packs it: only float32 shrinks, and int8 carries a float32 scale for each row."""
    if spec.dtype != "float32":
        return Cargo(spec.elements * DTYPE_BYTES[spec.dtype], 0, wire)
    scales = DTYPE_BYTES["float32"] * math.prod(spec.shape[:-1]) if wire == "int8" else 0
    return Cargo(spec.elements * DTYPE_BYTES[wire] + scales, spec.elements, wire)


def raw_cargo(picture: TensorSpec) -> Cargo:
    """A model's input: pictures leave the requester as raw pixels, and the first step normalises them."""
    dtype = RAW_PICTURE if picture.dtype == "float32" else picture.dtype
    return Cargo(picture.elements * DTYPE_BYTES[dtype], 0, dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """Every way between P peers. One that lets nothing through takes forever."""

    delay_s: Floats  # [P, P]
    """Half the round trip."""
    byte_s: Floats  # [P, P]
    coding_s: Mapping[str, Floats]  # [P]
    """By wire dtype: for one element, on each peer's CPU; missing or 0 when unmeasured."""

    @classmethod
    def of(cls, records: Sequence[PeerRecord]) -> Links:
        """A link that neither end measured is as good as the median of the measured ones; see `GUESSED_LINK`."""
        rtt_s, rate = _measured(records)
        rtt_s, rate = np.where(np.isnan(rtt_s), rtt_s.T, rtt_s), np.where(np.isnan(rate), rate.T, rate)
        usable = rate >= SLOWEST_BYTES_PER_S
        guess = Link(float(np.median(rtt_s[usable])), float(np.median(rate[usable]))) if usable.any() else GUESSED_LINK
        rtt_s, rate = np.where(np.isnan(rate), guess.rtt_s, rtt_s), np.where(np.isnan(rate), guess.bytes_per_s, rate)
        byte_s = 1 / np.maximum(rate, SLOWEST_BYTES_PER_S)
        delay_s = np.where(rate >= SLOWEST_BYTES_PER_S, rtt_s / 2, np.inf)
        np.fill_diagonal(delay_s, 0.0)
        return cls(delay_s, byte_s, _coding(records))

    def crossing_s(self, load: Cargo, sender: Any, receiver: Any) -> Floats:
        """From the tensor in one peer's memory to the tensor in the other's; nothing where both are one peer."""
        spent = self.delay_s[sender, receiver] + load.nbytes * self.byte_s[sender, receiver]
        spent = spent + self.encoding_s(load, sender) + self.encoding_s(load, receiver)
        return np.where(np.equal(sender, receiver), 0.0, spent)

    def occupied_s(self, load: Cargo, sender: Any, receiver: Any) -> Floats:
        """How long the wire itself is taken: other tensors can follow then."""
        spent = np.where(self.reaches(sender, receiver), load.nbytes * self.byte_s[sender, receiver], np.inf)
        return np.where(np.equal(sender, receiver), 0.0, spent)

    def reaches(self, sender: Any, receiver: Any) -> Any:
        """Whether anything gets through at all."""
        return np.isfinite(self.delay_s[sender, receiver])

    def encoding_s(self, load: Cargo, peer: Any) -> Floats:
        """On one CPU, to encode or to decode it."""
        element_s = self.coding_s.get(load.wire)
        spent: Floats = load.coded * (np.zeros(np.shape(peer)) if element_s is None else element_s[peer])
        return spent


def _measured(records: Sequence[PeerRecord]) -> tuple[Floats, Floats]:
    """Round trips and rates `[P, P]`, NaN where the first of both ends has not measured."""
    rtt_s, rate = np.full((2, len(records), len(records)), np.nan)
    index = {record.id: i for i, record in enumerate(records)}
    for i, record in enumerate(records):
        for peer, link in record.profile.links.items():
            if (j := index.get(peer, i)) != i:
                rtt_s[i, j], rate[i, j] = link.rtt_s, link.bytes_per_s
    return rtt_s, rate


def _coding(records: Sequence[PeerRecord]) -> dict[str, Floats]:
    wires = sorted({wire for record in records for wire in record.profile.wire_elements_per_s})
    rates = {wire: [record.profile.wire_elements_per_s.get(wire, 0.0) for record in records] for wire in wires}
    return {wire: np.array([1 / rate if rate >= 1 else 0.0 for rate in row]) for wire, row in rates.items()}
