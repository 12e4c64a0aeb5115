/* Tests of disks, on real files. SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/block_internal.h"
#include "block/protocols/lock.h"
#include "block/throttling.h"
#include "object/object.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static Loop *loop;
static BlockRegistry *reg;
static char *dir;

static void begin(void)
{
    loop = loop_new(NULL, NULL);
    reg = block_registry_new(loop, NULL);
    dir = g_dir_make_tmp("rhea-blk-XXXXXX", NULL);
}

static void end(void)
{
    g_autofree char *command = g_strdup_printf("rm -rf '%s'", dir);

    block_registry_free(reg);
    loop_free(loop);
    g_assert_cmpint(system(command), ==, 0);
    g_free(dir);
}

static char *make_file(const char *name, size_t size)
{
    char *path = g_build_filename(dir, name, NULL);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

    g_assert_cmpint(ftruncate(fd, (off_t)size), ==, 0);
    close(fd);
    return path;
}

typedef struct Result {
    int value;
    bool done;
} Result;

static void on_done(void *opaque, int value)
{
    Result *r = opaque;

    g_assert_false(r->done);
    r->value = value;
    r->done = true;
}

static int wait_for(Result *r)
{
    g_assert_false(r->done); /* never from inside the call */
    while (!r->done) {
        loop_iterate(loop, true);
    }
    return r->value;
}

static int rd(BlockBackend *bb, uint64_t offset, void *buf, size_t size)
{
    Result r = { 0 };
    struct iovec iov = { buf, size };

    bb_readv(bb, loop, offset, &iov, 1, on_done, &r);
    return wait_for(&r);
}

static int wr(BlockBackend *bb, uint64_t offset, const void *buf, size_t size)
{
    Result r = { 0 };
    struct iovec iov = { (void *)buf, size };

    bb_writev(bb, loop, offset, &iov, 1, 0, on_done, &r);
    return wait_for(&r);
}

static int fl(BlockBackend *bb)
{
    Result r = { 0 };

    bb_flush(bb, loop, on_done, &r);
    return wait_for(&r);
}

static BlockBackend *drive(const char *fmt, ...)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    BlockDrive *d;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    d = block_drive_add_text(reg, text, "none", &error);
    if (error && strstr(error->message, "Invalid argument") && strstr(text, "cache=")) {
        return NULL; /* a file system without direct I/O */
    }
    g_assert_no_error(error);
    return d->bb;
}

