/*
 * Tests of the qcow2 driver on real files: random operations against a copy in memory, over many kinds of
 * images; qemu-img (where it is installed) checks the results and reads them back. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "block/formats/qcow2/qcow2.h"

#include "base/error.h"
#include "block/graph/dirty_bitmap.h"
#include "block/graph/graph.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static Loop *loop;
static BlockGraph *graph;
static char *dir;
static bool have_qemu;

static void begin(void)
{
    loop = loop_new(NULL, NULL);
    graph = block_graph_new(loop, NULL);
    dir = g_dir_make_tmp("rhea-qcow2-XXXXXX", NULL);
}

static void run(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
static void run(const char *fmt, ...)
{
    g_autofree char *command = NULL;
    va_list ap;
    int status;

    va_start(ap, fmt);
    command = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    status = system(command);
    if (status) {
        g_error("'%s' failed with status %d", command, status);
    }
}

static void end(void)
{
    block_graph_free(graph);
    loop_free(loop);
    run("rm -rf '%s'", dir);
    g_free(dir);
}

static char *at(const char *name)
{
    return g_build_filename(dir, name, NULL);
}

static void make(const char *path, uint64_t size, const char *options)
{
    g_autoptr(GError) error = NULL;
    json_object *o = json_object_new_object();
    g_auto(GStrv) parts = g_strsplit(options, ",", -1);

    for (char **p = parts; *p && **p; p++) {
        char *eq = strchr(*p, '=');

        *eq++ = 0;
        if (strncmp(eq, "DIR/", 4) == 0) {
            g_autofree char *full = at(eq + 4);

            json_object_object_add(o, *p, json_object_new_string(full));
        } else {
            json_object_object_add(o, *p, json_object_new_string(eq));
        }
    }
    block_image_create(graph, "qcow2", path, size, o, false, &error);
    g_assert_no_error(error);
    json_object_put(o);
}

static BlockChild *open_flags(const char *path, bool write, unsigned flags, GError **error)
{
    json_object *o = json_object_new_object();
    BlockNode *node;

    json_object_object_add(o, "driver", json_object_new_string("qcow2"));
    json_object_object_add(o, "read-only", json_object_new_boolean(!write));
    json_object_object_add(o, "discard", json_object_new_string("unmap"));
    node = block_node_open_image(graph, path, o, flags, error);
    json_object_put(o);
    return node ? block_root_new(node, "test",
                                 BLOCK_PERM_CONSISTENT_READ |
                                     (write ? BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE : 0),
                                 BLOCK_PERM_ALL, NULL, NULL, error)
                : NULL;
}

static BlockChild *open_image(const char *path, bool write)
{
    g_autoptr(GError) error = NULL;
    BlockChild *root = open_flags(path, write, 0, &error);

    g_assert_no_error(error);
    return root;
}

typedef struct Checking {
    BlockChild *root;
    unsigned fix;
    BlockCheckResult result;
    GError *error;
    bool ok;
} Checking;

static void check_entry(void *opaque)
{
    Checking *c = opaque;

    c->ok = c->root->node->driver->co_check(c->root->node, &c->result, c->fix, &c->error);
}

static BlockCheckResult check(BlockChild *root, unsigned fix)
{
    Checking c = { .root = root, .fix = fix };

    block_run(graph, check_entry, &c);
    g_assert_no_error(c.error);
    return c.result;
}

static void must_be_clean(BlockChild *root)
{
    BlockCheckResult r = check(root, 0);

    g_assert_cmpint(r.corruptions, ==, 0);
    g_assert_cmpint(r.leaks, ==, 0);
    g_assert_cmpint(r.check_errors, ==, 0);
}

/* ---- random operations against a model ---- */

typedef struct Model {
    uint8_t *bytes;
    uint64_t size;
    char *path;
    BlockChild *root;
    GRand *rand;
    uint32_t cluster;
    bool compress;
} Model;

typedef struct Task {
    Model *m;
    int op, *left;
    uint64_t offset, bytes;
    uint8_t *buf;
    int ret;
} Task;

enum { WRITE, ZEROES, DISCARD, READ, COMPRESSED, OPS };

