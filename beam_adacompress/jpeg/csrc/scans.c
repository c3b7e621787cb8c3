/* The symbols of scans: ISO/IEC 10918-1, F.1.2 (blocks at once) and G.1.2 (progressively). */
#include <stdlib.h>
#include <string.h>

#include "write.h"

#define MOST_BLOCKS 0x7FFF /* without coefficients, that one symbol tells of */
#define MOST_WAITING 937   /* bits that follow such a symbol later, as libjpeg has it */
#define ZEROS 0xF0         /* 16 of them */

void aj_clear(aj_symbols *s)
{
    s->count = 0;
    s->raw = 0;
    memset(s->seen, 0, sizeof s->seen);
}

void aj_release(aj_symbols *s)
{
    free(s->symbols);
    memset(s, 0, sizeof *s);
}

static int make_room(aj_symbols *s, size_t more)
{
    uint32_t *symbols;

    if (s->room - s->count >= more)
        return 1;
    symbols = aj_grown(s->symbols, &s->room, s->count + more, sizeof *symbols);
    if (symbols == NULL)
        return 0;
    s->symbols = symbols;
    return 1;
}

/* Where the symbols of a block go, known to nobody else, so that it stays in registers: they are kept and counted, or,
 * where their codes are known, written. */
typedef struct {
    uint32_t *next;
    uint32_t (*seen)[256];
    const aj_code *codes; /* NULL: they are kept */
    uint8_t *bytes;
    uint64_t bits;
    int held;
} sink;

/* Returns a sink with room for so many symbols; its `next` is NULL where there is no memory. */
AJ_INLINE sink opened(aj_symbols *s, size_t most)
{
    return (sink){.next = make_room(s, most) ? s->symbols + s->count : NULL, .seen = s->seen};
}

AJ_INLINE void closed(aj_symbols *s, sink to)
{
    s->count = (size_t)(to.next - s->symbols);
}

AJ_INLINE void add(sink *to, int code, int symbol, uint32_t bits, int count)
{
    if (to->codes != NULL) {
        to->bytes = aj_put_symbol(to->bytes, &to->bits, &to->held, &to->codes[code], (uint32_t)symbol, bits, count);
        return;
    }
    *to->next++ = (uint32_t)symbol << 24 | (uint32_t)code << 21 | (uint32_t)count << 16 | bits;
    to->seen[code][symbol]++;
}

/* How many bits it has is a part of the symbol; they follow, those of a negative value inverted. */
AJ_INLINE void add_value(sink *to, int code, int zeros, int value, int shift)
{
    int negative = value >> 31;
    unsigned magnitude = (unsigned)((value ^ negative) - negative) >> shift;
    int size = 31 - __builtin_clz(magnitude << 1 | 1);

    add(to, code, zeros << 4 | size, (magnitude ^ (unsigned)negative) & ((1u << size) - 1), size);
}

AJ_INLINE void add_dc(sink *to, int code, int value, int *before)
{
    int difference = value - *before;

    *before = value;
    add_value(to, code, 0, difference, 0);
}

/* A coefficient behind some zeros. */
AJ_INLINE void add_ac(sink *to, int code, int zeros, int value, int shift)
{
    for (; zeros > 15; zeros -= 16)
        add(to, code, ZEROS, 0, 0);
    add_value(to, code, zeros, value, shift);
}

/* The AC coefficients of a block, of which `which` are not zero. */
AJ_INLINE void add_all(sink *to, int code, uint64_t which, const int16_t *values)
{
    int next = 1;

    for (; which; which &= which - 1, values++) {
        int k = __builtin_ctzll(which);
        add_ac(to, code, k - next, *values, 0);
        next = k + 1;
    }
    if (next < AJ_BLOCK)
        add(to, code, 0, 0, 0);
}

#define MOST_OF_A_UNIT (AJ_MOST_BLOCKS * (AJ_BLOCK + 1)) /* symbols */

/* Blocks come in units, of all components. Those beyond the edge are made up: as their DC coefficient, the one before. */
AJ_INLINE void add_unit(sink *to, const aj_quantised *components, aj_group group, int row, int unit, int only_dc, int before[3])
{
    int i, y, x;

    for (i = group.first; i < group.first + group.count; i++) {
        const aj_quantised *q = &components[i];
        int dc = i == 0 ? AJ_Y_DC : AJ_C_DC, ac = i == 0 ? AJ_Y_AC : AJ_C_AC;
        int high = aj_high(q, group), wide = aj_wide(q, group);
        for (y = row * high; y < (row + 1) * high; y++)
            for (x = unit * wide; x < (unit + 1) * wide; x++) {
                int real = y < q->rows && x < q->columns;
                size_t block = real ? (size_t)y * (size_t)q->columns + (size_t)x : 0;
                add_dc(to, dc, real ? q->dc[block] : before[i], &before[i]);
                if (!only_dc)
                    add_all(to, ac, real ? q->which[block] : 0, q->ac + q->start[block]);
            }
    }
}

static int units_of(const aj_quantised *components, aj_group group)
{
    const aj_quantised *first = &components[group.first];
    int wide = aj_wide(first, group);

    return (first->columns + wide - 1) / wide;
}

AJ_CLONES int aj_scan_row(const aj_quantised *components, aj_group group, int row, int only_dc, int before[3],
                          aj_symbols *s)
{
    int units = units_of(components, group), unit;

    for (unit = 0; unit < units; unit++) {
        sink to = opened(s, MOST_OF_A_UNIT);
        if (to.next == NULL)
            return 0;
        add_unit(&to, components, group, row, unit, only_dc, before);
        closed(s, to);
    }
    return 1;
}

