/* The DCT coefficients of a JPEG, and files made of them again. Plain C over libjpeg-turbo; knows nothing of Python.
 *
 *   bytes --aj_read_header--> aj_header
 *
 *   bytes --aj_open--> aj_image (coefficients, quantised) --+--> aj_grid (--> aj_summarise), aj_bands, aj_dequantise
 *                         |   Huffman decoding, once        +--> aj_write (any tables, sampling, coding)
 *                         +--aj_turn--> aj_image, upright
 *
 * Besides: aj_predict, which is arithmetic on a few numbers, for each image too.
 *
 * An image is read-only once it is open: any number of threads may use it. There is no state besides.
 * Coefficients are in natural order: 8 * vertical + horizontal frequency.
 */
#ifndef ADACOMPRESS_CORE_H
#define ADACOMPRESS_CORE_H

#include <stddef.h>
#include <stdint.h>

/* Before functions that are compiled twice, for processors with AVX2 too; the loader takes one. Nothing is fused, so
 * both give the same bits. Sanitizers do not go together with that. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#if __GNUC__ >= 12
#define AJ_CLONES __attribute__((target_clones("arch=x86-64-v3", "default"))) /* instructions for bits, too */
#else
#define AJ_CLONES __attribute__((target_clones("avx2", "default")))
#endif
#else
#define AJ_CLONES
#endif

/* What such functions call has to become a part of them. */
#define AJ_INLINE static inline __attribute__((always_inline))

AJ_INLINE float aj_clipped(float number, float most)
{
    number = number > -most ? number : -most;
    return number < most ? number : most;
}

#define AJ_BLOCK 64
#define AJ_MESSAGE 256

typedef enum {
    AJ_OK = 0,
    AJ_UNSUPPORTED, /* sound, as far as it was read, but of a kind that is decoded to pixels */
    AJ_TOO_LARGE,   /* more pixels than allowed */
    AJ_DAMAGED,     /* libjpeg complains about the picture's data */
    AJ_NO_MEMORY
} aj_status;

typedef struct {
    int16_t *blocks;          /* rows x stride x 64 */
    int rows, columns;        /* blocks that hold at least one sample of the image */
    size_t stride;            /* blocks from one row to the next, at least columns */
    int across, down;         /* pixels of the image a sample covers: 1, 2 or 4 */
    uint16_t table[AJ_BLOCK]; /* quantisation steps */
    float steps[AJ_BLOCK];    /* the same */
} aj_plane;

AJ_INLINE int16_t *aj_block_at(const aj_plane *plane, size_t row, size_t column)
{
    return plane->blocks + (row * plane->stride + column) * AJ_BLOCK;
}

typedef struct {
    int width, height; /* pixels */
    int components;    /* 1: grayscale; 3: Y, Cb, Cr */
    int by_libjpeg;    /* whether that decoded it */
    aj_plane planes[3];
    void *owner; /* of the planes' memory */
    void (*release)(void *owner);
} aj_image;

typedef struct {
    uint16_t luma[AJ_BLOCK], chroma[AJ_BLOCK]; /* steps, 1..255 */
    float rounding;                            /* 0.5: to the nearest; less: AC coefficients towards zero */
    int across, down;                          /* sampling of the chrominance */
    int optimize, progressive;
    int dots_across, dots_down; /* per inch; 0: not said */
    const uint8_t *segments;    /* whole marker segments to copy */
    size_t segments_size;
    const uint8_t *comment;
    size_t comment_size; /* at most 65533 */
} aj_encoding;

typedef struct {
    int width, height;        /* pixels */
    int components;           /* 1 or 3 */
    uint16_t steps[AJ_BLOCK]; /* of its table with the lowest number */
} aj_header;

/* Reads the header of a JPEG that has nothing in it but JFIF's marker and what its picture needs, well-formed: so are
 * most files. Returns where its first scan begins; 0 for any other file, of which others know more. */
size_t aj_read_header(const uint8_t *data, size_t size, aj_header *found);