static void task_entry(void *opaque)
{
    Task *t = opaque;
    BlockChild *root = t->m->root;

    switch (t->op) {
    case WRITE:
        t->ret = block_co_pwrite(root, t->offset, t->bytes, t->buf, 0);
        break;
    case COMPRESSED:
        t->ret = block_co_pwrite(root, t->offset, t->bytes, t->buf, BLOCK_REQ_WRITE_COMPRESSED);
        break;
    case ZEROES:
        t->ret = block_co_pwrite_zeroes(root, t->offset, t->bytes, t->bytes & 512 ? BLOCK_REQ_MAY_UNMAP : 0);
        break;
    case DISCARD:
        t->ret = block_co_pdiscard(root, t->offset, t->bytes);
        break;
    default:
        t->ret = block_co_pread(root, t->offset, t->bytes, t->buf, 0);
        break;
    }
    --*t->left;
}

static void prepare(Model *m, Task *t, uint64_t from, uint64_t room)
{
    uint64_t unit = g_rand_boolean(m->rand) ? 512 : 4096;

    t->m = m;
    t->op = g_rand_int_range(m->rand, 0, m->compress ? OPS : COMPRESSED);
    t->offset = from + g_rand_int_range(m->rand, 0, (int)(room / unit)) * unit;
    t->bytes = (1 + (uint64_t)g_rand_int_range(m->rand, 0, 40)) * unit;
    t->bytes = MIN(from + room - t->offset, t->bytes);
    if (t->op == COMPRESSED) {
        t->offset = t->offset / m->cluster * m->cluster;
        t->bytes = MIN(m->cluster, m->size - t->offset);
        if (t->offset < from || t->offset + t->bytes > from + room) {
            t->op = READ;
        }
    }
    t->buf = g_malloc(t->bytes);
    for (uint64_t i = 0; i < t->bytes; i++) {
        t->buf[i] = (uint8_t)(i % 61 == 0 ? g_rand_int(m->rand) : t->offset >> 9);
    }
}

/* What the task did, in the model. */
static void settle(Model *m, Task *t)
{
    g_assert_cmpint(t->ret, >=, 0);
    switch (t->op) {
    case WRITE:
    case COMPRESSED:
        memcpy(m->bytes + t->offset, t->buf, t->bytes);
        break;
    case ZEROES:
        memset(m->bytes + t->offset, 0, t->bytes);
        break;
    case DISCARD: { /* may or may not have zeroed: see what is there now, either is right */
        g_autofree uint8_t *now = g_malloc(t->bytes);

        g_assert_cmpint(blk_pread(m->root, t->offset, t->bytes, now, 0), >=, 0);
        for (uint64_t i = 0; i < t->bytes; i++) {
            g_assert_true(now[i] == 0 || now[i] == m->bytes[t->offset + i]);
        }
        memcpy(m->bytes + t->offset, now, t->bytes);
        break;
    }
    default:
        for (uint64_t i = 0; i < t->bytes; i++) {
            if (t->buf[i] != m->bytes[t->offset + i]) {
                g_error("byte %#" G_GINT64_MODIFIER "x of %s reads %02x, not %02x", t->offset + i, m->path,
                        t->buf[i], m->bytes[t->offset + i]);
            }
        }
        break;
    }
    if (g_test_verbose()) {
        g_printerr("%d %#" G_GINT64_MODIFIER "x+%#" G_GINT64_MODIFIER "x\n", t->op, t->offset, t->bytes);
    }
    g_free(t->buf);
}

typedef struct Crowd {
    Task tasks[16];
    int n, left;
} Crowd;

static void crowd_entry(void *opaque)
{
    Crowd *c = opaque;

    for (int i = 0; i < c->n; i++) {
        coroutine_enter(coroutine_new(task_entry, &c->tasks[i]));
    }
    while (c->left) {
        co_sleep_ns(loop, 20000);
    }
}

