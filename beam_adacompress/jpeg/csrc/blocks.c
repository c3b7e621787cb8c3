/* Blocks of coefficients: dequantised, brought to another sampling, summed up. */
#include "rows.h"

/* Two blocks, one below the other, as one of half their height. aj_halve[1][k][n] is aj_halve[0][k][n], negated where
 * k + n is odd, so rows of sums and of differences do, at half the multiplications. */
AJ_INLINE void halve(const values *upper, const values *lower, int used, values *found)
{
    values even[8], odd[8];
    int k, n;

    for (n = 0; n < used; n += 2) {
        even[n] = upper[n] + lower[n];
        odd[n] = upper[n] - lower[n];
    }
    for (n = 1; n < used; n += 2) {
        even[n] = upper[n] - lower[n];
        odd[n] = upper[n] + lower[n];
    }
    for (k = 0; k < 8; k += 2) {
        values first = {0}, second = {0};
        for (n = 0; n < used; n++) {
            first += aj_halve[0][k][n] * even[n];
            second += aj_halve[0][k + 1][n] * odd[n];
        }
        found[k] = first;
        found[k + 1] = second;
    }
}

/* A block whose rows of samples are means of two, or repeated ones, as `change` says: 2 halves, 1 keeps, -2 doubles. */
AJ_INLINE void change_rows(const aj_plane *plane, int change, int row, int column, values *found)
{
    size_t step = plane->stride * AJ_BLOCK;
    const int16_t *first = plane->blocks + (size_t)column * AJ_BLOCK + (size_t)(change == 2 ? 2 * row : change == 1 ? row : row / 2) * step;
    values upper[8], lower[8];
    int used = rows_used(first);

    if (change == 1) {
        memset(found, 0, 8 * sizeof *found);
        dequantised(first, plane->steps, used, found);
    } else if (change == -2) {
        dequantised(first, plane->steps, used, upper);
        multiply(aj_double[row & 1], upper, used, found);
    } else {
        int below = 2 * row + 1 < plane->rows ? rows_used(first + step) : 8;
        used = used > below ? used : below;
        dequantised(first, plane->steps, used, upper);
        if (2 * row + 1 < plane->rows)
            dequantised(first + step, plane->steps, used, lower);
        else
            multiply(aj_edge, upper, used, lower);
        halve(upper, lower, used, found);
    }
}

AJ_INLINE int change_of(int from, int to)
{
    return from == to ? 1 : from < to ? 2 : -2;
}

AJ_INLINE void resampled(const aj_plane *plane, int across, int down, int row, int column, values *found)
{
    int rows = change_of(plane->down, down), columns = change_of(plane->across, across), part;
    values narrow[8];

    if (columns == 1) {
        change_rows(plane, rows, row, column, found);
        return;
    }
    memset(found, 0, 8 * sizeof *found);
    if (columns == 2) {
        for (part = 0; part < 2; part++) {
            int from = 2 * column + part, beyond = from >= plane->columns;
            change_rows(plane, rows, row, beyond ? plane->columns - 1 : from, narrow);
            add_horizontally(beyond ? aj_halve_edge_transposed : aj_halve_transposed[part], narrow, columns_used(narrow),
                             found);
        }
    } else {
        change_rows(plane, rows, row, column / 2, narrow);
        add_horizontally(aj_double_transposed[column & 1], narrow, columns_used(narrow), found);
    }
}

AJ_CLONES void aj_block(const aj_plane *plane, int across, int down, int row, int column, float *found)
{
    values block[8];

    resampled(plane, across, down, row, column, block);
    memcpy(found, block, sizeof block);
}

static int can_change(int from, int to)
{
    return from == to || 2 * from == to || (from == 4 && to == 2);
}

int aj_can_resample(const aj_image *image, int across, int down)
{
    return image->components == 1 ||
           (can_change(image->planes[1].across, across) && can_change(image->planes[1].down, down));
}

void aj_shape(const aj_image *image, int component, int across, int down, int *rows, int *columns)
{
    int high = component == 0 ? 8 : 8 * down, wide = component == 0 ? 8 : 8 * across;

    *rows = (image->height + high - 1) / high;
    *columns = (image->width + wide - 1) / wide;
}

void aj_dequantise(const aj_image *image, int component, int across, int down, float *found)
{
    const aj_plane *plane = &image->planes[component];
    int rows, columns, row, column;

    aj_shape(image, component, across, down, &rows, &columns);
    for (row = 0; row < rows; row++)
        for (column = 0; column < columns; column++, found += AJ_BLOCK)
            aj_block(plane, component == 0 ? 1 : across, component == 0 ? 1 : down, row, column, found);
}

void aj_bands(const aj_image *image, int component, int across, int down, double *total, double *squares)
{
    const aj_plane *plane = &image->planes[component];
    int rows, columns, row, column, k;
    float block[AJ_BLOCK];

    memset(total, 0, AJ_BLOCK * sizeof *total);
    memset(squares, 0, AJ_BLOCK * sizeof *squares);
    aj_shape(image, component, across, down, &rows, &columns);
    for (row = 0; row < rows; row++)
        for (column = 0; column < columns; column++) {
            aj_block(plane, component == 0 ? 1 : across, component == 0 ? 1 : down, row, column, block);
            for (k = 0; k < AJ_BLOCK; k++) {
                total[k] += block[k];
                squares[k] += (double)block[k] * block[k];
            }
        }
}
