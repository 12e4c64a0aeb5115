/* Images made of blocks that tables find; see blocks.h. SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/formats/blocks.h"

#include "base/error.h"
#include "qapi/visitor.h"

#include <errno.h>
#include <string.h>

#define ROUND_UP_TO_512(n) (((n) + 511) & ~UINT64_C(511))
#define MAX_CHUNKS         (UINT64_C(1) << 25)

bool blocks_begin(BlocksNode *b, const BlocksOps *ops, uint64_t size, uint32_t block_bytes,
                  uint32_t per_chunk, uint64_t data_start, GError **error)
{
    co_mutex_init(&b->lock);
    b->ops = ops;
    b->block_bytes = block_bytes;
    b->per_chunk = per_chunk;
    b->count = size / block_bytes + !!(size % block_bytes);
    b->chunk_count = b->count / per_chunk + !!(b->count % per_chunk);
    b->data_start = data_start;
    b->end = MAX(block_size(b->node.file), data_start);
    b->packed_block = UINT64_MAX;
    b->node.size = size;
    if (size > BLOCK_MAX_SIZE || b->chunk_count > MAX_CHUNKS) {
        return error_set(error, "%s: the image's disk is too large", b->node.what);
    }
    b->chunks = g_try_new0(uint64_t *, b->chunk_count + 1);
    return b->chunks || error_set(error, "%s: no memory for the image's tables", b->node.what);
}

void blocks_close(BlockNode *node)
{
    BlocksNode *b = (BlocksNode *)node;

    for (uint64_t i = 0; b->chunks && i < b->chunk_count; i++) {
        g_free(b->chunks[i]);
    }
    g_clear_pointer(&b->chunks, g_free);
    g_clear_pointer(&b->packed, g_free);
}

int blocks_read(BlocksNode *b, uint64_t offset, void *buf, uint64_t bytes)
{
    uint64_t size = block_size(b->node.file), there = offset < size ? MIN(bytes, size - offset) : 0;
    int ret = there ? blk_pread(b->node.file, offset, there, buf, 0) : 0;

    memset((uint8_t *)buf + there, 0, bytes - there);
    return ret < 0 ? ret : 0;
}

bool blocks_read_only(BlockNode *node, GError **error)
{
    if (node->read_only) {
        return true;
    }
    if (!node->auto_read_only) {
        return error_set(error, "Block format '%s' does not support writing: open it with read-only=on",
                         node->driver->name);
    }
    node->read_only = true;
    return true;
}

/* ---- the table ---- */

/* lock held */
static int load_chunk(BlocksNode *b, uint64_t chunk)
{
    uint64_t *entries;
    int ret;

    if (__atomic_load_n(&b->chunks[chunk], __ATOMIC_ACQUIRE)) {
        return 0;
    }
    entries = g_try_new0(uint64_t, b->per_chunk);
    if (!entries) {
        return -ENOMEM;
    }
    ret = b->ops->load(b, chunk, entries);
    if (ret < 0) {
        g_free(entries);
        return ret;
    }
    __atomic_store_n(&b->chunks[chunk], entries, __ATOMIC_RELEASE);
    return 0;
}

static int entry_of(BlocksNode *b, uint64_t block, uint64_t *entry)
{
    uint64_t chunk = block / b->per_chunk, *entries = __atomic_load_n(&b->chunks[chunk], __ATOMIC_ACQUIRE);
    int ret = 0;

    if (!entries) {
        co_mutex_lock(&b->lock);
        ret = load_chunk(b, chunk);
        co_mutex_unlock(&b->lock);
        if (ret < 0) {
            return ret;
        }
        entries = __atomic_load_n(&b->chunks[chunk], __ATOMIC_ACQUIRE);
    }
    *entry = __atomic_load_n(&entries[block % b->per_chunk], __ATOMIC_ACQUIRE);
    return 0;
}

/* ---- reading ---- */

static int read_child(BlockChild *child, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from)
{
    uint64_t size = block_size(child), there = offset < size ? MIN(bytes, size - offset) : 0;
    int ret = there ? block_co_preadv(child, offset, there, vec, from, 0) : 0;

    if (ret >= 0 && there < bytes) {
        block_vec_zero(vec, from + there, bytes - there);
    }
    return ret;
}

/* The whole block into b->packed; lock held. */
static int unpack(BlocksNode *b, uint64_t block, uint64_t entry)
{
    int ret;

    if (b->packed_block == block) {
        return 0;
    }
    if (!b->packed) {
        b->packed = g_try_malloc(b->block_bytes);
    }
    b->packed_block = UINT64_MAX;
    ret = !b->packed ? -ENOMEM : b->ops->read_packed(b, block, blocks_value(entry), b->packed);
    if (ret >= 0) {
        b->packed_block = block;
    }
    return ret;
}