/* Some at once, each in a part of the disk of its own; parts share clusters at their edges. */
static void some_at_once(Model *m)
{
    Crowd c;
    uint64_t part = m->size / 16 / 4096 * 4096;

    c.n = c.left = g_rand_int_range(m->rand, 1, 17);
    for (int i = 0; i < c.n; i++) {
        prepare(m, &c.tasks[i], (uint64_t)i * part, part);
        c.tasks[i].left = &c.left;
    }
    block_run(graph, crowd_entry, &c);
    for (int i = 0; i < c.n; i++) {
        settle(m, &c.tasks[i]);
    }
}

static void compare_all(Model *m)
{
    g_autofree uint8_t *buf = g_malloc(m->size);

    g_assert_cmpint(blk_pread(m->root, 0, m->size, buf, 0), >=, 0);
    for (uint64_t i = 0; i < m->size; i++) {
        if (buf[i] != m->bytes[i]) {
            g_error("byte %#" G_GINT64_MODIFIER "x of %s is %02x, not %02x", i, m->path, buf[i], m->bytes[i]);
        }
    }
}

static void qemu_agrees(Model *m)
{
    g_autofree char *raw = at("dump.raw"), *data = NULL;
    gsize size;

    if (!have_qemu) {
        return;
    }
    run("qemu-img check -q '%s'", m->path);
    run("qemu-img convert -O raw '%s' '%s'", m->path, raw);
    g_assert_true(g_file_get_contents(raw, &data, &size, NULL));
    g_assert_cmpuint(size, ==, m->size);
    g_assert_cmpint(memcmp(data, m->bytes, size), ==, 0);
}

typedef struct Kind {
    const char *name, *options;
    uint64_t size;
    uint32_t cluster;
    bool backing, compress;
} Kind;

static const Kind kinds[] = {
    { "default", "", 16u << 20, 65536, false, true },
    { "backing", "", 16u << 20, 65536, true, true },
    { "v2", "compat=0.10", 8u << 20, 65536, false, true },
    { "v2-backing", "compat=0.10", 8u << 20, 65536, true, false },
    { "cluster-512", "cluster_size=512", 4u << 20, 512, true, true },
    { "cluster-4k", "cluster_size=4096", 8u << 20, 4096, true, true },
    { "cluster-2m", "cluster_size=2M", 64u << 20, 2u << 20, true, false },
    { "subclusters", "extended_l2=on", 16u << 20, 65536, false, true },
    { "subclusters-backing", "extended_l2=on,cluster_size=128k", 32u << 20, 131072, true, true },
    { "refcount-1", "refcount_bits=1", 8u << 20, 65536, true, true },
    { "refcount-2", "refcount_bits=2,cluster_size=512", 4u << 20, 512, false, true },
    { "refcount-64", "refcount_bits=64,cluster_size=512", 4u << 20, 512, false, true },
    { "lazy", "lazy_refcounts=on", 16u << 20, 65536, true, false },
    { "zstd", "compression_type=zstd", 16u << 20, 65536, false, true },
    { "journal", "journal=on", 16u << 20, 65536, false, true },
    { "journal-backing", "journal=auto", 16u << 20, 131072, true, true },
    { "journal-512", "journal=on,cluster_size=512", 4u << 20, 512, true, true },
    { "prealloc", "preallocation=metadata", 16u << 20, 65536, false, false },
    { "falloc", "preallocation=falloc,extended_l2=on", 16u << 20, 65536, false, false },
    { "data-file", "data_file=DIR/data.raw", 16u << 20, 65536, true, false },
    { "data-file-raw", "data_file=DIR/data.raw,data_file_raw=on", 16u << 20, 65536, false, false },
};

