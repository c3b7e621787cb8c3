/* Blocks of pixels anywhere in an image, and their DCT: what a policy looks at. */
#include <stdlib.h>
#include <string.h>

#include "rows.h"

/* Along one axis: the samples that eight pixels are made of, and how. Eight at most, of two blocks. */
typedef struct {
    int first, count;   /* samples */
    int near[8];        /* of each pixel: its sample, counted from the first */
    int far[8];         /* and the one that it takes a quarter of; the same where it takes none */
    int block, blocks;  /* that hold them */
    int split;          /* samples in the first block */
    float lines[8][8];  /* the basis at each sample: sample by frequency */
    float across[2][8][8]; /* and for each block, frequency by sample: zero where the sample is in the other */
} window;

static int clamped(int value, int last)
{
    return value < 0 ? 0 : value > last ? last : value;
}

/* libjpeg's: samples of half the size are interpolated ("fancy upsampling"), those of a quarter repeated. */
static void set_window(window *w, int start, int pixels, int ratio)
{
    int last = (pixels + ratio - 1) / ratio - 1, end, i, k;

    memset(w, 0, sizeof *w);
    for (i = 0; i < 8; i++) {
        int pixel = clamped(start + i, pixels - 1);
        w->near[i] = pixel / ratio;
        w->far[i] = ratio == 2 ? clamped(pixel / 2 + (pixel & 1 ? 1 : -1), last) : w->near[i];
    }
    w->first = w->near[0] < w->far[0] ? w->near[0] : w->far[0];
    end = w->near[7] > w->far[7] ? w->near[7] : w->far[7];
    w->count = end - w->first + 1;
    w->block = w->first >> 3;
    w->blocks = (end >> 3) - w->block + 1;
    for (i = 0; i < 8; i++) {
        w->near[i] -= w->first;
        w->far[i] -= w->first;
    }
    w->split = 8 * (w->block + 1) - w->first < w->count ? 8 * (w->block + 1) - w->first : w->count;
    for (i = 0; i < w->count; i++)
        for (k = 0; k < 8; k++)
            w->lines[i][k] = w->across[i >= w->split][k][i] = aj_cosines[k][(w->first + i) & 7];
}

/* To the nearest integers that samples less 128 can be. */
AJ_INLINE void round_samples(const float *restrict exact, float *restrict rounded)
{
    int i;

    for (i = 0; i < AJ_BLOCK; i++) {
        float value = exact[i] + 128.5f;
        value = value < 255.0f ? value : 255.0f;
        value = value > 0.0f ? value : 0.0f;
        rounded[i] = (float)(int32_t)value - 128.0f;
    }
}

/* Samples of a plane less 128: down->count rows. */
AJ_INLINE void take_samples(const aj_plane *plane, const window *down, const window *across, values *samples)
{
    values column[8], lines[8], exact[8];
    int y, x, k, row;

    memset(exact, 0, sizeof exact);
    memset(lines, 0, sizeof lines);
    for (x = 0; x < across->blocks; x++) {
        for (y = 0; y < down->blocks; y++) {
            size_t place = (size_t)(down->block + y) * plane->stride + (size_t)(across->block + x);
            const int16_t *block = plane->blocks + place * AJ_BLOCK;
            int used = rows_used(block);
            dequantised(block, plane->steps, used, column);
            for (row = y == 0 ? 0 : down->split; row < (y == 0 ? down->split : down->count); row++) {
                values sum = {0};
                for (k = 0; k < used; k++)
                    sum += down->lines[row][k] * column[k];
                lines[row] = sum;
            }
        }
        add_horizontally(across->across[x], lines, 8, exact);
    }
    round_samples((const float *)exact, (float *)samples);
}

AJ_INLINE void upsample(const values *samples, const window *down, const window *across, values *pixels)
{
    int y, x;

    for (y = 0; y < 8; y++) {
        values line = 0.75f * samples[down->near[y]] + 0.25f * samples[down->far[y]];
        for (x = 0; x < 8; x++)
            pixels[y][x] = 0.75f * line[across->near[x]] + 0.25f * line[across->far[x]];
    }
}

AJ_INLINE void transform(const values *pixels, values *found)
{
    values half[8];

    multiply(aj_cosines, pixels, 8, half);
    memset(found, 0, 8 * sizeof *found);
    add_horizontally(aj_cosines_transposed, half, 8, found);
}

AJ_INLINE void look(const aj_plane *plane, const window *down, const window *across, values *found)
{
    values samples[8], pixels[8];

    take_samples(plane, down, across, samples);
    if (down->count == 8 && across->count == 8) { /* not subsampled, and not beyond the edge */
        transform(samples, found);
    } else {
        upsample(samples, down, across, pixels);
        transform(pixels, found);
    }
}

AJ_CLONES int aj_grid(const aj_image *image, const int32_t *tops, int rows, const int32_t *lefts, int columns, float *found)
{
    size_t count = (size_t)rows * (size_t)columns;
    window *across = malloc((size_t)columns * sizeof *across);
    int i, row, column, k;

    if (across == NULL)
        return 0;
    memset(found, 0, AJ_BLOCK * 3 * count * sizeof *found);
    for (i = 0; i < image->components; i++) {
        const aj_plane *plane = &image->planes[i];
        for (column = 0; column < columns; column++)
            set_window(&across[column], lefts[column], image->width, plane->across);
        for (row = 0; row < rows; row++) {
            window down;
            set_window(&down, tops[row], image->height, plane->down);
            for (column = 0; column < columns; column++) {
                values block[8];
                float *to = found + (size_t)i * count + (size_t)(row * columns + column);
                look(plane, &down, &across[column], block);
                for (k = 0; k < AJ_BLOCK; k++)
                    to[(size_t)k * 3 * count] = block[k >> 3][k & 7];
            }
        }
    }
    free(across);
    return 1;
}
