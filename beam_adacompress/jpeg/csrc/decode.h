/* Huffman decoding of the commonest JPEGs, without libjpeg. */
#ifndef ADACOMPRESS_DECODE_H
#define ADACOMPRESS_DECODE_H

#include <stdio.h>

#include <jpeglib.h>

#include "core.h"

/* Decodes the picture behind a header that libjpeg has read and `describe` has checked: the planes' coefficients, and
 * who owns them. 0, and the image as it was, where the file is not of the kind or not perfectly clean, or where there is
 * no memory. libjpeg still stands behind the header. */
int aj_decode(const struct jpeg_decompress_struct *decoder, aj_image *image);

#endif
