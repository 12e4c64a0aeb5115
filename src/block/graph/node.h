/*
 * The block graph: nodes, the drivers behind them, the edges between them, and requests.
 *
 * A BlockNode is one driver at work: a file, an image format, a filter, a protocol's client. It reaches the
 * nodes below through BlockChild edges, each with a name, a role and permissions. Whoever uses a node from
 * outside the graph (a disk's back end, a job, an export, a tool) holds a root: a BlockChild without a parent
 * node.
 *
 * Two planes:
 *  - Control (open, close, reopen, permissions, graph changes, snapshots, bitmaps' life): the thread of the
 * graph's loop only; bool and GError. It may use the blk_*() forms, which wait.
 *  - Requests (everything named co_): one coroutine for each, on the loop that submitted it, in any loop's
 * thread, several at once for one node; negative errno. There is no lock of the graph: a driver protects its
 * own state with CoMutex and CoRwlock (loop/coroutine.h, they work across loops) or atomics. A pthread mutex
 * is fine for short sections that never yield. Edges, options and limits do not change while requests are
 * under way (the control plane drains first), so requests read them without a lock.
 *
 * Offsets and lengths are bytes. What a driver's co_ functions get is checked by the core: within [0, size)
 * but for write past the end by who has the resize permission (a format's own file), at most
 * BLOCK_MAX_REQUEST, a multiple of limits.request_alignment, and split at max_transfer, max_discard and
 * max_write_zeroes. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_GRAPH_NODE_H
#define RHEA_BLOCK_GRAPH_NODE_H

#include "base/section.h"
#include "block/graph/vec.h"
#include "loop/coroutine.h"
#include "qapi/qapi_types.h"

typedef struct BlockGraph BlockGraph;
typedef struct BlockNode BlockNode;
typedef struct BlockDriver BlockDriver;
typedef struct BlockChild BlockChild;
typedef struct BlockRequest BlockRequest;
typedef struct DirtyBitmap DirtyBitmap;

#define BLOCK_MAX_REQUEST (1u << 30)
#define BLOCK_MAX_SIZE    (UINT64_MAX / 2 - (1u << 30)) /* of a node, in bytes */

/* ---- permissions: what a user of a node does, and what it lets others do at the same time ---- */
typedef enum BlockPerm {
    BLOCK_PERM_CONSISTENT_READ = 1u << 0, /* what is read means something: not the middle of a commit */
    BLOCK_PERM_WRITE = 1u << 1,
    BLOCK_PERM_WRITE_UNCHANGED = 1u << 2, /* writes that do not change what is read (copy-on-read) */
    BLOCK_PERM_RESIZE = 1u << 3,
    BLOCK_PERM_ALL = (1u << 4) - 1,
} BlockPerm;

/* ---- what a child is to its parent ---- */
typedef enum BlockRole {
    BLOCK_ROLE_DATA = 1u << 0,     /* holds guest data */
    BLOCK_ROLE_METADATA = 1u << 1, /* holds the format's own data */
    BLOCK_ROLE_FILTERED = 1u << 2, /* the parent shows the child's very bytes (a filter) */
    BLOCK_ROLE_COW = 1u << 3,      /* the backing image */
    BLOCK_ROLE_PRIMARY = 1u << 4,  /* the child that the image's name means ("file") */
    BLOCK_ROLE_IMAGE = BLOCK_ROLE_DATA | BLOCK_ROLE_METADATA | BLOCK_ROLE_PRIMARY, /* most formats' file */
    BLOCK_ROLE_FILTER = BLOCK_ROLE_FILTERED | BLOCK_ROLE_PRIMARY,
} BlockRole;

/* What a root's owner is told. All may be NULL; called in the control plane's thread. */
typedef struct BlockRootOps {
    const char *kind;                /* "device", "block job", "export", "tool": for messages */
    char *(*describe)(void *opaque); /* "block device 'drive0'"; caller frees */
    void (*resized)(void *opaque);   /* the node has another size */
    /* While drained the owner's requests wait by themselves; these are for who has more to do (timers). */
    void (*drain_begin)(void *opaque);
    void (*drain_end)(void *opaque);
} BlockRootOps;

