/*
 * Tests of jobs, with a guest that writes meanwhile. Overlays are an image format of the test's own, in
 * memory. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/operate.h"

#include "base/error.h"
#include "qapi/visitor.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define SIZE    (4u << 20)
#define CLUSTER 65536u

static Loop *loop;
static BlockRegistry *reg;
static BlockGraph *graph;
static char *dir;
static GPtrArray *events; /* "EVENT" or "EVENT error" */

static void on_event(void *opaque, const char *event, json_object *data)
{
    json_object *error;

    if (strcmp(event, "JOB_STATUS_CHANGE") != 0) {
        g_ptr_array_add(events, json_object_object_get_ex(data, "error", &error)
                                    ? g_strdup_printf("%s %s", event, json_object_get_string(error))
                                    : g_strdup(event));
    }
    json_object_put(data);
}

static void begin(void)
{
    loop = loop_new(NULL, NULL);
    reg = block_registry_new(loop, NULL);
    graph = block_registry_graph(reg);
    events = g_ptr_array_new_with_free_func(g_free);
    block_graph_set_event_hook(graph, on_event, NULL);
    dir = g_dir_make_tmp("rhea-jobs-XXXXXX", NULL);
}

static void end(void)
{
    g_autofree char *command = g_strdup_printf("rm -rf '%s'", dir);

    block_registry_free(reg);
    loop_free(loop);
    g_ptr_array_unref(events);
    g_assert_cmpint(system(command), ==, 0);
    g_free(dir);
}

static const char *last_event(void)
{
    return events->len ? g_ptr_array_index(events, events->len - 1) : "";
}

static BlockNode *add(const char *name, int fill)
{
    g_autofree char *path = g_build_filename(dir, name, NULL), *data = g_malloc(SIZE), *text = NULL;
    g_autoptr(GError) error = NULL;

    memset(data, fill, SIZE);
    for (uint32_t i = 0; fill && i < SIZE; i += 512) {
        memcpy(data + i, &i, 4);
    }
    g_assert_true(g_file_set_contents(path, data, SIZE, NULL));
    text = g_strdup_printf("driver=raw,node-name=%s,file.driver=file,file.filename=%s", name, path);
    g_assert_true(blockdev_add_text(reg, text, &error));
    g_assert_no_error(error);
    return block_node_find(graph, name);
}

static BlockBackend *guest_on(const char *name)
{
    g_autoptr(GError) error = NULL;
    BlockBackend *bb = bb_find(reg, name, &error);

    g_assert_nonnull(bb);
    g_assert_true(bb_attach_device(bb, "/machine/disk", false, false, NULL, NULL, &error));
    g_assert_no_error(error);
    return bb;
}

/* The bytes of a node as a reader of its own sees them. */
static char *content(BlockNode *node)
{
    char *data = g_malloc(SIZE);
    BlockChild *root = block_root_new(node, "test", 0, BLOCK_PERM_ALL, NULL, NULL, NULL);

    g_assert_nonnull(root);
    g_assert_cmpint(blk_pread(root, 0, SIZE, data, 0), ==, 0);
    block_root_free(root);
    return data;
}

static void assert_same(BlockNode *a, BlockNode *b)
{
    g_autofree char *one = content(a), *two = content(b);

    g_assert_true(memcmp(one, two, SIZE) == 0);
}

static uint32_t write_count;

/* A write of the guest, somewhere; what it says is new each time. */
static void guest_writes(BlockBackend *bb)
{
    uint32_t block[256];
    uint64_t at = (uint64_t)(write_count * 7919 % (SIZE / 1024)) * 1024;

    for (int i = 0; i < 256; i++) {
        block[i] = 0xa0000000u + write_count;
    }
    write_count++;
    g_assert_cmpint(bb_pwrite(bb, at, block, sizeof(block)), ==, 0);
}

static Job *job(const char *id)
{
    return job_find(block_registry_jobs(reg), id, false, NULL);
}

