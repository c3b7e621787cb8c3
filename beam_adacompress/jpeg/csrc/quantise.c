/* Coefficients at other steps and another sampling, and of those only what is not zero. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "rows.h"
#include "write.h"
#include "standard.h"

#define LARGEST 1023.0f /* what 8-bit samples can come to; libjpeg refuses more */

/* To the nearest; AC coefficients with rounding below 0.5 towards zero (a dead zone). */
AJ_INLINE void quantise(const float *restrict block, const float *restrict factor, const float *restrict rounding,
                        int16_t *restrict found)
{
    float scaled[AJ_BLOCK];
    int k;

    for (k = 0; k < AJ_BLOCK; k++) {
        float value = block[k] * factor[k];
        value = value + copysignf(rounding[k], value);
        value = value < LARGEST ? value : LARGEST;
        scaled[k] = value > -LARGEST ? value : -LARGEST;
    }
    for (k = 0; k < AJ_BLOCK; k++)
        found[k] = (int16_t)(int32_t)scaled[k];
}

AJ_INLINE void widen(const int16_t *restrict block, float *restrict found)
{
    int k;

    for (k = 0; k < AJ_BLOCK; k++)
        found[k] = (float)block[k];
}

/* Which coefficients of a block are not zero, by their places in natural order. */
AJ_INLINE uint64_t not_zero(const int16_t *block)
{
    uint64_t found = 0;
    int k;

#ifdef __SSE2__
    for (k = 0; k < AJ_BLOCK; k += 16) {
        __m128i first = _mm_loadu_si128((const __m128i *)(block + k));
        __m128i second = _mm_loadu_si128((const __m128i *)(block + k + 8));
        __m128i zeros = _mm_cmpeq_epi8(_mm_packs_epi16(first, second), _mm_setzero_si128());
        found |= (uint64_t)(0xFFFF & ~_mm_movemask_epi8(zeros)) << k;
    }
#else
    for (k = 0; k < AJ_BLOCK; k += 4)
        if (four(block + k))
            found |= (uint64_t)((block[k] != 0) | (block[k + 1] != 0) << 1 | (block[k + 2] != 0) << 2 |
                                (block[k + 3] != 0) << 3)
                     << k;
#endif
    return found;
}

AJ_INLINE uint64_t in_zigzag(uint64_t natural)
{
    uint64_t found = 0;

    for (; natural; natural &= natural - 1)
        found |= (uint64_t)1 << aj_zigzag[__builtin_ctzll(natural)];
    return found;
}

AJ_CLONES static void fill(const aj_image *image, const aj_encoding *encoding, int component, aj_quantised *found)
{
    const aj_plane *plane = &image->planes[component];
    const uint16_t *steps = component == 0 ? encoding->luma : encoding->chroma;
    int across = component == 0 ? 1 : encoding->across, down = component == 0 ? 1 : encoding->down;
    int same = plane->across == across && plane->down == down;
    float factor[AJ_BLOCK], rounding[AJ_BLOCK], block[AJ_BLOCK];
    int16_t quantised[AJ_BLOCK], *next = found->ac;
    int row, column, k;
    size_t i = 0;

    for (k = 0; k < AJ_BLOCK; k++) {
        factor[k] = same ? (float)plane->table[k] / (float)steps[k] : 1.0f / (float)steps[k];
        rounding[k] = k == 0 ? 0.5f : encoding->rounding;
    }
    for (row = 0; row < found->rows; row++)
        for (column = 0; column < found->columns; column++, i++) {
            uint64_t left;
            if (same)
                widen(plane->blocks + ((size_t)row * plane->stride + (size_t)column) * AJ_BLOCK, block);
            else
                aj_block(plane, across, down, row, column, block);
            quantise(block, factor, rounding, quantised);
            found->dc[i] = quantised[0];
            found->which[i] = left = in_zigzag(not_zero(quantised) & ~(uint64_t)1);
            found->start[i] = (uint32_t)(next - found->ac);
            for (; left; left &= left - 1)
                *next++ = quantised[aj_natural[__builtin_ctzll(left)]];
        }
    found->count = (size_t)(next - found->ac);
}

int aj_quantise(const aj_image *image, const aj_encoding *encoding, int component, aj_quantised *found)
{
    size_t blocks;

    aj_shape(image, component, encoding->across, encoding->down, &found->rows, &found->columns);
    found->high = component == 0 && image->components == 3 ? encoding->down : 1;
    found->wide = component == 0 && image->components == 3 ? encoding->across : 1;
    blocks = (size_t)found->rows * (size_t)found->columns;
    found->dc = malloc(blocks * sizeof *found->dc);
    found->which = malloc(blocks * sizeof *found->which);
    found->start = malloc(blocks * sizeof *found->start);
    found->ac = malloc(blocks * (AJ_BLOCK - 1) * sizeof *found->ac);
    if (found->dc == NULL || found->which == NULL || found->start == NULL || found->ac == NULL)
        return 0;
    fill(image, encoding, component, found);
    return 1;
}

void aj_forget(aj_quantised *quantised)
{
    free(quantised->dc);
    free(quantised->which);
    free(quantised->start);
    free(quantised->ac);
    memset(quantised, 0, sizeof *quantised);
}
