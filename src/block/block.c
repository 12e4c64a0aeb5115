/*
 * The registry of back ends, and their requests. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/block_internal.h"
#include "block/exports.h"
#include "block/graph/dirty_bitmap.h"
#include "block/operate.h"

#include "base/error.h"
#include "io/options.h"
#include "qapi/visitor.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* How long requests of a kind took: bins[i] counts those below bounds[i], the last one the rest. */
typedef struct Histogram {
    guint count;             /* of bounds */
    uint64_t *bounds, *bins; /* bins: atomic */
} Histogram;

typedef struct BlockStats {
    uint64_t bytes[5], ops[5], failed[5], invalid[5], time_ns[5]; /* atomic, by BlockOp */
    uint64_t highest_write;
    Histogram *histograms[5]; /* by BlockOp; NULL: not counted. Changed while drained */
} BlockStats;

struct BlockBackend {
    BlockRegistry *reg;
    char *name;       /* "" for that of a bare node */
    BlockChild *root; /* NULL: no medium */
    bool write_cache; /* atomic */
    char *serial;
    BlockOnError on_read_error, on_write_error, device_on_read_error, device_on_write_error;
    int refused_in_flight; /* atomic */
    BlockStats stats;
    bool attached, attached_write;
    char *qdev;
    const BlockDevOps *ops;
    void *ops_opaque;
    int io_status; /* atomic: 0 or the errno that stopped the machine */
};

struct BlockRegistry {
    BlockGraph *graph;
    JobManager *jobs;
    BlockExports *exports;
    Loop *loop;
    FdTable *fds;
    GPtrArray *backends; /* of BlockBackend * */
    GPtrArray *drives;   /* of BlockDrive * */
    BlockErrorHook *error_hook;
    void *error_opaque;
};

static BlockRegistry *property_registry; /* see block_property_set_registry */

static int64_t now_ns(void)
{
    return clock_now_ns(NULL, CLOCK_TYPE_REALTIME);
}

/* ---- the registry ---- */

static void drive_free(gpointer p)
{
    BlockDrive *drive = p;

    g_free(drive->interface);
    g_free(drive->media);
    g_free(drive->serial);
    g_free(drive);
}

static bool name_taken(void *opaque, const char *name)
{
    BlockRegistry *reg = opaque;

    for (guint i = 0; i < reg->backends->len; i++) {
        if (strcmp(((BlockBackend *)g_ptr_array_index(reg->backends, i))->name, name) == 0) {
            return true;
        }
    }
    return false;
}

static BlockNode *device_node(void *opaque, const char *id)
{
    BlockRegistry *reg = opaque;

    for (guint i = 0; i < reg->backends->len; i++) {
        BlockBackend *bb = g_ptr_array_index(reg->backends, i);

        if (*bb->name && strcmp(bb->name, id) == 0) {
            return bb->root ? bb->root->node : NULL;
        }
    }
    return NULL;
}

BlockRegistry *block_registry_new(Loop *loop, FdTable *fds)
{
    BlockRegistry *reg = g_new0(BlockRegistry, 1);

    reg->loop = loop;
    reg->fds = fds;
    reg->graph = block_graph_new(loop, fds);
    block_graph_set_name_check(reg->graph, name_taken, reg);
    block_graph_set_device_lookup(reg->graph, device_node, reg);
    reg->jobs = job_manager_new(reg->graph);
    reg->exports = block_exports_new(reg);
    reg->backends = g_ptr_array_new();
    reg->drives = g_ptr_array_new_with_free_func(drive_free);
    return reg;
}

static void histogram_free(Histogram *h);

static void backend_free(BlockBackend *bb)
{
    bb_detach_device(bb);
    block_root_free(bb->root);
    for (size_t i = 0; i < G_N_ELEMENTS(bb->stats.histograms); i++) {
        histogram_free(bb->stats.histograms[i]);
    }
    g_free(bb->name);
    g_free(bb->serial);
    g_free(bb->qdev);
    g_free(bb);
}

void block_registry_free(BlockRegistry *reg)
{
    if (!reg) {
        return;
    }
    if (property_registry == reg) {
        property_registry = NULL;
    }
    job_manager_free(reg->jobs);
    block_exports_free(reg->exports);
    for (guint i = 0; i < reg->backends->len; i++) {
        BlockBackend *bb = g_ptr_array_index(reg->backends, i);

        bb_drain(bb, reg->loop);
        backend_free(bb);
    }
    block_graph_free(reg->graph);
    g_ptr_array_unref(reg->drives);
    g_ptr_array_unref(reg->backends);
    g_free(reg);
}

void block_property_set_registry(BlockRegistry *reg)
{
    property_registry = reg;
}

void block_registry_set_error_hook(BlockRegistry *reg, BlockErrorHook *hook, void *opaque)
{
    reg->error_hook = hook;
    reg->error_opaque = opaque;
}

FdTable *block_registry_fds(BlockRegistry *reg)
{
    return reg->fds;
}

GPtrArray *block_registry_drive_list(BlockRegistry *reg)
{
    return reg->drives;
}

