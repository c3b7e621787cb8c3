/* Opening a JPEG: header, limits, Huffman decoding. And turning it. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode.h"
#include <jerror.h>

#ifndef LIBJPEG_TURBO_VERSION
#error "libjpeg-turbo is needed; this is another libjpeg"
#endif

/* libjpeg's errors, and its warnings about the picture's data, as a jump back into the function that called it. */
typedef struct {
    struct jpeg_error_mgr errors; /* first: libjpeg knows the trap by it */
    jmp_buf out;
    aj_status status;
    char *message;
} error_trap;

/* Whether a warning is about the picture's data. The others are about ancillary markers. */
static int is_damage(int code)
{
    switch (code) {
    case JWRN_ADOBE_XFORM:
    case JWRN_JFIF_MAJOR:
#ifdef JWRN_BOGUS_ICC
    case JWRN_BOGUS_ICC:
#endif
        return 0;
    default:
        return 1;
    }
}

static void leave(error_trap *trap, aj_status status, const char *message)
{
    snprintf(trap->message, AJ_MESSAGE, "%s", message);
    trap->status = status;
    longjmp(trap->out, 1);
}

static void jump(j_common_ptr info, aj_status status)
{
    char text[JMSG_LENGTH_MAX];

    info->err->format_message(info, text);
    leave((error_trap *)info->err, status, text);
}

static void on_error(j_common_ptr info)
{
    switch (info->err->msg_code) {
    case JERR_OUT_OF_MEMORY:
        jump(info, AJ_NO_MEMORY);
        break;
    case JERR_ARITH_NOTIMPL:
    case JERR_BAD_PRECISION:
    case JERR_COMPONENT_COUNT:
    case JERR_SOF_UNSUPPORTED:
        jump(info, AJ_UNSUPPORTED);
        break;
    default:
        jump(info, AJ_DAMAGED);
    }
}

static void on_message(j_common_ptr info, int level)
{
    if (level < 0 && is_damage(info->err->msg_code))
        jump(info, AJ_DAMAGED);
}

static void say_nothing(j_common_ptr info)
{
    (void)info;
}

/* After it, `setjmp(trap->out)` has to follow before anything of libjpeg's is called. */
static struct jpeg_error_mgr *set_trap(error_trap *trap, char message[AJ_MESSAGE])
{
    struct jpeg_error_mgr *errors = jpeg_std_error(&trap->errors);

    errors->error_exit = on_error;
    errors->emit_message = on_message;
    errors->output_message = say_nothing;
    trap->status = AJ_OK;
    trap->message = message;
    message[0] = '\0';
    return errors;
}

typedef struct {
    struct jpeg_decompress_struct decoder; /* first */
    error_trap trap;
    struct jpeg_progress_mgr progress;
    int max_scans;
} reader;

static void on_progress(j_common_ptr info)
{
    reader *r = (reader *)info;

    if (r->decoder.input_scan_number > r->max_scans)
        leave(&r->trap, AJ_DAMAGED, "Corrupt JPEG data: it has too many scans");
}

