/*
 * Crash tests of qcow2: every write, flush and change of size that reaches the file is logged, and when it
 * ended. Then the file is made as a crash at any point may leave it: what had ended before a host flush began
 * that had ended too, writes that are stable by themselves (FUA) and had ended, and any sectors of all else.
 * The image must open, have no error (with the journal: no leak either), and hold every sector as of the last
 * flush that the guest saw done, or as of a write after that. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/qcow2/qcow2.h"

#include "base/error.h"
#include "block/graph/graph.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define SECTOR  512u
#define SECTORS 4096u /* of the disk */

typedef enum EntryKind { LOG_WRITE, LOG_ZERO, LOG_FLUSH, LOG_TRUNCATE } EntryKind;
typedef struct Entry {
    EntryKind kind;
    uint64_t offset, bytes;
    uint8_t *data;
    bool fua;
    guint done; /* the log's length when it had ended; G_MAXUINT: not yet */
} Entry;

/* In the place of a request's own end. */
typedef struct Ending {
    BlockDone *done;
    void *opaque;
    guint entry;
} Ending;

/* What the guest wrote to a sector: 0 is zeroes, 1 the backing image's. */
typedef struct GuestWrite {
    guint log; /* the log's length before it */
    uint32_t sector;
    uint64_t version;
} GuestWrite;

typedef struct GuestFlush {
    guint begun, done; /* the log's length */
    uint64_t *versions;
} GuestFlush;

static Loop *loop;
static BlockGraph *graph;
static char *dir, *path;
static GArray *entries, *writes, *flushes;
static uint8_t *start;
static gsize start_size;
static BlockDriver logged;
static const BlockDriver *file_driver;
static uint64_t versions[SECTORS];

static void log_entry(EntryKind kind, uint64_t offset, uint64_t bytes, uint8_t *data)
{
    Entry e = { kind, offset, bytes, data, false, G_MAXUINT };

    g_array_append_val(entries, e);
}

static void log_done(void *opaque, int result)
{
    Ending *e = opaque;

    if (result >= 0) {
        g_array_index(entries, Entry, e->entry).done = entries->len;
    }
    e->done(e->opaque, result);
    g_free(e);
}

static void log_submit(BlockNode *node, BlockRequest *req)
{
    uint8_t *data = NULL;

    switch (req->op) {
    case BLOCK_WRITE: {
        BlockVec vec = { req->iov, req->iov_count };

        data = g_malloc(req->bytes);
        block_vec_read(&vec, 0, data, req->bytes);
        log_entry(LOG_WRITE, req->offset, req->bytes, data);
        break;
    }
    case BLOCK_FLUSH:
        log_entry(LOG_FLUSH, 0, 0, NULL);
        break;
    case BLOCK_DISCARD:
    case BLOCK_WRITE_ZEROES:
        log_entry(LOG_ZERO, req->offset, req->bytes, NULL);
        break;
    default:
        file_driver->submit(node, req);
        return;
    }
    Ending *e = g_new(Ending, 1);

    *e = (Ending){ req->done, req->opaque, entries->len - 1 };
    g_array_index(entries, Entry, e->entry).fua = req->flags & BLOCK_REQ_FUA;
    req->done = log_done;
    req->opaque = e;
    file_driver->submit(node, req);
}

static int log_truncate(BlockNode *node, uint64_t size, bool exact, QapiPreallocMode prealloc, unsigned flags,
                        GError **error)
{
    log_entry(LOG_TRUNCATE, size, 0, NULL);
    return file_driver->co_truncate(node, size, exact, prealloc, flags, error);
}

static BlockChild *open_image(const char *name, GError **error)
{
    json_object *o = json_object_new_object();
    BlockNode *node;

    json_object_object_add(o, "driver", json_object_new_string("qcow2"));
    json_object_object_add(o, "discard", json_object_new_string("unmap"));
    node = block_node_open_image(graph, name, o, 0, error);
    json_object_put(o);
    return node ? block_root_new(node, "test", BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE, BLOCK_PERM_ALL,
                                 NULL, NULL, error)
                : NULL;
}

static void stamp(uint8_t *sector, uint64_t version, uint32_t number)
{
    uint64_t words[2] = { version, version == 1 ? 0 : number };

    memset(sector, 0, SECTOR);
    if (version) {
        for (uint32_t i = 0; i < SECTOR; i += sizeof(words)) {
            memcpy(sector + i, words, sizeof(words));
        }
    }
}

/* ---- the guest ---- */

static void guest_range(BlockChild *root, GRand *rand, uint64_t version)
{
    uint32_t n = g_rand_int_range(rand, 0, 8) == 0 ? (uint32_t)g_rand_int_range(rand, 1, 400)
                                                   : 8 * (uint32_t)g_rand_int_range(rand, 1, 4);
    uint32_t first = (uint32_t)g_rand_int_range(rand, 0, (gint32)(SECTORS - n)) & ~7u,
             op = g_rand_int(rand) % 8;
    g_autofree uint8_t *buf = g_malloc((size_t)n * SECTOR);

    if (op >= 6) {
        version = 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        GuestWrite w = { entries->len, first + i, version };

        stamp(buf + (size_t)i * SECTOR, version, first + i);
        g_array_append_val(writes, w);
        versions[first + i] = version;
    }
    g_assert_cmpint(version ? blk_pwrite(root, (uint64_t)first * SECTOR, (uint64_t)n * SECTOR, buf, 0)
                            : blk_pwrite_zeroes(root, (uint64_t)first * SECTOR, (uint64_t)n * SECTOR,
                                                op == 7 ? BLOCK_REQ_MAY_UNMAP : 0),
                    >=, 0);
}

