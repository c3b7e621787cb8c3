/* What a grid of blocks comes to: sums and counts of its coefficients, weighted as somebody else says. */
#include <math.h>
#include <stdlib.h>

#include "rows.h"

/* The next eight of some numbers, with zeros behind the last one. */
AJ_INLINE values next(const float *numbers, size_t left)
{
    values found = {0};

    if (left >= 8)
        memcpy(&found, numbers, sizeof found);
    else
        memcpy(&found, numbers, left * sizeof *numbers);
    return found;
}

AJ_INLINE float added_up(values sums)
{
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

AJ_INLINE float total(const float *numbers, size_t count)
{
    values sums = {0};
    size_t i;

    for (i = 0; i < count; i += 8)
        sums += next(numbers + i, count - i);
    return added_up(sums);
}

AJ_INLINE float total_of_sizes(const float *numbers, size_t count)
{
    values sums = {0};
    size_t i;

    for (i = 0; i < count; i += 8)
        sums += (values)((lanes)next(numbers + i, count - i) & INT32_MAX); /* without the sign */
    return added_up(sums);
}

AJ_INLINE float product(const float *one, const float *other, size_t count)
{
    values sums = {0};
    size_t i;

    for (i = 0; i < count; i += 8)
        sums += next(one + i, count - i) * next(other + i, count - i);
    return added_up(sums);
}

static int ascending(const void *one, const void *other)
{
    float a, b;

    memcpy(&a, one, sizeof a);
    memcpy(&b, other, sizeof b);
    return (a > b) - (a < b);
}

/* The logarithm of what each ring of a component holds, in the mean of the blocks. */
AJ_INLINE float *put_rings(const float *grid, size_t blocks, int component, const aj_averages *how, float *found)
{
    float sizes[AJ_BLOCK];
    int k, i;

    for (k = 0; k < AJ_BLOCK; k++)
        sizes[k] = total_of_sizes(grid + (size_t)(3 * k + component) * blocks, blocks) / (float)blocks;
    for (i = 0; i < how->rings; i++)
        *found++ = log1pf(product(how->of_rings + i * AJ_BLOCK, sizes, AJ_BLOCK));
    return found;
}

/* The same of Y in each block, by three rows of weights: `along`, 3 x blocks. */
AJ_INLINE void weigh(const float *restrict grid, size_t blocks, const aj_averages *how, float *restrict along)
{
    size_t block;
    int k, row;

    memset(along, 0, 3 * blocks * sizeof *along);
    for (k = 0; k < AJ_BLOCK; k++)
        for (row = 0; row < 3; row++) {
            float weight = how->of_luma[row * AJ_BLOCK + k];
            if (weight != 0.0f)
                for (block = 0; block < blocks; block++)
                    along[row * blocks + block] += weight * fabsf(grid[3 * k * blocks + block]);
        }
    for (block = 0; block < 3 * blocks; block++)
        along[block] = log1pf(along[block]);
}

/* The share of Y's coefficients that are larger than some thresholds, one for each of a block. */
AJ_INLINE float share_above(const float *grid, size_t blocks, const float *thresholds)
{
    size_t block;
    int k, count = 0;

    for (k = 0; k < AJ_BLOCK; k++)
        for (block = 0; block < blocks; block++)
            count += fabsf(grid[3 * k * blocks + block]) > thresholds[k];
    return (float)count / (float)(AJ_BLOCK * blocks);
}

AJ_CLONES static void summarise(const float *grid, size_t blocks, const aj_averages *how, float *work, float *found)
{
    float *along = work, *means = work + 3 * blocks, *away = work + 6 * blocks, level;
    size_t block;
    int i, k;

    for (i = 0; i < 3; i++)
        found = put_rings(grid, blocks, i, how, found);
    weigh(grid, blocks, how, along);
    level = (total(along + blocks, blocks) - total(along + 2 * blocks, blocks)) / (float)blocks;
    qsort(along, blocks, sizeof *along, ascending);
    for (i = 0; i < how->ranks; i++)
        *found++ = along[how->of_ranks[i]];
    *found++ = level;
    for (i = 0; i < 3; i++) {
        for (block = 0; block < blocks; block++)
            means[i * blocks + block] = grid[i * blocks + block] / 8;
        level = total(means + i * blocks, blocks) / (float)blocks;
        for (block = 0; block < blocks; block++)
            away[block] = means[i * blocks + block] - level;
        found[i] = level / 64;
        found[i + 3] = sqrtf(product(away, away, blocks) / (float)blocks) / 64;
    }
    found += 6;
    for (i = 0; i < how->thresholds; i++)
        *found++ = share_above(grid, blocks, how->of_thresholds + i * AJ_BLOCK);
    for (k = 0; k < how->luma_cells; k++)
        *found++ = product(how->of_luma_cells + k * blocks, means, blocks);
    for (i = 1; i < 3; i++)
        for (k = 0; k < how->chroma_cells; k++)
            *found++ = product(how->of_chroma_cells + k * blocks, means + i * blocks, blocks);
}

int aj_summary_size(const aj_averages *how)
{
    return 3 * how->rings + how->ranks + 1 + 6 + how->thresholds + how->luma_cells + 2 * how->chroma_cells;
}

int aj_summarise(const float *grid, size_t blocks, const aj_averages *how, float *found)
{
    float *work = malloc(7 * blocks * sizeof *work);

    if (work == NULL)
        return 0;
    summarise(grid, blocks, how, work, found);
    free(work);
    return 1;
}
