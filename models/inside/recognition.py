"""Find the roles of a block's tensors in the exported graph, and prove them with numbers. Child process only.

A pattern is read backwards from the cut that ends a block. It may be read too loosely, for in the end what counts is
that the formula gives what the graph gives, with random parameters on random tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from swarm.models.blueprint import TensorSlot
from swarm.models.graph import TENSOR, Graph, Node
from swarm.models.inside.roles import Activation, Linear, Norm, Roles
from swarm.types import Inside, ModelProfile, Stage

_ADDS = frozenset({"aten.add.Tensor", "aten.add_.Tensor"})
_MULS = frozenset({"aten.mul.Tensor", "aten.mul_.Tensor"})
_RESHAPES = frozenset({"aten.reshape.default", "aten.view.default", "aten.unflatten.int", "aten._unsafe_view.default"})
_MOVES = _RESHAPES | {
    "aten.permute.default",
    "aten.transpose.int",
    "aten.unbind.int",
    "aten.chunk.default",
    "aten.split.Tensor",
    "aten.flatten.using_ints",
    "aten.select.int",
    "aten.contiguous.default",
    "aten.clone.default",
    "getitem",
}
_IDLE = frozenset({"aten.contiguous.default", "aten.clone.default", "aten.dropout.default", "aten.alias.default"})
_ATTENTION = "aten.scaled_dot_product_attention.default"
_QUICK = 1.702


class Unlike(Exception):
    """In what a stage is not a block that comes apart: the end of a sentence that begins with its name."""


def roles_of(graph: Graph, slots: Mapping[str, TensorSlot], start: str, end: str) -> Roles:
    """The roles in one stage, not yet proven. Raises `Unlike`."""
    begin, finish = graph.cut(start), graph.cut(end)
    if len(begin.tensor.shape) != 2 or begin.tensor != finish.tensor:
        raise Unlike("does not take tokens and give as many tokens of the same width")
    return _Reader(graph, slots, begin.node, begin.tensor.shape).read(finish.node)


@dataclass
class _Reader:
    """Reads one block, last operator first."""

    graph: Graph
    slots: Mapping[str, TensorSlot]
    start: int
    shape: tuple[int, ...]

    def read(self, end: int) -> Roles:
        tokens, width = self.shape
        middle, fc2, gamma2, active = self._residual(end)
        activation, made = self._activation(active)
        fc1, normed = self._linear(made)
        norm2 = self._norm(normed, middle)
        skip, proj, gamma1, mixed = self._residual(middle)
        if skip != self.start:
            raise Unlike("has more than attention and an MLP between its ends")
        scores = self._node(self._through(mixed))
        if scores.op != _ATTENTION:
            raise Unlike("does not hand attention's output straight to a linear layer")
        (q_norm, q), (k_norm, k), (_, v) = (self._head_norm(value) for value in self._attention_inputs(scores))
        qkv, heads, source = self._projections(q, k, v)
        norm1 = self._norm(source, self.start)
        keys = self.slots[proj.weight].shape[1]
        if not heads or keys % heads:
            raise Unlike("has heads that cannot be counted")
        scale = scores.kwargs.get("scale")
        return Roles(
            norm1,
            qkv,
            proj,
            norm2,
            fc1,
            fc2,
            heads,
            keys // heads,
            self.slots[fc1.weight].shape[0],
            width,
            tokens,
            float((keys // heads) ** -0.5 if scale is None else scale),
            activation,
            gamma1,
            gamma2,
            q_norm,
            k_norm,
        )

    def _node(self, index: int) -> Node:
        return self.graph.nodes[index]

    def _is_tensor(self, index: int) -> bool:
        return self._node(index).op == TENSOR

    def _tensor(self, value: Any) -> str | None:
        """The name of a parameter that is used as it is; None for none."""
        if value is None:
            return None
        if not isinstance(value, dict) or "node" not in value or not self._is_tensor(value["node"]):
            raise Unlike("computes parameters from others")
        return str(self._node(value["node"]).args[0])

    def _idle(self, index: int) -> int:
        while self._node(index).op in _IDLE:
            index = self._node(index).inputs()[0]
        return index

    def _residual(self, index: int) -> tuple[int, Linear, str | None, int]:
        """`skip + gamma * linear(x)`: skip, the linear, gamma, and x."""
        index = self._idle(index)
        node = self._node(index)
        if node.op not in _ADDS or len(node.inputs()) != 2 or node.kwargs:
            raise Unlike("does not end in a sum of a residual and a branch")
        for skip, branch in (node.inputs(), node.inputs()[::-1]):
            gamma, scaled = self._scaled(self._idle(branch))
            if self._node(scaled).op == "aten.linear.default":
                linear, source = self._linear(scaled)
                return self._idle(skip), linear, gamma, source
        raise Unlike("adds something else than a linear layer's output to its residual")

    def _scaled(self, index: int) -> tuple[str | None, int]:
        """A layer scale before a branch is added."""
        node = self._node(index)
        if node.op in _MULS and len(node.inputs()) == 2:
            for factor, scaled in (node.inputs(), node.inputs()[::-1]):
                if self._is_tensor(factor):
                    return str(self._node(factor).args[0]), self._idle(scaled)
        return None, index

    def _linear(self, index: int) -> tuple[Linear, int]:
        node = self._node(self._idle(index))
        if node.op != "aten.linear.default":
            raise Unlike("has something else where a linear layer should be")
        weight = self._tensor(node.args[1])
        assert weight is not None
        bias = self._tensor(node.args[2] if len(node.args) > 2 else node.kwargs.get("bias"))
        return Linear(weight, bias), self._idle(node.args[0]["node"])

    def _norm(self, index: int, source: int) -> Norm:
        norm, read = self._layer_norm(index)
        if read != source:
            raise Unlike("does not normalise its residual before each branch")
        return norm

    def _layer_norm(self, index: int) -> tuple[Norm, int]:
        node = self._node(self._idle(index))
        if node.op != "aten.layer_norm.default" or len(node.args[1]) != 1:
            raise Unlike("has no layer norm before a branch")
        args = (*node.args, *(None, None, 1e-5)[len(node.args) - 2 :])
        return Norm(float(args[4]), self._tensor(args[2]), self._tensor(args[3])), self._idle(node.args[0]["node"])

    def _activation(self, index: int) -> tuple[Activation, int]:
        node = self._node(index)
        inputs = node.inputs()
        name = node.op.removesuffix(".default").removeprefix("aten.").removesuffix("_")
        if name in ("relu", "silu") and len(inputs) == 1:
            return ("relu" if name == "relu" else "silu"), self._idle(inputs[0])
        if name == "gelu":
            return ("gelu_tanh" if node.kwargs.get("approximate") == "tanh" else "gelu"), self._idle(inputs[0])
        if node.op in _MULS and len(inputs) == 2:
            for made, gate in (inputs, inputs[::-1]):
                if self._is_quick(made, gate):
                    return "quick_gelu", made
        raise Unlike("has an MLP that is not two linear layers with a plain activation between them")

    def _is_quick(self, made: int, gate: int) -> bool:
        """Whether `gate` is sigmoid(1.702 * made)."""
        sigmoid = self._node(gate)
        if not sigmoid.op.startswith("aten.sigmoid"):
            return False
        steep = self._node(sigmoid.inputs()[0])
        return steep.op in _MULS and steep.inputs() == (made,) and _QUICK in steep.args

    def _attention_inputs(self, node: Node) -> tuple[int, int, int]:
        rest = [*node.args[3:], *(value for key, value in node.kwargs.items() if key not in ("scale", "enable_gqa"))]
        if any(rest) or node.kwargs.get("enable_gqa"):
            raise Unlike("has attention with a mask or a bias")
        return tuple(self._idle(value["node"]) for value in node.args[:3])  # type: ignore[return-value]

    def _head_norm(self, index: int) -> tuple[Norm | None, int]:
        """A norm over each head's elements, before or after tokens and heads change places; and what it reads."""
        before = index
        while self._node(before).op in _MOVES and self._node(before).op != "getitem":
            before = self._node(before).inputs()[0]
        if self._node(before).op == "aten.layer_norm.default":
            return self._layer_norm(before)
        return None, index

    def _through(self, index: int) -> int:
        """Past all that only moves elements."""
        while self._node(index).op in _MOVES | _IDLE:
            index = self._node(index).inputs()[0]
        return index

    def _projections(self, *values: int) -> tuple[tuple[Linear, ...], int, int]:
        """The linear layers that make queries, keys and values; how many heads; what the layers read."""
        found = [self._linear(self._through(value)) for value in values]
        if len({source for _, source in found}) != 1:
            raise Unlike("makes queries, keys and values from different tensors")
        heads = {self._heads(value) for value in values}
        if len(heads) != 1:
            raise Unlike("has other heads for queries than for keys and values")
        linears = tuple(dict.fromkeys(linear for linear, _ in found))
        if len(linears) == 2:
            raise Unlike("makes keys and values, but not queries, in one linear layer")
        return linears, heads.pop(), found[0][1]

    def _heads(self, index: int) -> int:
        """From the last reshape to `[…, heads, elements of a head]`."""
        while (node := self._node(index)).op in _MOVES | _IDLE:
            if node.op in _RESHAPES:
                shape = node.args[-1]
                if isinstance(shape, list) and len(shape) >= 2 and isinstance(shape[-2], int):
                    return int(shape[-2])
            index = node.inputs()[0]
        raise Unlike("has heads that cannot be counted")


