/*
 * Images of the small formats with bytes of their headers and tables changed: probed, opened, read and, where
 * that is possible, written to. The seeds are images that the drivers make themselves, and made-up ones of
 * the formats that are only read. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/formats/blocks.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DISK (4u << 20)

static Loop *loop;
static BlockGraph *graph;
static char *dir, *path;
static struct Seed {
    const char *format, *option, *value;
    char *bytes;
    gsize size, hot; /* hot: bytes of header and tables */
} seeds[] = {
    { "vdi", NULL, NULL, NULL, 0, 1024 },          { "vpc", NULL, NULL, NULL, 0, 2048 },
    { "vpc", "subformat", "fixed", NULL, 0, 512 }, { "parallels", "cluster_size", "65536", NULL, 0, 512 },
    { "qcow", NULL, NULL, NULL, 0, 8192 },         { "qed", "cluster_size", "4096", NULL, 0, 20480 },
    { "bochs", NULL, NULL, NULL, 0, 2048 },        { "vhdx", "log_size", "1048576", NULL, 0, 4u << 20 },
    { "cloop", NULL, NULL, NULL, 0, 400 },         { "vmdk", NULL, NULL, NULL, 0, 16384 },
    { "dmg", "fork", NULL, NULL, 0, 700 },         { "dmg", "list", NULL, NULL, 0, 700 }
};

static BlockChild *open_image(const char *format, bool write)
{
    json_object *o = json_object_new_object();
    BlockNode *node;

    if (format) {
        json_object_object_add(o, "driver", json_object_new_string(format));
    }
    json_object_object_add(o, "read-only", json_object_new_boolean(!write));
    node = block_node_open_image(graph, path, o, BLOCK_OPEN_NO_BACKING, NULL);
    json_object_put(o);
    return node ? block_root_new(node, "fuzz", BLOCK_PERM_CONSISTENT_READ | (write ? BLOCK_PERM_WRITE : 0),
                                 BLOCK_PERM_ALL, NULL, NULL, NULL)
                : NULL;
}

static void make_bochs(struct Seed *seed)
{
    uint8_t *p;

    seed->size = 512 + 16 + 512 + 65536;
    seed->bytes = g_malloc0(seed->size);
    p = (uint8_t *)seed->bytes;
    memcpy(p, "Bochs Virtual HD Image", 22);
    memcpy(p + 32, "Redolog", 7);
    memcpy(p + 48, "Growing", 7);
    blocks_put_le32(p + 64, 0x00020000);
    blocks_put_le32(p + 68, 512);
    blocks_put_le32(p + 72, 4);
    blocks_put_le32(p + 76, 512);
    blocks_put_le32(p + 80, 65536);
    blocks_put_le64(p + 88, 4 * 65536);
    memset(p + 512, 0xff, 12);
    p[528] = 0x55;
}

static void make_cloop(struct Seed *seed)
{
    uint8_t plain[4096] = { 1, 2, 3 }, packed[4200];
    uLongf bytes = sizeof(packed);
    uint8_t *p;

    compress(packed, &bytes, plain, sizeof(plain));
    seed->size = 136 + 3 * 8 + 2 * bytes;
    seed->bytes = g_malloc0(seed->size);
    p = (uint8_t *)seed->bytes;
    memcpy(p, "#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n", 84);
    blocks_put_be32(p + 128, 4096);
    blocks_put_be32(p + 132, 2);
    for (uint64_t i = 0; i < 3; i++) {
        blocks_put_be64(p + 136 + i * 8, 160 + i * bytes);
    }
    memcpy(p + 160, packed, bytes);
    memcpy(p + 160 + bytes, packed, bytes);
}

static void put_chunk(uint8_t *p, uint32_t type, uint64_t sector, uint64_t sectors, uint64_t at,
                      uint64_t bytes)
{
    blocks_put_be32(p, type);
    blocks_put_be64(p + 8, sector);
    blocks_put_be64(p + 16, sectors);
    blocks_put_be64(p + 24, at);
    blocks_put_be64(p + 32, bytes);
}

