/*
 * Tests of filters that need two images: blkverify, blklogwrites, copy-before-write with snapshot-access, and
 * replication with a failover. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/graph/dirty_bitmap.h"
#include "block/replication.h"
#include "block/test_graph.h"

#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (1u << 20)

static char *make_qcow2(const char *name)
{
    char *path = g_build_filename(dir, name, NULL);
    g_autoptr(GError) error = NULL;
    json_object *o = json_object_new_object();

    g_assert_true(block_image_create(graph, "qcow2", path, SIZE, o, false, &error));
    g_assert_no_error(error);
    json_object_put(o);
    return path;
}

static void refused(const char *reason, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
static void refused(const char *reason, const char *fmt, ...)
{
    g_autoptr(QapiBlockdevOptions) options = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_assert_true(qapi_option_blockdev(text, &options, &error));
    g_assert_null(block_node_open(graph, options, false, 0, &error));
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, reason));
}

static BlockChild *root_of(BlockNode *node, unsigned perm)
{
    g_autoptr(GError) error = NULL;
    BlockChild *root = block_root_new(node, "root", perm, BLOCK_PERM_ALL, NULL, NULL, &error);

    g_assert_no_error(error);
    return root;
}

static const unsigned RW = BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE;
static const unsigned RO = BLOCK_PERM_CONSISTENT_READ;

static void del(const char *name)
{
    g_autoptr(GError) error = NULL;

    block_node_del(graph, name, &error);
    g_assert_no_error(error);
}

static void put(BlockChild *root, uint64_t offset, int fill, size_t bytes)
{
    g_autofree char *buf = g_malloc(bytes);

    memset(buf, fill, bytes);
    g_assert_cmpint(blk_pwrite(root, offset, bytes, buf, 0), ==, 0);
}

/* All of the range is that byte. */
static bool holds(BlockChild *root, uint64_t offset, int fill, size_t bytes)
{
    g_autofree char *buf = g_malloc(bytes);

    g_assert_cmpint(blk_pread(root, offset, bytes, buf, 0), ==, 0);
    for (size_t i = 0; i < bytes; i++) {
        if (buf[i] != (char)fill) {
            g_test_message("at %" PRIu64 ": %d, not %d", offset + i, buf[i], fill);
            return false;
        }
    }
    return true;
}

/* ---- blkdebug ---- */

/* A table of qcow2 that is read makes its event, however it is read: blkdebug then fails the read. */
static void test_blkdebug_qcow2(void)
{
    g_autofree char *path = NULL;
    uint8_t buf[512];
    BlockChild *root;

    begin();
    path = make_qcow2("events.qcow2");
    root = root_of(add("driver=qcow2,node-name=before,file.driver=file,file.filename=%s", path), RW);
    put(root, 65536, 1, 65536);
    block_root_free(root);
    del("before");
    root = root_of(add("driver=qcow2,node-name=image,file.driver=blkdebug,file.image.driver=file,"
                       "file.image.filename=%s,file.inject-error.0.event=l2_load,file.inject-error.0.once=on",
                       path),
                   RO);
    g_assert_cmpint(blk_pread(root, 65536, sizeof(buf), buf, 0), ==, -EIO);
    g_assert_true(holds(root, 65536, 1, 65536));
    block_root_free(root);
    del("image");
    end();
}

/* ---- blkverify ---- */

static void test_blkverify(void)
{
    g_autofree char *raw = NULL, *image = NULL, *small = NULL, *name = NULL;
    g_autoptr(GError) error = NULL;
    BlockNode *node;
    BlockChild *root;

    begin();
    raw = make_file("raw", SIZE, 0);
    image = make_qcow2("test.qcow2");
    small = make_file("small", 512, 0);
    name = g_strdup_printf("blkverify:%s:%s", raw, image);
    node = block_node_open_image(graph, name, NULL, 0, &error);
    g_assert_no_error(error);
    root = root_of(node, RW);
    put(root, 1000, 'a', 100000);
    g_assert_cmpint(blk_pwrite_zeroes(root, 65536, 4096, 0), ==, 0);
    g_assert_cmpint(blk_pdiscard(root, 0, 65536), ==, 0);
    g_assert_cmpint(blk_flush(root), ==, 0);
    g_assert_true(holds(root, 1000, 'a', 60000) && holds(root, 65536, 0, 4096));
    block_root_free(root);
    refused("as large at least",
            "driver=blkverify,node-name=v,raw.driver=file,raw.filename=%s,"
            "test.driver=file,test.filename=%s",
            small, raw);
    end();
}