struct BlockChild {
    char *name;        /* "file", "backing", "data-file", ...; of a root: its kind */
    BlockNode *node;   /* what it leads to; never NULL while the child exists */
    BlockNode *parent; /* NULL: a root */
    unsigned role, perm, shared;
    const BlockRootOps *ops; /* roots only */
    void *opaque;
    bool frozen; /* a job needs it as it is: changes are refused */
    bool exempt; /* a root that no drain stops: of who makes the last requests itself */
    bool stays;  /* block_node_replace leaves it where it is (a job's own) */
    /* the core's */
    BlockChild **slot;
    unsigned new_perm, new_shared;
    int in_flight; /* roots: requests under way; atomic */
    int quiesced;  /* roots: atomic; new requests wait */
    CoQueue waiting;
    BlockNode *direct; /* roots: the node with a submit() that all requests go to straight; NULL: none */
    uint64_t direct_offset;
};

/* ---- what a node wants or can do; sizes in bytes ---- */
typedef struct BlockLimits {
    uint32_t request_alignment;                       /* of offsets and lengths; a power of two */
    uint32_t memory_alignment;                        /* of iov bases: the file driver bounces others */
    uint32_t logical_block_size, physical_block_size; /* what the host's disk reports; 512 for files */
    uint64_t max_transfer;                            /* 0: none */
    uint32_t max_iov;                                 /* 0: none */
    uint32_t discard_granularity;                     /* also the alignment that discards are cut to */
    uint32_t write_zeroes_alignment;                  /* 0: none; pieces outside come alone */
    uint64_t max_discard, max_write_zeroes;           /* 0: none */
    bool can_discard, can_write_zeroes;               /* can_write_zeroes: faster than writing them */
} BlockLimits;

/* ---- requests' flags ---- */
enum {
    BLOCK_REQ_FUA = 1u << 0,              /* stable when done */
    BLOCK_REQ_MAY_UNMAP = 1u << 1,        /* write zeroes: may free the space */
    BLOCK_REQ_NO_FALLBACK = 1u << 2,      /* write zeroes: -ENOTSUP rather than slow */
    BLOCK_REQ_WRITE_COMPRESSED = 1u << 3, /* a whole cluster (or the image's end), into a compressed one */
    BLOCK_REQ_WRITE_UNCHANGED = 1u << 4,  /* the data is what is read there already */
    BLOCK_REQ_SERIALISING = 1u << 5,      /* nothing that overlaps runs at the same time */
    BLOCK_REQ_COPY_ON_READ = 1u << 6,     /* read: and write it into this layer */
    BLOCK_REQ_PREFETCH = 1u << 7,         /* read for copy-on-read only: vec may be NULL */
    BLOCK_REQ_NO_WAIT = 1u << 8,          /* with SERIALISING: -EBUSY rather than wait */
    BLOCK_REQ_ZERO_WRITE = 1u << 9, /* truncate: the new part reads as zeroes even with a backing file */
};

/* ---- block status ---- */
enum {
    BLOCK_STATUS_DATA = 1u << 0,         /* there is data in this layer or in `file` at `map` */
    BLOCK_STATUS_ZERO = 1u << 1,         /* reads as zeroes */
    BLOCK_STATUS_ALLOCATED = 1u << 2,    /* this layer decides what is read, not its backing image */
    BLOCK_STATUS_OFFSET_VALID = 1u << 3, /* file and map are valid */
    BLOCK_STATUS_RECURSE = 1u << 4,      /* the core should ask `file` at `map` whether it is zero there */
    BLOCK_STATUS_COMPRESSED = 1u << 5,
    BLOCK_STATUS_EOF = 1u << 6, /* the range ends with the node */
    BLOCK_STATUS_RAW = 1u << 7, /* driver: this is `file`'s business altogether, at `map` */
};
typedef struct BlockStatus {
    unsigned flags;
    uint64_t bytes; /* from the offset asked on: 1 to what was asked */
    uint64_t map;   /* where in `file` */
    BlockNode *file;
    int depth; /* of the layer that decided, 0 the node asked (block_co_status_above fills it in) */
} BlockStatus;

/* ---- other values ---- */
typedef struct BlockInfo {
    uint64_t cluster_size; /* 0: the format has none */
    uint64_t subcluster_size;
    uint64_t vm_state_offset;
    bool is_dirty;
    bool needs_compressed_writes; /* streamOptimized vmdk and such */
} BlockInfo;

typedef struct BlockSnapshotInfo {
    char id[128], name[256];
    uint64_t vm_state_size, size;
    uint64_t date_s, date_ns, vm_clock_ns;
    uint64_t icount; /* UINT64_MAX: unknown */
} BlockSnapshotInfo;

