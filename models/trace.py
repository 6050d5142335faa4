"""torch.export's graph of a module, put into plain nodes, with what is known of each node.

Only the child process comes here. Whatever cannot be told in plain data raises `Untraceable` with the reason.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram, export
from torch.export.graph_signature import InputKind, OutputKind

from swarm.models.blueprint import TensorSlot
from swarm.models.facts import Fact
from swarm.models.graph import BATCH, TENSOR, Node, renumbered
from swarm.models.mutation import has_hidden_writes
from swarm.models.operators import encode_target
from swarm.plan import INPUT
from swarm.types import TensorSpec

_DROPOUTS = {
    torch.ops.aten.dropout.default,
    torch.ops.aten.feature_dropout.default,
    torch.ops.aten.alpha_dropout.default,
}
_CALL = re.compile(r"@\d+")


class Untraceable(Exception):
    """Why a model has no plain graph: half a sentence that goes on from 'it'."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A whole model: nodes, one fact for each, and the tensors that they mention."""

    nodes: tuple[Node, ...]
    facts: tuple[Fact, ...]
    tensors: tuple[TensorSlot, ...]
    derived: Mapping[str, torch.Tensor]
    """Values of the constants among the tensors: those that no weights file holds."""


def trace(module: nn.Module, input_shape: tuple[int, ...]) -> Trace:
    """Export a module, whose parameters need no values. Raises `Untraceable`."""
    example = torch.empty(2, *input_shape)
    try:
        with torch.no_grad():
            program = export(module, (example,), strict=False, dynamic_shapes=({0: Dim.DYNAMIC},))
            if has_hidden_writes(program.graph):
                program = program.run_decompositions({})
    except Exception as error:  # torch.export fails in many ways; each of them only means "not by us"
        raise Untraceable(f"cannot be exported ({_first_line(error)})") from error
    return _Reader(program).read()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


