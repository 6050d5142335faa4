"""Where a traced model may be cut, what each cut is called, and which of them delimit its blocks. Pure.

Nodes that depend on the picture carry data; all others (class tokens, position tables, sizes) are *free*: any part
that needs them computes them again. A cut is a place in the order of nodes where one data tensor is live::

    conv ─┬─ norm ─ attn ─ + ─── mlp      live after `+`: one tensor, a cut
          └────────────────┘              live after `norm`: two, no cut
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from swarm.models.facts import Fact
from swarm.models.graph import Cut, Node
from swarm.plan import INPUT, OUTPUT

_NUMBERED = re.compile(r"(^|[._])\d+$")
MAX_NAME = 128


@dataclass(frozen=True, slots=True)
class Flow:
    """A traced model's order: which nodes carry data, and who reads whom."""

    nodes: Sequence[Node]
    facts: Sequence[Fact]
    data: tuple[bool, ...]
    readers: tuple[tuple[int, ...], ...]
    """For each node, the data nodes that read it."""

    @classmethod
    def of(cls, nodes: Sequence[Node], facts: Sequence[Fact]) -> Flow:
        data: list[bool] = []
        readers: list[list[int]] = [[] for _ in nodes]
        for index, node in enumerate(nodes):
            reads = node.inputs()
            data.append(node.op == INPUT or any(data[read] for read in reads))
            if data[-1]:
                for read in reads:
                    readers[read].append(index)
        return cls(nodes, facts, tuple(data), tuple(map(tuple, readers)))

    def places(self) -> tuple[int, ...]:
        """Nodes after which nothing but their own tensor is live; the output's node is the last."""
        found, last_reader = [], -1
        for index, carries in enumerate(self.data):
            if not carries:
                continue
            if last_reader <= index and self.nodes[index].op != INPUT and self.facts[index].tensor is not None:
                found.append(index)
            last_reader = max(last_reader, *self.readers[index], -1)
        return tuple(found)


def find_cuts(flow: Flow) -> tuple[tuple[Cut, ...], tuple[int, ...]]:
    """All cuts, and the indices for `blocks` of a `ModelProfile`."""
    places = flow.places()
    blocks = _block_paths(flow, places)
    named = [(_path_of(flow, place, blocks), place) for place in places]
    cuts = tuple(_cuts(flow, named))
    return cuts, _block_indices(flow, cuts, blocks)


def _path_of(flow: Flow, place: int, blocks: frozenset[str]) -> str:
    """The path of the block that this tensor leaves, else of the outermost module that it leaves, else where it is."""
    inside = {path for reader in flow.readers[place] for path in flow.facts[reader].modules}
    modules = flow.facts[place].modules
    left = [path for path in modules if path not in inside]
    block = [path for path in left if path in blocks]
    return (block or left[:1] or modules[-1:] or ("",))[0]


def _cuts(flow: Flow, named: list[tuple[str, int]]) -> Iterator[Cut]:
    """Of neighbours with one path the last is kept; elsewhere the node's name keeps equal paths apart."""
    kept = [pair for pair, after in pairwise(named) if pair[0] != after[0]] + named[-1:]
    last = dict(kept)
    taken = {INPUT, OUTPUT, *(path for path in last if path)}
    for path, place in kept:
        tensor = flow.facts[place].tensor
        assert tensor is not None
        if place == kept[-1][1]:
            name = OUTPUT
        elif path and last[path] == place and path not in (INPUT, OUTPUT) and len(path) <= MAX_NAME:
            name = path
        else:
            name = _free_name(f"{path}:{flow.facts[place].name}".lstrip(":")[-MAX_NAME:], taken)
        yield Cut(name, place, tensor)


def _free_name(wanted: str, taken: set[str]) -> str:
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted[: MAX_NAME - 6]}~{number}", number + 1
    taken.add(name)
    return name


def _block_paths(flow: Flow, places: Sequence[int]) -> frozenset[str]:
    """Numbered modules that cannot be cut inside, and their like between them: `blocks.3`, `layers.0.blocks.1`.

    A model without any (AlexNet) has its numbered layers with parameters instead.
    """
    knots = _innermost({path for region in _knots(flow, places) if (path := _numbered(_common(flow, region)))})
    paths = {path for fact in flow.facts for path in fact.modules if _NUMBERED.search(path)}
    found = _alike(flow, knots, paths) if knots else _with_parameters(flow, paths)
    ends = set(places)
    return frozenset(_innermost({path for path in found if _nodes_of(flow, path)[-1] in ends}))


def _alike(flow: Flow, knots: set[str], paths: set[str]) -> set[str]:
    """Those named as the knots are, from the first knot to the last: MobileNet has blocks without a shortcut."""
    patterns = {re.sub(r"\d+", "#", path) for path in knots}
    first = min(_nodes_of(flow, path)[0] for path in knots)
    last = max(_nodes_of(flow, path)[-1] for path in knots)
    within = {path for path in paths if first <= _nodes_of(flow, path)[0] <= _nodes_of(flow, path)[-1] <= last}
    return {path for path in within if re.sub(r"\d+", "#", path) in patterns}


def _knots(flow: Flow, places: Sequence[int]) -> Iterator[list[int]]:
    """Runs of data nodes between neighbouring cuts that are longer than one node."""
    ends, run = set(places), list[int]()
    for index, carries in enumerate(flow.data):
        if not carries or flow.nodes[index].op == INPUT:
            continue
        run.append(index)
        if index in ends:
            if len(run) > 1:
                yield run
            run = []


def _common(flow: Flow, region: Sequence[int]) -> tuple[str, ...]:
    """The modules in which all of a region stands."""
    first, *others = (flow.facts[index].modules for index in region)
    return tuple(path for path in first if all(path in modules for modules in others))


def _numbered(modules: tuple[str, ...]) -> str | None:
    return next((path for path in reversed(modules) if _NUMBERED.search(path)), None)


def _innermost(paths: set[str]) -> set[str]:
    return {path for path in paths if not any(other.startswith(f"{path}.") for other in paths)}


def _with_parameters(flow: Flow, paths: set[str]) -> set[str]:
    users = {index for index, node in enumerate(flow.nodes) if any(not flow.data[read] for read in node.inputs())}
    return {path for path in paths if users & set(_nodes_of(flow, path))}


def _nodes_of(flow: Flow, path: str) -> list[int]:
    """The data nodes that stand in a module."""
    return [index for index, fact in enumerate(flow.facts) if path in fact.modules and flow.data[index]] or [-1]


def _block_indices(flow: Flow, cuts: Sequence[Cut], blocks: frozenset[str]) -> tuple[int, ...]:
    spans = sorted((_nodes_of(flow, path)[0], _nodes_of(flow, path)[-1]) for path in blocks)
    if not spans:
        return tuple(range(len(cuts) + 1))
    before = [sum(cut.node < first for cut in cuts) for first, _ in spans]
    after = sum(cut.node < spans[-1][1] for cut in cuts) + 1
    return tuple(sorted({*before, after}))
