/* Huffman codes by table, and the bits that they are read from. */
#ifndef ADACOMPRESS_CODES_H
#define ADACOMPRESS_CODES_H

#include <stdio.h>

#include <jpeglib.h>

#include "core.h"

#define LOOK 11  /* bits that are looked up at once; with more, tables push each other out of the fastest cache */
#define SLOW 64u /* in an entry: not all of it is within these bits */
#define END 128u /* coefficients that the end of a block skips, more than there are */

/* A Huffman table, by the next bits: a code and the value behind it in one look. An entry has, from its lowest bit on,
 *
 *   6 bits   how many bits of the file it stands for
 *   1 bit    SLOW: it stands for the code alone, and says how many bits the value has; and where nothing else is set,
 *            the code is longer than LOOK bits, or is none
 *   bit 8    how many coefficients it goes on, the last of which has the value
 *   bit 16   the value */
typedef struct {
    uint32_t entries[1 << LOOK];
    uint32_t limits[17]; /* codes of up to so many bits are below it, in 16 bits */
    int32_t offsets[17]; /* from a code of so many bits to its symbol */
    uint8_t symbols[256];
    int is_made;
} codes;

/* The next bits: `count` of them at the top, and behind those zeros or what follows in the file. */
typedef struct {
    const uint8_t *next;
    uint64_t bits;
    unsigned count;
} stream;

/* 0: the table is missing or wrong, by libjpeg's checks. */
int aj_make_lookup(codes *made, const JHUFF_TBL *table, int dc);

/* A value of so many bits: those with a leading 0 are the negative ones. */
AJ_INLINE int32_t extended(uint32_t bits, unsigned size)
{
    return (int32_t)bits - (bits >> (size - 1) ? 0 : (int32_t)(1u << size) - 1);
}

AJ_INLINE uint32_t entry_of(unsigned bits, unsigned advance, int32_t value)
{
    return bits | advance << 8 | (uint32_t)value << 16;
}

AJ_INLINE int32_t value_of(uint32_t entry)
{
    return (int16_t)(entry >> 16);
}

AJ_INLINE unsigned advance_of(unsigned symbol)
{
    return symbol & 15 || symbol == 0xF0 ? (symbol >> 4) + 1 : END;
}

AJ_INLINE uint64_t eight(const uint8_t *bytes)
{
    return (uint64_t)bytes[0] << 56 | (uint64_t)bytes[1] << 48 | (uint64_t)bytes[2] << 40 | (uint64_t)bytes[3] << 32 |
           (uint64_t)bytes[4] << 24 | (uint64_t)bytes[5] << 16 | (uint64_t)bytes[6] << 8 | bytes[7];
}

/* At least 56 bits. */
AJ_INLINE void refill(stream *s)
{
    s->bits |= eight(s->next) >> (s->count & 63);
    s->next += (~s->count & 63) >> 3;
    s->count |= 56;
}

AJ_INLINE void drop(stream *s, unsigned bits)
{
    s->bits <<= bits & 63;
    s->count -= bits;
}

AJ_INLINE uint32_t look(const codes *c, const stream *s)
{
    return c->entries[s->bits >> (64 - LOOK)];
}

/* An entry with SLOW as one without, whose bits are dropped. 0 where they are no code. */
AJ_INLINE uint32_t finish(const codes *c, stream *s, uint32_t entry)
{
    unsigned size = entry >> 16, length = entry & 63, advance = entry >> 8 & 255;
    int32_t value = 0;

    refill(s);
    if (entry == SLOW) {
        uint32_t bits = (uint32_t)(s->bits >> 48);
        unsigned symbol;
        for (length = LOOK + 1; length <= 16 && bits >= c->limits[length]; length++)
            ;
        if (length > 16)
            return 0;
        symbol = c->symbols[((int32_t)(bits >> (16 - length)) + c->offsets[length]) & 255];
        size = symbol & 15;
        advance = advance_of(symbol);
    }
    drop(s, length);
    if (size) {
        value = extended((uint32_t)(s->bits >> (64 - size)), size);
        drop(s, size);
    }
    return entry_of(0, advance, value);
}

#endif