/* Runs the loop, with writes of the guest, until the job is in that state or gone. */
static void run_until(const char *id, const char *status, BlockBackend *bb)
{
    for (int i = 0; i < 100000; i++) {
        json_object *list = jobs_query(block_registry_jobs(reg)), *one, *value;
        bool there = false, reached = false;

        for (size_t k = 0; k < json_object_array_length(list); k++) {
            one = json_object_array_get_idx(list, k);
            json_object_object_get_ex(one, "id", &value);
            if (strcmp(json_object_get_string(value), id) == 0) {
                there = true;
                json_object_object_get_ex(one, "status", &value);
                reached = status && strcmp(json_object_get_string(value), status) == 0;
            }
        }
        json_object_put(list);
        if (!there || reached) {
            g_assert_true(!there == !status);
            return;
        }
        if (bb && i % 16 == 0 && i < 2000) { /* it must come to an end some time */
            guest_writes(bb);
        }
        if (!loop_iterate(loop, !bb)) {
            g_usleep(50);
        }
    }
    g_assert_not_reached();
}

static JobStart start(const char *id)
{
    return (JobStart){ .id = id, .auto_finalize = true, .auto_dismiss = true };
}

/* ---- mirror ---- */

static void test_mirror(void)
{
    g_autoptr(GError) error = NULL;
    BlockNode *source, *target;
    BlockBackend *bb;
    MirrorStart o = { .start = start("m"), .sync = JOB_SYNC_FULL };
    g_autofree char *before = NULL;

    begin();
    source = add("source", 's');
    target = add("target", 0);
    bb = guest_on("source");
    g_assert_false(job_mirror_start(block_registry_jobs(reg), source, source, &o, &error));
    g_clear_error(&error);
    g_assert_true(job_mirror_start(block_registry_jobs(reg), source, target, &o, &error));
    g_assert_no_error(error);
    g_assert_false(
        job_mirror_start(block_registry_jobs(reg), source, target, &o, &error)); /* the id is taken */
    g_clear_error(&error);
    g_assert_false(job_complete(job("m"), &error));
    g_test_message("%s", error->message);
    g_clear_error(&error);
    run_until("m", "ready", bb);
    g_assert_cmpstr(last_event(), ==, "BLOCK_JOB_READY");
    for (int i = 0; i < 50; i++) {
        guest_writes(bb);
        loop_iterate(loop, false);
    }
    g_assert_cmpstr(bb_node_name(bb), ==, "source");
    before = content(source);
    g_assert_true(job_complete(job("m"), &error));
    run_until("m", NULL, NULL);
    g_assert_cmpstr(last_event(), ==, "BLOCK_JOB_COMPLETED");
    g_assert_cmpstr(bb_node_name(bb), ==, "target");
    g_autofree char *after = content(target);
    g_assert_true(memcmp(before, after, SIZE) == 0);
    guest_writes(bb); /* and it goes to the new one only */
    g_autofree char *old = content(source);
    g_assert_true(memcmp(before, old, SIZE) == 0);
    g_assert_true(blockdev_del(reg, "source", &error));
    g_assert_no_error(error);
    end();
}

static void test_mirror_cancel(void)
{
    g_autoptr(GError) error = NULL;
    BlockNode *source, *target;
    BlockBackend *bb;
    MirrorStart o = { .start = start("m"), .sync = JOB_SYNC_FULL };

    begin();
    source = add("source", 's');
    target = add("target", 0);
    bb = guest_on("source");
    /* A ready one ends well and leaves a copy. */
    g_assert_true(job_mirror_start(block_registry_jobs(reg), source, target, &o, &error));
    run_until("m", "ready", bb);
    g_assert_true(job_cancel(job("m"), false, &error));
    run_until("m", NULL, NULL);
    g_assert_cmpstr(last_event(), ==, "BLOCK_JOB_COMPLETED");
    g_assert_cmpstr(bb_node_name(bb), ==, "source");
    assert_same(source, target);
    /* Paused, slow, and cancelled in the middle. */
    o.start.speed = 65536;
    o.start.auto_dismiss = false;
    g_assert_true(job_mirror_start(block_registry_jobs(reg), source, target, &o, &error));
    for (int i = 0; i < 5; i++) {
        loop_iterate(loop, false);
    }
    g_assert_true(job_pause(job("m"), &error));
    g_assert_false(job_pause(job("m"), NULL));
    run_until("m", "paused", NULL);
    g_assert_false(job_cancel(job("m"), false, NULL));
    g_assert_true(job_resume(job("m"), &error));
    g_assert_false(job_resume(job("m"), NULL));
    run_until("m", "running", NULL);
    g_assert_true(job_cancel(job("m"), true, &error));
    run_until("m", "concluded", NULL);
    g_assert_cmpstr(last_event(), ==, "BLOCK_JOB_CANCELLED");
    g_assert_true(job_dismiss(job("m"), &error));
    g_assert_null(job("m"));
    end();
}