typedef enum BlockFix { BLOCK_FIX_LEAKS = 1u << 0, BLOCK_FIX_ERRORS = 1u << 1 } BlockFix;
typedef struct BlockCheckResult {
    int64_t corruptions, leaks, check_errors, corruptions_fixed, leaks_fixed;
    uint64_t image_end_offset;
    uint64_t total_clusters, allocated_clusters, fragmented_clusters,
        compressed_clusters; /* 0: not counted */
} BlockCheckResult;

typedef struct BlockMeasure {
    uint64_t required, fully_allocated, bitmaps;
    bool has_bitmaps;
} BlockMeasure;

/* An option of -o (create and amend), for drivers' tables that end with a NULL name. */
typedef enum BlockOptionType {
    BLOCK_OPTION_STRING,
    BLOCK_OPTION_BOOL,
    BLOCK_OPTION_NUMBER,
    BLOCK_OPTION_SIZE
} BlockOptionType;
typedef struct BlockOption {
    const char *name;
    BlockOptionType type;
    const char *help;
    const char *default_value; /* as text, or NULL */
    bool amendable, amend_only;
} BlockOption;

/* How a node was opened, beyond its options; inherited by children. */
enum {
    BLOCK_OPEN_NO_BACKING = 1u << 0, /* leave the backing image closed: its name is known only */
    BLOCK_OPEN_NO_IO = 1u << 1,      /* metadata only (info, check of the header); data is not read */
    BLOCK_OPEN_CHECK = 1u << 2,      /* for check: open what is dirty or corrupt without repairing it */
    BLOCK_OPEN_RESIZE = 1u << 3,
    BLOCK_OPEN_PROBED = 1u << 4,   /* the driver was guessed, not named */
    BLOCK_OPEN_INACTIVE = 1u << 5, /* another program (migration's source) owns the image until activate */
    BLOCK_OPEN_EXTENT = 1u << 6,   /* a part of another image: may have no parts itself */
    BLOCK_OPEN_INHERITED = BLOCK_OPEN_NO_IO | BLOCK_OPEN_CHECK | BLOCK_OPEN_INACTIVE | BLOCK_OPEN_NO_BACKING,
};

/* One node's part of a reopen: prepared for all nodes, then committed or aborted for all. */
typedef struct BlockReopen {
    BlockNode *node;
    QapiBlockdevOptions *options; /* the new ones, complete */
    bool read_only, cache_direct, cache_no_flush, discard;
    void *opaque; /* the driver's */
} BlockReopen;

/* ---- a driver ---- */
struct BlockDriver {
    const char *name;
    size_t instance_size; /* of a struct that begins with a BlockNode */
    bool is_filter;       /* shows its FILTERED child's bytes */
    bool is_protocol;     /* has no children: talks to the host or a server */
    bool supports_backing;
    bool needs_snapshot_children; /* internal snapshots are the file child's business (raw, filters) */
    bool may_resize_file;         /* a format that grows its file by itself */
    bool any_alignment;           /* takes any offset: its limits.request_alignment is advice for its users */
    const char *const *prefixes;  /* of file names: { "nbd", NULL } for "nbd://..." and "nbd:..." */

    /* 0 to 100, how sure it is that this is an image of its format: from its first bytes (at least 512 where
     * the file has them, zero-filled) and its name (may be NULL). */
    int (*probe)(const uint8_t *head, size_t size, const char *filename);
    /* "nbd://host/x" to what BlockdevOptions says of it (a dict without "driver"); only with prefixes. */
    bool (*parse_filename)(const char *filename, json_object *options, GError **error);

    /* What -drive and image options once were called, made into what BlockdevOptions has. May be NULL. */
    void (*old_options)(json_object *options);

