/*
 * The inside of the qcow2 driver: one image's state, and what its files offer each other.
 *
 * Locks, taken downwards only:
 *   table_lock    makes L2 tables
 *   compress_lock places compressed clusters
 *   commit_lock   one flush, checkpoint or snapshot of the tables at a time
 *   alloc_lock    refills the reserve, makes refcount blocks, finds room for tables
 *   lock          a pthread mutex around everything that is found, changed or linked in memory; never held
 *                 across I/O
 * The control plane's operations (snapshots, resize, check, amend, bitmaps) run drained, so they need none of
 * the first two against requests, but take commit_lock against background work. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#ifndef RHEA_BLOCK_FORMATS_QCOW2_QCOW2_H
#define RHEA_BLOCK_FORMATS_QCOW2_QCOW2_H

#include "block/formats/crypto/luks.h"
#include "block/formats/qcow2/format.h"
#include "block/graph/node.h"
#include <pthread.h>

typedef struct Qcow2Node Qcow2Node;
typedef struct Qcow2Page Qcow2Page;

/* ---- pages of metadata (meta.c) ---- */
typedef enum Qcow2PageKind {
    QCOW2_PAGE_REFCOUNT,
    QCOW2_PAGE_REFTABLE,
    QCOW2_PAGE_L2,
    QCOW2_PAGE_L1
} Qcow2PageKind;
#define QCOW2_PAGE_MAX 4096u
#define QCOW2_GRANULE  32u /* bytes that one bit of the dirty mask stands for */

struct Qcow2Page {
    uint64_t offset; /* in the file */
    Qcow2Page *hash_next;
    uint32_t slot; /* in the clock */
    int pins;      /* users; and one while dirty, one while home_dirty */
    Qcow2PageKind kind;
    bool loading, used;
    bool learned;      /* was looked at for an extent since it changed */
    bool home_dirty;   /* the journal has what the page's own place lacks */
    uint64_t home_seq; /* the last transaction that holds some of it */
    uint64_t dirty[2]; /* changed since the last commit began */
    CoQueue waiting;
    uint8_t *data;
};

typedef struct Qcow2Range {
    uint64_t start, end;
} Qcow2Range;

/* ---- allocating requests under way (write.c) ---- */
typedef struct Qcow2Alloc {
    struct Qcow2Alloc *next;
    uint64_t first, count;   /* guest clusters */
    uint64_t host, host_end; /* bytes of new clusters; 0: none are new */
    Qcow2Page *ref_page, *ref_page2;
    bool fresh; /* the new clusters read as zeroes as they are */
    CoQueue waiting;
} Qcow2Alloc;

/* ---- freed clusters on their way to be free (refcount.c) ---- */
typedef struct Qcow2Free {
    uint64_t cluster;
    uint64_t count;
    bool punch;
} Qcow2Free;

/* A copy of data that was written and is not stable: the next commit may put it into the journal. */
typedef struct Qcow2Kept {
    uint64_t offset;
    uint32_t bytes;
    uint8_t *data;
} Qcow2Kept;

typedef struct Qcow2Extent {
    uint64_t guest, host, bytes;
} Qcow2Extent;

/* A part of the guest's disk that no layer between this one and a node below has anything of (read.c). */
typedef struct Qcow2Skip {
    uint64_t guest, bytes;
    BlockChild *child; /* the edge to who decides there */
} Qcow2Skip;

typedef struct Qcow2Journal {
    bool wanted;                 /* the image asks for one */
    bool active;                 /* it exists and the header says so */
    uint64_t offset, size, head; /* head: where the next transaction goes, from offset */
    uint64_t tail;               /* where the first that replay needs begins */
    uint64_t seq, tail_seq;      /* of the next one; of the one at tail */
    uint64_t data_seq;           /* data of older ones is stable at its own place */
    uint64_t used, next_at, next_end;
    uint32_t attempt; /* counts what was written, for tries after a failed flush */
    uint8_t uuid[16];
    /* the background's; under lock */
    uint64_t laid; /* bytes from offset that were written once: the file has blocks there */
    bool laying;   /* zeroes are on their way behind `laid` */
    bool checkpointing, checkpointed; /* under way; done, and not yet taken note of */
    uint64_t passed_head, passed_seq; /* where the tail goes */
    CoQueue waiting;                  /* for the end of either */
} Qcow2Journal;

