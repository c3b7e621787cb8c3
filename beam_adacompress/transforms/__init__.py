"""The PTransforms. Importing this registers the row coders of beam_adacompress.records with Beam."""

import logging

# Without its `gcp` extra Beam warns while it is imported, in a way that makes the root logger print everything.
_silent = logging.NullHandler()
logging.getLogger().addHandler(_silent)
from apache_beam import coders

logging.getLogger().removeHandler(_silent)

from beam_adacompress import records
from beam_adacompress.transforms.choose import ChooseQuality
from beam_adacompress.transforms.compress import CompressJPEG
from beam_adacompress.transforms.corpus import Corpus
from beam_adacompress.transforms.decode_dct import DecodeDCT
from beam_adacompress.transforms.drift import EstimateDrift
from beam_adacompress.transforms.images import ReadImages, WriteImages
from beam_adacompress.transforms.outputs import ImagesAndFailures
from beam_adacompress.transforms.pairs import (
    ManifestPart,
    PairFailure,
    ReadPairs,
    SampleRun,
    StoredImage,
    StoredImages,
    StoredPair,
)
from beam_adacompress.transforms.retrain import RetrainAgent
from beam_adacompress.transforms.runs import FinishedImage, RunFolder, SkipFinished
from beam_adacompress.transforms.score import ScoresAndFailures, ScoreWithBackend
from beam_adacompress.transforms.score_sinks import ScoreFolder, WriteScores
from beam_adacompress.transforms.shards import Shard, ShardedFolder
from beam_adacompress.transforms.sinks import CommitRows, FinishRun, Fragment, MergeManifest
from beam_adacompress.transforms.sources import (
    ImageFile,
    ListImages,
    LocatedFailure,
    ReadFiles,
    SourceImage,
    SpreadImages,
)

for _row in (
    records.Choice,
    records.EncodedImage,
    records.ChosenImage,
    records.CompressedImage,
    records.ImageFailure,
    records.Label,
    records.Score,
    records.Usage,
    records.DriftEstimate,
    records.Retrained,
    ImageFile,
    SourceImage,
    LocatedFailure,
    FinishedImage,
    Fragment,
    ManifestPart,
    StoredImage,
    StoredImages,
    StoredPair,
    Shard,
    PairFailure,
):
    coders.registry.register_coder(_row, coders.RowCoder)

__all__ = [
    "ChooseQuality",
    "CommitRows",
    "CompressJPEG",
    "Corpus",
    "DecodeDCT",
    "EstimateDrift",
    "FinishRun",
    "ImagesAndFailures",
    "ListImages",
    "MergeManifest",
    "ReadFiles",
    "ReadImages",
    "ReadPairs",
    "RetrainAgent",
    "RunFolder",
    "SampleRun",
    "ScoreFolder",
    "ScoreWithBackend",
    "ScoresAndFailures",
    "ShardedFolder",
    "SkipFinished",
    "SpreadImages",
    "WriteImages",
    "WriteScores",
]
