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
"""

from __future__ import annotations

from apache_beam.metrics import Metrics


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
