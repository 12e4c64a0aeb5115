/*
 * Persistent dirty bitmaps of qcow2: read at open, written at close. While the image is open for writing the
 * directory says that they are in use, so that a crash leaves them known as out of date.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/qcow2/qcow2.h"

#include "base/error.h"
#include "block/graph/dirty_bitmap.h"
#include <errno.h>
#include <string.h>

enum { IN_USE = 1u << 0, AUTO = 1u << 1, EXTRA_COMPATIBLE = 1u << 2 };
#define ENTRY_HEAD      24u
#define TABLE_RESERVED  UINT64_C(0xff000000000001fe)
#define ALL_ONES        1u
#define MIN_GRANULARITY 9u
#define MAX_GRANULARITY 31u
#define MAX_NAME        1023u

static void entry_clear(Qcow2BitmapEntry *e)
{
    g_free(e->name);
    g_free(e->extra);
}

static void dir_free(GArray *dir)
{
    for (guint i = 0; i < dir->len; i++) {
        entry_clear(&g_array_index(dir, Qcow2BitmapEntry, i));
    }
    g_array_set_size(dir, 0);
}

void qcow2_bitmaps_free(Qcow2Node *s)
{
    dir_free(s->bitmap_dir);
    s->bitmaps_in_use = false;
}

/* ---- the directory ---- */

static bool parse_entry(Qcow2Node *s, const uint8_t *buf, uint64_t size, uint64_t *at, GError **error)
{
    const uint8_t *p = buf + *at;
    uint64_t bytes, bits;
    Qcow2BitmapEntry e = { 0 };
    uint32_t name_size;

    if (size - *at < ENTRY_HEAD) {
        return error_set(error, "Bitmap directory entry is cut off");
    }
    e.table_offset = get_be64(p);
    e.table_size = get_be32(p + 8);
    e.flags = get_be32(p + 12);
    e.type = p[16];
    e.granularity_bits = p[17];
    name_size = get_be16(p + 18);
    e.extra_size = get_be32(p + 20);
    bytes = (ENTRY_HEAD + (uint64_t)e.extra_size + name_size + 7) & ~UINT64_C(7);
    if (bytes > size - *at) {
        return error_set(error, "Bitmap directory entry is cut off");
    }
    bits = (s->h.size >> MIN(e.granularity_bits, 63)) + 1;
    if (!name_size || name_size > MAX_NAME || e.type != 1 || e.granularity_bits < MIN_GRANULARITY ||
        e.granularity_bits > MAX_GRANULARITY || (e.flags & ~7u) || e.table_size > QCOW2_MAX_BITMAP_TABLE ||
        e.table_offset % s->g.cluster_size || e.table_offset > INT64_MAX - (uint64_t)e.table_size * 8 ||
        (!(e.flags & IN_USE) && ((uint64_t)e.table_size << s->g.cluster_bits) * 8 + 8 < bits)) {
        return error_set(error, "Bitmap '%.*s' doesn't satisfy the constraints",
                         (int)MIN(name_size, MAX_NAME), (const char *)p + ENTRY_HEAD + e.extra_size);
    }
    e.extra = e.extra_size ? g_memdup2(p + ENTRY_HEAD, e.extra_size) : NULL;
    e.name = g_strndup((const char *)p + ENTRY_HEAD + e.extra_size, name_size);
    g_array_append_val(s->bitmap_dir, e);
    *at += bytes;
    return true;
}

static bool read_dir(Qcow2Node *s, GError **error)
{
    uint64_t size = s->h.bitmap_dir_size, at = 0;
    uint8_t *buf = g_try_malloc(size + 1);
    bool ok = true;
    int ret;

    if (!buf) {
        return error_set(error, "%s: no memory for the bitmap directory", qcow2_what(s));
    }
    ret = qcow2_read_padded(s, s->h.bitmap_dir_offset, buf, size);
    if (ret < 0) {
        ok = error_set_errno(error, -ret, "Failed to read bitmap directory");
    }
    for (uint32_t i = 0; i < s->h.bitmap_count && ok; i++) {
        ok = parse_entry(s, buf, size, &at, error);
    }
    if (ok && at != size) {
        ok = error_set(error, "Bitmap directory size doesn't match its entries");
    }
    g_free(buf);
    return ok;
}

