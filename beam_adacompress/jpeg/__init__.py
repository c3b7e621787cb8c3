"""Bytes in, bytes out: decoding, quantisation tables, encoding. Knows nothing of Beam."""

from beam_adacompress.jpeg.codec import Compressed, compress
from beam_adacompress.jpeg.dct import Coefficients, DecodedDCT, pack, read_dct, unpack
from beam_adacompress.jpeg.picture import Picture, encode, open_picture
from beam_adacompress.jpeg.settings import Settings
from beam_adacompress.jpeg.source import Source, open_image
from beam_adacompress.jpeg.tables import FAMILIES, Quantisation, quantisation

__all__ = [
    "FAMILIES",
    "Coefficients",
    "Compressed",
    "DecodedDCT",
    "Picture",
    "Quantisation",
    "Settings",
    "Source",
    "compress",
    "encode",
    "open_image",
    "open_picture",
    "pack",
    "quantisation",
    "read_dct",
    "unpack",
]
