/* The header of a JPEG that says nothing beside its picture. */
#include <string.h>

#include "core.h"
#include "standard.h"

static int two(const uint8_t *bytes)
{
    return bytes[0] << 8 | bytes[1];
}

/* Its tables; of the lowest slot the steps are kept. */
static int read_tables(const uint8_t *content, size_t size, int *lowest, aj_header *found)
{
    while (size > 0) {
        int slot = content[0] & 15, wide = content[0] >> 4, k;
        size_t length = 1 + (size_t)AJ_BLOCK * (wide ? 2 : 1);
        if (slot > 3 || wide > 1 || size < length)
            return 0;
        for (k = 0; k < AJ_BLOCK && slot <= *lowest; k++)
            found->steps[aj_natural[k]] = (uint16_t)(wide ? two(content + 1 + 2 * k) : content[1 + k]);
        *lowest = slot < *lowest ? slot : *lowest;
        content += length;
        size -= length;
    }
    return 1;
}

static int read_frame(const uint8_t *content, size_t size, aj_header *found)
{
    if (found->components || size < 6 || content[0] != 8)
        return 0;
    found->height = two(content + 1);
    found->width = two(content + 3);
    found->components = content[5];
    return found->width && found->height && (content[5] == 1 || content[5] == 3) && size == 6 + 3 * (size_t)content[5];
}

/* Whether it has what JFIF begins with. */
static int is_jfif(const uint8_t *content, size_t size)
{
    return size >= 14 && !memcmp(content, "JFIF", 5);
}

size_t aj_read_header(const uint8_t *data, size_t size, aj_header *found)
{
    size_t at = 2;
    int lowest = 4;

    memset(found, 0, sizeof *found);
    if (size < 4 || data[0] != 0xFF || data[1] != SOI)
        return 0;
    while (size - at >= 4 && data[at] == 0xFF) {
        int marker = data[at + 1], fine;
        size_t length = (size_t)two(data + at + 2);
        const uint8_t *content = data + at + 4;
        if (length < 2 || length > size - at - 2)
            return 0;
        if (marker == SOS)
            return found->components && lowest < 4 ? at : 0;
        if (marker == DQT)
            fine = read_tables(content, length - 2, &lowest, found);
        else if (marker >= SOF0 && marker <= SOF2)
            fine = read_frame(content, length - 2, found);
        else if (marker == APP0)
            fine = is_jfif(content, length - 2);
        else
            fine = marker == DHT || marker == DRI;
        if (!fine)
            return 0;
        at += 2 + length;
    }
    return 0;
}
