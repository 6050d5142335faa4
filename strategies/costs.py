"""What each stage of a model costs on each peer: the figures that every strategy plans with.

Seconds and bytes are for one sample. They are worked out once for a model and a view, as arrays over P peers and
N stages; a *place* is a number of stages done, from 0 to N.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from swarm.plan import Plan
from swarm.strategies.links import Floats, Links, cargo, raw_cargo
from swarm.types import ModelProfile, PeerId, PeerRecord, View

NOMINAL_FLOPS_PER_S: Final = 1e9
"""What a peer that was not measured is taken for where it has to be compared with its like."""

SLOWEST_FLOPS_PER_S: Final = 1e-3
"""Anything slower was not measured."""


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """A model on a swarm, in numbers. `index` finds a peer's row in the arrays."""

    model: ModelProfile
    view: View
    records: tuple[PeerRecord, ...]
    """The living, by id, and the requester in any case."""
    index: Mapping[PeerId, int]
    measured: tuple[bool, ...]
    done_s: Floats  # [P, N + 1]
    """Compute up to each place."""
    wait_s: Floats  # [P]
    """What a step takes longer because of other requests, as the peer has lately seen it."""
    step_s: Floats  # [P]
    limit_bytes: Floats  # [P]
    """Infinite where unknown."""
    held_bytes: Floats  # [N + 1]
    """Parameters up to each place."""
    working_bytes: Floats  # [N]
    """Of each stage."""
    links: Links
    barred: frozenset[int] = frozenset()
    """Rows of hosts that other plans have taken."""

    @classmethod
    def of(cls, model: ModelProfile, view: View) -> Costs:
        records = _records(view)
        rows = [_stage_s(model, view, record) for record in records]
        measured = tuple(row is not None for row in rows)
        nominal = [stage.flops / NOMINAL_FLOPS_PER_S for stage in model.stages]
        return cls(
            model=model,
            view=view,
            records=records,
            index={record.id: i for i, record in enumerate(records)},
            measured=measured,
            done_s=np.cumsum([[0.0, *(nominal if row is None else row)] for row in rows], axis=1),
            wait_s=np.array([record.load.wait_s for record in records]),
            step_s=np.array([record.profile.step_s for record in records]),
            limit_bytes=np.array([_limit(record) for record in records]),
            held_bytes=np.cumsum([0.0, *(float(stage.parameter_bytes) for stage in model.stages)]),
            working_bytes=np.array([float(stage.working_bytes) for stage in model.stages]),
            links=Links.of(records),
        )

    @property
    def me(self) -> int:
        """The requester's row."""
        return self.index[self.view.me]

    @property
    def ask_s(self) -> float:
        """What a request costs the requester itself, whatever the plan."""
        return self.records[self.me].profile.ask_s

    @property
    def is_blind(self) -> bool:
        """No host was measured, or nobody where there is none: one plan is as good as another."""
        hosts = [row for row, record in enumerate(self.records) if not record.client] or [self.me]
        return not any(self.measured[row] for row in hosts)

    @property
    def hosts(self) -> tuple[int, ...]:
        """Rows of those that may be used when somebody insists, measured or not."""
        return tuple(row for row, record in enumerate(self.records) if not record.client and row not in self.barred)

    @property
    def devices(self) -> tuple[int, ...]:
        """Rows of those that a strategy may use unasked: measured hosts, and the requester if it was measured, for a
        client computes for itself. All hosts where none was measured."""
        if self.is_blind:
            return self.hosts
        return tuple(row for row in sorted({*self.hosts, self.me}) if self.measured[row])

    def whole_s(self) -> Floats:
        """`[P]`: what an answer takes when one peer runs the whole model."""
        rows, answer = np.arange(len(self.records)), self.model.stages[-1].output
        spent = self.done_s[:, -1] + self.wait_s + self.step_s
        spent = spent + self.links.crossing_s(raw_cargo(self.model.input), self.me, rows)
        return spent + self.links.crossing_s(cargo(answer, "float32"), rows, self.me)

    def knows(self, peer: PeerId) -> bool:
        """Whether it was measured how fast `peer` computes."""
        return peer in self.index and self.measured[self.index[peer]]

    def name(self, peer: PeerId) -> str:
        return self.records[self.index[peer]].name if peer in self.index else peer[:8]

    def span_bytes(self, start: int, end: int) -> float:
        """What the stages from one place to another need in memory: parameters, and the most activations."""
        return float(self.held_bytes[end] - self.held_bytes[start] + self.working_bytes[start:end].max())

    def beside(self, plan: Plan) -> Costs:
        """What is left when `plan` is loaded: without its peers, but for the requester, which has less memory then."""
        taken = {self.index[peer] for peer in plan.peers()} - {self.me}
        limits = self.limit_bytes.copy()
        limits[self.me] -= plan.estimate.peak_memory_bytes.get(self.view.me, 0)
        return replace(self, barred=self.barred | taken, limit_bytes=limits)

    def only(self, devices: Collection[int]) -> Costs:
        """As if there were no other devices to use, but for the requester."""
        return replace(self, barred=frozenset(range(len(self.records))) - {*devices, self.me})


def _records(view: View) -> tuple[PeerRecord, ...]:
    """A requester that is not in its own view, for it has declined, still sends and receives."""
    alive = view.alive()
    if any(record.id == view.me for record in alive):
        return alive
    return tuple(sorted((*alive, PeerRecord(view.me, "here", (), 0, client=True)), key=lambda record: record.id))


def _stage_s(model: ModelProfile, view: View, record: PeerRecord) -> Sequence[float] | None:
    """As measured stage by stage, else by the rate of its matrix products; None without either."""
    times = view.stage_s.get(record.id, ())
    if len(times) == len(model.stages):
        return times
    rate = record.profile.flops_per_s.get("float32", 0.0)
    return [stage.flops / rate for stage in model.stages] if rate >= SLOWEST_FLOPS_PER_S else None


def _limit(record: PeerRecord) -> float:
    known = record.profile.memory_total_bytes > 0
    return float(record.profile.memory_free_bytes) if known else np.inf
