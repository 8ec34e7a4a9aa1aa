"""What is counted while models are served, for Prometheus to collect."""

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from exporter.serving.batcher import Batch
from exporter.serving.registry import Registry, State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# From a tenth of a millisecond to half a minute.
_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
_ROWS = tuple(2**power for power in range(11))


class _OfBatches(NamedTuple):
    """The counters of the batches of one signature."""

    rows: Histogram
    calls: Histogram
    padding: Counter
    waits: Histogram
    computing: Histogram


class Metrics:
    """The counters of one server. They have a registry of their own, so there may be several."""

    def __init__(self, registry: Registry) -> None:
        """Counters of what that registry serves."""
        self._registry = CollectorRegistry()
        self._own = CollectorRegistry()  # what processes that share an address do not add up
        self._own.register(_Served(registry))
        ProcessCollector(registry=self._own)
        PlatformCollector(registry=self._own)
        request = ("protocol", "method", "model")
        signature = ("model", "version", "signature")
        self._requests = self._counter("requests", "Requests that were answered", *request, "code")
        self._latency = self._histogram(
            "request_seconds", "From the first byte read to the answer", _SECONDS, *request
        )
        self._known_batches: dict[tuple[str, int, str], _OfBatches] = {}
        self._known: dict[tuple[str, str, str, str], tuple[Counter, Histogram]] = {}
        self._rows = self._histogram("batch_rows", "Rows of calls in a batch", _ROWS, *signature)
        self._calls = self._histogram("batch_calls", "Calls in a batch", _ROWS, *signature)
        self._padding = self._counter(
            "padding_rows", "Rows that filled batches up to a compiled size", *signature
        )
        self._waits = self._histogram(
            "queue_seconds", "How long calls waited to be computed", _SECONDS, *signature
        )
        self._computing = self._histogram(
            "compute_seconds", "How long batches were computed", _SECONDS, *signature
        )

    def request(self, protocol: str, method: str, model: str, code: str, seconds: float) -> None:
        """Count a request. The model is empty if there is none of that name."""
        which = (protocol, method, model, code)
        counters = self._known.get(which)
        if counters is None:  # to look them up takes longer than to count
            counters = self._requests.labels(*which), self._latency.labels(*which[:3])
            self._known[which] = counters
        counters[0].inc()
        counters[1].observe(seconds)

    def batch(self, model: str, version: int, batch: Batch) -> None:
        """Count a batch."""
        which = (model, version, batch.signature)
        counters = self._known_batches.get(which)
        if counters is None:
            counters = self._known_batches[which] = self._counters_of(model, str(version), batch)
        counters.rows.observe(batch.rows)
        counters.calls.observe(batch.calls)
        counters.computing.observe(batch.seconds)
        if batch.size > batch.rows:
            counters.padding.inc(batch.size - batch.rows)
        for seconds in batch.waited:
            counters.waits.observe(seconds)

    def _counters_of(self, model: str, version: str, batch: Batch) -> "_OfBatches":
        labels = (model, version, batch.signature)
        return _OfBatches(
            self._rows.labels(*labels),
            self._calls.labels(*labels),
            self._padding.labels(*labels),
            self._waits.labels(*labels),
            self._computing.labels(*labels),
        )

    def text(self) -> bytes:
        """All of it in the text format of Prometheus.

        Where several processes share an address, requests and batches are those of all, and the
        rest is of the one that was asked.
        """
        counted = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            counted = CollectorRegistry()
            MultiProcessCollector(counted)  # type: ignore[no-untyped-call]  # it has no types
        return generate_latest(counted) + generate_latest(self._own)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"exporter_{name}", documentation, labels, registry=self._registry)

    def _histogram(
        self, name: str, documentation: str, buckets: Iterable[float], *labels: str
    ) -> Histogram:
        return Histogram(
            f"exporter_{name}",
            documentation,
            labels,
            registry=self._registry,
            buckets=tuple(buckets),
        )


class _Served(Collector):
    """What is read when somebody looks: versions, queues, compiled programs, memory."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """The gauges as they are now."""
        states = GaugeMetricFamily(
            "exporter_model_state",
            "1 for the state that a version is in",
            labels=["model", "version", "state"],
        )
        failing = GaugeMetricFamily(
            "exporter_model_load_failed",
            "Whether the last attempt to load a version failed",
            labels=["model", "version"],
        )
        seconds = GaugeMetricFamily(
            "exporter_model_load_seconds",
            "How long a version took to load, compile and try",
            labels=["model", "version"],
        )
        for entry in self._registry.entries():
            which = [entry.found.model, str(entry.found.version)]
            for state in State:
                states.add_metric([*which, state.value], float(entry.state is state))
            failing.add_metric(which, float(bool(entry.problem)))
            seconds.add_metric(which, entry.seconds)
        yield from (states, failing, seconds)
        yield from self._of_versions()
        yield _memory()

    def _of_versions(self) -> Iterator[Metric]:
        queue = GaugeMetricFamily(
            "exporter_queue_rows", "Rows that wait", labels=["model", "version", "signature"]
        )
        compiled = CounterMetricFamily(
            "exporter_compiled_programs",
            "Programs that were compiled, or found compiled in the cache",
            labels=["model", "version", "found"],
        )
        for servable in self._registry.served():
            which = [servable.found.model, str(servable.found.version)]
            for name, rows in servable.rows_waiting().items():
                queue.add_metric([*which, name], rows)
            outcomes = list(servable.outcomes)
            found = outcomes.count("found")
            compiled.add_metric([*which, "cached"], found)
            compiled.add_metric([*which, "compiled"], len(outcomes) - found)
        yield from (queue, compiled)


def _memory() -> Metric:
    """The memory of each device that tells of it; CPUs do not."""
    memory = GaugeMetricFamily(
        "exporter_device_memory_bytes", "Memory of a device", labels=["device", "kind"]
    )
    for device in jax.local_devices():
        stats = device.memory_stats() or {}
        for kind in ("bytes_in_use", "peak_bytes_in_use", "bytes_limit"):
            if kind in stats:
                memory.add_metric([str(device.id), kind], stats[kind])
    return memory