static GByteArray *make_dir(const GArray *dir)
{
    GByteArray *out = g_byte_array_new();
    static const uint8_t zero[8];

    for (guint i = 0; i < dir->len; i++) {
        const Qcow2BitmapEntry *e = &g_array_index(dir, Qcow2BitmapEntry, i);
        uint8_t head[ENTRY_HEAD];

        put_be64(head, e->table_offset);
        put_be32(head + 8, e->table_size);
        put_be32(head + 12, e->flags);
        head[16] = e->type;
        head[17] = e->granularity_bits;
        put_be16(head + 18, (uint16_t)strlen(e->name));
        put_be32(head + 20, e->extra_size);
        g_byte_array_append(out, head, sizeof(head));
        g_byte_array_append(out, e->extra, e->extra_size);
        g_byte_array_append(out, (const uint8_t *)e->name, (guint)strlen(e->name));
        g_byte_array_append(out, zero, (8 - out->len % 8) % 8);
    }
    return out;
}

/* All entries in their place, in use or not. */
int qcow2_bitmaps_mark(Qcow2Node *s, bool in_use)
{
    GByteArray *out;
    int ret;

    if (!s->h.has_bitmaps || s->bitmaps_in_use == in_use) {
        return 0;
    }
    for (guint i = 0; i < s->bitmap_dir->len; i++) {
        g_array_index(s->bitmap_dir, Qcow2BitmapEntry, i).flags |= IN_USE;
    }
    out = make_dir(s->bitmap_dir);
    ret = blk_pwrite(s->node.file, s->h.bitmap_dir_offset, out->len, out->data, 0);
    g_byte_array_free(out, TRUE);
    if (ret >= 0) {
        ret = blk_flush(s->node.file);
        s->bitmaps_in_use = in_use;
    }
    return ret;
}

/* ---- load ---- */

static bool read_bits(Qcow2Node *s, const Qcow2BitmapEntry *e, DirtyBitmap *bitmap, GError **error)
{
    uint64_t span = ((uint64_t)s->g.cluster_size * 8) << e->granularity_bits;
    uint64_t *table = g_try_new(uint64_t, (gsize)e->table_size + 1);
    uint8_t *buf = g_try_malloc(s->g.cluster_size);
    int ret =
        table && buf ? qcow2_read_padded(s, e->table_offset, table, (uint64_t)e->table_size * 8) : -ENOMEM;

    for (uint64_t i = 0; i < e->table_size && ret >= 0 && i * span < bitmap->size; i++) {
        uint64_t entry = GUINT64_FROM_BE(table[i]), at = entry & QCOW2_OFFSET_MASK;
        uint64_t bytes = MIN(span, bitmap->size - i * span);

        if ((entry & TABLE_RESERVED) || (at && (entry & ALL_ONES)) || (at & (s->g.cluster_size - 1))) {
            ret = -EINVAL;
        } else if (at) {
            ret = qcow2_read_padded(s, at, buf, s->g.cluster_size);
            if (ret >= 0) {
                dirty_bitmap_deserialize(bitmap, buf, i * span, bytes);
            }
        } else if (entry & ALL_ONES) {
            dirty_bitmap_set(bitmap, i * span, bytes);
        }
    }
    g_free(table);
    g_free(buf);
    return ret >= 0 || error_set_errno(error, -ret, "Could not read bitmap '%s' from the image", e->name);
}

bool qcow2_bitmaps_load(Qcow2Node *s, GError **error)
{
    unsigned flags = s->node.open_flags;
    bool writes =
        !s->node.read_only && !(flags & (BLOCK_OPEN_CHECK | BLOCK_OPEN_INACTIVE)) && !s->node.inactive;

    if (!s->h.has_bitmaps) {
        return true;
    }
    if (!read_dir(s, error)) {
        return (flags & BLOCK_OPEN_CHECK) ? (g_clear_error(error), true) : false;
    }
    if (flags & (BLOCK_OPEN_NO_IO | BLOCK_OPEN_CHECK | BLOCK_OPEN_INACTIVE)) {
        return true;
    }
    for (guint i = 0; i < s->bitmap_dir->len; i++) {
        Qcow2BitmapEntry *e = &g_array_index(s->bitmap_dir, Qcow2BitmapEntry, i);
        DirtyBitmap *bitmap = dirty_bitmap_find(&s->node, e->name);

        if (e->extra_size && !(e->flags & EXTRA_COMPATIBLE)) {
            return error_set(error, "Cannot use bitmap '%s': it holds extra data that is not known", e->name);
        }
        if (!bitmap) {
            bitmap = dirty_bitmap_new(&s->node, e->name, 1u << e->granularity_bits, error);
        }
        if (!bitmap) {
            return false;
        }
        bitmap->persistent = true;
        bitmap->enabled = (e->flags & AUTO) && !(e->flags & IN_USE);
        bitmap->inconsistent = e->flags & IN_USE;
        bitmap->read_only = s->node.read_only;
        if (!(e->flags & IN_USE) && !read_bits(s, e, bitmap, error)) {
            return false;
        }
    }
    return !writes || qcow2_bitmaps_mark(s, true) >= 0 ||
           error_set(error, "Could not update the bitmap directory");
}

