/*
 * Tests of the graph through the drivers of this program: names, permissions, changes, drain, alignment,
 * blkdebug. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/block.h"
#include "block/graph/dirty_bitmap.h"
#include "block/test_graph.h"

#include "base/error.h"
#include "rhea_config.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static BlockChild *root_of(BlockNode *node, unsigned perm, unsigned shared)
{
    g_autoptr(GError) error = NULL;
    BlockChild *root = block_root_new(node, "root", perm, shared, NULL, NULL, &error);

    g_assert_no_error(error);
    return root;
}

static const unsigned RW = BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE;

/* ---- names ---- */

static void test_names(void)
{
    g_autofree char *path = NULL, *colon = NULL, *json = NULL, *combined = NULL;
    g_autoptr(GError) error = NULL;
    json_object *o;
    BlockNode *node;
    BlockChild *root;
    char buf[4];

    begin();
    path = make_file("disk", 8192, 'd');
    /* json: with nested and dotted members, typed and as text. */
    json =
        g_strdup_printf("json:{\"driver\":\"raw\",\"offset\":512,\"size\":\"1024\",\"file.driver\":\"file\","
                        "\"file\":{\"filename\":\"%s\"}}",
                        path);
    node = block_node_open_image(graph, json, NULL, 0, &error);
    g_assert_no_error(error);
    g_assert_cmpint(node->size, ==, 1024);
    g_assert_cmpstr(node->filename, ==, path);
    root = root_of(node, BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL);
    block_root_free(root); /* and the image goes with its last user */
    g_assert_cmpint(block_graph_nodes(graph)->len, ==, 0);
    /* A plain name and what it is, with options that go before it. */
    o = json_object_new_object();
    json_object_object_add(o, "read-only", json_object_new_boolean(true));
    json_object_object_add(o, "file.locking", json_object_new_string("off"));
    node = block_node_open_image(graph, path, o, 0, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(node->driver->name, ==, "raw");
    g_assert_true(node->read_only && node->file->node->read_only);
    g_assert_true(node->open_flags & BLOCK_OPEN_PROBED);
    json_object_put(o);
    root = root_of(node, BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL);
    g_assert_cmpint(blk_pread(root, 8188, 4, buf, 0), ==, 0);
    g_assert_cmpmem(buf, 4, "dddd", 4);
    g_assert_cmpint(blk_pread(root, 8189, 4, buf, 0), ==, -EIO);
    g_assert_cmpint(blk_pwrite(root, 0, 4, buf, 0), ==, -EPERM);
    block_root_free(root);
    /* A file with a colon in its name, and without. */
    colon = make_file("a:b", 512, 'c');
    node = block_node_open_image(graph, colon, NULL, 0, &error);
    g_assert_no_error(error);
    block_root_free(root_of(node, 0, BLOCK_PERM_ALL));
    g_free(colon);
    colon = g_strdup_printf("blkdebug::%s", path);
    node = block_node_open_image(graph, colon, NULL, 0, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(node->driver->name, ==, "raw");
    g_assert_cmpstr(node->file->node->driver->name, ==, "blkdebug");
    g_assert_cmpstr(node->file->node->file->name, ==, "image");
    block_root_free(root_of(node, 0, BLOCK_PERM_ALL));

    static const char *const bad[] = { "json:{",
                                       "json:7",
                                       "json:{}",
                                       "json:{\"driver\":\"raw\"}",
                                       "nosuch://x",
                                       "blkdebug:x",
                                       "/nonexistent/file",
                                       "",
                                       "sheepdog://x",
                                       "json:{\"driver\":\"null-co\",\"colour\":1}" };
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_assert_null(block_node_open_image(graph, bad[i], NULL, 0, &error));
        g_assert_nonnull(error);
        g_test_message("%s", error->message);
        g_clear_error(&error);
        g_assert_cmpint(block_graph_nodes(graph)->len, ==, 0);
    }
    combined = block_combine_path("nbd://host/dir/top", "base");
    g_assert_cmpstr(combined, ==, "nbd://host/dir/base");
    g_free(combined);
    combined = block_combine_path("dir/top", "/abs/base");
    g_assert_cmpstr(combined, ==, "/abs/base");
    end();
}

/* ---- permissions and changes ---- */

static void test_permissions(void)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    BlockNode *file, *raw, *window, *ro;
    BlockChild *a, *b;

    begin();
    path = make_file("disk", 8192, 0);
    file = add("driver=file,node-name=f,filename=%s", path);
    raw = add("driver=raw,node-name=r,file=f");
    window = add("driver=raw,node-name=w,file=f,offset=512");
    ro = add("driver=raw,node-name=ro,file=f,read-only=on");
    /* Two writers through different nodes meet at the file. */
    a = root_of(raw, RW, BLOCK_PERM_ALL & ~(unsigned)BLOCK_PERM_WRITE);
    g_assert_cmpint(file->perm, ==, RW);
    g_assert_null(block_root_new(window, "root", RW, BLOCK_PERM_ALL, NULL, NULL, &error));
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, "node 'f'"));
    g_assert_nonnull(strstr(error->message, "'write'"));
    g_clear_error(&error);
    g_assert_cmpint(file->perm, ==, RW);
    g_assert_cmpint(window->perm, ==, 0);
    b = root_of(window, BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL); /* a reader that minds nothing */
    g_assert_false(block_root_set_perm(b, RW, BLOCK_PERM_ALL, &error));
    g_clear_error(&error);
    g_assert_cmpint(b->perm, ==, BLOCK_PERM_CONSISTENT_READ);
    g_assert_true(block_root_set_perm(a, BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL, &error));
    g_assert_true(block_root_set_perm(b, RW, BLOCK_PERM_ALL, &error));
    block_root_free(b);
    g_assert_cmpint(file->perm, ==, BLOCK_PERM_CONSISTENT_READ);
    g_assert_null(block_root_new(ro, "root", RW, BLOCK_PERM_ALL, NULL, NULL, &error));
    g_clear_error(&error);
    /* Nodes that are in use stay; cycles are refused. */
    g_assert_false(block_node_del(graph, "f", &error));
    g_clear_error(&error);
    g_assert_false(block_node_del(graph, "r", &error));
    g_clear_error(&error);
    BlockNode *filter = add("driver=copy-on-read,node-name=c,file=r");
    g_assert_false(block_child_replace(raw->file, filter, &error));
    g_assert_nonnull(strstr(error->message, "cycle"));
    g_clear_error(&error);
    /* A filter goes between, for all who use the node but itself, and away again. */
    g_assert_true(block_node_replace(raw, filter, &error));
    g_assert_no_error(error);
    g_assert_true(a->node == filter && filter->file->node == raw);
    g_assert_true(block_child_replace(a, raw, &error));
    a->frozen = true;
    g_assert_false(block_child_replace(a, filter, &error));
    g_clear_error(&error);
    block_root_free(a);
    end();
}

