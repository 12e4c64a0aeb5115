/*
 * Scattered memory of a request: a borrowed array of iovecs, read from any byte offset on, so that a driver
 * hands parts of a request down without making new arrays. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_GRAPH_VEC_H
#define RHEA_BLOCK_GRAPH_VEC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

typedef struct BlockVec {
    const struct iovec *iov; /* borrowed */
    int count;
} BlockVec;

/* One flat buffer: struct iovec iov = { buf, bytes }; BlockVec vec = { &iov, 1 }; as a single expression. */
#define BLOCK_VEC_BUF(buf, bytes) ((BlockVec){ &(struct iovec){ (void *)(buf), (bytes) }, 1 })

uint64_t block_vec_bytes(const BlockVec *vec);
/* Bytes [from, from + bytes) of vec must exist in all of these. */
void block_vec_read(const BlockVec *vec, uint64_t from, void *flat, uint64_t bytes);        /* vec to flat */
void block_vec_write(const BlockVec *vec, uint64_t from, const void *flat, uint64_t bytes); /* flat to vec */
void block_vec_zero(const BlockVec *vec, uint64_t from, uint64_t bytes);
bool block_vec_is_zero(const BlockVec *vec, uint64_t from, uint64_t bytes);
/* How many iovecs the part needs; and puts it into out, which has room for that many. Returns the number. */
int block_vec_count(const BlockVec *vec, uint64_t from, uint64_t bytes);
int block_vec_slice(const BlockVec *vec, uint64_t from, uint64_t bytes, struct iovec *out);
/* Whether a flat buffer is all zeroes. */
bool block_buffer_is_zero(const void *buf, uint64_t bytes);

#endif
