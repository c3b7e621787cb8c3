/* Huffman decoding of the commonest JPEGs: sequential, of one scan, with or without restart markers.
 *
 * It takes perfectly clean files alone. At whatever is odd, be it that libjpeg would warn of it, mend it or say
 * nothing, it gives up, and libjpeg reads the picture from its start: nobody else says what is wrong with a file.
 *
 * What lies between two markers is freed of its stuffed zeros first, into memory with ROOM for a whole block behind it.
 * So no byte has to be looked at by itself, and the end is looked for once a block.
 */
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "codes.h"
#include "decode.h"
#include "rows.h"
#include "standard.h"

/* A block has at most 64 codes of 16 bits with 15 bits behind them, 8 bytes are read ahead, and 8 at once. */
#define ROOM (64 * 31 / 8 + 3 * 8)

/* Larger planes are libjpeg's, which may not find one piece of memory for them. */
#define MOST ((size_t)512 << 20)

#define MOST_AT_HAND ((size_t)32 << 20) /* glibc's limit for what it does not give back to the system at once */
#define HUGE_PAGE ((uintptr_t)2 << 20)

/* A block of those that are coded together, in a unit. */
typedef struct {
    const codes *dc, *ac;
    uint32_t *predicted;
    const aj_plane *plane;
    unsigned down, across; /* blocks of its plane in a unit */
    unsigned row, column;  /* its own among those */
    int16_t *first;        /* in the current row of units */
    size_t step;           /* from one unit to the next */
    unsigned width;        /* units where it is within the plane; beyond, it only fills the unit up */
} member;

typedef struct {
    codes tables[2][NUM_HUFF_TBLS]; /* DC, AC */
    member members[D_MAX_BLOCKS_IN_MCU];
    int count;
    unsigned rows, columns; /* of units */
    uint32_t predicted[3];
    int16_t nowhere[AJ_BLOCK];     /* where blocks go that only fill a unit up */
    uint8_t order[END + AJ_BLOCK]; /* natural order; what lies beyond a block goes to its last coefficient */
} decoding;

/* The next coefficient. The end of a block is an entry like the others, with a 0 that lands where a 0 is, so that there
 * is one branch less to mispredict. */
#define STEP                                    \
    entry = look(m->ac, s);                     \
    if (entry & SLOW)                           \
        goto slow;                              \
    drop(s, entry);                             \
    k += entry >> 8 & 255;                      \
    block[order[k]] = (int16_t)value_of(entry); \
    if (k >= AJ_BLOCK - 1)                      \
        break;

/* `refill` leaves bits for five entries. */
AJ_INLINE int decode_block(const member *m, const uint8_t *order, stream *s, int16_t *block)
{
    static const shorts nothing = {0};
    uint32_t entry;
    unsigned k;

    for (k = 0; k < AJ_BLOCK; k += 8) /* GCC makes a slow instruction of one memset */
        memcpy(block + k, &nothing, sizeof nothing);
    k = 0;
    refill(s);
    entry = look(m->dc, s);
    if (entry & SLOW) {
        entry = finish(m->dc, s, entry);
        if (entry == 0)
            return 0;
    } else {
        drop(s, entry);
    }
    *m->predicted += (uint32_t)value_of(entry);
    block[0] = (int16_t)*m->predicted;
    for (;;) {
        refill(s);
        STEP
        STEP
        STEP
        STEP
        STEP
        continue;
    slow:
        entry = finish(m->ac, s, entry);
        if (entry == 0)
            return 0;
        k += entry >> 8 & 255;
        block[order[k]] = (int16_t)value_of(entry);
        if (k >= AJ_BLOCK - 1)
            break;
    }
    return k == AJ_BLOCK - 1 || k >= END;
}

/* Where the members of a row of units are. */
static void start_row(decoding *c, unsigned row)
{
    int i;

    for (i = 0; i < c->count; i++) {
        member *m = &c->members[i];
        size_t at = (size_t)row * m->down + m->row;
        m->width = 0;
        if (at < (size_t)m->plane->rows && m->column < (unsigned)m->plane->columns) {
            m->width = ((unsigned)m->plane->columns - m->column + m->across - 1) / m->across;
            m->first = aj_block_at(m->plane, at, m->column);
        }
    }
}

