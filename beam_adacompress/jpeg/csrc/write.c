/* A JPEG of coefficients, with other tables, sampling and coding. */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "standard.h"
#include "write.h"

/* A scan, and what it is to be written with. */
typedef struct {
    aj_group group;
    int from, to, before, now; /* coefficients, and how many of their lowest bits are left out */
    int goes_on;               /* with the codes of the scan before */
    aj_symbols symbols;
    aj_code codes[AJ_CODES];
} scan;

typedef struct {
    const aj_image *image;
    const aj_encoding *encoding;
    aj_quantised components[3];
    aj_file file;
} writer;

/* Makes it one without symbols of some components, whose memory it keeps. */
static void clear(scan *s, aj_group group)
{
    *s = (scan){.group = group, .symbols = s->symbols};
    aj_clear(&s->symbols);
}

static int put_marker(aj_file *file, int marker)
{
    uint8_t bytes[2] = {0xFF, (uint8_t)marker};

    return aj_put(file, bytes, sizeof bytes);
}

static int put_segment(aj_file *file, int marker, const uint8_t *content, size_t size)
{
    uint8_t length[2] = {(uint8_t)((size + 2) >> 8), (uint8_t)(size + 2)};

    return put_marker(file, marker) && aj_put(file, length, sizeof length) && aj_put(file, content, size);
}

static int put_jfif(writer *w)
{
    const aj_encoding *e = w->encoding;
    int said = e->dots_across > 0 && e->dots_down > 0, across = said ? e->dots_across : 1, down = said ? e->dots_down : 1;
    uint8_t content[] = {'J', 'F', 'I', 'F', 0, 1, 1, (uint8_t)said, (uint8_t)(across >> 8), (uint8_t)across,
                         (uint8_t)(down >> 8), (uint8_t)down, 0, 0};

    return put_segment(&w->file, APP0, content, sizeof content);
}

/* Steps in zigzag order, for each slot. */
static int put_tables(writer *w)
{
    uint8_t content[2 * (1 + AJ_BLOCK)], *to = content;
    int slot, k, slots = w->image->components == 1 ? 1 : 2;

    for (slot = 0; slot < slots; slot++) {
        const uint16_t *steps = slot == 0 ? w->encoding->luma : w->encoding->chroma;
        *to++ = (uint8_t)slot;
        for (k = 0; k < AJ_BLOCK; k++)
            *to++ = (uint8_t)steps[aj_natural[k]];
    }
    return put_segment(&w->file, DQT, content, (size_t)(to - content));
}

static int put_frame(writer *w)
{
    const aj_image *image = w->image;
    uint8_t content[6 + 9] = {8, (uint8_t)(image->height >> 8), (uint8_t)image->height, (uint8_t)(image->width >> 8),
                              (uint8_t)image->width, (uint8_t)image->components};
    int i;

    for (i = 0; i < image->components; i++) {
        content[6 + 3 * i] = (uint8_t)(i + 1);
        content[7 + 3 * i] = (uint8_t)(w->components[i].wide << 4 | w->components[i].high);
        content[8 + 3 * i] = i > 0;
    }
    return put_segment(&w->file, w->encoding->progressive ? SOF2 : SOF0, content, 6 + 3 * (size_t)image->components);
}

/* The codes of a scan, if there are any, and its header. */
static int put_scan_header(aj_file *file, const scan *s)
{
    uint8_t content[4 * (17 + 256)], *to = content;
    int code, i;

    for (code = 0; code < AJ_RAW; code++) {
        const aj_code *c = &s->codes[code];
        if (c->count == 0 || s->goes_on)
            continue;
        *to++ = (uint8_t)((code & 1) << 4 | code >> 1); /* AC or DC, and the slot */
        memcpy(to, c->lengths, sizeof c->lengths);
        memcpy(to + sizeof c->lengths, c->symbols, (size_t)c->count);
        to += sizeof c->lengths + (size_t)c->count;
    }
    if (to > content && !put_segment(file, DHT, content, (size_t)(to - content)))
        return 0;
    to = content;
    *to++ = (uint8_t)s->group.count;
    for (i = s->group.first; i < s->group.first + s->group.count; i++) {
        *to++ = (uint8_t)(i + 1);
        *to++ = i == 0 ? 0 : (uint8_t)((s->from == 0) << 4 | (s->to > 0));
    }
    *to++ = (uint8_t)s->from;
    *to++ = (uint8_t)s->to;
    *to++ = (uint8_t)(s->before << 4 | s->now);
    return put_segment(file, SOS, content, (size_t)(to - content));
}

static int put_scan(aj_file *file, const scan *s)
{
    return put_scan_header(file, s) && aj_put_symbols(file, &s->symbols, s->codes) && aj_end_scan(file);
}

static void make_codes(scan *s)
{
    int code, i;

    for (code = 0; code < AJ_RAW; code++)
        for (i = 0; i < 256; i++)
            if (s->symbols.seen[code][i] > 0) {
                aj_make_code(s->symbols.seen[code], &s->codes[code]);
                break;
            }
}