static void test_mirror_errors(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    BlockNode *source, *target;
    MirrorStart o = { .start = start("m"), .sync = JOB_SYNC_FULL };

    begin();
    source = add("source", 's');
    add("target", 0);
    text = g_strdup(
        "driver=blkdebug,node-name=bad,image=target,inject-error.0.event=none,inject-error.0.iotype=write,"
        "inject-error.0.errno=28,inject-error.0.sector=5000,inject-error.0.once=on,"
        "inject-error.1.event=none,inject-error.1.iotype=write,inject-error.1.errno=5,"
        "inject-error.1.sector=6000,inject-error.1.once=on");
    g_assert_true(blockdev_add_text(reg, text, &error));
    g_assert_no_error(error);
    target = block_node_find(graph, "bad");
    /* The first error stops it, and it goes on; the second, of another kind, ends it. */
    o.start.on_target_error = JOB_ON_ERROR_ENOSPC;
    g_assert_true(job_mirror_start(block_registry_jobs(reg), source, target, &o, &error));
    run_until("m", "paused", NULL);
    g_assert_true(job_resume(job("m"), &error));
    run_until("m", NULL, NULL);
    g_assert_nonnull(strstr(last_event(), "BLOCK_JOB_COMPLETED"));
    g_assert_nonnull(strstr(last_event(), "Input/output error"));
    g_assert_true(job_mirror_start(block_registry_jobs(reg), source, target, &o, &error));
    run_until("m", "ready", NULL);
    g_assert_true(job_complete(job("m"), NULL));
    run_until("m", NULL, NULL);
    assert_same(source, block_node_find(graph, "target"));
    end();
}

/* ---- backup ---- */

static void test_backup(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *before = NULL, *after = NULL, *text = NULL;
    BlockNode *source, *target;
    BlockBackend *bb;
    BackupStart o = { .start = start("b"), .sync = JOB_SYNC_FULL };
    QapiBlockDirtyBitmapAdd bitmap = {
        .node = (char *)"source", .name = (char *)"b0", .has_granularity = true, .granularity = 65536
    };

    begin();
    source = add("source", 's');
    target = add("target", 0);
    bb = guest_on("source");
    for (int i = 0; i < 20; i++) {
        guest_writes(bb);
    }
    before = content(source);
    o.start.speed = 8 << 20; /* so that the guest is in between */
    g_assert_true(job_backup_start(block_registry_jobs(reg), source, target, &o, &error));
    g_assert_no_error(error);
    g_assert_true(block_op_bitmap_add(reg, &bitmap, &error));
    g_assert_no_error(error);
    g_assert_cmpstr(bb_node(bb)->driver->name, ==, "copy-before-write");
    run_until("b", NULL, bb);
    g_assert_cmpstr(last_event(), ==, "BLOCK_JOB_COMPLETED");
    g_assert_cmpstr(bb_node_name(bb), ==, "source");
    after = content(target);
    g_assert_true(memcmp(before, after, SIZE) == 0);
    g_autofree char *now = content(source);
    g_assert_true(memcmp(before, now, SIZE) != 0);
    /* What changed since, into the same target. */
    DirtyBitmap *b0 = dirty_bitmap_find(source, "b0");
    g_assert_cmpint(dirty_bitmap_count(b0), >, 0);
    o.start.speed = 0;
    o.sync = JOB_SYNC_INCREMENTAL;
    g_assert_false(
        job_backup_start(block_registry_jobs(reg), source, target, &o, &error)); /* which bitmap? */
    g_clear_error(&error);
    o.bitmap = "b0";
    g_assert_true(job_backup_start(block_registry_jobs(reg), source, target, &o, &error));
    g_assert_no_error(error);
    QapiBlockDirtyBitmap which = { .node = (char *)"source", .name = (char *)"b0" };
    g_assert_false(block_op_bitmap_remove(reg, &which, &error)); /* in use */
    g_clear_error(&error);
    run_until("b", NULL, NULL);
    assert_same(source, target);
    g_assert_cmpint(dirty_bitmap_count(b0), ==, 0);
    guest_writes(bb);
    g_assert_cmpint(dirty_bitmap_count(b0), ==, 65536);
    g_assert_true(block_op_bitmap_remove(reg, &which, &error));
    end();
}

/* ---- overlays ---- */

typedef struct TestCow {
    BlockNode node;
    uint8_t *data;
    bool has[SIZE / CLUSTER];
} TestCow;