typedef struct Qcow2Snapshot {
    uint64_t l1_offset;
    uint32_t l1_size;
    char *id, *name;
    uint32_t date_s, date_ns;
    uint64_t clock_ns, vm_state_size, disk_size, icount;
    uint32_t extra_size;
    uint8_t *unknown_extra; /* behind the 24 bytes that we know */
    uint32_t unknown_extra_size;
} Qcow2Snapshot;

typedef struct Qcow2BitmapEntry {
    uint64_t table_offset;
    uint32_t table_size, flags;
    uint8_t type, granularity_bits;
    char *name;
    uint8_t *extra;
    uint32_t extra_size;
} Qcow2BitmapEntry;

struct Qcow2Node {
    BlockNode node;
    BlockChild *data_child; /* the external data file, or NULL */
    Qcow2Header h;          /* as it stands in the image */
    Qcow2Geometry g;
    bool lazy;           /* refcounts may lag behind: the dirty bit says so */
    CryptoVolume *crypt; /* NULL: data is as it is (or is not looked at) */
    LuksHeader *luks;
    bool crypt_by_guest;           /* sectors are numbered by guest offset, not by place */
    char *key_secret, *key_format; /* as the options say; NULL: not */
    bool broken;                   /* corrupt: no writes any more; atomic */
    bool told_corrupt;
    bool opened, locks_made;
    bool pass_request, pass_snapshot, pass_other; /* discards to the file */
    bool view;                                    /* shows a snapshot (snapshot_load) */
    bool view_past_end;             /* reading the VM state: nothing of the backing image there */
    int holes_known;                /* 0: not yet, 1: no, 2: yes; atomic */
    bool raw_data;                  /* the external data file stands for itself */
    int overlap_level;              /* 0: none ... 3: all */
    uint64_t cache_bytes, file_end; /* as asked for; clusters of the file when it was opened */

    CoMutex table_lock, commit_lock, alloc_lock, compress_lock;
    pthread_mutex_t lock;
    /* The rest is protected by lock, but for what only the control plane changes. */
    uint64_t *l1;       /* host order; h.l1_size entries */
    uint64_t *reftable; /* host order */
    uint64_t reftable_entries;

    uint32_t page_bytes;
    Qcow2Page **hash;
    uint32_t hash_bits;
    GPtrArray *clock; /* all pages */
    uint32_t hand, max_pages;
    GPtrArray *dirty_pages, *home_pages;
    uint64_t dirty_bytes; /* of granules in dirty masks */

    GHashTable
        *tables;     /* cluster numbers of refcount blocks and active L2 tables: no data is written there */
    GArray *extents; /* of Qcow2Extent, sorted by guest; whole runs of an L2 page */
    bool groups_pay; /* reading neighbours of an L2 page told something the last time */
    uint64_t table_changes;    /* of L1 and L2 pages */
    GArray *skips;             /* of Qcow2Skip, sorted by guest */
    unsigned skips_generation; /* of the graph, for which they are true */

    Qcow2Alloc *allocs;
    uint64_t reserve, reserve_end; /* clusters */
    Qcow2Page *reserve_page;       /* pinned; has their refcounts */
    uint64_t window;               /* clusters that a refill looks for */
    uint64_t free_hint;            /* no free cluster below */
    uint64_t fresh_next;           /* clusters from here on were never used */
    bool can_grow;
    uint64_t compressed_at, compressed_end; /* room behind the last compressed cluster; 0: none */

    GArray *pending;  /* Qcow2Free: references to give up with the next commit */
    GArray *busy;     /* Qcow2Free: refcount 0 already, but not to be used yet */
    GArray *limbo[2]; /* Qcow2Free: wait for I/O that may still touch them */
    GArray *punching; /* Qcow2Free: are being discarded in the file */
    unsigned epoch;
    uint64_t io_count[2];

    GArray *kept; /* Qcow2Kept, in order of completion: all data since the last commit, if not data_lost */
    uint64_t kept_bytes;
    bool kept_order; /* some of it must not come after its mapping */
    bool data_lost;  /* there is more than what is kept: only a flush of the file makes it stable */
    bool order_lost; /* and some of that must be stable before the tables are */
    /* Host clusters of data that stands in the journal and may not be stable at its own place: of
     * transactions since the last checkpoint began, and of those which a checkpoint under way covers. */
    GHashTable *live[2];
    uint64_t ticket, committed; /* flushes asked for; covered by commits that are done */
    Qcow2Journal journal;

