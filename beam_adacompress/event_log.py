"""What TensorBoard shows: numbers and pictures by step, in event files.

tensorboard's own record writer is used, which does not import TensorFlow.
"""

from __future__ import annotations

import os
import time
import uuid
from types import TracebackType
from typing import Any, Optional

from beam_adacompress.errors import AdaCompressError

_VERSION = "brain.Event:2"  # of the format, as every event file begins


class EventLog:
    """Writes into one folder, which TensorBoard takes for one run; the file is made by what is written first.

    Args:
      folder: on a disk of this machine; None: nothing is written.

    Raises:
      AdaCompressError: tensorboard is not installed, or the folder is in a bucket.
    """

    def __init__(self, folder: Optional[str]) -> None:
        self._folder = folder
        self._file: Optional[Any] = None
        if folder is None:
            return
        if "://" in folder:
            raise AdaCompressError(
                f"logs for TensorBoard grow line by line, which {folder} cannot: give a local folder"
            )
        _protos()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    @property
    def is_on(self) -> bool:
        """Whether anything is written."""
        return self._folder is not None

    def scalars(self, step: int, wall_time: Optional[float] = None, **values: Optional[float]) -> None:
        """Numbers of a step; those that are None are left out.

        Args:
          step: at least 0.
          wall_time: of the step, seconds since the epoch; None for now.
          values: by name.
        """
        known = {name: value for name, value in values.items() if value is not None}
        if self.is_on and known:
            _, summary = _protos()
            self._add(step, wall_time, [summary.Value(tag=tag, simple_value=value) for tag, value in known.items()])

    def picture(self, step: int, name: str, png: bytes) -> None:
        """A picture of a step, as a PNG."""
        if self.is_on:
            _, summary = _protos()
            width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))  # as a PNG's header has them
            image = summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
            self._add(step, None, [summary.Value(tag=name, image=image)])

    def close(self) -> None:
        """Ends the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _add(self, step: int, wall_time: Optional[float], values: list[Any]) -> None:
        event, summary = _protos()
        moment = time.time() if wall_time is None else wall_time
        writer = self._writer(event, moment)
        writer.write(event(wall_time=moment, step=step, summary=summary(value=values)).SerializeToString())
        writer.flush()

    def _writer(self, event: Any, moment: float) -> Any:
        if self._file is None:
            from tensorboard.summary.writer.record_writer import RecordWriter

            assert self._folder is not None
            # TensorBoard reads the files of a folder in the order of their names.
            name = f"events.out.tfevents.{int(time.time()):010d}.{time.time_ns()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
            try:
                os.makedirs(self._folder, exist_ok=True)
                self._file = RecordWriter(open(os.path.join(self._folder, name), "wb"))  # noqa: SIM115 (close ends it)
            except OSError as error:
                raise AdaCompressError(
                    f"the logs {self._folder} cannot be written: {error.strerror or error}"
                ) from error
            self._file.write(event(wall_time=moment, file_version=_VERSION).SerializeToString())
        return self._file


def _protos() -> Any:
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
    except ImportError as error:
        raise AdaCompressError(
            "logs for TensorBoard need tensorboard: pip install 'beam-adacompress[train]'"
        ) from error
    return Event, Summary