static TestCow *cow_of(BlockNode *node)
{
    TestCow *c = (TestCow *)node;

    if (!c->data) {
        c->data = g_malloc0(SIZE);
    }
    return c;
}

static int cow_read(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                    unsigned flags)
{
    TestCow *c = cow_of(node);

    while (bytes) {
        uint64_t n = MIN(bytes, CLUSTER - offset % CLUSTER);

        if (c->has[offset / CLUSTER]) {
            block_vec_write(vec, from, c->data + offset, n);
        } else if (node->backing) {
            int ret = block_co_preadv(node->backing, offset, n, vec, from, 0);

            if (ret) {
                return ret;
            }
        } else {
            block_vec_zero(vec, from, n);
        }
        offset += n;
        from += n;
        bytes -= n;
    }
    return 0;
}

static int cow_write(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, uint64_t from,
                     unsigned flags)
{
    TestCow *c = cow_of(node);

    while (bytes) {
        uint64_t n = MIN(bytes, CLUSTER - offset % CLUSTER), base = offset / CLUSTER * CLUSTER;

        if (!c->has[offset / CLUSTER] && n < CLUSTER && node->backing) {
            int ret = block_co_pread(node->backing, base, CLUSTER, c->data + base, 0);

            if (ret) {
                return ret;
            }
        }
        block_vec_read(vec, from, c->data + offset, n);
        c->has[offset / CLUSTER] = true;
        offset += n;
        from += n;
        bytes -= n;
    }
    return 0;
}

static int cow_status(BlockNode *node, bool want_zero, uint64_t offset, uint64_t bytes, BlockStatus *st)
{
    TestCow *c = cow_of(node);
    bool has = c->has[offset / CLUSTER];
    uint64_t n = CLUSTER - offset % CLUSTER;

    while (n < bytes && c->has[(offset + n) / CLUSTER] == has) {
        n += CLUSTER;
    }
    *st = (BlockStatus){ .flags = has ? BLOCK_STATUS_DATA : 0, .bytes = MIN(n, bytes) };
    return 0;
}

static bool cow_change_backing(BlockNode *node, const char *filename, const char *format, bool require,
                               GError **error)
{
    return true;
}

static bool cow_info(BlockNode *node, BlockInfo *info, GError **error)
{
    info->cluster_size = CLUSTER;
    return true;
}

static void cow_perm(BlockNode *node, const BlockChild *child, unsigned role, unsigned perm, unsigned shared,
                     unsigned *child_perm, unsigned *child_shared)
{
    block_default_perms(node, child, BLOCK_ROLE_COW, perm, shared, child_perm, child_shared);
}

static void cow_close(BlockNode *node)
{
    g_free(((TestCow *)node)->data);
}

static const BlockDriver test_cow = {
    .name = "test-cow",
    .instance_size = sizeof(TestCow),
    .supports_backing = true,
    .any_alignment = true,
    .close = cow_close,
    .child_perm = cow_perm,
    .get_info = cow_info,
    .co_preadv = cow_read,
    .co_pwritev = cow_write,
    .co_block_status = cow_status,
    .change_backing = cow_change_backing,
};

/* base <- a <- b <- c, with a guest on c that has written to each. */
typedef struct Chain {
    BlockNode *base, *a, *b, *c;
    BlockBackend *bb;
} Chain;

static BlockNode *overlay(BlockNode *below, const char *name)
{
    g_autoptr(GError) error = NULL;
    BlockNode *node = block_node_insert_filter(below, &test_cow, name, &error);

    g_assert_no_error(error);
    g_free(node->filename);
    node->filename = g_strdup(name);
    return node;
}

static void make_chain(Chain *ch)
{
    ch->base = add("base", 'b');
    ch->bb = guest_on("base");
    ch->a = overlay(ch->base, "a");
    for (int i = 0; i < 10; i++) {
        guest_writes(ch->bb);
    }
    ch->b = overlay(ch->a, "b");
    for (int i = 0; i < 10; i++) {
        guest_writes(ch->bb);
    }
    ch->c = overlay(ch->b, "c");
    for (int i = 0; i < 10; i++) {
        guest_writes(ch->bb);
    }
    g_assert_cmpstr(bb_node_name(ch->bb), ==, "c");
}