/* The difference ends the program: looked at in a child of ours. */
static void test_blkverify_differs(void)
{
    if (g_test_subprocess()) {
        begin();
        g_autofree char *raw = make_file("raw", SIZE, 0), *image = make_file("image", SIZE, 0);
        g_autofree char *byte = g_malloc0(SIZE);

        byte[70001] = 1;
        g_assert_true(g_file_set_contents(image, byte, SIZE, NULL));
        BlockNode *node = add("driver=blkverify,node-name=v,raw.driver=file,raw.filename=%s,test.driver=file,"
                              "test.filename=%s",
                              raw, image);
        BlockChild *root = root_of(node, RO);
        g_assert_true(holds(root, 0, 0, 65536));
        holds(root, 65536, 0, 65536);
        g_printerr("it went on\n");
        exit(0);
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_failed();
    g_test_trap_assert_stderr(
        "*blkverify: read offset=65536 bytes=65536 contents mismatch at offset 70001\n");
}

/* ---- blklogwrites ---- */

static uint64_t le64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

/* Makes the disk that the log's first `count` entries leave; returns the last entry's flags. */
static uint64_t replay(const uint8_t *log, size_t log_size, uint64_t count, uint32_t sector, uint8_t *disk)
{
    uint64_t at = sector, flags = 0;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t where = le64(log + at) * sector, bytes = le64(log + at + 8) * sector,
                 data = le64(log + at + 24);

        g_assert_cmpuint(at + sector + data, <=, log_size);
        flags = le64(log + at + 16);
        g_assert_cmpuint(where + bytes, <=, SIZE);
        g_assert_true(data == (flags & (1 | 4) ? 0 : bytes));
        memcpy(disk + where, log + at + sector, data);
        at += sector + data;
    }
    return flags;
}

static void test_blklogwrites(void)
{
    g_autofree char *disk = NULL, *log = NULL, *text = NULL;
    g_autofree uint8_t *made = g_malloc0(SIZE), *now = NULL;
    g_autoptr(GError) error = NULL;
    BlockChild *root;
    gsize size, disk_size;

    begin();
    disk = make_file("disk", SIZE, 0);
    log = make_file("log", 0, 0);
    text =
        g_strdup_printf("driver=blklogwrites,node-name=l,file.driver=file,file.filename=%s,log.driver=file,"
                        "log.filename=%s",
                        disk, log);
    root = root_of(add("%s,log-sector-size=4096", text), RW);
    put(root, 0, 'a', 4096);
    put(root, 8192, 'b', 12288);
    g_assert_cmpint(blk_flush(root), ==, 0);
    put(root, 100, 'c', 10); /* part of a sector: all of it is written down */
    g_assert_cmpint(blk_pwrite_zeroes(root, 12288, 4096, 0), ==, 0);
    g_assert_cmpint(blk_pwrite(root, 65536, 4096, made, BLOCK_REQ_FUA), ==, 0);
    block_root_free(root);
    del("l");
    g_assert_true(g_file_get_contents(log, (char **)&now, &size, NULL));
    g_assert_cmphex(le64(now), ==, 0x6a736677736872);
    g_assert_cmpuint(le64(now + 8), ==, 1);
    g_assert_cmpuint(le64(now + 16), ==, 6);
    g_assert_cmpuint(now[24] | now[25] << 8, ==, 4096);
    g_assert_cmpuint(replay(now, size, 3, 4096, made), ==, 1);
    g_assert_true(made[0] == 'a' && made[100] == 'a' && made[20479] == 'b' && made[12288] == 'b');
    memset(made, 0, SIZE);
    g_assert_cmpuint(replay(now, size, 6, 4096, made), ==, 2);
    g_clear_pointer(&now, g_free);
    g_assert_true(g_file_get_contents(disk, (char **)&now, &disk_size, NULL));
    g_assert_cmpmem(now, disk_size, made, SIZE);
    /* Continued: what was there stays, and its sector size counts. */
    root = root_of(add("%s,log-append=on", text), RW);
    put(root, 4096, 'd', 4096);
    block_root_free(root);
    del("l");
    g_clear_pointer(&now, g_free);
    g_assert_true(g_file_get_contents(log, (char **)&now, &size, NULL));
    g_assert_cmpuint(le64(now + 16), ==, 7);
    replay(now, size, 7, 4096, made);
    g_assert_true(made[4096] == 'd' && made[100] == 'c');
    /* Logs that lie. */
    now[16] = 200;
    g_assert_true(g_file_set_contents(log, (char *)now, (gssize)size, NULL));
    refused("The log ends before", "%s,log-append=on", text);
    now[16] = 7;
    memset(now + 4096 + 8, 0xff, 8);
    g_assert_true(g_file_set_contents(log, (char *)now, (gssize)size, NULL));
    refused("longer than the log", "%s,log-append=on", text);
    now[25] = 3;
    g_assert_true(g_file_set_contents(log, (char *)now, (gssize)size, NULL));
    refused("Invalid log sector size", "%s,log-append=on", text);
    now[0] ^= 1;
    g_assert_true(g_file_set_contents(log, (char *)now, (gssize)size, NULL));
    refused("magic", "%s,log-append=on", text);
    refused("Invalid log sector size", "%s,log-sector-size=1000", text);
    refused("mutually exclusive", "%s,log-sector-size=512,log-append=on", text);
    end();
}