    uint8_t *inflated; /* the last decompressed cluster */
    uint64_t inflated_word;
    int inflated_cluster_valid;

    GArray *snapshots;        /* of Qcow2Snapshot */
    uint64_t snapshots_bytes; /* of the table in the image */
    GArray *bitmap_dir;       /* of Qcow2BitmapEntry: as in the image */
    bool bitmaps_in_use;      /* the image says that they are */
    bool check_mode;
};

static inline uint64_t qcow2_cluster_of(const Qcow2Node *s, uint64_t offset)
{
    return offset >> s->g.cluster_bits;
}
static inline uint64_t qcow2_round_up(const Qcow2Node *s, uint64_t bytes)
{
    return (bytes + s->g.cluster_size - 1) & ~(uint64_t)(s->g.cluster_size - 1);
}
/* Where the guest's bytes end: of the disk, but while VM state is saved or read. */
static inline uint64_t block_node_end(const Qcow2Node *s)
{
    return s->view_past_end ? UINT64_MAX / 2 : __atomic_load_n(&s->node.size, __ATOMIC_RELAXED);
}
static inline BlockChild *qcow2_data(const Qcow2Node *s)
{
    return s->data_child ? s->data_child : s->node.file;
}
/* Tells blkdebug, if that is the file. In a coroutine, without locks: it may wait, and requests that follow
 * may fail. */
#define QCOW2_EVENT(s, event) block_debug_event((s)->node.file, QAPI_BLKDEBUG_EVENT_##event)
static inline const char *qcow2_what(const Qcow2Node *s)
{
    return s->node.filename ? s->node.filename : s->node.what;
}

/* ---- meta.c ---- */
void qcow2_meta_init(Qcow2Node *s, uint64_t cache_bytes);
void qcow2_meta_free(Qcow2Node *s);
/* Drops all clean pages (drained). */
void qcow2_meta_drop(Qcow2Node *s);
/* The page at offset, pinned; NULL: not in memory. lock is held. */
Qcow2Page *qcow2_page_find(Qcow2Node *s, uint64_t offset);
/* The same, read if needed. lock is not held. */
int qcow2_page_get(Qcow2Node *s, uint64_t offset, Qcow2PageKind kind, Qcow2Page **page);
/* The same, with its neighbours: where the page must be read, all of `count` pages from `first` on that are
 * not in memory are, with one request. pages: those that were read, and the wanted one, pinned; others NULL.
 * lock is not held. */
int qcow2_pages_get(Qcow2Node *s, uint64_t first, uint32_t count, uint32_t wanted, Qcow2PageKind kind,
                    Qcow2Page **pages);
/* The place is a new table's, with these contents (NULL: zeroes), which are in the file: pages of what was
 * there before go. lock is not held. */
void qcow2_pages_forget(Qcow2Node *s, uint64_t offset, uint64_t bytes, const uint8_t *contents);
void qcow2_page_put(Qcow2Node *s, Qcow2Page *page);                                  /* lock held */
void qcow2_page_unpin(Qcow2Node *s, Qcow2Page *page);                                /* takes it */
void qcow2_page_dirty(Qcow2Node *s, Qcow2Page *page, uint32_t from, uint32_t bytes); /* lock held */
int qcow2_read_padded(Qcow2Node *s, uint64_t offset, void *buf, uint64_t bytes);

/* ---- commit.c ---- */
/* Makes all that was done before stable. */
int qcow2_commit(Qcow2Node *s);
/* All tables at their own places and stable, the journal empty. Control plane or commit_lock not held. */
int qcow2_checkpoint(Qcow2Node *s);
/* Whether tables in memory are newer than those in the image. */
bool qcow2_has_work(Qcow2Node *s);
/* Commits where the tables' dirty part has grown large; between requests' steps, without locks. */
int qcow2_relieve(Qcow2Node *s);
/* Before a request changes tables: where the image asks for a journal it is there from the first change on.
 */
int qcow2_begin_change(Qcow2Node *s);
int qcow2_set_dirty_bit(Qcow2Node *s, bool on);
/* For the journal's own start and stop, with commit_lock held: everything at its own place and stable, by way
 * of the journal; or without it. */