/* ---- drain ---- */

typedef struct Drainer {
    BlockChild *root;
    int stop, done, errors; /* atomic */
} Drainer;

typedef struct DrainRequest {
    BlockRequest req;
    struct iovec iov;
    uint8_t buf[512];
    Drainer *d;
    bool busy;
} DrainRequest;

static void drain_done(void *opaque, int result)
{
    DrainRequest *r = opaque;

    __atomic_fetch_add(&r->d->done, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&r->d->errors, result != 0, __ATOMIC_SEQ_CST);
    r->busy = false;
}

static void *drain_thread(void *opaque)
{
    Drainer *d = opaque;
    Loop *own = loop_new(NULL, NULL);
    DrainRequest r[8];
    bool any = true;

    for (int i = 0; i < 8; i++) {
        r[i].busy = false;
    }
    while (any) {
        bool stop = __atomic_load_n(&d->stop, __ATOMIC_SEQ_CST);

        any = !stop;
        for (int i = 0; i < 8; i++) {
            if (!r[i].busy && !stop) {
                block_request_init(&r[i].req);
                r[i].d = d;
                r[i].busy = true;
                r[i].iov = (struct iovec){ r[i].buf, 512 };
                r[i].req.loop = own;
                r[i].req.op = i & 1 ? BLOCK_READ : BLOCK_WRITE;
                r[i].req.offset = (uint64_t)i * 512;
                r[i].req.bytes = 512;
                r[i].req.iov = &r[i].iov;
                r[i].req.iov_count = 1;
                r[i].req.done = drain_done;
                r[i].req.opaque = &r[i];
                memset(r[i].buf, i, 512);
                block_root_submit(d->root, &r[i].req);
            }
            any = any || r[i].busy;
        }
        loop_iterate(own, any);
    }
    loop_free(own);
    return NULL;
}

/* Requests of two threads stand still in a drain, and go on after it, straight or through a filter that was
 * put between meanwhile. */