GPtrArray *block_backends(BlockRegistry *reg)
{
    return reg->backends;
}

GPtrArray *block_drives(BlockRegistry *reg)
{
    return reg->drives;
}

BlockGraph *block_registry_graph(BlockRegistry *reg)
{
    return reg->graph;
}

BlockExports *block_registry_exports(BlockRegistry *reg)
{
    return reg->exports;
}

JobManager *block_registry_jobs(BlockRegistry *reg)
{
    return reg->jobs;
}

/* ---- nodes ---- */

bool blockdev_add(BlockRegistry *reg, QapiBlockdevOptions *options, GError **error)
{
    if (!options->node_name) {
        return error_set(error, "'node-name' must be specified for the root node");
    }
    return block_node_open(reg->graph, options, false, 0, error) != NULL;
}

bool blockdev_add_text(BlockRegistry *reg, const char *text, GError **error)
{
    g_autoptr(QapiBlockdevOptions) options = NULL;

    return qapi_option_blockdev(text, &options, error) && blockdev_add(reg, options, error);
}

static void forget_backend(BlockBackend *bb)
{
    BlockRegistry *reg = bb->reg;

    g_ptr_array_remove(reg->backends, bb);
    backend_free(bb);
}

/* The backend without a name that was made for a node. */
static BlockBackend *backend_of(BlockRegistry *reg, BlockNode *node)
{
    for (guint i = 0; i < reg->backends->len; i++) {
        BlockBackend *bb = g_ptr_array_index(reg->backends, i);

        if (!*bb->name && bb_node(bb) == node) {
            return bb;
        }
    }
    return NULL;
}

bool blockdev_del(BlockRegistry *reg, const char *node_name, GError **error)
{
    BlockNode *node = block_node_find(reg->graph, node_name);
    BlockBackend *bb = node ? backend_of(reg, node) : NULL;

    if (bb && !bb->attached) {
        bb_drain(bb, reg->loop);
        forget_backend(bb);
    }
    return block_node_del(reg->graph, node_name, error);
}

/* ---- backends ---- */

static char *describe_backend(void *opaque)
{
    BlockBackend *bb = opaque;

    return *bb->name  ? g_strdup_printf("block device '%s'", bb->name)
           : bb->qdev ? g_strdup_printf("block device '%s'", bb->qdev)
                      : g_strdup("an unnamed block device");
}

static void backend_resized(void *opaque)
{
    BlockBackend *bb = opaque;

    if (bb->ops && bb->ops->resized) {
        bb->ops->resized(bb->ops_opaque);
    }
}

static const BlockRootOps backend_ops = {
    .kind = "device",
    .describe = describe_backend,
    .resized = backend_resized,
};

BlockBackend *block_backend_new(BlockRegistry *reg, const char *name, BlockNode *node, GError **error)
{
    BlockBackend *bb = g_new0(BlockBackend, 1);

    bb->reg = reg;
    bb->name = g_strdup(name);
    bb->write_cache = true;
    bb->on_read_error = BLOCK_ON_ERROR_REPORT;
    bb->on_write_error = BLOCK_ON_ERROR_ENOSPC;
    if (node) {
        bb->root = block_root_new(node, "root", 0, BLOCK_PERM_ALL, &backend_ops, bb, error);
        if (!bb->root) {
            g_free(bb->name);
            g_free(bb);
            return NULL;
        }
    }
    g_ptr_array_add(reg->backends, bb);
    return bb;
}

void block_backend_configure(BlockBackend *bb, bool write_cache, BlockOnError on_read, BlockOnError on_write,
                             const char *serial)
{
    bb->write_cache = write_cache;
    if (on_read != BLOCK_ON_ERROR_AUTO) {
        bb->on_read_error = on_read;
    }
    if (on_write != BLOCK_ON_ERROR_AUTO) {
        bb->on_write_error = on_write;
    }
    bb->serial = g_strdup(serial);
}

static BlockBackend *find_named(BlockRegistry *reg, const char *name)
{
    for (guint i = 0; i < reg->backends->len; i++) {
        BlockBackend *bb = g_ptr_array_index(reg->backends, i);

        if (*bb->name && strcmp(bb->name, name) == 0) {
            return bb;
        }
    }
    return NULL;
}

static BlockBackend *find_device(BlockRegistry *reg, const char *id, GError **error)
{
    BlockBackend *bb = find_named(reg, id);

    for (guint i = 0; i < reg->backends->len && !bb; i++) {
        BlockBackend *other = g_ptr_array_index(reg->backends, i);

        if (other->qdev && (strcmp(other->qdev, id) == 0 ||
                            (g_str_has_prefix(other->qdev, "/machine/peripheral/") &&
                             strcmp(other->qdev + strlen("/machine/peripheral/"), id) == 0))) {
            bb = other;
        }
    }
    if (!bb) {
        error_set_class(error, ERROR_CLASS_DEVICE_NOT_FOUND, "Device '%s' not found", id);
    }
    return bb;
}