/* Random reads and writes of every alignment and shape, against a model in memory. */
static void test_random(gconstpointer opaque)
{
    const char *options = opaque;
    static uint8_t model[1 << 20], buf[1 << 17], all[1 << 20];
    g_autofree char *path = NULL;
    BlockBackend *bb;
    GRand *rand = g_rand_new_with_seed(7);

    begin();
    memset(model, 0, sizeof(model));
    path = make_file("disk", sizeof(model));
    bb = drive("file=%s,format=raw,id=d0,%s", path, options);
    if (!bb) {
        g_test_skip("no direct I/O here");
        end();
        return;
    }
    g_assert_cmpint(bb_size(bb), ==, sizeof(model));
    for (int i = 0; i < 400; i++) {
        uint32_t unit = g_rand_boolean(rand) ? 512 : 1;
        uint32_t offset = (uint32_t)g_rand_int_range(rand, 0, sizeof(model) - 1) / unit * unit;
        uint32_t max = MIN((uint32_t)sizeof(buf), (uint32_t)sizeof(model) - offset);
        uint32_t size = MAX((uint32_t)g_rand_int_range(rand, 1, (int)max + 1) / unit * unit, MIN(unit, max));
        uint32_t skew = (uint32_t)g_rand_int_range(rand, 0, 3) * 8;
        struct iovec iov[20];
        int n = 0;
        Result r = { 0 };

        size = MIN(size, (uint32_t)sizeof(buf) - skew);
        for (uint32_t at = 0; at < size; n++) {
            uint32_t some = (uint32_t)g_rand_int_range(rand, 0, 9000);
            uint32_t piece = n == 19 ? size - at : MIN(size - at, some);

            iov[n] = (struct iovec){ buf + skew + at, piece };
            at += piece;
        }
        switch (g_rand_int_range(rand, 0, 6)) {
        case 0:
        case 1:
            for (uint32_t k = 0; k < size; k++) {
                buf[skew + k] = (uint8_t)g_rand_int(rand);
            }
            bb_writev(bb, loop, offset, iov, n, i & 8 ? BLOCK_REQ_FUA : 0, on_done, &r);
            memset(iov, 0x55, sizeof(iov)); /* the array itself was copied */
            g_assert_cmpint(wait_for(&r), ==, 0);
            memcpy(model + offset, buf + skew, size);
            break;
        case 2:
            bb_write_zeroes(bb, loop, offset, size, i & 16 ? BLOCK_REQ_MAY_UNMAP : 0, on_done, &r);
            g_assert_cmpint(wait_for(&r), ==, 0);
            memset(model + offset, 0, size);
            break;
        case 3:
            g_assert_cmpint(fl(bb), ==, 0);
            break;
        default:
            memset(buf, 0xee, sizeof(buf));
            bb_readv(bb, loop, offset, iov, n, on_done, &r);
            g_assert_cmpint(wait_for(&r), ==, 0);
            g_assert_cmpint(memcmp(buf + skew, model + offset, size), ==, 0);
            break;
        }
    }
    g_assert_cmpint(bb_pread(bb, 0, all, sizeof(all)), ==, 0);
    g_assert_cmpint(memcmp(all, model, sizeof(all)), ==, 0);
    g_rand_free(rand);
    end();
    g_assert_cmpint(access(path, F_OK), ==, -1);
}

static void test_bounds(void)
{
    g_autofree char *path = NULL;
    BlockBackend *bb, *ro;
    uint8_t buf[1024];
    Result r = { 0 };
    json_object *stats;

    begin();
    path = make_file("disk", 1000); /* no whole sector */
    bb = drive("file=%s,format=raw,id=d0", path);
    g_assert_cmpint(bb_size(bb), ==, 1024);
    memset(buf, 1, sizeof(buf));
    g_assert_cmpint(rd(bb, 0, buf, 1024), ==, 0);
    g_assert_cmpint(buf[1023], ==, 0);
    g_assert_cmpint(rd(bb, 512, buf, 1024), ==, -EIO);
    g_assert_cmpint(rd(bb, G_MAXUINT64 - 100, buf, 512), ==, -EIO);
    g_assert_cmpint(wr(bb, 1024, buf, 1), ==, -EIO);
    g_assert_cmpint(wr(bb, 0, buf, 0), ==, 0);
    bb_discard(bb, loop, 0, G_MAXUINT64, on_done, &r);
    g_assert_cmpint(wait_for(&r), ==, -EIO);
    ro = drive("file=%s,format=raw,id=ro,readonly=on", path);
    g_assert_true(bb_read_only(ro));
    g_assert_cmpint(wr(ro, 0, buf, 512), ==, -EPERM);
    g_assert_cmpint(rd(ro, 0, buf, 512), ==, 0);
    g_assert_cmpint(fl(ro), ==, 0);
    stats = block_query_stats(reg, false);
    g_assert_cmpint(json_object_array_length(stats), ==, 2);
    g_assert_nonnull(strstr(json_object_to_json_string(stats), "\"rd_bytes\": 1024"));
    json_object_put(stats);
    end();
}

