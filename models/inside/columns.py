"""A group's turns where each member runs all tokens through its own heads and neurons: partial sums are added up.

Everybody keeps the whole residual and finishes every sum itself, in the order of the members and from the very bytes
that travelled, its own included: so all residuals are the same, bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch

from swarm import collectives
from swarm.models.inside.formula import Block, Tensor, as_array, first_tokens
from swarm.models.inside.timetable import timetable
from swarm.models.inside.wires import encode, lent
from swarm.plan import Group
from swarm.types import Array
from swarm.workshop import Post, Turns

_NOTHING: tuple[memoryview | None, ...] = ()


def turns(blocks: Sequence[Block], group: Group, me: int, x: Tensor, post: Post) -> Turns:
    """See `RunnableShard.turns`. `x` `[samples, tokens, width]` is the request's own, and is changed."""
    request = _Request(group, me, x)
    table = timetable(group, me)
    last, exchange = len(blocks) - 1, 0
    for (number, block), is_mlp in product(enumerate(blocks), (False, True)):
        partial = request.partial(block, is_mlp, number == last)
        turn = table[exchange]
        if group.scatters and number < last:
            if turn.receivers:
                post(exchange, request.scattered(partial, turn.receivers))
            received = (yield exchange) if turn.senders else _NOTHING
            turn = table[exchange + 1]
            buffer = request.reduced(block, is_mlp, partial, received, bool(turn.receivers))
            if buffer is not None:
                post(exchange + 1, dict.fromkeys(turn.receivers, buffer))
            received = (yield exchange + 1) if turn.senders else _NOTHING
            request.gather(turn.senders, received)
            exchange += 2
        else:
            buffer = request.encoded(partial) if turn.receivers else None
            if buffer is not None:
                post(exchange, dict.fromkeys(turn.receivers, buffer))
            if me != 0 and number == last and is_mlp:
                return None
            received = (yield exchange) if turn.senders else _NOTHING
            request.finish(block, is_mlp, partial, buffer, received)
            exchange += 1
    return request.result()


class _Request:
    """One request's tensors."""

    def __init__(self, group: Group, me: int, x: Tensor) -> None:
        self._group, self._me = group, me
        self._x = x
        self._starts = collectives.starts(group)
        self._update: Tensor | None = None

    @torch.inference_mode()
    def partial(self, block: Block, is_mlp: bool, is_last: bool) -> Tensor:
        """Own heads' or neurons' share `[samples, tokens, width]`; of the last block for the tokens that are read."""
        samples, tokens, width = self._x.shape
        rows = self._x.view(-1, width)
        if is_mlp:
            return block.mlp_sum(rows).view(self._x.shape)
        reads = self._group.needed if is_last else tokens
        made = block.attention_sum(rows, samples, reads).view(samples, reads, width)
        self._x = first_tokens(rows, samples, reads).view(samples, reads, width)
        return made

    @torch.inference_mode()
    def encoded(self, partial: Tensor) -> memoryview:
        return encode(partial, self._group.wire)

    @torch.inference_mode()
    def finish(
        self,
        block: Block,
        is_mlp: bool,
        partial: Tensor,
        sent: memoryview | None,
        received: Sequence[memoryview | None],
    ) -> None:
        """Into the residual: the sum of all that came, and one's own as it travelled."""
        own = partial if sent is None or self._group.wire == "float32" else self._lent(sent, partial)
        _add(self._x, self._parts(own, received), block, is_mlp)

    def _parts(self, own: Tensor, received: Sequence[memoryview | None]) -> list[Tensor]:
        """In the order of the members."""
        parts = {sender: self._lent(buffer, own) for sender, buffer in enumerate(received) if buffer is not None}
        return [part for _, part in sorted([*parts.items(), (self._me, own)], key=lambda item: item[0])]

    def _lent(self, buffer: memoryview, like: Tensor) -> Tensor:
        return lent(buffer, self._group.wire, like.shape).to(like.device)

    @torch.inference_mode()
    def scattered(self, partial: Tensor, receivers: Sequence[int]) -> dict[int, memoryview]:
        """To each owner of tokens its own."""
        return {receiver: encode(self._of(partial, receiver), self._group.wire) for receiver in receivers}

    def _of(self, all_tokens: Tensor, member: int) -> Tensor:
        return all_tokens[:, self._starts[member] : self._starts[member + 1]]

    @torch.inference_mode()
    def reduced(
        self, block: Block, is_mlp: bool, partial: Tensor, received: Sequence[memoryview | None], is_sent: bool
    ) -> memoryview | None:
        """What is added to the residual of one's own tokens, as it travels; None when nobody else wants it."""
        own = self._of(partial, self._me)
        if not own.shape[1]:
            return None
        self._update = torch.zeros_like(own, memory_format=torch.contiguous_format)
        _add(self._update, self._parts(own, received), block, is_mlp)
        if not is_sent:
            return None
        buffer = encode(self._update, self._group.wire)
        self._update = self._lent(buffer, self._update)
        return buffer

    @torch.inference_mode()
    def gather(self, senders: Sequence[int], received: Sequence[memoryview | None]) -> None:
        """Add what all owners found out; tokens of a missing one stay as they are."""
        if self._update is not None:
            self._of(self._x, self._me).add_(self._update)
            self._update = None
        for sender in senders:
            if (buffer := received[sender]) is not None:
                rows = self._of(self._x, sender)
                rows.add_(self._lent(buffer, rows))

    @torch.inference_mode()
    def result(self) -> Array:
        samples, reads, width = self._x.shape
        if reads == self._group.tokens:
            return as_array(self._x)
        out = torch.zeros(samples, self._group.tokens, width)
        out[:, :reads] = self._x
        return as_array(out)


def _add(x: Tensor, parts: Sequence[Tensor], block: Block, is_mlp: bool) -> None:
    """`x += gamma * (bias + parts…)`."""
    bias = block.fc2_bias if is_mlp else block.proj_bias
    gamma = block.gamma2 if is_mlp else block.gamma1
    if gamma is None:
        for part in parts if bias is None else (*parts, bias):
            x.add_(part)
        return
    total = torch.zeros_like(x) if bias is None else bias.expand_as(x).clone()
    for part in parts:
        total.add_(part)
    x.addcmul_(total, gamma)