static void test_stream(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *before = NULL, *after = NULL;
    JobStart s = start("s");
    Chain ch;

    begin();
    make_chain(&ch);
    before = content(ch.c);
    g_assert_true(job_stream_start(block_registry_jobs(reg), ch.c, ch.a, NULL, &s, &error));
    g_assert_no_error(error);
    g_assert_false(block_backing_set(ch.c, NULL, &error)); /* frozen */
    g_clear_error(&error);
    run_until("s", NULL, NULL);
    g_assert_cmpstr(last_event(), ==, "BLOCK_JOB_COMPLETED");
    g_assert_true(block_cow_child(ch.c) == ch.a);
    after = content(ch.c);
    g_assert_true(memcmp(before, after, SIZE) == 0);
    block_node_unref(ch.b);
    g_assert_null(block_node_find(graph, "b"));
    /* All the rest, with a guest that writes. */
    g_assert_true(job_stream_start(block_registry_jobs(reg), ch.c, NULL, NULL, &s, &error));
    run_until("s", NULL, ch.bb);
    g_assert_null(block_cow_child(ch.c));
    g_free(after);
    after = content(ch.c);
    for (uint32_t i = 0; i < SIZE; i += 1024) {
        if (memcmp(before + i, after + i, 1024) != 0) {
            g_assert_cmphex(*(uint32_t *)(void *)(after + i) >> 28, ==, 0xa); /* only what the guest wrote */
        }
    }
    block_node_unref(ch.a);
    block_node_unref(ch.c);
    end();
}

static void test_commit(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *before = NULL, *after = NULL;
    JobStart s = start("c");
    Chain ch;

    begin();
    make_chain(&ch);
    before = content(ch.c);
    /* From the middle: b into a, while the guest goes on. */
    g_assert_true(job_commit_start(block_registry_jobs(reg), ch.c, ch.b, ch.a, NULL, NULL, &s, &error));
    g_assert_no_error(error);
    run_until("c", NULL, NULL);
    g_assert_cmpstr(last_event(), ==, "BLOCK_JOB_COMPLETED");
    g_assert_true(block_cow_child(ch.c) == ch.a);
    after = content(ch.c);
    g_assert_true(memcmp(before, after, SIZE) == 0);
    block_node_unref(ch.b);
    g_assert_null(block_node_find(graph, "b"));
    /* The active one into the base. */
    g_assert_true(job_commit_start(block_registry_jobs(reg), ch.c, ch.c, ch.base, NULL, NULL, &s, &error));
    g_assert_no_error(error);
    run_until("c", "ready", ch.bb);
    for (int i = 0; i < 20; i++) {
        guest_writes(ch.bb);
        loop_iterate(loop, false);
    }
    g_free(before);
    before = content(ch.c);
    g_assert_true(job_complete(job("c"), &error));
    run_until("c", NULL, NULL);
    g_assert_cmpstr(last_event(), ==, "BLOCK_JOB_COMPLETED");
    g_assert_cmpstr(bb_node_name(ch.bb), ==, "base");
    g_free(after);
    after = content(ch.base);
    g_assert_true(memcmp(before, after, SIZE) == 0);
    block_node_unref(ch.c);
    block_node_unref(ch.a);
    g_assert_cmpint(ch.base->parents->len, ==, 1);
    guest_writes(ch.bb);
    end();
}

static void test_copy_on_read(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *before = NULL, *after = NULL;
    uint8_t buf[3000];
    BlockNode *base, *top;
    BlockBackend *bb;
    TestCow *c;

    begin();
    base = add("base", 'b');
    bb = guest_on("base");
    top = overlay(base, "top");
    c = cow_of(top);
    before = content(base);
    block_copy_on_read_enable(top);
    g_assert_cmpint(bb_pread(bb, CLUSTER * 3 + 100, buf, sizeof(buf)), ==, 0);
    g_assert_cmpmem(buf, sizeof(buf), before + CLUSTER * 3 + 100, sizeof(buf));
    g_assert_true(c->has[3] && !c->has[2] && !c->has[4]);
    g_assert_cmpint(bb_pread(bb, CLUSTER * 6 - 1000, buf, sizeof(buf)), ==, 0);
    g_assert_true(c->has[5] && c->has[6]);
    for (int i = 0; i < 200; i++) {
        guest_writes(bb);
        g_assert_cmpint(bb_pread(bb, (uint64_t)(i * 7) * 512, buf, sizeof(buf)), ==, 0);
    }
    block_copy_on_read_disable(top);
    after = content(base);
    g_assert_true(memcmp(before, after, SIZE) == 0); /* not a byte into the base */
    block_node_unref(top);
    end();
}