    /* ---- control plane ---- */
    /* options are this driver's branch; the common members are in node already. Opens its children with
     * block_child_open() and block_backing_open(), sets node->size and what it has of capabilities. On
     * failure close() is called too, with what was set up so far. Not yet in the graph: no requests but its
     * own (blk_*()). */
    bool (*open)(BlockNode *node, QapiBlockdevOptions *options, GError **error);
    void (*close)(BlockNode *node); /* children are closed by the core, afterwards */
    bool (*reopen_prepare)(BlockReopen *reopen, GError **error);
    void (*reopen_commit)(BlockReopen *reopen);
    void (*reopen_abort)(BlockReopen *reopen);
    /* Fills node->limits, which hold the defaults or what the children need at most. May be NULL. */
    void (*refresh_limits)(BlockNode *node);
    /* What it needs of a child (may not be attached yet: node NULL) and shares on it, for what its own
     * parents need of it and share. NULL: by role (block_default_perms). */
    void (*child_perm)(BlockNode *node, const BlockChild *child, unsigned role, unsigned perm,
                       unsigned shared, unsigned *child_perm, unsigned *child_shared);
    /* Protocols that lock: takes what perm and shared need beyond what it holds; then exactly one of commit
     * (drops what is needed no more) and abort. */
    bool (*check_perm)(BlockNode *node, unsigned perm, unsigned shared, GError **error);
    void (*commit_perm)(BlockNode *node, unsigned perm, unsigned shared);
    void (*abort_perm)(BlockNode *node);
    /* A node's parents stop making requests between these; stop background work. Requests that background
     * work makes count with block_background_begin(). */
    void (*drain_begin)(BlockNode *node);
    void (*drain_end)(BlockNode *node);
    bool (*inactivate)(BlockNode *node, GError **error); /* write back all caches; another program goes on */
    bool (*activate)(BlockNode *node, GError **error);   /* read all metadata again */
    /* The size may change outside (host device, growing file): tells it anew, or a negative errno. */
    int64_t (*get_length)(BlockNode *node);
    bool (*get_info)(BlockNode *node, BlockInfo *info, GError **error);
    json_object *(*get_specific_info)(BlockNode *node);  /* ImageInfoSpecific of query-*: { type, data } */
    json_object *(*get_specific_stats)(BlockNode *node); /* BlockStatsSpecific */
    int64_t (*get_allocated)(BlockNode *node);           /* bytes on the host; NULL: the children's sum */
    /* x-blockdev-change: another child, or one less. */
    bool (*add_child)(BlockNode *node, BlockNode *below, GError **error);
    bool (*del_child)(BlockNode *node, BlockChild *child, GError **error);
    /* May it be changed that the child points elsewhere; NULL: yes. */
    bool (*can_replace_child)(BlockNode *node, const BlockChild *child, GError **error);
    /* The node's file name (filename) and full options changed below: recompute. May be NULL. */
    void (*refresh_filename)(BlockNode *node);

    /* ---- requests; what a filter does not have is done on its child ---- */
    int (*co_preadv)(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t vec_from,
                     unsigned flags);
    /* flags: only those of node->write_flags; the core does the rest (FUA by a flush). */
    int (*co_pwritev)(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                      uint64_t vec_from, unsigned flags);
    /* One compressed cluster, or the last part of one. */
    int (*co_pwritev_compressed)(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                                 uint64_t vec_from);
    /* -ENOTSUP: the core writes zeroes. flags: only those of node->zero_flags. NULL: -ENOTSUP. */
    int (*co_pwrite_zeroes)(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags);
    int (*co_pdiscard)(BlockNode *node, uint64_t offset, uint64_t bytes); /* NULL, -ENOTSUP: a hint lost */
    /* Makes what was completed stable in this node and hands on to its children itself... */
    int (*co_flush)(BlockNode *node);
    /* ... or only writes its caches to the children, which the core then flushes. Either, not both. */
    int (*co_flush_to_os)(BlockNode *node);
    /* What is at [offset, offset + bytes): st->flags and st->bytes at least. want_zero: false asks for
     * allocation only, cheaply. NULL: DATA everywhere (filters and raw: see BLOCK_STATUS_RAW). */
    int (*co_block_status)(BlockNode *node, bool want_zero, uint64_t offset, uint64_t bytes, BlockStatus *st);
    /* exact: fail where the size cannot be just that. prealloc as in PreallocMode. flags:
     * BLOCK_REQ_ZERO_WRITE. Sets node->size on success. */
    int (*co_truncate)(BlockNode *node, uint64_t size, bool exact, QapiPreallocMode prealloc, unsigned flags,
                       GError **error);
    /* Copy within or between nodes without the data passing here (copy_file_range). -ENOTSUP: read and
     * write. */
    int (*co_copy_range)(BlockNode *source, uint64_t source_offset, BlockNode *target, uint64_t target_offset,
                         uint64_t bytes, unsigned flags);
    /* The guest's memory image of internal snapshots, behind the disk. */
    int (*co_load_vmstate)(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec);
    int (*co_save_vmstate)(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec);
    /* Protocols may have this instead of co_preadv to co_pdiscard: does req (its op, offset, bytes and iov),
     * then block_request_done(), later, in req->loop; not from inside the call. */
    void (*submit)(BlockNode *node, BlockRequest *req);

