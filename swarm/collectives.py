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

from collections.abc import Sequence
from itertools import accumulate

from swarm.plan import INPUT, Edge, Group, Shard, Step
from swarm.types import DTYPE_BYTES, ModelProfile, Stage, TensorSpec

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


def expected(group: Group, me: int) -> tuple[dict[int, int], ...]:
    """What one member gets in each exchange: by sender, the bytes of one sample."""
    senders = range(len(group.members))
    sizes = ({j: message_bytes(group, n, j, me, 1) for j in senders} for n in range(exchanges(group)))
    return tuple({sender: nbytes for sender, nbytes in each.items() if nbytes} for each in sizes)


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


def misfit(step: Step, model: ModelProfile, inputs: Sequence[Edge]) -> str | None:
    """Where a group does not fit its model, or the edges that lead to one of its members; None if it does."""
    group = step.group
    assert group is not None
    names = [INPUT, *(stage.name for stage in model.stages)]
    if step.part.start not in names or step.part.end not in names:
        return "it names cuts that the model does not have"
    stages = model.stages[names.index(step.part.start) : names.index(step.part.end)]
    if len(stages) != blocks_of(group):
        return f"{blocks_of(group)} blocks are shared out where the model has {len(stages)} stages"
    is_last = stages[-1] is model.stages[model.blocks[-1] - 1]
    if group.needed < (model.needed if is_last and model.needed else group.tokens):
        return "it leaves out tokens that somebody reads"
    first = starts(group)
    spans = {peer: (first[place], first[place + 1]) for place, peer in enumerate(step.peers)}
    if any(edge.tokens != (spans[edge.receiver] if group.split == "tokens" else None) for edge in inputs):
        return "a member is sent other tokens than its own"
    return _misfit_inside(group, stages)


def _misfit_inside(group: Group, stages: Sequence[Stage]) -> str | None:
    insides = [stage.inside for stage in stages if stage.inside is not None]
    if len(insides) != len(stages):
        return "it shares out what is no block with heads and neurons"
    if any((each.tokens, each.width, each.keys) != (group.tokens, group.width, group.keys) for each in insides):
        return "its blocks have tokens of another number or width"
    whole = Shard(tuple(each.heads for each in insides), tuple(each.neurons for each in insides))
    if group.split == "tokens" and any(member.part.shard != whole or not member.tokens for member in group.members):
        return "whoever runs tokens of its own needs some, and all heads and neurons"
    return None


def tokens_of(edge: Edge, spec: TensorSpec) -> TensorSpec:
    """What of a tensor `[tokens, width]` travels along an edge."""
    if edge.tokens is None or not edge.tokens[0] < edge.tokens[1] <= spec.shape[0]:
        return spec
    return TensorSpec((edge.tokens[1] - edge.tokens[0], *spec.shape[1:]), spec.dtype)
