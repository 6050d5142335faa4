"""How much memory the activations of a stage need at once. Pure.

A piece of memory lives from the node that makes it to the last one that reads it, under whatever name. What an
operator takes for itself while it runs is not seen.
"""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

from swarm.models.costs import Costs
from swarm.models.graph import Graph
from swarm.plan import INPUT
from swarm.types import DTYPE_BYTES, TensorSpec


def working_bytes(graph: Graph, costs: Costs, start: str, end: str, picture: TensorSpec) -> int:
    """The most bytes that live at once between two cuts, for one sample; input and output are among them.

    Whoever runs a part holds its input to the end.
    """
    given = picture if start == INPUT else graph.cut(start).tensor
    most = max(_living_bytes(graph, costs, start, end), nbytes(graph.cut(end).tensor))
    return nbytes(given) + most


def nbytes(tensor: TensorSpec) -> int:
    return tensor.elements * DTYPE_BYTES[tensor.dtype]


def _living_bytes(graph: Graph, costs: Costs, start: str, end: str) -> int:
    """Without what the region is given."""
    region = graph.region(start, end)
    first, last = dict[int, int](), dict[int, int]()
    for place, index in enumerate(region):
        for touched in (index, *graph.nodes[index].inputs()):
            for piece in costs.pieces.get(touched, ()):
                first.setdefault(piece, place)
                last[piece] = place
    for piece in _given_pieces(graph, costs, start):
        first.pop(piece, None)
    changes = Counter[int]()
    for piece, place in first.items():
        changes[place] += costs.piece_bytes[piece]
        changes[last[piece] + 1] -= costs.piece_bytes[piece]
    return max(accumulate(changes[place] for place in range(len(region))), default=0)


def _given_pieces(graph: Graph, costs: Costs, start: str) -> tuple[int, ...]:
    if start != INPUT:
        return costs.pieces[graph.cut(start).node]
    return tuple(piece for index, node in enumerate(graph.nodes) if node.op == INPUT for piece in costs.pieces[index])