/* What libjpeg has said of the components, checked. */
static void describe(reader *r, size_t size, int64_t max_pixels, aj_image *image)
{
    struct jpeg_decompress_struct *d = &r->decoder;
    uint64_t blocks = 0;
    int gray = d->num_components == 1 && d->jpeg_color_space == JCS_GRAYSCALE;
    int i;

    if ((int64_t)d->image_width * (int64_t)d->image_height > max_pixels) {
        char text[AJ_MESSAGE];
        snprintf(text, sizeof text, "%u x %u is more than the limit of %lld pixels", d->image_width, d->image_height,
                 (long long)max_pixels);
        leave(&r->trap, AJ_TOO_LARGE, text);
    }
    if (d->data_precision != 8 || d->arith_code)
        leave(&r->trap, AJ_UNSUPPORTED, "not 8 bits in Huffman coding");
    if (!gray && !(d->num_components == 3 && d->jpeg_color_space == JCS_YCbCr))
        leave(&r->trap, AJ_UNSUPPORTED, "neither grayscale nor YCbCr");
    image->width = (int)d->image_width;
    image->height = (int)d->image_height;
    image->components = d->num_components;
    for (i = 0; i < image->components; i++) {
        jpeg_component_info *c = &d->comp_info[i];
        aj_plane *p = &image->planes[i];
        p->across = d->max_h_samp_factor / c->h_samp_factor;
        p->down = d->max_v_samp_factor / c->v_samp_factor;
        if (p->across * c->h_samp_factor != d->max_h_samp_factor ||
            p->down * c->v_samp_factor != d->max_v_samp_factor || p->across == 3 || p->down == 3)
            leave(&r->trap, AJ_UNSUPPORTED, "sampling factors that are not 1, 2 or 4 to each other");
        if (i == 0 && (p->across != 1 || p->down != 1))
            leave(&r->trap, AJ_UNSUPPORTED, "luminance is subsampled");
        if (i == 2 && (p->across != image->planes[1].across || p->down != image->planes[1].down))
            leave(&r->trap, AJ_UNSUPPORTED, "Cb and Cr are sampled differently");
        p->rows = (int)c->height_in_blocks;
        p->columns = (int)c->width_in_blocks;
        blocks += (uint64_t)p->rows * (uint64_t)p->columns;
    }
    if (blocks > 8 * (uint64_t)size) /* no Huffman code is shorter than a bit */
        leave(&r->trap, AJ_DAMAGED, "Premature end of JPEG file: it has fewer bits than blocks");
}

static void set_table(aj_plane *plane, const uint16_t *table, int transpose)
{
    int k;

    for (k = 0; k < AJ_BLOCK; k++) {
        plane->table[k] = table[transpose ? 8 * (k & 7) + (k >> 3) : k];
        plane->steps[k] = plane->table[k];
    }
}

/* Where libjpeg has put the coefficients: rows at equal distances, unless they did not fit into one allocation. */
static void locate(reader *r, jvirt_barray_ptr *arrays, aj_image *image)
{
    j_common_ptr info = (j_common_ptr)&r->decoder;
    int i, row;

    for (i = 0; i < image->components; i++) {
        aj_plane *p = &image->planes[i];
        jpeg_component_info *c = &r->decoder.comp_info[i];
        JBLOCKROW first = NULL;
        p->stride = (size_t)((p->columns + c->h_samp_factor - 1) / c->h_samp_factor) * (size_t)c->h_samp_factor;
        for (row = 0; row < p->rows; row++) {
            JBLOCKROW found = info->mem->access_virt_barray(info, arrays[i], (JDIMENSION)row, 1, FALSE)[0];
            if (row == 0)
                first = found;
            if (found != first + (size_t)row * p->stride)
                leave(&r->trap, AJ_UNSUPPORTED, "too large for one piece of memory");
        }
        p->blocks = (int16_t *)first;
        if (c->quant_table == NULL)
            leave(&r->trap, AJ_DAMAGED, "a quantisation table is missing");
        set_table(p, c->quant_table->quantval, 0);
    }
}

static void close_reader(void *owner)
{
    reader *r = owner;

    jpeg_destroy_decompress(&r->decoder);
    free(r);
}

/* The picture without libjpeg, where it is one for `aj_decode`; then the reader is not needed any more. */
static int decoded(reader *r, aj_image *image)
{
    struct jpeg_decompress_struct *d = &r->decoder;
    int i, table;

    for (i = 0; i < image->components; i++) {
        table = d->comp_info[i].quant_tbl_no;
        if (table < 0 || table >= NUM_QUANT_TBLS || d->quant_tbl_ptrs[table] == NULL)
            return 0;
    }
    if (!aj_decode(d, image))
        return 0;
    for (i = 0; i < image->components; i++)
        set_table(&image->planes[i], d->quant_tbl_ptrs[d->comp_info[i].quant_tbl_no]->quantval, 0);
    close_reader(r);
    return 1;
}

