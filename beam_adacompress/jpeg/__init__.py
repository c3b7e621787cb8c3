"""Bytes in, bytes out: decoding, quantisation tables, encoding. Knows nothing of Beam."""

from beam_adacompress.jpeg.codec import Compressed, Settings, compress, encode
from beam_adacompress.jpeg.dct import Coefficients, DecodedDCT, pack, read_dct, unpack
from beam_adacompress.jpeg.source import Source, open_image
from beam_adacompress.jpeg.tables import FAMILIES, Quantisation, quantisation

__all__ = [
    "FAMILIES",
    "Coefficients",
    "Compressed",
    "DecodedDCT",
    "Quantisation",
    "Settings",
    "Source",
    "compress",
    "encode",
    "open_image",
    "pack",
    "quantisation",
    "read_dct",
    "unpack",
]