/* ---- store ---- */

/* The clusters of a stored bitmap go away. */
static int free_entry(Qcow2Node *s, const Qcow2BitmapEntry *e)
{
    uint64_t *table = g_try_new(uint64_t, (gsize)e->table_size + 1);
    int ret = table ? qcow2_read_padded(s, e->table_offset, table, (uint64_t)e->table_size * 8) : -ENOMEM;

    for (uint32_t i = 0; i < e->table_size && ret >= 0; i++) {
        uint64_t at = GUINT64_FROM_BE(table[i]) & QCOW2_OFFSET_MASK;

        if (at && !(at & (s->g.cluster_size - 1))) {
            ret = qcow2_free_now(s, at, s->g.cluster_size, true);
        }
    }
    if (ret >= 0 && e->table_size) {
        ret = qcow2_free_now(s, e->table_offset, (uint64_t)e->table_size * 8, true);
    }
    g_free(table);
    return ret;
}

static int store_bits(Qcow2Node *s, const DirtyBitmap *bitmap, Qcow2BitmapEntry *e)
{
    uint64_t span = (uint64_t)s->g.cluster_size * 8 * bitmap->granularity,
             n = (bitmap->size + span - 1) / span, *table;
    uint8_t *buf = g_malloc(s->g.cluster_size);
    int ret = 0;

    if (n > QCOW2_MAX_BITMAP_TABLE) {
        g_free(buf);
        return -EFBIG;
    }
    table = g_new0(uint64_t, n + 1);
    for (uint64_t i = 0; i < n && ret >= 0; i++) {
        uint64_t start = 0, dirty = 0, at, bytes = MIN(span, bitmap->size - i * span);

        if (!dirty_bitmap_next_dirty(bitmap, i * span, i * span + bytes, &start, &dirty)) {
            continue;
        }
        memset(buf, 0, s->g.cluster_size);
        dirty_bitmap_serialize(bitmap, buf, i * span, bytes);
        at = qcow2_alloc_table(s, s->g.cluster_size, &ret);
        if (at) {
            ret = blk_pwrite(s->node.file, at, s->g.cluster_size, buf, 0);
            table[i] = GUINT64_TO_BE(at);
        }
    }
    if (ret >= 0 && n) {
        e->table_offset = qcow2_alloc_table(s, n * 8, &ret);
        e->table_size = (uint32_t)n;
        if (e->table_offset) {
            ret = blk_pwrite(s->node.file, e->table_offset, n * 8, table, 0);
        }
    }
    g_free(buf);
    g_free(table);
    return ret;
}

static const Qcow2BitmapEntry *stored(Qcow2Node *s, const char *name)
{
    for (guint i = 0; i < s->bitmap_dir->len; i++) {
        if (strcmp(g_array_index(s->bitmap_dir, Qcow2BitmapEntry, i).name, name) == 0) {
            return &g_array_index(s->bitmap_dir, Qcow2BitmapEntry, i);
        }
    }
    return NULL;
}

/* A new directory of `dir`, which becomes the image's; what only the old one refers to is freed. */
static int replace_dir(Qcow2Node *s, GArray *dir)
{
    GByteArray *out = make_dir(dir);
    uint64_t old_at = s->h.bitmap_dir_offset, old_bytes = s->h.has_bitmaps ? s->h.bitmap_dir_size : 0, at = 0;
    Qcow2Header before = s->h;
    int ret = 0;

    if (dir->len) {
        at = qcow2_alloc_table(s, out->len, &ret);
        if (at) {
            ret = blk_pwrite(s->node.file, at, out->len, out->data, 0);
        }
    }
    if (ret >= 0) {
        ret = qcow2_checkpoint(s);
    }
    if (ret >= 0) {
        s->h.has_bitmaps = dir->len > 0;
        s->h.bitmap_count = dir->len;
        s->h.bitmap_dir_offset = at;
        s->h.bitmap_dir_size = out->len;
        s->h.autoclear = dir->len ? s->h.autoclear | QCOW2_AUTOCLEAR_BITMAPS
                                  : s->h.autoclear & ~(uint64_t)QCOW2_AUTOCLEAR_BITMAPS;
        ret = qcow2_write_header(s);
        ret = ret < 0 ? ret : blk_flush(s->node.file);
        if (ret < 0) {
            s->h.has_bitmaps = before.has_bitmaps;
            s->h.bitmap_count = before.bitmap_count;
            s->h.bitmap_dir_offset = before.bitmap_dir_offset;
            s->h.bitmap_dir_size = before.bitmap_dir_size;
            s->h.autoclear = before.autoclear;
        }
    }
    g_byte_array_free(out, TRUE);
    if (ret >= 0 && old_bytes) {
        ret = qcow2_free_now(s, old_at, old_bytes, true);
    }
    for (guint i = 0; i < s->bitmap_dir->len && ret >= 0; i++) {
        const Qcow2BitmapEntry *e = &g_array_index(s->bitmap_dir, Qcow2BitmapEntry, i);
        bool kept = false;

        for (guint j = 0; j < dir->len; j++) {
            kept = kept ||
                   (e->table_size && g_array_index(dir, Qcow2BitmapEntry, j).table_offset == e->table_offset);
        }
        if (!kept) {
            ret = free_entry(s, e);
        }
    }
    return ret;
}

