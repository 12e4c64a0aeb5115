/* Scattered memory. SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/graph/vec.h"

#include <glib.h>
#include <string.h>

uint64_t block_vec_bytes(const BlockVec *vec)
{
    uint64_t bytes = 0;

    for (int i = 0; i < vec->count; i++) {
        bytes += vec->iov[i].iov_len;
    }
    return bytes;
}

/* Walks the pieces of [from, from + bytes). */
#define FOREACH_PIECE(vec, from, bytes, base, len)                                                          \
    for (int i_ = 0; (bytes) && i_ < (vec)->count; (from) -= MIN((from), (vec)->iov[i_].iov_len), i_++)     \
        if ((from) < (vec)->iov[i_].iov_len)                                                                \
            for (uint64_t len = MIN((bytes), (vec)->iov[i_].iov_len - (from)), once_ = 1; once_; once_ = 0) \
                for (uint8_t *base = (uint8_t *)(vec)->iov[i_].iov_base + (from); base; base = NULL)

void block_vec_read(const BlockVec *vec, uint64_t from, void *flat, uint64_t bytes)
{
    uint8_t *to = flat;

    FOREACH_PIECE(vec, from, bytes, base, len)
    {
        memcpy(to, base, len);
        to += len;
        bytes -= len;
    }
}

void block_vec_write(const BlockVec *vec, uint64_t from, const void *flat, uint64_t bytes)
{
    const uint8_t *source = flat;

    FOREACH_PIECE(vec, from, bytes, base, len)
    {
        memcpy(base, source, len);
        source += len;
        bytes -= len;
    }
}

void block_vec_zero(const BlockVec *vec, uint64_t from, uint64_t bytes)
{
    FOREACH_PIECE(vec, from, bytes, base, len)
    {
        memset(base, 0, len);
        bytes -= len;
    }
}

bool block_buffer_is_zero(const void *buf, uint64_t bytes)
{
    const uint8_t *p = buf;
    uint64_t head = MIN(bytes, 16);

    for (uint64_t i = 0; i < head; i++) {
        if (p[i]) {
            return false;
        }
    }
    /* Each byte equals the one 16 before it, and the first 16 are zero. */
    return bytes <= 16 || memcmp(p, p + 16, bytes - 16) == 0;
}

bool block_vec_is_zero(const BlockVec *vec, uint64_t from, uint64_t bytes)
{
    bool zero = true;

    FOREACH_PIECE(vec, from, bytes, base, len)
    {
        zero = zero && block_buffer_is_zero(base, len);
        bytes = zero ? bytes - len : 0;
    }
    return zero;
}

int block_vec_count(const BlockVec *vec, uint64_t from, uint64_t bytes)
{
    int n = 0;

    FOREACH_PIECE(vec, from, bytes, base, len)
    {
        n++;
        bytes -= len;
    }
    return n;
}

int block_vec_slice(const BlockVec *vec, uint64_t from, uint64_t bytes, struct iovec *out)
{
    int n = 0;

    FOREACH_PIECE(vec, from, bytes, base, len)
    {
        out[n++] = (struct iovec){ base, len };
        bytes -= len;
    }
    return n;
}
