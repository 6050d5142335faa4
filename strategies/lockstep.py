"""What a step takes that a group runs in lock-step.

    block      every member computes, and the slowest sets the pace:      compute
    exchange   everybody sends to everybody, and the slowest at that sets the pace:
               wire (one interface for each member, each direction for itself) + codec + handling of each message

Columns have two such phases in a block, after attention and after the MLP. Of the last block only keys and values are
made of all tokens; the rest is made of the tokens that somebody reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import permutations
from typing import Final

import numpy as np

from swarm.collectives import blocks_of, exchanges, message_bytes, needed_of
from swarm.plan import Group, Member, Part, Shard, Step
from swarm.strategies.costs import Costs
from swarm.strategies.inside import Span, parts_of_block
from swarm.strategies.links import Cargo, Floats, Ints
from swarm.strategies.sharing import affine
from swarm.types import DTYPE_BYTES, Inside, PeerId

PACKED: Final = 0.86
"""Of what a block takes as part of a whole model: a group's weights are laid out beforehand for the products that are
made with them (ViT-B, one x86 core)."""

MESSAGE_STEPS: Final = 0.5
"""A message sent or taken in, in units of its peer's `step_s`. A guess: nobody measures it apart."""

EXCHANGE_STEPS: Final = 1.0
"""An exchange: to the worker thread and back. A guess, too."""


@dataclass(frozen=True, slots=True)
class Lockstep:
    """Of one request of one sample on one group."""

    compute_s: float
    exchange_s: float
    busy_s: Mapping[PeerId, float]
    """Of each member's CPU."""
    taken_s: Mapping[PeerId, float]
    """Of each member's network interface, in its busier direction."""
    links_s: Mapping[tuple[PeerId, PeerId], float]
    """Of each direction of a link."""

    @classmethod
    def of(cls, costs: Costs, step: Step, span: Span) -> Lockstep:
        assert step.group is not None
        rows = np.array([costs.index[peer] for peer in step.peers])
        work = _work_s(costs, step.group, rows, span)
        traffic = _Traffic(costs, _bare(step.group), rows)
        for exchange, times in _repeated(step.group):
            traffic.add(exchange, times)
        busy = work.sum(axis=(0, 1)) + traffic.cpu_s
        taken = np.maximum(traffic.way_s.sum(axis=1), traffic.way_s.sum(axis=0))
        links = {
            (step.peers[i], step.peers[j]): float(traffic.way_s[i, j])
            for i, j in permutations(range(len(rows)), 2)
            if traffic.way_s[i, j] > 0
        }
        return cls(
            float(work.max(axis=2).sum()),
            traffic.spent_s,
            dict(zip(step.peers, map(float, busy), strict=True)),
            dict(zip(step.peers, map(float, taken), strict=True)),
            links,
        )


def moved_bytes(group: Group) -> int:
    """Of all exchanges of one sample, over the network."""
    bare = _bare(group)
    return sum(times * int(_matrix(bare, exchange).sum()) for exchange, times in _repeated(group))


def came_bytes(group: Group) -> int:
    """What its lead takes in, in the exchanges of one sample."""
    bare = _bare(group)
    return sum(times * int(_matrix(bare, exchange)[:, 0].sum()) for exchange, times in _repeated(group))


def seconds_of(costs: Costs, rows: Ints, span: Span) -> Floats:
    """`[B, D]`: what each block of a span takes on each of these peers, whole, but in a group of one."""
    seconds: Floats = PACKED * np.diff(costs.done_s[rows][:, span[0] : span[1] + 1], axis=1).T
    return seconds


def _totals(group: Group, block: int) -> tuple[int, int]:
    """All heads and neurons of a block. Of tokens, everybody has all."""
    shards = [member.part.shard for member in group.members if member.part.shard is not None]
    everybody = shards[:1] if group.split == "tokens" else shards
    return sum(shard.heads[block] for shard in everybody), sum(shard.neurons[block] for shard in everybody)


def _work_s(costs: Costs, group: Group, rows: Ints, span: Span) -> Floats:
    """`[phases, B, D]`."""
    blocks = blocks_of(group)
    shares = np.array([_phases(group, block) for block in range(blocks)])  # [B, phases, D]
    work: Floats = seconds_of(costs, rows, span) * shares.transpose(1, 0, 2)
    return work