static void test_random(gconstpointer which)
{
    const Kind *k = which;
    Model m = { .size = k->size, .cluster = k->cluster, .compress = k->compress };
    g_autofree char *base = NULL, *options = NULL, *name = g_strdup_printf("%s.qcow2", k->name);

    begin();
    m.path = at(name);
    m.rand = g_rand_new_with_seed(g_test_rand_int_range(0, 1 << 30));
    m.bytes = g_malloc0(m.size);
    if (k->backing) {
        base = at("base.raw");
        for (uint64_t i = 0; i < m.size / 2; i++) {
            m.bytes[i] = (uint8_t)(i >> 9 | 1);
        }
        g_assert_true(g_file_set_contents(base, (char *)m.bytes, (gssize)(m.size / 2), NULL));
    }
    options = g_strconcat(k->options, k->backing && *k->options ? "," : "",
                          k->backing ? "backing_fmt=raw,backing_file=" : "", base, NULL);
    make(m.path, m.size, options);
    m.root = open_image(m.path, true);
    for (int i = 0; i < 120; i++) {
        some_at_once(&m);
        if (g_rand_int_range(m.rand, 0, 4) == 0) {
            g_assert_cmpint(blk_flush(m.root), >=, 0);
        }
        if (g_rand_int_range(m.rand, 0, 30) == 0) {
            compare_all(&m);
            must_be_clean(m.root);
            block_root_free(m.root);
            if (g_rand_boolean(m.rand)) {
                qemu_agrees(&m);
            }
            m.root = open_image(m.path, true);
        }
    }
    compare_all(&m);
    must_be_clean(m.root);
    block_root_free(m.root);
    qemu_agrees(&m);
    m.root = open_image(m.path, false);
    compare_all(&m);
    must_be_clean(m.root);
    block_root_free(m.root);
    g_rand_free(m.rand);
    g_free(m.bytes);
    g_free(m.path);
    end();
}

/* ---- snapshots ---- */

static void fill(BlockChild *root, uint64_t offset, uint64_t bytes, int value)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    memset(buf, value, bytes);
    g_assert_cmpint(blk_pwrite(root, offset, bytes, buf, 0), >=, 0);
}

static void expect(BlockChild *root, uint64_t offset, uint64_t bytes, int value)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    g_assert_cmpint(blk_pread(root, offset, bytes, buf, 0), >=, 0);
    for (uint64_t i = 0; i < bytes; i++) {
        if (buf[i] != value) {
            g_error("byte %#" G_GINT64_MODIFIER "x is %02x, not %02x", offset + i, buf[i], value);
        }
    }
}

static void take_snapshot(BlockChild *root, const char *name, char *id)
{
    BlockSnapshotInfo info = { .date_s = 1000, .icount = UINT64_MAX };
    g_autoptr(GError) error = NULL;

    g_strlcpy(info.name, name, sizeof(info.name));
    root->node->driver->snapshot_create(root->node, &info, &error);
    g_assert_no_error(error);
    g_strlcpy(id, info.id, sizeof(info.id));
}

static void test_snapshots(gconstpointer options)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    const BlockDriver *driver;
    BlockChild *root;
    char one[128], two[128];
    GArray *list;

    begin();
    path = at("snap.qcow2");
    make(path, 4u << 20, options);
    root = open_image(path, true);
    driver = root->node->driver;
    fill(root, 0, 1u << 20, 1);
    take_snapshot(root, "first", one);
    must_be_clean(root);
    fill(root, 512u << 10, 1u << 20, 2);
    take_snapshot(root, "second", two);
    fill(root, 70000, 3000, 3);
    g_assert_cmpint(blk_flush(root), >=, 0);
    must_be_clean(root);
    block_root_free(root);
    if (have_qemu) {
        run("qemu-img check -q '%s'", path);
        run("qemu-img snapshot -c theirs '%s'", path);
        run("qemu-img snapshot -d theirs '%s'", path);
    }
    root = open_image(path, true);
    list = g_array_new(FALSE, FALSE, sizeof(BlockSnapshotInfo));
    g_assert_true(driver->snapshot_list(root->node, list, NULL));
    g_assert_cmpuint(list->len, ==, 2);
    g_assert_cmpstr(g_array_index(list, BlockSnapshotInfo, 1).name, ==, "second");
    g_array_free(list, TRUE);
    driver->snapshot_goto(root->node, one, &error);
    g_assert_no_error(error);
    must_be_clean(root);
    expect(root, 0, 1u << 20, 1);
    expect(root, 1u << 20, 1u << 20, 0);
    fill(root, 3u << 20, 4096, 9);
    driver->snapshot_goto(root->node, two, &error);
    g_assert_no_error(error);
    must_be_clean(root);
    expect(root, 0, 512u << 10, 1);
    expect(root, 512u << 10, 1u << 20, 2);
    expect(root, 3u << 20, 4096, 0);
    g_assert_true(driver->snapshot_delete(root->node, one, &error));
    must_be_clean(root);
    g_assert_true(driver->snapshot_delete(root->node, two, &error));
    must_be_clean(root);
    g_assert_false(driver->snapshot_delete(root->node, two, &error));
    g_clear_error(&error);
    fill(root, 100, 1000, 7);
    expect(root, 1100, 2000, 1);
    block_root_free(root);
    if (have_qemu) {
        run("qemu-img check -q '%s'", path);
    }
    end();
}

