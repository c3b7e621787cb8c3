"""Mistakes that many make, and what is said of them; the same words for all commands."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from typing import Optional

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions, WorkerOptions

from beam_adacompress.backends import backend as backend_of
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.pipelines.options import UsageError
from beam_adacompress.policy.policies import DEFAULT, Policy
from beam_adacompress.transforms import files

_WITH_FILES = ("litert", "keras", "dct", "replay")  # backends whose path is one file that is read
_SLOW_TO_OPEN = ("keras",)


def no_images(path: str) -> AdaCompressError:
    """What is wrong with an input in which there is nothing."""
    if files.is_local(path) and not files.has_wildcard(path) and not os.path.lexists(path):
        return AdaCompressError(f"the input {path} does not exist")
    return AdaCompressError(
        f"no images found in {path}: give a folder, a glob such as 'DIR/*.jpg', or gs://BUCKET/FOLDER"
    )


def check_apart(source: str, output: str) -> None:
    """Raises UsageError where the input is the output, or lies in it."""
    if files.join(source, "").startswith(files.join(output, "")):
        raise UsageError(f"the input {source} lies in the output {output}: choose another --output")


def runs_on_dataflow(options: PipelineOptions) -> bool:
    """Whether the workers are Dataflow's, which do not reach this machine's disk."""
    return bool(options.view_as(StandardOptions).runner == "DataflowRunner")


def check_reach(options: PipelineOptions, **paths: Optional[str]) -> None:
    """Refuses paths that the workers would not reach.

    Args:
      options: of the Beam job.
      paths: by the name of their option; None where it is not given.

    Raises:
      UsageError: the workers are Dataflow's, and a path is on this machine's disk.
    """
    for option, path in paths.items() if runs_on_dataflow(options) else ():
        if path not in (None, DEFAULT) and files.is_local(path):
            raise UsageError(f"Dataflow's workers do not reach {path}: give --{option} gs://...")


def check_models(options: PipelineOptions, backends: Iterable[str]) -> None:
    """Refuses backends whose file is not there, before anything else is done.

    Args:
      options: of the Beam job.
      backends: URIs.

    Raises:
      AdaCompressError: a file of this machine does not exist.
      UsageError: the workers are Dataflow's, they run in no image of one's own, and a file is on this machine's disk.
    """
    for uri in backends:
        name, _, path = uri.partition("?")[0].partition(":")
        if name not in _WITH_FILES or not path or not files.is_local(path):
            continue
        if runs_on_dataflow(options):
            if options.view_as(WorkerOptions).sdk_container_image is None:
                raise UsageError(
                    f"Dataflow's workers do not reach {path}: give {name}:gs://..., or --sdk_container_image with an "
                    "image that holds it"
                )
        elif not os.path.exists(path):
            raise AdaCompressError(f"the file {path} of the backend {uri} does not exist")


def heard_by(backends: Iterable[str]) -> set[tuple[str, str]]:
    """Name and version of backends; those that take long to open are left out.

    Raises:
      AdaCompressError: one cannot be opened.
    """
    found = set()
    for uri in backends:
        made = backend_of(uri)
        if made.terms_need_open:
            if uri.partition(":")[0] in _SLOW_TO_OPEN:
                continue
            made.open(files.read)
        found.add((made.terms.name, made.terms.version))
    return found


def unheard(policy: Policy, asked: Collection[tuple[str, str]]) -> Optional[str]:
    """What to say where a policy's promise is not about those who are asked; None where it is.

    Args:
      policy: that chooses.
      asked: name and version of each.
    """
    voices = policy.artefact.backends
    heard = {(name.partition(":")[0], version) for name, version in voices}
    others = sorted(set(asked) - heard)
    if not others:
        return None
    trained = " and ".join(name for name, _ in voices)
    strangers = " and ".join(f"{name} (version {version})" for name, version in others)
    return (
        f"the policy {policy.version} was trained for {trained}, and {strangers} had no say in it: its promise does "
        "not hold there; train one for that backend, or --verify with it"
    )