static void test_drain(void)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    BlockNode *raw, *filter;
    Drainer d = { 0 };
    GThread *threads[2];

    begin();
    path = make_file("disk", 8192, 0);
    raw = add("driver=raw,node-name=r,file.driver=file,file.filename=%s", path);
    filter = add("driver=blkdebug,node-name=b,image=r,align=512");
    d.root = root_of(raw, RW, BLOCK_PERM_ALL);
    g_assert_true(d.root->direct == raw->file->node);
    for (int i = 0; i < 2; i++) {
        threads[i] = g_thread_new("d", drain_thread, &d);
    }
    for (int i = 0; i < 20; i++) {
        int before = __atomic_load_n(&d.done, __ATOMIC_SEQ_CST);
        BlockDrain *drain;

        while (__atomic_load_n(&d.done, __ATOMIC_SEQ_CST) < before + 50) {
            g_usleep(100);
        }
        drain = block_drain_begin(raw);
        before = __atomic_load_n(&d.done, __ATOMIC_SEQ_CST);
        g_usleep(2000);
        g_assert_cmpint(__atomic_load_n(&d.done, __ATOMIC_SEQ_CST), ==, before);
        block_drain_end(drain);
        g_assert_true(block_child_replace(d.root, i & 1 ? raw : filter, &error));
        g_assert_no_error(error);
        g_assert_true(!d.root->direct == !(i & 1));
    }
    __atomic_store_n(&d.stop, 1, __ATOMIC_SEQ_CST);
    for (int i = 0; i < 2; i++) {
        g_thread_join(threads[i]);
    }
    g_assert_cmpint(d.errors, ==, 0);
    block_root_free(d.root);
    end();
}

/* ---- alignment ---- */

/* Requests of every alignment through a node that wants whole blocks, several at once, against a model. */
typedef struct Writer {
    BlockChild *root;
    uint8_t *model;
    GRand *rand;
    int first, left;
    int *running;
} Writer;

static void writer(void *opaque)
{
    Writer *w = opaque;
    uint8_t buf[3000], back[3000];

    /* Each owns every fourth 1000 bytes, so neighbours share blocks but no bytes. */
    for (int i = 0; i < 200; i++) {
        uint64_t base = (uint64_t)(g_rand_int_range(w->rand, 0, 16) * 4 + w->first) * 1000;
        uint64_t offset = base + (uint64_t)g_rand_int_range(w->rand, 0, 999);
        uint64_t bytes = (uint64_t)g_rand_int_range(w->rand, 1, (int)(base + 1000 - offset) + 1);

        if (g_rand_int_range(w->rand, 0, 4) == 0) {
            memset(w->model + offset, 0, bytes);
            g_assert_cmpint(block_co_pwrite_zeroes(w->root, offset, bytes, 0), ==, 0);
        } else {
            memset(buf, g_rand_int_range(w->rand, 0, 256), bytes);
            memcpy(w->model + offset, buf, bytes);
            g_assert_cmpint(block_co_pwrite(w->root, offset, bytes, buf, 0), ==, 0);
        }
        g_assert_cmpint(block_co_pread(w->root, base, 1000, back, 0), ==, 0);
        g_assert_cmpmem(back, 1000, w->model + base, 1000);
    }
    (*w->running)--;
}

static void test_alignment(void)
{
    g_autofree char *path = NULL, *data = NULL;
    static uint8_t model[64 * 1024];
    GRand *rand = g_rand_new_with_seed(11);
    BlockNode *node;
    BlockChild *root;
    int running = 4;
    Writer w[4];
    gsize size;

    begin();
    memset(model, 'x', sizeof(model));
    path = make_file("disk", sizeof(model), 'x');
    node = add(
        "driver=blkdebug,node-name=b,align=4096,max-transfer=8192,opt-write-zero=8192,max-write-zero=16384,"
        "image.driver=file,image.filename=%s",
        path);
    root = root_of(node, RW, BLOCK_PERM_ALL);
    for (int i = 0; i < 4; i++) {
        w[i] = (Writer){ root, model, rand, i, 200, &running };
        coroutine_wake(loop, coroutine_new(writer, &w[i]));
    }
    while (running) {
        loop_iterate(loop, true);
    }
    block_root_free(root);
    g_assert_true(block_node_del(graph, "b", NULL));
    g_assert_true(g_file_get_contents(path, &data, &size, NULL));
    g_assert_cmpmem(data, size, model, sizeof(model));
    g_rand_free(rand);
    end();
}

/* ---- blkdebug ---- */