static void test_blockdev(void)
{
    g_autofree char *path = NULL, *text = NULL;
    g_autoptr(GError) error = NULL;
    BlockBackend *bb;
    char buf[512];
    json_object *list;

    begin();
    path = make_file("disk", 8192);
    text = g_strdup_printf(
        "{\"driver\":\"file\",\"filename\":\"%s\",\"node-name\":\"f0\",\"auto-read-only\":true,"
        "\"discard\":\"unmap\",\"aio\":\"io_uring\",\"cache\":{\"direct\":false,\"no-flush\":false}}",
        path);
    g_assert_true(blockdev_add_text(reg, text, &error));
    g_assert_no_error(error);
    g_assert_true(blockdev_add_text(reg, "driver=raw,node-name=r0,file=f0,offset=512,size=1024", &error));
    g_assert_no_error(error);
    bb = bb_find(reg, "r0", &error);
    g_assert_nonnull(bb);
    g_assert_cmpint(bb_size(bb), ==, 1024);
    memset(buf, 'w', sizeof(buf));
    g_assert_cmpint(wr(bb, 512, buf, 512), ==, 0);
    memset(buf, 0, sizeof(buf));
    g_assert_cmpint(bb_pread(bb_find(reg, "f0", NULL), 1024, buf, 512), ==, 0);
    g_assert_true(buf[0] == 'w');
    g_assert_false(blockdev_del(reg, "f0", &error)); /* r0 uses it */
    g_clear_error(&error);
    list = block_query_nodes(reg, true);
    g_assert_cmpint(json_object_array_length(list), ==, 2);
    json_object_put(list);
    g_assert_true(blockdev_del(reg, "r0", &error));
    g_assert_true(blockdev_del(reg, "f0", &error));
    g_assert_false(blockdev_del(reg, "f0", &error));
    g_clear_error(&error);
    g_free(text);
    text = g_strdup_printf("driver=raw,node-name=n,file.driver=file,file.filename=%s,cache.direct=off", path);
    g_assert_true(blockdev_add_text(reg, text, &error));
    g_assert_no_error(error);
    g_assert_true(block_resize(reg, NULL, "n", 16384, &error));
    g_assert_cmpint(bb_size(bb_find(reg, "n", NULL)), ==, 16384);
    g_assert_true(blockdev_del(reg, "n", &error)); /* takes its unnamed file node along */
    list = block_query_nodes(reg, true);
    g_assert_cmpint(json_object_array_length(list), ==, 0);
    json_object_put(list);
    end();
}

static void test_errors(void)
{
    static const char *const drives[] = {
        "file=/nonexistent/x,format=raw",
        "file=%s,format=qcow2",
        "file=%s,format=foo",
        "file=%s,snapshot=perhaps",
        "file=%s,cache=sometimes",
        "file=%s,frmat=raw",
        "format=raw",
        "file=%s,werror=perhaps",
        "file=nbd://host/x",
        "file=/,format=raw",
        "file=%s,aio=native",
        "file=%s,id=9",
        "file=%s,readonly=maybe",
        "file",
        "file=%s,rerror=enospc",
        "file=%s,throttling.iops-total=5",
        "file=QCOW", /* a header that is cut off */
    };
    static const char *const nodes[] = { "driver=qcow2,node-name=a",
                                         "driver=file,node-name=a",
                                         "driver=null-co",
                                         "driver=raw,node-name=a,file=nope",
                                         "{\"driver\":",
                                         "[]",
                                         "driver=null-co,node-name=#a",
                                         "driver=null-co,node-name=a,sise=1",
                                         "driver=null-co,node-name=a,latency-ns=99999999999",
                                         "driver=file,node-name=a,filename=",
                                         "driver=raw,node-name=a",
                                         "driver=raw,node-name=a,file.driver=null-co,file.size=big",
                                         "driver=null-co,node-name=a,cache=on",
                                         "driver=null-co,node-name=a,detect-zeroes=unmap",
                                         "driver=null-co,node-name=a,force-share=on",
                                         "{\"driver\":\"raw\",\"node-name\":\"a\",\"file\":7}",
                                         "{\"driver\":\"null-co\",\"node-name\":\"a\",\"size\":\"1M\"}" };
    g_autofree char *path = NULL, *qcow = NULL;

    begin();
    path = make_file("disk", 4096);
    qcow = g_build_filename(dir, "q", NULL);
    g_assert_true(g_file_set_contents(qcow, "QFI\xfb\0\0\0\3", 8, NULL));
    for (size_t i = 0; i < G_N_ELEMENTS(drives); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *text =
            strstr(drives[i], "QCOW") ? g_strdup_printf("file=%s", qcow) : g_strdup_printf(drives[i], path);
        g_autofree char *message = NULL;

        g_assert_null(block_drive_add_text(reg, text, "none", &error));
        g_assert_error(error, RHEA_ERROR, ERROR_CLASS_GENERIC);
        message = error_message(error);
        g_assert_null(strchr(message, '\n'));
        g_test_message("%s", message);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(nodes); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_false(blockdev_add_text(reg, nodes[i], &error));
        g_assert_error(error, RHEA_ERROR, ERROR_CLASS_GENERIC);
        g_test_message("%s", error->message);
    }
    end();
}

