"""The counters of a server in the format of Prometheus."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The counters of one server.

    Args:
        gauges: per name the help text and a function that returns the current value.

    """

    def __init__(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "sparserm_requests", "Requests answered.", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "sparserm_request_seconds", "Time to the answer.", ["path"], registry=self._registry
        )
        self._responses = Counter("sparserm_responses", "Responses scored.", registry=self._registry)
        self._tokens = Counter(
            "sparserm_tokens", "Tokens in batches, each prompt once.", registry=self._registry
        )
        self._batch = Histogram(
            "sparserm_batch_responses",
            "Responses computed together.",
            buckets=[1, 2, 4, 8, 16, 32, 64, 128, 256],
            registry=self._registry,
        )
        for name, (text, tell) in gauges.items():
            Gauge(f"sparserm_{name}", text, registry=self._registry).set_function(tell)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def computed(self, responses: int, tokens: int) -> None:
        """Count one batch."""
        self._responses.inc(responses)
        self._tokens.inc(tokens)
        self._batch.observe(responses)

    def text(self) -> bytes:
        """Return all counters in the text format of Prometheus."""
        return generate_latest(self._registry)
