/*
 * The inside of block nodes.
 *
 * Threads: requests of one node run in several loops at once. A node's fields are set when it is opened and
 * by the control plane while no request is under way; what requests change (size, counters, flush
 * generations) is atomic. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_BLOCK_INTERNAL_H
#define RHEA_BLOCK_BLOCK_INTERNAL_H

#include "block/block.h"

#include "base/section.h"

#define REQUEST_INLINE_IOV 8
#define REQUEST_MAX_BYTES  (1u << 30)

typedef enum BlockOp { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES } BlockOp;

typedef struct BlockRequest {
    BlockBackend *bb;
    Loop *loop;
    BlockOp op;
    unsigned flags;
    uint64_t offset, bytes; /* of the protocol node: below every offset= */
    struct iovec *iov;      /* iov_inline or allocated; advanced as the host takes it */
    int iov_count;
    BlockDone *done;
    void *opaque;
    int64_t start_ns;
    BlockNode *node; /* the protocol node */
    /* the file driver's */
    struct iovec *iov_left;
    int iov_left_count;
    uint64_t progress;
    uint8_t *bounce;
    uint64_t bounce_offset, bounce_bytes;
    struct iovec bounce_iov;
    uint64_t flush_generation;
    bool fsync_after;
    bool no_zero_range; /* the host has no fast way: write them */
    struct iovec iov_inline[REQUEST_INLINE_IOV];
} BlockRequest;

typedef struct BlockDriver {
    const char *name;
    size_t instance_size;
    /* As the driver's branch of options says; what every node has is in node already. */
    bool (*open)(BlockNode *node, QapiBlockdevOptions *options, GError **error);
    void (*close)(BlockNode *node);
    /* Protocol drivers: does req, then block_request_done(); not from inside the call. Filters: NULL. */
    void (*submit)(BlockNode *node, BlockRequest *req);
    /* Takes the permissions that its users need: read always, write if asked; what others may do at the same
     * time. */
    bool (*lock)(BlockNode *node, bool write, bool share_write, GError **error);
    void (*unlock)(BlockNode *node);
    bool (*resize)(BlockNode *node, uint64_t size, GError **error);
    uint64_t (*allocated)(BlockNode *node); /* bytes on the host */
    /* A second opening for writing of what was opened read-only by auto-read-only; or whether that can be. */
    bool (*make_writable)(BlockNode *node, GError **error);
} BlockDriver;
#define BLOCK_DRIVER(driver) SECTION_ENTRY(rhea_block_drivers, const BlockDriver, driver)

/* Drivers embed this first. */
struct BlockNode {
    const BlockDriver *driver;
    BlockRegistry *reg;
    char *name;
    char *what;       /* "node 'NAME'" */
    char *filename;   /* of the protocol node; a filter shows its child's */
    BlockNode *child; /* of a filter; it counts as a user of it */
    uint64_t child_offset;
    uint64_t size; /* atomic */
    BlockLimits limits;
    bool read_only, auto_read_only, implicit_name;
    bool cache_direct, cache_no_flush, discard, force_share;
    int users;                                     /* nodes and backends on it */
    BlockBackend *bb;                              /* the backend without a drive that was made for it */
    uint64_t write_generation, flushed_generation; /* atomic */
    bool detached_from_command;                    /* made as a part of another: goes with it */
};

FdTable *block_registry_fds(BlockRegistry *reg);
/* With op and host errors: 0 or negative errno. In req's loop. Frees it. */
void block_request_done(BlockRequest *req, int result);

/* A node as described; implicit: it belongs to its parent. Counted reference-free: the registry owns it. */
BlockNode *block_node_open(BlockRegistry *reg, QapiBlockdevOptions *options, bool implicit, GError **error);
/* The node that a member of parent's options means, described in place (then it gets what options says of
 * cache, discard, sharing and writing, where it does not say so itself) or by its name. NULL on error. */
BlockNode *block_node_by_ref(BlockNode *parent, const QapiBlockdevOptions *options, QapiBlockdevRef *ref,
                          GError **error);
void block_node_close(BlockNode *node);
BlockNode *block_node_find(BlockRegistry *reg, const char *name);
BlockBackend *block_backend_new(BlockRegistry *reg, const char *name, BlockNode *node);
bool block_on_error_parse(const char *text, const char *what, bool is_read, BlockOnError *value,
                          GError **error);
void block_backend_configure(BlockBackend *bb, bool write_cache, BlockOnError on_read, BlockOnError on_write,
                             const char *serial);
GPtrArray *block_registry_drive_list(BlockRegistry *reg);

/* lock.c: byte-range locks that QEMU knows too. what names the file in messages. */
bool block_lock_fd(int fd, const char *what, bool write, bool share_write, GError **error);
void block_unlock_fd(int fd);

/* probe.c: the name of the image format that a file's first bytes tell, or "raw". */
const char *block_probe_format(const uint8_t *data, size_t size);
/* For a driver that is not there (yet): sets the error that says so. */
bool block_unknown_driver(const char *name, GError **error);

#endif