static void test_blkdebug(void)
{
    g_autofree char *path = NULL, *config = NULL;
    g_autoptr(GError) error = NULL;
    BlockNode *node;
    BlockChild *root;
    char buf[512] = "";

    begin();
    path = make_file("disk", 8192, 0);
    node = add("driver=blkdebug,node-name=b,inject-error.0.event=none,inject-error.0.iotype=write,"
               "inject-error.0.errno=28,inject-error.0.sector=3,inject-error.0.once=on,image.driver=file,"
               "image.filename=%s",
               path);
    root = root_of(node, RW, BLOCK_PERM_ALL);
    g_assert_cmpint(blk_pread(root, 1536, 512, buf, 0), ==, 0);
    g_assert_cmpint(blk_pwrite(root, 0, 512, buf, 0), ==, 0);
    g_assert_cmpint(blk_pwrite(root, 1536, 512, buf, 0), ==, -ENOSPC);
    g_assert_cmpint(blk_pwrite(root, 1536, 512, buf, 0), ==, 0); /* once */
    block_root_free(root);
    g_assert_true(block_node_del(graph, "b", &error));
    config = g_build_filename(dir, "rules", NULL);
    g_assert_true(g_file_set_contents(
        config,
        "# comment\n[set-state]\nevent = \"l2_load\"\nstate = \"1\"\nnew_state = \"2\"\n\n"
        "[inject-error]\nevent = \"cow_read\"\nstate = \"2\"\nerrno = \"5\"\n"
        "immediately = \"on\"\n",
        -1, NULL));
    node = add("driver=blkdebug,node-name=b,config=%s,image.driver=file,image.filename=%s", config, path);
    root = root_of(node, RW, BLOCK_PERM_ALL);
    block_debug_event(root, QAPI_BLKDEBUG_EVENT_COW_READ); /* not in that state yet */
    g_assert_cmpint(blk_pread(root, 0, 512, buf, 0), ==, 0);
    block_debug_event(root, QAPI_BLKDEBUG_EVENT_L2_LOAD);
    g_assert_cmpint(blk_pread(root, 0, 512, buf, 0), ==, 0);
    block_debug_event(root, QAPI_BLKDEBUG_EVENT_COW_READ);
    g_assert_cmpint(blk_pread(root, 0, 512, buf, 0), ==, -EIO);
    block_root_free(root);
    end();
}

static void held(void *opaque)
{
    BlockChild *root = opaque;
    char buf[512] = "held";

    block_debug_event(root, QAPI_BLKDEBUG_EVENT_WRITE_AIO);
    g_assert_cmpint(block_co_pwrite(root, 0, 512, buf, 0), ==, 0);
}

static void test_breakpoint(void)
{
    g_autofree char *path = NULL;
    BlockNode *node;
    BlockChild *root;
    char buf[512];

    begin();
    path = make_file("disk", 8192, 0);
    node = add("driver=blkdebug,node-name=b,image.driver=file,image.filename=%s", path);
    root = root_of(node, RW, BLOCK_PERM_ALL);
    g_assert_true(node->driver->debug_breakpoint(node, "write_aio", "A", NULL));
    g_assert_false(node->driver->debug_breakpoint(node, "no_event", "A", NULL));
    coroutine_wake(loop, coroutine_new(held, root));
    while (!node->driver->debug_is_suspended(node, "A")) {
        loop_iterate(loop, false);
    }
    g_assert_cmpint(blk_pread(root, 0, 512, buf, 0), ==, 0);
    g_assert_true(buf[0] == 0);
    g_assert_false(node->driver->debug_resume(node, "B"));
    g_assert_true(node->driver->debug_resume(node, "A"));
    while (buf[0] != 'h') {
        loop_iterate_io(loop, true);
        g_assert_cmpint(blk_pread(root, 0, 512, buf, 0), ==, 0);
    }
    block_root_free(root);
    end();
}

/* ---- NBD ---- */

#ifdef CONFIG_LIBNBD
/* qemu-nbd with one export over a Unix socket; 0: there is no such program. */
static pid_t serve(const char *path, const char *socket, bool read_only)
{
    const char *args[16] = { "qemu-nbd", "-t", "-e", "8", "-f", "raw", "-x", "disk", "-k", socket };
    int n = 10;
    GPid pid;

    if (read_only) {
        args[n++] = "-r";
    } else {
        args[n++] = "--discard=unmap";
    }
    args[n] = path;
    if (!g_spawn_async(NULL, (char **)(void *)args, NULL,
                       G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_STDERR_TO_DEV_NULL, NULL,
                       NULL, &pid, NULL)) {
        return 0;
    }
    for (int i = 0; i < 500 && access(socket, F_OK) != 0; i++) {
        g_usleep(10000);
    }
    return pid;
}

