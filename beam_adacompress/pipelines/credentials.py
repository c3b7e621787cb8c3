"""Whether anyone is logged in to Google Cloud, found out at once: its client looks for 20 seconds and more."""

from __future__ import annotations

import http.client
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from beam_adacompress.errors import AdaCompressError

_SCHEME = "gs://"
_METADATA_SECONDS = 3.0  # a machine of Google Cloud answers within milliseconds


def check_credentials(argv: Sequence[str]) -> None:
    """Refuses a command line with paths in buckets of Cloud Storage that nobody could open.

    Args:
      argv: the command line.

    Raises:
      AdaCompressError: there is no client for Cloud Storage, or there are no credentials; says how to get them.
    """
    if not any(_SCHEME in argument for argument in argv):
        return
    if not _is_installed("google.cloud.storage"):
        raise AdaCompressError(f"{_SCHEME} needs the client of Cloud Storage: pip install 'beam-adacompress[gcp]'")
    if "STORAGE_EMULATOR_HOST" in os.environ or "--no_auth" in argv:
        return
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if named and not os.path.isfile(named):
        raise AdaCompressError(
            f"GOOGLE_APPLICATION_CREDENTIALS names {named}, which is no file: set it to the key of a service account, "
            "or unset it and run gcloud auth application-default login"
        )
    if not named and not _logged_in() and not _is_in_google_cloud():
        raise AdaCompressError(
            f"{_SCHEME} needs credentials for Google Cloud, and there are none: run gcloud auth application-default "
            "login, or set GOOGLE_APPLICATION_CREDENTIALS to the key of a service account; public buckets can be read "
            "with --no_auth"
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def _logged_in() -> bool:
    """Whether `gcloud auth application-default login` has left its file."""
    folder = os.environ.get("CLOUDSDK_CONFIG")
    if folder is None:
        home = os.environ.get("APPDATA") if os.name == "nt" else str(Path.home() / ".config")
        folder = os.path.join(home or "", "gcloud")
    return os.path.isfile(os.path.join(folder, "application_default_credentials.json"))


def _is_in_google_cloud() -> bool:
    """Whether this machine is one of Google Cloud's, which know who they are."""
    host = os.environ.get("GCE_METADATA_HOST", "169.254.169.254")
    connection = http.client.HTTPConnection(host, timeout=_METADATA_SECONDS)
    try:
        connection.request("GET", "/", headers={"Metadata-Flavor": "Google"})
        return connection.getresponse().getheader("Metadata-Flavor") == "Google"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
