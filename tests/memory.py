"""A filesystem that is a dictionary: Beam finds it by its scheme, `memory://`."""

from __future__ import annotations

import io
from typing import ClassVar

from apache_beam.io.filesystem import FileMetadata, FileSystem, MatchResult


class MemoryFileSystem(FileSystem):
    """A filesystem without conditional writes that, as HDFS, does not rename over a file."""

    content: ClassVar[dict[str, bytes]] = {}

    @classmethod
    def scheme(cls):
        return "memory"

    def join(self, base, *paths):
        return "/".join([base, *paths])

    def split(self, path):
        return path.rpartition("/")[::2]

    def mkdirs(self, path):
        pass

    def has_dirs(self):
        return False

    def _list(self, prefix):
        return (self.metadata(name) for name in self.content if name.startswith(prefix))

    def match(self, patterns, limits=None):
        return [MatchResult(each, list(self._list(each.partition("*")[0]))) for each in patterns]

    def create(self, path, mime_type="", compression_type=""):
        content = self.content

        class File(io.BytesIO):
            def close(self):
                content[path] = self.getvalue()
                super().close()

        return File()

    def open(self, path, mime_type="", compression_type=""):
        return io.BytesIO(self.content[path])

    def copy(self, sources, targets):
        raise NotImplementedError

    def rename(self, sources, targets):
        for source, target in zip(sources, targets, strict=True):
            if target in self.content:
                raise OSError(f"{target} is there already")
            self.content[target] = self.content.pop(source)

    def exists(self, path):
        return path in self.content

    def size(self, path):
        return len(self.content[path])

    def last_updated(self, path):
        return 0.0

    def checksum(self, path):
        return ""

    def metadata(self, path):
        return FileMetadata(path, len(self.content[path]), 0.0)

    def delete(self, paths):
        for path in paths:
            del self.content[path]
