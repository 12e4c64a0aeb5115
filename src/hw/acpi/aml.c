/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hw/acpi/aml.h"

#include <string.h>

static void put(GByteArray *a, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = value >> (8 * i);
        g_byte_array_append(a, &byte, 1);
    }
}

void aml_byte(GByteArray *a, uint8_t byte)
{
    put(a, byte, 1);
}

/* One name segment, padded to four characters (20.2.2). */
static void put_segment(GByteArray *a, const char *segment, size_t length)
{
    g_assert(length >= 1 && length <= 4);
    char padded[4] = { '_', '_', '_', '_' };
    memcpy(padded, segment, length);
    g_byte_array_append(a, (const uint8_t *)padded, 4);
}

void aml_name_path(GByteArray *a, const char *path)
{
    if (*path == '\\') {
        aml_byte(a, '\\');
        path++;
    }
    g_auto(GStrv) segments = g_strsplit(path, ".", -1);
    guint count = g_strv_length(segments);
    if (count == 0) {
        aml_byte(a, AML_NULL_NAME);
    } else if (count == 2) {
        aml_byte(a, 0x2e);
    } else if (count > 2) {
        aml_byte(a, 0x2f);
        aml_byte(a, count);
    }
    for (guint i = 0; i < count; i++) {
        put_segment(a, segments[i], strlen(segments[i]));
    }
}

void aml_integer(GByteArray *a, uint64_t value)
{
    if (value <= 1) {
        aml_byte(a, value);
    } else if (value <= UINT8_MAX) {
        aml_byte(a, 0x0a);
        put(a, value, 1);
    } else if (value <= UINT16_MAX) {
        aml_byte(a, 0x0b);
        put(a, value, 2);
    } else if (value <= UINT32_MAX) {
        aml_byte(a, 0x0c);
        put(a, value, 4);
    } else {
        aml_byte(a, 0x0e);
        put(a, value, 8);
    }
}

void aml_string(GByteArray *a, const char *text)
{
    aml_byte(a, 0x0d);
    g_byte_array_append(a, (const uint8_t *)text, strlen(text) + 1);
}

/* Three letters in five bits each and four hexadecimal digits, big-endian (19.6.36). */
void aml_eisa_id(GByteArray *a, const char *id)
{
    g_assert(strlen(id) == 7);
    uint32_t value = (id[0] - 0x40) << 26 | (id[1] - 0x40) << 21 | (id[2] - 0x40) << 16;
    for (int i = 0; i < 4; i++) {
        value |= (uint32_t)g_ascii_xdigit_value(id[3 + i]) << (12 - 4 * i);
    }
    aml_byte(a, 0x0c);
    put(a, GUINT32_SWAP_LE_BE(value), 4);
}

/* Every package is opened with room for a length of four bytes; aml_end() closes the gap. */
#define LENGTH_ROOM 4

static AmlMark open_package(GByteArray *a)
{
    AmlMark mark = a->len;
    put(a, 0, LENGTH_ROOM);
    return mark;
}

void aml_end(GByteArray *a, AmlMark mark)
{
    unsigned content = a->len - mark - LENGTH_ROOM;
    unsigned room = content + 1 < 0x40 ? 1 : content + 2 < 0x1000 ? 2 : content + 3 < 0x100000 ? 3 : 4;
    unsigned length = content + room;
    uint8_t *p = a->data + mark;
    if (room == 1) {
        p[0] = length;
    } else {
        p[0] = (room - 1) << 6 | (length & 0xf);
        for (unsigned i = 1; i < room; i++) {
            p[i] = length >> (4 + 8 * (i - 1));
        }
    }
    if (room < LENGTH_ROOM) {
        g_byte_array_remove_range(a, mark + room, LENGTH_ROOM - room);
    }
}

AmlMark aml_scope(GByteArray *a, const char *path)
{
    aml_byte(a, 0x10);
    AmlMark mark = open_package(a);
    aml_name_path(a, path);
    return mark;
}

AmlMark aml_device(GByteArray *a, const char *name)
{
    aml_byte(a, 0x5b);
    aml_byte(a, 0x82);
    AmlMark mark = open_package(a);
    aml_name_path(a, name);
    return mark;
}

AmlMark aml_method(GByteArray *a, const char *name, unsigned arguments, bool serialized)
{
    aml_byte(a, 0x14);
    AmlMark mark = open_package(a);
    aml_name_path(a, name);
    aml_byte(a, arguments | (serialized ? 8 : 0));
    return mark;
}

AmlMark aml_package(GByteArray *a, unsigned elements)
{
    aml_byte(a, 0x12);
    AmlMark mark = open_package(a);
    aml_byte(a, elements);
    return mark;
}

AmlMark aml_if(GByteArray *a)
{
    aml_byte(a, 0xa0);
    return open_package(a);
}

AmlMark aml_else(GByteArray *a)
{
    aml_byte(a, 0xa1);
    return open_package(a);
}

