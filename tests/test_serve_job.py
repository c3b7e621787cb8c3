"""`adacompress serve`: what it refuses, on what it runs, and the job that it builds."""

from __future__ import annotations

import re

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import PipelineVisitor
from pubsub import SUBSCRIPTION

from beam_adacompress.pipelines import cli, serve
from beam_adacompress.pipelines.serve_job import ServeJob

WATCH = ["--input=/photos", "--output=/out"]
RECEIVE = [f"--subscription={SUBSCRIPTION}", "--output=/out"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input=/photos"], "--output is missing; see adacompress serve --help"),
        (["--output=/out"], "give either input, which is watched, or subscription, which tells; neither is given"),
        ([*WATCH, *RECEIVE], "give either input, which is watched, or subscription, which tells; both are given"),
        (["--input=/out/images", "--output=/out"], "the input /out/images lies in the output /out: choose another"),
        ([*RECEIVE, "--stop-after=0"], "stop_after must be above 0 seconds, got 0.0"),
        ([*RECEIVE, "--only-new"], "only_new is about watching: give input in the place of subscription"),
        ([*WATCH, "--window=0"], "window must be above 0 seconds, got 0.0"),
        ([*WATCH, "--refresh=0"], "refresh must be above 0 seconds, got 0.0"),
        ([*WATCH, "--poll=0"], "poll must be above 0 seconds, got 0.0"),
        ([*RECEIVE, "--allowed-lateness=-1"], "allowed_lateness must be at least 0 seconds, got -1.0"),
        ([*WATCH, "--publish=/p"], "publish is about scores: give score_with=BACKEND too"),
        ([*WATCH, "--gather=5"], "gather is about scores: give score_with=BACKEND too"),
        ([*WATCH, "--max-calls=5"], "max_calls is about scores: give score_with=BACKEND too"),
        ([*WATCH, "--score-with=vision"], "unknown name 'vision': did you mean google-vision?; known: baidu"),
        ([*WATCH, "--score-with=facepp", "--explore=0.6"], "explore must be at most 0.5 where drift is looked for"),
        ([*WATCH, "--score-with=facepp", "--cache=/out/scores"], "the cache /out/scores is where jobs delete files"),
        ([*WATCH, "--score-with=facepp", "--gather=0"], "gather must be at least 1"),
        ([*WATCH, "--min-saving=2"], "min_saving must be"),
        ([*WATCH, "--poles=2"], "unknown option --poles: did you mean --poll?"),
        (
            WATCH,
            "FnApiRunner ends all windows when the job ends, and this one would not: give --stop-after SECONDS, or "
            "--runner=DataflowRunner or FlinkRunner, or, on this machine, PrismRunner",
        ),
        ([*WATCH, "--runner=DirectRunner"], "DirectRunner ends all windows when the job ends"),
        ([*WATCH, "--runner=PortableRunner", "--job_endpoint=embed"], "PortableRunner ends all windows when the job"),
        (
            [*WATCH, "--runner=BundleBasedDirectRunner", "--stop-after=1"],
            "BundleBasedDirectRunner cannot watch a",
        ),
        ([*RECEIVE, "--runner=FnApiRunner"], "FnApiRunner ends all windows when the job ends, and this one would not"),
        (
            [*RECEIVE, "--runner=BundleBasedDirectRunner", "--stop-after=9"],
            "BundleBasedDirectRunner reads from Pub/Sub for ever: use FnApiRunner with --stop-after",
        ),
        (
            [*RECEIVE, "--runner=DataflowRunner", "--stop-after=9"],
            "DataflowRunner reads from Pub/Sub until it is drained: do that in the place of --stop-after",
        ),
        ([*WATCH, "--runner=DaskRunner"], "DaskRunner drops batches and mixes up outputs without a word"),
        ([*WATCH, "--stop-after=9", "--notify=images"], "PubSub topic must be in the form"),
        ([*WATCH, "--runner=DataflowRunner"], "Dataflow's workers do not reach /photos: give --input gs://..."),
        ([*RECEIVE, "--runner=DataflowRunner"], "Dataflow's workers do not reach /out: give --output gs://..."),
        (
            [*WATCH, "--runner=DataflowRunner", "--score-with=litert:a", "--logs=/logs"],
            "Dataflow's workers do not reach /logs: leave --logs out",
        ),
        ([*WATCH, "--logs=/logs"], "logs is about scores: give score_with=BACKEND too"),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    assert cli.main(["serve", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_which_runner():
    def chosen(flags, **source):
        found = serve.choose_runner(ServeJob(output="/out", **source), PipelineOptions(flags))
        name = found.runner if isinstance(found.runner, str) else type(found.runner).__name__
        return name, *found[1:]

    assert chosen([], input="/photos", stop_after=1)[:3] == ("FnApiRunner", True, False)
    bundles = ("BundleBasedDirectRunner", True, True, False)
    assert chosen([], subscription=SUBSCRIPTION) == bundles
    for runner in ("DirectRunner", "BundleBasedDirectRunner"):
        assert chosen([f"--runner={runner}"], subscription=SUBSCRIPTION) == bundles
    for flags in ([], ["--runner=DirectRunner"], ["--runner=FnApiRunner"]):
        assert chosen(flags, subscription=SUBSCRIPTION, stop_after=1) == ("FnApiRunner", True, False, True)
    for runner in ("PrismRunner", "FlinkRunner"):
        assert chosen([f"--runner={runner}"], subscription=SUBSCRIPTION) == (runner, False, True, True)
    for runner in ("PrismRunner", "FlinkRunner", "DataflowRunner"):
        assert chosen([f"--runner={runner}"], input="/photos")[:3] == (runner, False, True)
    assert chosen(["--runner=DataflowRunner"], subscription=SUBSCRIPTION) == ("DataflowRunner", False, True, False)


@pytest.mark.parametrize("streams", [True, False])
def test_what_a_runner_that_ends_all_windows_at_the_end_is_spared(streams):
    pipeline = beam.Pipeline(runner="FnApiRunner", options=PipelineOptions(["--streaming"]))
    serve.serve(pipeline, ServeJob(output="/out", input="/in", score_with="facepp", publish="/p"), "attempt", streams)
    stages = {transform.unique_name for transform in pipeline.to_runner_api().components.transforms.values()}
    assert ("Arrive/Spread" in stages, "RetrainAgent" in stages) == (streams, streams)
    assert "EstimateDrift" in stages


@pytest.mark.parametrize("source", [{"subscription": SUBSCRIPTION}, {"input": "gs://photos/in"}])
def test_on_dataflow_image_bytes_never_cross_a_shuffle(source):
    shuffled = []

    class Shuffles(PipelineVisitor):
        def visit_transform(self, node):
            if isinstance(node.transform, (beam.GroupByKey, beam.Flatten)):
                shuffled.extend(str(pcoll.element_type) for pcoll in node.inputs)

    flags = ["--runner=DataflowRunner", "--dry_run=True", "--project=our-project", "--region=r", "--streaming"]
    pipeline = beam.Pipeline(options=PipelineOptions([*flags, "--temp_location=gs://photos/temporary"]))
    places = {"output": "gs://photos/out", "policy": "gs://photos/policies", "publish": "gs://photos/policies"}
    serve.serve(pipeline, ServeJob(**places, **source, score_with="google-vision"), "attempt")
    pipeline.visit(Shuffles())
    assert len(shuffled) >= 6
    kinds = ("bytes", "SourceImage", "EncodedImage", "ChosenImage", "CompressedImage")
    assert not [kind for kind in shuffled if re.search(rf"\b({'|'.join(kinds)})\b", kind)]
    built = pipeline.run().job
    assert built.proto.type.name == "JOB_TYPE_STREAMING"
    urns = {transform.spec.urn for transform in built.proto_pipeline.components.transforms.values()}
    assert ("beam:transform:pubsub_read:v1" in urns) is ("subscription" in source)
