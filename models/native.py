"""A region as one call that runs without Python, so that the thread of the event loop is not in its way.

An fx.GraphModule calls each operator from Python: some microseconds for each, and each gives the interpreter's lock
up and has to win it back from a busy event loop. Here the same operators become one TorchScript graph, built node by
node. Its interpreter holds no lock. No pass rewrites the graph, so the numbers are the same bit by bit, the first run
is as quick as the others, and the parameters are the very tensors that were given, which nothing copies or folds.

    fx.GraphModule ─▶ torch._C.Graph ─▶ a function of one tensor        (anything inexpressible: the module itself)
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import fx

log = logging.getLogger(__name__)

Region = Callable[[torch.Tensor], torch.Tensor]
Value = Any
"""A value in TorchScript's graph."""

_SIZES: Final[dict[Any, str]] = {
    operator.add: "aten::add",
    operator.sub: "aten::sub",
    operator.mul: "aten::mul",
    operator.floordiv: "aten::floordiv",
    operator.truediv: "aten::div",
    operator.mod: "aten::remainder",
    operator.neg: "aten::neg",
    operator.eq: "aten::eq",
    operator.ne: "aten::ne",
    operator.lt: "aten::lt",
    operator.le: "aten::le",
    operator.gt: "aten::gt",
    operator.ge: "aten::ge",
    torch.sym_int: "aten::Int",
    torch.sym_float: "aten::Float",
    torch.sym_max: "prim::max",
    torch.sym_min: "prim::min",
    torch.sym_not: "aten::__not__",
    torch.ops.aten.sym_size.int: "aten::size",
}
"""What works with sizes, and what does the same with plain numbers."""


class Inexpressible(Exception):
    """What of a region TorchScript cannot say."""


_REFUSALS = (Inexpressible, RuntimeError, AttributeError, TypeError, LookupError)
"""Not in our words only: the interface is a private one, and another torch may have another."""


def without_python(module: fx.GraphModule) -> Region:
    """The module as a function that holds no interpreter lock while it runs, or the module where that is impossible.

    The function keeps the module's tensors alive, but not their Python objects: whoever counts those has to hold them.
    """
    try:
        function = torch._C._create_function_from_graph("region", _Writer(module).write())
    except _REFUSALS as error:
        log.debug("A region runs with Python between its operators: %s", error)
        return module
    return _unoptimised(function)


def _unoptimised(function: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]) -> Region:
    """Passes would profile the first runs, compile anew for other sizes, and fold parameters. Holds for this thread."""
    switch = torch._C._set_graph_executor_optimize
    state = torch._C._get_graph_executor_optimize

    def run(x: torch.Tensor) -> torch.Tensor:
        if not (before := state()):
            return function(x)[1]
        switch(False)
        try:
            return function(x)[1]
        finally:
            switch(before)

    return run


class _Writer:
    """Writes one module's graph, node by node."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._module = module
        self._graph: Any = torch._C.Graph()
        self._values: dict[fx.Node, Value | list[Value]] = {}
        self._constants: dict[tuple[type, str], Value] = {}

    def write(self) -> Any:
        for node in self._module.graph.nodes:
            if node.op == "placeholder":
                self._values[node] = self._graph.addInput(node.name)
            elif node.op == "get_attr":
                self._values[node] = self._graph.insertConstant(getattr(self._module, str(node.target)))
            elif node.op == "call_function":
                self._values[node] = self._call(node)
            elif node.op == "output":
                self._output(self._values[node.args[0]])
            else:
                raise Inexpressible(node.op)
        self._graph.lint()
        return self._graph

    def _output(self, result: Value) -> None:
        """The input is given back too: let go of in the middle of a run, its Python object would ask for the lock."""
        given = next(self._graph.inputs())
        both = self._graph.insertNode(self._graph.create("prim::TupleConstruct", [given, result], 1))
        both.output().setType(torch._C.TupleType([given.type(), result.type()]))
        self._graph.registerOutput(both.output())

    def _call(self, node: fx.Node) -> Value | list[Value]:
        target = node.target
        if target is operator.getitem:
            return self._item(*node.args)
        if target in _SIZES:
            return self._arithmetic(_SIZES[target], node)
        if not isinstance(target, torch._ops.OpOverload):
            raise Inexpressible(str(target))
        return self._operator(target, node.args, node.kwargs)

    def _item(self, source: Any, index: Any) -> Value:
        several = self._values[source]
        if isinstance(several, list):
            return several[index]
        kind = several.type()
        if not isinstance(kind, torch._C.ListType) or not isinstance(index, int):
            raise Inexpressible(f"an item of {kind}")
        return self._insert("aten::__getitem__", [several, self._constant(index)], [kind.getElementType()])[0]

    def _arithmetic(self, name: str, node: fx.Node) -> Value:
        """On numbers. What it results in is told by the schema that TorchScript finds for them."""
        given = [self._values[arg] if isinstance(arg, fx.Node) else self._constant(arg) for arg in node.args]
        made = self._graph.insertNode(self._graph.create(name, given, 1))
        schema = torch._C.parse_schema(made.schema())
        made.output().setType(schema.returns[0].type)
        return made.output()

    def _operator(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Value | list[Value]:
        schema = target._schema
        given = []
        for index, argument in enumerate(schema.arguments):
            if index < len(args):
                value = args[index]
            elif argument.name in kwargs:
                value = kwargs[argument.name]
            else:
                value = argument.default_value
            given.append(self._argument(value, argument.type, argument.N))
        results = self._insert(schema.name, given, [result.type for result in schema.returns], schema.overload_name)
        return results[0] if len(results) == 1 else results

    def _insert(self, name: str, given: list[Value], kinds: list[Any], overload: str | None = None) -> list[Value]:
        """Raises `Inexpressible` when those types select another overload than the one that was traced."""
        node = self._graph.insertNode(self._graph.create(name, given, len(kinds)))
        results = list(node.outputs())
        for result, kind in zip(results, kinds, strict=True):
            result.setType(kind)
        found = torch._C.parse_schema(node.schema())
        # a number in the place of a tensor is wrapped by Python there, and by the operator itself here
        if overload is not None and found.overload_name not in (overload, overload.replace("Tensor", "Scalar")):
            raise Inexpressible(f"{name}.{overload} became {found.overload_name}")
        return results

    def _argument(self, value: Any, kind: Any, length: int | None) -> Value:
        if isinstance(kind, torch._C.OptionalType):
            if value is None:
                return self._constant(None)
            kind = kind.getElementType()
        if isinstance(value, fx.Node):
            found = self._values[value]
            return self._insert("aten::Float", [found], [kind])[0] if _is_float(kind) and _is_int(found) else found
        if isinstance(kind, torch._C.ListType):
            several = list(value) if isinstance(value, (list, tuple)) else [value] * (length or 1)
            element = kind.getElementType()
            return self._list([self._argument(item, element, None) for item in several], element)
        return self._constant(float(value) if _is_float(kind) else value)

    def _list(self, items: list[Value], element: Any) -> Value:
        node = self._graph.insertNode(self._graph.create("prim::ListConstruct", items, 1))
        node.output().setType(torch._C.ListType(element))
        return node.output()

    def _constant(self, value: Any) -> Value:
        key = type(value), repr(value)  # -0.0 equals 0.0
        if key not in self._constants:
            self._constants[key] = self._graph.insertConstant(value)
        return self._constants[key]


def _is_float(kind: Any) -> bool:
    return isinstance(kind, torch._C.FloatType)


def _is_int(value: Value) -> bool:
    return isinstance(value.type(), torch._C.IntType)