AJ_CLONES int aj_put_row(const aj_quantised *components, aj_group group, int row, int before[3],
                         const aj_code codes[AJ_CODES], aj_file *file)
{
    int units = units_of(components, group), unit;

    for (unit = 0; unit < units; unit++) {
        sink to = {.codes = codes, .bytes = aj_room(file, MOST_OF_A_UNIT), .bits = file->bits, .held = file->held};
        if (to.bytes == NULL)
            return 0;
        add_unit(&to, components, group, row, unit, 0, before);
        file->size = (size_t)(to.bytes - file->bytes);
        file->bits = to.bits;
        file->held = to.held;
    }
    return 1;
}

/* Coefficients from..to, as bits of aj_quantised.which. */
static uint64_t range(int from, int to)
{
    return (~(uint64_t)0 << from) & (~(uint64_t)0 >> (AJ_BLOCK - 1 - to));
}

/* Blocks without further coefficients. */
AJ_INLINE void add_ends(sink *to, int code, unsigned *blocks)
{
    if (*blocks > 0) {
        int size = 31 - __builtin_clz(*blocks);
        add(to, code, size << 4, *blocks & ((1u << size) - 1), size);
    }
    *blocks = 0;
}

AJ_CLONES int aj_scan_first(const aj_quantised *q, int code, int from, int last, int shift, aj_symbols *s)
{
    size_t block, blocks = (size_t)q->rows * (size_t)q->columns;
    uint64_t taken = range(from, last), skipped = range(0, from - 1);
    unsigned ends = 0;
    sink to;

    for (block = 0; block < blocks; block++) {
        const int16_t *values = q->ac + q->start[block] + __builtin_popcountll(q->which[block] & skipped);
        uint64_t left = q->which[block] & taken;
        int next = from;
        to = opened(s, 2 * AJ_BLOCK);
        if (to.next == NULL)
            return 0;
        for (; left; left &= left - 1, values++) {
            int k = __builtin_ctzll(left);
            if (abs(*values) >> shift == 0)
                continue;
            add_ends(&to, code, &ends);
            add_ac(&to, code, k - next, *values, shift);
            next = k + 1;
        }
        if (next <= last && ++ends == MOST_BLOCKS)
            add_ends(&to, code, &ends);
        closed(s, to);
    }
    to = opened(s, 1);
    if (to.next == NULL)
        return 0;
    add_ends(&to, code, &ends);
    closed(s, to);
    return 1;
}

/* Bits that wait for the symbol that they follow. */
typedef struct {
    uint8_t bits[MOST_WAITING + AJ_BLOCK];
    int count;
} waiting;

AJ_INLINE void add_waiting(aj_symbols *s, sink *to, waiting *w)
{
    int at, i;

    for (at = 0; at < w->count; at += 16) {
        uint32_t bits = 0;
        int count = w->count - at < 16 ? w->count - at : 16;
        for (i = 0; i < count; i++)
            bits = bits << 1 | w->bits[at + i];
        add(to, AJ_RAW, 0, bits, count);
    }
    s->raw += (uint64_t)w->count;
    w->count = 0;
}

/* Of coefficients that were not zero in the first scan the lowest bit is written behind the next symbol; those that
 * become 1 or -1 are symbols. */
AJ_CLONES int aj_scan_again(const aj_quantised *q, int code, int from, int last, aj_symbols *s)
{
    size_t block, blocks = (size_t)q->rows * (size_t)q->columns;
    uint64_t taken = range(from, last), skipped = range(0, from - 1);
    waiting of_ends, of_block;
    unsigned ends = 0;
    sink to;

    of_ends.count = of_block.count = 0;
    for (block = 0; block < blocks; block++) {
        const int16_t *values = q->ac + q->start[block] + __builtin_popcountll(q->which[block] & skipped), *value;
        uint64_t which = q->which[block] & taken, left, ones = 0;
        int next = from, zeros = 0;
        to = opened(s, 4 * AJ_BLOCK + MOST_WAITING / 16);
        if (to.next == NULL)
            return 0;
        for (left = which, value = values; left; left &= left - 1, value++)
            if (abs(*value) == 1)
                ones |= left & (~left + 1);
        for (left = which, value = values; left; left &= left - 1, value++) {
            int k = __builtin_ctzll(left);
            zeros += k - next;
            next = k + 1;
            for (; zeros > 15 && ones >> k; zeros -= 16) { /* not where no other 1 comes */
                add_ends(&to, code, &ends);
                add_waiting(s, &to, &of_ends);
                add(&to, code, ZEROS, 0, 0);
                add_waiting(s, &to, &of_block);
            }
            if (!(ones >> k & 1)) {
                of_block.bits[of_block.count++] = (uint8_t)(abs(*value) & 1);
                continue;
            }
            add_ends(&to, code, &ends);
            add_waiting(s, &to, &of_ends);
            add(&to, code, zeros << 4 | 1, *value > 0, 1);
            add_waiting(s, &to, &of_block);
            zeros = 0;
        }
        if (next <= last || zeros > 0 || of_block.count > 0) {
            memcpy(of_ends.bits + of_ends.count, of_block.bits, (size_t)of_block.count);
            of_ends.count += of_block.count;
            of_block.count = 0;
            if (++ends == MOST_BLOCKS || of_ends.count > MOST_WAITING) {
                add_ends(&to, code, &ends);
                add_waiting(s, &to, &of_ends);
            }
        }
        closed(s, to);
    }
    to = opened(s, 1 + MOST_WAITING);
    if (to.next == NULL)
        return 0;
    add_ends(&to, code, &ends);
    add_waiting(s, &to, &of_ends);
    closed(s, to);
    return 1;
}