void aml_buffer(GByteArray *a, const void *bytes, unsigned length)
{
    aml_byte(a, 0x11);
    AmlMark mark = open_package(a);
    aml_integer(a, length);
    g_byte_array_append(a, bytes, length);
    aml_end(a, mark);
}

void aml_create_dword_field(GByteArray *a, uint8_t source, unsigned offset, const char *name)
{
    aml_byte(a, AML_CREATE_DWORD_FIELD);
    aml_byte(a, source);
    aml_integer(a, offset);
    aml_name_path(a, name);
}

void aml_name(GByteArray *a, const char *name)
{
    aml_byte(a, 0x08);
    aml_name_path(a, name);
}

void aml_name_integer(GByteArray *a, const char *name, uint64_t value)
{
    aml_name(a, name);
    aml_integer(a, value);
}

void aml_name_eisa_id(GByteArray *a, const char *name, const char *id)
{
    aml_name(a, name);
    aml_eisa_id(a, id);
}

void aml_name_string(GByteArray *a, const char *name, const char *text)
{
    aml_name(a, name);
    aml_string(a, text);
}

void aml_name_buffer(GByteArray *a, const char *name, const GByteArray *bytes)
{
    aml_name(a, name);
    aml_buffer(a, bytes->data, bytes->len);
}

void aml_operation_region(GByteArray *a, const char *name, uint8_t space, uint64_t offset, uint64_t length)
{
    aml_byte(a, 0x5b);
    aml_byte(a, 0x80);
    aml_name_path(a, name);
    aml_byte(a, space);
    aml_integer(a, offset);
    aml_integer(a, length);
}

AmlMark aml_field(GByteArray *a, const char *region, uint8_t access)
{
    aml_byte(a, 0x5b);
    aml_byte(a, 0x81);
    AmlMark mark = open_package(a);
    aml_name_path(a, region);
    aml_byte(a, access);
    return mark;
}

void aml_field_unit(GByteArray *a, const char *name, unsigned bits)
{
    g_assert(bits < 0x40);
    put_segment(a, name, strlen(name));
    aml_byte(a, bits);
}

void aml_field_skip(GByteArray *a, unsigned bits)
{
    g_assert(bits < 0x40);
    aml_byte(a, 0);
    aml_byte(a, bits);
}

void resource_io(GByteArray *r, uint16_t base, uint8_t length)
{
    put(r, 0x47, 1);
    put(r, 1, 1); /* decodes 16 bits */
    put(r, base, 2);
    put(r, base, 2);
    put(r, 1, 1);
    put(r, length, 1);
}

void resource_irq_edge(GByteArray *r, unsigned irq)
{
    put(r, 0x22, 1);
    put(r, UINT64_C(1) << irq, 2);
}

void resource_interrupts(GByteArray *r, bool level, bool shared, const uint32_t *numbers, unsigned count)
{
    put(r, 0x89, 1);
    put(r, 2 + 4 * count, 2);
    put(r, 1 | (level ? 0 : 2) | (shared ? 8 : 0), 1); /* consumer, active high */
    put(r, count, 1);
    for (unsigned i = 0; i < count; i++) {
        put(r, numbers[i], 4);
    }
}

void resource_memory32(GByteArray *r, uint32_t base, uint32_t size)
{
    put(r, 0x86, 1);
    put(r, 9, 2);
    put(r, 1, 1); /* read and write */
    put(r, base, 4);
    put(r, size, 4);
}

/* The address space descriptors of 6.4.3.5: type 0 memory, 1 I/O, 2 bus numbers; both ends fixed, produced.
 */
static void resource_space(GByteArray *r, uint8_t tag, unsigned width, uint8_t type, uint8_t type_flags,
                           uint64_t first, uint64_t last)
{
    put(r, tag, 1);
    put(r, 3 + 5 * width, 2);
    put(r, type, 1);
    put(r, 0x0c, 1); /* minimum and maximum are fixed; positive decode; producer */
    put(r, type_flags, 1);
    put(r, 0, width);
    put(r, first, width);
    put(r, last, width);
    put(r, 0, width);
    put(r, last - first + 1, width);
}

void resource_word_bus(GByteArray *r, uint16_t first, uint16_t last)
{
    resource_space(r, 0x88, 2, 2, 0, first, last);
}

void resource_word_io(GByteArray *r, uint16_t first, uint16_t last)
{
    resource_space(r, 0x88, 2, 1, 3, first, last); /* entire range */
}

void resource_dword_memory(GByteArray *r, uint32_t first, uint32_t last)
{
    resource_space(r, 0x87, 4, 0, 1, first, last); /* read and write, not cacheable */
}

void resource_qword_memory(GByteArray *r, uint64_t first, uint64_t last)
{
    resource_space(r, 0x8a, 8, 0, 1, first, last);
}

void resource_end(GByteArray *r)
{
    put(r, 0x79, 1);
    put(r, 0, 1); /* no checksum */
}
