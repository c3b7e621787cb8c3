"""Answers of backends, kept so that none is paid for twice.

    CACHE/replies/BACKEND-VERSION/ab/abcdef....json   one reply, named by the sha256 of the image's bytes

Each is written once, in one step, and never changed; where two workers ask at once, the first one's answer stands
and both use it. `VERSION` in the name is a digest of the backend's version.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from typing import Optional

from beam_adacompress.backends import Labels, Terms
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.records import Label
from beam_adacompress.transforms import files

VERSION = 1


class ReplyCache:
    """The replies of one backend; a `backends.manners.Cache` on any filesystem that Beam knows.

    Args:
      root: the cache's folder.
      terms: of the backend.
    """

    def __init__(self, root: str, terms: Terms) -> None:
        self._terms = terms
        self._scratch = files.join(root, "scratch")
        digest = hashlib.sha256(terms.version.encode()).hexdigest()[:12]
        self._folder = files.join(root, "replies", f"{terms.name}-{digest}")

    def probe(self) -> None:
        """Finds out whether replies can be written: rather now than after the first that was paid for.

        Raises:
          AdaCompressError: they cannot.
        """
        path = files.join(self._scratch, f"probe-{uuid.uuid4().hex}")
        try:
            files.write(path, b"", self._scratch)
        except OSError as error:
            raise AdaCompressError(
                f"answers cannot be cached below {self._folder}: {error.strerror or error}; no call was made"
            ) from error
        files.delete([path])

    def has(self, sha256: str) -> bool:
        """Whether the reply for the bytes with this digest is here."""
        return files.status(self._path(sha256)) is not None

    def get(self, sha256: str) -> Optional[Labels]:
        """The labels for the bytes with this digest, or None.

        Raises:
          AdaCompressError: they are there but cannot be read.
        """
        path = self._path(sha256)
        try:
            if files.status(path) is None:
                return None
            data = files.read(path)
        except OSError as error:
            raise AdaCompressError(f"the cached reply {path} cannot be read: {error.strerror or error}") from error
        return self._labels(data, path)

    def put(self, sha256: str, labels: Labels) -> Labels:
        """Keeps labels, unless there are some; returns those that are kept.

        Raises:
          AdaCompressError: they cannot be written.
        """
        path = self._path(sha256)
        content = {
            "format": "adacompress.reply",
            "format_version": VERSION,
            "backend": self._terms.name,
            "backend_version": self._terms.version,
            "sha256": sha256,
            "time": time.time(),
            "labels": labels,
        }
        data = json.dumps(content, ensure_ascii=False).encode()
        try:
            if not files.can_create(path):
                files.write(path, data, self._scratch, "application/json")
            elif not files.create(path, data, self._scratch):
                return self._labels(files.read(path), path)
        except OSError as error:
            raise AdaCompressError(
                f"the reply {path} cannot be cached: {error.strerror or error}; it would be paid for again"
            ) from error
        return labels

    def _path(self, sha256: str) -> str:
        return files.join(self._folder, sha256[:2], f"{sha256}.json")

    def _labels(self, data: bytes, path: str) -> Labels:
        try:
            content = json.loads(data)
            version = content["format_version"]
            if version == VERSION and content["backend_version"] == self._terms.version:
                return tuple(Label(str(name), float(score)) for name, score in content["labels"])
        except (ValueError, KeyError, TypeError) as error:
            raise AdaCompressError(f"the cached reply {path} is damaged ({error}): delete that file") from error
        raise AdaCompressError(
            f"{path} is a reply of version {version} by {content['backend_version']}, and not one of version {VERSION} "
            f"by {self._terms.version}: use the release that wrote it, or another cache"
        )