BlockChild *block_backend_root(BlockRegistry *reg, const char *id, GError **error)
{
    BlockBackend *bb = find_device(reg, id, error);

    if (bb && !bb->root) {
        error_set(error, "Device '%s' has no medium", id);
    }
    return bb ? bb->root : NULL;
}

BlockBackend *bb_find(BlockRegistry *reg, const char *name, GError **error)
{
    BlockBackend *bb = find_named(reg, name);
    BlockNode *node;

    if (bb) {
        return bb;
    }
    node = block_node_find(reg->graph, name);
    if (!node) {
        error_set(error, "Cannot find device='' nor node-name='%s'", name);
        return NULL;
    }
    bb = backend_of(reg, node);
    return bb ? bb : block_backend_new(reg, "", node, error);
}

BlockNode *bb_node(const BlockBackend *bb)
{
    return bb->root ? bb->root->node : NULL;
}

BlockNode *block_lookup(BlockRegistry *reg, const char *device, const char *node_name, GError **error)
{
    BlockBackend *bb = device && *device ? find_named(reg, device) : NULL;
    BlockNode *node;

    if (bb) {
        if (!bb_node(bb)) {
            error_set(error, "Device '%s' has no medium", device);
        }
        return bb_node(bb);
    }
    node = node_name && *node_name ? block_node_find(reg->graph, node_name) : NULL;
    if (!node && device && *device && !node_name) {
        node = block_node_find(reg->graph, device);
    }
    if (!node) {
        error_set(error, "Cannot find device='%s' nor node-name='%s'", device ? device : "",
                  node_name ? node_name : "");
    }
    return node;
}

uint64_t bb_size(BlockBackend *bb)
{
    return bb->root ? block_size(bb->root) : 0;
}

bool bb_read_only(const BlockBackend *bb)
{
    return !bb_node(bb) || bb_node(bb)->read_only;
}

bool bb_has_medium(const BlockBackend *bb)
{
    return bb_node(bb) != NULL;
}

void bb_limits(const BlockBackend *bb, BlockLimits *limits)
{
    *limits = bb_node(bb) ? bb_node(bb)->limits
                          : (BlockLimits){ .request_alignment = 1,
                                           .memory_alignment = 1,
                                           .logical_block_size = 512,
                                           .physical_block_size = 512,
                                           .max_iov = 1024 };
}

bool bb_write_cache(const BlockBackend *bb)
{
    return __atomic_load_n(&bb->write_cache, __ATOMIC_RELAXED);
}

void bb_set_write_cache(BlockBackend *bb, bool on)
{
    __atomic_store_n(&bb->write_cache, on, __ATOMIC_RELAXED);
}

const char *bb_name(const BlockBackend *bb)
{
    return bb->name;
}

const char *bb_node_name(const BlockBackend *bb)
{
    return bb_node(bb) ? bb_node(bb)->name : NULL;
}

const char *bb_serial(const BlockBackend *bb)
{
    return bb->serial;
}

/* For messages: an anonymous back end goes by its node. */
static const char *bb_label(const BlockBackend *bb)
{
    return *bb->name ? bb->name : bb_node(bb) ? bb_node(bb)->name : "?";
}

bool bb_attach_device(BlockBackend *bb, const char *qdev, bool read_only, bool share_rw,
                      const BlockDevOps *ops, void *opaque, GError **error)
{
    if (bb->attached) {
        return error_set(error, "Drive '%s' is already in use by device '%s'", bb_label(bb),
                         bb->qdev ? bb->qdev : "?");
    }
    if (bb->root) {
        unsigned perm = BLOCK_PERM_CONSISTENT_READ | (read_only ? 0 : BLOCK_PERM_WRITE);
        unsigned shared = BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE_UNCHANGED | BLOCK_PERM_RESIZE |
                          (share_rw ? BLOCK_PERM_WRITE : 0);

        if (!read_only && bb_read_only(bb)) {
            return error_set(error, "Block node '%s' is read-only", bb_node(bb)->name);
        }
        if (!block_root_set_perm(bb->root, perm, shared, error)) {
            return false;
        }
    }
    bb->attached = true;
    bb->attached_write = !read_only;
    g_free(bb->qdev);
    bb->qdev = g_strdup(qdev);
    bb->ops = ops;
    bb->ops_opaque = opaque;
    return true;
}

void bb_detach_device(BlockBackend *bb)
{
    if (!bb->attached) {
        return;
    }
    if (bb->root) {
        block_root_set_perm(bb->root, 0, BLOCK_PERM_ALL, NULL);
    }
    bb->attached = false;
    bb->ops = NULL;
    g_clear_pointer(&bb->qdev, g_free);
}

void bb_set_qdev_path(BlockBackend *bb, const char *path)
{
    g_free(bb->qdev);
    bb->qdev = g_strdup(path);
}

/* ---- errors ---- */

static const char *const on_error_names[] = { "auto", "report", "ignore", "enospc", "stop" };
const EnumLookup block_on_error_lookup = { "BlockdevOnError", on_error_names, G_N_ELEMENTS(on_error_names) };

