"""One helper that counts what goes in and out of every stage.

Counters and distributions stand in the namespace `adacompress.STAGE`:

| metric | kind | unit |
|---|---|---|
| images_in, images_out | counter | images |
| bytes_in, bytes_out | counter | bytes of image files |
| kept | counter | images left as they were |
| failed | counter | images |
| quality | distribution | 1..100 |
| milliseconds | distribution | per image, wall time |
| sampled | counter | images that are scored |
| calls, retries | counter | images sent to the backend; of those, the repeated ones |
| cache_hits | counter | answers that needed no call |
| cost_microdollars | counter | 0.000001 USD |
| cumulativeThrottlingSeconds | counter | seconds in which calls waited for their turn; Dataflow's autoscaler reads it |
"""

from __future__ import annotations

from apache_beam.io.components.adaptive_throttler import ThrottlingSignaler
from apache_beam.metrics import Metrics

from beam_adacompress.records import Usage


class StageMetrics:
    """The metrics of one stage. Only those that a stage updates are reported."""

    def __init__(self, stage: str) -> None:
        namespace = f"adacompress.{stage}"
        self._images_in = Metrics.counter(namespace, "images_in")
        self._images_out = Metrics.counter(namespace, "images_out")
        self._bytes_in = Metrics.counter(namespace, "bytes_in")
        self._bytes_out = Metrics.counter(namespace, "bytes_out")
        self._kept = Metrics.counter(namespace, "kept")
        self._failed = Metrics.counter(namespace, "failed")
        self._quality = Metrics.distribution(namespace, "quality")
        self._milliseconds = Metrics.distribution(namespace, "milliseconds")

    def took(self, size: int) -> None:
        self._images_in.inc()
        self._bytes_in.inc(size)

    def gave(self, size: int) -> None:
        self._images_out.inc()
        self._bytes_out.inc(size)

    def kept(self) -> None:
        self._kept.inc()

    def failed(self) -> None:
        self._failed.inc()

    def chose(self, quality: int) -> None:
        self._quality.update(quality)

    def lasted(self, seconds: float) -> None:
        self._milliseconds.update(round(seconds * 1000))


class CallMetrics:
    """The metrics of a stage that calls a backend."""

    def __init__(self, stage: str) -> None:
        namespace = f"adacompress.{stage}"
        self._sampled = Metrics.counter(namespace, "sampled")
        self._calls = Metrics.counter(namespace, "calls")
        self._retries = Metrics.counter(namespace, "retries")
        self._cache_hits = Metrics.counter(namespace, "cache_hits")
        self._cost = Metrics.counter(namespace, "cost_microdollars")
        self._throttling = ThrottlingSignaler(namespace)
        self._unreported = 0.0  # seconds, below one

    def sampled(self) -> None:
        self._sampled.inc()

    def used(self, usage: Usage) -> None:
        self._calls.inc(usage.calls)
        self._retries.inc(usage.retries)
        self._cache_hits.inc(usage.cache_hits)
        self._cost.inc(round(usage.cost * 1e6))

    def throttled(self, seconds: float) -> None:
        """Counters hold whole numbers: what is below a second is kept for the next time."""
        whole, self._unreported = divmod(self._unreported + seconds, 1)
        if whole:
            self._throttling.signal_throttled(int(whole))