int blocks_co_preadv(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                     unsigned flags)
{
    BlocksNode *b = (BlocksNode *)node;

    while (bytes) {
        uint64_t block = offset / b->block_bytes, in = offset % b->block_bytes,
                 n = MIN(bytes, b->block_bytes - in), entry;
        int ret = block < b->count ? entry_of(b, block, &entry) : -EIO;

        if (ret < 0) {
            return ret;
        }
        switch (blocks_kind(entry)) {
        case BLOCKS_DATA:
            ret = read_child(node->file, blocks_value(entry) + in, n, vec, from);
            break;
        case BLOCKS_PACKED:
            co_mutex_lock(&b->lock);
            ret = unpack(b, block, entry);
            if (ret >= 0) {
                block_vec_write(vec, from, b->packed + in, n);
            }
            co_mutex_unlock(&b->lock);
            break;
        case BLOCKS_NONE:
            if (node->backing) {
                ret = read_child(node->backing, offset, n, vec, from);
                break;
            }
            /* fall through */
        default:
            block_vec_zero(vec, from, n);
            break;
        }
        if (ret < 0) {
            return ret;
        }
        offset += n;
        from += n;
        bytes -= n;
    }
    return 0;
}

/* ---- writing ---- */

int blocks_place_at_end(BlocksNode *b, uint32_t align, uint64_t *host)
{
    uint64_t at = (b->end + align - 1) / align * align;

    if (at > BLOCK_MAX_SIZE - b->block_bytes) {
        return -EFBIG;
    }
    *host = at;
    b->end = at + b->block_bytes;
    return 0;
}

/* What the block holds so far, into a buffer; lock held. */
static int old_contents(BlocksNode *b, uint64_t block, uint64_t entry, uint8_t *buf)
{
    BlockVec vec = BLOCK_VEC_BUF(buf, b->block_bytes);
    int ret = 0;

    memset(buf, 0, b->block_bytes);
    if (blocks_kind(entry) == BLOCKS_PACKED) {
        ret = unpack(b, block, entry);
        if (ret >= 0) {
            memcpy(buf, b->packed, b->block_bytes);
        }
        b->packed_block = UINT64_MAX; /* it becomes another */
    } else if (blocks_kind(entry) == BLOCKS_NONE && b->node.backing) {
        ret = read_child(b->node.backing, block * b->block_bytes, b->block_bytes, &vec, 0);
    }
    return ret;
}

/* A write of n bytes at `in` of a block that has no place yet; lock held. */
static int write_new(BlocksNode *b, uint64_t block, uint64_t entry, uint64_t in, uint64_t n,
                     const BlockVec *vec, uint64_t from)
{
    BlockChild *file = b->node.file;
    bool whole = blocks_kind(entry) == BLOCKS_PACKED || b->node.backing;
    uint64_t host, old_size = block_size(file);
    uint8_t *buf;
    int ret = b->ops->place(b, block, &host);

    if (ret < 0) {
        return ret;
    }
    /* What is behind the end of the file so far reads as zeroes; what is not may be anything. */
    if (whole || host < old_size) {
        buf = block_buffer_try(file, b->block_bytes);
        ret = buf ? old_contents(b, block, entry, buf) : -ENOMEM;
        if (ret >= 0) {
            block_vec_read(vec, from, buf + in, n);
            ret = block_co_pwrite(file, host, b->block_bytes, buf, 0);
        }
        if (buf) {
            g_aligned_free(buf);
        }
        if (ret >= 0) { /* the table must not lead to what is not there yet: old data would be lost */
            ret = block_co_flush(file);
        }
    } else {
        if (block_size(file) < host + b->block_bytes) {
            ret = block_co_truncate(file, host + b->block_bytes, false, QAPI_PREALLOC_MODE_OFF, 0, NULL);
        }
        if (ret >= 0) {
            ret = block_co_pwritev(file, host + in, n, vec, from, 0);
        }
    }
    if (ret >= 0) {
        ret = b->ops->store(b, block, host);
    }
    if (ret >= 0) {
        __atomic_store_n(&b->chunks[block / b->per_chunk][block % b->per_chunk],
                         BLOCKS_ENTRY(BLOCKS_DATA, host), __ATOMIC_RELEASE);
    }
    return ret;
}