bool qcow2_bitmaps_store(Qcow2Node *s, GError **error)
{
    GArray *dir;
    bool any = s->h.has_bitmaps;
    int ret = 0;

    if (s->node.open_flags & (BLOCK_OPEN_CHECK | BLOCK_OPEN_NO_IO) || s->h.version < 3) {
        return true;
    }
    for (guint i = 0; i < s->node.bitmaps->len; i++) {
        any = any || ((DirtyBitmap *)g_ptr_array_index(s->node.bitmaps, i))->persistent;
    }
    if (!any) {
        return true;
    }
    dir = g_array_new(FALSE, FALSE, sizeof(Qcow2BitmapEntry));
    for (guint i = 0; i < s->node.bitmaps->len && ret >= 0; i++) {
        DirtyBitmap *bitmap = g_ptr_array_index(s->node.bitmaps, i);
        Qcow2BitmapEntry e = { 0 };
        const Qcow2BitmapEntry *old;

        if (!bitmap->persistent || !bitmap->name || bitmap->skip_store) {
            continue;
        }
        old = stored(s, bitmap->name);
        e.type = 1;
        e.granularity_bits = (uint8_t)__builtin_ctz(bitmap->granularity);
        e.flags = (bitmap->enabled ? AUTO : 0) | (bitmap->inconsistent ? IN_USE : 0);
        if (bitmap->inconsistent && old) {
            e.table_offset = old->table_offset;
            e.table_size = old->table_size;
            e.flags = old->flags | IN_USE;
        } else if (!bitmap->inconsistent) {
            ret = store_bits(s, bitmap, &e);
        }
        e.name = g_strdup(bitmap->name);
        g_array_append_val(dir, e);
    }
    if (ret >= 0) {
        ret = replace_dir(s, dir);
    }
    if (ret >= 0) {
        dir_free(s->bitmap_dir);
        g_array_append_vals(s->bitmap_dir, dir->data, dir->len);
        s->bitmaps_in_use = false;
    } else {
        dir_free(dir);
    }
    g_array_free(dir, TRUE);
    return ret >= 0 || error_set_errno(error, -ret, "%s: cannot store the dirty bitmaps", qcow2_what(s));
}

bool qcow2_bitmap_can_store(BlockNode *node, const char *name, uint32_t granularity, GError **error)
{
    Qcow2Node *s = (Qcow2Node *)node;
    uint32_t bits = (uint32_t)__builtin_ctz(granularity);

    if (s->h.version < 3) {
        return error_set(error, "Cannot store dirty bitmaps in qcow2 v2 files");
    }
    if (bits < MIN_GRANULARITY || bits > MAX_GRANULARITY) {
        return error_set(error, "Granularity is not supported: it must be between %u and %u bytes",
                         1u << MIN_GRANULARITY, 1u << MAX_GRANULARITY);
    }
    if (strlen(name) > MAX_NAME) {
        return error_set(error, "Name length exceeds maximum (%u characters)", MAX_NAME);
    }
    if (s->node.bitmaps->len >= QCOW2_MAX_BITMAPS) {
        return error_set(error, "Maximum number of persistent bitmaps is already reached");
    }
    return true;
}

typedef struct Remove {
    Qcow2Node *s;
    const char *name;
    int ret;
} Remove;

