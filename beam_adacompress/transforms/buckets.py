"""Objects of gs:// buckets through Google's own client, for what Beam's filesystem lacks: conditions on a write.

Beam's writer also tries once more when a failed one is collected as garbage; here an upload that failed stays failed.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, BinaryIO, Optional

from apache_beam.io.filesystems import FileSystems

SCHEME = "gs"

# Seconds for which a request that fails for a while is tried again, and which one may take.
PATIENCE = 60.0
_TIMEOUT = 30.0

_PART = 32 * 1024 * 1024  # bytes of a large object that are sent in one request

_READS = 20  # of an object that is replaced while it is read, before that is an error


@functools.lru_cache(maxsize=1)
def client() -> Any:
    """Beam's own client, with the credentials that its filesystem uses."""
    try:
        from apache_beam.io.gcp.gcsio import GcsIO
    except ImportError as error:
        raise OSError("gs:// needs Google's client: pip install 'beam-adacompress[gcp]'") from error
    return GcsIO(pipeline_options=FileSystems._pipeline_options).client


def upload(path: str, data: bytes, media_type: str, generation: Optional[int] = None) -> bool:
    """Writes an object, whole or not at all, and ends in a minute or two, whatever the store does.

    Args:
      path: `gs://...`.
      data: the content.
      media_type: its type.
      generation: of the object that is to be replaced; 0: there must be none yet; None: whatever is there.

    Returns:
      Whether it is written; if not, something else is there than `generation` says.
    """
    bucket, name = _located(path)
    from google.api_core.exceptions import PreconditionFailed

    try:
        bucket.blob(name).upload_from_string(data, media_type, if_generation_match=generation, **_limits())
    except PreconditionFailed:
        return False
    return True


def upload_file(path: str, file: BinaryIO, media_type: str) -> None:
    """Writes an object, whole or not at all, from a file that may be larger than memory.

    Args:
      path: `gs://...`.
      file: with the content, at its beginning.
      media_type: its type.
    """
    bucket, name = _located(path)
    # In parts, each of which has a time limit of its own.
    bucket.blob(name, chunk_size=_PART).upload_from_file(file, content_type=media_type, **_limits())


def download(path: str) -> Optional[tuple[bytes, int]]:
    """The content of an object, and the generation that it is of; None where there is none."""
    bucket, name = _located(path)
    from google.api_core.exceptions import NotFound

    for _ in range(_READS):
        blob = bucket.get_blob(name, **_limits())
        if blob is None:
            return None
        generation = blob.generation
        with contextlib.suppress(NotFound):  # it has been replaced since
            return blob.download_as_bytes(raw_download=True, **_limits()), generation
    raise OSError("it is replaced faster than it can be read")


def _located(path: str) -> tuple[Any, str]:
    """The bucket, as the client knows it, and the object's name."""
    bucket, _, name = path.removeprefix(f"{SCHEME}://").partition("/")
    return client().bucket(bucket), name


def _limits() -> dict[str, Any]:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return {"timeout": _TIMEOUT, "retry": DEFAULT_RETRY.with_timeout(PATIENCE)}