/* The units that lie between two markers. */
static int decode_stretch(decoding *c, const uint8_t *bytes, size_t size, uint64_t unit, uint64_t end)
{
    stream s = {bytes, 0, 0};
    const uint8_t *last = bytes + size + 8;
    unsigned row = (unsigned)(unit / c->columns), column = (unsigned)(unit % c->columns);
    int64_t left;
    int i;

    memset(c->predicted, 0, sizeof c->predicted);
    start_row(c, row);
    for (; unit < end; unit++, column++) {
        if (column == c->columns) {
            column = 0;
            start_row(c, ++row);
        }
        for (i = 0; i < c->count; i++) {
            const member *m = &c->members[i];
            int16_t *block = column < m->width ? m->first + column * m->step : c->nowhere;
            if (!decode_block(m, c->order, &s, block) || s.next > last)
                return 0;
        }
    }
    left = 8 * (int64_t)(bytes + size - s.next) + (int64_t)(s.count & 63);
    return left >= 0 && left < 8;
}

/* Copies up to the next marker, without stuffed zeros. Gives back where that is, or NULL. */
static const uint8_t *unstuff(const uint8_t *from, const uint8_t *end, uint8_t *to, size_t *size)
{
    uint8_t *start = to;

    while (from < end) {
        const uint8_t *found = memchr(from, 0xFF, (size_t)(end - from));
        if (found == NULL || end - found < 2)
            return NULL;
        memcpy(to, from, (size_t)(found - from));
        to += found - from;
        if (found[1] != 0) {
            memset(to, 0, ROOM);
            *size = (size_t)(to - start);
            return found;
        }
        *to++ = 0xFF;
        from = found + 2;
    }
    return NULL;
}

/* All units, with or without restart markers, and the end of the file behind the last. */
static int decode(decoding *c, const uint8_t *from, const uint8_t *end, uint8_t *bytes, unsigned interval)
{
    uint64_t units = (uint64_t)c->columns * c->rows, unit, last;
    unsigned restart = 0;

    for (unit = 0; unit < units; unit = last) {
        size_t size;
        const uint8_t *marker = unstuff(from, end, bytes, &size);
        last = interval && units - unit > interval ? unit + interval : units;
        if (marker == NULL || marker[1] != (last == units ? JPEG_EOI : JPEG_RST0 + (restart++ & 7)) ||
            !decode_stretch(c, bytes, size, unit, last))
            return 0;
        from = marker + 2;
    }
    return 1;
}

