/* Blocks of pixels anywhere in an image, and their DCT: what a policy looks at. */
#include <stdlib.h>
#include <string.h>

#include "rows.h"

/* Along one axis: the samples that eight pixels are made of, and how. Eight at most, of two blocks. */
typedef struct {
    int first, count;  /* samples */
    int near[8];       /* of each pixel: its sample, counted from the first */
    int far[8];        /* and the one that it takes a quarter of; the same where it takes none */
    int block, blocks; /* that hold them */
    int split;         /* samples in the first block */
} window;

static int clamped(int value, int last)
{
    return value < 0 ? 0 : value > last ? last : value;
}

/* libjpeg's: samples of half the size are interpolated ("fancy upsampling"), those of a quarter repeated. */
static void set_window(window *w, int start, int pixels, int ratio)
{
    int last = (pixels + ratio - 1) / ratio - 1, end, i;

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
}

/* To the nearest integer that a sample less 128 can be. */
AJ_INLINE void round_samples(values *samples)
{
    const values least = {0}, most = least + 255.0f;
    values level = *samples + 128.5f;

    level = either(level < most, level, most);
    level = either(level > least, level, least);
    *samples = __builtin_convertvector(__builtin_convertvector(level, lanes), values) - 128.0f;
}

/* The samples of a window in its first or second block, of frequencies along it: found[i] = sum of basis * block. */
AJ_INLINE void set_samples(const window *w, int second, const values *block, values *found)
{
    int i;

    for (i = second ? w->split : 0; i < (second ? w->count : w->split); i++) {
        const float *basis = aj_cosines_transposed[(w->first + i) & 7];
        found[i] = basis[0] * block[0] + basis[1] * block[1] + basis[2] * block[2] + basis[3] * block[3] +
                   basis[4] * block[4] + basis[5] * block[5] + basis[6] * block[6] + basis[7] * block[7];
    }
}

/* Samples of a plane less 128: across->count columns. */
AJ_INLINE void take_samples(const aj_plane *plane, const window *down, const window *across, values *samples)
{
    values block[8], lines[8], columns[8];
    int y, x, i;

    for (i = down->count; i < 8; i++)
        lines[i] = (values){0};
    for (x = 0; x < across->blocks; x++) {
        for (y = 0; y < down->blocks; y++) {
            const int16_t *coded = aj_block_at(plane, (size_t)(down->block + y), (size_t)(across->block + x));
            dequantised(coded, plane->steps, 8, block);
            set_samples(down, y, block, lines);
        }
        transpose(lines, columns);
        set_samples(across, x, columns, samples);
    }
    for (i = 0; i < across->count; i++)
        round_samples(&samples[i]);
}

/* Pixels of samples, along one axis; the same where there are as many: not subsampled, and not beyond the edge. */
AJ_INLINE void upsample(const window *w, values *samples)
{
    values pixels[8];
    int i;

    if (w->count == 8)
        return;
    for (i = 0; i < 8; i++)
        pixels[i] = 0.75f * samples[w->near[i]] + 0.25f * samples[w->far[i]];
    memcpy(samples, pixels, sizeof pixels);
}

/* The DCT of pixels in rows, across by down. */
AJ_INLINE void look(const aj_plane *plane, const window *down, const window *across, values *found)
{
    values samples[8], rows[8], half[8];

    take_samples(plane, down, across, samples);
    upsample(across, samples);
    transpose(samples, rows);
    upsample(down, rows);
    transform(rows, half);
    transpose(half, rows);
    transform(rows, found);
}

/* The blocks of a window on their way from a slower cache, while another one is looked at. */
AJ_INLINE void fetch(const aj_plane *plane, const window *down, const window *across)
{
    int y, x;

    for (y = 0; y < down->blocks; y++)
        for (x = 0; x < across->blocks; x++) {
            const int16_t *coded = aj_block_at(plane, (size_t)(down->block + y), (size_t)(across->block + x));
            __builtin_prefetch(coded);
            __builtin_prefetch(coded + AJ_BLOCK / 2);
        }
}

/* Some blocks of eight, each across by down, to their places: beside each other for each coefficient. */
AJ_INLINE void put(const values (*looked)[8], int blocks, size_t step, float *found)
{
    values columns[8], lines[8];
    int u, v, i;

    for (u = 0; u < 8; u++) {
        for (i = 0; i < 8; i++)
            columns[i] = looked[i][u];
        transpose(columns, lines);
        for (v = 0; v < 8; v++) {
            float *to = found + (size_t)(8 * v + u) * step;
            if (blocks == 8)
                memcpy(to, &lines[v], sizeof lines[v]);
            else
                memcpy(to, &lines[v], (size_t)blocks * sizeof *to);
        }
    }
}

AJ_CLONES static void look_all(const aj_plane *plane, const window *down, int rows, const window *across, int columns,
                               size_t step, float *found)
{
    values looked[8][8];
    int row, column, blocks = 0;

    memset(looked, 0, sizeof looked);
    for (row = 0; row < rows; row++)
        for (column = 0; column < columns; column++) {
            if (column + 1 < columns)
                fetch(plane, &down[row], &across[column + 1]);
            look(plane, &down[row], &across[column], looked[blocks++]);
            if (blocks == 8 || (row == rows - 1 && column == columns - 1)) {
                put((const values (*)[8])looked, blocks, step, found);
                found += blocks;
                blocks = 0;
            }
        }
}

int aj_grid(const aj_image *image, const int32_t *tops, int rows, const int32_t *lefts, int columns, float *found)
{
    size_t count = (size_t)rows * (size_t)columns;
    window *down = malloc(((size_t)rows + (size_t)columns) * sizeof *down), *across = down + rows;
    int i, k;

    if (down == NULL)
        return 0;
    for (i = 0; i < image->components; i++) {
        const aj_plane *plane = &image->planes[i];
        for (k = 0; k < rows; k++)
            set_window(&down[k], tops[k], image->height, plane->down);
        for (k = 0; k < columns; k++)
            set_window(&across[k], lefts[k], image->width, plane->across);
        look_all(plane, down, rows, across, columns, 3 * count, found + (size_t)i * count);
    }
    for (k = 0; k < AJ_BLOCK && image->components == 1; k++)
        memset(found + (3 * (size_t)k + 1) * count, 0, 2 * count * sizeof *found);
    free(down);
    return 1;
}
