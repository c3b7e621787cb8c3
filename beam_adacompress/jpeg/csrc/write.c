/* A JPEG of coefficients, with other tables, sampling and coding. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "trap.h"

typedef struct {
    struct jpeg_compress_struct encoder; /* first */
    aj_trap trap;
    struct jpeg_destination_mgr destination;
    uint8_t *file;
    size_t room; /* bytes allocated */
} writer;

/* libjpeg's own destination in memory loses track of its buffer when an error jumps out. */
static void grow(j_compress_ptr encoder)
{
    writer *w = (writer *)encoder;
    size_t filled = w->room, room = w->room > 0 ? 2 * w->room : 1 << 14;
    uint8_t *file = realloc(w->file, room);

    if (file == NULL)
        aj_leave(&w->trap, AJ_NO_MEMORY, "out of memory");
    w->file = file;
    w->room = room;
    w->destination.next_output_byte = file + filled;
    w->destination.free_in_buffer = room - filled;
}

static boolean on_full(j_compress_ptr encoder)
{
    grow(encoder);
    return TRUE;
}

static void on_end(j_compress_ptr encoder)
{
    (void)encoder;
}

/* Progressive scans for few bytes, not for early pictures. libjpeg's own script refines each coefficient up to twice and
 * makes ten scans of it, which a small file pays for: at quality 8 a tenth of its bytes. With few coefficients one scan
 * for each component is best; with many, refining those of the luminance once. */
#define FEW 12500 /* nonzero AC coefficients of Y: about where the second script becomes the smaller one */

static const jpeg_scan_info few_of_three[] = {
    {3, {0, 1, 2, 0}, 0, 0, 0, 0}, {1, {0}, 1, 63, 0, 0}, {1, {1}, 1, 63, 0, 0}, {1, {2}, 1, 63, 0, 0}};
static const jpeg_scan_info many_of_three[] = {
    {3, {0, 1, 2, 0}, 0, 0, 0, 0}, {1, {0}, 1, 8, 0, 1},  {1, {0}, 9, 63, 0, 1},
    {1, {0}, 1, 63, 1, 0},         {1, {1}, 1, 63, 0, 0}, {1, {2}, 1, 63, 0, 0}};
static const jpeg_scan_info few_of_one[] = {{1, {0}, 0, 0, 0, 0}, {1, {0}, 1, 63, 0, 0}};
static const jpeg_scan_info many_of_one[] = {
    {1, {0}, 0, 0, 0, 0}, {1, {0}, 1, 8, 0, 1}, {1, {0}, 9, 63, 0, 1}, {1, {0}, 1, 63, 1, 0}};

#define TAKE(encoder, script) ((encoder)->scan_info = (script), (encoder)->num_scans = sizeof(script) / sizeof *(script))

static void set_scans(j_compress_ptr encoder, size_t coefficients)
{
    if (encoder->num_components == 1 && coefficients < FEW)
        TAKE(encoder, few_of_one);
    else if (encoder->num_components == 1)
        TAKE(encoder, many_of_one);
    else if (coefficients < FEW)
        TAKE(encoder, few_of_three);
    else
        TAKE(encoder, many_of_three);
}

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

AJ_INLINE size_t nonzero(const int16_t *block)
{
    int16_t count = 0;
    int k;

    for (k = 1; k < AJ_BLOCK; k++)
        count = (int16_t)(count + (block[k] != 0));
    return (size_t)count;
}

AJ_INLINE void widen(const int16_t *restrict block, float *restrict found)
{
    int k;

    for (k = 0; k < AJ_BLOCK; k++)
        found[k] = (float)block[k];
}

/* Quantises a component. Returns its AC coefficients that are not zero. */
AJ_CLONES static size_t fill(writer *w, const aj_image *image, const aj_encoding *encoding, int component, jvirt_barray_ptr array)
{
    j_common_ptr info = (j_common_ptr)&w->encoder;
    const aj_plane *plane = &image->planes[component];
    const uint16_t *steps = component == 0 ? encoding->luma : encoding->chroma;
    int across = component == 0 ? 1 : encoding->across, down = component == 0 ? 1 : encoding->down;
    int same = plane->across == across && plane->down == down;
    float factor[AJ_BLOCK], rounding[AJ_BLOCK], block[AJ_BLOCK];
    int rows, columns, row, column, k;
    size_t coefficients = 0;

    aj_shape(image, component, encoding->across, encoding->down, &rows, &columns);
    for (k = 0; k < AJ_BLOCK; k++) {
        factor[k] = same ? (float)plane->table[k] / (float)steps[k] : 1.0f / (float)steps[k];
        rounding[k] = k == 0 ? 0.5f : encoding->rounding;
    }
    for (row = 0; row < rows; row++) {
        int16_t *to = info->mem->access_virt_barray(info, array, (JDIMENSION)row, 1, TRUE)[0][0];
        for (column = 0; column < columns; column++, to += AJ_BLOCK) {
            if (same)
                widen(plane->blocks + ((size_t)row * plane->stride + (size_t)column) * AJ_BLOCK, block);
            else
                aj_block(plane, across, down, row, column, block);
            quantise(block, factor, rounding, to);
            coefficients += nonzero(to);
        }
    }
    return coefficients;
}