/* ---- copy-before-write ---- */

static void test_copy_before_write(void)
{
    g_autofree char *disk = NULL, *image = NULL, *small = NULL;
    g_autoptr(GError) error = NULL;
    BlockNode *base, *cbw;
    BlockChild *root, *snap;
    DirtyBitmap *bitmap;
    BlockStatus st;
    char buf[512];

    begin();
    disk = make_file("disk", SIZE, 'o');
    image = make_qcow2("saved.qcow2");
    small = make_file("small", 512, 0);
    base = add("driver=file,node-name=base,filename=%s", disk);
    add("driver=qcow2,node-name=saved,file.driver=file,file.filename=%s", image);
    cbw = add("driver=copy-before-write,node-name=cbw,file=base,target=saved");
    snap = root_of(add("driver=snapshot-access,node-name=snap,file=cbw"), RO);
    root = root_of(cbw, RW);
    g_assert_true(holds(snap, 0, 'o', 4096));
    put(root, 1000, 'n', 5000);
    g_assert_cmpint(blk_pwrite_zeroes(root, 300000, 8192, 0), ==, 0);
    g_assert_true(holds(snap, 0, 'o', SIZE)); /* the snapshot is what it was */
    g_assert_true(holds(root, 1000, 'n', 5000) && holds(root, 300000, 0, 8192) &&
                  holds(root, 6000, 'o', 5000));
    g_assert_cmpint(blk_status_above(block_node_find(graph, "saved"), NULL, 0, SIZE, &st), ==, 0);
    g_assert_cmpint(st.bytes, ==, 65536); /* one cluster was saved at the front */
    g_assert_true(st.flags & BLOCK_STATUS_DATA);
    g_assert_cmpint(blk_status(block_node_find(graph, "snap"), 0, SIZE, &st), ==, 0);
    g_assert_true(st.bytes && (st.flags & BLOCK_STATUS_DATA));
    block_root_free(snap);
    del("snap");
    block_root_free(root);
    del("cbw");
    /* What a bitmap leaves out is neither saved nor shown; what is discarded neither. */
    bitmap = dirty_bitmap_new(base, "b", 65536, &error);
    dirty_bitmap_set(bitmap, 131072, 131072);
    cbw = add("driver=copy-before-write,node-name=cbw,file=base,target=saved,bitmap.node=base,bitmap.name=b");
    add("driver=snapshot-access,node-name=snap,file=cbw,discard=unmap");
    snap = root_of(block_node_find(graph, "snap"), RW);
    root = root_of(cbw, RW);
    g_assert_true(holds(snap, 131072, 'o', 131072));
    g_assert_cmpint(blk_pread(snap, 0, 512, buf, 0), ==, -EACCES);
    g_assert_cmpint(blk_pdiscard(snap, 131072, 65536), ==, 0);
    g_assert_cmpint(blk_pread(snap, 131072, 512, buf, 0), ==, -EACCES);
    put(root, 131072, 'p', 131072);
    g_assert_true(holds(snap, 196608, 'o', 65536));
    block_root_free(snap);
    block_root_free(root);
    del("snap");
    del("cbw");
    refused("one size",
            "driver=copy-before-write,node-name=c,file=base,target.driver=file,target.filename=%s", small);
    refused("not found",
            "driver=copy-before-write,node-name=c,file=base,target=saved,bitmap.node=base,bitmap.name=x");
    refused("keeps no snapshot", "driver=snapshot-access,node-name=s,file=base");
    end();
}

