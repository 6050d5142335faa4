"""A group's members in one process, in lock-step: their buffers go from generator to generator, each one measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from swarm import collectives
from swarm.models import Blueprint
from swarm.models.inside.running import RunnableShard
from swarm.plan import Group, Member, Part, Shard, Split, Step
from swarm.types import PeerId
from swarm.workshop import Turns

Array = npt.NDArray[np.float32]


def group_of(
    blueprint: Blueprint,
    split: Split,
    tokens: Sequence[int],
    heads: Sequence[int] | None = None,
    neurons: Sequence[int] | None = None,
    *,
    start: str = "",
    end: str = "",
    needed: int | None = None,
    wire: str = "float32",
    scatters: bool = False,
) -> Group:
    """A group over a run of a model's blocks, by default all of them, and by default with all heads and neurons."""
    profile = blueprint.profile
    names = [stage.name for stage in profile.stages]
    start, end = start or names[profile.blocks[0] - 1], end or names[profile.blocks[-1] - 1]
    blocks = names.index(end) - names.index(start)
    inside = profile.stages[names.index(end)].inside
    assert inside is not None
    each_heads = heads or [inside.heads] * len(tokens)
    each_neurons = neurons or [inside.neurons] * len(tokens)
    members = tuple(
        Member(Part(profile.name, profile.digest, start, end, "", Shard((h,) * blocks, (n,) * blocks)), t)
        for t, h, n in zip(tokens, each_heads, each_neurons, strict=True)
    )
    read = inside.tokens if needed is None else needed
    return Group(split, members, inside.tokens, inside.width, inside.keys, read, wire, scatters)


def step_of(group: Group) -> Step:
    peers = tuple(PeerId(f"{index:032x}") for index in range(len(group.members)))
    step = Step("step", replace(group.members[0].part, shard=None), peers, group)
    assert collectives.flaw(step) is None
    return step


@dataclass
class Driver:
    """Runs all members of a group.

    :param missing: from which exchange on nothing comes from a member any more.
    """

    group: Group
    shards: Sequence[RunnableShard]
    missing: Mapping[int, int] = field(default_factory=dict)
    residual_of: Callable[[int, Any], None] | None = None
    sent_bytes: int = 0

    def __post_init__(self) -> None:
        self._mail: dict[tuple[int, int, int], bytes] = {}
        self._samples = 0

    def run(self, x: Array) -> Array:
        """`x` `[B, tokens, width]`; what the lead gives out. Fails if a message is not exactly as announced."""
        self._samples = len(x)
        starts = collectives.starts(self.group)
        members = range(len(self.group.members))
        mine = [x[:, starts[m] : starts[m + 1]] if self.group.split == "tokens" else x for m in members]
        waiting: dict[int, tuple[Turns, int]] = {}
        results: dict[int, Any] = {}
        for member in members:
            turns = self.shards[member].turns(self.group, member, mine[member], self._post(member))
            self._go(member, turns, None, waiting, results)
        while waiting:
            member, (turns, exchange) = next((m, at) for m, at in waiting.items() if self._is_complete(m, at[1]))
            del waiting[member]
            self._go(member, turns, self._received(member, exchange), waiting, results)
        self._all_was_sent()
        assert all(results[member] is None for member in members if member)
        return np.asarray(results[0])

    def _go(
        self,
        member: int,
        turns: Turns,
        received: Any,
        waiting: dict[int, tuple[Turns, int]],
        results: dict[int, Any],
    ) -> None:
        try:
            waiting[member] = turns, (next(turns) if received is None else turns.send(received))
        except StopIteration as end:
            results[member] = end.value
        assert not torch.is_inference_mode_enabled()

    def _post(self, sender: int) -> Callable[[int, Mapping[int, Any]], None]:
        def post(exchange: int, buffers: Mapping[int, Any]) -> None:
            assert not torch.is_inference_mode_enabled()
            for receiver, buffer in buffers.items():
                view = memoryview(buffer)
                assert view.contiguous
                wanted = collectives.message_bytes(self.group, exchange, sender, receiver, self._samples)
                assert view.nbytes == wanted > 0, (exchange, sender, receiver)
                assert (exchange, sender, receiver) not in self._mail
                self._mail[exchange, sender, receiver] = bytes(view)
                self.sent_bytes += view.nbytes

        return post

    def _is_lost(self, sender: int, exchange: int) -> bool:
        return exchange >= self.missing.get(sender, 1 << 30)

    def _is_complete(self, member: int, exchange: int) -> bool:
        return all((exchange, sender, member) in self._mail for sender in self._senders(member, exchange))

    def _senders(self, member: int, exchange: int) -> list[int]:
        members = range(len(self.group.members))
        return [s for s in members if collectives.message_bytes(self.group, exchange, s, member, self._samples)]

    def _received(self, member: int, exchange: int) -> list[memoryview | None]:
        received: list[memoryview | None] = [None] * len(self.group.members)
        for sender in self._senders(member, exchange):
            if not self._is_lost(sender, exchange) and member not in self.missing:
                received[sender] = memoryview(bytearray(self._mail[exchange, sender, member]))
        return received

    def _all_was_sent(self) -> None:
        members = range(len(self.group.members))
        for exchange in range(collectives.exchanges(self.group)):
            for sender in members:
                for receiver in members:
                    nbytes = collectives.message_bytes(self.group, exchange, sender, receiver, self._samples)
                    assert bool(nbytes) == ((exchange, sender, receiver) in self._mail), (exchange, sender, receiver)
