"""The metrics of the service in Prometheus's format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PICTURES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counts requests, images and passes of the model; one registry for each service.

    Args:
        waiting: returns the number of images that are accepted and not answered yet.
    """

    #: Media type of what `text` returns.
    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, *, waiting: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "cora_requests", "Requests by path and status.", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "cora_request_seconds", "Seconds of a request.", ["path"], buckets=_SECONDS, registry=self._registry
        )
        self._batch = Histogram(
            "cora_batch_pictures", "Images in one pass of the model.", buckets=_PICTURES, registry=self._registry
        )
        self._model = Counter("cora_model_seconds", "Seconds the model was at work.", registry=self._registry)
        gauge = Gauge("cora_waiting_pictures", "Images accepted and not answered yet.", registry=self._registry)
        gauge.set_function(waiting)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a finished request; `path` must be one of the service's, since every new one takes memory."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def batch(self, pictures: int, seconds: float) -> None:
        """Count a pass of the model."""
        self._batch.observe(pictures)
        self._model.inc(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self._registry)