/* A target that fails, and one that takes too long: who pays for it. */
static void test_copy_before_write_errors(void)
{
    static const struct {
        const char *target, *options;
        int write, read;
    } cases[] = {
        { "blkdebug,image=t,inject-error.0.event=none,inject-error.0.iotype=write", "", -EIO, 0 },
        { "blkdebug,image=t,inject-error.0.event=none,inject-error.0.iotype=write",
          ",on-cbw-error=break-snapshot", 0, -EACCES },
        { "null-co,size=1048576,latency-ns=2500000000", ",cbw-timeout=1", -ETIMEDOUT, 0 },
        { "null-co,size=1048576,latency-ns=2500000000", ",cbw-timeout=1,on-cbw-error=break-snapshot", 0,
          -EACCES },
    };

    begin();
    add("driver=null-co,node-name=base,size=1048576");
    add("driver=null-co,node-name=t,size=1048576");
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        BlockNode *cbw;
        BlockChild *root, *snap;
        char buf[4096] = "";

        add("driver=%s,node-name=target", cases[i].target);
        cbw = add("driver=copy-before-write,node-name=cbw,file=base,target=target%s", cases[i].options);
        snap = root_of(add("driver=snapshot-access,node-name=snap,file=cbw"), RO);
        root = root_of(cbw, RW);
        g_assert_cmpint(blk_pwrite(root, 0, sizeof(buf), buf, 0), ==, cases[i].write);
        g_assert_cmpint(blk_pread(snap, 0, sizeof(buf), buf, 0), ==, cases[i].read);
        block_root_free(root);
        block_root_free(snap);
        del("snap");
        del("cbw"); /* a copy that still runs is waited for */
        del("target");
    }
    end();
}

/* ---- replication ---- */

static BlockNode *secondary(const char *disk, const char *hidden, const char *active)
{
    add("driver=file,node-name=disk,filename=%s", disk);
    add("driver=qcow2,node-name=hidden,file.driver=file,file.filename=%s,backing=disk", hidden);
    add("driver=qcow2,node-name=active,file.driver=file,file.filename=%s,backing=hidden", active);
    return add("driver=replication,node-name=r,mode=secondary,top-id=top,file=active");
}

