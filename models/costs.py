"""What each node of a graph costs for one picture, counted on the meta device: operations, and where its result lies.

A result lies in a *piece* of memory. Views lie in the piece of what they show, and so does what is computed in place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils.flop_counter import FlopCounterMode

from swarm.models.blueprint import TensorSlot
from swarm.models.graph import Graph
from swarm.models.mutation import shared
from swarm.models.rebuild import rebuild
from swarm.plan import INPUT, OUTPUT


@dataclass(frozen=True, slots=True)
class Costs:
    """Of every node of a graph, by its index; batch 1."""

    flops: Mapping[int, int]
    """Two per multiply-add."""
    pieces: Mapping[int, tuple[int, ...]]
    """The pieces of memory in which its result lies."""
    piece_bytes: tuple[int, ...]
    """By piece; 0 for those of parameters, which are counted elsewhere."""


class _Meter(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, counter: FlopCounterMode) -> None:
        super().__init__(module)
        self.counter = counter
        self.flops: list[int] = []
        self.pieces: list[tuple[int, ...]] = []
        self.piece_bytes: list[int] = []
        self._numbers: dict[int, int] = {}
        self._storages: list[torch.UntypedStorage] = []  # kept, or a later one could be taken for one that is gone

    def run_node(self, n: fx.Node) -> Any:
        before = self.counter.get_total_flops()
        result = super().run_node(n)
        counted = self.counter.get_total_flops() - before
        self.flops.append(counted or (_elements(n, result) if n.op == "call_function" else 0))
        self.pieces.append(tuple(dict.fromkeys(self._lie_in(result, is_parameter=n.op == "get_attr"))))
        return result

    def _lie_in(self, result: Any, *, is_parameter: bool) -> Iterator[int]:
        for value in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                number = self._numbers.setdefault(storage._cdata, len(self._storages))
                if number == len(self._storages):
                    self._storages.append(storage)
                    self.piece_bytes.append(0 if is_parameter else storage.nbytes())
                yield number


def _elements(node: fx.Node, result: Any) -> int:
    """What an operator without a formula costs: its output's elements; a view costs nothing."""
    view = any(True for _ in shared(node.target, node.args)) and not str(node.target).split(".")[0].endswith("_")
    return math.prod(result.shape) if isinstance(result, torch.Tensor) and not view else 0


def count(graph: Graph, slots: tuple[TensorSlot, ...], input_shape: tuple[int, ...]) -> Costs:
    """The costs of all nodes that lead to the output."""
    tensors = {slot.name: torch.empty(slot.shape, dtype=getattr(torch, slot.dtype), device="meta") for slot in slots}
    counter = FlopCounterMode(display=False)
    meter = _Meter(rebuild(graph, tensors, "meta"), counter)
    with counter, torch.no_grad():
        meter.run(torch.empty(1, *input_shape, device="meta"))
    region = graph.region(INPUT, OUTPUT)
    # One fx node for each node of the region, in order, after the placeholder, which is what `input` stands for.
    region = (
        *(index for index in region if graph.nodes[index].op == INPUT),
        *(index for index in region if graph.nodes[index].op != INPUT),
    )
    return Costs(
        dict(zip(region, meter.flops[:-1], strict=True)),
        dict(zip(region, meter.pieces[:-1], strict=True)),
        tuple(meter.piece_bytes),
    )
