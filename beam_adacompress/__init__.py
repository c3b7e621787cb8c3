"""Compress image corpora for the machines that look at them, as Apache Beam transforms."""

from beam_adacompress.backends import Backend as Backend
from beam_adacompress.backends import BackendError as BackendError
from beam_adacompress.backends import Query as Query
from beam_adacompress.backends import Terms as Terms
from beam_adacompress.errors import AdaCompressError as AdaCompressError
from beam_adacompress.errors import ImageError as ImageError
from beam_adacompress.records import Choice as Choice
from beam_adacompress.records import ChosenImage as ChosenImage
from beam_adacompress.records import CompressedImage as CompressedImage
from beam_adacompress.records import DriftEstimate as DriftEstimate
from beam_adacompress.records import EncodedImage as EncodedImage
from beam_adacompress.records import ImageFailure as ImageFailure
from beam_adacompress.records import Label as Label
from beam_adacompress.records import Retrained as Retrained
from beam_adacompress.records import Score as Score
from beam_adacompress.records import Usage as Usage
from beam_adacompress.transforms import ChooseQuality as ChooseQuality
from beam_adacompress.transforms import CompressJPEG as CompressJPEG
from beam_adacompress.transforms import DecodeDCT as DecodeDCT
from beam_adacompress.transforms import EstimateDrift as EstimateDrift
from beam_adacompress.transforms import ReadImages as ReadImages
from beam_adacompress.transforms import RetrainAgent as RetrainAgent
from beam_adacompress.transforms import ScoreWithBackend as ScoreWithBackend
from beam_adacompress.transforms import WriteImages as WriteImages
from beam_adacompress.version import __version__ as __version__