    /* blkdebug: a format below which it stands came to this point. In a request's coroutine; may wait. */
    void (*co_debug_event)(BlockNode *node, QapiBlkdebugEvent event);
    bool (*debug_breakpoint)(BlockNode *node, const char *event, const char *tag, GError **error);
    bool (*debug_remove_breakpoint)(BlockNode *node, const char *tag);
    bool (*debug_resume)(BlockNode *node, const char *tag); /* false: nothing is suspended so */
    bool (*debug_is_suspended)(BlockNode *node, const char *tag);

    /* Where every request of this node is one of the child with *add added to its offset: that child, and the
     * core may go there straight. Asked again when the graph changes. */
    BlockChild *(*passthrough)(BlockNode *node, uint64_t *add);

    /* ---- long operations: in a coroutine of the control plane's loop ---- */
    bool (*co_check)(BlockNode *node, BlockCheckResult *result, unsigned fix, GError **error);
    /* options: values by name, checked against create_options. progress (may be NULL) gets done and total. */
    bool (*co_amend)(BlockNode *node, json_object *options, bool force,
                     void (*progress)(void *opaque, uint64_t done, uint64_t total), void *opaque,
                     GError **error);
    /* blockdev-create: options are this driver's branch. */
    bool (*co_create)(BlockGraph *graph, QapiBlockdevCreateOptions *options, GError **error);
    /* create with -o: options hold "size" (a number) and the rest by name, typed as in create_options. A
     * format makes the file first with block_co_create_file(). backing_file, backing_fmt were checked. */
    bool (*co_create_named)(BlockGraph *graph, const char *filename, json_object *options, GError **error);
    const BlockOption *create_options; /* NULL: the driver cannot create */
    /* source may be NULL (then options' "size" counts). */
    bool (*co_measure)(BlockGraph *graph, json_object *options, BlockNode *source, BlockMeasure *measure,
                       GError **error);
    bool (*co_delete_file)(BlockNode *node, GError **error); /* protocols: a half-made image is taken away */
    /* Makes the image empty: all reads go to the backing image again. NULL: by discarding. */
    int (*co_make_empty)(BlockNode *node);

    /* ---- internal snapshots: control plane, drained ---- */
    bool (*snapshot_create)(BlockNode *node, BlockSnapshotInfo *info, GError **error); /* fills info->id */
    bool (*snapshot_goto)(BlockNode *node, const char *id, GError **error);
    bool (*snapshot_delete)(BlockNode *node, const char *id, GError **error); /* id is the exact id */
    bool (*snapshot_list)(BlockNode *node, GArray *list /* of BlockSnapshotInfo */, GError **error);
    bool (*snapshot_load)(BlockNode *node, const char *id, GError **error); /* read-only view, till close */

    /* ---- copy-before-write: the disk as it was, for snapshot-access ---- */
    int (*co_snapshot_preadv)(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                              uint64_t vec_from);
    int (*co_snapshot_status)(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *st);
    int (*co_snapshot_discard)(BlockNode *node, uint64_t offset, uint64_t bytes);

    /* ---- backing images: control plane, drained ---- */
    /* Stores another name and format in the image (NULL: none); does not touch node->backing. */
    bool (*change_backing)(BlockNode *node, const char *filename, const char *format, bool require_format,
                           GError **error);

    /* ---- persistent dirty bitmaps: control plane ---- */
    bool (*bitmap_can_store)(BlockNode *node, const char *name, uint32_t granularity, GError **error);
    bool (*bitmap_remove_stored)(BlockNode *node, const char *name, GError **error);
};
#define BLOCK_DRIVER(driver) SECTION_ENTRY(rhea_block_drivers, const BlockDriver, driver)

