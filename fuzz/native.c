/* Feeds the native core with files that are nearly JPEGs: everything it does, on whatever opens. Its own Huffman
 * decoder has to find what libjpeg finds.
 *
 *   clang:  -fsanitize=fuzzer,address,undefined    libFuzzer mutates; see fuzz/run
 *   others: -fsanitize=address,undefined -DALONE   main() below mutates the seeds by itself, the same way each time
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../beam_adacompress/jpeg/csrc/core.h"

#define MOST_PIXELS (1 << 20)
#define MOST_SCANS 64

static uint32_t hashed(const uint8_t *data, size_t size)
{
    uint32_t hash = 2166136261u;
    size_t i;

    for (i = 0; i < size; i++)
        hash = (hash ^ data[i]) * 16777619u;
    return hash;
}

static void compare(const aj_image *first, const aj_image *second, const char *what)
{
    int i, row;

    for (i = 0; i < first->components; i++) {
        const aj_plane *p = &first->planes[i], *q = &second->planes[i];
        for (row = 0; row < p->rows; row++)
            if (memcmp(p->blocks + (size_t)row * p->stride * AJ_BLOCK, q->blocks + (size_t)row * q->stride * AJ_BLOCK,
                       (size_t)p->columns * AJ_BLOCK * sizeof *p->blocks) != 0) {
                fprintf(stderr, "%s\n", what);
                abort();
            }
    }
}

/* By the core's own decoder where it takes the file; then by libjpeg too, and there must be no difference. */
static aj_status opened(const uint8_t *data, size_t size, aj_image *image, char message[AJ_MESSAGE])
{
    char other_message[AJ_MESSAGE];
    aj_image other;
    aj_status status = aj_open(data, size, MOST_PIXELS, MOST_SCANS, 0, image, message);
    int i;

    if (status == AJ_OK && image->by_libjpeg)
        return status;
    if (aj_open(data, size, MOST_PIXELS, MOST_SCANS, 1, &other, other_message) != status ||
        strcmp(message, other_message) || image->width != other.width || image->height != other.height ||
        image->components != other.components) {
        fprintf(stderr, "opened otherwise by libjpeg: '%s', '%s'\n", message, other_message);
        abort();
    }
    for (i = 0; i < image->components; i++) {
        const aj_plane *p = &image->planes[i], *q = &other.planes[i];
        if (p->rows != q->rows || p->columns != q->columns || p->across != q->across || p->down != q->down ||
            memcmp(p->table, q->table, sizeof p->table) || memcmp(p->steps, q->steps, sizeof p->steps)) {
            fprintf(stderr, "component %d is another one by libjpeg\n", i);
            abort();
        }
    }
    compare(image, &other, "other coefficients than libjpeg's");
    aj_close(&other);
    return status;
}

/* Whether it can be written so. */
static int written_and_opened(const aj_image *image, const aj_encoding *how, aj_image *found)
{
    char message[AJ_MESSAGE];
    uint8_t *file;
    size_t size;
    int i;

    if (aj_write(image, how, &file, &size, message) != AJ_OK)
        return 0;
    if (opened(file, size, found, message) != AJ_OK) {
        fprintf(stderr, "what was written cannot be read: %s\n", message);
        abort();
    }
    free(file);
    if (found->width != image->width || found->height != image->height || found->components != image->components) {
        fprintf(stderr, "what was written is another picture\n");
        abort();
    }
    for (i = 0; i < found->components; i++)
        if (found->planes[i].rows <= 0)
            abort();
    return 1;
}

/* The image in other tables and codings: all of them have to hold the same coefficients. */
static void write_and_open_again(const aj_image *image, uint32_t hash)
{
    static const int samplings[3][2] = {{1, 1}, {2, 1}, {2, 2}};
    static const uint8_t segment[] = {0xFF, 0xE1, 0, 4, 'h', 'i'};
    aj_encoding how;
    aj_image first, again;
    int k, coding;

    memset(&how, 0, sizeof how);
    memset(&first, 0, sizeof first);
    for (k = 0; k < AJ_BLOCK; k++) {
        how.luma[k] = (uint16_t)(1 + (hash >> (k & 7)) % 255);
        how.chroma[k] = (uint16_t)(1 + (hash >> (k & 15)) % 255);
    }
    how.rounding = hash & 1 ? 0.5f : 0.3f;
    how.across = samplings[hash % 3][0];
    how.down = samplings[hash % 3][1];
    how.segments = segment;
    how.segments_size = hash >> 5 & 1 ? sizeof segment : hash >> 6 & 3; /* a part of one is refused */
    how.comment = segment;
    how.comment_size = hash >> 8 & 3;
    for (coding = 0; coding < 3; coding++) {
        how.optimize = coding > 0;
        how.progressive = coding > 1;
        if (!written_and_opened(image, &how, coding == 0 ? &first : &again))
            break;
        if (coding > 0) {
            compare(&first, &again, "two codings of the same picture differ");
            aj_close(&again);
        }
    }
    aj_close(&first);
}

