"""What the members of a group send each other, exchange by exchange: pure arithmetic, the same on every peer.

    tokens            block b: keys and values of one's own tokens to all          exchange b
                      at the end: one's own tokens to the lead                     exchange B, unless the lead has all
    columns           block b: partial sums to all, after attention and MLP        exchanges 2b, 2b + 1
    columns, scatters block b: partial sums of a token to its owner, then          exchanges 4b, 4b + 2
                      the owner's sums to all                                      exchanges 4b + 1, 4b + 3

Of the last block only the tokens that somebody reads are finished (`Group.needed`): their owners alone need its keys
and values, and a sum of columns is of them alone, straight to all after attention and to the lead after the MLP.
"""

from __future__ import annotations

from itertools import accumulate

from swarm.plan import Group, Step
from swarm.types import DTYPE_BYTES

SCALE_BYTES = 4
"""int8 carries a float32 scale for each token's row."""


def blocks_of(group: Group) -> int:
    shard = group.members[0].part.shard
    return 0 if shard is None else len(shard.heads)


def starts(group: Group) -> tuple[int, ...]:
    """The first token of each member, and the end of the last."""
    return tuple(accumulate((member.tokens for member in group.members), initial=0))


def needed_of(group: Group, member: int) -> int:
    """How many of a member's tokens anybody reads at the end."""
    first = starts(group)[member]
    return max(0, min(group.needed - first, group.members[member].tokens))


def exchanges(group: Group) -> int:
    """How many there are in one request."""
    blocks = blocks_of(group)
    if group.split == "tokens":
        return blocks + any(needed_of(group, member) for member in range(1, len(group.members)))
    return 4 * (blocks - 1) + 2 if group.scatters else 2 * blocks


def message_bytes(group: Group, exchange: int, sender: int, receiver: int, samples: int) -> int:
    """What one member sends another one in an exchange of so many samples; 0 where it sends nothing."""
    if sender == receiver or not 0 <= exchange < exchanges(group):
        return 0
    tokens, width = _message(group, exchange, sender, receiver)
    return wire_bytes(samples * tokens, width, group.wire)


def wire_bytes(rows: int, width: int, wire: str) -> int:
    """Of `[rows, width]` float32 in a wire dtype."""
    return rows * (width * DTYPE_BYTES[wire] + (SCALE_BYTES if wire == "int8" else 0))


def _message(group: Group, exchange: int, sender: int, receiver: int) -> tuple[int, int]:
    """Rows of one sample, and the elements of each."""
    blocks = blocks_of(group)
    if group.split == "tokens":
        if exchange == blocks:
            return (needed_of(group, sender) if receiver == 0 else 0), group.width
        is_read = exchange < blocks - 1 or needed_of(group, receiver) > 0
        return (group.members[sender].tokens if is_read else 0), 2 * group.keys
    last = exchanges(group) - 1
    if exchange >= last - 1:
        return (0 if exchange == last and receiver != 0 else group.needed), group.width
    if not group.scatters:
        return group.tokens, group.width
    owner = receiver if exchange % 2 == 0 else sender
    return group.members[owner].tokens, group.width


def flaw(step: Step) -> str | None:
    """What is wrong with a group as it stands in a plan; None for nothing."""
    group = step.group
    if group is None:
        return None if len(step.peers) == 1 else "a step of several peers has to say how they share it"
    if len(group.members) != len(step.peers) or len(set(step.peers)) != len(step.peers):
        return "a group has one member for each of its peers"
    shards = [member.part.shard for member in group.members]
    if any(shard is None or len(shard.heads) != len(shard.neurons) for shard in shards):
        return "each member of a group holds heads and neurons of every block"
    if len({len(shard.heads) for shard in shards if shard is not None}) != 1:
        return "all members of a group share the same blocks"
    ends = {(member.part.model, member.part.anatomy, member.part.start, member.part.end) for member in group.members}
    if ends != {(step.part.model, step.part.anatomy, step.part.start, step.part.end)}:
        return "all members of a group share the step's own run of blocks"
    if sum(member.tokens for member in group.members) != group.tokens or not 0 < group.needed <= group.tokens:
        return "the members' tokens have to make up all there are"
    if group.wire not in ("float32", "float16", "bfloat16", "int8"):
        return f"'{group.wire}' is not a wire dtype"
    return None
