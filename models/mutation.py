"""In-place operators in a traced graph.

`x.relu_()` is harmless where the graph goes on with its result. It is hidden where the graph goes on with another
name of the same memory: then the order of nodes matters beyond what their arguments say, and a region taken out of the
graph would be wrong. Such graphs are made functional first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

_aten = torch.ops.aten
_LENDS = frozenset({_aten.dropout, _aten.feature_dropout, _aten.alpha_dropout, _aten._unsafe_view})
"""Outside of training they give back what they are given."""


def written(target: Any, args: tuple[Any, ...]) -> Iterator[Any]:
    """The arguments that a call changes."""
    if isinstance(target, torch._ops.OpOverload):
        for argument, value in zip(target._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                yield value


def shared(target: Any, args: tuple[Any, ...]) -> Iterator[Any]:
    """The arguments whose memory the result may be."""
    if not isinstance(target, torch._ops.OpOverload) or target.overloadpacket in _LENDS:
        yield from args[:1]  # getitem, and those whose schema does not say so
        return
    for argument, value in zip(target._schema.arguments, args, strict=False):
        if argument.alias_info is not None:
            yield from value if isinstance(value, (list, tuple)) else (value,)


def has_hidden_writes(graph: fx.Graph) -> bool:
    """Whether some memory is read under another name after it was changed."""
    order = {node: index for index, node in enumerate(graph.nodes)}
    owner: dict[fx.Node, fx.Node] = {}
    family: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        lenders = [v for v in shared(node.target, node.args) if isinstance(v, fx.Node)] if _calls(node) else []
        owner[node] = owner[lenders[0]] if lenders else node
        family.setdefault(owner[node], []).append(node)
    return any(
        _read_later(family[owner[value]], node, order)
        for node in graph.nodes
        if _calls(node)
        for value in written(node.target, node.args)
        if isinstance(value, fx.Node)
    )


def _calls(node: fx.Node) -> bool:
    return node.op == "call_function"


def _read_later(names: list[fx.Node], write: fx.Node, order: dict[fx.Node, int]) -> bool:
    place = order[write]
    older = [name for name in names if order[name] < place]
    return any(name.op == "placeholder" or any(order[user] > place for user in name.users) for name in older)