/* snapshot=on: what is written goes with the program; and the image may be one that must not be written. */
static void test_snapshot(void)
{
    g_autofree char *path = NULL, *data = NULL;
    BlockBackend *bb, *filled;
    char buf[1024], back[1024];
    gsize size;

    begin();
    path = make_file("disk", 1 << 20);
    bb = drive("file=%s,format=raw,id=d,snapshot=on,copy-on-read=off", path);
    g_assert_cmpint(bb_size(bb), ==, 1 << 20);
    g_assert_false(bb_read_only(bb));
    memset(buf, 's', sizeof(buf));
    g_assert_cmpint(wr(bb, 5000, buf, sizeof(buf)), ==, 0);
    g_assert_cmpint(rd(bb, 5000, back, sizeof(back)), ==, 0);
    g_assert_cmpmem(buf, sizeof(buf), back, sizeof(back));
    g_assert_cmpint(rd(bb, 4000, back, sizeof(back)), ==, 0);
    g_assert_true(back[0] == 0 && back[999] == 0 && back[1000] == 's');
    g_assert_cmpint(fl(bb), ==, 0);
    g_assert_true(g_file_get_contents(path, &data, &size, NULL));
    for (gsize i = 0; i < size; i++) {
        g_assert_true(data[i] == 0);
    }
    /* Together with copy-on-read, where what was read comes from the overlay then. */
    filled = drive("file=%s,format=raw,id=c,snapshot=on,copy-on-read=on,file.locking=off", path);
    g_assert_cmpint(rd(filled, 70000, back, sizeof(back)), ==, 0);
    g_assert_true(back[0] == 0 && bb_node(filled)->copy_on_read == 1);
    BlockStatus st;
    g_assert_cmpint(blk_status(bb_node(filled), 69632, 4096, &st), ==, 0); /* a subcluster */
    g_assert_true(st.flags & BLOCK_STATUS_ALLOCATED);
    g_assert_cmpint(blk_status(bb_node(filled), 131072, 65536, &st), ==, 0);
    g_assert_false(st.flags & BLOCK_STATUS_ALLOCATED);
    end();
}

