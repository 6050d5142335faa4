"""A region of a plain graph as something that torch runs: an fx.GraphModule of ATen calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from swarm.errors import WeightsError
from swarm.models.graph import BATCH, TENSOR, Graph, Node
from swarm.models.operators import decode_target
from swarm.models.thrift import overwrite_dying, skip_idle
from swarm.plan import INPUT, OUTPUT


def rebuild(
    graph: Graph, tensors: Mapping[str, torch.Tensor], device: str, start: str = INPUT, end: str = OUTPUT
) -> fx.GraphModule:
    """The region between two cuts: a module from one tensor `[B, ...]` to one tensor `[B, ...]`.

    Raises `CannotSplit` for cuts that do not exist, `WeightsError` for operators that this device does not have.
    """
    root, built = nn.Module(), fx.Graph()
    flowing = built.placeholder("flowing")
    env: dict[int, fx.Node] = {} if start == INPUT else {graph.cut(start).node: flowing}
    for index in graph.region(start, end):
        env[index] = _node(graph.nodes[index], index, env, built, flowing, root, tensors, device)
    built.output(env[graph.cut(end).node])
    skip_idle(built)
    overwrite_dying(built)
    return fx.GraphModule(root, built)


def _node(
    node: Node,
    index: int,
    env: Mapping[int, fx.Node],
    built: fx.Graph,
    flowing: fx.Node,
    root: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    device: str,
) -> fx.Node:
    if node.op == INPUT:
        return flowing
    if node.op == BATCH:
        return built.call_function(torch.ops.aten.sym_size.int, (flowing, 0))
    if node.op == TENSOR:
        root.register_buffer(f"tensor_{index}", tensors[node.args[0]])
        return built.get_attr(f"tensor_{index}")
    args = tuple(_decode(value, env, device) for value in node.args)
    return built.call_function(
        decode_target(node.op), args, {key: _decode(value, env, device) for key, value in node.kwargs.items()}
    )


def _decode(value: Any, env: Mapping[int, fx.Node], device: str) -> Any:
    if isinstance(value, list):
        return [_decode(item, env, device) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"node": int(index)}:
            return env[index]
        case {"dtype": str(name)} | {"layout": str(name)} | {"memory_format": str(name)}:
            return _torch_constant(name)
        case {"device": _}:
            return torch.device(device)
        case {"slice": [start, stop, step]}:
            return slice(*(_decode(item, env, device) for item in (start, stop, step)))
    raise WeightsError("A stored model description is damaged; delete the swarm's cache and try again.")


def _torch_constant(name: str) -> Any:
    found = getattr(torch, name, None)
    if not isinstance(found, (torch.dtype, torch.layout, torch.memory_format)):
        raise WeightsError(f"A model description names '{name[:80]}', which is not a dtype or layout.")
    return found