static void test_nbd(void)
{
    g_autofree char *path = NULL, *socket = NULL, *uri = NULL;
    g_autofree uint8_t *buf = g_malloc(1 << 20), *back = g_malloc(1 << 20);
    g_autoptr(GError) error = NULL;
    BlockNode *node;
    BlockChild *root;
    BlockStatus st;
    pid_t pid;

    begin();
    path = make_file("disk", 4 << 20, 'n');
    socket = g_build_filename(dir, "sock", NULL);
    uri = g_strdup_printf("nbd+unix:///disk?socket=%s", socket);
    g_assert_null(block_node_open_image(graph, uri, NULL, 0, &error)); /* nobody listens */
    g_test_message("%s", error->message);
    g_clear_error(&error);
    pid = serve(path, socket, false);
    if (!pid) {
        g_test_skip("no qemu-nbd here");
        end();
        return;
    }
    node = block_node_open_image(graph, uri, NULL, 0, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(node->driver->name, ==, "raw");
    g_assert_cmpstr(node->file->node->driver->name, ==, "nbd");
    g_assert_cmpint(node->size, ==, 4 << 20);
    root = root_of(node, RW, BLOCK_PERM_ALL);
    g_assert_cmpint(blk_pread(root, 12345, 1000, back, 0), ==, 0);
    g_assert_true(back[0] == 'n' && back[999] == 'n');
    for (int i = 0; i < 1 << 20; i++) {
        buf[i] = (uint8_t)(i * 31 >> 3);
    }
    struct iovec iov[3] = { { buf, 1000 }, { buf + 1000, 5000 }, { buf + 6000, (1 << 20) - 6000 } };
    g_assert_cmpint(blk_pwritev(root, 777, 1 << 20, &(BlockVec){ iov, 3 }, BLOCK_REQ_FUA), ==, 0);
    g_assert_cmpint(blk_pread(root, 777, 1 << 20, back, 0), ==, 0);
    g_assert_cmpmem(buf, 1 << 20, back, 1 << 20);
    g_assert_cmpint(blk_pwrite_zeroes(root, 2 << 20, 1 << 20, BLOCK_REQ_MAY_UNMAP), ==, 0);
    g_assert_cmpint(blk_flush(root), ==, 0);
    g_assert_cmpint(blk_status(node, 2 << 20, 2 << 20, &st), ==, 0);
    g_assert_true(st.flags & BLOCK_STATUS_ZERO);
    g_assert_cmpint(st.bytes, ==, 1 << 20);
    g_assert_cmpint(blk_pread(root, (3 << 20) - 500, 1000, back, 0), ==, 0);
    g_assert_true(back[0] == 0 && back[499] == 0 && back[500] == 'n');
    /* The server goes. */
    kill(pid, SIGKILL);
    g_assert_cmpint(blk_pread(root, 0, 512, back, 0), ==, -EIO);
    g_assert_cmpint(blk_pwrite(root, 0, 512, back, 0), ==, -EIO);
    block_root_free(root);
    waitpid(pid, NULL, 0);
    unlink(socket);
    /* With a delay the request waits for the next one. */
    pid = serve(path, socket, false);
    node =
        add("driver=nbd,node-name=n,server.type=unix,server.path=%s,export=disk,reconnect-delay=20", socket);
    root = root_of(node, RW, BLOCK_PERM_ALL);
    g_assert_cmpint(blk_pread(root, 777, 1000, back, 0), ==, 0);
    g_assert_cmpmem(buf, 1000, back, 1000);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    unlink(socket);
    pid = serve(path, socket, false);
    g_assert_cmpint(blk_pwrite(root, 0, 1000, buf, 0), ==, 0);
    block_root_free(root);
    g_assert_true(block_node_del(graph, "n", &error));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    end();
}
#endif

/* ---- throttle ---- */

static void test_throttle(void)
{
    Object *objects = object_root_new();
    g_autoptr(GError) error = NULL;
    BlockNode *node;
    BlockChild *root;
    char buf[4096] = "";
    int64_t start_us;
    double passed_s;

    begin();
    block_graph_set_objects(graph, objects);
    g_assert_null(
        user_creatable_add_text(objects, "throttle-group,id=bad,x-iops-total=5,x-iops-read=5", &error));
    g_clear_error(&error);
    g_assert_null(user_creatable_add_text(objects, "throttle-group,id=bad,limits.iops-total-max=5", &error));
    g_clear_error(&error);
    g_assert_nonnull(user_creatable_add_text(objects, "throttle-group,id=g,x-iops-write=200", &error));
    g_assert_no_error(error);
    node = add("driver=throttle,node-name=t,throttle-group=g,file.driver=null-co");
    add("driver=throttle,node-name=t2,throttle-group=g,file.driver=null-co");
    g_assert_false(user_creatable_del(objects, "g", &error)); /* in use */
    g_clear_error(&error);
    root = root_of(node, RW, BLOCK_PERM_ALL);
    start_us = g_get_monotonic_time();
    for (int i = 0; i < 500; i++) { /* no limit for those */
        g_assert_cmpint(blk_pread(root, 0, sizeof(buf), buf, 0), ==, 0);
    }
    g_assert_cmpint(g_get_monotonic_time() - start_us, <, 1000000);
    start_us = g_get_monotonic_time();
    for (int i = 0; i < 100; i++) {
        g_assert_cmpint(blk_pwrite(root, 0, sizeof(buf), buf, 0), ==, 0);
    }
    passed_s = (double)(g_get_monotonic_time() - start_us) / 1e6;
    g_assert_cmpfloat(passed_s, >, 0.35); /* 100 at 200 a second, a tenth of a second's worth at once */
    g_assert_cmpfloat(passed_s, <, 2);
    block_root_free(root);
    g_assert_true(block_node_del(graph, "t", NULL));
    g_assert_true(block_node_del(graph, "t2", NULL));
    g_assert_true(user_creatable_del(objects, "g", &error));
    end();
    object_unref(objects);
}

/* ---- detect-zeroes, status ---- */

static void test_zeroes(void)
{
    g_autofree char *path = NULL;
    g_autofree uint8_t *buf = g_malloc0(1 << 20);
    g_autoptr(GError) error = NULL;
    BlockNode *node;
    BlockChild *root;
    BlockStatus st;
    struct stat file;

    begin();
    path = make_file("disk", 2 << 20, 'z');
    node = add("driver=raw,node-name=r,detect-zeroes=unmap,discard=unmap,file.driver=file,file.filename=%s",
               path);
    root = root_of(node, RW | BLOCK_PERM_RESIZE, BLOCK_PERM_ALL);
    g_assert_null(root->direct);
    g_assert_cmpint(blk_pwrite(root, 1 << 20, 1 << 20, buf, 0), ==, 0);
    g_assert_cmpint(blk_flush(root), ==, 0);
    g_assert_cmpint(stat(path, &file), ==, 0);
    g_assert_cmpint(file.st_blocks * 512, <=, (1 << 20) + 65536); /* a hole it is */
    g_assert_cmpint(blk_status(node, 0, 2 << 20, &st), ==, 0);
    g_assert_true(st.flags & BLOCK_STATUS_DATA && !(st.flags & BLOCK_STATUS_ZERO));
    g_assert_cmpint(st.bytes, ==, 1 << 20);
    g_assert_true(st.flags & BLOCK_STATUS_OFFSET_VALID && st.file == node->file->node && st.map == 0);
    g_assert_cmpint(blk_status(node, 1 << 20, 2 << 20, &st), ==, 0);
    g_assert_true(st.flags & BLOCK_STATUS_ZERO && st.flags & BLOCK_STATUS_EOF);
    g_assert_cmpint(st.bytes, ==, 1 << 20);
    g_assert_true(blk_truncate(root, 3 << 20, true, QAPI_PREALLOC_MODE_OFF, 0, &error));
    g_assert_cmpint(node->size, ==, 3 << 20);
    g_assert_false(blk_truncate(root, UINT64_MAX, true, QAPI_PREALLOC_MODE_OFF, 0, &error));
    block_root_free(root);
    end();
}

/* ---- bitmaps ---- */

static void test_bitmaps(void)
{
    g_autoptr(GError) error = NULL;
    BlockNode *node;
    BlockChild *root;
    DirtyBitmap *b, *other;
    uint64_t start, bytes;
    uint8_t buf[64], data[1000] = "";

    begin();
    node = add("driver=null-co,node-name=n,size=%d", (64 << 20) + 700);
    root = root_of(node, RW, BLOCK_PERM_ALL);
    g_assert_nonnull(root->direct);
    b = dirty_bitmap_new(node, "b0", 512, &error);
    g_assert_no_error(error);
    g_assert_null(root->direct); /* writes are looked at now */
    g_assert_null(dirty_bitmap_new(node, "b0", 0, NULL));
    g_assert_null(dirty_bitmap_new(node, "b1", 513, NULL));
    g_assert_null(dirty_bitmap_new(node, "b1", 256, NULL));
    g_assert_false(dirty_bitmap_next_dirty(b, 0, UINT64_MAX, &start, &bytes));
    g_assert_cmpint(blk_pwrite(root, 1000, 1000, data, 0), ==, 0);
    g_assert_cmpint(blk_pwrite_zeroes(root, 40 << 20, 1024, 0), ==, 0);
    g_assert_cmpint(dirty_bitmap_count(b), ==, 3 * 512 + 1024);
    g_assert_true(dirty_bitmap_next_dirty(b, 0, UINT64_MAX, &start, &bytes));
    g_assert_cmpint(start, ==, 512);
    g_assert_cmpint(bytes, ==, 1536);
    g_assert_true(dirty_bitmap_next_dirty(b, 2048, UINT64_MAX, &start, &bytes));
    g_assert_cmpint(start, ==, 40 << 20);
    g_assert_cmpint(bytes, ==, 1024);
    g_assert_cmpint(blk_pwrite(root, (64 << 20) + 600, 100, data, 0), ==, 0); /* the last, cut granule */
    g_assert_cmpint(dirty_bitmap_count(b), ==, 3 * 512 + 1024 + 188);
    dirty_bitmap_reset(b, 512, 1000); /* whole granules only */
    g_assert_false(dirty_bitmap_get(b, 512));
    g_assert_true(dirty_bitmap_get(b, 1024));
    other = dirty_bitmap_new(node, "b2", 65536, &error);
    dirty_bitmap_merge(other, b);
    g_assert_cmpint(dirty_bitmap_count(other), ==, 65536 + 65536 + 700);
    g_assert_cmpint(dirty_bitmap_serialized_size(b, 0, 64 * 512), ==, 8);
    dirty_bitmap_serialize(b, buf, 0, 64 * 512);
    g_assert_cmpint((uint8_t)buf[0], ==, 0x0c);
    dirty_bitmap_clear(b);
    g_assert_cmpint(dirty_bitmap_count(b), ==, 0);
    buf[0] = 0x81;
    dirty_bitmap_deserialize(b, buf, 0, 64 * 512);
    g_assert_true(dirty_bitmap_get(b, 0) && dirty_bitmap_get(b, 7 * 512) && !dirty_bitmap_get(b, 512));
    dirty_bitmap_free(b);
    dirty_bitmap_free(other);
    g_assert_nonnull(root->direct);
    block_root_free(root);
    end();
}

/* ---- quorum ---- */

static GString *events;

static void count_event(void *opaque, const char *event, json_object *data)
{
    json_object *type = NULL, *node = NULL;

    json_object_object_get_ex(data, "type", &type);
    json_object_object_get_ex(data, "node-name", &node);
    g_string_append_printf(events, "%s%s%s%s%s;", event, type ? ":" : "",
                           type ? json_object_get_string(type) : "", node ? ":" : "",
                           node ? json_object_get_string(node) : "");
    json_object_put(data);
}

static void expect_events(const char *wanted)
{
    g_assert_cmpstr(events->str, ==, wanted);
    g_string_truncate(events, 0);
}

static void test_quorum(void)
{
    g_autofree char *a = NULL, *b = NULL, *c = NULL, *text = NULL;
    g_autoptr(GError) error = NULL;
    BlockNode *q, *late;
    BlockChild *root;
    BlockStatus st;
    json_object *o;
    char buf[1024];

    begin();
    events = g_string_new(NULL);
    block_graph_set_event_hook(graph, count_event, NULL);
    a = make_file("a", 65536, 'x');
    b = make_file("b", 65536, 'x');
    c = make_file("c", 65536, 'y');
    add("driver=file,node-name=fc,discard=unmap,filename=%s", c);
    q = add("driver=quorum,node-name=q,discard=unmap,vote-threshold=2,children.0.driver=file,children.0."
            "filename=%s,"
            "children.0.node-name=fa,children.1.driver=blkdebug,children.1.node-name=fb,"
            "children.1.inject-error.0.event=none,children.1.inject-error.0.iotype=write,"
            "children.1.inject-error.0.sector=8,children.1.discard=unmap,children.1.image.driver=file,"
            "children.1.image.filename=%s,children.2=fc",
            a, b);
    g_assert_cmpint(q->size, ==, 65536);
    root = root_of(q, RW, BLOCK_PERM_ALL & ~(unsigned)BLOCK_PERM_WRITE);
    /* The files are the quorum's: another writer would make them differ. */
    g_assert_null(
        block_root_new(block_node_find(graph, "fa"), "other", RW, BLOCK_PERM_ALL, NULL, NULL, &error));
    g_clear_error(&error);
    /* Two of three decide, and the third is told of. */
    g_assert_cmpint(blk_pread(root, 1000, sizeof(buf), buf, 0), ==, 0);
    g_assert_true(buf[0] == 'x' && buf[1023] == 'x');
    expect_events("QUORUM_REPORT_BAD:read:fc;");
    /* Written by all three they agree; one that fails does not matter, two do. */
    memset(buf, 'w', sizeof(buf));
    g_assert_cmpint(blk_pwrite(root, 1000, sizeof(buf), buf, 0), ==, 0);
    g_assert_cmpint(blk_pread(root, 1000, sizeof(buf), buf, 0), ==, 0);
    g_assert_true(buf[0] == 'w' && buf[1023] == 'w');
    expect_events("");
    g_assert_cmpint(blk_pwrite(root, 4096, 512, buf, 0), ==, 0);
    expect_events("QUORUM_REPORT_BAD:write:fb;");
    g_assert_cmpint(blk_pwrite_zeroes(root, 8192, 4096, BLOCK_REQ_MAY_UNMAP), ==, 0);
    g_assert_cmpint(blk_flush(root), ==, 0);
    g_assert_cmpint(blk_status(q, 8192, 57344, &st), ==, 0);
    g_assert_true(st.flags & BLOCK_STATUS_ZERO);
    g_assert_cmpint(st.bytes, ==, 4096);
    g_assert_cmpint(blk_pread(root, 8192, 512, buf, 0), ==, 0);
    g_assert_cmpint((uint8_t)buf[511], ==, 0);
    expect_events("");
    /* At 4096 a and c hold 'w', b 'x': without c nobody has two votes. */
    BlockChild *third = g_ptr_array_index(q->children, 2);
    g_assert_true(q->driver->del_child(q, third, &error));
    g_assert_cmpint(blk_pread(root, 4096, 512, buf, 0), ==, -EIO);
    expect_events("QUORUM_FAILURE;");
    g_assert_false(q->driver->del_child(q, g_ptr_array_index(q->children, 0), &error));
    g_assert_nonnull(strstr(error->message, "vote threshold 2"));
    g_clear_error(&error);
    late = add("driver=null-co,node-name=small,size=4096");
    g_assert_false(q->driver->add_child(q, late, &error));
    g_assert_nonnull(strstr(error->message, "one size"));
    g_clear_error(&error);
    g_assert_true(q->driver->add_child(q, block_node_find(graph, "fc"), &error));
    g_assert_cmpstr(((BlockChild *)g_ptr_array_index(q->children, 2))->name, ==, "children.3");
    g_assert_cmpint(blk_pread(root, 4096, 512, buf, 0), ==, 0);
    g_assert_cmpint((uint8_t)buf[0], ==, 'w');
    expect_events("QUORUM_REPORT_BAD:read:fb;");
    block_root_free(root);
    g_assert_true(block_node_del(graph, "q", &error));
    /* rewrite-corrupted mends it: c's first bytes were never written by the others' name. */
    q = add("driver=quorum,node-name=q2,vote-threshold=2,rewrite-corrupted=on,children.0.driver=file,"
            "children.0.filename=%s,children.1.driver=file,children.1.filename=%s,children.2=fc",
            a, b);
    root = root_of(q, BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL);
    g_assert_cmpint(blk_pread(root, 0, 512, buf, 0), ==, 0);
    g_assert_cmpint((uint8_t)buf[0], ==, 'x');
    expect_events("QUORUM_REPORT_BAD:read:fc;");
    g_assert_cmpint(blk_pread(root, 0, 512, buf, 0), ==, 0);
    expect_events("");
    block_root_free(root);
    g_assert_true(block_node_del(graph, "q2", &error));
    /* As json: and with dotted names; fifo takes the first that answers. */
    text = g_strdup_printf("json:{\"driver\":\"quorum\",\"read-pattern\":\"fifo\",\"vote-threshold\":1,"
                           "\"children.0.driver\":\"blkdebug\",\"children.0.inject-error.0.event\":\"none\","
                           "\"children.0.image.filename\":\"%s\",\"children.1.file.filename\":\"%s\"}",
                           a, b);
    q = block_node_open_image(graph, text, NULL, 0, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(((BlockChild *)q->children->pdata[1])->node->driver->name, ==, "raw"); /* probed */
    root = root_of(q, BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL);
    g_assert_cmpint(blk_pread(root, 0, 512, buf, 0), ==, 0);
    g_assert_true(g_str_has_prefix(events->str, "QUORUM_REPORT_BAD:read:#block"));
    g_string_truncate(events, 0);
    g_assert_true(g_str_has_prefix(q->filename, "json:{"));
    o = json_tokener_parse(q->filename + 5);
    g_assert_nonnull(o);
    json_object_put(o);
    block_root_free(root);

    static const char *const bad[] = {
        "{\"driver\":\"quorum\",\"vote-threshold\":1,\"children\":[]}",
        "{\"driver\":\"quorum\",\"vote-threshold\":3,\"children\":[\"small\",\"fc\"]}",
        "{\"driver\":\"quorum\",\"vote-threshold\":0,\"children\":[\"small\"]}",
        "{\"driver\":\"quorum\",\"vote-threshold\":1,\"children\":[\"small\",\"fc\"]}", /* sizes */
        "{\"driver\":\"quorum\",\"vote-threshold\":1,\"blkverify\":true,\"children\":[\"small\"]}",
        "{\"driver\":\"quorum\",\"vote-threshold\":1,\"children\":[\"nosuch\"]}",
    };
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *name = g_strconcat("json:", bad[i], NULL);

        g_assert_null(block_node_open_image(graph, name, NULL, 0, &error));
        g_test_message("%s", error->message);
        g_clear_error(&error);
    }
    g_assert_true(block_node_del(graph, "fc", &error) && block_node_del(graph, "small", &error));
    g_string_free(events, TRUE);
    end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/graph/names", test_names);
    g_test_add_func("/graph/permissions", test_permissions);
    g_test_add_func("/graph/drain", test_drain);
    g_test_add_func("/graph/alignment", test_alignment);
    g_test_add_func("/graph/blkdebug", test_blkdebug);
    g_test_add_func("/graph/breakpoint", test_breakpoint);
#ifdef CONFIG_LIBNBD
    g_test_add_func("/graph/nbd", test_nbd);
#endif
    g_test_add_func("/graph/throttle", test_throttle);
    g_test_add_func("/graph/zeroes", test_zeroes);
    g_test_add_func("/graph/bitmaps", test_bitmaps);
    g_test_add_func("/graph/quorum", test_quorum);
    return g_test_run();
}
