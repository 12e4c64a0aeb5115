/*
 * qcow2 images with bytes changed: opened, read, checked, repaired, written to. The images to start from have
 * small clusters, data of every kind, a snapshot, and a journal that was not replayed.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/graph/graph.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DISK (256u << 10)

static Loop *loop;
static BlockGraph *graph;
static char *dir, *path;
static struct Seed {
    const char *options;
    char *bytes;
    gsize size;
} seeds[] = { { "cluster_size=512" },
              { "cluster_size=16k,extended_l2=on" },
              { "cluster_size=512,journal=on" },
              { "cluster_size=4096,compat=v2" },
              { "cluster_size=512,refcount_bits=1" } };

static BlockChild *open_image(bool write, unsigned flags)
{
    json_object *o = json_object_new_object();
    BlockNode *node;

    json_object_object_add(o, "driver", json_object_new_string("qcow2"));
    json_object_object_add(o, "read-only", json_object_new_boolean(!write));
    json_object_object_add(o, "backing", NULL); /* a name in the image is not followed */
    node = block_node_open_image(graph, path, o, flags | BLOCK_OPEN_NO_BACKING, NULL);
    json_object_put(o);
    return node ? block_root_new(node, "fuzz", BLOCK_PERM_CONSISTENT_READ | (write ? BLOCK_PERM_WRITE : 0),
                                 BLOCK_PERM_ALL, NULL, NULL, NULL)
                : NULL;
}

static void make_seed(struct Seed *seed)
{
    g_auto(GStrv) parts = g_strsplit(seed->options, ",", -1);
    json_object *o = json_object_new_object();
    BlockSnapshotInfo info = { .name = "snapshot" };
    g_autofree uint8_t *buf = g_malloc0(DISK);
    BlockChild *root;
    bool ok;

    for (char **p = parts; *p; p++) {
        char *eq = strchr(*p, '=');

        *eq = 0;
        json_object_object_add(o, *p, json_object_new_string(eq + 1));
    }
    ok = block_image_create(graph, "qcow2", path, DISK, o, false, NULL);
    g_assert_true(ok);
    json_object_put(o);
    root = open_image(true, 0);
    g_assert_nonnull(root);
    memset(buf, 0x55, DISK / 2);
    blk_pwrite(root, 0, DISK / 4, buf, 0);
    blk_pwrite(root, DISK / 2, 16384, buf, BLOCK_REQ_WRITE_COMPRESSED);
    root->node->driver->snapshot_create(root->node, &info, NULL);
    blk_pwrite(root, 3000, 5000, buf, 0);
    blk_pwrite_zeroes(root, 32768, 16384, 0);
    blk_flush(root);
    /* As a crash leaves it. */
    ok = g_file_get_contents(path, &seed->bytes, &seed->size, NULL);
    g_assert_true(ok);
    block_root_free(root);
}

static void clean_up(void)
{
    unlink(path);
    rmdir(dir);
}

static void begin(void)
{
    /* What the check prints is not for here; the sanitizers write past stdio. */
    FILE *quiet = fopen("/dev/null", "w");

    stderr = quiet ? quiet : stderr;
    loop = loop_new(NULL, NULL);
    graph = block_graph_new(loop, NULL);
    dir = g_dir_make_tmp("rhea-fuzz-XXXXXX", NULL);
    path = g_build_filename(dir, "image", NULL);
    atexit(clean_up);
    for (size_t i = 0; i < G_N_ELEMENTS(seeds); i++) {
        make_seed(&seeds[i]);
    }
}

typedef struct Checking {
    BlockChild *root;
    unsigned fix;
} Checking;

static void check_entry(void *opaque)
{
    Checking *c = opaque;
    BlockCheckResult result;

    c->root->node->driver->co_check(c->root->node, &result, c->fix, NULL);
}

static void read_all(BlockChild *root)
{
    static uint8_t buf[65536];
    uint64_t end = MIN(block_size(root), 4 * (uint64_t)DISK);

    for (uint64_t at = 0; at < end; at += sizeof(buf)) {
        BlockStatus st;

        blk_pread(root, at, MIN(sizeof(buf), end - at), buf, 0);
        blk_status(root->node, at, MIN(sizeof(buf), end - at), &st);
    }
}

static bool write_file(const char *bytes, gsize size)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    bool ok = fd >= 0 && write(fd, bytes, size) == (ssize_t)size;

    close(fd);
    return ok;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct Seed *seed;
    g_autofree char *image = NULL;
    uint8_t buf[1000] = { 1 };
    BlockChild *root;
    gsize length;

    if (!graph) {
        begin();
    }
    if (size < 2) {
        return 0;
    }
    seed = &seeds[data[0] % G_N_ELEMENTS(seeds)];
    length = data[1] & 0x80 ? seed->size * (data[1] & 0x7f) / 127 : seed->size;
    image = g_memdup2(seed->bytes, seed->size);
    /* Most changes fall on the header and the tables behind it. */
    for (size_t i = 2; i + 4 <= size && i < 200; i += 4) {
        uint32_t at = (uint32_t)data[i] << 8 | data[i + 1];

        at = data[i + 2] & 1 ? at % 256 : data[i + 2] & 2 ? at % 8192 : (at << 3) % (uint32_t)seed->size;
        image[at % seed->size] = (char)data[i + 3];
    }
    if (!write_file(image, length)) {
        return 0;
    }
    root = open_image(false, 0);
    if (root) {
        Checking c = { root, 0 };

        read_all(root);
        block_run(graph, check_entry, &c);
        block_root_free(root);
    }
    root = open_image(true, BLOCK_OPEN_CHECK);
    if (root) {
        Checking c = { root, BLOCK_FIX_ERRORS | BLOCK_FIX_LEAKS };

        block_run(graph, check_entry, &c);
        block_root_free(root);
    }
    if (!write_file(image, length)) {
        return 0;
    }
    root = open_image(true, 0);
    if (root) {
        for (uint64_t at = 0; at + 40000 < MIN(block_size(root), DISK); at += 30000) {
            blk_pwrite(root, at, sizeof(buf), buf, 0);
            blk_pdiscard(root, at + 8192, 8192);
        }
        blk_flush(root);
        read_all(root);
        root->node->driver->snapshot_delete(root->node, "1", NULL);
        block_root_free(root);
    }
    return 0;
}