/* ---- compressed clusters ---- */

static void squeeze(BlockChild *root, uint64_t offset, int value)
{
    uint8_t data[4096];

    memset(data, value, sizeof(data));
    g_assert_cmpint(blk_pwrite(root, offset, sizeof(data), data, BLOCK_REQ_WRITE_COMPRESSED), >=, 0);
}

/* Where the last compressed data lay is free again and in other hands: what is compressed next does not go
 * there. (QEMU 7.2 writes over it.) */
static void test_compressed_room(gconstpointer options)
{
    g_autofree char *path = NULL;
    BlockChild *root;

    begin();
    path = at("room.qcow2");
    make(path, 64u << 20, options);
    root = open_image(path, true);
    for (uint64_t base = 0; base < 64u << 20; base += 16u << 20) {
        squeeze(root, base, 1);
        fill(root, base, 4096, 2);
        g_assert_cmpint(blk_flush(root), >=, 0); /* what was freed can be taken */
        fill(root, base + 4096, 8u << 20, 3);    /* and is */
        squeeze(root, base + (15u << 20), 4);
        expect(root, base, 4096, 2);
        expect(root, base + 4096, 8u << 20, 3);
        expect(root, base + (15u << 20), 4096, 4);
        must_be_clean(root);
    }
    block_root_free(root);
    if (have_qemu) {
        run("qemu-img check -q '%s'", path);
    }
    end();
}

/* ---- size ---- */

static void test_resize(gconstpointer options)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    BlockChild *root;

    begin();
    path = at("size.qcow2");
    make(path, (1u << 20) + 512, options);
    root = open_image(path, true);
    fill(root, 0, (1u << 20) + 512, 5);
    g_assert_true(blk_truncate(root, 1u << 30, true, QAPI_PREALLOC_MODE_OFF, 0, &error));
    g_assert_cmpuint(block_size(root), ==, 1u << 30);
    expect(root, 1u << 20, 512, 5);
    expect(root, (1u << 20) + 512, 1u << 20, 0);
    fill(root, (1u << 30) - 4096, 4096, 6);
    must_be_clean(root);
    g_assert_true(blk_truncate(root, 65536 * 3, true, QAPI_PREALLOC_MODE_OFF, 0, &error));
    must_be_clean(root);
    g_assert_true(blk_truncate(root, 1u << 20, true, QAPI_PREALLOC_MODE_METADATA, 0, &error));
    expect(root, 0, 65536 * 3, 5);
    expect(root, 65536 * 3, (1u << 20) - 65536 * 3, 0);
    must_be_clean(root);
    g_assert_false(blk_truncate(root, 1u << 19, true, QAPI_PREALLOC_MODE_FULL, 0, &error));
    g_clear_error(&error);
    block_root_free(root);
    if (have_qemu) {
        run("qemu-img check -q '%s'", path);
    }
    end();
}

/* ---- check and repair ---- */

static void patch(const char *path, uint64_t offset, const void *bytes, size_t size)
{
    int fd = open(path, O_RDWR);

    g_assert_cmpint(pwrite(fd, bytes, size, (off_t)offset), ==, (ssize_t)size);
    close(fd);
}