static GPtrArray *actions_of(const char *json)
{
    json_object *o = json_tokener_parse(json);
    g_autoptr(Visitor) v = visitor_new_input(o, false);
    g_autoptr(GError) error = NULL;
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)qapi_TransactionAction_free);
    size_t n;

    g_assert_nonnull(o);
    g_assert_true(visit_start_list(v, NULL, &n, &error));
    for (size_t i = 0; i < n; i++) {
        QapiTransactionAction *a = NULL;

        qapi_visit_TransactionAction(v, NULL, &a, &error);
        g_assert_no_error(error);
        g_ptr_array_add(list, a);
    }
    visit_end_list(v);
    json_object_put(o);
    return list;
}

static void test_transaction(void)
{
    static const char *const bad =
        "[{\"type\":\"block-dirty-bitmap-clear\",\"data\":{\"node\":\"base\",\"name\":\"b0\"}},"
        "{\"type\":\"block-dirty-bitmap-disable\",\"data\":{\"node\":\"base\",\"name\":\"b0\"}},"
        "{\"type\":\"block-dirty-bitmap-add\",\"data\":{\"node\":\"base\",\"name\":\"b1\"}},"
        "{\"type\":\"blockdev-backup\",\"data\":{\"job-id\":\"j\",\"device\":\"base\",\"target\":\"target\","
        "\"sync\":\"full\"}},"
        "{\"type\":\"abort\",\"data\":{}}]";
    static const char *const good =
        "[{\"type\":\"block-dirty-bitmap-add\",\"data\":{\"node\":\"base\",\"name\":\"b1\"}},"
        "{\"type\":\"blockdev-backup\",\"data\":{\"job-id\":\"j\",\"device\":\"base\",\"target\":\"target\","
        "\"sync\":\"full\"}},"
        "{\"type\":\"block-dirty-bitmap-remove\",\"data\":{\"node\":\"base\",\"name\":\"b0\"}}]";
    QapiBlockDirtyBitmapAdd add_b0 = { .node = (char *)"base", .name = (char *)"b0" };
    g_autoptr(GError) error = NULL;
    GPtrArray *actions;
    BlockNode *base;
    BlockBackend *bb;
    uint64_t count;

    begin();
    base = add("base", 'b');
    add("target", 0);
    bb = guest_on("base");
    g_assert_true(block_op_bitmap_add(reg, &add_b0, &error));
    guest_writes(bb);
    count = dirty_bitmap_count(dirty_bitmap_find(base, "b0"));
    g_assert_cmpint(count, >, 0);
    actions = actions_of(bad);
    g_assert_false(block_op_transaction(reg, actions, &error));
    g_assert_nonnull(strstr(error->message, "Abort"));
    g_clear_error(&error);
    g_ptr_array_unref(actions);
    run_until("j", NULL, NULL);
    g_assert_cmpstr(last_event(), ==, "BLOCK_JOB_CANCELLED");
    g_assert_cmpint(dirty_bitmap_count(dirty_bitmap_find(base, "b0")), ==, count);
    g_assert_true(dirty_bitmap_find(base, "b0")->enabled);
    g_assert_null(dirty_bitmap_find(base, "b1"));
    g_assert_true(bb_node(bb) == base);
    guest_writes(bb);
    actions = actions_of(good);
    g_assert_true(block_op_transaction(reg, actions, &error));
    g_assert_no_error(error);
    g_ptr_array_unref(actions);
    g_assert_null(dirty_bitmap_find(base, "b0"));
    g_assert_nonnull(dirty_bitmap_find(base, "b1"));
    g_autofree char *before = content(base);
    run_until("j", NULL, bb);
    g_autofree char *after = content(block_node_find(graph, "target"));
    g_assert_true(memcmp(before, after, SIZE) == 0);
    g_assert_cmpint(dirty_bitmap_count(dirty_bitmap_find(base, "b1")), >, 0);
    end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/jobs/mirror", test_mirror);
    g_test_add_func("/jobs/mirror-cancel", test_mirror_cancel);
    g_test_add_func("/jobs/mirror-errors", test_mirror_errors);
    g_test_add_func("/jobs/backup", test_backup);
    g_test_add_func("/jobs/stream", test_stream);
    g_test_add_func("/jobs/commit", test_commit);
    g_test_add_func("/jobs/transaction", test_transaction);
    g_test_add_func("/jobs/copy-on-read", test_copy_on_read);
    return g_test_run();
}
