/* Coefficients at other steps and another sampling, and of those only what is not zero. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "rows.h"
#include "standard.h"
#include "write.h"

#define LARGEST 1023 /* what 8-bit samples can come to */

/* How the coefficients of a component become others. */
typedef struct {
    float factor[AJ_BLOCK], rounding[AJ_BLOCK];
    int16_t most[AJ_BLOCK]; /* the largest that becomes 0 */
} change;

/* To the nearest; AC coefficients with rounding below 0.5 towards zero (a dead zone). Still to be cut to an integer that
 * is not too large. */
AJ_INLINE float scaled(const change *c, int k, float value)
{
    value = value * c->factor[k];
    return value + copysignf(c->rounding[k], value);
}

/* The same of a coefficient, which with any two steps does not come to more than an integer holds. */
AJ_INLINE int16_t quantised(const change *c, int k, float value)
{
    int32_t level = (int32_t)scaled(c, k, value);

    level = level < LARGEST ? level : LARGEST;
    return (int16_t)(level > -LARGEST ? level : -LARGEST);
}

static void set_change(change *c, const aj_plane *plane, const uint16_t *steps, float rounding, int same)
{
    int k;

    for (k = 0; k < AJ_BLOCK; k++) {
        int most;
        c->factor[k] = same ? (float)plane->table[k] / (float)steps[k] : 1.0f / (float)steps[k];
        c->rounding[k] = k == 0 ? 0.5f : rounding;
        most = (int)fminf((1.0f - c->rounding[k]) / c->factor[k], INT16_MAX); /* about; the arithmetic has the last word */
        while (most > 0 && quantised(c, k, (float)most) != 0)
            most--;
        while (most < INT16_MAX && quantised(c, k, (float)(most + 1)) == 0)
            most++;
        c->most[k] = (int16_t)most;
    }
}

/* Which coefficients of a block are larger than that, by their places in natural order. */
AJ_INLINE uint64_t larger(const int16_t *block, const int16_t *most)
{
    uint64_t found = 0;
    int k;

#ifdef __SSE2__
    for (k = 0; k < AJ_BLOCK; k += 16) {
        __m128i is_larger[2];
        int half;
        for (half = 0; half < 2; half++) {
            __m128i value = _mm_loadu_si128((const __m128i *)(block + k + 8 * half));
            __m128i sign = _mm_srai_epi16(value, 15);
            __m128i magnitude = _mm_sub_epi16(_mm_xor_si128(value, sign), sign);
            is_larger[half] = _mm_cmpgt_epi16(magnitude, _mm_loadu_si128((const __m128i *)(most + k + 8 * half)));
        }
        found |= (uint64_t)_mm_movemask_epi8(_mm_packs_epi16(is_larger[0], is_larger[1])) << k;
    }
#else
    for (k = 0; k < AJ_BLOCK; k++)
        found |= (uint64_t)(abs(block[k]) > most[k]) << k;
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

/* A block as it is in the file, whose large coefficients alone need any arithmetic. Returns where the next one's go. */
AJ_INLINE int16_t *take(const int16_t *block, const change *c, aj_quantised *found, size_t i, int16_t *next)
{
    uint64_t left = found->which[i] = in_zigzag(larger(block, c->most) & ~(uint64_t)1);

    found->dc[i] = quantised(c, 0, (float)block[0]);
    for (; left; left &= left - 1) {
        int k = aj_natural[__builtin_ctzll(left)];
        *next++ = quantised(c, k, (float)block[k]);
    }
    return next;
}

AJ_CLONES static void fill(const aj_image *image, const aj_encoding *encoding, int component, aj_quantised *found)
{
    const aj_plane *plane = &image->planes[component];
    int across = component == 0 ? 1 : encoding->across, down = component == 0 ? 1 : encoding->down;
    int same = plane->across == across && plane->down == down, row, column, k;
    change how, none; /* none: of what has been quantised */
    int16_t *next = found->ac, block[AJ_BLOCK];
    float exact[AJ_BLOCK];
    size_t i = 0;

    set_change(&how, plane, component == 0 ? encoding->luma : encoding->chroma, encoding->rounding, same);
    memset(&none, 0, sizeof none);
    for (k = 0; k < AJ_BLOCK; k++)
        none.factor[k] = 1.0f;
    for (row = 0; row < found->rows; row++)
        for (column = 0; column < found->columns; column++, i++) {
            found->start[i] = (uint32_t)(next - found->ac);
            if (same) {
                next = take(aj_block_at(plane, (size_t)row, (size_t)column), &how, found, i, next);
                continue;
            }
            aj_block(plane, across, down, row, column, exact);
            for (k = 0; k < AJ_BLOCK; k++)
                exact[k] = aj_clipped(scaled(&how, k, exact[k]), LARGEST);
            for (k = 0; k < AJ_BLOCK; k++)
                block[k] = (int16_t)(int32_t)exact[k];
            next = take(block, &none, found, i, next);
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
