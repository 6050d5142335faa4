"""A toy whose middle stages are blocks that a group can share: six tokens of width four, six heads, six neurons.

A block does the same twice: it adds to every token the sum of all tokens (`tokens`, once), or the token itself for as
large a share as there are heads, then neurons (`columns`). So an answer shows who took part in what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from swarm.collectives import blocks_of, exchanges, needed_of, starts
from swarm.plan import INPUT, OUTPUT, Edge, Group, Member, Part, Plan, Shard, Step, weights_digest
from swarm.types import Array, Inside, Location, ModelProfile, Stage, TensorSpec
from swarm.workshop import Post, Turns
from tests.toy import CUTS, DIGESTS, Node, ToyBlueprint, ToySlot, ToyWorkshop

TOKENS, WIDTH, HEADS = 6, 4, 6
SPEC = TensorSpec((TOKENS, WIDTH))
INSIDE = Inside(HEADS, HEADS, TOKENS, WIDTH, WIDTH)
STAGES = tuple(
    Stage(name, 100, 16, SPEC, (i - 1,) if i else (), inside=INSIDE if name in "bc" else None)
    for i, name in enumerate(CUTS[1:])
)
PROFILE = ModelProfile("toy", "d" * 64, SPEC, STAGES, (1, 2, 3))


@dataclass(frozen=True)
class GroupBlueprint(ToyBlueprint):
    profile: ModelProfile = PROFILE

    def tensors_of(self, part: Part) -> list[ToySlot]:
        return super().tensors_of(replace(part, shard=None))

    def boundary(self, cut: str) -> TensorSpec:
        return SPEC


@dataclass
class GroupWorkshop(ToyWorkshop):
    """`before_turn` is called in the worker thread before each turn but the first, with the exchange that is over."""

    blueprint: ToyBlueprint = GroupBlueprint()
    before_turn: Callable[[int], None] = lambda exchange: None

    def shard(
        self, blueprint: ToyBlueprint, part: Part, digests: Sequence[str], locate: Callable[[str], Location]
    ) -> ToyShard:
        return ToyShard(part, lambda exchange: self.before_turn(exchange))  # noqa: PLW0108 - set later


@dataclass(frozen=True)
class ToyShard:
    part: Part
    before_turn: Callable[[int], None]

    def turns(self, group: Group, me: int, x: Array, post: Post) -> Turns:
        x = np.array(x, np.float32)
        return self._tokens(group, me, x, post) if group.split == "tokens" else self._columns(group, me, x, post)

    def _tokens(self, group: Group, me: int, x: Array, post: Post) -> Turns:
        others = [place for place in range(len(group.members)) if place != me]
        for block in range(blocks_of(group)):
            own = np.concatenate([x, x], axis=2)
            post(block, dict.fromkeys(others, _bytes(own)))
            received = yield block
            self.before_turn(block)
            total = x.sum(axis=1, keepdims=True)
            for place in others:
                if (came := received[place]) is not None:
                    theirs = _array(came, (len(x), group.members[place].tokens, 2 * WIDTH))
                    total = total + theirs[:, :, :WIDTH].sum(axis=1, keepdims=True)
            x = x + total
        if me:
            post(blocks_of(group), {0: _bytes(x)})
            return None
        received = yield blocks_of(group)
        whole = np.zeros((len(x), TOKENS, WIDTH), np.float32)
        whole[:, : x.shape[1]] = x
        for place in others:
            if (came := received[place]) is not None:
                first = starts(group)[place]
                theirs = _array(came, (len(x), needed_of(group, place), WIDTH))
                whole[:, first : first + theirs.shape[1]] = theirs
        return whole

    def _columns(self, group: Group, me: int, x: Array, post: Post) -> Turns:
        shard = self.part.shard
        assert shard is not None
        others = [place for place in range(len(group.members)) if place != me]
        last = exchanges(group) - 1
        for exchange in range(last + 1):
            share = (shard.neurons if exchange % 2 else shard.heads)[exchange // 2]
            partial = x * np.float32(share / HEADS)
            to = others if exchange < last else [0] if me else []
            post(exchange, dict.fromkeys(to, _bytes(partial)))
            if exchange == last and me:
                return None
            received = yield exchange
            self.before_turn(exchange)
            x = x + partial
            for came in received:
                x = x if came is None else x + _array(came, x.shape)
        return x


def group_plan(
    me: Node,
    *nodes: Node,
    split: Any = "tokens",
    on_loss: Any = "retry",
    patience_s: float = 5.0,
    requester: Node | None = None,
) -> Plan:
    """`me` runs what comes before the blocks, and after; all share these, `me` first."""
    asks = me.id if requester is None else requester.id
    peers = [me.id, *(node.id for node in nodes)]
    each = HEADS // len(peers)
    counts = [HEADS - each * (len(peers) - 1), *[each] * (len(peers) - 1)]
    members = tuple(
        Member(_part("a", "c", Shard(*(((HEADS if split == "tokens" else n),) * 2,) * 2)), n) for n in counts
    )
    group = Group(split, members, TOKENS, WIDTH, WIDTH, TOKENS, patience_s=patience_s, on_loss=on_loss)
    steps = (
        Step("0", _part(INPUT, "a"), (me.id,)),
        Step("1", _part("a", "c"), tuple(peers), group),
        Step("2", _part("c", OUTPUT), (me.id,)),
    )
    spans = [(sum(counts[:i]), sum(counts[: i + 1])) for i in range(len(peers))]
    ways = [
        Edge("0", "1", me.id, peer, TensorSpec((n, WIDTH)) if split == "tokens" else SPEC, tokens=span)
        if split == "tokens"
        else Edge("0", "1", me.id, peer, SPEC)
        for peer, n, span in zip(peers, counts, spans, strict=True)
    ]
    into, out = Edge(INPUT, "0", asks, me.id, SPEC), Edge("2", OUTPUT, me.id, asks, SPEC)
    between = Edge("1", "2", me.id, me.id, SPEC)
    return Plan("plan", "test", asks, steps, (into, *ways, between, out))


def _part(start: str, end: str, shard: Shard | None = None) -> Part:
    bare = Part(PROFILE.name, PROFILE.digest, start, end, shard=shard)
    return replace(bare, weights=weights_digest(DIGESTS[slot.name] for slot in GroupBlueprint().tensors_of(bare)))


def expected(x: Array, split: str, lost: Mapping[int, int] | None = None) -> Array:
    """What the whole toy gives; `lost` are heads and neurons that are missing, by exchange."""
    y = x + 1
    for half in range(4 if split == "columns" else 2):
        if split == "columns":
            y = y + y * ((HEADS - (lost or {}).get(half, 0)) / HEADS)
        else:
            y = y + y.sum(axis=1, keepdims=True)
    return y + 1000


def _bytes(x: Array) -> memoryview:
    return np.ascontiguousarray(x, np.float32).view(np.uint8).reshape(-1).data


def _array(came: memoryview, shape: tuple[int, ...]) -> Array:
    return np.frombuffer(came, np.float32).reshape(shape)