int qcow2_commit_home(Qcow2Node *s);
int qcow2_commit_ordered(Qcow2Node *s);

/* ---- journal.c ---- */
/* How large a journal should be for a disk of that size, in bytes. */
static inline uint32_t qcow2_journal_wish(uint64_t disk)
{
    return (uint32_t)(CLAMP(disk / 512, 1u << 20, 8u << 20) & ~UINT64_C(0xffff));
}
typedef struct Qcow2Batch {
    GPtrArray *pages;  /* pinned */
    GArray *masks;     /* two uint64_t each: what they had of dirty granules */
    uint8_t *contents; /* pages->len of page_bytes */
    GArray *kept;      /* of Qcow2Kept */
    GPtrArray *home;   /* for a checkpoint: pages, pinned by home_dirty, and what they hold with this batch */
    uint8_t *home_contents;
    bool kept_order, data_lost, order_lost; /* as of the node */
} Qcow2Batch;
int qcow2_journal_start(Qcow2Node *s);
/* Writes one transaction; commit_lock held. stable: it is, when this returns. -ENOSPC: does not fit now. */
int qcow2_journal_append(Qcow2Node *s, const Qcow2Batch *batch, bool stable);
/* It is stable: the next one goes behind it. */
void qcow2_journal_committed(Qcow2Node *s);
/* Has the part that will be written next laid out ahead. commit_lock held. */
void qcow2_journal_lay(Qcow2Node *s);
int qcow2_journal_stop(Qcow2Node *s);
/* Gives back the clusters of a journal that has ended. */
bool qcow2_journal_reclaim(Qcow2Node *s, GError **error);
/* At open, before any table is read: brings the file up to date and leaves the image without a journal. */
bool qcow2_journal_replay(Qcow2Node *s, GError **error);

/* ---- refcount.c ---- */
int qcow2_refcounts_load(Qcow2Node *s, GError **error);
/* Clusters for the caller, contiguous, at most `want`: *got of them. Their refcounts are to be set when they
 * are linked. alloc->host... are filled in and alloc must be in s->allocs. lock is held, and may be released.
 */
int qcow2_take_clusters(Qcow2Node *s, uint64_t want, Qcow2Alloc *alloc);
/* Sets the refcounts of alloc's new clusters to 1. lock held. */
void qcow2_link_clusters(Qcow2Node *s, Qcow2Alloc *alloc);
/* One reference to `count` clusters from `cluster` on goes away with the next commit. lock held. */
void qcow2_free_later(Qcow2Node *s, uint64_t cluster, uint64_t count, bool punch);
/* Applies pending ones to the refcount pages. */
int qcow2_apply_frees(Qcow2Node *s, GArray *frees);
void qcow2_release_frees(Qcow2Node *s);
unsigned qcow2_io_begin(Qcow2Node *s); /* lock held */
void qcow2_io_end(Qcow2Node *s, unsigned epoch);
/* Control plane: contiguous clusters with refcount 1, for tables; the refcounts are in dirty pages. 0 on
 * error with *ret set. */
uint64_t qcow2_alloc_table(Qcow2Node *s, uint64_t bytes, int *ret);
int qcow2_refcount_get(Qcow2Node *s, uint64_t cluster, uint64_t *value);
int qcow2_refcount_add(Qcow2Node *s, uint64_t cluster, uint64_t count, int64_t add);
int qcow2_free_now(Qcow2Node *s, uint64_t offset, uint64_t bytes, bool punch);
bool qcow2_is_ours(Qcow2Node *s, uint64_t offset, uint64_t bytes);
int qcow2_refblock_ensure(Qcow2Node *s, uint64_t cluster);

/* ---- map.c ---- */
typedef struct Qcow2Map {
    Qcow2Kind kind;
    bool copied;
    uint64_t host;  /* of the offset asked, where it has a place */
    uint64_t word;  /* of a compressed cluster */
    uint64_t bytes; /* for how far */
} Qcow2Map;
/* What is at offset, for at most bytes. epoch: NULL, or an io_begin() done with the mapping. lock not held.
 */
int qcow2_map(Qcow2Node *s, uint64_t offset, uint64_t bytes, Qcow2Map *map, unsigned *epoch);
/* The L2 page of a guest offset in a table that may be written; made where there is none. Pinned. lock not
 * held. */
