/*
 * The records that a saved machine is made of: framing, lengths, checksums. docs/formats/state-stream.md
 * describes every byte. What the records mean is state.c's business.
 *
 * Threads: one at a time. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_MIGRATION_STREAM_H
#define RHEA_MIGRATION_STREAM_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STREAM_VERSION    1u
#define STREAM_MAX_LENGTH (16u << 20) /* of one record's content */

/* Where bytes go to and come from. Both do all of it or fail. */
typedef struct StreamIo {
    bool (*write)(void *opaque, const void *data, size_t size, GError **error);
    bool (*read)(void *opaque, void *data, size_t size, GError **error);
    void *opaque;
} StreamIo;

typedef struct Stream {
    const StreamIo *io;
    uint64_t records; /* written or read so far; also what each record's checksum starts with */
    uint64_t bytes;
    GByteArray *content; /* of the record read last */
} Stream;

void stream_init(Stream *s, const StreamIo *io);
void stream_clear(Stream *s);

bool stream_write_header(Stream *s, GError **error);
/* A record whose content is head and then body (either may be empty). */
bool stream_write(Stream *s, uint32_t type, const void *head, size_t head_size, const void *body,
                  size_t body_size, GError **error);

/* Refuses what is no stream, or one of a newer version. */
bool stream_read_header(Stream *s, GError **error);
/* The next record; its content, whose checksum was right, is in s->content until the next call. */
bool stream_read(Stream *s, uint32_t *type, GError **error);

/* ---- putting a record's content together and apart (little-endian) ---- */
void put_u8(GByteArray *to, uint8_t value);
void put_u16(GByteArray *to, uint16_t value);
void put_u32(GByteArray *to, uint32_t value);
void put_u64(GByteArray *to, uint64_t value);
/* One byte of length, then the text; longer ones are cut off at 255 bytes. */
void put_name(GByteArray *to, const char *name);

typedef struct Cursor {
    const uint8_t *at, *end;
} Cursor;
bool get_u8(Cursor *from, uint8_t *value);
bool get_u16(Cursor *from, uint16_t *value);
bool get_u32(Cursor *from, uint32_t *value);
bool get_u64(Cursor *from, uint64_t *value);
/* Printable ASCII only, since names end up in messages. */
bool get_name(Cursor *from, char name[256]);
static inline size_t cursor_left(const Cursor *c)
{
    return (size_t)(c->end - c->at);
}

#endif
