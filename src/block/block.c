/*
 * The registry of nodes and backends, and requests. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/block_internal.h"

#include "base/error.h"
#include "base/nearest.h"
#include "io/options.h"
#include "qapi/visitor.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

SECTION_DECLARE(rhea_block_drivers, const BlockDriver);

typedef struct BlockStats {
    uint64_t bytes[5], ops[5], failed[5], invalid[5], time_ns[5]; /* atomic, by BlockOp */
    uint64_t highest_write;
} BlockStats;

struct BlockBackend {
    BlockRegistry *reg;
    char *name; /* "" for that of a bare node */
    BlockNode *node;
    bool write_cache; /* atomic */
    char *serial;
    BlockOnError on_read_error, on_write_error, device_on_read_error, device_on_write_error;
    int in_flight; /* atomic */
    BlockStats stats;
    bool attached, attached_write;
    char *qdev;
    const BlockDevOps *ops;
    void *ops_opaque;
    int io_status; /* atomic: 0 or the errno that stopped the machine */
};

struct BlockRegistry {
    Loop *loop;
    FdTable *fds;
    GPtrArray *nodes;    /* of BlockNode * */
    GPtrArray *backends; /* of BlockBackend * */
    GPtrArray *drives;   /* of BlockDrive * */
    unsigned next_name;
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

BlockRegistry *block_registry_new(Loop *loop, FdTable *fds)
{
    BlockRegistry *reg = g_new0(BlockRegistry, 1);

    reg->loop = loop;
    reg->fds = fds;
    reg->nodes = g_ptr_array_new();
    reg->backends = g_ptr_array_new();
    reg->drives = g_ptr_array_new_with_free_func(drive_free);
    return reg;
}

static void backend_free(BlockBackend *bb)
{
    bb_detach_device(bb);
    if (bb->node) {
        bb->node->users--;
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
    for (guint i = 0; i < reg->backends->len; i++) {
        BlockBackend *bb = g_ptr_array_index(reg->backends, i);

        bb_drain(bb, reg->loop);
        backend_free(bb);
    }
    while (reg->nodes->len) { /* parents were made after their children */
        block_node_close(g_ptr_array_index(reg->nodes, reg->nodes->len - 1));
    }
    g_ptr_array_unref(reg->drives);
    g_ptr_array_unref(reg->backends);
    g_ptr_array_unref(reg->nodes);
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

GPtrArray *block_drives(BlockRegistry *reg)
{
    return reg->drives;
}

const char *const *block_driver_names(void)
{
    static const char *names[32];
    size_t n = 0;

    SECTION_FOREACH(rhea_block_drivers, const BlockDriver, it)
    {
        if (n < G_N_ELEMENTS(names) - 1) {
            names[n++] = (*it)->name;
        }
    }
    return names;
}

/* ---- nodes ---- */

BlockNode *block_node_find(BlockRegistry *reg, const char *name)
{
    for (guint i = 0; i < reg->nodes->len; i++) {
        BlockNode *node = g_ptr_array_index(reg->nodes, i);

        if (strcmp(node->name, name) == 0) {
            return node;
        }
    }
    return NULL;
}

bool block_unknown_driver(const char *name, GError **error)
{
    static const char *const later[] = { "qcow2",     "qcow",     "vmdk",         "vdi",        "vhdx",
                                         "vpc",       "qed",      "luks",         "nbd",        "rbd",
                                         "ssh",       "nfs",      "iscsi",        "http",       "https",
                                         "ftp",       "ftps",     "curl",         "dmg",        "vvfat",
                                         "parallels", "bochs",    "cloop",        "quorum",     "nvme",
                                         "throttle",  "blkdebug", "copy-on-read", "host_cdrom", NULL };

    if (g_strv_contains(later, name)) {
        return error_set(
            error,
            "Block driver '%s' is not in this version: it has raw on file, host_device and null-co; "
            "qcow2 and the other formats come later",
            name);
    }
    error_set(error, "Unknown driver '%s'", name);
    nearest_hint(error, name, block_driver_names());
    return false;
}

static const BlockDriver *driver_find(const char *name, GError **error)
{
    SECTION_FOREACH(rhea_block_drivers, const BlockDriver, it)
    {
        if (strcmp((*it)->name, name) == 0) {
            return *it;
        }
    }
    block_unknown_driver(name, error);
    return NULL;
}

static bool common_open(BlockNode *node, const QapiBlockdevOptions *o, GError **error)
{
    node->read_only = o->has_read_only && o->read_only;
    node->auto_read_only = o->has_auto_read_only && o->auto_read_only;
    node->force_share = o->has_force_share && o->force_share;
    node->cache_direct = o->cache && o->cache->has_direct && o->cache->direct;
    node->cache_no_flush = o->cache && o->cache->has_no_flush && o->cache->no_flush;
    node->discard = o->has_discard && o->discard == QAPI_BLOCKDEV_DISCARD_OPTIONS_UNMAP;
    if (o->has_detect_zeroes && o->detect_zeroes != QAPI_BLOCKDEV_DETECT_ZEROES_OPTIONS_OFF) {
        return error_set(error, "%s: detect-zeroes=%s is not supported yet", node->what,
                         enum_name(&qapi_BlockdevDetectZeroesOptions_lookup, o->detect_zeroes));
    }
    if (node->force_share && !node->read_only) {
        return error_set(error, "%s: force-share=on can only be used with read-only images", node->what);
    }
    return true;
}

static void inherit(QapiBlockdevOptions *child, const QapiBlockdevOptions *parent)
{
#define INHERIT(field)                                \
    if (!child->has_##field && parent->has_##field) { \
        child->has_##field = true;                    \
        child->field = parent->field;                 \
    }
    INHERIT(read_only)
    INHERIT(auto_read_only)
    INHERIT(discard)
    INHERIT(force_share)
#undef INHERIT
    if (!child->cache && parent->cache) {
        child->cache = g_new(QapiBlockdevCacheOptions, 1);
        *child->cache = *parent->cache;
    }
}

BlockNode *block_node_by_ref(BlockNode *parent, const QapiBlockdevOptions *options, QapiBlockdevRef *ref,
                          GError **error)
{
    if (ref->kind == QAPI_BLOCKDEV_REF_DEFINITION) {
        inherit(ref->u_definition, options);
        return block_node_open(parent->reg, ref->u_definition, true, error);
    }
    BlockNode *node = block_node_find(parent->reg, ref->u_reference);
    if (!node) {
        error_set(error, "Cannot find device='' nor node-name='%s'", ref->u_reference);
    }
    return node;
}

BlockNode *block_node_open(BlockRegistry *reg, QapiBlockdevOptions *options, bool implicit, GError **error)
{
    const char *name = options->node_name;
    const BlockDriver *driver;
    BlockNode *node;

    driver = driver_find(enum_name(&qapi_BlockdevDriver_lookup, options->driver), error);
    if (!driver) {
        return NULL;
    }
    if (name && (!options_id_ok(name) || strlen(name) > 31)) {
        error_set(error, "Invalid node-name: '%s'", name);
        error_append_hint(
            error, "A node name begins with a letter and has up to 31 letters, digits, '-', '.' and '_'.");
        return NULL;
    }
    if (name && block_node_find(reg, name)) {
        error_set(error, "Duplicate nodes with node-name='%s'", name);
        return NULL;
    }
    for (guint i = 0; name && i < reg->backends->len; i++) {
        BlockBackend *bb = g_ptr_array_index(reg->backends, i);

        if (strcmp(bb->name, name) == 0) {
            error_set(error, "node-name=%s is conflicting with a device id", name);
            return NULL;
        }
    }
    node = g_malloc0(MAX(driver->instance_size, sizeof(BlockNode)));
    node->driver = driver;
    node->reg = reg;
    node->implicit_name = !name;
    node->name = name ? g_strdup(name) : g_strdup_printf("#block%03u", reg->next_name++);
    node->what = name ? g_strdup_printf("node '%s'", name) : g_strdup_printf("%s node", driver->name);
    node->detached_from_command = implicit;
    node->limits = (BlockLimits){ .request_alignment = 1,
                                  .memory_alignment = 1,
                                  .logical_block_size = 512,
                                  .physical_block_size = 512,
                                  .max_iov = 1024 };
    if (!common_open(node, options, error) || !driver->open(node, options, error)) {
        block_node_close(node);
        return NULL;
    }
    g_ptr_array_add(reg->nodes, node);
    return node;
}

void block_node_close(BlockNode *node)
{
    BlockNode *child = node->child;

    if (node->driver->close) {
        node->driver->close(node);
    }
    g_ptr_array_remove(node->reg->nodes, node);
    if (child) {
        child->users--;
        if (child->detached_from_command && !child->users) {
            block_node_close(child);
        }
    }
    g_free(node->name);
    g_free(node->what);
    g_free(node->filename);
    g_free(node);
}

bool blockdev_add(BlockRegistry *reg, QapiBlockdevOptions *options, GError **error)
{
    if (!options->node_name) {
        return error_set(error, "'node-name' must be specified for the root node");
    }
    return block_node_open(reg, options, false, error) != NULL;
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

bool blockdev_del(BlockRegistry *reg, const char *node_name, GError **error)
{
    BlockNode *node = block_node_find(reg, node_name);

    if (!node) {
        return error_set(error, "Failed to find node with node-name='%s'", node_name);
    }
    if (node->bb && !node->bb->attached) {
        bb_drain(node->bb, reg->loop);
        forget_backend(node->bb);
        node->bb = NULL;
    }
    if (node->users) {
        return error_set(error, "Block device %s is in use", node_name);
    }
    block_node_close(node);
    return true;
}

/* ---- backends ---- */

BlockBackend *block_backend_new(BlockRegistry *reg, const char *name, BlockNode *node)
{
    BlockBackend *bb = g_new0(BlockBackend, 1);

    bb->reg = reg;
    bb->name = g_strdup(name);
    bb->node = node;
    bb->write_cache = true;
    bb->on_read_error = BLOCK_ON_ERROR_REPORT;
    bb->on_write_error = BLOCK_ON_ERROR_ENOSPC;
    if (node) {
        node->users++;
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

BlockBackend *bb_find(BlockRegistry *reg, const char *name, GError **error)
{
    BlockNode *node;

    for (guint i = 0; i < reg->backends->len; i++) {
        BlockBackend *bb = g_ptr_array_index(reg->backends, i);

        if (*bb->name && strcmp(bb->name, name) == 0) {
            return bb;
        }
    }
    node = block_node_find(reg, name);
    if (!node) {
        error_set(error, "Cannot find device='' nor node-name='%s'", name);
        return NULL;
    }
    if (!node->bb) {
        node->bb = block_backend_new(reg, "", node);
    }
    return node->bb;
}

static BlockNode *protocol_node(BlockNode *node)
{
    while (node->child) {
        node = node->child;
    }
    return node;
}

uint64_t bb_size(BlockBackend *bb)
{
    return bb->node ? __atomic_load_n(&bb->node->size, __ATOMIC_RELAXED) : 0;
}

bool bb_read_only(const BlockBackend *bb)
{
    return !bb->node || bb->node->read_only;
}

bool bb_has_medium(const BlockBackend *bb)
{
    return bb->node != NULL;
}

void bb_limits(const BlockBackend *bb, BlockLimits *limits)
{
    *limits = bb->node ? bb->node->limits
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
    return bb->node ? bb->node->name : NULL;
}

const char *bb_serial(const BlockBackend *bb)
{
    return bb->serial;
}

/* For messages: an anonymous back end goes by its node. */
static const char *bb_label(const BlockBackend *bb)
{
    return *bb->name ? bb->name : bb->node ? bb->node->name : "?";
}

bool bb_attach_device(BlockBackend *bb, const char *qdev, bool read_only, bool share_rw,
                      const BlockDevOps *ops, void *opaque, GError **error)
{
    BlockNode *node = bb->node ? protocol_node(bb->node) : NULL;

    if (bb->attached) {
        return error_set(error, "Drive '%s' is already in use by device '%s'", bb_label(bb),
                         bb->qdev ? bb->qdev : "?");
    }
    if (node && !read_only && bb->node->read_only) {
        return error_set(error, "Block node '%s' is read-only", bb->node->name);
    }
    if (node && !node->force_share && node->driver->lock &&
        !node->driver->lock(node, !read_only, share_rw, error)) {
        return false;
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
    BlockNode *node = bb->node ? protocol_node(bb->node) : NULL;

    if (!bb->attached) {
        return;
    }
    if (node && node->driver->unlock) {
        node->driver->unlock(node);
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

void block_request_done(BlockRequest *req, int result)
{
    BlockBackend *bb = req->bb;
    BlockStats *stats = &bb->stats;
    BlockDone *done = req->done;
    void *opaque = req->opaque;

    if (result < 0) {
        __atomic_fetch_add(&stats->failed[req->op], 1, __ATOMIC_RELAXED);
    } else {
        __atomic_fetch_add(&stats->ops[req->op], 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&stats->bytes[req->op], req->bytes, __ATOMIC_RELAXED);
        if (req->op == BLOCK_WRITE) {
            uint64_t end = req->offset + req->bytes,
                     old = __atomic_load_n(&stats->highest_write, __ATOMIC_RELAXED);

            while (old < end && !__atomic_compare_exchange_n(&stats->highest_write, &old, end, true,
                                                             __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
        }
    }
    __atomic_fetch_add(&stats->time_ns[req->op], (uint64_t)(now_ns() - req->start_ns), __ATOMIC_RELAXED);
    if (req->iov != req->iov_inline) {
        g_free(req->iov);
    }
    g_slice_free(BlockRequest, req);
    done(opaque, result);
    /* Last: who drains must find the device's own completion done. */
    __atomic_fetch_sub(&bb->in_flight, 1, __ATOMIC_SEQ_CST);
}

static void refused(void *opaque, ssize_t result)
{
    BlockRequest *req = opaque;

    if (result == 0) { /* nothing to do: no bytes */
        block_request_done(req, 0);
        return;
    }
    __atomic_fetch_add(&req->bb->stats.invalid[req->op], 1, __ATOMIC_RELAXED);
    block_request_done(req, (int)result);
}

static void submit(BlockBackend *bb, Loop *loop, BlockOp op, uint64_t offset, uint64_t bytes,
                   const struct iovec *iov, int iov_count, unsigned flags, BlockDone *done, void *opaque)
{
    BlockRequest *req = g_slice_new(BlockRequest);
    BlockNode *node = bb->node;
    uint64_t size = bb_size(bb);
    int result = 0;

    memset(req, 0, offsetof(BlockRequest, iov_inline));
    req->bb = bb;
    req->loop = loop;
    req->op = op;
    req->flags = flags;
    req->done = done;
    req->opaque = opaque;
    req->start_ns = now_ns();
    req->iov = req->iov_inline;
    __atomic_fetch_add(&bb->in_flight, 1, __ATOMIC_SEQ_CST);
    if (iov_count > REQUEST_INLINE_IOV) {
        req->iov = g_new(struct iovec, iov_count);
    }
    for (int i = 0; i < iov_count; i++) {
        if (iov[i].iov_len > REQUEST_MAX_BYTES || bytes > REQUEST_MAX_BYTES) {
            result = -EINVAL;
            break;
        }
        bytes += iov[i].iov_len;
        if (iov[i].iov_len) { /* empty pieces only make work */
            req->iov[req->iov_count++] = iov[i];
        }
    }
    req->offset = offset;
    req->bytes = bytes;
    if (!node) {
        result = -ENOMEDIUM;
    } else if (!result && (offset > size || bytes > size - offset)) {
        result = -EIO;
    } else if (op != BLOCK_READ && op != BLOCK_FLUSH && node->read_only) {
        result = -EPERM;
    } else if (op == BLOCK_FLUSH && node->read_only) {
        bytes = 0;
    }
    if (result || (op != BLOCK_FLUSH && !bytes)) {
        loop_complete_later(loop, refused, req, result);
        return;
    }
    if ((op == BLOCK_WRITE || op == BLOCK_WRITE_ZEROES) && !bb_write_cache(bb)) {
        req->flags |= BLOCK_REQ_FUA;
    }
    while (node->child) {
        req->offset += node->child_offset;
        node = node->child;
    }
    req->node = node;
    if (op == BLOCK_WRITE || op == BLOCK_WRITE_ZEROES || op == BLOCK_DISCARD) {
        /* Before the write begins: a flush that begins meanwhile must not count as covering it. */
        __atomic_fetch_add(&node->write_generation, 1, __ATOMIC_SEQ_CST);
    }
    node->driver->submit(node, req);
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
    while (__atomic_load_n(&bb->in_flight, __ATOMIC_SEQ_CST)) {
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
    Loop *loop = loop_new(NULL, NULL);

    if (!loop) {
        return -EMFILE;
    }
    if (write) {
        bb_writev(bb, loop, offset, &iov, 1, 0, sync_done, &sync);
    } else {
        bb_readv(bb, loop, offset, &iov, 1, sync_done, &sync);
    }
    while (!sync.done) {
        loop_iterate_io(loop, true);
    }
    loop_free(loop);
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
    BlockBackend *bb = bb_find(reg, device ? device : node_name ? node_name : "", error);
    BlockNode *node;

    if (!bb || !bb->node) {
        return bb ? error_set(error, "Device '%s' has no medium", device) : false;
    }
    if (size % 512 || size > G_MAXINT64) {
        return error_set(error, "The new size must be a multiple of 512 bytes");
    }
    node = bb->node;
    if (node->child && (node->child_offset || node->size != node->child->size)) {
        return error_set(error, "Node '%s' is a window of its file and cannot be resized", node->name);
    }
    if (node->read_only || !protocol_node(node)->driver->resize) {
        return error_set(error, "Node '%s' cannot be resized", node->name);
    }
    if (!protocol_node(node)->driver->resize(protocol_node(node), size, error)) {
        return false;
    }
    for (; node; node = node->child) {
        __atomic_store_n(&node->size, size, __ATOMIC_RELAXED);
    }
    if (bb->ops && bb->ops->resized) {
        bb->ops->resized(bb->ops_opaque);
    }
    return true;
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

static json_object *node_info(BlockNode *node, bool write_cache)
{
    static const char *const zero[] = { "bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr" };
    json_object *o = json_object_new_object(), *cache = json_object_new_object(),
                *image = json_object_new_object();
    BlockNode *file = protocol_node(node);
    const char *filename = file->filename ? file->filename : "";

    for (size_t i = 0; i < G_N_ELEMENTS(zero); i++) {
        put_u64(o, zero[i], 0);
    }
    put(image, "filename", filename);
    put(image, "format", node->driver->name);
    put_u64(image, "virtual-size", node->size);
    put_u64(image, "actual-size", file->driver->allocated ? file->driver->allocated(file) : 0);
    put_bool(image, "dirty-flag", false);
    json_object_object_add(o, "image", image);
    put(o, "file", filename);
    put(o, "node-name", node->name);
    put_bool(o, "ro", node->read_only);
    put(o, "drv", node->driver->name);
    put_bool(o, "encrypted", false);
    put_u64(o, "backing_file_depth", 0);
    put(o, "detect_zeroes", "off");
    put_u64(o, "write_threshold", 0);
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
        if (bb->node) {
            json_object_object_add(o, "inserted", node_info(bb->node, bb_write_cache(bb)));
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
    json_object *list = json_object_new_array();

    for (guint i = 0; i < reg->nodes->len; i++) {
        BlockNode *node = g_ptr_array_index(reg->nodes, i);

        json_object_array_add(list, node_info(node, node->bb ? bb_write_cache(node->bb) : true));
    }
    return list;
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
    return o;
}

static json_object *node_stats(BlockNode *node, const BlockStats *stats)
{
    static const BlockStats none;
    json_object *o = json_object_new_object();

    put(o, "node-name", node->name);
    json_object_object_add(o, "stats", stats_json(stats ? stats : &none));
    if (node->child) {
        json_object_object_add(o, "parent", node_stats(node->child, stats));
    }
    return o;
}

json_object *block_query_stats(BlockRegistry *reg, bool nodes)
{
    json_object *list = json_object_new_array();

    for (guint i = 0; nodes && i < reg->nodes->len; i++) {
        BlockNode *node = g_ptr_array_index(reg->nodes, i);

        json_object_array_add(list, node_stats(node, node->bb ? &node->bb->stats : NULL));
    }
    for (guint i = 0; !nodes && i < reg->backends->len; i++) {
        BlockBackend *bb = g_ptr_array_index(reg->backends, i);
        json_object *o;

        if (!*bb->name && !bb->attached) {
            continue;
        }
        o = bb->node ? node_stats(bb->node, &bb->stats) : json_object_new_object();
        if (!bb->node) {
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
        BlockNode *file = bb->node ? protocol_node(bb->node) : NULL;

        if (!*bb->name && !bb->attached) {
            continue;
        }
        g_string_append_printf(s, "%s%s", s->len ? "\n" : "", bb_label(bb));
        if (!file) {
            g_string_append(s, ": [not inserted]\n");
        } else {
            g_string_append_printf(s, " (%s): %s (%s%s)\n", bb->node->name,
                                   file->filename ? file->filename : "", bb->node->driver->name,
                                   bb->node->read_only ? ", read-only" : "");
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
    g_autofree char *id = g_strdup(!bb ? "" : *bb->name ? bb->name : bb->node ? bb->node->name : "");

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