/* Of nine blocks, whatever they hold: finite numbers. */
static void sum_up(const float *grid)
{
    static const int32_t ranks[3] = {0, 4, 8};
    float weights[3 * AJ_BLOCK], found[3 * 2 + 3 + 1 + 6 + 1 + 2 + 2 * 2];
    aj_averages how = {2, 1, 2, 2, 3, weights, weights, weights, weights, weights, ranks};
    int i;

    for (i = 0; i < 3 * AJ_BLOCK; i++)
        weights[i] = (float)(i % 5) / 64.0f;
    if (aj_summary_size(&how) != (int)(sizeof found / sizeof *found))
        abort();
    if (!aj_summarise(grid, 9, &how, found))
        return;
    for (i = 0; i < aj_summary_size(&how); i++)
        if (!isfinite(found[i]))
            abort();
}

static void look(const aj_image *image)
{
    int32_t tops[3] = {0, image->height / 2, image->height - 1}, lefts[3] = {0, image->width / 3, image->width - 1};
    float found[AJ_BLOCK * 3 * 9];
    double total[AJ_BLOCK], squares[AJ_BLOCK];
    int i, rows, columns;

    if (!aj_grid(image, tops, 3, lefts, 3, found))
        return;
    sum_up(found);
    if (!aj_can_resample(image, 2, 2))
        return;
    for (i = 0; i < image->components; i++) {
        float *plane;
        aj_bands(image, i, 2, 2, total, squares);
        aj_shape(image, i, 2, 2, &rows, &columns);
        plane = malloc((size_t)rows * (size_t)columns * AJ_BLOCK * sizeof *plane);
        if (plane != NULL)
            aj_dequantise(image, i, 2, 2, plane);
        free(plane);
    }
}

/* What the header says by itself is what the picture is, if there is one. */
static void check_header(const uint8_t *data, size_t size, const aj_image *image)
{
    aj_header header;
    size_t scan = aj_read_header(data, size, &header);

    if (scan == 0 || image == NULL)
        return;
    if (scan >= size || header.width != image->width || header.height != image->height ||
        header.components != image->components) {
        fprintf(stderr, "the header is another one\n");
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char message[AJ_MESSAGE];
    aj_image image, turned;
    uint32_t hash = hashed(data, size);
    aj_status status = opened(data, size, &image, message);

    check_header(data, size, status == AJ_OK ? &image : NULL);
    if (status != AJ_OK)
        return 0;
    look(&image);
    write_and_open_again(&image, hash);
    if (aj_turn(&image, hash & 1, hash >> 1 & 1, hash >> 2 & 1, &turned, message) == AJ_OK) {
        look(&turned);
        write_and_open_again(&turned, hash);
        aj_close(&turned);
    }
    aj_close(&image);
    return 0;
}

#ifdef ALONE
/* Without libFuzzer: each file that is named, mutated COUNT / files times by a generator that starts with the seed. */
static uint32_t state = 1;

static uint32_t drawn(uint32_t below)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state % below;
}

static size_t mutated(uint8_t *data, size_t size, size_t room)
{
    uint32_t changes = 1 + drawn(4);

    while (changes-- > 0 && size > 2) {
        size_t at = drawn((uint32_t)size), length = 1 + drawn(16);
        switch (drawn(5)) {
        case 0:
            data[at] ^= (uint8_t)(1u << drawn(8));
            break;
        case 1:
            data[at] = (uint8_t)drawn(256);
            break;
        case 2: /* cut off */
            size = at < 2 ? size : at;
            break;
        case 3: /* left out */
            length = length > size - at ? size - at : length;
            memmove(data + at, data + at + length, size - at - length);
            size -= length;
            break;
        default: /* said twice */
            length = length > size - at ? size - at : length;
            if (size + length <= room) {
                memmove(data + at + length, data + at, size - at);
                size += length;
            }
        }
    }
    return size;
}

int main(int argc, char **argv)
{
    static uint8_t seed[1 << 20], data[1 << 20];
    long count = argc > 1 ? atol(argv[1]) : 0, done = 0;
    int file;

    for (file = 2; file < argc; file++) {
        FILE *stream = fopen(argv[file], "rb");
        size_t size;
        long i;
        if (stream == NULL) {
            perror(argv[file]);
            return 2;
        }
        size = fread(seed, 1, sizeof seed / 2, stream);
        fclose(stream);
        for (i = 0; i < count / (argc - 2) + 1; i++, done++) {
            size_t changed;
            memcpy(data, seed, size);
            changed = i == 0 ? size : mutated(data, size, sizeof data);
            LLVMFuzzerTestOneInput(data, changed);
        }
    }
    printf("%ld files, no crash\n", done);
    return 0;
}
#endif