aj_status aj_open(const uint8_t *data, size_t size, int64_t max_pixels, int max_scans, int by_libjpeg, aj_image *image,
                  char message[AJ_MESSAGE])
{
    reader *r = calloc(1, sizeof *r);
    aj_status status;

    memset(image, 0, sizeof *image);
    message[0] = '\0';
    if (r == NULL)
        return AJ_NO_MEMORY;
    r->decoder.err = set_trap(&r->trap, message);
    if (setjmp(r->trap.out)) {
        status = r->trap.status;
        memset(image, 0, sizeof *image);
        close_reader(r);
        return status;
    }
    jpeg_create_decompress(&r->decoder);
    r->max_scans = max_scans;
    r->progress.progress_monitor = on_progress;
    r->decoder.progress = &r->progress;
    jpeg_mem_src(&r->decoder, (unsigned char *)data, (unsigned long)size);
    jpeg_read_header(&r->decoder, TRUE);
    describe(r, size, max_pixels, image);
    if (!by_libjpeg && max_scans > 0 && decoded(r, image))
        return AJ_OK;
    locate(r, jpeg_read_coefficients(&r->decoder), image);
    image->by_libjpeg = 1;
    image->owner = r;
    image->release = close_reader;
    return AJ_OK;
}

void aj_close(aj_image *image)
{
    if (image->owner != NULL)
        image->release(image->owner);
    memset(image, 0, sizeof *image);
}

/* A block transposed, and with the odd frequencies of the flipped axes negated. */
static void turn_block(const int16_t *from, int16_t *to, int transpose, int down, int across)
{
    int v, u;

    for (v = 0; v < 8; v++)
        for (u = 0; u < 8; u++) {
            int value = transpose ? from[8 * u + v] : from[8 * v + u];
            to[8 * v + u] = (int16_t)(((v & down) ^ (u & across)) & 1 ? -value : value);
        }
}

aj_status aj_turn(const aj_image *image, int transpose, int down, int across, aj_image *turned,
                  char message[AJ_MESSAGE])
{
    size_t blocks = 0;
    int16_t *next;
    int i, row, column;

    memset(turned, 0, sizeof *turned);
    message[0] = '\0';
    turned->width = transpose ? image->height : image->width;
    turned->height = transpose ? image->width : image->height;
    turned->components = image->components;
    for (i = 0; i < image->components; i++) {
        const aj_plane *from = &image->planes[i];
        aj_plane *to = &turned->planes[i];
        to->rows = transpose ? from->columns : from->rows;
        to->columns = transpose ? from->rows : from->columns;
        to->stride = (size_t)to->columns;
        to->across = transpose ? from->down : from->across;
        to->down = transpose ? from->across : from->down;
        set_table(to, from->table, transpose);
        blocks += (size_t)to->rows * to->stride;
        if ((down && turned->height % (8 * to->down)) || (across && turned->width % (8 * to->across))) {
            snprintf(message, AJ_MESSAGE, "incomplete blocks would come to lie within the image");
            memset(turned, 0, sizeof *turned);
            return AJ_UNSUPPORTED;
        }
    }
    next = malloc(blocks * AJ_BLOCK * sizeof *next);
    if (next == NULL) {
        memset(turned, 0, sizeof *turned);
        return AJ_NO_MEMORY;
    }
    turned->owner = next;
    turned->release = free;
    for (i = 0; i < image->components; i++) {
        const aj_plane *from = &image->planes[i];
        aj_plane *to = &turned->planes[i];
        to->blocks = next;
        for (row = 0; row < to->rows; row++)
            for (column = 0; column < to->columns; column++, next += AJ_BLOCK) {
                int y = down ? to->rows - 1 - row : row, x = across ? to->columns - 1 - column : column;
                size_t place = transpose ? (size_t)x * from->stride + (size_t)y : (size_t)y * from->stride + (size_t)x;
                turn_block(from->blocks + place * AJ_BLOCK, next, transpose, down, across);
            }
    }
    return AJ_OK;
}
