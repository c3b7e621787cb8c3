"""DirectRunner, and runners that must not be used; for others see test_compress_job and test_portable."""

from __future__ import annotations

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from conftest import files_of, manifest_rows

from beam_adacompress import ChooseQuality, CompressJPEG, EncodedImage, ReadImages
from beam_adacompress.transforms.runners import refusal


class DaskRunner(FnApiRunner):
    """By its name."""


@pytest.mark.parametrize("name", ["DaskRunner", "apache_beam.runners.dask.dask_runner.DaskRunner"])
def test_the_command_refuses_it(corpus, compress, tmp_path, capsys, name):
    assert compress(corpus, tmp_path / "out", f"--runner={name}") == 2
    assert "DaskRunner drops batches and mixes up outputs without a word" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_transforms_refuse_it():
    pipeline = beam.Pipeline(runner=DaskRunner())
    with pytest.raises(ValueError, match="DaskRunner drops batches"):
        pipeline | ReadImages("in")
    images = pipeline | beam.Create([EncodedImage("a", b"")]).with_output_types(EncodedImage)
    with pytest.raises(ValueError, match="use DirectRunner on one machine, or FlinkRunner or DataflowRunner on many"):
        images | ChooseQuality(quality=35)
    chosen = beam.Pipeline(runner=FnApiRunner()) | beam.Create([EncodedImage("a", b"")]).with_output_types(EncodedImage)
    assert (chosen | ChooseQuality(quality=35)).images | CompressJPEG()


@pytest.mark.parametrize("runner", ["DirectRunner", "FlinkRunner", "DataflowRunner", None, FnApiRunner()])
def test_others_are_not_refused(runner):
    assert refusal(runner) is None


@pytest.mark.parametrize(
    "flags",
    [
        ["--runner=DirectRunner"],
        ["--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"],
    ],
    ids=["one process", "two processes"],
)
def test_the_same_results_with_direct_runner(compressed, compress, tmp_path, flags):
    def of(output):
        rows = {key: row._replace(seconds=None) for key, row in manifest_rows(output).items()}
        return files_of(output / "images"), rows

    assert compress(compressed / "in", tmp_path / "out", *flags) == 0
    assert of(tmp_path / "out") == of(compressed / "out")
    assert len(files_of(tmp_path / "out" / "images")) == 6