static void test_replication(void)
{
    g_autofree char *disk = NULL, *hidden = NULL, *active = NULL;
    g_autoptr(GError) error = NULL;
    BlockNode *r;
    BlockChild *guest, *primary;
    char buf[512];

    begin();
    disk = make_file("disk", SIZE, '0');
    hidden = make_qcow2("hidden.qcow2");
    active = make_qcow2("active.qcow2");
    r = secondary(disk, hidden, active);
    guest = root_of(r, RW);
    primary = root_of(block_node_find(graph, "disk"), RW);       /* stands for the NBD export */
    g_assert_cmpint(blk_pread(guest, 0, 512, buf, 0), ==, -EIO); /* not started */
    g_assert_false(replication_start_all(graph, QAPI_REPLICATION_MODE_PRIMARY, &error));
    g_clear_error(&error);
    g_assert_true(replication_start_all(graph, QAPI_REPLICATION_MODE_SECONDARY, &error));
    g_assert_no_error(error);
    g_assert_cmpstr(primary->node->driver->name, ==, "replication-saver");
    g_assert_false(replication_start_all(graph, QAPI_REPLICATION_MODE_SECONDARY, &error));
    g_clear_error(&error);
    /* Who would write past the filter is refused. */
    g_assert_null(
        block_root_new(block_node_find(graph, "disk"), "late", RW, BLOCK_PERM_ALL, NULL, NULL, &error));
    g_assert_nonnull(strstr(error->message, "'write'"));
    g_clear_error(&error);
    /* The primary's writes come to the disk; the secondary does not see them, and sees its own. */
    put(primary, 0, '1', 100000);
    put(guest, 50000, '2', 1000);
    put(primary, 50000, '1', 1000);
    g_assert_true(holds(guest, 0, '0', 50000) && holds(guest, 50000, '2', 1000));
    g_assert_true(holds(guest, 51000, '0', 200000));
    g_assert_true(holds(primary, 0, '1', 100000));
    g_assert_true(replication_check_all(graph, &error));
    /* At a checkpoint both see the disk. */
    g_assert_true(replication_checkpoint_all(graph, &error));
    g_assert_no_error(error);
    g_assert_true(holds(guest, 0, '1', 100000) && holds(guest, 100000, '0', 100000));
    /* Failover: the secondary's view becomes the disk, the primary's writes since then are gone. */
    put(primary, 200000, '3', 100000);
    put(guest, 400000, '4', 4096);
    g_assert_true(holds(guest, 200000, '0', 100000));
    block_root_free(primary);
    g_assert_true(replication_stop_all(graph, true, &error));
    g_assert_no_error(error);
    g_assert_cmpstr(r->file->node->name, ==, "disk");
    g_assert_true(holds(guest, 0, '1', 100000) && holds(guest, 100000, '0', 300000));
    g_assert_true(holds(guest, 400000, '4', 4096));
    put(guest, 0, '5', 512);
    g_assert_false(replication_stop_all(graph, true, &error));
    g_clear_error(&error);
    block_root_free(guest);
    del("r");
    primary = root_of(block_node_find(graph, "disk"), RO);
    g_assert_true(holds(primary, 0, '5', 512) && holds(primary, 512, '1', 99488) &&
                  holds(primary, 400000, '4', 4096) && holds(primary, 200000, '0', 100000));
    block_root_free(primary);
    del("active");
    del("hidden");
    del("disk");
    /* Stopped without a failover: the disk is the truth. */
    r = secondary(disk, hidden, active);
    guest = root_of(r, RW);
    g_assert_true(replication_start_all(graph, QAPI_REPLICATION_MODE_SECONDARY, &error));
    put(guest, 0, '6', 4096);
    g_assert_true(replication_stop_all(graph, false, &error));
    g_assert_true(holds(guest, 512, '1', 3584));
    block_root_free(guest);
    refused("top-id", "driver=replication,node-name=x,mode=secondary,file=disk");
    refused("top-id", "driver=replication,node-name=x,mode=primary,top-id=t,file=disk");
    end();
}

/* The primary's side: a lost secondary is told of, and the guest goes on. */
static void test_replication_primary(void)
{
    g_autofree char *disk = NULL;
    g_autoptr(GError) error = NULL;
    BlockNode *top;
    BlockChild *guest;

    begin();
    disk = make_file("disk", SIZE, '0');
    add("driver=file,node-name=local,filename=%s", disk);
    add("driver=null-co,node-name=null,size=%u", SIZE);
    add("driver=blkdebug,node-name=remote,image=null,inject-error.0.event=none,inject-error.0.iotype=write");
    top = add("driver=quorum,node-name=top,read-pattern=fifo,vote-threshold=1,children.0=local");
    guest = root_of(top, RW);
    put(guest, 0, 'a', 4096);
    g_assert_true(
        top->driver->add_child(top, add("driver=replication,node-name=r,mode=primary,file=remote"), &error));
    g_assert_true(replication_start_all(graph, QAPI_REPLICATION_MODE_PRIMARY, &error));
    g_assert_no_error(error);
    g_assert_true(replication_check_all(graph, &error));
    g_assert_true(holds(guest, 0, 'a', 4096)); /* from the local disk */
    put(guest, 4096, 'b', 4096);
    g_assert_false(replication_check_all(graph, &error));
    g_assert_nonnull(strstr(error->message, "'r'"));
    g_clear_error(&error);
    g_assert_true(replication_stop_all(graph, true, &error));
    g_assert_true(top->driver->del_child(top, g_ptr_array_index(top->children, 1), &error));
    put(guest, 8192, 'c', 4096);
    g_assert_true(holds(guest, 4096, 'b', 4096) && holds(guest, 8192, 'c', 4096));
    block_root_free(guest);
    end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/filters/blkdebug/qcow2", test_blkdebug_qcow2);
    g_test_add_func("/filters/blkverify", test_blkverify);
    g_test_add_func("/filters/blkverify/differs", test_blkverify_differs);
    g_test_add_func("/filters/blklogwrites", test_blklogwrites);
    g_test_add_func("/filters/copy-before-write", test_copy_before_write);
    g_test_add_func("/filters/copy-before-write/errors", test_copy_before_write_errors);
    g_test_add_func("/filters/replication/secondary", test_replication);
    g_test_add_func("/filters/replication/primary", test_replication_primary);
    return g_test_run();
}