bool block_on_error_parse(const char *text, const char *what, bool is_read, BlockOnError *value,
                          GError **error)
{
    int n;

    if (!text) {
        return true;
    }
    n = enum_parse(&block_on_error_lookup, text, error);
    if (n < 0 || (is_read && n == BLOCK_ON_ERROR_ENOSPC)) {
        g_clear_error(error);
        return error_set(error, "%s: '%s' is no valid %s policy", what, text,
                         is_read ? "read error" : "write error");
    }
    *value = (BlockOnError)n;
    return true;
}

void bb_set_on_error(BlockBackend *bb, BlockOnError on_read, BlockOnError on_write)
{
    bb->device_on_read_error = on_read;
    bb->device_on_write_error = on_write;
}

BlockErrorAction bb_error(BlockBackend *bb, bool is_read, int error)
{
    BlockOnError policy = is_read ? bb->device_on_read_error : bb->device_on_write_error;
    BlockErrorAction action = BLOCK_ERROR_REPORT;

    if (policy == BLOCK_ON_ERROR_AUTO) {
        policy = is_read ? bb->on_read_error : bb->on_write_error;
    }
    if (policy == BLOCK_ON_ERROR_IGNORE) {
        action = BLOCK_ERROR_IGNORE;
    } else if (policy == BLOCK_ON_ERROR_STOP || (policy == BLOCK_ON_ERROR_ENOSPC && error == ENOSPC)) {
        action = BLOCK_ERROR_STOP;
        __atomic_store_n(&bb->io_status, error, __ATOMIC_RELAXED);
    }
    if (bb->reg->error_hook) {
        bb->reg->error_hook(bb->reg->error_opaque, bb, bb->qdev, bb_node_name(bb), is_read, action, error);
    }
    return action;
}

/* ---- requests ---- */

#define REQUEST_INLINE_IOV 8

typedef struct BackendRequest {
    BlockRequest req;
    BlockBackend *bb;
    BlockDone *done;
    void *opaque;
    BlockOp op;
    uint64_t offset, bytes;
    int64_t start_ns;
    struct iovec *iov; /* iov_inline or allocated */
    struct iovec iov_inline[REQUEST_INLINE_IOV];
} BackendRequest;

static void histogram_free(Histogram *h)
{
    if (h) {
        g_free(h->bounds);
        g_free(h->bins);
        g_free(h);
    }
}