int qcow2_l2_writable(Qcow2Node *s, uint64_t offset, Qcow2Page **page);
int qcow2_l2_page(Qcow2Node *s, uint64_t offset, Qcow2Page **page);      /* *page NULL: no table */
uint32_t qcow2_l2_pos(const Qcow2Node *s, uint64_t offset);              /* bytes in the page */
void qcow2_extents_forget(Qcow2Node *s, uint64_t guest, uint64_t bytes); /* lock held */
void qcow2_extents_clear(Qcow2Node *s);
void qcow2_table_add(Qcow2Node *s, uint64_t offset);    /* lock held */
void qcow2_table_remove(Qcow2Node *s, uint64_t offset); /* lock held */
/* Fills tables from what is in memory. */
void qcow2_tables_collect(Qcow2Node *s);
/* NULL, or what a write of data there would overwrite. lock held. */
const char *qcow2_overlap(Qcow2Node *s, uint64_t offset, uint64_t bytes);
int qcow2_l1_load(Qcow2Node *s, GError **error);
/* Sets an L1 entry in memory and in its page. page: pinned, of qcow2_l1_page(). lock held. */
void qcow2_l1_set(Qcow2Node *s, Qcow2Page *page, uint64_t index, uint64_t entry);
int qcow2_l1_page(Qcow2Node *s, uint64_t index, Qcow2Page **page);
void qcow2_corrupt(Qcow2Node *s, bool fatal, uint64_t offset, const char *fmt, ...) G_GNUC_PRINTF(4, 5);

/* ---- read.c, write.c, zero.c, compress.c ---- */
int qcow2_co_preadv(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                    unsigned flags);
int qcow2_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                     unsigned flags);
int qcow2_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags);
int qcow2_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes);
int qcow2_discard(Qcow2Node *s, uint64_t offset, uint64_t bytes, bool full);
int qcow2_co_pwritev_compressed(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                                uint64_t from);
int qcow2_co_block_status(BlockNode *node, bool want_zero, uint64_t offset, uint64_t bytes, BlockStatus *st);
int qcow2_read_compressed(Qcow2Node *s, uint64_t word, uint64_t in_cluster, uint64_t bytes,
                          const BlockVec *vec, uint64_t from);
void qcow2_release_entry(Qcow2Node *s, Qcow2Entry e,
                         bool punch); /* what it refers to, with the next commit. lock held */
bool qcow2_alloc_conflict(Qcow2Node *s, uint64_t first,
                          uint64_t count); /* lock held; waits and drops lock if so */
void qcow2_alloc_add(Qcow2Node *s, Qcow2Alloc *a, uint64_t first, uint64_t count);
void qcow2_alloc_remove(Qcow2Node *s, Qcow2Alloc *a);
/* Data has been written: the next commit makes it stable. order: not after its mapping. lock held. */
void qcow2_keep_data(Qcow2Node *s, uint64_t host, uint64_t bytes, const BlockVec *vec, uint64_t from,
                     bool order);
/* The same of what is not kept: tables at their own places, compressed data. lock held. */
void qcow2_lose_data(Qcow2Node *s);
void qcow2_kept_clear(GArray *kept);
/* Loads what (de)compresses so. Before the two below. */
bool qcow2_compression_load(Qcow2Compression type, GError **error);
int qcow2_inflate(Qcow2Compression type, const uint8_t *in, size_t in_size, uint8_t *out, size_t out_size);
ssize_t qcow2_deflate(Qcow2Compression type, const uint8_t *in, size_t in_size, uint8_t *out,
                      size_t out_size);

/* ---- encrypt.c ---- */
/* After the header was read. */
bool qcow2_encrypt_open(Qcow2Node *s, GError **error);
void qcow2_encrypt_close(Qcow2Node *s);
json_object *qcow2_encrypt_info(Qcow2Node *s);
/* In place; guest and host: of the first byte, whole sectors. */
void qcow2_encrypt(Qcow2Node *s, uint64_t guest, uint64_t host, uint8_t *buf, uint64_t bytes);
int qcow2_read_encrypted(Qcow2Node *s, uint64_t guest, uint64_t host, uint64_t bytes, const BlockVec *vec,
                         uint64_t from);
bool qcow2_encrypt_amend(Qcow2Node *s, json_object *options, bool force, GError **error);

/* ---- header.c ---- */
int qcow2_write_header(Qcow2Node *s); /* h into the image; not flushed */

