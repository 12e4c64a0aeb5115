/*
 * Image files. Sources: the PPM format description of Netpbm; Portable Network Graphics specification (second
 * edition), chapters 5, 9 and 11. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "display/display.h"

#include <string.h>
#include <zlib.h>

static void put_pixel(uint8_t *to, uint32_t pixel)
{
    to[0] = pixel >> 16;
    to[1] = pixel >> 8;
    to[2] = pixel;
}

static GByteArray *encode_ppm(const DisplaySurface *s)
{
    GByteArray *out = g_byte_array_new();
    g_autofree char *head = g_strdup_printf("P6\n%u %u\n255\n", s->width, s->height);
    gsize count = (gsize)s->width * s->height;

    g_byte_array_append(out, (const guint8 *)head, strlen(head));
    guint at = out->len;
    g_byte_array_set_size(out, at + count * 3);
    for (gsize i = 0; i < count; i++) {
        put_pixel(out->data + at + 3 * i, s->pixels[i]);
    }
    return out;
}

static void put_be32(uint8_t *to, uint32_t value)
{
    to[0] = value >> 24;
    to[1] = value >> 16;
    to[2] = value >> 8;
    to[3] = value;
}

/* A chunk: length, type, data, and the CRC of the last two. */
static void put_chunk(GByteArray *out, const char *type, const uint8_t *data, uint32_t size)
{
    uint8_t word[4];

    put_be32(word, size);
    g_byte_array_append(out, word, 4);
    g_byte_array_append(out, (const guint8 *)type, 4);
    if (size) {
        g_byte_array_append(out, data, size);
    }
    uLong crc = crc32(0, (const Bytef *)type, 4);
    put_be32(word, (uint32_t)(size ? crc32(crc, data, size) : crc));
    g_byte_array_append(out, word, 4);
}

static GByteArray *encode_png(const DisplaySurface *s)
{
    static const uint8_t signature[8] = { 0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n' };
    gsize stride = 1 + (gsize)s->width * 3, raw_size = stride * s->height;
    g_autofree uint8_t *raw = g_malloc(raw_size);
    uint8_t header[13] = { [8] = 8, [9] = 2 }; /* 8 bits of each of red, green and blue */
    uLongf packed_size = compressBound(raw_size);
    g_autofree uint8_t *packed = g_malloc(packed_size);
    GByteArray *out = g_byte_array_new();

    for (uint32_t y = 0; y < s->height; y++) {
        raw[y * stride] = 0; /* no filter */
        for (uint32_t x = 0; x < s->width; x++) {
            put_pixel(raw + y * stride + 1 + 3 * x, s->pixels[(gsize)y * s->width + x]);
        }
    }
    int result = compress2(packed, &packed_size, raw, raw_size, 1);
    g_assert(result == Z_OK); /* the buffer is as large as it ever needs */
    put_be32(header, s->width);
    put_be32(header + 4, s->height);
    g_byte_array_append(out, signature, sizeof(signature));
    put_chunk(out, "IHDR", header, sizeof(header));
    put_chunk(out, "IDAT", packed, (uint32_t)packed_size);
    put_chunk(out, "IEND", NULL, 0);
    return out;
}

GByteArray *display_surface_encode(const DisplaySurface *surface, DisplayImageFormat format)
{
    return format == DISPLAY_IMAGE_PNG ? encode_png(surface) : encode_ppm(surface);
}
