"""`adacompress report`: one page about a run, or about several.

DIR ... ─▶ report_sources (reads, a few rows at a time) ─▶ report.Content ─▶ report.render ─▶ FILE
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import uuid
from collections.abc import Sequence
from typing import Optional

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from beam_adacompress import report
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.pipelines import report_sources
from beam_adacompress.pipelines.options import OF_FILESYSTEMS, CommandLine, UsageError, absolute, adder
from beam_adacompress.pipelines.report_sources import BESIDE, COMPRESS, EVALUATION, POLICIES, SCORE, SERVE, Source
from beam_adacompress.pipelines.results import tell
from beam_adacompress.report import Content, PolicyHistory
from beam_adacompress.transforms import files

_NAME = "report.html"


@dataclasses.dataclass(frozen=True)
class ReportJob:
    """One report; the fields are the arguments of `adacompress report`.

    Args:
      runs: folders: the output of compress, score, serve or evaluate, or of published policies; all in one page. The
        scores in OUTPUT/score of a compress run come along.
      output: the file; None for report.html in the first folder.
      originals: folder that the keys are relative to, if the originals have moved; None for where each run found them.

    Raises:
      ValueError: no run is given, one is given twice, or the output is one of them.
    """

    runs: Sequence[str]
    output: Optional[str] = None
    originals: Optional[str] = None

    def __post_init__(self) -> None:
        if not self.runs or not all(self.runs):
            raise ValueError("a report is about at least one run: give its folder")
        if twice := [run for index, run in enumerate(self.runs) if run in self.runs[:index]]:
            raise ValueError(f"{twice[0]} is given twice")
        if self.output is not None and self.output in self.runs:
            raise ValueError(f"output is the file of the report, and {self.output} is a run: give a name in it")

    @property
    def file(self) -> str:
        """Where the report goes."""
        return files.join(self.runs[0], _NAME) if self.output is None else self.output

    def content(self) -> Content:
        """What there is to show.

          Raises:
            UsageError: originals are given for several runs of images.
        AdaCompressError: a folder holds no run, or one that cannot be read.
        """
        sources = [report_sources.source_of(run) for run in self.runs]
        given = {source.path for source in sources}
        for source in list(sources):  # what compress --score-with scored
            beside = files.join(source.path, BESIDE)
            if (
                source.kind == COMPRESS
                and beside not in given
                and files.exists(files.join(beside, "_adacompress/run.json"))
            ):
                sources.append(report_sources.source_of(beside))
        images = [source for source in sources if source.kind in (COMPRESS, SERVE)]
        if self.originals is not None and len(images) > 1:
            raise UsageError(f"originals is about one run, and {len(images)} are given")
        compressed = [report_sources.compressed(source, self.originals) for source in images]
        wanted = {key for run in compressed for key in report_sources.shown_keys(run)}
        scored = [report_sources.scored(each, wanted, self.originals) for each in _of(sources, SCORE, SERVE)]
        policies = [report_sources.published(source) for source in _of(sources, POLICIES)]
        if not scored:
            learned = [report_sources.learned_from(source) for source in _of(sources, POLICIES)]
            scored = [each for each in learned if each is not None]
        again: list[PolicyHistory] = [report_sources.retrained(source) for source in _of(sources, SERVE)]
        return Content(
            compressed,
            scored,
            [report_sources.evaluated(source) for source in _of(sources, EVALUATION)],
            [*policies, *(each for each in again if each.retrained)],
        )

    def write(self) -> str:
        """Writes the report, and returns where it is.

        Raises:
          AdaCompressError: a run cannot be read, or the report cannot be written.
        """
        page = report.render(self.content()).encode()
        folder = self.file.rpartition("/")[0]
        scratch = files.join(folder, f".report-{uuid.uuid4().hex}")
        try:
            files.write(self.file, page, scratch, "text/html; charset=utf-8")
        except OSError as error:
            raise AdaCompressError(f"the report {self.file} cannot be written: {error.strerror or error}") from error
        finally:
            with contextlib.suppress(OSError):
                files.delete([scratch])
        return self.file


def report_on_scores(run: str) -> Optional[str]:
    """Writes the report of a run when its scores are there, and returns where it is.

    None where that fails, which is said: images and scores are there, and the page is only about them.
    """
    try:
        return ReportJob([run]).write()
    except AdaCompressError as error:
        print(f"there is no report of the scores: {error}", file=sys.stderr)
        return None


def _of(sources: Sequence[Source], *kinds: str) -> list[Source]:
    return [source for source in sources if source.kind in kinds]


def run(argv: Optional[Sequence[str]] = None) -> int:
    """Runs `adacompress report ARGV` and returns its exit status.

    Raises:
      AdaCompressError: there is nothing to report on, or it cannot be read or written.
    """
    given, rest = LINE.parse(sys.argv[1:] if argv is None else argv)
    FileSystems.set_options(PipelineOptions(rest))
    output, originals = given["output"], given["originals"]
    try:
        job = ReportJob(
            [absolute(each) for each in given["runs"]], output and absolute(output), originals and absolute(originals)
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    written = job.write()
    tell(report=written)
    print(f"report: {written}")
    return 0


class _OfReport:
    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "runs",
            nargs="+",
            metavar="DIR",
            help="the output of adacompress compress, score, serve or evaluate, or a folder of published policies; "
            "several come into one page",
        )
        add = adder(parser)
        add("--output", metavar="FILE", help=f"the page (not given: {_NAME} in the first DIR)")
        add(
            "--originals",
            metavar="FOLDER",
            help="where the originals are, if they have moved since they were compressed (not given: where they were)",
        )


LINE = CommandLine(
    "adacompress report",
    "Write one self-contained HTML page about a run, or about several.",
    [_OfReport],
    epilog=OF_FILESYSTEMS,
)
LINES = {"": LINE}