static void remove_entry(void *opaque)
{
    Remove *r = opaque;
    GArray *dir = g_array_new(FALSE, FALSE, sizeof(Qcow2BitmapEntry));

    for (guint i = 0; i < r->s->bitmap_dir->len; i++) {
        const Qcow2BitmapEntry *e = &g_array_index(r->s->bitmap_dir, Qcow2BitmapEntry, i);

        if (strcmp(e->name, r->name) != 0) {
            g_array_append_val(dir, *e);
        }
    }
    r->ret = qcow2_checkpoint(r->s);
    if (r->ret >= 0) {
        r->ret = replace_dir(r->s, dir);
    }
    if (r->ret >= 0) {
        for (guint i = 0; i < r->s->bitmap_dir->len; i++) {
            Qcow2BitmapEntry *e = &g_array_index(r->s->bitmap_dir, Qcow2BitmapEntry, i);

            if (strcmp(e->name, r->name) == 0) {
                entry_clear(e);
                g_array_remove_index(r->s->bitmap_dir, i);
                break;
            }
        }
    }
    g_array_free(dir, TRUE);
}

bool qcow2_bitmap_remove_stored(BlockNode *node, const char *name, GError **error)
{
    Qcow2Node *s = (Qcow2Node *)node;
    Remove r = { s, name, 0 };

    if (!stored(s, name)) {
        return true; /* never stored */
    }
    block_run(node->graph, remove_entry, &r);
    return r.ret >= 0 || error_set_errno(error, -r.ret, "%s: cannot remove bitmap '%s' from the image",
                                         qcow2_what(s), name);
}

/* ---- looking ---- */

int qcow2_bitmaps_walk(Qcow2Node *s, void (*fn)(void *opaque, uint64_t offset, uint64_t bytes), void *opaque)
{
    if (s->bitmap_dir->len != s->h.bitmap_count) {
        return -EINVAL;
    }
    fn(opaque, s->h.bitmap_dir_offset, s->h.bitmap_dir_size);
    for (guint i = 0; i < s->bitmap_dir->len; i++) {
        const Qcow2BitmapEntry *e = &g_array_index(s->bitmap_dir, Qcow2BitmapEntry, i);
        uint64_t *table = g_try_new(uint64_t, (gsize)e->table_size + 1);
        int ret = table ? qcow2_read_padded(s, e->table_offset, table, (uint64_t)e->table_size * 8) : -ENOMEM;

        if (e->table_size) {
            fn(opaque, e->table_offset, (uint64_t)e->table_size * 8);
        }
        for (uint32_t j = 0; j < e->table_size && ret >= 0; j++) {
            uint64_t entry = GUINT64_FROM_BE(table[j]), at = entry & QCOW2_OFFSET_MASK;

            if ((entry & TABLE_RESERVED) || (at & (s->g.cluster_size - 1))) {
                ret = -EINVAL;
            } else if (at) {
                fn(opaque, at, s->g.cluster_size);
            }
        }
        g_free(table);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

json_object *qcow2_bitmaps_info(Qcow2Node *s)
{
    json_object *list;

    if (!s->bitmap_dir->len) {
        return NULL;
    }
    list = json_object_new_array();
    for (guint i = 0; i < s->bitmap_dir->len; i++) {
        const Qcow2BitmapEntry *e = &g_array_index(s->bitmap_dir, Qcow2BitmapEntry, i);
        json_object *o = json_object_new_object(), *flags = json_object_new_array();

        if (e->flags & IN_USE) {
            json_object_array_add(flags, json_object_new_string("in-use"));
        }
        if (e->flags & AUTO) {
            json_object_array_add(flags, json_object_new_string("auto"));
        }
        json_object_object_add(o, "flags", flags);
        json_object_object_add(o, "name", json_object_new_string(e->name));
        json_object_object_add(o, "granularity", json_object_new_uint64(UINT64_C(1) << e->granularity_bits));
        json_object_array_add(list, o);
    }
    return list;
}

uint64_t qcow2_bitmaps_bytes(const BlockNode *node, uint32_t cluster_size)
{
    uint64_t total = 0, dir = 0;

    for (guint i = 0; i < node->bitmaps->len; i++) {
        const DirtyBitmap *bitmap = g_ptr_array_index(node->bitmaps, i);
        uint64_t bytes, clusters;

        if (!bitmap->persistent || bitmap->inconsistent) {
            continue;
        }
        bytes = ((bitmap->size + bitmap->granularity - 1) / bitmap->granularity + 7) / 8;
        clusters = (bytes + cluster_size - 1) / cluster_size;
        total += (clusters + (clusters * 8 + cluster_size - 1) / cluster_size) * cluster_size;
        dir += (ENTRY_HEAD + strlen(bitmap->name) + 7) & ~UINT64_C(7);
    }
    return total + (dir + cluster_size - 1) / cluster_size * cluster_size;
}