/* ---- a node; drivers embed it first ---- */
struct BlockNode {
    const BlockDriver *driver;
    BlockGraph *graph;
    char *name;     /* node-name, or a made one ("#block012") */
    char *what;     /* "node 'NAME'" for messages */
    char *filename; /* what the image is called: protocol's name, or json:{...}; never NULL once open */
    /* The children that most have; the core clears them. A filter's is file or backing, whichever the driver
     * opened. */
    BlockChild *file, *backing;
    GPtrArray *children; /* of BlockChild *, borrowed of the node's; file and backing too */
    GPtrArray *parents;  /* of BlockChild * that lead here */
    uint64_t size;       /* atomic; multiple of 1 */
    BlockLimits limits;
    /* Which of BLOCK_REQ_* its co_pwritev, co_pwrite_zeroes and co_truncate take. Set by open(). */
    unsigned write_flags, zero_flags, truncate_flags;
    /* As the options and the parent say. */
    bool read_only, auto_read_only, force_share;
    bool cache_direct, cache_no_flush, discard;
    QapiBlockdevDetectZeroesOptions detect_zeroes;
    unsigned open_flags;          /* BLOCK_OPEN_* */
    bool implicit_name, implicit; /* implicit: made as a part of another: goes with its last parent */
    bool inactive;
    bool encrypted;     /* set by open(): the image says that it is */
    bool any_alignment; /* the driver's; open() may turn it off */
    /* What the image says of its backing image: names as stored there, NULL: none. */
    char *backing_file, *backing_format;
    json_object *options; /* as opened, complete: what reopen starts from and json: names are made of */
    /* ---- the core's ---- */
    unsigned perm, shared; /* of all parents together */
    unsigned new_perm, new_shared;
    bool fresh;       /* nobody has had it yet: a drain must not be the end of it */
    bool steps_aside; /* an internal filter on its way out asks for nothing any more */
    bool opening, activating, driver_opened, reopening, corrupt; /* corrupt: atomic */
    uint64_t write_generation, flushed_generation; /* atomic: a flush without a write before it is free */
    int background;                                /* atomic; see block_background_begin */
    int quiesced;
    int copy_on_read;   /* atomic count: reads fill this layer */
    GPtrArray *bitmaps; /* of DirtyBitmap * */
    struct BlockTracker *tracker;
    int refs; /* atomic */
    uint64_t write_threshold;
    bool closing;
    uint32_t visit; /* mark of graph walks */
};

/* ---- for drivers ---- */
/* Opens the child that ref describes or names and attaches it as `name`; ref NULL: an error that it is
 * missing. It goes into *slot (may be NULL) too, which the core clears when it is detached. options: the
 * node's own, whose cache mode, discard, read-only and sharing a child described in place inherits. NULL on
 * error. */
BlockChild *block_child_open(BlockNode *node, const char *name, unsigned role, BlockChild **slot,
                             const QapiBlockdevOptions *options, QapiBlockdevRef *ref, GError **error);
/* After the header was read into node->backing_file and backing_format: opens the backing image that the
 * options name (null: none), or else the header, into node->backing. True where there is none. */
bool block_backing_open(BlockNode *node, const QapiBlockdevOptions *options, QapiBlockdevRefOrNull *ref,
                        GError **error);
/* The permissions that a filter, a format's file, or a backing image usually need. */
void block_default_perms(BlockNode *node, const BlockChild *child, unsigned role, unsigned perm,
                         unsigned shared, unsigned *child_perm, unsigned *child_shared);
/* Counts changes of edges, permissions and options: what a driver knows of nodes below it holds for one
 * number, since these change only while no request runs. */
unsigned block_graph_generation(const BlockGraph *graph);
void block_graph_changed(BlockGraph *graph);
/* Background work of a node (checkpoint, read-ahead): each piece between these, and drain waits for it.
 * begin() is false while the node is drained: do it later (drain_end tells). [any thread] */
bool block_background_begin(BlockNode *node);
void block_background_end(BlockNode *node);
/* A format that finds its image corrupt: makes the node refuse further writes, and the BLOCK_IMAGE_CORRUPTED
 * event. offset, size: (uint64_t)-1 where unknown. [any thread] */
void block_node_corrupt(BlockNode *node, bool fatal, uint64_t offset, uint64_t size, const char *fmt, ...)
    G_GNUC_PRINTF(5, 6);
/* A filter's open: its one child, named `name`, whose size and capabilities it shows. */
bool block_filter_open(BlockNode *node, const char *name, const QapiBlockdevOptions *options,
                       QapiBlockdevRef *ref, GError **error);
/* Set once, by a program whose standard output is read by scripts that drive breakpoints: blkdebug tells
 * there of requests that it holds and lets go. */