int blocks_co_pwritev(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                      unsigned flags)
{
    BlocksNode *b = (BlocksNode *)node;

    while (bytes) {
        uint64_t block = offset / b->block_bytes, in = offset % b->block_bytes,
                 n = MIN(bytes, b->block_bytes - in), entry;
        int ret = block < b->count ? entry_of(b, block, &entry) : -EIO;

        if (ret >= 0 && blocks_kind(entry) != BLOCKS_DATA) {
            co_mutex_lock(&b->lock);
            entry = b->chunks[block / b->per_chunk][block % b->per_chunk];
            if (blocks_kind(entry) != BLOCKS_DATA) {
                ret = write_new(b, block, entry, in, n, vec, from);
                co_mutex_unlock(&b->lock);
                if (ret < 0) {
                    return ret;
                }
                offset += n;
                from += n;
                bytes -= n;
                continue;
            }
            co_mutex_unlock(&b->lock);
        }
        if (ret >= 0 &&
            (blocks_value(entry) < b->data_start || blocks_value(entry) >= block_size(node->file))) {
            ret = -EIO; /* a table that leads into the header or to nowhere */
        }
        if (ret >= 0) {
            ret = block_co_pwritev(node->file, blocks_value(entry) + in, n, vec, from, 0);
        }
        if (ret < 0) {
            return ret;
        }
        offset += n;
        from += n;
        bytes -= n;
    }
    return 0;
}

/* ---- status ---- */

int blocks_co_block_status(BlockNode *node, bool want_zero, uint64_t offset, uint64_t bytes, BlockStatus *st)
{
    BlocksNode *b = (BlocksNode *)node;
    uint64_t block = offset / b->block_bytes, in = offset % b->block_bytes, entry, n = b->block_bytes - in;
    int ret = entry_of(b, block, &entry);

    if (ret < 0) {
        return ret;
    }
    *st = (BlockStatus){ 0 };
    switch (blocks_kind(entry)) {
    case BLOCKS_DATA:
        st->flags = BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_OFFSET_VALID;
        st->flags |= want_zero ? BLOCK_STATUS_RECURSE : 0;
        st->map = blocks_value(entry) + in;
        st->file = node->file->node;
        break;
    case BLOCKS_PACKED:
        st->flags = BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_COMPRESSED;
        break;
    case BLOCKS_ZERO:
        st->flags = BLOCK_STATUS_ZERO | BLOCK_STATUS_ALLOCATED;
        break;
    default:
        break;
    }
    /* As far as it goes on alike. */
    for (int i = 0; i < 4096 && n < bytes && block + 1 < b->count; i++, n += b->block_bytes) {
        uint64_t next;

        ret = entry_of(b, ++block, &next);
        if (ret < 0 || blocks_kind(next) != blocks_kind(entry) ||
            (blocks_kind(entry) == BLOCKS_DATA && blocks_value(next) != blocks_value(entry) + n + in)) {
            break;
        }
    }
    st->bytes = MIN(n, bytes);
    return 0;
}

bool blocks_get_info(BlockNode *node, BlockInfo *info, GError **error)
{
    info->cluster_size = ((BlocksNode *)node)->block_bytes;
    return true;
}

/* ---- check ---- */

static int by_place(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

bool blocks_co_check(BlockNode *node, BlockCheckResult *result, unsigned fix, GError **error)
{
    BlocksNode *b = (BlocksNode *)node;
    g_autoptr(GArray) places = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    uint64_t size = block_size(node->file), next = UINT64_MAX;

    result->total_clusters = b->count;
    result->image_end_offset = b->data_start;
    for (uint64_t block = 0; block < b->count; block++) {
        uint64_t entry, at;
        int ret = entry_of(b, block, &entry);

        if (ret < 0) { /* the whole chunk cannot be had */
            result->corruptions += ret == -EIO || ret == -EINVAL;
            result->check_errors += ret != -EIO && ret != -EINVAL;
            block += b->per_chunk - block % b->per_chunk - 1;
            continue;
        }
        at = blocks_value(entry);
        if (blocks_kind(entry) == BLOCKS_PACKED) {
            result->allocated_clusters++;
            result->compressed_clusters++;
            result->corruptions += at < b->data_start || at >= size;
            result->image_end_offset =
                MAX(result->image_end_offset, size); /* how long it is, it says itself */
        } else if (blocks_kind(entry) == BLOCKS_DATA) {
            uint64_t bytes = MIN(b->block_bytes, ROUND_UP_TO_512(node->size - block * b->block_bytes));

            result->allocated_clusters++;
            result->fragmented_clusters += next != UINT64_MAX && at != next;
            next = at + b->block_bytes;
            if (at < b->data_start || at > size || bytes > size - at) {
                result->corruptions++;
                continue;
            }
            result->image_end_offset = MAX(result->image_end_offset, at + b->block_bytes);
            g_array_append_val(places, at);
        }
    }
    g_array_sort(places, by_place);
    for (guint i = 1; i < places->len; i++) {
        result->corruptions +=
            g_array_index(places, uint64_t, i) - g_array_index(places, uint64_t, i - 1) < b->block_bytes;
    }
    return true;
}

/* ---- making ---- */

static BlockChild *writer(BlockNode *file, GError **error)
{
    return block_root_new(file, "tool", BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE,
                          BLOCK_PERM_ALL, NULL, NULL, error);
}

/* The node that is there: emptied. */
static BlockChild *use_node(BlockGraph *graph, const char *name, GError **error)
{
    BlockNode *file = block_node_find(graph, name);
    BlockChild *root = file ? writer(file, error) : NULL;

    if (root && !blk_truncate(root, 0, false, QAPI_PREALLOC_MODE_OFF, 0, error)) {
        g_clear_pointer(&root, block_root_free);
    }
    return root;
}

BlockChild *blocks_create_file(BlockGraph *graph, const char *filename, json_object *options, GError **error)
{
    const char *name = blocks_option(options, BLOCKS_NODE);
    const BlockDriver *protocol;
    json_object *o;
    BlockNode *file;

    if (name) {
        return use_node(graph, name, error);
    }
    protocol = block_protocol_of(filename, error);
    if (!protocol || !block_co_create_file(graph, filename, options, error)) {
        return NULL;
    }
    o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string(protocol->name));
    file = block_node_open_image(graph, filename, o, BLOCK_OPEN_RESIZE, error);
    json_object_put(o);
    return file ? writer(file, error) : NULL;
}