def _phases(group: Group, block: int) -> list[list[float]]:
    """For each phase and member, the part of a whole block's time."""
    heads, neurons = _totals(group, block)
    keys_values, attention, mlp = parts_of_block(Inside(heads, neurons, group.tokens, group.width, group.keys))
    is_last = block == blocks_of(group) - 1
    if group.split == "tokens":
        owned = [member.tokens / group.tokens for member in group.members]
        read = [needed_of(group, i) / group.tokens for i in range(len(owned))] if is_last else owned
        pairs = zip(owned, read, strict=True)
        return [[keys_values * affine(mine) + (attention + mlp) * affine(finished) for mine, finished in pairs]]
    finished = group.needed / group.tokens if is_last else 1.0
    shards = [member.part.shard for member in group.members if member.part.shard is not None]
    return [
        [(keys_values + attention * finished) * affine(shard.heads[block] / max(1, heads)) for shard in shards],
        [mlp * finished * affine(shard.neurons[block] / max(1, neurons)) for shard in shards],
    ]


def _repeated(group: Group) -> Iterator[tuple[int, int]]:
    """Exchanges, and how many there are of each kind: all blocks but the last are alike."""
    blocks, count = blocks_of(group), exchanges(group)
    each = 1 if group.split == "tokens" else 4 if group.scatters else 2
    before_last = each * (blocks - 1)
    yield from ((exchange, blocks - 1) for exchange in range(each if blocks > 1 else 0))
    yield from ((exchange, 1) for exchange in range(before_last, count))


@dataclass(slots=True)
class _Traffic:
    """The exchanges of one request, added up."""

    costs: Costs
    group: Group
    rows: Ints
    spent_s: float = 0.0
    cpu_s: Floats = field(init=False)  # [D]
    way_s: Floats = field(init=False)  # [D, D]
    delay_s: Floats = field(init=False)  # [D, D]
    byte_s: Floats = field(init=False)  # [D, D]

    def __post_init__(self) -> None:
        count, pairs = len(self.rows), np.ix_(self.rows, self.rows)
        self.cpu_s, self.way_s = np.zeros(count), np.zeros((count, count))
        self.delay_s, self.byte_s = self.costs.links.delay_s[pairs], self.costs.links.byte_s[pairs]

    def add(self, exchange: int, times: int) -> None:
        sent = _matrix(self.group, exchange)
        way_s = sent * self.byte_s
        delay_s = np.where(sent > 0, self.delay_s, 0.0).max(axis=0)
        cpu_s = self._handling_s(exchange, (sent > 0).astype(np.float64))
        wire_s = np.maximum(way_s.sum(axis=1), way_s.sum(axis=0))
        self.spent_s += times * float((wire_s + delay_s + cpu_s).max())
        self.cpu_s += times * cpu_s
        self.way_s += times * way_s

    def _handling_s(self, exchange: int, is_sent: Floats) -> Floats:
        """`[D]`: of each member's CPU. What goes to several is encoded once, unless each gets something else."""
        plain = _matrix(replace(self.group, wire="float32"), exchange) / DTYPE_BYTES["float32"]
        scattered = self.group.scatters and exchange % 2 == 0
        coded = (plain.sum(axis=1) if scattered else plain.max(axis=1)) + plain.sum(axis=0)
        coding_s = self.costs.links.encoding_s(Cargo(0, coded, self.group.wire), self.rows)
        messages = is_sent.sum(axis=1) + is_sent.sum(axis=0)
        handled = MESSAGE_STEPS * messages + EXCHANGE_STEPS * (messages > 0)
        spent: Floats = coding_s + handled * self.costs.step_s[self.rows]
        return spent


def _bare(group: Group) -> Group:
    """With nothing but what its messages depend on, so that groups which send the same are the same."""
    nothing = (0,) * blocks_of(group)
    part = Part("any", "0" * 64, shard=Shard(nothing, nothing))
    members = tuple(Member(part, member.tokens) for member in group.members)
    return replace(group, members=members, patience_s=0.0, on_loss="retry")


@lru_cache(maxsize=512)
def _matrix(bare: Group, exchange: int) -> Floats:
    """`[D, D]`: bytes from each member to each."""
    members = range(len(bare.members))
    sent = np.array([[message_bytes(bare, exchange, i, j, 1) for j in members] for i in members], np.float64)
    sent.setflags(write=False)
    return sent
