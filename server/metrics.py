"""What the service counts, for Prometheus."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)
STEPS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


class Metrics:
    """The numbers of one server, in a registry of their own."""

    def __init__(self):
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self._within = 0.0  # seconds of parts within the part under way
        self.requests = Counter(
            "miracle_requests", "HTTP requests by path and status", ["path", "status"], **own
        )
        self.tokens = Counter(
            "miracle_tokens", "tokens: of prompts, of replies, of all candidates written", ["kind"], **own
        )
        self.cancelled = Counter(
            "miracle_cancelled", "requests whose client left while they were written", **own
        )
        self.waiting = Gauge("miracle_waiting", "requests in the queue", **own)
        self.rows = Gauge("miracle_rows", "rows being written", **own)
        self.step_seconds = Histogram("miracle_step_seconds", "a step of all rows", buckets=STEPS, **own)
        self.part_seconds = Counter(
            "miracle_part_seconds", "what the model's thread spends its time on", ["part"], **own
        )
        self.first_seconds = Histogram(
            "miracle_first_text_seconds", "from a request to its first text", buckets=SECONDS, **own
        )
        self.request_seconds = Histogram(
            "miracle_request_seconds", "from a request to its last reply", buckets=SECONDS, **own
        )

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the seconds of a part of the work, without those of parts within it; for one thread."""
        began, outer, self._within = time.monotonic(), self._within, 0.0
        try:
            yield
        finally:
            whole = time.monotonic() - began
            self.part_seconds.labels(name).inc(max(0.0, whole - self._within))
            self._within = outer + whole

    def part_totals(self) -> dict[str, float]:
        """Seconds by part so far."""
        found = {}
        for metric in self.part_seconds.collect():
            for sample in metric.samples:
                if sample.name.endswith("_total"):
                    found[sample.labels["part"]] = sample.value
        return found

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
