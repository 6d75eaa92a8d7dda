"""Prometheus' metrics at /metrics. One registry per application, so that several in one process stay separate."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from service.served.registry import ModelState

__all__ = ["Metrics"]

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)
_PREDICTION_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_TILES_PER_SECOND = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
_INSTANCES = (10, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)


class Metrics:
    """Counts and times of requests and predictions. Label values are a fixed set, so clients cannot create time series."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._registry = registry
        self._requests = Counter("comel_http_requests", "Requests answered.", ["method", "route", "status"], registry=registry)
        self._request_seconds = Histogram(
            "comel_http_request_seconds",
            "Time from a request to the end of its answer.",
            ["method", "route"],
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self._predictions = Counter(
            "comel_predictions", "Predictions requested, by outcome.", ["kind", "outcome"], registry=registry
        )
        self._prediction_seconds = Histogram(
            "comel_prediction_seconds",
            "Time of a prediction that was made, waiting for the model included.",
            ["kind"],
            buckets=_PREDICTION_SECONDS,
            registry=registry,
        )
        self._instances = Histogram(
            "comel_prediction_instances", "Tiles of a prediction that was made.", buckets=_INSTANCES, registry=registry
        )
        self._speed = Histogram(
            "comel_prediction_tiles_per_second",
            "Tiles over the time of a prediction that was made; of a slide, reading and encoding included.",
            ["kind"],
            buckets=_TILES_PER_SECOND,
            registry=registry,
        )
        self._jobs = Gauge("comel_jobs", "Jobs that wait (queued) and run.", ["state"], registry=registry)
        self._gpu = Gauge("comel_gpu_memory_bytes", "Memory of a GPU in use by all processes.", ["gpu"], registry=registry)
        self._running = Gauge("comel_predictions_running", "Predictions running or waiting.", registry=registry)
        self._model = Gauge(
            "comel_model_info", "1 for the version of each model that answers.", ["model", "run", "version"], registry=registry
        )
        self._refused = Gauge(
            "comel_model_refused",
            "1 if the version of a model that should answer cannot be used.",
            ["model"],
            registry=registry,
        )
        self._reason = Gauge(
            "comel_model_refused_info",
            "1 for the reason why that version cannot be used.",
            ["model", "version", "reason"],
            registry=registry,
        )
        self._answers: dict[str, tuple[str, str, str]] = {}
        self._reasons: dict[str, tuple[str, str, str]] = {}

    def model(self, state: ModelState, run: str | None, why: str | None = None) -> None:
        """Set which version of a model answers, if any, and whether another was refused and why."""
        if (before := self._answers.pop(state.name, None)) is not None:
            self._model.remove(*before)
        if (reason := self._reasons.pop(state.name, None)) is not None:
            self._reason.remove(*reason)
        if run is not None:
            self._answers[state.name] = state.name, run, str(state.version)
            self._model.labels(*self._answers[state.name]).set(1)
        self._refused.labels(state.name).set(state.refusal is not None)
        if (refusal := state.refusal) is not None:
            version = "" if refusal.version is None else str(refusal.version)
            self._reasons[state.name] = state.name, version, why or refusal.what
            self._reason.labels(*self._reasons[state.name]).set(1)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(method, route).observe(seconds)

    def prediction(self, kind: str, outcome: str, seconds: float, instances: int | None = None) -> None:
        """Count one prediction; ``instances`` if it was made."""
        self._predictions.labels(kind, outcome).inc()
        if instances is not None:
            self._prediction_seconds.labels(kind).observe(seconds)
            self._instances.observe(instances)
            if instances and seconds > 0:
                self._speed.labels(kind).observe(instances / seconds)

    def jobs(self, counts: Mapping[str, int]) -> None:
        """Set the number of jobs in each state."""
        for state, count in counts.items():
            self._jobs.labels(state).set(count)

    def gpus(self) -> None:
        """Read the GPUs' memory, if this process uses any."""
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_available():
            return
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            self._gpu.labels(str(number)).set(total - free)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count one more prediction while the block runs."""
        with self._running.track_inprogress():
            yield

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)
