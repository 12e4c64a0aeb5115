/*
 * Images made of blocks of one size that lie anywhere in a file, found by tables: what the drivers of such
 * formats share. A driver embeds BlocksNode first, reads its header in open(), calls blocks_begin(), and says
 * in BlocksOps how a piece of its table (a chunk) is read and an entry is written.
 *
 * Tables are read piece by piece when they are needed, and kept. An entry says where a block is:
 *   kind NONE: the backing image's; ZERO; DATA at value bytes of the file; PACKED: the driver's read_packed()
 * knows. Writes to a DATA block go to its place. Any other write makes a new block: one at a time for each
 * image, the data first, then the table. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_FORMATS_BLOCKS_H
#define RHEA_BLOCK_FORMATS_BLOCKS_H

#include "block/graph/graph.h"

typedef enum BlocksKind { BLOCKS_NONE, BLOCKS_ZERO, BLOCKS_DATA, BLOCKS_PACKED } BlocksKind;
#define BLOCKS_ENTRY(kind, value) ((uint64_t)(value) << 2 | (uint64_t)(kind))
static inline BlocksKind blocks_kind(uint64_t entry)
{
    return (BlocksKind)(entry & 3);
}
static inline uint64_t blocks_value(uint64_t entry)
{
    return entry >> 2;
}

typedef struct BlocksNode BlocksNode;
typedef struct BlocksOps {
    /* Entries of chunk number `chunk`, all per_chunk of them (what is behind the last block does not matter).
     */
    int (*load)(BlocksNode *b, uint64_t chunk, uint64_t *entries);
    /* NULL: cannot be written to. Where a new block goes, and what comes with it but for its data; b->end
     * (where the last one ended) is moved on. */
    int (*place)(BlocksNode *b, uint64_t block, uint64_t *host);
    /* The table says where it is. */
    int (*store)(BlocksNode *b, uint64_t block, uint64_t host);
    int (*read_packed)(BlocksNode *b, uint64_t block, uint64_t value, uint8_t *buf);
} BlocksOps;

struct BlocksNode {
    BlockNode node;
    const BlocksOps *ops;
    uint32_t block_bytes, per_chunk;
    uint64_t count;      /* blocks */
    uint64_t data_start; /* no data lies before */
    uint64_t end;        /* the place behind all that is in use */
    uint64_t **chunks;
    uint64_t chunk_count;
    CoMutex lock; /* loads chunks, makes blocks */
    uint8_t *packed;
    uint64_t packed_block; /* what is in `packed`; UINT64_MAX: nothing */
};

/* After file is open and the header read: block_bytes a multiple of 512. Sets node->size too. */
bool blocks_begin(BlocksNode *b, const BlocksOps *ops, uint64_t size, uint32_t block_bytes,
                  uint32_t per_chunk, uint64_t data_start, GError **error);
void blocks_close(BlockNode *node);
/* The simplest place: at b->end, on a multiple of align. */
int blocks_place_at_end(BlocksNode *b, uint32_t align, uint64_t *host);
/* Reads a part of the file, zeroes behind its end. */
int blocks_read(BlocksNode *b, uint64_t offset, void *buf, uint64_t bytes);
/* Formats that are not written to (any more): takes auto-read-only, or says so. */
bool blocks_read_only(BlockNode *node, GError **error);

int blocks_co_preadv(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                     unsigned flags);
int blocks_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                      unsigned flags);
int blocks_co_block_status(BlockNode *node, bool want_zero, uint64_t offset, uint64_t bytes, BlockStatus *st);
/* A driver's co_check: every block lies in the file, behind data_start, and in no other's place. Counts
 * blocks, and sets image_end_offset to the end of the last one. */
bool blocks_co_check(BlockNode *node, BlockCheckResult *result, unsigned fix, GError **error);
bool blocks_get_info(BlockNode *node, BlockInfo *info, GError **error);

/* ---- making images ---- */

/* A driver's co_create (blockdev-create): its co_create_named(), with names of options as behind -o, and
 * these two: the name of the node that the image shall be in, and a list of names of nodes for its other
 * parts. */
bool blocks_co_create(BlockGraph *graph, QapiBlockdevCreateOptions *options, GError **error);
#define BLOCKS_NODE    "/node" /* no option has such a name */
#define BLOCKS_EXTENTS "/extents"
/* For co_create_named: the file of an image (or the node that options name), empty, with a root to write it
 * by; NULL on error. */
BlockChild *blocks_create_file(BlockGraph *graph, const char *filename, json_object *options, GError **error);
const char *blocks_option(json_object *options, const char *name);
uint64_t blocks_number(json_object *options, const char *name, uint64_t otherwise);

static inline uint32_t blocks_le32(const uint8_t *p)
{
    uint32_t v;

    __builtin_memcpy(&v, p, 4);
    return v;
}
static inline uint64_t blocks_le64(const uint8_t *p)
{
    uint64_t v;

    __builtin_memcpy(&v, p, 8);
    return v;
}
static inline uint32_t blocks_be32(const uint8_t *p)
{
    return __builtin_bswap32(blocks_le32(p));
}
static inline uint64_t blocks_be64(const uint8_t *p)
{
    return __builtin_bswap64(blocks_le64(p));
}
static inline void blocks_put_le32(uint8_t *p, uint32_t v)
{
    __builtin_memcpy(p, &v, 4);
}
static inline void blocks_put_le64(uint8_t *p, uint64_t v)
{
    __builtin_memcpy(p, &v, 8);
}
static inline void blocks_put_be32(uint8_t *p, uint32_t v)
{
    blocks_put_le32(p, __builtin_bswap32(v));
}
static inline void blocks_put_be64(uint8_t *p, uint64_t v)
{
    blocks_put_le64(p, __builtin_bswap64(v));
}

#endif