static void test_repair(void)
{
    static const uint8_t two[2] = { 0, 2 }, zero[2];
    g_autofree char *path = NULL;
    BlockCheckResult r;
    BlockChild *root;

    begin();
    path = at("bad.qcow2");
    make(path, 1u << 20, "");
    root = open_image(path, true);
    fill(root, 0, 1u << 20, 5);
    block_root_free(root);
    patch(path, 0x20000 + 2 * 6, two, 2); /* refcounts that are too high */
    patch(path, 0x20000 + 2 * 9, two, 2);
    root = open_flags(path, true, BLOCK_OPEN_CHECK, NULL);
    r = check(root, 0);
    g_assert_cmpint(r.leaks, ==, 2);
    g_assert_cmpint(r.corruptions, ==, 2); /* COPIED does not fit the refcounts */
    r = check(root, BLOCK_FIX_LEAKS);
    g_assert_cmpint(r.leaks_fixed, ==, 2);
    must_be_clean(root);
    block_root_free(root);
    patch(path, 0x20000 + 2 * 7, zero, 2); /* a cluster in use that would be handed out */
    root = open_flags(path, true, BLOCK_OPEN_CHECK, NULL);
    r = check(root, 0);
    g_assert_cmpint(r.corruptions, >=, 1);
    r = check(root, BLOCK_FIX_ERRORS | BLOCK_FIX_LEAKS);
    g_assert_cmpint(r.corruptions, ==, 0);
    g_assert_cmpint(r.corruptions_fixed, >=, 1);
    must_be_clean(root);
    expect(root, 0, 1u << 20, 5);
    block_root_free(root);
    if (have_qemu) {
        run("qemu-img check -q '%s'", path);
    }
    end();
}

/* An L2 entry that leads into the tables: the write is refused, and the image is marked. */
static void test_overlap(void)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    uint8_t entry[8];
    BlockChild *root;
    char buf[512] = { 0 };
    uint64_t l2;

    begin();
    path = at("overlap.qcow2");
    make(path, 1u << 20, "");
    root = open_image(path, true);
    fill(root, 0, 65536, 5);
    l2 = ((Qcow2Node *)root->node)->l1[0] & QCOW2_OFFSET_MASK;
    block_root_free(root);
    put_be64(entry, l2 | QCOW2_COPIED);
    patch(path, l2, entry, 8);
    root = open_image(path, true);
    g_assert_cmpint(blk_pwrite(root, 0, 512, buf, 0), ==, -EIO);
    g_assert_cmpint(blk_pwrite(root, 4096, 512, buf, 0), <, 0);
    block_root_free(root);
    g_assert_null(open_flags(path, true, 0, &error));
    g_assert_nonnull(strstr(error->message, "corrupt"));
    root = open_image(path, false); /* it can be read */
    block_root_free(root);
    end();
}

/* ---- bitmaps ---- */

static void test_bitmaps(void)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    DirtyBitmap *bitmap;
    BlockChild *root;

    begin();
    path = at("bitmap.qcow2");
    make(path, 64u << 20, "");
    root = open_image(path, true);
    bitmap = dirty_bitmap_new(root->node, "b0", 65536, &error);
    g_assert_no_error(error);
    bitmap->persistent = true;
    fill(root, 5u << 20, 100, 1);
    fill(root, 40u << 20, 200000, 1);
    block_root_free(root);
    if (have_qemu) {
        run("qemu-img check -q '%s'", path);
        run("qemu-img info '%s' | grep -q 'name: b0'", path);
        run("qemu-img bitmap --add -g 4096 '%s' theirs", path);
    }
    root = open_image(path, true);
    bitmap = dirty_bitmap_find(root->node, "b0");
    g_assert_nonnull(bitmap);
    g_assert_false(bitmap->inconsistent);
    g_assert_cmpuint(dirty_bitmap_count(bitmap), ==, 65536 + 262144);
    g_assert_true(dirty_bitmap_get(bitmap, 5u << 20));
    g_assert_false(dirty_bitmap_get(bitmap, 6u << 20));
    if (have_qemu) {
        bitmap = dirty_bitmap_find(root->node, "theirs");
        g_assert_nonnull(bitmap);
        g_assert_cmpuint(bitmap->granularity, ==, 4096);
    }
    must_be_clean(root);
    g_assert_true(root->node->driver->bitmap_remove_stored(root->node, "b0", &error));
    dirty_bitmap_free(dirty_bitmap_find(root->node, "b0"));
    must_be_clean(root);
    block_root_free(root);
    root = open_image(path, false);
    g_assert_null(dirty_bitmap_find(root->node, "b0"));
    block_root_free(root);
    if (have_qemu) {
        run("qemu-img check -q '%s'", path);
    }
    end();
}

