/* Arithmetic on blocks, a row of eight values at a time. */
#ifndef ADACOMPRESS_ROWS_H
#define ADACOMPRESS_ROWS_H

#include <string.h>

#include "core.h"
#include "matrices.h"

/* A row of eight values, in registers; GCC and Clang make of it what the processor has. */
typedef float values __attribute__((vector_size(32)));
typedef int32_t lanes __attribute__((vector_size(32)));
typedef int16_t shorts __attribute__((vector_size(16)));

AJ_INLINE uint64_t four(const int16_t *coefficients)
{
    uint64_t bits;

    memcpy(&bits, coefficients, sizeof bits);
    return bits;
}

/* How many rows of a block, from the lowest vertical frequency on, hold all that is not zero. */
AJ_INLINE int rows_used(const int16_t *block)
{
    int row = 8;

    while (row > 0 && !(four(block + 8 * row - 8) | four(block + 8 * row - 4)))
        row--;
    return row;
}

/* The same of columns. */
AJ_INLINE int columns_used(const values *block)
{
    values any = block[0] * block[0];
    int column = 8, v;

    for (v = 1; v < 8; v++)
        any += block[v] * block[v];
    while (column > 0 && any[column - 1] == 0.0f)
        column--;
    return column;
}

AJ_INLINE values widened(const int16_t *row)
{
    shorts narrow;

    memcpy(&narrow, row, sizeof narrow);
    return __builtin_convertvector(__builtin_convertvector(narrow, lanes), values);
}

AJ_INLINE void dequantised(const int16_t *block, const float *steps, int rows, values *found)
{
    int v;

    for (v = 0; v < rows; v++) {
        values row;
        memcpy(&row, steps + 8 * v, sizeof row);
        found[v] = widened(block + 8 * v) * row;
    }
}

/* Of each lane the first where a comparison holds, which sets all its bits, and the second where not. */
AJ_INLINE values either(lanes holds, values first, values second)
{
    return (values)((holds & (lanes)first) | (~holds & (lanes)second));
}

#if defined(__clang__) || defined(__x86_64__)

/* Lanes of two rows, numbered on from one to the other. */
#ifdef __clang__
#define AJ_PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define AJ_PICK(a, b, ...) __builtin_shuffle(a, b, (lanes){__VA_ARGS__})
#endif

/* Pairs of rows interleaved, then pairs of those, then halves. */
AJ_INLINE void transpose(const values *block, values *found)
{
    values one[8], two[8];
    int i;

    for (i = 0; i < 8; i += 2) {
        one[i] = AJ_PICK(block[i], block[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        one[i + 1] = AJ_PICK(block[i], block[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (i = 0; i < 8; i += 4) {
        two[i] = AJ_PICK(one[i], one[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        two[i + 1] = AJ_PICK(one[i], one[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        two[i + 2] = AJ_PICK(one[i + 1], one[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
        two[i + 3] = AJ_PICK(one[i + 1], one[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
    }
    for (i = 0; i < 4; i++) {
        found[i] = AJ_PICK(two[i], two[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        found[i + 4] = AJ_PICK(two[i], two[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

#else /* GCC takes rows of eight apart, lane by lane, where a register holds four */

typedef float halves __attribute__((vector_size(16)));
typedef int32_t half_lanes __attribute__((vector_size(16)));

/* A quarter of a block, from a column on, to another one: half rows interleaved, twice. */
AJ_INLINE void transpose_quarter(const values *block, int from, values *found, int to)
{
    const half_lanes low = {0, 4, 1, 5}, high = {2, 6, 3, 7};
    halves rows[4], one[4], two[4];
    int i;

    for (i = 0; i < 4; i++)
        memcpy(&rows[i], (const float *)&block[i] + from, sizeof rows[i]);
    for (i = 0; i < 2; i++) {
        one[2 * i] = __builtin_shuffle(rows[i], rows[i + 2], low);
        one[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + 2], high);
    }
    for (i = 0; i < 2; i++) {
        two[2 * i] = __builtin_shuffle(one[i], one[i + 2], low);
        two[2 * i + 1] = __builtin_shuffle(one[i], one[i + 2], high);
    }
    for (i = 0; i < 4; i++)
        memcpy((float *)&found[i] + to, &two[i], sizeof two[i]);
}

AJ_INLINE void transpose(const values *block, values *found)
{
    transpose_quarter(block, 0, found, 0);
    transpose_quarter(block, 4, found + 4, 0);
    transpose_quarter(block + 4, 0, found, 4);
    transpose_quarter(block + 4, 4, found + 4, 4);
}

#endif

/* found[k] = sum over n < used of matrix[k][n] * block[n] */
AJ_INLINE void multiply(const float (*matrix)[8], const values *block, int used, values *found)
{
    int k, n;

    for (k = 0; k < 8; k++) {
        values sum = {0};
        for (n = 0; n < used; n++)
            sum += matrix[k][n] * block[n];
        found[k] = sum;
    }
}

/* The same with aj_cosines: even frequencies are of sums of rows that mirror each other, odd ones of differences. */
AJ_INLINE void transform(const values *block, values *found)
{
    values sums[4], differences[4];
    int k, n;

    for (n = 0; n < 4; n++) {
        sums[n] = block[n] + block[7 - n];
        differences[n] = block[n] - block[7 - n];
    }
    for (k = 0; k < 8; k += 2) {
        found[k] = aj_cosines[k][0] * sums[0] + aj_cosines[k][1] * sums[1] + aj_cosines[k][2] * sums[2] +
                   aj_cosines[k][3] * sums[3];
        found[k + 1] = aj_cosines[k + 1][0] * differences[0] + aj_cosines[k + 1][1] * differences[1] +
                       aj_cosines[k + 1][2] * differences[2] + aj_cosines[k + 1][3] * differences[3];
    }
}

/* found[v] += sum over n < used of block[v][n] * transposed[n] */
AJ_INLINE void add_horizontally(const float (*transposed)[8], const values *block, int used, values *found)
{
    int v, n;

    for (n = 0; n < used; n++) {
        values factors;
        memcpy(&factors, transposed[n], sizeof factors);
        for (v = 0; v < 8; v++)
            found[v] += block[v][n] * factors;
    }
}

#endif