extern bool block_debug_tells;
/* Tells blkdebug, if that is the child, where the format has come to. In a request's coroutine. */
void block_debug_event(BlockChild *child, QapiBlkdebugEvent event);
/* For protocols with submit(): the end of a request; frees nothing of the caller's. In req's loop. */
void block_request_done(BlockRequest *req, int result);

/* ---- callers' side: requests on a child or root, in a coroutine ---- */
int block_co_preadv(BlockChild *child, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                    uint64_t vec_from, unsigned flags);
int block_co_pwritev(BlockChild *child, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                     uint64_t vec_from, unsigned flags);
int block_co_pread(BlockChild *child, uint64_t offset, uint64_t bytes, void *buf, unsigned flags);
int block_co_pwrite(BlockChild *child, uint64_t offset, uint64_t bytes, const void *buf, unsigned flags);
/* Written and stable, with one flush below. */
int block_co_pwrite_sync(BlockChild *child, uint64_t offset, uint64_t bytes, const void *buf);
int block_co_pwrite_zeroes(BlockChild *child, uint64_t offset, uint64_t bytes, unsigned flags);
int block_co_pdiscard(BlockChild *child, uint64_t offset, uint64_t bytes);
/* What was completed before is stable when it is done. */
int block_co_flush(BlockChild *child);
int block_co_truncate(BlockChild *child, uint64_t size, bool exact, QapiPreallocMode prealloc, unsigned flags,
                      GError **error);
int block_co_copy_range(BlockChild *source, uint64_t source_offset, BlockChild *target,
                        uint64_t target_offset, uint64_t bytes, unsigned flags);
/* Status of this node alone (and what its file knows of zeroes)... */
int block_co_status(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *st);
/* ... or through the backing chain down to, but not with, base (NULL: all of it). */
int block_co_status_above(BlockNode *node, BlockNode *base, uint64_t offset, uint64_t bytes, BlockStatus *st);
/* 1: some layer from node down to base (with it where include_base) has it; 0: none. *count: for how far. */
int block_co_is_allocated_above(BlockNode *node, BlockNode *base, bool include_base, uint64_t offset,
                                uint64_t bytes, uint64_t *count);
/* 1: reads as zeroes throughout, told from the status alone. */
int block_co_is_zero(BlockNode *node, uint64_t offset, uint64_t bytes);

static inline uint64_t block_size(const BlockChild *child)
{
    return __atomic_load_n(&child->node->size, __ATOMIC_RELAXED);
}
/* Sets node->size and tells the parents (later, in the control plane). [any thread] */
void block_node_set_size(BlockNode *node, uint64_t size);
/* Memory for I/O on this child's node, aligned for direct I/O; NULL where there is none. g_aligned_free(). */
void *block_buffer_try(const BlockChild *child, uint64_t bytes);

/* ---- the same, blocking: in the control plane's thread outside coroutines they run completions of I/O until
 * done; inside a coroutine they are the co_ form. For open(), tools and tests. ---- */
int blk_preadv(BlockChild *child, uint64_t offset, uint64_t bytes, const BlockVec *vec, unsigned flags);
int blk_pwritev(BlockChild *child, uint64_t offset, uint64_t bytes, const BlockVec *vec, unsigned flags);
int blk_pread(BlockChild *child, uint64_t offset, uint64_t bytes, void *buf, unsigned flags);
int blk_pwrite(BlockChild *child, uint64_t offset, uint64_t bytes, const void *buf, unsigned flags);
int blk_pwrite_sync(BlockChild *child, uint64_t offset, uint64_t bytes, const void *buf);
int blk_pwrite_zeroes(BlockChild *child, uint64_t offset, uint64_t bytes, unsigned flags);
int blk_pdiscard(BlockChild *child, uint64_t offset, uint64_t bytes);
int blk_flush(BlockChild *child);
bool blk_truncate(BlockChild *child, uint64_t size, bool exact, QapiPreallocMode prealloc, unsigned flags,
                  GError **error);
int blk_status(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *st);
int blk_status_above(BlockNode *node, BlockNode *base, uint64_t offset, uint64_t bytes, BlockStatus *st);
/* Runs fn in a coroutine of the calling thread's loop (the graph's in the control plane) and waits for it. */
void block_run(BlockGraph *graph, CoroutineFunc *fn, void *opaque);

#endif
