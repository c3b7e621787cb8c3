/* Huffman codes, made for a scan or those of the standard, and the bits of its data. */
#include <stdlib.h>
#include <string.h>

#include "standard.h"
#include "write.h"

/* What is joined to a tree: a symbol, or what was joined before. */
typedef struct {
    uint64_t seen;
    int16_t symbol; /* the first of the chain in it */
} node;

#define NOT_A_SYMBOL 256 /* takes the code of ones alone, which must not be used */
#define LONGEST 64       /* bits; it takes 2 ** 44 symbols for a longer one */

/* The two that were seen the least, of those the last; `first` and `second` are their places. */
static void rarest(const node *nodes, int count, int *first, int *second)
{
    int i;

    *first = *second = -1;
    for (i = 0; i < count; i++) {
        if (*first < 0 || nodes[i].seen <= nodes[*first].seen) {
            *second = *first;
            *first = i;
        } else if (*second < 0 || nodes[i].seen <= nodes[*second].seen) {
            *second = i;
        }
    }
}

/* How many codes of each length; of 16 bits at most (K.3). */
static void shorten(int lengths[LONGEST + 1])
{
    int i, j;

    for (i = LONGEST; i > 16; i--)
        while (lengths[i] > 0) {
            for (j = i - 2; lengths[j] == 0; j--)
                ;
            lengths[i] -= 2;
            lengths[i - 1]++;
            lengths[j + 1] += 2;
            lengths[j]--;
        }
    for (i = 16; lengths[i] == 0; i--)
        ;
    lengths[i]--; /* the code of ones */
}

/* By symbol: codes of the same length follow each other. */
static void number(aj_code *code)
{
    unsigned next = 0;
    int length, i, k = 0;

    memset(code->by_symbol, 0, sizeof code->by_symbol);
    for (length = 1; length <= 16; length++, next <<= 1)
        for (i = 0; i < code->lengths[length - 1]; i++, k++, next++)
            code->by_symbol[code->symbols[k]] = next << 8 | (unsigned)length;
    code->count = k;
}

void aj_make_code(const uint32_t seen[256], aj_code *code)
{
    node nodes[NOT_A_SYMBOL + 1];
    int16_t next[NOT_A_SYMBOL + 1]; /* in the same chain */
    uint8_t length[NOT_A_SYMBOL + 1] = {0};
    int lengths[LONGEST + 1] = {0}, count = 0, i, k, symbol;

    for (i = 0; i < 256; i++)
        if (seen[i] > 0)
            nodes[count++] = (node){seen[i], (int16_t)i};
    nodes[count++] = (node){1, NOT_A_SYMBOL};
    memset(next, -1, sizeof next);
    while (count > 1) {
        int first, second, last;
        rarest(nodes, count, &first, &second);
        for (last = nodes[first].symbol; ; last = next[last]) {
            length[last]++;
            if (next[last] < 0)
                break;
        }
        next[last] = nodes[second].symbol;
        for (last = nodes[second].symbol; last >= 0; last = next[last])
            length[last]++;
        nodes[first].seen += nodes[second].seen;
        nodes[second] = nodes[--count];
    }
    for (symbol = 0; symbol <= NOT_A_SYMBOL; symbol++)
        if (length[symbol] > 0)
            lengths[length[symbol]]++;
    for (i = 1, k = 0; i <= LONGEST; i++)
        for (symbol = 0; lengths[i] > 0 && symbol < NOT_A_SYMBOL; symbol++)
            if (length[symbol] == i)
                code->symbols[k++] = (uint8_t)symbol;
    shorten(lengths);
    for (i = 0; i < 16; i++)
        code->lengths[i] = (uint8_t)lengths[i + 1];
    number(code);
}

void aj_standard_code(int which, aj_code *code)
{
    static const uint8_t *const lengths[] = {aj_y_dc_lengths, aj_y_ac_lengths, aj_c_dc_lengths, aj_c_ac_lengths};
    static const uint8_t *const symbols[] = {aj_y_dc_symbols, aj_y_ac_symbols, aj_c_dc_symbols, aj_c_ac_symbols};
    static const size_t counts[] = {sizeof aj_y_dc_symbols, sizeof aj_y_ac_symbols, sizeof aj_c_dc_symbols,
                                    sizeof aj_c_ac_symbols};

    memcpy(code->lengths, lengths[which], sizeof code->lengths);
    memcpy(code->symbols, symbols[which], counts[which]);
    number(code);
}

/* Bits that follow a symbol: of DC ones, of ends of blocks, of AC ones. */
static unsigned following(int code, int symbol)
{
    unsigned size = (unsigned)symbol & 15, zeros = (unsigned)symbol >> 4;

    return code == AJ_Y_DC || code == AJ_C_DC ? (unsigned)symbol : size ? size : zeros == 15 ? 0 : zeros;
}

uint64_t aj_scan_bits(const aj_symbols *symbols, const aj_code codes[AJ_CODES])
{
    uint64_t bits = symbols->raw;
    int code, i;

    for (code = 0; code < AJ_RAW; code++)
        for (i = 0; i < codes[code].count; i++) {
            int symbol = codes[code].symbols[i];
            bits += (uint64_t)symbols->seen[code][symbol] *
                    ((codes[code].by_symbol[symbol] & 255) + following(code, symbol));
        }
    return bits;
}

void *aj_grown(void *memory, size_t *room, size_t needed, size_t size)
{
    size_t grown = *room > 0 ? *room : 1 << 13;

    while (grown < needed)
        grown *= 2;
    memory = realloc(memory, grown * size);
    if (memory != NULL)
        *room = grown;
    return memory;
}

static int make_room(aj_file *file, size_t more)
{
    uint8_t *bytes;

    if (file->room - file->size >= more)
        return 1;
    bytes = aj_grown(file->bytes, &file->room, file->size + more, 1);
    if (bytes == NULL)
        return 0;
    file->bytes = bytes;
    return 1;
}

int aj_put(aj_file *file, const void *bytes, size_t count)
{
    if (!make_room(file, count))
        return 0;
    if (count > 0)
        memcpy(file->bytes + file->size, bytes, count);
    file->size += count;
    return 1;
}

uint8_t *aj_room(aj_file *file, size_t symbols)
{
    return make_room(file, 8 * symbols) ? file->bytes + file->size : NULL;
}

#define AT_ONCE 1024 /* symbols */

int aj_put_symbols(aj_file *file, const aj_symbols *symbols, const aj_code codes[AJ_CODES])
{
    size_t at = 0;
    uint64_t bits = file->bits;
    int held = file->held;

    while (at < symbols->count) {
        size_t end = symbols->count - at > AT_ONCE ? at + AT_ONCE : symbols->count;
        uint8_t *to = aj_room(file, AT_ONCE);
        if (to == NULL)
            return 0;
        for (; at < end; at++) {
            uint32_t each = symbols->symbols[at];
            to = aj_put_symbol(to, &bits, &held, &codes[each >> 21 & 7], each >> 24, each & 0xFFFF, (int)(each >> 16 & 31));
        }
        file->size = (size_t)(to - file->bytes);
    }
    file->bits = bits;
    file->held = held;
    return 1;
}

int aj_end_scan(aj_file *file)
{
    int bytes = (file->held + 7) / 8, missing = 8 * bytes - file->held;
    uint8_t *to = aj_room(file, 1);

    if (to == NULL)
        return 0;
    to = aj_put_bytes(to, (uint32_t)(file->bits << missing | ((1u << missing) - 1)), bytes);
    file->size = (size_t)(to - file->bytes);
    file->bits = 0;
    file->held = 0;
    return 1;
}
