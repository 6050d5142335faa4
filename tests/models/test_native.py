"""A region that runs in one call: the same bits, the same tensors, and the interpreter free for others meanwhile."""

from __future__ import annotations

import gc
import operator as op
import sys
import threading
import weakref
from collections.abc import Callable
from time import monotonic

import pytest
import torch
from torch import fx, nn

from swarm.models.native import without_python

aten = torch.ops.aten


def _module(write: Callable[[fx.Graph, fx.Node], fx.Node], **tensors: torch.Tensor) -> fx.GraphModule:
    root, graph = nn.Module(), fx.Graph()
    for name, tensor in tensors.items():
        root.register_buffer(name, tensor)
    graph.output(write(graph, graph.placeholder("x")))
    return fx.GraphModule(root, graph)


def _sizes(graph: fx.Graph, x: fx.Node) -> fx.Node:
    """Arithmetic on sizes, several outputs, lists of both kinds, and numbers where tensors may stand."""
    call = graph.call_function
    rows = call(aten.sym_size.int, (x, 0))
    half = call(op.floordiv, (call(aten.sym_size.int, (x, 1)), 2))
    left, right = (call(op.getitem, (call(aten.split.Tensor, (x, half, 1)), i)) for i in (0, 1))
    best = call(aten.max.dim, (left, 1, True))
    grown = call(aten.add.Tensor, (right, 1.5), {"alpha": 2})
    tall = call(aten.expand.default, (call(op.getitem, (best, 0)), [rows, half]))
    joined = call(
        aten.cat.default, ([tall, grown, call(aten.to.dtype, (call(op.getitem, (best, 1)), torch.float32))], 1)
    )
    width = call(torch.sym_max, (call(op.add, (half, half)), 1))
    ratio = call(op.truediv, (rows, 4))
    scaled = call(aten.mul.Tensor, (joined, ratio))
    filled = call(aten.full.default, ([rows, width], -0.0), {"dtype": torch.float32, "device": torch.device("cpu")})
    return call(aten.cat.default, ([scaled, filled, call(aten.full.default, ([rows, 1], 0.0))], 1))


def test_sizes_lists_and_numbers_are_the_same_bit_by_bit() -> None:
    module = _module(_sizes)
    region = without_python(module)
    assert region is not module
    for batch in (1, 3, 2):
        x = torch.randn(batch, 6)
        found, wanted = region(x), module(x)
        assert torch.equal(found, wanted)
        assert torch.equal(torch.signbit(found), torch.signbit(wanted))


def test_an_index_may_leave_dimensions_out() -> None:
    picks = torch.tensor([2, 0])
    module = _module(
        lambda graph, x: graph.call_function(aten.index.Tensor, (x, [None, graph.get_attr("picks")])), picks=picks
    )
    region = without_python(module)
    assert region is not module
    assert torch.equal(region(torch.arange(6.0).reshape(2, 3)), torch.tensor([[2.0, 0.0], [5.0, 3.0]]))


def test_parameters_are_the_very_tensors_and_go_with_the_region() -> None:
    weight = torch.randn(4, 6)
    module = _module(
        lambda graph, x: graph.call_function(aten.linear.default, (x, graph.get_attr("weight"))), weight=weight
    )
    region = without_python(module)
    assert region is not module
    x = torch.randn(2, 6)
    for _ in range(3):
        assert torch.equal(region(x), nn.functional.linear(x, weight))
    weight.zero_()
    assert not region(x).any()
    whole, storage = weakref.ref(module), weakref.ref(weight.untyped_storage())
    del module, region, weight
    gc.collect()
    assert whole() is None
    assert storage() is None


def test_it_gives_its_input_back_when_that_is_the_result() -> None:
    x = torch.randn(2, 3)
    assert without_python(_module(lambda graph, given: given))(x) is x


def test_what_cannot_be_said_runs_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = _module(lambda graph, x: graph.call_function(torch.numel, (x,)))
    assert without_python(odd) is odd
    plain = _module(lambda graph, x: graph.call_function(aten.relu.default, (x,)))
    assert without_python(plain) is not plain
    monkeypatch.setattr(torch._C, "_create_function_from_graph", None)  # as if another torch had none
    assert without_python(plain) is plain


def test_an_error_is_torchs_own_and_leaves_no_trace() -> None:
    region = without_python(_module(lambda graph, x: graph.call_function(aten.reshape.default, (x, [5]))))
    before = torch._C._get_graph_executor_optimize()
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        region(torch.ones(2, 3))
    assert torch._C._get_graph_executor_optimize() is before
    assert torch.equal(region(torch.ones(5)), torch.ones(5))


def test_it_needs_no_lock_between_its_operators() -> None:
    """Another thread takes the interpreter's lock as soon as the run gives it up, and keeps it until it sees in memory
    that the last operator is done."""

    def write(graph: fx.Graph, x: fx.Node) -> fx.Node:
        for _ in range(50):
            x = graph.call_function(aten.cos.default, (x,))
        return graph.call_function(aten.copy_.default, (graph.get_attr("done"), x))

    x, done = torch.zeros(100_000), torch.zeros(100_000)
    region, seen = without_python(_module(write, done=done)), done.numpy()
    begin, free_runs = threading.Event(), list[bool]()

    def other() -> None:
        begin.wait()
        until = monotonic() + 20
        while not seen[-1] and monotonic() < until:
            pass
        free_runs.append(bool(seen[-1]))

    thread, usual = threading.Thread(target=other), sys.getswitchinterval()
    sys.setswitchinterval(1000)  # the lock is not taken away from whoever has it
    try:
        thread.start()
        begin.set()
        region(x)
    finally:
        sys.setswitchinterval(usual)
        thread.join()
    assert free_runs == [True]