static aj_group all_of(const writer *w)
{
    return (aj_group){0, w->image->components};
}

static int rows_of(const writer *w, aj_group group)
{
    const aj_quantised *first = &w->components[group.first];
    int high = aj_high(first, group);

    return (first->rows + high - 1) / high;
}

/* All coefficients in one scan and the standard's codes. */
static int put_plain(writer *w, scan *s)
{
    int before[3] = {0, 0, 0}, rows = rows_of(w, all_of(w)), row, code;

    clear(s, all_of(w));
    s->to = AJ_BLOCK - 1;
    for (code = 0; code < (s->group.count == 1 ? AJ_C_DC : AJ_RAW); code++)
        aj_standard_code(code, &s->codes[code]);
    if (!put_scan_header(&w->file, s))
        return 0;
    for (row = 0; row < rows; row++)
        if (!aj_put_row(w->components, s->group, row, before, s->codes, &w->file))
            return 0;
    return aj_end_scan(&w->file);
}

/* Coefficients 0..to, DC alone or all of them, in one scan and codes that are made for it. */
static int put_at_once(writer *w, aj_group group, int to, scan *s)
{
    int before[3] = {0, 0, 0}, rows = rows_of(w, group), row;

    clear(s, group);
    s->to = to;
    for (row = 0; row < rows; row++)
        if (!aj_scan_row(w->components, group, row, to == 0, before, &s->symbols))
            return 0;
    make_codes(s);
    return put_scan(&w->file, s);
}

/* Luminance by itself: each coefficient is told by the one to its left, and none is made up beyond the edge. */
static int put_dc(writer *w, scan *s)
{
    static const aj_group luma = {0, 1}, chroma = {1, 2};

    return put_at_once(w, luma, 0, s) && (w->image->components == 1 || put_at_once(w, chroma, 0, s));
}

#define MOST_SCANS 3
#ifndef MANY /* the fuzzer's files are small */
#define MANY 3000
#endif

/* Ways to divide the AC coefficients of a component into scans, for few bytes, not for early pictures: libjpeg's own
 * refines twice, and is never the smallest. */
typedef struct {
    size_t least, most; /* coefficients that are not zero, among which it can be the smallest */
    int count;
    struct {
        int from, to, before, now;
    } scans[MOST_SCANS];
} way;

static const way ways[] = {
    {0, 9 * MANY, 1, {{1, 63, 0, 0}}},
    {MANY / 2, 9 * MANY, 2, {{1, 2, 0, 0}, {3, 63, 0, 0}}},
    {3 * MANY, 9 * MANY, 2, {{1, 8, 0, 0}, {9, 63, 0, 0}}},
    {4 * MANY, 9 * MANY, 2, {{1, 63, 0, 1}, {1, 63, 1, 0}}},
    {9 * MANY, SIZE_MAX, 3, {{1, 8, 0, 1}, {9, 63, 0, 1}, {1, 63, 1, 0}}},
};

#define MARKERS 10 /* bytes of a scan of one component */
#define CODE 21    /* of one that is said, beside its symbols */

/* The AC coefficients of a component, divided. */
typedef struct {
    scan *scans;
    int count;
    uint64_t bytes;
} division;

static uint64_t bytes_of(const aj_symbols *symbols, const aj_code codes[AJ_CODES])
{
    return MARKERS + (aj_scan_bits(symbols, codes) + 7) / 8;
}

/* Makes the scans of a component, and tells what they come to. */
static int divide(const aj_quantised *q, int component, const way *how, division *found)
{
    int i, code = component == 0 ? AJ_Y_AC : AJ_C_AC;

    found->count = how->count;
    found->bytes = 0;
    for (i = 0; i < how->count; i++) {
        scan *s = &found->scans[i];
        clear(s, (aj_group){component, 1});
        s->from = how->scans[i].from;
        s->to = how->scans[i].to;
        s->before = how->scans[i].before;
        s->now = how->scans[i].now;
        if (!(s->before > 0 ? aj_scan_again(q, code, s->from, s->to, &s->symbols)
                            : aj_scan_first(q, code, s->from, s->to, s->now, &s->symbols)))
            return 0;
        make_codes(s);
        found->bytes += bytes_of(&s->symbols, s->codes) + CODE + (uint64_t)s->codes[code].count;
    }
    return 1;
}

/* The AC coefficients of a component in the scans that are smallest. Those that it does not take change places. */
static int divide_best(const aj_quantised *q, int component, division *best, division *spare)
{
    size_t each;

    best->bytes = UINT64_MAX;
    for (each = 0; each < sizeof ways / sizeof *ways; each++) {
        if (q->count < ways[each].least || q->count > ways[each].most)
            continue;
        if (!divide(q, component, &ways[each], spare))
            return 0;
        if (spare->bytes < best->bytes) {
            division worse = *best;
            *best = *spare;
            *spare = worse;
        }
    }
    return 1;
}

