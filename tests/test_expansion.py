"""The transforms through an expansion service, as pipelines in other languages get them."""

from __future__ import annotations

import socket
import subprocess
import sys

import apache_beam as beam
import grpc
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.external import ExternalTransform, ImplicitSchemaPayloadBuilder
from conftest import encoded, picture

import beam_adacompress
from beam_adacompress import EncodedImage, jpeg
from beam_adacompress.pipelines import cli
from beam_adacompress.pipelines.expansion import EXPOSED
from beam_adacompress.transforms.beam_yaml import TRANSFORMS

IMAGES = [EncodedImage(f"{seed}.jpg", encoded(picture(seed=seed))) for seed in range(3)]


@pytest.fixture(scope="module")
def service():
    """`adacompress expansion-service` in a process of its own; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "beam_adacompress", "expansion-service", f"--port={port}"]
    process = subprocess.Popen([*command, "--serve-loopback-worker"], stderr=subprocess.PIPE)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def external(name, service, **config):
    """A transform by its name, as `PythonExternalTransform.from(name)` in Java asks for it."""
    payload = ImplicitSchemaPayloadBuilder({"constructor": name, "kwargs": config} if config else {"constructor": name})
    return ExternalTransform("beam:transforms:python:fully_qualified_named", payload.payload(), service)


def test_two_of_them_in_a_pipeline(service):
    settings = jpeg.Settings()
    expected = [(row.key, jpeg.compress(row.data, "annexk", 35, "fixed-35", settings).data) for row in IMAGES]
    with TestPipeline(runner="FnApiRunner") as p:
        images = p | beam.Create(IMAGES).with_output_types(EncodedImage)
        chosen = images | "Choose" >> external("beam_adacompress.ChooseQuality", service, quality=35)
        compressed = chosen["images"] | "Compress" >> external("beam_adacompress.CompressJPEG", service, flatten=False)
        assert_that(compressed["images"] | beam.Map(lambda row: (row.key, bytes(row.compressed))), equal_to(expected))
        assert_that(compressed["failures"], equal_to([]), label="no failures")


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "beam_adacompress.pipelines.cli.main",
        "beam_adacompress.transforms.files.delete",
        "beam_adacompress.ChooseQuality.__init__.__globals__.clear",
        "beam_adacompress.ChooseQuality ",
        "__callable__",
        "__constructor__",
    ],
)
def test_nothing_else_is_called(service, name):
    pipeline = beam.Pipeline(runner="FnApiRunner")
    images = pipeline | beam.Create(IMAGES).with_output_types(EncodedImage)
    with pytest.raises(RuntimeError, match=f"{name} is not one of the transforms that are served"):
        images | external(name, service, source="os.system")


def test_what_is_wrong_is_named(service):
    pipeline = beam.Pipeline(runner="FnApiRunner")
    images = pipeline | beam.Create(IMAGES).with_output_types(EncodedImage)
    with pytest.raises(RuntimeError, match="ChooseQuality: quality must be a whole number or none, got 'high'"):
        images | external("beam_adacompress.ChooseQuality", service, quality="high")


def test_every_public_transform_is_served():
    assert {f"beam_adacompress.{name}" for name in TRANSFORMS} == EXPOSED
    assert all(hasattr(beam_adacompress, name) for name in TRANSFORMS)


def test_a_port_is_needed(capsys):
    assert cli.main(["expansion-service"]) == 2
    assert "--port" in capsys.readouterr().err
