"""A group's turns where each member runs its own tokens through whole blocks: keys and values are gathered.

norm1 ─ keys, values ──post──▶ others
      └ queries, while those travel ─ yield ─ attention over all tokens ─ proj ─ MLP
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from swarm import collectives
from swarm.models.inside.formula import Block, Tensor, as_array, first_tokens
from swarm.models.inside.timetable import timetable
from swarm.models.inside.wires import decode, encode
from swarm.plan import Group
from swarm.types import Array
from swarm.workshop import Post, Turns


def turns(blocks: Sequence[Block], group: Group, me: int, x: Tensor, post: Post) -> Turns:
    """See `RunnableShard.turns`. `x` `[samples, own tokens, width]` is the request's own, and is changed."""
    request = _Request(group, me, x)
    table = timetable(group, me)
    last = len(blocks) - 1
    for number, block in enumerate(blocks if request.own else ()):
        turn = table[number]
        buffer = request.share(block, bool(turn.receivers))
        if buffer is not None:
            post(number, dict.fromkeys(turn.receivers, buffer))
        if number == last and not request.keep_needed():
            return None
        request.ask(block)
        received: Sequence[memoryview | None] = (yield number) if turn.senders else ()
        request.finish(block, turn.senders, received)
    if me != 0:
        if request.own:
            post(len(blocks), {0: request.result_share()})
        return None
    senders = table[len(blocks)].senders if len(table) > len(blocks) else ()
    received = (yield len(blocks)) if senders else ()
    return request.result(senders, received)


class _Request:
    """One request's tensors."""

    def __init__(self, group: Group, me: int, x: Tensor) -> None:
        self._group, self._me = group, me
        self.samples, self.own, width = x.shape
        self._x = x.view(-1, width)
        self._starts = collectives.starts(group)
        self._needed = collectives.needed_of(group, me)
        self._normed = self._x
        self._queries = self._x
        self._gathered: Tensor | None = None

    @torch.inference_mode()
    def share(self, block: Block, is_sent: bool) -> memoryview | None:
        """Own keys and values, put where all are gathered, and as they travel."""
        self._normed = block.norm1(self._x)
        made = block.keys_values(self._normed)
        own = made.view(self.samples, self.own, -1)
        if len(self._starts) == 2:
            self._gathered = own
        else:
            if self._gathered is None:
                self._gathered = own.new_empty(self.samples, self._group.tokens, own.shape[2])
            self._of(self._me).copy_(own)
        return encode(made, self._group.wire) if is_sent else None

    def _of(self, member: int) -> Tensor:
        assert self._gathered is not None
        return self._gathered[:, self._starts[member] : self._starts[member + 1]]

    @torch.inference_mode()
    def keep_needed(self) -> int:
        """From here on only the tokens that somebody reads; how many those are."""
        if 0 < self._needed < self.own:
            self._x = first_tokens(self._x, self.samples, self._needed)
            self._normed = first_tokens(self._normed, self.samples, self._needed)
        return self._needed

    @torch.inference_mode()
    def ask(self, block: Block) -> None:
        self._queries = block.queries(self._normed, self.samples)

    @torch.inference_mode()
    def finish(self, block: Block, senders: Sequence[int], received: Sequence[memoryview | None]) -> None:
        is_whole = True
        for sender in senders:
            buffer = received[sender]
            if buffer is None:
                is_whole = False
            else:
                decode(buffer, self._group.wire, self._of(sender))
        block.add_attention(self._x, block.attend(self._queries, self._all(is_whole, senders, received)))
        block.add_mlp(self._x)

    def _all(self, is_whole: bool, senders: Sequence[int], received: Sequence[memoryview | None]) -> Tensor:
        """Keys and values of all tokens, or of those whose members are there."""
        assert self._gathered is not None
        if is_whole:
            return self._gathered
        there = sorted([self._me, *(sender for sender in senders if received[sender] is not None)])
        return torch.cat([self._of(member) for member in there], dim=1)

    @torch.inference_mode()
    def result_share(self) -> memoryview:
        return encode(self._x, self._group.wire)

    @torch.inference_mode()
    def result(self, senders: Sequence[int], received: Sequence[memoryview | None]) -> Array:
        """All that anybody reads, in its place among zeros."""
        width = self._x.shape[1]
        if not senders and self._needed == self._group.tokens:
            return as_array(self._x.view(self.samples, -1, width))
        out = torch.zeros(self.samples, self._group.tokens, width)
        out[:, : self._needed] = self._x.view(self.samples, -1, width)[:, : self._needed]
        for sender in senders:
            if (buffer := received[sender]) is not None:
                first = self._starts[sender]
                decode(buffer, self._group.wire, out[:, first : first + collectives.needed_of(self._group, sender)])
        return as_array(out)
