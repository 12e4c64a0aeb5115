/*
 * Block nodes (-blockdev), drives (-drive), and the BlockBackend through which a device uses one.
 *
 * A BlockRegistry belongs to the virtual machine and owns nodes and drives. Requests are asynchronous: they
 * may be made in any loop's thread, and their done callback runs in that very loop, later (never from inside
 * the call), with no lock held: the device takes its own. Bounds are checked here: a request outside the disk
 * fails with -EIO, a write to a read-only disk with -EPERM, so devices need only translate.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_BLOCK_H
#define RHEA_BLOCK_BLOCK_H

#include "block/graph/graph.h"
#include "object/property.h"

typedef struct BlockBackend BlockBackend;
typedef struct BlockRegistry BlockRegistry;

/* ---- requests: from any loop's thread; `loop` is the calling one ---- */
/* iov is copied, the memory it names must stay until done. Scattered guest memory is fine. */
void bb_readv(BlockBackend *bb, Loop *loop, uint64_t offset, const struct iovec *iov, int iov_count,
              BlockDone *done, void *opaque);
void bb_writev(BlockBackend *bb, Loop *loop, uint64_t offset, const struct iovec *iov, int iov_count,
               unsigned flags, BlockDone *done, void *opaque);
/* Everything that was completed before is stable when it is done. */
void bb_flush(BlockBackend *bb, Loop *loop, BlockDone *done, void *opaque);
void bb_discard(BlockBackend *bb, Loop *loop, uint64_t offset, uint64_t bytes, BlockDone *done, void *opaque);
void bb_write_zeroes(BlockBackend *bb, Loop *loop, uint64_t offset, uint64_t bytes, unsigned flags,
                     BlockDone *done, void *opaque);
/* Waits until no request is under way, running completions of `loop` (the caller's; nothing else of it runs).
 * Control plane; requests of other loops are waited for. The device must have stopped making new ones. */
void bb_drain(BlockBackend *bb, Loop *loop);
/* The simple blocking forms for tools, tests and firmware loading: not on a loop that has other work. */
int bb_pread(BlockBackend *bb, uint64_t offset, void *buf, size_t size);
int bb_pwrite(BlockBackend *bb, uint64_t offset, const void *buf, size_t size);

/* ---- the disk as a device sees it ---- */
uint64_t bb_size(BlockBackend *bb); /* bytes; 0 without a medium. [any thread] */
bool bb_read_only(const BlockBackend *bb);
bool bb_has_medium(const BlockBackend *bb);
void bb_limits(const BlockBackend *bb, BlockLimits *limits);
bool bb_write_cache(const BlockBackend *bb);        /* whether writes need a flush to be stable */
void bb_set_write_cache(BlockBackend *bb, bool on); /* the guest switched it: off makes every write stable */
const char *bb_name(const BlockBackend *bb);        /* -drive's id, or "" for a bare node */
const char *bb_node_name(const BlockBackend *bb);   /* NULL without a medium */
const char *bb_serial(const BlockBackend *bb);      /* -drive serial=, or NULL */

/* Attaches a device: what query-block shows as qdev, and who is told of changes. One device per backend. A
 * writable device takes the write permission of its node; two writers on a node are refused unless both
 * share. */
typedef struct BlockDevOps {
    void (*resized)(void *opaque); /* in the main loop; may be NULL */
} BlockDevOps;
bool bb_attach_device(BlockBackend *bb, const char *qdev, bool read_only, bool share_rw,
                      const BlockDevOps *ops, void *opaque, GError **error);
void bb_detach_device(BlockBackend *bb);
void bb_set_qdev_path(BlockBackend *bb, const char *path); /* for query-block and BLOCK_IO_ERROR */

/* What to do about a failed request (werror, rerror). */
typedef enum BlockErrorAction { BLOCK_ERROR_REPORT, BLOCK_ERROR_IGNORE, BLOCK_ERROR_STOP } BlockErrorAction;
/* Decides, tells the registry's hook (BLOCK_IO_ERROR, stopping the machine) and counts. error: positive
 * errno. For STOP the device keeps the request and makes it again when the machine runs again. [any loop's
 * thread] */