class _Reader:
    """Reads one exported program, node by node."""

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.nodes: list[Node] = []
        self.facts: list[Fact] = []
        self.slots: dict[str, TensorSlot] = {}
        self.derived: dict[str, torch.Tensor] = {}
        self.symbol: Any = None
        self.batch = 0

    def read(self) -> Trace:
        graph = self.program.graph
        results = self._body(graph, self._placeholders(graph))
        kinds = [spec.kind for spec in self.program.graph_signature.output_specs]
        if kinds.count(OutputKind.USER_OUTPUT) != 1:
            raise Untraceable("gives more than one output")
        if any(kind not in (OutputKind.USER_OUTPUT, OutputKind.USER_INPUT_MUTATION) for kind in kinds):
            raise Untraceable("changes its own buffers while it runs")
        return self._pruned(results[kinds.index(OutputKind.USER_OUTPUT)])

    def _placeholders(self, graph: fx.Graph) -> dict[fx.Node, Any]:
        env: dict[fx.Node, Any] = {}
        specs = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs}
        for node in graph.find_nodes(op="placeholder"):
            spec = specs[node.name]
            if spec.kind is InputKind.USER_INPUT:
                self.symbol = _symbol(node.meta["val"].shape[0])
                env[node] = self._add(Node(INPUT), node)
                self.batch = self._add(Node(BATCH), node, known=False)
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                env[node] = self._tensor(node, str(spec.target), spec)
            else:
                raise Untraceable(f"has an input of a kind that cannot be sent ({spec.kind.name})")
        if self.symbol is None:
            raise Untraceable("fixes its batch size")
        return env

    def _tensor(self, node: fx.Node, name: str, spec: Any) -> int:
        value = node.meta["val"]
        self.slots[name] = TensorSlot(name, tuple(map(int, value.shape)), str(value.dtype).removeprefix("torch."))
        if spec.kind is InputKind.CONSTANT_TENSOR or (spec.kind is InputKind.BUFFER and not spec.persistent):
            constant = self.program.constants[name]
            assert isinstance(constant, torch.Tensor)
            self.derived[name] = constant.detach()
        return self._add(Node(TENSOR, (name,)), node, known=False)

    def _body(self, graph: fx.Graph, env: dict[fx.Node, Any]) -> list[Any]:
        """Encode a (sub)graph's calls; returns what its output names."""
        for node in graph.nodes:
            if node.op == "call_function":
                self._call(node, env)
            elif node.op == "get_attr":
                env[node] = getattr(graph.owning_module, str(node.target))
            elif node.op == "output":
                return [env.get(item) for item in fx.map_arg(node.args[0], lambda item: item)]
        raise Untraceable("has a graph without an output")

    def _call(self, node: fx.Node, env: dict[fx.Node, Any]) -> None:
        target, args = node.target, node.args
        if _passes_on(target, args):
            env[node] = env[args[0]]  # type: ignore[index]
            self._rename(env[node], node)
        elif "_assert" in str(target) or "sym_constrain_range" in str(target):
            return
        elif target is torch.ops.aten.sym_size.int and _symbol(node.meta["val"]) == self.symbol:
            env[node] = self.batch
        elif isinstance(target, torch._ops.HigherOrderOperator):
            env[node] = self._inlined(node, env)
        elif "getitem" in str(target) and isinstance(env.get(args[0]), list):  # type: ignore[arg-type]
            env[node] = env[args[0]][args[1]]  # type: ignore[index]
        else:
            env[node] = self._add(self._encoded(node, env), node)

    def _inlined(self, node: fx.Node, env: dict[fx.Node, Any]) -> list[Any]:
        """Regions with another grad or autocast mode: without gradients they are just their content."""
        name, args = str(node.target), list(node.args)
        if name == "wrap_with_set_grad_enabled":
            inner, inputs = env[args[1]], args[2:]  # type: ignore[index]
        elif name == "wrap_with_autocast" and args[2] is False:
            inner, inputs = env[args[4]], args[5:]  # type: ignore[index]
        else:
            raise Untraceable(f"uses the construct '{name}'")
        holders = inner.graph.find_nodes(op="placeholder")
        return self._body(inner.graph, {hold: env[item] for hold, item in zip(holders, inputs, strict=True)})  # type: ignore[index]

    def _encoded(self, node: fx.Node, env: dict[fx.Node, Any]) -> Node:
        try:
            op = encode_target(node.target)
            args = tuple(_encode(item, env) for item in node.args)
            return Node(op, args, {key: _encode(value, env) for key, value in sorted(node.kwargs.items())})
        except TypeError as error:
            raise Untraceable(f"uses {error}") from error

    def _add(self, plain: Node, node: fx.Node, *, known: bool = True) -> int:
        value = node.meta.get("val") if known else None
        self.nodes.append(plain)
        self.facts.append(Fact(node.name, _modules(node), self._tensor_spec(value)))
        return len(self.nodes) - 1

    def _tensor_spec(self, value: Any) -> TensorSpec | None:
        if not isinstance(value, torch.Tensor) or value.ndim == 0 or value.dtype != torch.float32:
            return None
        first, *rest = value.shape
        static = all(isinstance(size, int) for size in rest)
        return TensorSpec(tuple(rest)) if static and _symbol(first) == self.symbol else None

    def _rename(self, index: int, dropped: fx.Node) -> None:
        """A dropped node's module names the tensor that it passed on, if nothing deeper does: `pos_drop`."""
        fact, modules = self.facts[index], _modules(dropped)
        if modules[: len(fact.modules)] == fact.modules:
            self.facts[index] = Fact(fact.name, modules, fact.tensor)

    def _pruned(self, output: Any) -> Trace:
        """Only what leads to the output, renumbered, the output last."""
        if not isinstance(output, int) or self.facts[output].tensor is None:
            raise Untraceable("does not give one float32 tensor with a row for each picture")
        wanted, waiting = set[int](), [output]
        while waiting:
            if (index := waiting.pop()) not in wanted:
                wanted.add(index)
                waiting.extend(self.nodes[index].inputs())
        kept = [index for index in sorted(wanted) if index <= output]
        places = {old: new for new, old in enumerate(kept)}
        nodes = tuple(renumbered(self.nodes[index], places) for index in kept)
        names = {node.args[0] for node in nodes if node.op == TENSOR}
        return Trace(
            nodes,
            tuple(self.facts[index] for index in kept),
            tuple(self.slots[name] for name in sorted(names)),
            {name: value for name, value in sorted(self.derived.items()) if name in names},
        )


def _passes_on(target: Any, args: tuple[Any, ...]) -> bool:
    """Whether a call gives back its first argument: dropout when not training, a slice of everything."""
    if target is torch.ops.aten.slice.Tensor:
        return len(args) == 4 and args[2] == 0 and args[3] == sys.maxsize
    return target in _DROPOUTS and not args[2]


def _symbol(size: Any) -> Any:
    """The symbol that a size is, or None when it is a plain number or an expression of several."""
    expression = getattr(getattr(size, "node", None), "expr", None)
    return expression if expression is not None and expression.is_Symbol else None


def _modules(node: fx.Node) -> tuple[str, ...]:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [_CALL.sub("", str(entry[0])) for entry in stack.values()]
    return tuple(path for path in paths if path and not path.startswith("_empty_nn_module_stack"))


def _encode(value: Any, env: Mapping[fx.Node, Any]) -> Any:
    match value:
        case fx.Node():
            if not isinstance(place := env.get(value), int):
                raise TypeError(f"a value of the kind {type(place).__name__}")
            return {"node": place}
        case None | bool() | int() | float() | str():
            return value
        case torch.dtype():
            return {"dtype": str(value).removeprefix("torch.")}
        case torch.device():
            return {"device": 0}
        case torch.layout():
            return {"layout": str(value).removeprefix("torch.")}
        case torch.memory_format():
            return {"memory_format": str(value).removeprefix("torch.")}
        case slice():
            return {"slice": [_encode(item, env) for item in (value.start, value.stop, value.step)]}
        case list() | tuple():
            return [_encode(item, env) for item in value]
    raise TypeError(f"a value of the kind {type(value).__name__}")
