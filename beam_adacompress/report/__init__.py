"""Reports: one self-contained HTML page about a run, or about several."""

from beam_adacompress.report.content import CompressRun as CompressRun
from beam_adacompress.report.content import Content as Content
from beam_adacompress.report.content import EvaluationRun as EvaluationRun
from beam_adacompress.report.content import PolicyHistory as PolicyHistory
from beam_adacompress.report.content import PublishedVersion as PublishedVersion
from beam_adacompress.report.content import ScoredRun as ScoredRun
from beam_adacompress.report.gallery import Pair as Pair
from beam_adacompress.report.page import render as render
from beam_adacompress.report.scored import ScoreTally as ScoreTally
from beam_adacompress.words import dollars as dollars
from beam_adacompress.words import megabytes as megabytes
