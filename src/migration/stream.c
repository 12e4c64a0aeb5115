/*
 * Framing of a saved machine (docs/formats/state-stream.md).
 *
 * Invariants:
 *  1. No length from the stream is believed before it was compared with STREAM_MAX_LENGTH.
 *  2. Content is handed out only after its checksum was right. The checksum begins with the record's number,
 *     so a record that is missing, doubled or moved is noticed, too.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/stream.h"

#include "base/crc32c.h"
#include "base/error.h"

#include <string.h>

static const uint8_t magic[8] = { 'R', 'H', 'E', 'A', 'V', 'M', 'S', '\n' };

G_STATIC_ASSERT(G_BYTE_ORDER == G_LITTLE_ENDIAN);

typedef struct Header {
    uint8_t magic[8];
    uint32_t version, flags, reserved, checksum;
} Header;

typedef struct Frame {
    uint32_t type, length;
} Frame;

void stream_init(Stream *s, const StreamIo *io)
{
    *s = (Stream){ .io = io, .content = g_byte_array_new() };
}

void stream_clear(Stream *s)
{
    g_byte_array_unref(s->content);
    s->content = NULL;
}

static bool emit(Stream *s, const void *data, size_t size, GError **error)
{
    s->bytes += size;
    return !size || s->io->write(s->io->opaque, data, size, error);
}

static bool fetch(Stream *s, void *data, size_t size, GError **error)
{
    s->bytes += size;
    return !size || s->io->read(s->io->opaque, data, size, error);
}

bool stream_write_header(Stream *s, GError **error)
{
    Header h = { .version = STREAM_VERSION };

    memcpy(h.magic, magic, sizeof(magic));
    h.checksum = crc32c(0, &h, offsetof(Header, checksum));
    return emit(s, &h, sizeof(h), error);
}

bool stream_read_header(Stream *s, GError **error)
{
    Header h;

    if (!fetch(s, &h, sizeof(h), error)) {
        return false;
    }
    if (memcmp(h.magic, magic, sizeof(magic)) != 0) {
        error_set(error, "this is not the state of a machine that Rhea saved");
        error_append_hint(error, "States of other programs cannot be read.");
        return false;
    }
    if (h.version != STREAM_VERSION || h.flags) {
        return error_set(error, "the state is in version %u with flags 0x%x of the format; known is %u",
                         h.version, h.flags, STREAM_VERSION);
    }
    if (h.reserved || h.checksum != crc32c(0, &h, offsetof(Header, checksum))) {
        return error_set(error, "the state's header is damaged");
    }
    return true;
}

static uint32_t checksum_begin(const Stream *s, const Frame *frame)
{
    return crc32c(crc32c(0, &s->records, sizeof(s->records)), frame, sizeof(*frame));
}

bool stream_write(Stream *s, uint32_t type, const void *head, size_t head_size, const void *body,
                  size_t body_size, GError **error)
{
    Frame frame = { .type = type, .length = (uint32_t)(head_size + body_size) };

    if (head_size + body_size > STREAM_MAX_LENGTH) {
        return error_set(error, "a part of the state has %zu bytes, at most %u are allowed",
                         head_size + body_size, STREAM_MAX_LENGTH);
    }
    uint32_t sum = checksum_begin(s, &frame);
    sum = crc32c(crc32c(sum, head, head_size), body, body_size);
    s->records++;
    return emit(s, &frame, sizeof(frame), error) && emit(s, head, head_size, error) &&
           emit(s, body, body_size, error) && emit(s, &sum, sizeof(sum), error);
}

bool stream_read(Stream *s, uint32_t *type, GError **error)
{
    Frame frame;
    uint32_t sum;

    if (!fetch(s, &frame, sizeof(frame), error)) {
        return false;
    }
    if (frame.length > STREAM_MAX_LENGTH) {
        return error_set(error, "the state is damaged: its part %" G_GUINT64_FORMAT " has a length of %u",
                         s->records, frame.length);
    }
    g_byte_array_set_size(s->content, frame.length);
    if (!fetch(s, s->content->data, frame.length, error) || !fetch(s, &sum, sizeof(sum), error)) {
        return false;
    }
    if (sum != crc32c(checksum_begin(s, &frame), s->content->data, frame.length)) {
        return error_set(error,
                         "the state is damaged: the checksum of its part %" G_GUINT64_FORMAT " is wrong",
                         s->records);
    }
    s->records++;
    *type = frame.type;
    return true;
}

/* ---- content ---- */

void put_u8(GByteArray *to, uint8_t value)
{
    g_byte_array_append(to, &value, 1);
}

void put_u16(GByteArray *to, uint16_t value)
{
    g_byte_array_append(to, (const uint8_t *)&value, sizeof(value));
}

void put_u32(GByteArray *to, uint32_t value)
{
    g_byte_array_append(to, (const uint8_t *)&value, sizeof(value));
}

void put_u64(GByteArray *to, uint64_t value)
{
    g_byte_array_append(to, (const uint8_t *)&value, sizeof(value));
}

void put_name(GByteArray *to, const char *name)
{
    size_t length = MIN(strlen(name), 255);

    put_u8(to, (uint8_t)length);
    g_byte_array_append(to, (const uint8_t *)name, (guint)length);
}

static bool take(Cursor *from, void *data, size_t size)
{
    if (cursor_left(from) < size) {
        return false;
    }
    memcpy(data, from->at, size);
    from->at += size;
    return true;
}

bool get_u8(Cursor *from, uint8_t *value)
{
    return take(from, value, sizeof(*value));
}

bool get_u16(Cursor *from, uint16_t *value)
{
    return take(from, value, sizeof(*value));
}

bool get_u32(Cursor *from, uint32_t *value)
{
    return take(from, value, sizeof(*value));
}

bool get_u64(Cursor *from, uint64_t *value)
{
    return take(from, value, sizeof(*value));
}

bool get_name(Cursor *from, char name[256])
{
    uint8_t length = 0;

    if (!get_u8(from, &length) || !take(from, name, length)) {
        return false;
    }
    name[length] = '\0';
    for (uint8_t i = 0; i < length; i++) {
        if (name[i] < 0x20 || name[i] > 0x7e) {
            return false;
        }
    }
    return true;
}