/* ---- several loops ---- */

#define THREADS 4

typedef struct Worker {
    BlockChild *root;
    uint64_t from, bytes;
    int number;
} Worker;

static gpointer work(gpointer opaque)
{
    Worker *w = opaque;
    GRand *rand = g_rand_new_with_seed((guint32)w->number);
    g_autofree uint8_t *model = g_malloc0(w->bytes), *buf = g_malloc(w->bytes);

    for (int i = 0; i < 400; i++) {
        uint64_t n = 4096 * (uint64_t)g_rand_int_range(rand, 1, 20);
        uint64_t start = 4096 * (uint64_t)g_rand_int_range(rand, 0, (gint32)((w->bytes - n) / 4096));

        switch (g_rand_int_range(rand, 0, 6)) {
        case 0:
            g_assert_cmpint(blk_pwrite_zeroes(w->root, w->from + start, n, BLOCK_REQ_MAY_UNMAP), >=, 0);
            memset(model + start, 0, n);
            break;
        case 1:
            g_assert_cmpint(blk_pread(w->root, w->from + start, n, buf, 0), >=, 0);
            g_assert_cmpint(memcmp(buf, model + start, n), ==, 0);
            break;
        case 2:
            if (i % 4 == 0) {
                g_assert_cmpint(blk_flush(w->root), >=, 0);
            }
            break;
        default:
            memset(model + start, i, n);
            g_assert_cmpint(blk_pwrite(w->root, w->from + start, n, model + start, 0), >=, 0);
            break;
        }
    }
    g_assert_cmpint(blk_pread(w->root, w->from, w->bytes, buf, 0), >=, 0);
    g_assert_cmpint(memcmp(buf, model, w->bytes), ==, 0);
    g_rand_free(rand);
    return NULL;
}

static void test_loops(gconstpointer options)
{
    g_autofree char *path = NULL;
    Worker workers[THREADS];
    GThread *threads[THREADS];
    BlockChild *root;

    begin();
    path = at("loops.qcow2");
    make(path, 32u << 20, options);
    root = open_image(path, true);
    for (int i = 0; i < THREADS; i++) {
        /* Their parts meet within clusters. */
        workers[i] = (Worker){ root, (uint64_t)i * (4096 * 1501), 4096 * 1501, i };
        threads[i] = g_thread_new("worker", work, &workers[i]);
    }
    for (int i = 0; i < THREADS; i++) {
        g_thread_join(threads[i]);
    }
    must_be_clean(root);
    block_root_free(root);
    if (have_qemu) {
        run("qemu-img check -q '%s'", path);
    }
    end();
}

/* ---- flushes ---- */

static const BlockDriver *file_driver;
static BlockDriver counting;
static int host_flushes;

static void count_submit(BlockNode *node, BlockRequest *req)
{
    host_flushes += req->op == BLOCK_FLUSH || (req->flags & BLOCK_REQ_FUA);
    file_driver->submit(node, req);
}

/* One host flush for each of the guest, whether clusters are allocated or not. */
static void test_one_flush(void)
{
    g_autofree char *path = NULL;
    BlockChild *root;

    begin();
    path = at("flush.qcow2");
    make(path, 1u << 30, "journal=on");
    root = open_image(path, true);
    fill(root, 0, 4096, 1); /* the journal begins */
    g_assert_cmpint(blk_flush(root), >=, 0);
    file_driver = root->node->file->node->driver;
    counting = *file_driver;
    counting.submit = count_submit;
    root->node->file->node->driver = &counting;
    host_flushes = 0;
    for (int i = 0; i < 1000; i++) {
        fill(root, (uint64_t)(i * 7919 % 16384) << 16, 4096, i);
        g_assert_cmpint(blk_flush(root), >=, 0);
    }
    g_assert_cmpint(host_flushes, <=, 1050);
    g_assert_cmpint(host_flushes, >=, 1000);
    root->node->file->node->driver = file_driver;
    must_be_clean(root);
    block_root_free(root);
    end();
}

