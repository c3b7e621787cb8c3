/* What a file is made of.
 *
 *   aj_image --quantise.c--> aj_quantised --scans.c--> aj_symbols --huffman.c--> aj_code, and the bits of a scan
 *                                                        write.c: markers, which scans, and the file
 *
 * A scan is held as its symbols until their code is made: coefficients are gone through once for each scan, and of
 * several ways to divide them into scans the smallest can be taken.
 */
#ifndef ADACOMPRESS_WRITE_H
#define ADACOMPRESS_WRITE_H

#include "core.h"

/* Coefficients of a component, those that are not zero. */
typedef struct {
    int rows, columns; /* blocks */
    int high, wide;    /* of them in a unit of several components: sampling factors */
    int16_t *dc;       /* of each block */
    uint64_t *which;   /* of each block: bit k is set where AC coefficient k, in zigzag order, is not zero */
    uint32_t *start;   /* of each block: where those are in `ac` */
    int16_t *ac;       /* block by block, in zigzag order */
    size_t count;      /* of those */
} aj_quantised;

/* Memory for at least `needed` things of a size, with what is in it already, and in `room` for how many; NULL where there
 * is none, and the old memory stays. */
void *aj_grown(void *memory, size_t *room, size_t needed, size_t size);

/* Functions that return an int return 0 where there is no memory. */
int aj_quantise(const aj_image *image, const aj_encoding *encoding, int component, aj_quantised *found);
void aj_forget(aj_quantised *quantised);

/* The code that a symbol is written in. Of RAW only the bits that follow are written. */
enum { AJ_Y_DC, AJ_Y_AC, AJ_C_DC, AJ_C_AC, AJ_RAW, AJ_CODES };

/* Of a scan, in the order of the file: 8 bits of symbol, 3 of code, 5 of how many bits follow, 16 of those. */
typedef struct {
    uint32_t *symbols;
    size_t count, room;
    uint64_t raw; /* bits */
    uint32_t seen[AJ_CODES][256];
} aj_symbols;

/* A Huffman code, as DHT has it, and by symbol. */
typedef struct {
    int count;
    uint8_t lengths[16]; /* how many codes have 1, 2, ... bits */
    uint8_t symbols[256];
    uint32_t by_symbol[256]; /* the code, and in the lowest 8 bits its length; 0: no code */
} aj_code;

/* What is written. */
typedef struct {
    uint8_t *bytes;
    size_t size, room;
    uint64_t bits; /* to be written: the lowest `held` of them, less than 32 */
    int held;
} aj_file;

void aj_clear(aj_symbols *symbols);
void aj_release(aj_symbols *symbols);

#define AJ_MOST_BLOCKS 10 /* in a unit */

/* Components that share a scan. */
typedef struct {
    int first, count;
} aj_group;

/* Blocks of a component in a unit of such a scan. Where it is alone, and where both are chrominance, that is one. */
AJ_INLINE int aj_high(const aj_quantised *q, aj_group group)
{
    return group.count > 1 ? q->high : 1;
}

AJ_INLINE int aj_wide(const aj_quantised *q, aj_group group)
{
    return group.count > 1 ? q->wide : 1;
}

/* The coefficients of one row of units, DC alone or all of them; `before`: the last DC ones of the three components,
 * zeros for the first row. */
int aj_scan_row(const aj_quantised *components, aj_group group, int row, int only_dc, int before[3], aj_symbols *found);

/* All coefficients of it, written at once in codes that are known. */
int aj_put_row(const aj_quantised *components, aj_group group, int row, int before[3], const aj_code codes[AJ_CODES],
               aj_file *file);

/* AC coefficients from..to of a component without their lowest `shift` bits, */
int aj_scan_first(const aj_quantised *component, int code, int from, int to, int shift, aj_symbols *found);

/* and the lowest bit of those of which it was left out. */
int aj_scan_again(const aj_quantised *component, int code, int from, int to, aj_symbols *found);

void aj_make_code(const uint32_t seen[256], aj_code *code);
void aj_standard_code(int which, aj_code *code);

/* Bits of a scan's data. */
uint64_t aj_scan_bits(const aj_symbols *symbols, const aj_code codes[AJ_CODES]);

int aj_put(aj_file *file, const void *bytes, size_t count);

/* Room behind what is written, and where that is; NULL where there is no memory. Each symbol takes 8 bytes at most: 32
 * bits, and a zero behind each byte of ones. */
uint8_t *aj_room(aj_file *file, size_t symbols);

/* Bytes of a scan's data. */
AJ_INLINE uint8_t *aj_put_bytes(uint8_t *to, uint32_t word, int count)
{
    int i;

    for (i = count - 1; i >= 0; i--) {
        *to++ = (uint8_t)(word >> 8 * i);
        if (to[-1] == 0xFF)
            *to++ = 0;
    }
    return to;
}

/* A symbol and the bits that follow it, behind those that are held. Gives back where the next one goes. */
AJ_INLINE uint8_t *aj_put_symbol(uint8_t *to, uint64_t *bits, int *held, const aj_code *code, uint32_t symbol,
                                 uint32_t following, int count)
{
    uint32_t entry = code->by_symbol[symbol], word;
    int length = (int)(entry & 255) + count;

    *bits = *bits << length | (uint64_t)(entry >> 8) << count | following;
    *held += length;
    if (*held < 32)
        return to;
    *held -= 32;
    word = (uint32_t)(*bits >> *held);
    if ((~word - 0x01010101u) & word & 0x80808080u) /* it has a byte of ones */
        return aj_put_bytes(to, word, 4);
    to[0] = (uint8_t)(word >> 24);
    to[1] = (uint8_t)(word >> 16);
    to[2] = (uint8_t)(word >> 8);
    to[3] = (uint8_t)word;
    return to + 4;
}

int aj_put_symbols(aj_file *file, const aj_symbols *symbols, const aj_code codes[AJ_CODES]);
int aj_end_scan(aj_file *file);

#endif