/* A node of blockdev-create, held while the image is made; NULL on error. */
static BlockChild *hold(BlockGraph *graph, json_object *ref, GError **error)
{
    g_autoptr(Visitor) v = visitor_new_input(ref, false);
    g_autoptr(QapiBlockdevRef) r = NULL;
    BlockNode *node;

    if (!qapi_visit_BlockdevRef(v, NULL, &r, error)) {
        return NULL;
    }
    node = block_node_of_ref(graph, r, BLOCK_OPEN_RESIZE, error);
    return node ? block_root_new(node, "tool", 0, BLOCK_PERM_ALL, NULL, NULL, error) : NULL;
}

/* An option of blockdev-create by the name that it has behind -o. */
static char *option_name(const BlockDriver *drv, const char *key)
{
    for (const BlockOption *o = drv->create_options; o->name; o++) {
        if (strcmp(o->name, key) == 0) {
            return g_strdup(key);
        }
    }
    return g_strdelimit(g_strdup(key), "-", '_');
}

/* What blockdev-create says, as co_create_named() takes it; held: gets its nodes. NULL on error. */
static json_object *named_options(BlockGraph *graph, const BlockDriver *drv, json_object *said,
                                  GPtrArray *held, GError **error)
{
    json_object *out = json_object_new_object(), *extents = json_object_new_array();
    bool ok = true;

    json_object_object_foreach(said, key, value)
    {
        bool file = strcmp(key, "file") == 0, list = strcmp(key, "extents") == 0;

        for (size_t i = 0; ok && (file || list) && i < (list ? json_object_array_length(value) : 1); i++) {
            BlockChild *root = hold(graph, list ? json_object_array_get_idx(value, i) : value, error);

            ok = root != NULL;
            if (ok) {
                json_object *name = json_object_new_string(root->node->name);

                g_ptr_array_insert(held, file ? 0 : -1, root);
                file ? json_object_object_add(out, BLOCKS_NODE, name) : json_object_array_add(extents, name);
            }
        }
        if (!file && !list && strcmp(key, "driver") != 0) {
            g_autofree char *name = option_name(drv, key);

            json_object_object_add(out, name, json_object_get(value));
        }
    }
    json_object_object_add(out, BLOCKS_EXTENTS, extents);
    if (!ok) {
        g_clear_pointer(&out, json_object_put);
    }
    return out;
}

bool blocks_co_create(BlockGraph *graph, QapiBlockdevCreateOptions *options, GError **error)
{
    const BlockDriver *drv =
        block_driver_find(enum_name(&qapi_BlockdevDriver_lookup, options->driver), error);
    g_autoptr(GPtrArray) held = g_ptr_array_new_with_free_func((GDestroyNotify)block_root_free);
    g_autoptr(Visitor) v = visitor_new_output();
    json_object *said, *named;
    bool ok;

    if (!drv || !qapi_visit_BlockdevCreateOptions(v, NULL, &options, error)) {
        return false;
    }
    said = visitor_output_take(v);
    named = named_options(graph, drv, said, held, error);
    ok = named && drv->co_create_named(graph, ((BlockChild *)held->pdata[0])->node->filename, named, error);
    json_object_put(named);
    json_object_put(said);
    return ok;
}

const char *blocks_option(json_object *options, const char *name)
{
    json_object *value;

    return json_object_object_get_ex(options, name, &value) && value ? json_object_get_string(value) : NULL;
}

uint64_t blocks_number(json_object *options, const char *name, uint64_t otherwise)
{
    json_object *value;

    return json_object_object_get_ex(options, name, &value) ? json_object_get_uint64(value) : otherwise;
}