def inside_of(roles: Roles) -> Inside:
    return Inside(roles.heads, roles.neurons, roles.tokens, roles.width, roles.keys)


def recognise(
    profile: ModelProfile, graph: Graph, tensors: tuple[TensorSlot, ...]
) -> tuple[ModelProfile, tuple[Roles | None, ...]]:
    """The profile with what may be shared out in it, and the roles of each stage's tensors."""
    from swarm.models.inside.proof import needed_tokens, proves

    slots = {slot.name: slot for slot in tensors}
    found = dict[int, Roles]()
    reasons = dict[str, None]()
    for index in sorted(_single_blocks(profile)):
        stages = profile.stages
        try:
            found[index] = roles_of(graph, slots, stages[index - 1].name, stages[index].name)
            _check(found[index], slots)
        except Unlike as unlike:
            found.pop(index, None)
            reasons[f"'{stages[index].name}' {unlike}"] = None
    found = _own_tensors_only(found, profile, reasons)
    proven = dict[str, bool]()
    for index, roles in list(found.items()):
        stage = profile.stages[index]
        if stage.kind not in proven:
            proven[stage.kind] = proves(graph, slots, roles, profile.stages[index - 1].name, stage.name)
        if not proven[stage.kind]:
            del found[index]
            reasons[f"'{stage.name}' computes something else than its operators seem to say"] = None
    insides = tuple(found.get(index) for index in range(len(profile.stages)))
    changed = tuple(_with_inside(stage, insides[index]) for index, stage in enumerate(profile.stages))
    if found:
        needed = needed_tokens(graph, slots, profile.stages[profile.blocks[-1] - 1].name)
        return replace(profile, stages=changed, needed=needed), insides
    reason = next(iter(reasons), "it has no blocks between cuts")
    return replace(profile, inside_reason=f"{reason[0].upper()}{reason[1:]}."), ()