static void guest_flush(BlockChild *root)
{
    GuestFlush f = { .begun = entries->len, .versions = g_memdup2(versions, sizeof(versions)) };

    g_assert_cmpint(blk_flush(root), >=, 0);
    f.done = entries->len;
    g_array_append_val(flushes, f);
}

static void guest(GRand *rand, int steps)
{
    g_autoptr(GError) error = NULL;
    BlockChild *root = open_image(path, &error);
    BlockNode *file;

    g_assert_no_error(error);
    file = root->node->file->node;
    file_driver = file->driver;
    logged = *file_driver;
    logged.submit = log_submit;
    logged.co_truncate = log_truncate;
    file->driver = &logged;
    for (int i = 0; i < steps; i++) {
        guest_range(root, rand, (uint64_t)i + 2);
        if (g_rand_int_range(rand, 0, 3) == 0) {
            guest_flush(root);
        }
    }
    block_root_free(root); /* the close is in the log too */
}

/* ---- the crash ---- */

typedef struct Disk {
    uint8_t *bytes;
    uint64_t size;
} Disk;

static void set_size(Disk *d, uint64_t size)
{
    d->bytes = g_realloc(d->bytes, size + 1);
    if (size > d->size) {
        memset(d->bytes + d->size, 0, size - d->size);
    }
    d->size = size;
}

/* rand: only some sectors of it. */
static void apply(Disk *d, const Entry *e, GRand *rand)
{
    if (e->kind == LOG_TRUNCATE) {
        set_size(d, e->offset);
        return;
    }
    if (e->kind == LOG_FLUSH || (rand && g_rand_int_range(rand, 0, 4) == 0)) {
        return; /* nothing of it */
    }
    if (e->offset + e->bytes > d->size && e->kind == LOG_WRITE) {
        set_size(d, e->offset + e->bytes);
    }
    for (uint64_t at = 0; at < e->bytes; at += SECTOR) {
        uint64_t n = MIN(SECTOR, e->bytes - at);

        if (e->offset + at >= d->size || (rand && g_rand_int_range(rand, 0, 5) == 0)) {
            continue;
        }
        if (e->kind == LOG_ZERO) {
            memset(d->bytes + e->offset + at, 0, MIN(n, d->size - e->offset - at));
        } else {
            memcpy(d->bytes + e->offset + at, e->data + at, n);
        }
    }
}

static void make_crash(guint point, GRand *rand, const char *name)
{
    Disk d = { g_memdup2(start, start_size), start_size };
    guint covered = 0;

    /* Up to where in the log the flushes that had ended reach. */
    for (guint i = 0; i < point; i++) {
        const Entry *e = &g_array_index(entries, Entry, i);

        if (e->kind == LOG_FLUSH && e->done <= point) {
            covered = i;
        }
    }
    for (guint i = 0; i < point; i++) {
        const Entry *e = &g_array_index(entries, Entry, i);

        apply(&d, e, e->done <= covered || (e->fua && e->done <= point) ? NULL : rand);
    }
    g_assert_true(g_file_set_contents(name, (const char *)d.bytes, (gssize)d.size, NULL));
    g_free(d.bytes);
}

static bool written_since(guint from, guint point, uint32_t sector, uint64_t version)
{
    for (guint i = 0; i < writes->len; i++) {
        const GuestWrite *w = &g_array_index(writes, GuestWrite, i);

        if (w->sector == sector && w->version == version && w->log >= from && w->log <= point) {
            return true;
        }
    }
    return false;
}

typedef struct Checking {
    BlockChild *root;
    BlockCheckResult result;
    GError *error;
} Checking;

static void check_entry(void *opaque)
{
    Checking *c = opaque;

    c->root->node->driver->co_check(c->root->node, &c->result, 0, &c->error);
}

