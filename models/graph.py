"""A model's exported graph as plain data: nodes that name operators, never code.

An argument is a number, a string, None, a list, or a map with one tag: `{"node": 3}`, `{"dtype": "float32"}`,
`{"device": 0}` (the run device, whichever that is), `{"layout": ...}`, `{"memory_format": ...}`, `{"slice": [...]}`.
Three operators are ours: `input` (the picture), `batch` (the size of dimension 0) and `tensor` (a parameter).
No torch here; `swarm.models.rebuild` turns a region into something that runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import msgspec

from swarm.errors import CannotSplit, WeightsError
from swarm.plan import INPUT, OUTPUT
from swarm.types import Count, Digest, Name, TensorSpec, Text

BATCH, TENSOR = "batch", "tensor"


@dataclass(frozen=True, slots=True)
class Node:
    """One operator applied to earlier nodes."""

    op: Name
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def inputs(self) -> tuple[int, ...]:
        """Indices of the nodes that it reads, in order, without repeats."""
        return tuple(dict.fromkeys([*references(list(self.args)), *references(list(self.kwargs.values()))]))


def references(value: Any) -> Iterator[int]:
    """Indices of the nodes that an argument mentions."""
    if isinstance(value, list):
        for item in value:
            yield from references(item)
    elif isinstance(value, dict):
        if "node" in value:
            yield value["node"]
        else:
            yield from references(value.get("slice", []))


def renumbered(node: Node, places: Mapping[int, int]) -> Node:
    """The same node in a graph where those that it mentions have other indices."""

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(item) for item in value]
        if isinstance(value, dict):
            return {"node": places[value["node"]]} if "node" in value else {k: moved(v) for k, v in value.items()}
        return value

    return Node(node.op, tuple(map(moved, node.args)), {key: moved(value) for key, value in node.kwargs.items()})


@dataclass(frozen=True, slots=True)
class Cut:
    """A place where a single tensor is live: the node that made it, and what it looks like."""

    name: Name
    node: Count
    tensor: TensorSpec


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in an order in which they can run. `cuts` are in that order too; the last is the output."""

    nodes: tuple[Node, ...]
    cuts: tuple[Cut, ...]

    def cut(self, name: Text) -> Cut:
        """Raises `CannotSplit` when there is no cut of that name."""
        for cut in self.cuts:
            if cut.name == name:
                return cut
        raise CannotSplit(f"The model has no cut named '{name}'; use block numbers with --split.")

    def region(self, start: str, end: str) -> tuple[int, ...]:
        """Sorted indices of the nodes that lead from one cut to another; the start's own node is not among them.

        Raises `CannotSplit` when `end` does not come after `start`.
        """
        first = None if start == INPUT else self.cut(start).node
        last = self.cut(end).node
        if first is not None and first >= last:
            raise CannotSplit(f"The cut '{end}' does not come after '{start}'.")
        return _between(self.nodes, first, last)

    def tensor_names(self, start: str = INPUT, end: str = OUTPUT) -> tuple[str, ...]:
        """Names of the tensors that a region needs, sorted."""
        nodes = (self.nodes[index] for index in self.region(start, end))
        return tuple(sorted({node.args[0] for node in nodes if node.op == TENSOR}))

    def check(self) -> None:
        """Raises `WeightsError` unless each node reads earlier nodes only: what is stored may have been damaged."""
        for index, node in enumerate(self.nodes):
            if any(not 0 <= read < index for read in node.inputs()):
                raise WeightsError("A stored model description is damaged; delete the swarm's cache and try again.")
        if not self.cuts or self.cuts[-1].name != OUTPUT or any(cut.node >= len(self.nodes) for cut in self.cuts):
            raise WeightsError("A stored model description has no end; delete the swarm's cache and try again.")


def _between(nodes: tuple[Node, ...], first: int | None, last: int) -> tuple[int, ...]:
    reached, waiting = set[int](), [last]
    while waiting:
        index = waiting.pop()
        if index in reached or index == first:
            continue
        reached.add(index)
        waiting.extend(nodes[index].inputs())
    if first is not None and any(nodes[index].op == INPUT for index in reached):
        raise CannotSplit("The model's input is needed behind that cut.")
    return tuple(sorted(reached))


def digest(graph: Graph, tensors: object, picture: object, code: object = None) -> Digest:
    """SHA-256 over operators, arguments, shapes and names; not over values, and not over library versions.

    Without nodes the operators lie in a model's own `code`, so what that is has to be told.
    """
    said = {"graph": graph, "tensors": tensors, "input": picture} | ({} if code is None else {"code": code})
    plain = msgspec.to_builtins(said, order="deterministic")
    return sha256(msgspec.msgpack.encode(plain, order="deterministic")).hexdigest()
