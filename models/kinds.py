"""Which stages do the same work: the same operators on the same shapes, whatever their parameters are called. Pure.

All blocks of a vision transformer are of one kind, so a device that has timed one of them knows them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

import msgspec

from swarm.models.blueprint import TensorSlot
from swarm.models.graph import TENSOR, Graph, Node, renumbered
from swarm.plan import INPUT
from swarm.types import Stage, TensorSpec

DIGITS = 16


def kind(graph: Graph, slots: Mapping[str, TensorSlot], start: str, end: str, picture: TensorSpec) -> str:
    """A digest of all that decides how long the region between two cuts takes: operators, arguments, shapes, dtypes."""
    given, first = (picture, None) if start == INPUT else (graph.cut(start).tensor, graph.cut(start).node)
    places = _by_need(graph.nodes, first, graph.cut(end).node)
    nodes = [renumbered(_without_name(graph.nodes[index], slots), places) for index in places if index != first]
    return _digest([given, nodes])


def whole_kind(anatomy: str) -> str:
    """The kind of a model's only stage that has no graph."""
    return _digest(anatomy)


def representatives(stages: Sequence[Stage]) -> tuple[int, ...]:
    """Indices of the first stage of each kind."""
    first = dict[str, int]()
    for index, stage in enumerate(stages):
        first.setdefault(stage.kind, index)
    return tuple(first.values())


def _by_need(nodes: Sequence[Node], first: int | None, last: int) -> dict[int, int]:
    """Each node's place in an order of its own: where `last` needs it first. In the graph the nodes that depend on no
    picture may stand anywhere before, in one block here and in the next there."""
    places = {} if first is None else {first: 0}
    waiting = [last]
    while waiting:
        index = waiting[-1]
        missing = next((read for read in nodes[index].inputs() if read not in places), None)
        if missing is None:
            places[waiting.pop()] = len(places)
        else:
            waiting.append(missing)
    return places


def _without_name(node: Node, slots: Mapping[str, TensorSlot]) -> Node:
    if node.op != TENSOR:
        return node
    slot = slots[node.args[0]]
    return Node(TENSOR, (list(slot.shape), slot.dtype))


def _digest(said: object) -> str:
    plain = msgspec.to_builtins(said, order="deterministic")
    return sha256(msgspec.msgpack.encode(plain, order="deterministic")).hexdigest()[:DIGITS]
