"""Small JSON files of a folder that say what they are: whole or not there, refused where they are something else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, Optional, TypeVar

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.transforms import files

T = TypeVar("T")


def scratch(root: str) -> str:
    """Where files of a folder are while they are not whole."""
    return files.join(root, "_adacompress")


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of such files.

    Args:
      file: its name in the folder.
      name: what it is; its format is `adacompress.NAME`.
      version: of its fields and what they mean.
      remedy: what to do about one that is damaged, for messages.
    """

    file: str
    name: str
    version: int
    remedy: str

    def encoded(self, fields: Mapping[str, Any]) -> bytes:
        """The content of a file."""
        return json.dumps({"format": f"adacompress.{self.name}", "format_version": self.version, **fields}).encode()

    def path(self, root: str) -> str:
        """Of the file in a folder."""
        return files.join(root, self.file)

    def read(self, root: str, made: Callable[[Mapping[str, Any], str], T]) -> Optional[T]:
        """Reads a file.

        Args:
          root: the folder.
          made: makes something of its fields and of the token with which `files.replace` knows it; a ValueError,
            KeyError or TypeError says that they are no such thing.

        Returns:
          What was made; None where there is no file.

        Raises:
          AdaCompressError: it cannot be read, is damaged, or is of an unknown version.
        """
        path = self.path(root)
        try:
            found = files.read_with_token(path)
        except OSError as error:
            raise AdaCompressError(f"{path} cannot be read: {error.strerror or error}") from error
        if found is None:
            return None
        data, token = found
        try:
            content = json.loads(data)
            if content["format"] != f"adacompress.{self.name}":
                raise ValueError(f"its format is {content['format']!r}")
            version = content["format_version"]
            if version == self.version:
                return made(content, token)
        except (ValueError, KeyError, TypeError) as error:
            raise AdaCompressError(f"{path} is damaged ({error}): {self.remedy}") from error
        raise AdaCompressError(
            f"{path} has version {version}, and this is adacompress for version {self.version}: "
            "use the release that wrote it"
        )