/* ---- snapshot.c ---- */
/* What a check that repairs did to the table while it was read. */
typedef struct Qcow2SnapshotRepair {
    uint32_t dropped, trimmed; /* snapshots that are gone; entries that lost extra data */
} Qcow2SnapshotRepair;
/* repair: NULL, or cuts off what cannot be kept (and says so). */
bool qcow2_snapshots_load(Qcow2Node *s, Qcow2SnapshotRepair *repair, GError **error);
/* Whether its L1 table can be looked at. */
bool qcow2_snapshot_l1_valid(const Qcow2Node *s, const Qcow2Snapshot *snap, GError **error);
void qcow2_snapshots_free(Qcow2Node *s);
bool qcow2_snapshot_create(BlockNode *node, BlockSnapshotInfo *info, GError **error);
bool qcow2_snapshot_goto(BlockNode *node, const char *id, GError **error);
bool qcow2_snapshot_delete(BlockNode *node, const char *id, GError **error);
bool qcow2_snapshot_list(BlockNode *node, GArray *list, GError **error);
bool qcow2_snapshot_load(BlockNode *node, const char *id, GError **error);
int qcow2_co_load_vmstate(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec);
int qcow2_co_save_vmstate(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec);
int qcow2_snapshots_write(Qcow2Node *s);
/* Adds `add` (-1, 0, 1) to the refcounts of all that an L1 table reaches and recomputes COPIED. */
int qcow2_update_refcounts(Qcow2Node *s, uint64_t l1_offset, uint32_t l1_size, int add);
uint64_t qcow2_vm_state_offset(const Qcow2Node *s);

/* ---- check.c ---- */
/* New refcount structures of that width with the counts of the old ones, which are given up. */
int qcow2_rebuild_refcounts(Qcow2Node *s, uint32_t order, GError **error);
/* Counts that an operation raised before it failed go down again; says nothing. */
void qcow2_undo_counts(Qcow2Node *s);
bool qcow2_co_check(BlockNode *node, BlockCheckResult *result, unsigned fix, GError **error);

/* ---- truncate.c ---- */
int qcow2_co_truncate(BlockNode *node, uint64_t size, bool exact, QapiPreallocMode prealloc, unsigned flags,
                      GError **error);
int qcow2_grow_l1(Qcow2Node *s, uint64_t entries);
int qcow2_preallocate(Qcow2Node *s, uint64_t from, uint64_t to, QapiPreallocMode mode, GError **error);
int qcow2_co_make_empty(BlockNode *node);

/* ---- create.c, amend.c ---- */
extern const BlockOption qcow2_create_options[];
bool qcow2_co_create(BlockGraph *graph, QapiBlockdevCreateOptions *options, GError **error);
bool qcow2_co_create_named(BlockGraph *graph, const char *filename, json_object *options, GError **error);
bool qcow2_co_measure(BlockGraph *graph, json_object *options, BlockNode *source, BlockMeasure *measure,
                      GError **error);
bool qcow2_co_amend(BlockNode *node, json_object *options, bool force,
                    void (*progress)(void *opaque, uint64_t done, uint64_t total), void *opaque,
                    GError **error);
bool qcow2_change_backing(BlockNode *node, const char *filename, const char *format, bool require_format,
                          GError **error);

/* ---- bitmap.c ---- */
int qcow2_bitmaps_mark(Qcow2Node *s, bool in_use);
void qcow2_bitmaps_free(Qcow2Node *s);
bool qcow2_bitmaps_load(Qcow2Node *s, GError **error);
bool qcow2_bitmaps_store(Qcow2Node *s, GError **error);
bool qcow2_bitmap_can_store(BlockNode *node, const char *name, uint32_t granularity, GError **error);
bool qcow2_bitmap_remove_stored(BlockNode *node, const char *name, GError **error);
/* For check: calls fn for every cluster range that bitmaps use. */
int qcow2_bitmaps_walk(Qcow2Node *s, void (*fn)(void *opaque, uint64_t offset, uint64_t bytes), void *opaque);
json_object *qcow2_bitmaps_info(Qcow2Node *s);
/* What the node's persistent bitmaps need in an image with that cluster size. */
uint64_t qcow2_bitmaps_bytes(const BlockNode *node, uint32_t cluster_size);

#endif