static void test_lock(void)
{
    g_autofree char *path = NULL, *pid_text = NULL;
    g_autoptr(GError) error = NULL;
    BlockBackend *a, *b, *ro;
    int ready[2], go[2];
    char c;
    pid_t pid;

    begin();
    path = make_file("disk", 4096);
    g_assert_cmpint(pipe(ready), ==, 0);
    g_assert_cmpint(pipe(go), ==, 0);
    pid = fork();
    if (pid == 0) { /* another machine */
        int fd = open(path, O_RDWR);

        BlockLock lock = { 0 };

        if (!block_lock_prepare(&lock, fd, path, BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE,
                                BLOCK_PERM_ALL & ~(unsigned)BLOCK_PERM_WRITE, NULL)) {
            _exit(1);
        }
        c = write(ready[1], "r", 1) == 1 && read(go[0], &c, 1) == 1;
        _exit(0);
    }
    g_assert_cmpint(read(ready[0], &c, 1), ==, 1);
    a = drive("file=%s,format=raw,id=a", path);
    g_assert_false(bb_attach_device(a, "/machine/a", false, false, NULL, NULL, &error));
    pid_text = g_strdup_printf("process %d", pid);
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, pid_text));
    g_assert_nonnull(strstr(error->message, path));
    g_clear_error(&error);
    ro = drive("file=%s,format=raw,id=ro,readonly=on", path);
    g_assert_false(bb_attach_device(ro, "/machine/ro", true, false, NULL, NULL, &error));
    g_clear_error(&error);
    g_assert_cmpint(write(go[1], "g", 1), ==, 1);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    g_assert_true(bb_attach_device(a, "/machine/a", false, false, NULL, NULL, &error));
    g_assert_no_error(error);
    g_assert_false(
        bb_attach_device(a, "/machine/a2", false, false, NULL, NULL, &error)); /* one device each */
    g_clear_error(&error);
    b = drive("file=%s,format=raw,id=b", path);
    g_assert_false(
        bb_attach_device(b, "/machine/b", false, false, NULL, NULL, &error)); /* our own other opening */
    g_test_message("%s", error->message);
    g_clear_error(&error);
    bb_detach_device(a);
    g_assert_true(bb_attach_device(b, "/machine/b", false, true, NULL, NULL, &error));
    g_assert_true(bb_attach_device(a, "/machine/a", false, true, NULL, NULL, &error)); /* both share */
    end();
}

static void test_error_policy(void)
{
    BlockBackend *bb;

    begin();
    bb = drive("driver=null-co,id=n,size=1M,werror=stop,rerror=ignore");
    g_assert_cmpint(bb_size(bb), ==, 1 << 20);
    g_assert_cmpint(bb_error(bb, false, EIO), ==, BLOCK_ERROR_STOP);
    g_assert_cmpint(bb_error(bb, true, EIO), ==, BLOCK_ERROR_IGNORE);
    bb_set_on_error(bb, BLOCK_ON_ERROR_STOP, BLOCK_ON_ERROR_ENOSPC);
    g_assert_cmpint(bb_error(bb, true, EIO), ==, BLOCK_ERROR_STOP);
    g_assert_cmpint(bb_error(bb, false, EIO), ==, BLOCK_ERROR_REPORT);
    g_assert_cmpint(bb_error(bb, false, ENOSPC), ==, BLOCK_ERROR_STOP);
    end();
}

/* Several loops at once on one disk, and a drain. */
typedef struct Worker {
    BlockBackend *bb;
    int index, errors;
} Worker;

static gpointer run_worker(gpointer opaque)
{
    Worker *w = opaque;
    Loop *own = loop_new(w->index & 1 ? "epoll" : NULL, NULL);
    uint8_t out[4096], in[4096];

    for (int i = 0; i < 200; i++) {
        uint64_t offset = (uint64_t)(i * 4 + w->index) * 4096;
        Result r = { 0 };
        struct iovec iov = { out, sizeof(out) };

        memset(out, i + w->index, sizeof(out));
        bb_writev(w->bb, own, offset, &iov, 1, 0, on_done, &r);
        while (!r.done) {
            loop_iterate(own, true);
        }
        w->errors += r.value != 0;
        r = (Result){ 0 };
        iov.iov_base = in;
        bb_readv(w->bb, own, offset, &iov, 1, on_done, &r);
        while (!r.done) {
            loop_iterate(own, true);
        }
        w->errors += r.value != 0 || memcmp(in, out, sizeof(in)) != 0;
        if (i % 50 == 0) {
            r = (Result){ 0 };
            bb_flush(w->bb, own, on_done, &r);
            while (!r.done) {
                loop_iterate(own, true);
            }
            w->errors += r.value != 0;
        }
    }
    loop_free(own);
    return NULL;
}