static void set_table(j_compress_ptr encoder, int slot, const uint16_t *steps)
{
    JQUANT_TBL *table = jpeg_alloc_quant_table((j_common_ptr)encoder);

    memcpy(table->quantval, steps, sizeof table->quantval);
    table->sent_table = FALSE;
    encoder->quant_tbl_ptrs[slot] = table;
}

static void configure(writer *w, const aj_image *image, const aj_encoding *encoding)
{
    j_compress_ptr e = &w->encoder;

    e->image_width = (JDIMENSION)image->width;
    e->image_height = (JDIMENSION)image->height;
    e->input_components = image->components;
    e->in_color_space = image->components == 1 ? JCS_GRAYSCALE : JCS_YCbCr;
    jpeg_set_defaults(e);
    if (image->components == 3) {
        e->comp_info[0].h_samp_factor = encoding->across;
        e->comp_info[0].v_samp_factor = encoding->down;
    }
    set_table(e, 0, encoding->luma);
    if (image->components == 3)
        set_table(e, 1, encoding->chroma);
    e->optimize_coding = encoding->optimize ? TRUE : FALSE;
    if (encoding->dots_across > 0 && encoding->dots_down > 0) {
        e->density_unit = 1;
        e->X_density = (UINT16)encoding->dots_across;
        e->Y_density = (UINT16)encoding->dots_down;
    }
}

/* Copies marker segments: 0xFF, marker, length (two bytes, which it counts), content. */
static void write_segments(writer *w, const uint8_t *segments, size_t size)
{
    while (size >= 4) {
        size_t length = ((size_t)segments[2] << 8) | segments[3];
        if (segments[0] != 0xFF || length < 2 || length + 2 > size)
            break;
        jpeg_write_marker(&w->encoder, segments[1], segments + 4, (unsigned int)(length - 2));
        segments += length + 2;
        size -= length + 2;
    }
    if (size != 0)
        aj_leave(&w->trap, AJ_UNSUPPORTED, "segments that are none");
}

static void write_file(writer *w, const aj_image *image, const aj_encoding *encoding)
{
    j_compress_ptr e = &w->encoder;
    j_common_ptr info = (j_common_ptr)e;
    jvirt_barray_ptr arrays[3];
    int i;

    configure(w, image, encoding);
    for (i = 0; i < image->components; i++) {
        int wide = e->comp_info[i].h_samp_factor, high = e->comp_info[i].v_samp_factor, rows, columns;
        aj_shape(image, i, encoding->across, encoding->down, &rows, &columns);
        arrays[i] = info->mem->request_virt_barray(info, JPOOL_IMAGE, TRUE,
                                                   (JDIMENSION)((columns + wide - 1) / wide * wide),
                                                   (JDIMENSION)((rows + high - 1) / high * high), (JDIMENSION)high);
    }
    info->mem->realize_virt_arrays(info);
    for (i = 0; i < image->components; i++) {
        size_t coefficients = fill(w, image, encoding, i, arrays[i]);
        if (i == 0 && encoding->progressive)
            set_scans(e, coefficients);
    }
    w->destination.init_destination = grow;
    w->destination.empty_output_buffer = on_full;
    w->destination.term_destination = on_end;
    e->dest = &w->destination;
    jpeg_write_coefficients(e, arrays);
    write_segments(w, encoding->segments, encoding->segments_size);
    if (encoding->comment_size > 0)
        jpeg_write_marker(e, JPEG_COM, encoding->comment, (unsigned int)encoding->comment_size);
    jpeg_finish_compress(e);
}

aj_status aj_write(const aj_image *image, const aj_encoding *encoding, uint8_t **file, size_t *size,
                   char message[AJ_MESSAGE])
{
    writer *w = calloc(1, sizeof *w);
    aj_status status;

    *file = NULL;
    *size = 0;
    message[0] = '\0';
    if (w == NULL)
        return AJ_NO_MEMORY;
    w->encoder.err = aj_set_trap(&w->trap, message);
    if (setjmp(w->trap.out) == 0) {
        jpeg_create_compress(&w->encoder);
        if (!aj_can_resample(image, encoding->across, encoding->down))
            aj_leave(&w->trap, AJ_UNSUPPORTED, "the chrominance would have to be interpolated");
        write_file(w, image, encoding);
        *file = w->file;
        *size = w->room - w->destination.free_in_buffer;
    } else {
        free(w->file);
    }
    status = w->trap.status;
    jpeg_destroy_compress(&w->encoder);
    free(w);
    return status;
}
