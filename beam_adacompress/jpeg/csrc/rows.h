/* Arithmetic on blocks, a row of eight values at a time. */
#ifndef ADACOMPRESS_ROWS_H
#define ADACOMPRESS_ROWS_H

#include <string.h>

#include "core.h"
#include "matrices.h"

/* A row of eight values, in registers; GCC and Clang make of it what the processor has. */
typedef float values __attribute__((vector_size(32)));
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
    return __builtin_convertvector(narrow, values);
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
