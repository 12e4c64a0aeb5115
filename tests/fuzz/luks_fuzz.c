/*
 * LUKS headers with bytes changed: decoded, opened with and without the password, read, and given back. A
 * header that asks for much work is looked at only, as it should be slow. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "block/formats/crypto/luks.h"
#include "block/graph/graph.h"
#include "object/object.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Loop *loop;
static BlockGraph *graph;
static Object *objects;
static char *dir, *path;
static char *seeds[2];
static gsize seed_bytes[2];

static void clean_up(void)
{
    unlink(path);
    rmdir(dir);
}

static BlockNode *open_image(bool qcow2, bool key, unsigned flags)
{
    json_object *o = json_object_new_object();
    BlockNode *node;

    json_object_object_add(o, "driver", json_object_new_string(qcow2 ? "qcow2" : "luks"));
    json_object_object_add(o, "read-only", json_object_new_boolean(true));
    if (key) {
        json_object_object_add(o, qcow2 ? "encrypt.key-secret" : "key-secret", json_object_new_string("s"));
    }
    node = block_node_open_image(graph, path, o, flags | BLOCK_OPEN_NO_BACKING, NULL);
    json_object_put(o);
    return node;
}

static void begin(void)
{
    static const char *const drivers[] = { "luks", "qcow2" };
    FILE *quiet = fopen("/dev/null", "w");

    stderr = quiet ? quiet : stderr;
    loop = loop_new(NULL, NULL);
    objects = object_new(TYPE_CONTAINER, NULL);
    graph = block_graph_new(loop, NULL);
    block_graph_set_objects(graph, objects);
    user_creatable_add_text(objects, "secret,id=s,data=open", NULL);
    dir = g_dir_make_tmp("rhea-fuzz-XXXXXX", NULL);
    path = g_build_filename(dir, "image", NULL);
    atexit(clean_up);
    for (int i = 0; i < 2; i++) {
        json_object *o = json_object_new_object();
        bool ok;

        json_object_object_add(o, i ? "encrypt.key-secret" : "key-secret", json_object_new_string("s"));
        json_object_object_add(o, i ? "encrypt.iter-time" : "iter-time", json_object_new_string("1"));
        json_object_object_add(o, i ? "encrypt.cipher-alg" : "cipher-alg", json_object_new_string("aes-128"));
        if (i) {
            json_object_object_add(o, "encrypt.format", json_object_new_string("luks"));
            json_object_object_add(o, "cluster_size", json_object_new_string("512"));
        }
        ok = block_image_create(graph, drivers[i], path, 4096, o, false, NULL) &&
             g_file_get_contents(path, &seeds[i], &seed_bytes[i], NULL);
        g_assert_true(ok);
        json_object_put(o);
    }
}

/* Whether trying passwords takes longer than fuzzing has. */
static bool slow(const uint8_t *header)
{
    LuksHeader h;

    if (!luks_header_decode(&h, header, NULL)) {
        return false;
    }
    for (uint32_t i = 0; i < LUKS_SLOTS; i++) {
        if (h.slots[i].active && (h.slots[i].iterations > 5000 || i)) {
            return true;
        }
    }
    return h.digest_iterations > 5000;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t buf[4096];
    g_autofree char *image = NULL;
    uint8_t header[LUKS_HEADER_BYTES] = { 0 };
    size_t base, length;
    BlockNode *node;
    bool qcow2;
    int fd;

    if (!graph) {
        begin();
    }
    if (size < 2) {
        return 0;
    }
    qcow2 = data[0] & 1;
    length = data[1] & 0x80 ? seed_bytes[qcow2] * (data[1] & 0x7f) / 127 : seed_bytes[qcow2];
    image = g_memdup2(seeds[qcow2], seed_bytes[qcow2]);
    /* The header lies at the beginning, or in its clusters. */
    base = qcow2 ? (size_t)((char *)memmem(image, seed_bytes[1], "LUKS\xba\xbe", 6) - image) : 0;
    for (size_t i = 2; i + 3 <= size && i < 100; i += 3) {
        size_t at = ((size_t)data[i] << 8 | data[i + 1]) % LUKS_HEADER_BYTES;

        image[qcow2 && data[i] & 0x80 ? at % 128 : base + at] = (char)data[i + 2];
    }
    if (length > base) {
        memcpy(header, image + base, MIN(sizeof(header), length - base));
    }
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, image, length) != (ssize_t)length) {
        return 0;
    }
    close(fd);
    node = open_image(qcow2, false, BLOCK_OPEN_NO_IO);
    if (node) {
        BlockChild *root = block_root_new(node, "fuzz", 0, BLOCK_PERM_ALL, NULL, NULL, NULL);

        json_object_put(block_node_specific_info(node));
        block_root_free(root);
    }
    node = slow(header) ? NULL : open_image(qcow2, true, 0);
    if (node) {
        BlockChild *root =
            block_root_new(node, "fuzz", BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL, NULL, NULL, NULL);

        for (uint64_t at = 0; at < MIN(block_size(root), 65536); at += sizeof(buf)) {
            blk_pread(root, at, MIN(sizeof(buf), block_size(root) - at), buf, 0);
        }
        block_root_free(root);
    }
    return 0;
}