static void histogram_count(Histogram *h, uint64_t ns)
{
    guint low = 0, high = h->count;

    while (low < high) { /* the first bound above it */
        guint middle = (low + high) / 2;

        if (h->bounds[middle] <= ns) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    __atomic_fetch_add(&h->bins[low], 1, __ATOMIC_RELAXED);
}

/* bounds NULL: none. */
static bool histogram_new(const GArray *bounds, Histogram **result, const char *id, const char *what,
                          GError **error)
{
    Histogram *h;

    *result = NULL;
    if (!bounds) {
        return true;
    }
    for (guint i = 0; i < bounds->len; i++) {
        if (!g_array_index(bounds, uint64_t, i) ||
            (i && g_array_index(bounds, uint64_t, i) <= g_array_index(bounds, uint64_t, i - 1))) {
            error_set(error, "Device '%s' set %s boundaries fail", id, what);
            error_append_hint(error, "They must be larger than 0, and each larger than the one before.");
            return false;
        }
    }
    if (bounds->len > 10000) {
        return error_set(error, "Device '%s': a histogram has at most 10000 boundaries", id);
    }
    h = g_new0(Histogram, 1);
    h->count = bounds->len;
    h->bounds = g_memdup2(bounds->data, bounds->len * sizeof(uint64_t));
    h->bins = g_new0(uint64_t, bounds->len + 1);
    *result = h;
    return true;
}

bool block_set_histograms(BlockRegistry *reg, const char *id, const GArray *all, const GArray *read,
                          const GArray *write, const GArray *flush, GError **error)
{
    static const BlockOp ops[] = { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH };
    static const char *const names[] = { "read", "write", "flush" };
    const GArray *bounds[] = { read ? read : all, write ? write : all, flush ? flush : all };
    BlockBackend *bb = find_device(reg, id, error);
    Histogram *new[3] = { NULL, NULL, NULL };
    BlockDrain *drain;
    bool none = !all && !read && !write && !flush, ok = bb != NULL;

    for (int i = 0; i < 3 && ok; i++) {
        ok = histogram_new(bounds[i], &new[i], id, names[i], error);
    }
    drain = ok && bb_node(bb) ? block_drain_begin(bb_node(bb)) : NULL;
    for (int i = 0; i < 3; i++) {
        if (ok && (bounds[i] || none)) { /* a kind that is not named stays as it is */
            histogram_free(bb->stats.histograms[ops[i]]);
            bb->stats.histograms[ops[i]] = new[i];
        } else {
            histogram_free(new[i]);
        }
    }
    block_drain_end(drain);
    return ok;
}

static void backend_done(void *opaque, int result)
{
    BackendRequest *r = opaque;
    BlockBackend *bb = r->bb;
    BlockStats *stats = &bb->stats;
    BlockDone *done = r->done;

    uint64_t took_ns = (uint64_t)MAX(now_ns() - r->start_ns, 0);

    opaque = r->opaque;
    if (result >= 0 && stats->histograms[r->op] && (r->bytes || r->op == BLOCK_FLUSH)) {
        histogram_count(stats->histograms[r->op], took_ns);
    }
    if (result < 0) {
        __atomic_fetch_add(&stats->failed[r->op], 1, __ATOMIC_RELAXED);
    } else {
        __atomic_fetch_add(&stats->ops[r->op], 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&stats->bytes[r->op], r->bytes, __ATOMIC_RELAXED);
        if (r->op == BLOCK_WRITE) {
            uint64_t end = r->offset + r->bytes,
                     old = __atomic_load_n(&stats->highest_write, __ATOMIC_RELAXED);

            while (old < end && !__atomic_compare_exchange_n(&stats->highest_write, &old, end, true,
                                                             __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
        }
    }
    __atomic_fetch_add(&stats->time_ns[r->op], took_ns, __ATOMIC_RELAXED);
    if (r->iov != r->iov_inline) {
        g_free(r->iov);
    }
    g_slice_free(BackendRequest, r);
    done(opaque, result);
}

static void refused(void *opaque, ssize_t result)
{
    BackendRequest *r = opaque;
    BlockBackend *bb = r->bb;

    if (result < 0) { /* else there is nothing to do: no bytes */
        __atomic_fetch_add(&bb->stats.invalid[r->op], 1, __ATOMIC_RELAXED);
    }
    backend_done(r, (int)result);
    __atomic_fetch_sub(&bb->refused_in_flight, 1, __ATOMIC_SEQ_CST);
}

static void submit(BlockBackend *bb, Loop *loop, BlockOp op, uint64_t offset, uint64_t bytes,
                   const struct iovec *iov, int iov_count, unsigned flags, BlockDone *done, void *opaque)
{
    BackendRequest *r = g_slice_new(BackendRequest);
    uint64_t size = bb_size(bb);
    int result = 0, n = 0;

    block_request_init(&r->req);
    r->bb = bb;
    r->op = op;
    r->done = done;
    r->opaque = opaque;
    r->offset = offset;
    r->start_ns = now_ns();
    r->iov = r->iov_inline;
    if (iov_count > REQUEST_INLINE_IOV) {
        r->iov = g_new(struct iovec, iov_count);
    }
    for (int i = 0; i < iov_count; i++) {
        if (iov[i].iov_len > BLOCK_MAX_REQUEST || bytes > BLOCK_MAX_REQUEST) {
            result = -EINVAL;
            break;
        }
        bytes += iov[i].iov_len;
        if (iov[i].iov_len) { /* empty pieces only make work */
            r->iov[n++] = iov[i];
        }
    }
    r->bytes = bytes;
    if (!bb->root) {
        result = -ENOMEDIUM;
    } else if (!result && (offset > size || bytes > size - offset)) {
        result = -EIO;
    } else if (op != BLOCK_READ && op != BLOCK_FLUSH && bb_read_only(bb)) {
        result = -EPERM;
    }
    if (result || (op != BLOCK_FLUSH && !bytes)) {
        __atomic_fetch_add(&bb->refused_in_flight, 1, __ATOMIC_SEQ_CST);
        loop_complete_later(loop, refused, r, result);
        return;
    }
    if ((op == BLOCK_WRITE || op == BLOCK_WRITE_ZEROES) && !bb_write_cache(bb)) {
        flags |= BLOCK_REQ_FUA;
    }
    r->req.loop = loop;
    r->req.op = op;
    r->req.flags = flags;
    r->req.offset = offset;
    r->req.bytes = bytes;
    r->req.iov = r->iov;
    r->req.iov_count = n;
    r->req.done = backend_done;
    r->req.opaque = r;
    block_root_submit(bb->root, &r->req);
}

void bb_readv(BlockBackend *bb, Loop *loop, uint64_t offset, const struct iovec *iov, int iov_count,
              BlockDone *done, void *opaque)
{
    submit(bb, loop, BLOCK_READ, offset, 0, iov, iov_count, 0, done, opaque);
}

void bb_writev(BlockBackend *bb, Loop *loop, uint64_t offset, const struct iovec *iov, int iov_count,
               unsigned flags, BlockDone *done, void *opaque)
{
    submit(bb, loop, BLOCK_WRITE, offset, 0, iov, iov_count, flags, done, opaque);
}

void bb_flush(BlockBackend *bb, Loop *loop, BlockDone *done, void *opaque)
{
    submit(bb, loop, BLOCK_FLUSH, 0, 0, NULL, 0, 0, done, opaque);
}

void bb_discard(BlockBackend *bb, Loop *loop, uint64_t offset, uint64_t bytes, BlockDone *done, void *opaque)
{
    submit(bb, loop, BLOCK_DISCARD, offset, bytes, NULL, 0, 0, done, opaque);
}

void bb_write_zeroes(BlockBackend *bb, Loop *loop, uint64_t offset, uint64_t bytes, unsigned flags,
                     BlockDone *done, void *opaque)
{
    submit(bb, loop, BLOCK_WRITE_ZEROES, offset, bytes, NULL, 0, flags, done, opaque);
}

void bb_drain(BlockBackend *bb, Loop *loop)
{
    while (__atomic_load_n(&bb->refused_in_flight, __ATOMIC_SEQ_CST) ||
           (bb->root && __atomic_load_n(&bb->root->in_flight, __ATOMIC_SEQ_CST))) {
        if (!loop_iterate_io(loop, false)) {
            usleep(20);
        }
    }
}

typedef struct SyncRequest {
    int result;
    bool done;
} SyncRequest;

static void sync_done(void *opaque, int result)
{
    SyncRequest *sync = opaque;

    sync->result = result;
    sync->done = true;
}

static int sync_rw(BlockBackend *bb, uint64_t offset, struct iovec iov, bool write)
{
    SyncRequest sync = { 0 };
    /* In the main thread its own loop, since what the request waits for (a job's piece) may be going on
     * there. */
    bool is_main = loop_is_current(bb->reg->loop);
    Loop *loop = is_main ? bb->reg->loop : loop_new(NULL, NULL);

    if (!loop) {
        return -EMFILE;
    }
    if (write) {
        bb_writev(bb, loop, offset, &iov, 1, 0, sync_done, &sync);
    } else {
        bb_readv(bb, loop, offset, &iov, 1, sync_done, &sync);
    }
    while (!sync.done) {
        if (!loop_iterate_io(loop, true)) {
            usleep(20);
        }
    }
    if (!is_main) {
        loop_free(loop);
    }
    return sync.result;
}

int bb_pread(BlockBackend *bb, uint64_t offset, void *buf, size_t size)
{
    return sync_rw(bb, offset, (struct iovec){ buf, size }, false);
}

int bb_pwrite(BlockBackend *bb, uint64_t offset, const void *buf, size_t size)
{
    return sync_rw(bb, offset, (struct iovec){ (void *)buf, size }, true);
}

/* ---- resizing ---- */

bool block_resize(BlockRegistry *reg, const char *device, const char *node_name, uint64_t size,
                  GError **error)
{
    BlockNode *node = block_lookup(reg, device, node_name, error);
    BlockChild *root;
    BlockDrain *drain;
    bool ok;

    if (!node) {
        return false;
    }
    if (size % 512 || size > G_MAXINT64) {
        return error_set(error, "The new size must be a multiple of 512 bytes");
    }
    root = block_root_new(node, "resize", BLOCK_PERM_RESIZE, BLOCK_PERM_ALL, NULL, NULL, error);
    if (!root) {
        return false;
    }
    drain = block_drain_begin(node);
    block_root_free(root); /* one that the drain does not stop */
    root = block_root_new(node, "resize", BLOCK_PERM_RESIZE, BLOCK_PERM_ALL, NULL, NULL, error);
    ok = root && blk_truncate(root, size, true, QAPI_PREALLOC_MODE_OFF, 0, error);
    block_root_free(root);
    block_drain_end(drain);
    return ok;
}

/* ---- queries ---- */

static void put(json_object *o, const char *name, const char *value)
{
    json_object_object_add(o, name, json_object_new_string(value));
}

static void put_u64(json_object *o, const char *name, uint64_t value)
{
    json_object_object_add(o, name, json_object_new_uint64(value));
}

static void put_bool(json_object *o, const char *name, bool value)
{
    json_object_object_add(o, name, json_object_new_boolean(value));
}

static json_object *bitmaps_info(BlockNode *node)
{
    json_object *list = json_object_new_array();

    for (guint i = 0; i < node->bitmaps->len; i++) {
        DirtyBitmap *b = g_ptr_array_index(node->bitmaps, i);
        json_object *o = json_object_new_object();

        if (b->name) {
            put(o, "name", b->name);
        }
        put_u64(o, "count", dirty_bitmap_count(b));
        put_u64(o, "granularity", b->granularity);
        put_bool(o, "recording", b->enabled || (b->successor && b->successor->enabled));
        put_bool(o, "busy", b->busy);
        put_bool(o, "persistent", b->persistent);
        if (b->inconsistent) {
            put_bool(o, "inconsistent", true);
        }
        json_object_array_add(list, o);
    }
    return list;
}

static json_object *node_info(BlockNode *node, bool write_cache)
{
    static const char *const zero[] = { "bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr" };
    json_object *o = json_object_new_object(), *cache = json_object_new_object(),
                *image = json_object_new_object();
    BlockNode *file = block_protocol_node(node);
    const char *filename = node->filename ? node->filename : "";
    BlockNode *below = block_cow_child(node);
    json_object *specific = block_node_specific_info(node);
    int depth = 0;
    BlockInfo info;

    for (size_t i = 0; i < G_N_ELEMENTS(zero); i++) {
        put_u64(o, zero[i], 0);
    }
    put(image, "filename", filename);
    put(image, "format", node->driver->name);
    put_u64(image, "virtual-size", node->size);
    put_u64(image, "actual-size", (uint64_t)MAX(block_node_allocated(node), 0));
    put_bool(image, "dirty-flag", block_node_info(node, &info, NULL) && info.is_dirty);
    if (info.cluster_size) {
        put_u64(image, "cluster-size", info.cluster_size);
    }
    if (node->backing_file) {
        g_autofree char *full = block_backing_full_name(node, NULL);

        put(image, "backing-filename", node->backing_file);
        put(image, "full-backing-filename", full ? full : node->backing_file);
        if (node->backing_format) {
            put(image, "backing-filename-format", node->backing_format);
        }
    }
    if (specific) {
        json_object_object_add(image, "format-specific", specific);
    }
    for (BlockNode *n = below; n; n = block_cow_child(block_skip_filters(n))) {
        depth++;
    }
    if (below) {
        put(o, "backing_file", below->filename);
    }
    json_object_object_add(o, "image", image);
    put(o, "file", filename);
    put(o, "node-name", node->name);
    put_bool(o, "ro", node->read_only);
    put(o, "drv", node->driver->name);
    if (node->bitmaps->len) {
        json_object_object_add(o, "dirty-bitmaps", bitmaps_info(node));
    }
    put_bool(o, "encrypted", node->encrypted);
    put_u64(o, "backing_file_depth", (uint64_t)depth);
    put(o, "detect_zeroes", enum_name(&qapi_BlockdevDetectZeroesOptions_lookup, node->detect_zeroes));
    put_u64(o, "write_threshold", __atomic_load_n(&node->write_threshold, __ATOMIC_RELAXED));
    put_bool(cache, "writeback", write_cache);
    put_bool(cache, "direct", file->cache_direct);
    put_bool(cache, "no-flush", file->cache_no_flush);
    json_object_object_add(o, "cache", cache);
    return o;
}

json_object *block_query(BlockRegistry *reg)
{
    json_object *list = json_object_new_array();

    for (guint i = 0; i < reg->backends->len; i++) {
        BlockBackend *bb = g_ptr_array_index(reg->backends, i);
        int status = __atomic_load_n(&bb->io_status, __ATOMIC_RELAXED);
        json_object *o;

        if (!*bb->name && !bb->attached) {
            continue;
        }
        o = json_object_new_object();
        put(o, "io-status", !status ? "ok" : status == ENOSPC ? "nospace" : "failed");
        put(o, "device", bb->name);
        put_bool(o, "locked", false);
        put_bool(o, "removable", false);
        if (bb_node(bb)) {
            json_object_object_add(o, "inserted", node_info(bb_node(bb), bb_write_cache(bb)));
        }
        if (bb->qdev) {
            put(o, "qdev", bb->qdev);
        }
        put(o, "type", "unknown");
        json_object_array_add(list, o);
    }
    return list;
}

json_object *block_query_nodes(BlockRegistry *reg, bool flat)
{
    GPtrArray *nodes = block_graph_nodes(reg->graph);
    json_object *list = json_object_new_array();

    for (guint i = 0; i < nodes->len; i++) {
        BlockNode *node = g_ptr_array_index(nodes, i);
        BlockBackend *bb = backend_of(reg, node);

        json_object_array_add(list, node_info(node, bb ? bb_write_cache(bb) : true));
    }
    return list;
}

static void put_histogram(json_object *o, const char *name, const Histogram *h)
{
    json_object *one, *bounds, *bins;

    if (!h) {
        return;
    }
    one = json_object_new_object();
    bounds = json_object_new_array();
    bins = json_object_new_array();
    for (guint i = 0; i <= h->count; i++) {
        if (i < h->count) {
            json_object_array_add(bounds, json_object_new_uint64(h->bounds[i]));
        }
        json_object_array_add(bins, json_object_new_uint64(__atomic_load_n(&h->bins[i], __ATOMIC_RELAXED)));
    }
    json_object_object_add(one, "boundaries", bounds);
    json_object_object_add(one, "bins", bins);
    json_object_object_add(o, name, one);
}

static json_object *stats_json(const BlockStats *s)
{
    static const struct {
        const char *name;
        BlockOp op;
    } kinds[] = {
        { "rd", BLOCK_READ }, { "wr", BLOCK_WRITE }, { "flush", BLOCK_FLUSH }, { "unmap", BLOCK_DISCARD }
    };
    json_object *o = json_object_new_object();

    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        BlockOp op = kinds[i].op;
        g_autofree char *ops = g_strdup_printf("%s_operations", kinds[i].name);
        g_autofree char *time = g_strdup_printf("%s_total_time_ns", kinds[i].name);
        g_autofree char *failed = g_strdup_printf("failed_%s_operations", kinds[i].name);
        g_autofree char *invalid = g_strdup_printf("invalid_%s_operations", kinds[i].name);
        uint64_t bad = __atomic_load_n(&s->invalid[op], __ATOMIC_RELAXED);

        put_u64(o, ops, __atomic_load_n(&s->ops[op], __ATOMIC_RELAXED));
        put_u64(o, time, __atomic_load_n(&s->time_ns[op], __ATOMIC_RELAXED));
        put_u64(o, failed, __atomic_load_n(&s->failed[op], __ATOMIC_RELAXED) - bad);
        put_u64(o, invalid, bad);
        if (op != BLOCK_FLUSH) {
            g_autofree char *bytes = g_strdup_printf("%s_bytes", kinds[i].name);
            g_autofree char *merged = g_strdup_printf("%s_merged", kinds[i].name);

            put_u64(o, bytes, __atomic_load_n(&s->bytes[op], __ATOMIC_RELAXED));
            put_u64(o, merged, 0);
        }
    }
    put_u64(o, "wr_highest_offset", __atomic_load_n(&s->highest_write, __ATOMIC_RELAXED));
    put_bool(o, "account_invalid", true);
    put_bool(o, "account_failed", true);
    json_object_object_add(o, "timed_stats", json_object_new_array());
    put_histogram(o, "rd_latency_histogram", s->histograms[BLOCK_READ]);
    put_histogram(o, "wr_latency_histogram", s->histograms[BLOCK_WRITE]);
    put_histogram(o, "flush_latency_histogram", s->histograms[BLOCK_FLUSH]);
    return o;
}

static json_object *node_stats(BlockNode *node, const BlockStats *stats)
{
    static const BlockStats none;
    json_object *o = json_object_new_object();

    put(o, "node-name", node->name);
    json_object_object_add(o, "stats", stats_json(stats ? stats : &none));
    if (node->file) {
        json_object_object_add(o, "parent", node_stats(node->file->node, stats));
    }
    if (node->backing) {
        json_object_object_add(o, "backing", node_stats(node->backing->node, NULL));
    }
    return o;
}

json_object *block_query_stats(BlockRegistry *reg, bool nodes)
{
    json_object *list = json_object_new_array();

    for (guint i = 0; nodes && i < block_graph_nodes(reg->graph)->len; i++) {
        BlockNode *node = g_ptr_array_index(block_graph_nodes(reg->graph), i);
        BlockBackend *bb = backend_of(reg, node);

        json_object_array_add(list, node_stats(node, bb ? &bb->stats : NULL));
    }
    for (guint i = 0; !nodes && i < reg->backends->len; i++) {
        BlockBackend *bb = g_ptr_array_index(reg->backends, i);
        json_object *o;

        if (!*bb->name && !bb->attached) {
            continue;
        }
        o = bb_node(bb) ? node_stats(bb_node(bb), &bb->stats) : json_object_new_object();
        if (!bb_node(bb)) {
            json_object_object_add(o, "stats", stats_json(&bb->stats));
        }
        put(o, "device", bb->name);
        if (bb->qdev) {
            put(o, "qdev", bb->qdev);
        }
        json_object_array_add(list, o);
    }
    return list;
}

char *block_info(BlockRegistry *reg)
{
    GString *s = g_string_new(NULL);

    for (guint i = 0; i < reg->backends->len; i++) {
        BlockBackend *bb = g_ptr_array_index(reg->backends, i);
        BlockNode *file = bb_node(bb) ? block_protocol_node(bb_node(bb)) : NULL;

        if (!*bb->name && !bb->attached) {
            continue;
        }
        g_string_append_printf(s, "%s%s", s->len ? "\n" : "", bb_label(bb));
        if (!file) {
            g_string_append(s, ": [not inserted]\n");
        } else {
            g_string_append_printf(s, " (%s): %s (%s%s)\n", bb_node(bb)->name,
                                   file->filename ? file->filename : "", bb_node(bb)->driver->name,
                                   bb_node(bb)->read_only ? ", read-only" : "");
        }
        if (bb->qdev) {
            g_string_append_printf(s, "    Attached to:      %s\n", bb->qdev);
        }
        if (file) {
            g_string_append_printf(
                s, "    Cache mode:       %s%s%s\n", bb_write_cache(bb) ? "writeback" : "writethrough",
                file->cache_direct ? ", direct" : "", file->cache_no_flush ? ", ignore flushes" : "");
        }
    }
    return g_string_free(s, FALSE);
}

/* ---- the property ---- */

static bool drive_property_get(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                               GError **error)
{
    BlockBackend *bb = *(BlockBackend **)field;
    g_autofree char *id = g_strdup(!bb ? "" : *bb->name ? bb->name : bb_node(bb) ? bb_node(bb)->name : "");

    return visit_str(v, name, &id, error);
}

static bool drive_property_set(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                               GError **error)
{
    BlockBackend **bb = field, *found;
    g_autofree char *id = NULL;

    if (!visit_str(v, name, &id, error)) {
        return false;
    }
    if (!*id) {
        *bb = NULL;
        return true;
    }
    found = property_registry ? bb_find(property_registry, id, NULL) : NULL;
    if (!found) {
        return error_set(error, "Property '%s.%s' can't find value '%s'", object_get_typename(obj), name, id);
    }
    if (found->attached) {
        return error_set(error, "Property '%s.%s' can't take value '%s', it's in use",
                         object_get_typename(obj), name, id);
    }
    *bb = found;
    return true;
}

const PropertyType property_type_drive = { .name = "str",
                                           .get = drive_property_get,
                                           .set = drive_property_set };
