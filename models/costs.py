"""Floating point operations of each node of a graph, for one picture, counted on the meta device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.utils.flop_counter import FlopCounterMode

from swarm.models.blueprint import TensorSlot
from swarm.models.graph import Graph
from swarm.models.mutation import shared
from swarm.models.rebuild import rebuild


class _Meter(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, counter: FlopCounterMode) -> None:
        super().__init__(module)
        self.counter = counter
        self.costs: list[int] = []

    def run_node(self, n: fx.Node) -> Any:
        before = self.counter.get_total_flops()
        result = super().run_node(n)
        counted = self.counter.get_total_flops() - before
        self.costs.append(counted or (_elements(n, result) if n.op == "call_function" else 0))
        return result


def _elements(node: fx.Node, result: Any) -> int:
    """What an operator without a formula costs: its output's elements; a view costs nothing."""
    view = any(True for _ in shared(node.target, node.args)) and not str(node.target).split(".")[0].endswith("_")
    return math.prod(result.shape) if isinstance(result, torch.Tensor) and not view else 0


def flops_of(graph: Graph, slots: tuple[TensorSlot, ...], input_shape: tuple[int, ...]) -> Mapping[int, int]:
    """FLOPs of each node by its index, two per multiply-add, batch 1."""
    tensors = {slot.name: torch.empty(slot.shape, dtype=getattr(torch, slot.dtype), device="meta") for slot in slots}
    counter = FlopCounterMode(display=False)
    meter = _Meter(rebuild(graph, tensors, "meta"), counter)
    with counter, torch.no_grad():
        meter.run(torch.empty(1, *input_shape, device="meta"))
    # One fx node for each node of the region, in order, after the placeholder; the input itself has none of its own.
    region = [index for index in graph.region("input", "output") if graph.nodes[index].op != "input"]
    return dict(zip(region, meter.costs[1:-1], strict=True))
