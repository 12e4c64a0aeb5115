/*
 * Replay of a qcow2 journal whose checksums are right and whose contents are not: numbers that go back or
 * leave gaps, records that lie anywhere, lengths that do not fit. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/graph/graph.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DISK    (256u << 10)
#define BLOCK   4096u
#define TX_MOST 12288u

static Loop *loop;
static BlockGraph *graph;
static char *dir, *path, *seed;
static gsize seed_size;
static uint64_t journal, journal_size;
static uint8_t uuid[16];

static BlockChild *open_image(unsigned flags)
{
    json_object *o = json_object_new_object();
    BlockNode *node;

    json_object_object_add(o, "driver", json_object_new_string("qcow2"));
    node = block_node_open_image(graph, path, o, flags, NULL);
    json_object_put(o);
    return node ? block_root_new(node, "fuzz", BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE, BLOCK_PERM_ALL,
                                 NULL, NULL, NULL)
                : NULL;
}

static uint64_t get64(const char *at)
{
    uint64_t value;

    memcpy(&value, at, 8);
    return GUINT64_FROM_BE(value);
}

static void put32(uint8_t *at, uint32_t value)
{
    value = GUINT32_TO_BE(value);
    memcpy(at, &value, 4);
}

static void put64(uint8_t *at, uint64_t value)
{
    value = GUINT64_TO_BE(value);
    memcpy(at, &value, 8);
}

static void clean_up(void)
{
    unlink(path);
    rmdir(dir);
}

/* An image as a crash leaves it; its extension names the journal (docs/formats/qcow2-journal.md). */
static void begin(void)
{
    json_object *o = json_object_new_object();
    g_autofree uint8_t *buf = g_malloc0(DISK);
    FILE *quiet = fopen("/dev/null", "w");
    BlockChild *root;

    stderr = quiet ? quiet : stderr;
    loop = loop_new(NULL, NULL);
    graph = block_graph_new(loop, NULL);
    dir = g_dir_make_tmp("rhea-fuzz-XXXXXX", NULL);
    path = g_build_filename(dir, "image", NULL);
    atexit(clean_up);
    json_object_object_add(o, "cluster_size", json_object_new_string("512"));
    json_object_object_add(o, "journal", json_object_new_string("on"));
    g_assert_true(block_image_create(graph, "qcow2", path, DISK, o, false, NULL));
    json_object_put(o);
    root = open_image(0);
    g_assert_nonnull(root);
    memset(buf, 0x55, DISK);
    for (uint32_t i = 0; i < 8; i++) {
        blk_pwrite(root, i * 20000, 3000, buf, 0);
        blk_flush(root);
    }
    g_assert_true(g_file_get_contents(path, &seed, &seed_size, NULL));
    block_root_free(root);
    for (gsize at = 104; at + 48 < 512 && !journal; at += 8) {
        if (memcmp(seed + at, "RJNL", 4) == 0) {
            journal = get64(seed + at + 16);
            journal_size = get64(seed + at + 24);
            memcpy(uuid, seed + at + 32, 16);
        }
    }
    g_assert_true(journal && journal_size >= 8 * BLOCK && journal + journal_size <= seed_size);
}

typedef struct Input {
    const uint8_t *data;
    size_t size;
} Input;

static uint8_t take(Input *in)
{
    if (!in->size) {
        return 0;
    }
    in->size--;
    return *in->data++;
}

static uint64_t take_offset(Input *in)
{
    uint8_t kind = take(in);
    uint64_t n = (uint64_t)take(in) << 8 | take(in);

    switch (kind % 8) {
    case 0:
        return UINT64_MAX - n;
    case 1:
        return journal - n;
    case 2:
        return journal + journal_size + n;
    case 3:
        return n << 48;
    default:
        return n * 8; /* the tables are in there */
    }
}

/* One transaction with a right checksum, at a block of the journal. */
static void add_transaction(Input *in, uint8_t *area, uint64_t *seq, uint64_t *block)
{
    static uint8_t tx[TX_MOST];
    uint32_t at = 64, records = take(in) % 6, length;
    uint8_t odd = take(in);

    memset(tx, 0, sizeof(tx));
    for (uint32_t i = 0; i < records; i++) {
        uint32_t bytes = take(in) * (odd & 1 ? 8u : 1u),
                 stated = odd & 2 && !take(in) ? UINT32_MAX - bytes : bytes;

        put64(tx + at, take_offset(in));
        put32(tx + at + 8, stated);
        put32(tx + at + 12, odd & 4 ? take(in) % 4 : 1 + (i & 1));
        at += 16;
        for (uint32_t n = 0; n < bytes; n++) {
            tx[at + n] = n < 16 ? take(in) : 0;
        }
        at += (bytes + 7) & ~7u;
    }
    *seq += odd & 8 ? take(in) % 4 : 1;
    length = odd & 16 ? MIN((uint32_t)take(in) * 16, (uint32_t)TX_MOST) : at;
    memcpy(tx, "RJTX", 4);
    put64(tx + 8, *seq);
    put64(tx + 16, odd & 32 ? *seq - take(in) % 16 : 1);
    put64(tx + 24, odd & 64 ? *seq - take(in) % 16 + 4 : 1);
    put32(tx + 32, length);
    put32(tx + 36, odd & 128 ? take(in) : records);
    put32(tx + 44, take(in));
    memcpy(tx + 48, uuid, 16);
    put32(tx + 40, (uint32_t)crc32_z(0, tx, length));
    if ((*block + (at + BLOCK - 1) / BLOCK) * BLOCK <= journal_size) {
        memcpy(area + *block * BLOCK, tx, MIN((uint64_t)TX_MOST, journal_size - *block * BLOCK));
        *block += (at + BLOCK - 1) / BLOCK;
    }
}

static void check_entry(void *opaque)
{
    BlockChild *root = opaque;
    BlockCheckResult result;

    root->node->driver->co_check(root->node, &result, BLOCK_FIX_ERRORS | BLOCK_FIX_LEAKS, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Input in = { data, size };
    g_autofree char *image = NULL;
    uint64_t seq = 0, block = 0;
    static uint8_t buf[DISK];

    if (!graph) {
        begin();
    }
    image = g_memdup2(seed, seed_size);
    memset(image + journal, 0, journal_size);
    for (int n = 1 + take(&in) % 12; n > 0; n--) {
        add_transaction(&in, (uint8_t *)image + journal, &seq, &block);
    }
    for (int check = 0; check < 2; check++) {
        BlockChild *root;

        if (!g_file_set_contents(path, image, (gssize)seed_size, NULL)) {
            return 0;
        }
        root = open_image(check ? BLOCK_OPEN_CHECK : 0);
        if (!root) {
            continue;
        }
        if (check) {
            block_run(graph, check_entry, root);
        } else {
            blk_pread(root, 0, MIN(block_size(root), sizeof(buf)), buf, 0);
            blk_pwrite(root, 40000, 10000, buf, 0);
            blk_flush(root);
            blk_pwrite(root, 42000, 10000, buf, 0);
            blk_pdiscard(root, 65536, 65536);
            blk_flush(root);
        }
        block_root_free(root);
    }
    return 0;
}