static void test_loops(void)
{
    g_autofree char *path = NULL;
    Worker w[4];
    GThread *threads[4];
    BlockBackend *bb;
    Result many[64] = { 0 };
    uint8_t buf[512];
    struct iovec iov = { buf, sizeof(buf) };

    begin();
    path = make_file("disk", 4 << 20);
    bb = drive("file=%s,format=raw,id=d", path);
    for (int i = 0; i < 4; i++) {
        w[i] = (Worker){ .bb = bb, .index = i };
        threads[i] = g_thread_new("w", run_worker, &w[i]);
    }
    for (int i = 0; i < 4; i++) {
        g_thread_join(threads[i]);
        g_assert_cmpint(w[i].errors, ==, 0);
    }
    for (int i = 0; i < 64; i++) {
        bb_readv(bb, loop, (uint64_t)i * 512, &iov, 1, on_done, &many[i]);
    }
    bb_drain(bb, loop);
    for (int i = 0; i < 64; i++) {
        g_assert_true(many[i].done);
    }
    end();
}

static void test_property_text(void)
{
    g_autofree char *path = NULL, *info = NULL;
    BlockBackend *bb;
    json_object *list;
    g_autoptr(GError) error = NULL;

    begin();
    path = make_file("disk", 4096);
    bb = drive("file=%s,id=hd,serial=abc,cache=writethrough,if=virtio", path); /* format found out */
    g_assert_false(bb_write_cache(bb));
    g_assert_cmpstr(bb_serial(bb), ==, "abc");
    g_assert_true(bb_attach_device(bb, "/machine/peripheral/hd", false, false, NULL, NULL, &error));
    info = block_info(reg);
    g_assert_nonnull(strstr(info, "Attached to:      /machine/peripheral/hd"));
    g_assert_nonnull(strstr(info, "writethrough"));
    list = block_query(reg);
    g_assert_nonnull(strstr(json_object_to_json_string(list), "\"virtual-size\": 4096"));
    json_object_put(list);
    end();
}

static double seconds_for(BlockBackend *bb, int reads)
{
    int64_t start = g_get_monotonic_time();
    char buf[512];

    for (int i = 0; i < reads; i++) {
        g_assert_cmpint(bb_pread(bb, 0, buf, sizeof(buf)), ==, 0);
    }
    return (double)(g_get_monotonic_time() - start) / 1e6;
}

/* ---- latency histograms ---- */

/* The sum of the bins of a histogram of the first disk; -1: there is none. */
static int64_t in_bins(const char *name, int *bins)
{
    json_object *all = block_query_stats(reg, false), *stats, *h, *list;
    int64_t sum = -1;

    g_assert_true(json_object_object_get_ex(json_object_array_get_idx(all, 0), "stats", &stats));
    if (json_object_object_get_ex(stats, name, &h) && json_object_object_get_ex(h, "bins", &list)) {
        *bins = (int)json_object_array_length(list);
        sum = 0;
        for (int i = 0; i < *bins; i++) {
            sum += json_object_get_int64(json_object_array_get_idx(list, (size_t)i));
        }
    }
    json_object_put(all);
    return sum;
}

static void test_histograms(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = NULL, *text = NULL;
    g_autoptr(GArray) bounds = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    const uint64_t values[] = { 1000, 1000000, 100000000 }, wrong = 5;
    BlockDrive *drive;
    int bins = 0;

    begin();
    path = make_file("disk", 65536);
    text = g_strdup_printf("file=%s,format=raw,id=d1,read-only=on", path);
    drive = block_drive_add_text(reg, text, NULL, &error);
    g_assert_no_error(error);
    g_array_append_vals(bounds, values, G_N_ELEMENTS(values));
    g_assert_cmpint(in_bins("rd_latency_histogram", &bins), ==, -1);
    g_assert_true(block_set_histograms(reg, "d1", bounds, NULL, NULL, NULL, &error));
    seconds_for(drive->bb, 25);
    g_assert_cmpint(in_bins("rd_latency_histogram", &bins), ==, 25);
    g_assert_cmpint(bins, ==, 4);
    g_assert_cmpint(in_bins("wr_latency_histogram", &bins), ==, 0);
    g_array_append_val(bounds, wrong);
    g_assert_false(block_set_histograms(reg, "d1", NULL, bounds, NULL, NULL, &error));
    g_assert_nonnull(strstr(error->message, "read boundaries"));
    g_clear_error(&error);
    g_array_set_size(bounds, 1); /* of reads only: from nothing on; the others stay */
    g_assert_true(block_set_histograms(reg, "d1", NULL, bounds, NULL, NULL, &error));
    g_assert_cmpint(in_bins("rd_latency_histogram", &bins), ==, 0);
    g_assert_cmpint(bins, ==, 2);
    g_assert_cmpint(in_bins("flush_latency_histogram", &bins), ==, 0);
    g_assert_true(block_set_histograms(reg, "d1", NULL, NULL, NULL, NULL, &error));
    g_assert_cmpint(in_bins("flush_latency_histogram", &bins), ==, -1);
    g_assert_false(block_set_histograms(reg, "nosuch", NULL, NULL, NULL, NULL, &error));
    end();
}