/* Reads the coefficients of a JPEG, strictly: whatever libjpeg warns of in the picture's data is damage.
 * Limits are checked before anything of the picture's size is allocated: pixels, a bit of file for each block, scans.
 * `data` may be freed afterwards. With `by_libjpeg` that decodes whatever it is: the result is the same, later. */
aj_status aj_open(const uint8_t *data, size_t size, int64_t max_pixels, int max_scans, int by_libjpeg, aj_image *image,
                  char message[AJ_MESSAGE]);

/* The picture transposed, then flipped down, then across, exactly. Unsupported where incomplete blocks would come to
 * lie within it. */
aj_status aj_turn(const aj_image *image, int transpose, int down, int across, aj_image *turned,
                  char message[AJ_MESSAGE]);

void aj_close(aj_image *image);

/* Whether the chrominance can be brought to that sampling: halved, kept, or (from a quarter) doubled. */
int aj_can_resample(const aj_image *image, int across, int down);

/* Blocks of a component at a sampling of the chrominance. */
void aj_shape(const aj_image *image, int component, int across, int down, int *rows, int *columns);

/* The coefficients times their steps, rows x columns x 64. */
void aj_dequantise(const aj_image *image, int component, int across, int down, float *found);

/* Sums and sums of squares of the dequantised coefficients of each band: 64 of each. */
void aj_bands(const aj_image *image, int component, int across, int down, double *total, double *squares);

/* The orthonormal DCT of 8 x 8 pixels anywhere, chrominance upsampled as libjpeg does, less 128: 64 x 3 x (rows *
 * columns). Pixels beyond the edge repeat it; of a grayscale image Cb and Cr are 0. Returns 0 where
 * there is no memory. */
int aj_grid(const aj_image *image, const int32_t *tops, int rows, const int32_t *lefts, int columns, float *found);

/* What blocks are summed up by, and how many there are of each. */
typedef struct {
    int rings, thresholds, luma_cells, chroma_cells, ranks;
    const float *of_rings;                         /* weights of coefficients, rings x 64 */
    const float *of_luma;                          /* the same, 3 x 64 */
    const float *of_thresholds;                    /* of the sizes of coefficients, thresholds x 64 */
    const float *of_luma_cells, *of_chroma_cells;  /* weights of blocks, cells x blocks */
    const int32_t *of_ranks;                       /* 0..blocks - 1 */
} aj_averages;

/* Sums up 64 x 3 x blocks coefficients, at least one block. In this order, with "size" for absolute values:
 * of Y, then Cb, then Cr: log(1 + each ring of the mean sizes over blocks);
 * of Y: what lies at each rank, in ascending order, of log(1 + the first row of of_luma times the sizes) over blocks;
 *   the mean over blocks of that for the second row, less that for the third;
 * of Y, Cb, Cr: the mean of the blocks' mean levels; then of each the standard deviation; both in units of 64 levels;
 * of Y: the share of sizes above each threshold; then mean levels times of_luma_cells; of Cb and Cr: of_chroma_cells.
 * Returns 0 where there is no memory. */
int aj_summarise(const float *grid, size_t blocks, const aj_averages *how, float *found);

/* How many numbers that gives. */
int aj_summary_size(const aj_averages *how);

/* Networks of one hidden layer that differ in their weights, and a linear one that they share. */
typedef struct {
    int features, members, hidden, families, qualities;
    const float *mean, *scale;     /* of features */
    const float *w1, *b1;          /* features x (members x hidden); members x hidden */
    const float *w_ease, *rising;  /* members x hidden x families; members x families x qualities */
    const float *w_size, *b_size;  /* features x (families x qualities); families x qualities */
} aj_ensemble;

/* Of each action (families x qualities) the chance of agreement, 0..1, and bytes. Returns 0 where there is no
 * memory. */
int aj_predict(const aj_ensemble *known, const float *features, float *agreement, float *size);

/* The image as a file again, in memory that `free` frees. */
aj_status aj_write(const aj_image *image, const aj_encoding *encoding, uint8_t **file, size_t *size,
                   char message[AJ_MESSAGE]);

/* One block at a sampling, dequantised. */
void aj_block(const aj_plane *plane, int across, int down, int row, int column, float *found);

#endif