def _with_inside(stage: Stage, roles: Roles | None) -> Stage:
    return stage if roles is None else replace(stage, inside=inside_of(roles))


def _single_blocks(profile: ModelProfile) -> set[int]:
    """Stages that are a whole block each, and not the model's first."""
    numbers = profile.blocks
    return {first for first, after in pairwise(numbers) if after == first + 1 and first > 0}


def _check(roles: Roles, slots: Mapping[str, TensorSlot]) -> None:
    """Shapes fit what each tensor is for, so that it comes apart where it should."""
    keys, width, neurons = roles.keys, roles.width, roles.neurons
    rows = 3 * keys if len(roles.qkv) == 1 else keys
    wanted: dict[str, tuple[int, ...]]
    wanted = {roles.proj.weight: (width, keys), roles.fc1.weight: (neurons, width), roles.fc2.weight: (width, neurons)}
    wanted |= {linear.weight: (rows, width) for linear in roles.qkv}
    wanted |= {linear.bias: (rows,) for linear in roles.qkv if linear.bias is not None}
    wanted |= {gamma: (width,) for gamma in (roles.gamma1, roles.gamma2) if gamma is not None}
    heads = [norm for norm in (roles.q_norm, roles.k_norm) if norm is not None]
    wanted |= {name: (roles.head_width,) for norm in heads for name in norm.names()}
    if any(slots[name].shape != shape for name, shape in wanted.items()):
        raise Unlike("has tensors of other shapes than heads and neurons would have")
    if any(slots[name].dtype != "float32" for name in roles.names()):
        raise Unlike("has parameters that are not float32")
    if not math.isfinite(roles.scale) or len(roles.names()) != _mentions(roles):
        raise Unlike("uses one tensor in two places")


def _mentions(roles: Roles) -> int:
    norms = [norm for norm in (roles.norm1, roles.norm2, roles.q_norm, roles.k_norm) if norm is not None]
    linears = [*roles.qkv, roles.proj, roles.fc1, roles.fc2]
    named = [name for norm in norms for name in norm.names()] + [name for each in linears for name in each.names()]
    return len(named) + (roles.gamma1 is not None) + (roles.gamma2 is not None)


def _own_tensors_only(found: dict[int, Roles], profile: ModelProfile, reasons: dict[str, None]) -> dict[int, Roles]:
    """Blocks that share parameters with others cannot be given different heads."""
    users = Counter(name for roles in found.values() for name in roles.names())
    kept = {index: roles for index, roles in found.items() if all(users[name] == 1 for name in roles.names())}
    for index in found.keys() - kept.keys():
        reasons[f"'{profile.stages[index].name}' shares its parameters with another block"] = None
    return kept