/* Two scans of chrominance take one code where that saves more than it costs. */
static void share(scan *blue, scan *red)
{
    uint32_t seen[256];
    const aj_code *mine = &blue->codes[AJ_C_AC], *its = &red->codes[AJ_C_AC];
    aj_code codes[AJ_CODES] = {0}, *both = &codes[AJ_C_AC];
    uint64_t apart = bytes_of(&blue->symbols, blue->codes) + bytes_of(&red->symbols, red->codes);
    int i;

    for (i = 0; i < 256; i++)
        seen[i] = blue->symbols.seen[AJ_C_AC][i] + red->symbols.seen[AJ_C_AC][i];
    aj_make_code(seen, both);
    if (bytes_of(&blue->symbols, codes) + bytes_of(&red->symbols, codes) + (uint64_t)both->count >=
        apart + CODE + (uint64_t)(mine->count + its->count))
        return;
    blue->codes[AJ_C_AC] = red->codes[AJ_C_AC] = *both;
    red->goes_on = 1;
}

static int put_division(writer *w, const division *found)
{
    int i, done = 1;

    for (i = 0; done && i < found->count; i++)
        done = put_scan(&w->file, &found->scans[i]);
    return done;
}

/* Two divisions scan by scan, so that those that share a code follow each other. */
static int put_both(writer *w, division *blue, division *red)
{
    int i, done = 1;

    for (i = 0; done && (i < blue->count || i < red->count); i++) {
        if (i < blue->count && i < red->count)
            share(&blue->scans[i], &red->scans[i]);
        done = (i >= blue->count || put_scan(&w->file, &blue->scans[i])) &&
               (i >= red->count || put_scan(&w->file, &red->scans[i]));
    }
    return done;
}

#define DIVISIONS 3 /* at a time: of two components, and one more */

static int put_ac(writer *w, division found[DIVISIONS])
{
    division *first = &found[0], *second = &found[1], *spare = &found[2];
    const aj_quantised *q = w->components;

    if (!divide_best(&q[0], 0, first, spare) || !put_division(w, first))
        return 0;
    return w->image->components == 1 ||
           (divide_best(&q[1], 1, first, spare) && divide_best(&q[2], 2, second, spare) && put_both(w, first, second));
}

static int put_scans(writer *w)
{
    scan *scans = calloc(DIVISIONS * MOST_SCANS, sizeof *scans);
    division found[DIVISIONS];
    int i, done = scans != NULL;

    for (i = 0; i < DIVISIONS; i++)
        found[i] = (division){.scans = scans + i * MOST_SCANS};
    if (done && w->encoding->progressive)
        done = put_dc(w, scans) && put_ac(w, found);
    else if (done)
        done = w->encoding->optimize ? put_at_once(w, all_of(w), AJ_BLOCK - 1, scans) : put_plain(w, scans);
    for (i = 0; scans != NULL && i < DIVISIONS * MOST_SCANS; i++)
        aj_release(&scans[i].symbols);
    free(scans);
    return done;
}

static int write_file(writer *w)
{
    const aj_encoding *e = w->encoding;
    int i;

    for (i = 0; i < w->image->components; i++)
        if (!aj_quantise(w->image, e, i, &w->components[i]))
            return 0;
    return put_marker(&w->file, SOI) && put_jfif(w) && aj_put(&w->file, e->segments, e->segments_size) &&
           (e->comment_size == 0 || put_segment(&w->file, COM, e->comment, e->comment_size)) && put_tables(w) &&
           put_frame(w) && put_scans(w) && put_marker(&w->file, EOI);
}

/* Whether they are marker segments as a whole: 0xFF, marker, length (two bytes, which it counts), content. */
static int are_segments(const uint8_t *segments, size_t size)
{
    while (size >= 4) {
        size_t length = ((size_t)segments[2] << 8) | segments[3];
        if (segments[0] != 0xFF || length < 2 || length + 2 > size)
            return 0;
        segments += length + 2;
        size -= length + 2;
    }
    return size == 0;
}

/* Why it cannot be done; NULL where it can. */
static const char *obstacle(const aj_image *image, const aj_encoding *encoding)
{
    if (!aj_can_resample(image, encoding->across, encoding->down))
        return "the chrominance would have to be interpolated";
    if (image->components == 3 && encoding->across * encoding->down + 2 > AJ_MOST_BLOCKS)
        return "the chrominance would have too few samples";
    if (!are_segments(encoding->segments, encoding->segments_size))
        return "segments that are none";
    return NULL;
}

aj_status aj_write(const aj_image *image, const aj_encoding *encoding, uint8_t **file, size_t *size,
                   char message[AJ_MESSAGE])
{
    writer w = {.image = image, .encoding = encoding};
    const char *why = obstacle(image, encoding);
    int i, done = why == NULL && write_file(&w);

    for (i = 0; i < 3; i++)
        aj_forget(&w.components[i]);
    if (!done) {
        free(w.file.bytes);
        w.file = (aj_file){0};
    }
    *file = w.file.bytes;
    *size = w.file.size;
    snprintf(message, AJ_MESSAGE, "%s", why == NULL ? "" : why);
    return done ? AJ_OK : why == NULL ? AJ_NO_MEMORY : AJ_UNSUPPORTED;
}
