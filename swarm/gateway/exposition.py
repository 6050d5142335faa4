"""What a peer counts, as Prometheus reads it: https://prometheus.io/docs/instrumenting/writing_exporters/"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from swarm.metrics import Family, Histogram, Metrics
from swarm.types import PeerState, View

_HISTOGRAMS: Final = (
    ("swarm_request_seconds", "Requests of this peer, from asking to the answer.", "answer_s"),
    ("swarm_step_queue_seconds", "Steps run here: until their batch began.", "queue_s"),
    ("swarm_step_compute_seconds", "Steps run here: how long their batch computed.", "compute_s"),
    ("swarm_step_wire_seconds", "Steps run here: how long their input was on its way.", "wire_s"),
    ("swarm_batch_rows", "Batches run here: samples in each.", "batch_rows"),
)


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is so now, beside what was counted."""

    view: View
    models: Mapping[str, int]
    """How many are in each state."""
    connections: int
    http: Mapping[int, int]
    """HTTP responses by status."""


def families(metrics: Metrics, gauges: Gauges) -> tuple[Metric, ...]:
    """A copy of everything, in Prometheus' words; called in the event loop, where the numbers change."""
    return (
        _counter("swarm_requests", "Requests of this peer.", ("model", "outcome"), _outcomes(metrics)),
        *(_histogram(name, text, getattr(metrics, attribute)) for name, text, attribute in _HISTOGRAMS),
        _counter("swarm_steps_refused", "Steps that failed or were refused here.", ("model", "code"), metrics.refused),
        _counter(
            "swarm_tensor_bytes",
            "Bytes of tensors that went to peers and came from them.",
            ("direction",),
            {("sent",): metrics.sent_bytes, ("received",): metrics.received_bytes},
        ),
        _counter(
            "swarm_http_requests",
            "HTTP requests answered.",
            ("code",),
            {(str(code),): count for code, count in gauges.http.items()},
        ),
        _gauge("swarm_http_connections", "HTTP connections that are open.", (), {(): gauges.connections}),
        _gauge("swarm_models", "Models served over HTTP.", ("state",), {(k,): v for k, v in gauges.models.items()}),
        *_of_view(gauges.view),
    )


def encoded(given: tuple[Metric, ...], accept: str) -> tuple[bytes, str]:
    """Text and its content type, as the scraper accepts it. Reads this process's own figures: in a thread."""
    process = psutil.Process()
    with process.oneshot():
        resident, times = process.memory_info().rss, process.cpu_times()
    own = (
        _gauge("process_resident_memory_bytes", "Memory of this process.", (), {(): resident}),
        _counter("process_cpu_seconds", "CPU time of this process.", (), {(): times.user + times.system}),
        _gauge("process_start_time_seconds", "When this process began.", (), {(): process.create_time()}),
    )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given((*given, *own)))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Given(Collector):
    """A collector of families that are there already."""

    def __init__(self, given: Iterable[Metric]) -> None:
        self._given = tuple(given)

    def collect(self) -> Iterator[Metric]:
        return iter(self._given)


def _outcomes(metrics: Metrics) -> dict[tuple[str, ...], float]:
    answered: dict[tuple[str, ...], float] = {
        (model, "ok"): sum(histogram.counts) for model, histogram in list(metrics.answer_s.of.items())
    }
    return answered | {**metrics.failed}


def _of_view(view: View) -> tuple[Metric, ...]:
    states = Counter(seen.state for seen in view.peers)
    me = view.find(view.me)
    memory = (me.profile.memory_total_bytes, me.profile.memory_free_bytes) if me is not None else (0, 0)
    return (
        _gauge(
            "swarm_peers",
            "Peers as this one sees them, itself included.",
            ("state",),
            {(state.value,): states[state] for state in PeerState},
        ),
        _gauge("swarm_memory_total_bytes", "Memory of this device.", (), {(): memory[0]}),
        _gauge("swarm_memory_free_bytes", "What new parts may use of it.", (), {(): memory[1]}),
    )


def _counter(name: str, text: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(name: str, text: str, of_models: Family) -> Metric:
    family = HistogramMetricFamily(name, text, labels=("model",))
    for model, histogram in list(of_models.of.items()):
        family.add_metric((model,), _buckets(histogram), histogram.total)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Prometheus counts in each bucket all that is in the smaller ones too."""
    bounds = [*(repr(bound) for bound in histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
