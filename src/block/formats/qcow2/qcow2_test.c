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

int main(int argc, char **argv)
{
    g_autofree char *qemu = g_find_program_in_path("qemu-img");

    g_test_init(&argc, &argv, NULL);
    have_qemu = qemu != NULL;
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        g_autofree char *name = g_strdup_printf("/qcow2/random/%s", kinds[i].name);

        g_test_add_data_func(name, &kinds[i], test_random);
    }
    return g_test_run();
}
