/* Makes the tables of Huffman codes. */
#include <string.h>

#include "codes.h"

/* The entries that begin with a code. */
static void fill_in(uint32_t *entries, unsigned code, unsigned length, unsigned symbol)
{
    unsigned size = symbol & 15, free_bits = LOOK - length, i, bits;

    entries += (size_t)code << free_bits;
    if (size > free_bits)
        for (i = 0; i < 1u << free_bits; i++)
            *entries++ = SLOW | entry_of(length, advance_of(symbol), (int32_t)size);
    else
        for (bits = 0; bits < 1u << size; bits++) {
            uint32_t entry = entry_of(length + size, advance_of(symbol), size ? extended(bits, size) : 0);
            for (i = 0; i < 1u << (free_bits - size); i++)
                *entries++ = entry;
        }
}

int aj_make_lookup(codes *made, const JHUFF_TBL *table, int dc)
{
    unsigned length, code = 0, known = 0, i;

    if (table == NULL)
        return 0;
    for (i = 0; i < 1u << LOOK; i++)
        made->entries[i] = SLOW;
    memcpy(made->symbols, table->huffval, sizeof made->symbols);
    for (length = 1; length <= 16; length++) {
        for (i = 0; i < table->bits[length]; i++, code++, known++) {
            if (known == 256 || code >= (1u << length) - 1 || (dc && table->huffval[known] > 15))
                return 0;
            if (length <= LOOK)
                fill_in(made->entries, code, length, table->huffval[known]);
        }
        made->limits[length] = code << (16 - length);
        made->offsets[length] = (int32_t)known - (int32_t)code;
        code <<= 1;
    }
    made->is_made = 1;
    return 1;
}