/* ---- limits of -drive ---- */

static void test_throttling(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = NULL, *one = NULL, *two = NULL, *bad = NULL;
    QapiBlockIOThrottle set = { .id = (char *)"d1" };
    Object *root = object_root_new();
    BlockDrive *d1, *d2;

    begin();
    block_graph_set_objects(block_registry_graph(reg), root);
    path = make_file("disk", 65536);
    one = g_strdup_printf("file=%s,format=raw,id=d1,iops_rd=100,read-only=on", path);
    two = g_strdup_printf(
        "file=%s,format=raw,id=d2,throttling.iops-total=200,throttling.group=g,read-only=on", path);
    d1 = block_drive_add_text(reg, one, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(bb_node(d1->bb)->driver->name, ==, "throttle");
    g_assert_cmpfloat(seconds_for(d1->bb, 40), >, 0.25); /* 10 at once, 30 at 100 a second */
    d2 = block_drive_add_text(reg, two, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpfloat(seconds_for(d2->bb, 60), >, 0.15);
    /* No limit, then the other's group, with other limits. */
    g_assert_true(block_set_throttle(reg, &set, &error));
    g_assert_no_error(error);
    g_assert_cmpfloat(seconds_for(d1->bb, 40), <, 0.2);
    set.group = (char *)"g";
    set.iops = 100;
    set.has_iops_max = true;
    set.iops_max = 400;
    g_assert_true(block_set_throttle(reg, &set, &error));
    g_assert_cmpfloat(seconds_for(d2->bb, 430), >, 0.2);
    set.iops_rd = 5;
    g_assert_false(block_set_throttle(reg, &set, &error));
    g_assert_nonnull(strstr(error->message, "at the same time"));
    g_clear_error(&error);
    set.id = (char *)"nosuch";
    g_assert_false(block_set_throttle(reg, &set, &error));
    g_clear_error(&error);
    bad = g_strdup_printf("file=%s,format=raw,id=d3,read-only=on,bps=1,bps_rd=1", path);
    g_assert_null(block_drive_add_text(reg, bad, NULL, &error));
    g_test_message("%s", error->message);
    g_clear_error(&error);
    end();
    object_unref(root);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/block/random/writeback", "cache=writeback", test_random);
    g_test_add_data_func("/block/random/threads", "aio=threads,discard=unmap", test_random);
    g_test_add_data_func("/block/random/none", "cache=none,discard=unmap", test_random);
    g_test_add_data_func("/block/random/directsync", "cache=directsync,aio=native", test_random);
    g_test_add_data_func("/block/random/unsafe", "cache=unsafe", test_random);
    g_test_add_func("/block/bounds", test_bounds);
    g_test_add_func("/block/blockdev", test_blockdev);
    g_test_add_func("/block/errors", test_errors);
    g_test_add_func("/block/snapshot", test_snapshot);
    g_test_add_func("/block/lock", test_lock);
    g_test_add_func("/block/error-policy", test_error_policy);
    g_test_add_func("/block/loops", test_loops);
    g_test_add_func("/block/info", test_property_text);
    g_test_add_func("/block/throttling", test_throttling);
    g_test_add_func("/block/histograms", test_histograms);
    return g_test_run();
}