BlockErrorAction bb_error(BlockBackend *bb, bool is_read, int error);
typedef enum BlockOnError {
    BLOCK_ON_ERROR_AUTO,
    BLOCK_ON_ERROR_REPORT,
    BLOCK_ON_ERROR_IGNORE,
    BLOCK_ON_ERROR_ENOSPC,
    BLOCK_ON_ERROR_STOP
} BlockOnError;
/* A device's own rerror and werror properties; AUTO leaves what -drive said. */
void bb_set_on_error(BlockBackend *bb, BlockOnError on_read, BlockOnError on_write);
extern const EnumLookup block_on_error_lookup; /* "auto", "report", "ignore", "enospc", "stop" */

/* ---- the registry ---- */
/* loop: the main loop. fds: for /dev/fdset/N; borrowed, may be NULL. */
BlockRegistry *block_registry_new(Loop *loop, FdTable *fds);
/* Flushes and closes everything. No device may be attached. */
void block_registry_free(BlockRegistry *reg);
/* The registry in which the drive property of devices looks ids and node names up; set once when the Vm is
 * made. */
void block_property_set_registry(BlockRegistry *reg);
/* Called (from any loop) for each error that is reported or stops the machine. */
typedef void BlockErrorHook(void *opaque, BlockBackend *bb, const char *qdev, const char *node_name,
                            bool is_read, BlockErrorAction action, int error);
void block_registry_set_error_hook(BlockRegistry *reg, BlockErrorHook *hook, void *opaque);

/* blockdev-add; -blockdev's JSON or key=value text. Parts that options describes in place get what was said
 * of the whole. */
bool blockdev_add(BlockRegistry *reg, QapiBlockdevOptions *options, GError **error);
bool blockdev_add_text(BlockRegistry *reg, const char *text, GError **error);
bool blockdev_del(BlockRegistry *reg, const char *node_name, GError **error);

/* -drive: a node and a backend with an id. The machine reads what it has to connect itself. */
typedef struct BlockDrive {
    BlockBackend *bb;     /* borrowed */
    char *interface;      /* if=: "ide", "virtio", "none", "pflash", ...; "" where the user gave none */
    char *media;          /* "disk" or "cdrom" */
    char *serial;         /* or NULL */
    int bus, unit, index; /* -1: not given */
    int bootindex;        /* -1: not given */
} BlockDrive;
/* default_interface: the machine's. The result is owned by the registry. NULL on error. */
BlockDrive *block_drive_add_text(BlockRegistry *reg, const char *text, const char *default_interface,
                                 GError **error);
BlockDrive *block_drive_add(BlockRegistry *reg, json_object *options, const char *default_interface,
                            GError **error);
/* All drives in the order they were given: GPtrArray of BlockDrive *, borrowed. */
GPtrArray *block_drives(BlockRegistry *reg);
/* Every backend, of drives and of nodes that devices use by name. Of BlockBackend *; borrowed. */
GPtrArray *block_backends(BlockRegistry *reg);
/* A drive by id or a node by name (for which a backend without a name is made); NULL with an error. Borrowed.
 */
BlockBackend *bb_find(BlockRegistry *reg, const char *name, GError **error);
/* The nodes and their graph. Borrowed. */
BlockGraph *block_registry_graph(BlockRegistry *reg);
/* The backend's node; NULL without a medium. Borrowed. */
BlockNode *bb_node(const BlockBackend *bb);
/* The node that a backend's id or a node name means; NULL with an error (class DeviceNotFound for ids). */
BlockNode *block_lookup(BlockRegistry *reg, const char *device, const char *node_name, GError **error);
/* block_resize. */
bool block_resize(BlockRegistry *reg, const char *device, const char *node_name, uint64_t size,
                  GError **error);

/* block-latency-histogram-set: of uint64_t in nanoseconds, each may be NULL; `all` is for those kinds that
 * have none of their own. All NULL: no histograms any more. */
bool block_set_histograms(BlockRegistry *reg, const char *id, const GArray *all, const GArray *read,
                          const GArray *write, const GArray *flush, GError **error);

/* query-block, query-named-block-nodes, query-blockstats: JSON lists that the caller owns; info block: text.
 */
json_object *block_query(BlockRegistry *reg);
json_object *block_query_nodes(BlockRegistry *reg, bool flat);
json_object *block_query_stats(BlockRegistry *reg, bool nodes);
char *block_info(BlockRegistry *reg);

/* A device's "drive" property, by a drive's id or a node's name; the field is a BlockBackend *:
 *     PROP_TYPED("drive", VirtioBlk, bb, property_type_drive, "the disk") */
extern const PropertyType property_type_drive;

#endif