/* Reads through many layers, of different layouts and sizes, in any order, also after the top was written and
 * discarded. */
static void test_chain(void)
{
    enum { LAYERS = 12, UNIT = 4096, UNITS = 2048 };
    static const char *const layouts[] = { "cluster_size=65536", "extended_l2=on,cluster_size=131072",
                                           "cluster_size=4096" };
    uint8_t model[UNITS] = { 0 };
    g_autofree char *top = NULL;
    BlockChild *root;

    begin();
    for (int layer = 0; layer < LAYERS; layer++) {
        uint64_t size = layer == 5 ? UNITS / 2 * UNIT : (uint64_t)UNITS * UNIT; /* a short one between */
        g_autofree char *name = g_strdup_printf("chain%d", layer);
        g_autofree char *options = layer ? g_strdup_printf("%s,backing_file=DIR/chain%d,backing_fmt=qcow2",
                                                           layouts[layer % 3], layer - 1)
                                         : g_strdup(layouts[0]);

        g_free(top);
        top = at(name);
        make(top, size, options);
        root = open_image(top, true);
        for (int i = 0; i < 12; i++) {
            int unit = g_test_rand_int_range(0, (gint32)(size / UNIT));

            if (layer >= 2) { /* the lowest two stay empty in places */
                fill(root, (uint64_t)unit * UNIT, UNIT, layer);
                model[unit] = (uint8_t)layer;
            }
        }
        block_root_free(root);
        for (int unit = (int)(size / UNIT); unit < UNITS; unit++) {
            model[unit] = 0; /* what a layer above a short one shows behind its end */
        }
    }
    root = open_image(top, true);
    for (int round = 0; round < 4000; round++) {
        int unit = g_test_rand_int_range(0, UNITS);

        if (round % 40 == 0) {
            fill(root, (uint64_t)unit * UNIT, UNIT, 200);
            model[unit] = 200;
        } else if (round % 40 == 20) {
            g_assert_cmpint(blk_pwrite_zeroes(root, (uint64_t)unit * UNIT, UNIT, 0), >=, 0);
            model[unit] = 0;
        }
        unit = g_test_rand_int_range(0, UNITS);
        expect(root, (uint64_t)unit * UNIT, UNIT, model[unit]);
    }
    block_root_free(root);
    end();
}

int main(int argc, char **argv)
{
    g_autofree char *qemu = g_find_program_in_path("qemu-img");

    g_test_init(&argc, &argv, NULL);
    have_qemu = qemu != NULL;
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        g_autofree char *name = g_strdup_printf("/qcow2/random/%s", kinds[i].name);

        g_test_add_data_func(name, &kinds[i], test_random);
    }
    g_test_add_data_func("/qcow2/snapshots/default", "", test_snapshots);
    g_test_add_func("/qcow2/chain", test_chain);
    g_test_add_data_func("/qcow2/snapshots/journal", "journal=on", test_snapshots);
    g_test_add_data_func("/qcow2/snapshots/v2", "compat=v2,cluster_size=4096", test_snapshots);
    g_test_add_data_func("/qcow2/snapshots/subclusters", "extended_l2=on", test_snapshots);
    g_test_add_data_func("/qcow2/compressed-room/default", "cluster_size=4k", test_compressed_room);
    g_test_add_data_func("/qcow2/compressed-room/journal", "cluster_size=4k,journal=on",
                         test_compressed_room);
    g_test_add_data_func("/qcow2/resize/default", "", test_resize);
    g_test_add_data_func("/qcow2/resize/journal-512", "journal=on,cluster_size=512", test_resize);
    g_test_add_func("/qcow2/repair", test_repair);
    g_test_add_func("/qcow2/overlap", test_overlap);
    g_test_add_func("/qcow2/bitmaps", test_bitmaps);
    g_test_add_data_func("/qcow2/loops/default", "", test_loops);
    g_test_add_data_func("/qcow2/loops/journal", "journal=on", test_loops);
    g_test_add_data_func("/qcow2/loops/subclusters", "extended_l2=on,cluster_size=16k", test_loops);
    g_test_add_func("/qcow2/one-flush", test_one_flush);
    return g_test_run();
}