/* The tables first, so that they are changed most: a resource fork, or a property list; then data; the
 * trailer. */
static void make_dmg(struct Seed *seed)
{
    enum { TABLE = 204 + 5 * 40, LISTS = 1024, PLAIN = 4096 };
    bool list = strcmp(seed->option, "list") == 0;
    uint8_t plain[PLAIN] = { 1, 2, 3 }, table[TABLE] = "mish", *p, *t;
    g_autofree char *text = NULL, *xml = NULL;
    uLongf bytes = 2048;

    seed->size = LISTS + PLAIN + 2048 + 512;
    seed->bytes = g_malloc0(seed->size);
    p = (uint8_t *)seed->bytes;
    memcpy(p + LISTS, plain, PLAIN);
    compress(p + LISTS + PLAIN, &bytes, plain, PLAIN);
    blocks_put_be32(table + 200, 5);
    put_chunk(table + 204, 1, 0, 8, LISTS, PLAIN);
    put_chunk(table + 244, 0x80000005, 8, 8, LISTS + PLAIN, bytes);
    put_chunk(table + 284, 0, 16, 8, 0, 0);
    put_chunk(table + 324, 0x80000005, 24, 8, LISTS + PLAIN, bytes);
    put_chunk(table + 364, 0xffffffff, 32, 0, 0, 0);
    t = p + seed->size - 512;
    memcpy(t, "koly", 4);
    if (list) {
        text = g_base64_encode(table, sizeof(table));
        xml = g_strdup_printf("<data>%s</data>", text);
        memcpy(p, xml, strlen(xml));
        blocks_put_be64(t + 224, strlen(xml));
        return;
    }
    blocks_put_be32(p, 16);
    blocks_put_be32(p + 8, 4 + TABLE);
    blocks_put_be32(p + 16, TABLE);
    memcpy(p + 20, table, TABLE);
    blocks_put_be64(t + 48, 20 + TABLE);
}

static void make_seed(struct Seed *seed)
{
    json_object *o = json_object_new_object();
    uint8_t buf[5000];
    BlockChild *root;
    bool ok;

    if (seed->option) {
        json_object_object_add(o, seed->option, json_object_new_string(seed->value));
    }
    ok = block_image_create(graph, seed->format, path, DISK, o, false, NULL);
    g_assert_true(ok);
    json_object_put(o);
    root = open_image(seed->format, true);
    g_assert_nonnull(root);
    memset(buf, 0x55, sizeof(buf));
    blk_pwrite(root, 1000, sizeof(buf), buf, 0);
    blk_pwrite(root, DISK / 2, sizeof(buf), buf, 0);
    block_root_free(root);
    ok = g_file_get_contents(path, &seed->bytes, &seed->size, NULL);
    g_assert_true(ok);
}

static void clean_up(void)
{
    unlink(path);
    rmdir(dir);
}

static void begin(void)
{
    FILE *quiet = fopen("/dev/null", "w");

    stderr = quiet ? quiet : stderr;
    loop = loop_new(NULL, NULL);
    graph = block_graph_new(loop, NULL);
    dir = g_dir_make_tmp("rhea-fuzz-XXXXXX", NULL);
    path = g_build_filename(dir, "image", NULL);
    atexit(clean_up);
    for (size_t i = 0; i < G_N_ELEMENTS(seeds); i++) {
        if (strcmp(seeds[i].format, "bochs") == 0) {
            make_bochs(&seeds[i]);
        } else if (strcmp(seeds[i].format, "cloop") == 0) {
            make_cloop(&seeds[i]);
        } else if (strcmp(seeds[i].format, "dmg") == 0) {
            make_dmg(&seeds[i]);
        } else {
            make_seed(&seeds[i]);
        }
    }
}