static void check_crash(guint point, const char *name, bool journal, bool backing)
{
    g_autoptr(GError) error = NULL;
    g_autofree uint8_t *bytes = g_malloc((size_t)SECTORS * SECTOR);
    const GuestFlush *last = NULL;
    uint8_t want[SECTOR];
    Checking c = { 0 };
    BlockChild *root;

    for (guint i = 0; i < flushes->len; i++) {
        const GuestFlush *f = &g_array_index(flushes, GuestFlush, i);

        last = f->done < point ? f : last;
    }
    root = open_image(name, &error);
    g_assert_no_error(error);
    c.root = root;
    block_run(graph, check_entry, &c);
    g_assert_no_error(c.error);
    g_assert_cmpint(c.result.corruptions, ==, 0);
    g_assert_cmpint(c.result.check_errors, ==, 0);
    if (journal) {
        g_assert_cmpint(c.result.leaks, ==, 0);
    }
    g_assert_cmpint(blk_pread(root, 0, (uint64_t)SECTORS * SECTOR, bytes, 0), >=, 0);
    for (uint32_t i = 0; i < SECTORS; i++) {
        uint64_t version, flushed = last ? last->versions[i] : backing;

        memcpy(&version, bytes + (size_t)i * SECTOR, 8);
        stamp(want, version, i);
        if (memcmp(want, bytes + (size_t)i * SECTOR, SECTOR) != 0) {
            g_error("crash at %u: sector %u is torn or another's", point, i);
        }
        if (version != flushed && !written_since(last ? last->begun : 0, point, i, version)) {
            g_error("crash at %u of %u: sector %u has version %" G_GUINT64_FORMAT
                    ", the last flush %" G_GUINT64_FORMAT,
                    point, entries->len, i, version, flushed);
        }
    }
    block_root_free(root);
}

typedef struct Kind {
    const char *name, *options;
    bool backing, journal;
} Kind;
static const Kind kinds[] = {
    { "plain", "", false, false },
    { "plain-backing", "", true, false },
    { "plain-512", "cluster_size=512", true, false },
    { "plain-subclusters", "extended_l2=on", true, false },
    { "lazy", "lazy_refcounts=on", false, false },
    { "journal", "journal=on", false, true },
    { "journal-backing", "journal=on", true, true },
    { "journal-auto", "journal=auto", true, true },
    { "journal-4k", "journal=on,cluster_size=4096", true, true },
};

static void clear_log(void)
{
    for (guint i = 0; i < entries->len; i++) {
        g_free(g_array_index(entries, Entry, i).data);
    }
    for (guint i = 0; i < flushes->len; i++) {
        g_free(g_array_index(flushes, GuestFlush, i).versions);
    }
    g_array_free(entries, TRUE);
    g_array_free(writes, TRUE);
    g_array_free(flushes, TRUE);
    g_free(start);
}

static void test_crash(gconstpointer which)
{
    const Kind *k = which;
    g_autoptr(GError) error = NULL;
    g_autofree char *crashed = NULL, *base = NULL, *command = NULL;
    g_auto(GStrv) parts = g_strsplit(k->options, ",", -1);
    json_object *o = json_object_new_object();
    GRand *rand = g_rand_new_with_seed((guint32)g_test_rand_int());

    loop = loop_new(NULL, NULL);
    graph = block_graph_new(loop, NULL);
    dir = g_dir_make_tmp("rhea-crash-XXXXXX", NULL);
    path = g_build_filename(dir, "image.qcow2", NULL);
    crashed = g_build_filename(dir, "crashed.qcow2", NULL);
    for (char **p = parts; *p && **p; p++) {
        char *eq = strchr(*p, '=');

        *eq = 0;
        json_object_object_add(o, *p, json_object_new_string(eq + 1));
    }
    memset(versions, 0, sizeof(versions));
    if (k->backing) {
        g_autofree uint8_t *bytes = g_malloc((size_t)SECTORS * SECTOR);

        base = g_build_filename(dir, "base.raw", NULL);
        for (uint32_t i = 0; i < SECTORS; i++) {
            versions[i] = 1;
            stamp(bytes + (size_t)i * SECTOR, 1, i);
        }
        g_assert_true(g_file_set_contents(base, (char *)bytes, SECTORS * SECTOR, NULL));
        json_object_object_add(o, "backing_file", json_object_new_string(base));
        json_object_object_add(o, "backing_fmt", json_object_new_string("raw"));
    }
    block_image_create(graph, "qcow2", path, SECTORS * SECTOR, o, false, &error);
    g_assert_no_error(error);
    json_object_put(o);
    entries = g_array_new(FALSE, FALSE, sizeof(Entry));
    writes = g_array_new(FALSE, FALSE, sizeof(GuestWrite));
    flushes = g_array_new(FALSE, FALSE, sizeof(GuestFlush));
    g_assert_true(g_file_get_contents(path, (char **)&start, &start_size, NULL));
    guest(rand, k->journal ? 450 : 150); /* enough for checkpoints */
    for (int i = 0; i < 60; i++) {
        /* At every flush boundary in turn, and anywhere. */
        guint point = i % 2 && (guint)i / 2 < flushes->len
                          ? g_array_index(flushes, GuestFlush, i / 2).done + 1
                          : (guint)g_rand_int_range(rand, 1, (gint32)entries->len + 1);

        point = MIN(point, entries->len);
        make_crash(point, rand, crashed);
        check_crash(point, crashed, k->journal, k->backing);
    }
    clear_log();
    g_rand_free(rand);
    block_graph_free(graph);
    loop_free(loop);
    command = g_strdup_printf("rm -rf '%s'", dir);
    g_assert_cmpint(system(command), ==, 0);
    g_free(path);
    g_free(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        g_autofree char *name = g_strdup_printf("/qcow2/crash/%s", kinds[i].name);

        g_test_add_data_func(name, &kinds[i], test_crash);
    }
    return g_test_run();
}
