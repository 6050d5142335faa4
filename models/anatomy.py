"""Take one model apart: from a factory to a `Blueprint` and the values of its derived tensors. Child process only."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import nn

from swarm.models.blueprint import Blueprint, TensorSlot
from swarm.models.catalogue import Entry
from swarm.models.costs import count
from swarm.models.cuts import Flow, find_cuts
from swarm.models.graph import TENSOR, Graph, digest
from swarm.models.inside.recognition import recognise
from swarm.models.kinds import kind, whole_kind
from swarm.models.liveness import nbytes, working_bytes
from swarm.models.source import code_digest, library_versions
from swarm.models.thin import build_thin, hollow, to_meta
from swarm.models.trace import Trace, Untraceable, trace
from swarm.plan import INPUT, OUTPUT
from swarm.types import DTYPE_BYTES, ModelProfile, Stage, TensorSpec

log = logging.getLogger(__name__)

Values = dict[str, torch.Tensor]


def dissect(name: str, entry: Entry) -> tuple[Blueprint, Values]:
    """The anatomy of a model, without ever holding its parameters.

    A model that torch.export or the plain graph cannot tell gets one stage, no graph, and the reason.
    """
    module = build_thin(entry.build)
    uncut = _Uncut(name, entry, module)
    try:
        traced = trace(hollow(module), entry.pictures.input_size)
        return _blueprint(name, entry, traced), dict(traced.derived)
    except Untraceable as reason:
        return uncut.blueprint(f"It {reason}."), {}


def _blueprint(name: str, entry: Entry, traced: Trace) -> Blueprint:
    cuts, blocks = find_cuts(Flow.of(traced.nodes, traced.facts))
    graph = Graph(traced.nodes, cuts)
    picture = TensorSpec(entry.pictures.input_size)
    stages = _stages(graph, traced, picture)
    reason = None if len(stages) > 1 else "It has no place where a single tensor is live."
    profile = ModelProfile(name, digest(graph, traced.tensors, picture), picture, stages, blocks, reason)
    profile, insides = recognise(profile, graph, traced.tensors)
    return Blueprint(
        profile,
        entry.pictures,
        traced.tensors,
        tuple(traced.derived),
        _fitting(entry.labels, cuts[-1].tensor),
        graph,
        entry.pretrained,
        insides,
    )


def _stages(graph: Graph, traced: Trace, picture: TensorSpec) -> tuple[Stage, ...]:
    costs = count(graph, traced.tensors, picture.shape)
    slots = {slot.name: slot for slot in traced.tensors}
    stages, held, start = list[Stage](), set[str](), INPUT
    for index, cut in enumerate(graph.cuts):
        region = graph.region(start, cut.name)
        names = {graph.nodes[node].args[0] for node in region if graph.nodes[node].op == TENSOR} - held
        held |= names
        stage = Stage(
            cut.name,
            sum(costs.flops[node] for node in region),
            sum(slots[name].nbytes for name in names),
            cut.tensor,
            (index - 1,) if index else (),
            working_bytes(graph, costs, start, cut.name, picture),
            kind(graph, slots, start, cut.name, picture),
        )
        stages.append(stage)
        start = cut.name
    return tuple(stages)


def _fitting(labels: tuple[str, ...] | None, output: TensorSpec) -> tuple[str, ...] | None:
    return labels if labels is not None and output.shape == (len(labels),) else None


class _Uncut:
    """What can be said of a model that only runs as a whole, read off before it goes to the meta device."""

    def __init__(self, name: str, entry: Entry, module: nn.Module) -> None:
        self.name, self.entry, self.module = name, entry, module
        self.slots = tuple(
            TensorSlot(key, tuple(value.shape), str(value.dtype).removeprefix("torch."))
            for key, value in sorted(module.state_dict().items())
        )

    def _output(self) -> TensorSpec:
        """From a run without values, where the model bears one; else one score for each label."""
        try:
            with torch.no_grad():
                result = to_meta(self.module)(torch.empty(1, *self.entry.pictures.input_size, device="meta"))
            return TensorSpec(tuple(map(int, result.shape[1:])))
        except Exception as error:  # noqa: BLE001 - the model's own code may fail in any way
            log.debug("%s does not run without values, so its output is taken from its labels: %s", self.name, error)
            return TensorSpec((len(self.entry.labels or ()),))

    def blueprint(self, reason: str) -> Blueprint:
        picture = TensorSpec(self.entry.pictures.input_size)
        held = sum(slot.nbytes for slot in self.slots)
        output = self._output()
        code = (library_versions(), code_digest(self.entry.source) if self.entry.source else "")
        known_as = digest(Graph((), ()), self.slots, picture, code)
        least = nbytes(picture) + nbytes(output)  # nobody knows what it needs in between
        flops = 2 * held // DTYPE_BYTES["float32"]
        stage = Stage(OUTPUT, flops, held, output, (), least, whole_kind(known_as))
        profile = ModelProfile(self.name, known_as, picture, (stage,), (0, 1), reason)
        profile = replace(profile, inside_reason="It runs only as a whole.")
        return Blueprint(profile, self.entry.pictures, self.slots, (), self.entry.labels, None, self.entry.pretrained)