static void read_some(BlockChild *root)
{
    static uint8_t buf[70000];
    uint64_t size = block_size(root),
             ends[] = { 0, DISK / 2, size / 2, size > sizeof(buf) ? size - sizeof(buf) : 0 };

    for (size_t i = 0; i < G_N_ELEMENTS(ends); i++) {
        BlockStatus st;

        if (ends[i] < size) {
            blk_pread(root, ends[i], MIN(sizeof(buf), size - ends[i]), buf, 0);
            blk_status(root->node, ends[i], MIN(sizeof(buf), size - ends[i]), &st);
        }
    }
}

/* ---- vhdx: what is covered by a checksum must have a right one, or nothing behind it is reached ---- */

static uint32_t crc32c(const uint8_t *p, size_t size)
{
    uint32_t crc = 0xffffffffu;

    for (size_t i = 0; i < size; i++) {
        crc ^= i >= 4 && i < 8 ? 0 : p[i];
        for (int k = 0; k < 8; k++) {
            crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
        }
    }
    return ~crc;
}

static void mutate_vhdx(uint8_t *image, size_t image_size, const uint8_t *data, size_t size)
{
    static const uint32_t places[] = { 65536,  131072, 196608, 262144, 1 << 20, 2 << 20, (2 << 20) + 65536,
                                       3 << 20 };
    static const struct {
        uint32_t at, bytes;
    } sums[] = { { 65536, 4096 }, { 131072, 4096 }, { 196608, 65536 }, { 262144, 65536 }, { 1 << 20, 8192 } };

    if (data[1] & 1) { /* a log that holds something */
        memcpy(image + 65536 + 48, image + (1 << 20) + 32, 16);
        memcpy(image + 131072 + 48, image + (1 << 20) + 32, 16);
    }
    for (size_t i = 2; i + 3 <= size && i < 60; i += 3) {
        image[places[data[i] & 7] + (data[i] & 8 ? data[i + 1] / 4 : data[i + 1])] = data[i + 2];
    }
    for (size_t i = 0; i < G_N_ELEMENTS(sums); i++) {
        blocks_put_le32(image + sums[i].at + 4, crc32c(image + sums[i].at, sums[i].bytes));
    }
}

static void check_entry(void *opaque)
{
    BlockNode *node = opaque;
    BlockCheckResult result = { 0 };

    node->driver->co_check(node, &result, node->read_only ? 0 : BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct Seed *seed;
    g_autofree char *image = NULL;
    uint8_t buf[3000] = { 1 };
    BlockChild *root;
    gsize length;
    int fd;

    if (!graph) {
        begin();
    }
    if (size < 2) {
        return 0;
    }
    seed = &seeds[data[0] % G_N_ELEMENTS(seeds)];
    length = data[1] & 0x80 ? seed->size * (data[1] & 0x7f) / 127 : seed->size;
    image = g_memdup2(seed->bytes, seed->size);
    if (strcmp(seed->format, "vhdx") == 0) {
        mutate_vhdx((uint8_t *)image, seed->size, data, size);
        size = 0;
    }
    for (size_t i = 2; i + 3 <= size && i < 60; i += 3) {
        size_t at = ((size_t)data[i] << 8 | data[i + 1]) % seed->hot;

        /* The header most; a footer, where there is one, sometimes. */
        at = data[i] & 0x80                       ? at % 128
             : data[i] & 0x40 && seed->size > 512 ? seed->size - 512 + at % 512
                                                  : at;
        image[at % seed->size] = (char)data[i + 2];
    }
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, image, length) != (ssize_t)length) {
        return 0;
    }
    close(fd);
    root = open_image(seed->format, false);
    if (root) {
        read_some(root);
        block_root_free(root);
    }
    root = open_image(NULL, false); /* whatever it looks like */
    if (root) {
        block_root_free(root);
    }
    root = open_image(seed->format, true);
    if (root) {
        if (!root->node->read_only) {
            for (uint64_t at = 0; at + sizeof(buf) < MIN(block_size(root), DISK); at += 300000) {
                blk_pwrite(root, at, sizeof(buf), buf, 0);
            }
            blk_flush(root);
        }
        read_some(root);
        if (root->node->driver->co_check) {
            block_run(graph, check_entry, root->node);
        }
        block_root_free(root);
    }
    return 0;
}