/* Whether it is of the kind; then the tables and members are made. */
static int prepare(decoding *c, const struct jpeg_decompress_struct *d, const aj_image *image)
{
    int alone = image->components == 1, i, table, row, column;

    if (d->progressive_mode || d->arith_code || d->data_precision != 8 || d->comps_in_scan != image->components ||
        d->Ss != 0 || d->Se != AJ_BLOCK - 1 || d->Ah != 0 || d->Al != 0 || d->unread_marker != 0)
        return 0;
    for (table = 0; table < 2 * NUM_HUFF_TBLS; table++)
        c->tables[table / NUM_HUFF_TBLS][table % NUM_HUFF_TBLS].is_made = 0;
    c->count = 0;
    for (i = 0; i < image->components; i++) {
        const jpeg_component_info *info = d->cur_comp_info[i];
        const aj_plane *plane = &image->planes[info->component_index];
        int down = alone ? 1 : info->v_samp_factor, across = alone ? 1 : info->h_samp_factor;
        codes *dc, *ac;
        if (info->dc_tbl_no >= NUM_HUFF_TBLS || info->ac_tbl_no >= NUM_HUFF_TBLS ||
            c->count + down * across > D_MAX_BLOCKS_IN_MCU)
            return 0;
        dc = &c->tables[0][info->dc_tbl_no];
        ac = &c->tables[1][info->ac_tbl_no];
        if ((!dc->is_made && !aj_make_lookup(dc, d->dc_huff_tbl_ptrs[info->dc_tbl_no], 1)) ||
            (!ac->is_made && !aj_make_lookup(ac, d->ac_huff_tbl_ptrs[info->ac_tbl_no], 0)))
            return 0;
        for (row = 0; row < down; row++)
            for (column = 0; column < across; column++) {
                member *m = &c->members[c->count++];
                memset(m, 0, sizeof *m);
                m->dc = dc;
                m->ac = ac;
                m->predicted = &c->predicted[i];
                m->plane = plane;
                m->step = (size_t)across * AJ_BLOCK;
                m->row = (unsigned)row;
                m->column = (unsigned)column;
                m->down = (unsigned)down;
                m->across = (unsigned)across;
            }
    }
    c->rows = (unsigned)image->planes[0].rows;
    c->columns = (unsigned)image->planes[0].columns;
    if (!alone) {
        unsigned high = 8 * (unsigned)d->max_v_samp_factor, wide = 8 * (unsigned)d->max_h_samp_factor;
        c->rows = ((unsigned)image->height + high - 1) / high;
        c->columns = ((unsigned)image->width + wide - 1) / wide;
    }
    memset(c->order, AJ_BLOCK - 1, sizeof c->order);
    memcpy(c->order, aj_natural, sizeof aj_natural);
    return 1;
}

typedef struct {
    int16_t *planes[3];
} memory;

static void release(void *owner)
{
    memory *m = owner;
    int i;

    for (i = 0; m != NULL && i < 3; i++)
        free(m->planes[i]);
    free(m);
}

/* To get so much memory in small pages takes longer than to decode. */
static void advise(void *start, size_t size)
{
#ifdef MADV_HUGEPAGE
    uintptr_t from = ((uintptr_t)start + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    uintptr_t to = ((uintptr_t)start + size) & ~(HUGE_PAGE - 1);

    if (from < to)
        (void)madvise((void *)from, to - from, MADV_HUGEPAGE);
#else
    (void)start;
    (void)size;
#endif
}

/* In one piece up to the size of which glibc has some left from the picture before; then a piece for each plane. */
static memory *allocate(aj_image *image)
{
    memory *m = calloc(1, sizeof *m);
    uint64_t sizes[3] = {0, 0, 0}, all = 0;
    int16_t *next = NULL;
    int i;

    for (i = 0; i < image->components; i++) {
        sizes[i] = (uint64_t)image->planes[i].rows * (uint64_t)image->planes[i].columns * AJ_BLOCK * sizeof *next;
        all += sizes[i];
    }
    for (i = 0; m != NULL && i < image->components; i++) {
        aj_plane *p = &image->planes[i];
        if (i == 0 || all > MOST_AT_HAND) {
            next = sizes[i] <= MOST ? malloc((size_t)(all > MOST_AT_HAND ? sizes[i] : all)) : NULL;
            if (next == NULL) {
                release(m);
                return NULL;
            }
            m->planes[i] = next;
            if (all > MOST_AT_HAND)
                advise(next, (size_t)sizes[i]);
        }
        p->blocks = next;
        p->stride = (size_t)p->columns;
        next += sizes[i] / sizeof *next;
    }
    return m;
}

int aj_decode(const struct jpeg_decompress_struct *decoder, aj_image *image)
{
    const uint8_t *from = decoder->src->next_input_byte;
    size_t size = decoder->src->bytes_in_buffer;
    decoding *c = malloc(sizeof *c);
    uint8_t *bytes = NULL;
    memory *m = NULL;
    aj_image filled = *image;
    int done;

    if (c != NULL && prepare(c, decoder, &filled))
        bytes = malloc(size + ROOM);
    if (bytes != NULL)
        m = allocate(&filled);
    done = m != NULL && decode(c, from, from + size, bytes, decoder->restart_interval);
    free(bytes);
    free(c);
    if (!done) {
        release(m);
        return 0;
    }
    *image = filled;
    image->owner = m;
    image->release = release;
    return 1;
}
