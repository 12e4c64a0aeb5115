/*
 * What a client sends to the NBD server: bytes of any kind from the first one on, or options and requests
 * whose magic numbers are right and whose fields are not. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/export/nbd_proto.h"
#include "block/export/nbd_server.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SIZE     (1u << 20)
#define MOST     (256u << 10)
#define OUT_MOST (64u << 20)

static Loop *loop;
static BlockGraph *graph;
static NbdServer *server;
static char *path;

static void clean_up(void)
{
    unlink(path);
}

static void begin(void)
{
    json_object *options = json_object_new_object();
    NbdExportOptions o = { .name = "", .description = "a disk", .writable = true, .allocation_depth = true };
    BlockNode *node;
    int fd;

    loop = loop_new(NULL, NULL);
    loop_make_current(loop);
    graph = block_graph_new(loop, NULL);
    server = nbd_server_new(graph);
    fd = g_file_open_tmp("rhea-fuzz-XXXXXX", &path, NULL);
    g_assert_cmpint(ftruncate(fd, SIZE), ==, 0);
    close(fd);
    atexit(clean_up);
    json_object_object_add(options, "driver", json_object_new_string("raw"));
    node = block_node_open_image(graph, path, options, 0, NULL);
    json_object_put(options);
    g_assert_nonnull(node);
    g_assert_nonnull(nbd_export_new(server, node, &o, NULL));
}

static void add(GByteArray *out, const void *bytes, size_t size)
{
    g_byte_array_append(out, bytes, (guint)size);
}

static uint8_t take(const uint8_t **data, size_t *size)
{
    if (!*size) {
        return 0;
    }
    (*size)--;
    return *(*data)++;
}

static uint64_t take_number(const uint8_t **data, size_t *size)
{
    uint8_t kind = take(data, size);
    uint64_t n = (uint64_t)take(data, size) << 8 | take(data, size);

    switch (kind % 8) {
    case 0:
        return 0;
    case 1:
        return UINT64_MAX - n;
    case 2:
        return (uint64_t)INT64_MAX - n + 16;
    case 3:
        return SIZE - n % 512;
    case 4:
        return n << 32;
    case 5:
        return n << 9;
    default:
        return n;
    }
}

static void add_option(GByteArray *out, const uint8_t **data, size_t *size)
{
    uint8_t head[16], body[64] = { 0 };
    uint32_t length = take(data, size) % (sizeof(body) + 1);

    for (uint32_t i = 0; i < length; i++) {
        body[i] = take(data, size) & (i < 3 ? 0 : 0xff);
    }
    nbd_put64(head, NBD_OPTION_MAGIC);
    nbd_put32(head + 8, take(data, size) % 12);
    nbd_put32(head + 12, take(data, size) == 0 ? (uint32_t)take_number(data, size) : length);
    add(out, head, sizeof(head));
    add(out, body, length);
}

static void add_go(GByteArray *out, bool old)
{
    uint8_t go[16 + 6] = { 0 };

    nbd_put64(go, NBD_OPTION_MAGIC);
    nbd_put32(go + 8, old ? NBD_OPT_EXPORT_NAME : NBD_OPT_GO);
    nbd_put32(go + 12, old ? 0 : 6);
    add(out, go, old ? 16 : sizeof(go));
}

static void add_request(GByteArray *out, const uint8_t **data, size_t *size)
{
    static const uint8_t filling[4096] = { 1 };
    uint8_t head[28];
    uint16_t type = take(data, size) % 9;
    uint32_t length = (uint32_t)take_number(data, size);

    nbd_put32(head, NBD_REQUEST_MAGIC);
    nbd_put16(head + 4, take(data, size) & 0x1f);
    nbd_put16(head + 6, type);
    nbd_put64(head + 8, out->len);
    nbd_put64(head + 16, take_number(data, size));
    nbd_put32(head + 24, length);
    add(out, head, sizeof(head));
    if (type == NBD_CMD_WRITE) { /* all of it, or less than was promised */
        for (uint32_t left = MIN(length, 65536); left;) {
            uint32_t n = MIN(left, (uint32_t)sizeof(filling));

            add(out, filling, n);
            left -= n;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    static const uint8_t plain_flags[4] = { 0, 0, 0, 3 };
    uint8_t mode, waste[65536];
    uint64_t got = 0;
    size_t sent = 0;
    int fds[2];
    bool open = true;

    if (!graph) {
        begin();
    }
    mode = take(&data, &size);
    if (mode % 4) {
        add(out, plain_flags, sizeof(plain_flags));
        for (int i = mode >> 2 & 3; i > 0; i--) {
            add_option(out, &data, &size);
        }
        add_go(out, mode & 0x80);
        while (size && out->len < MOST) {
            add_request(out, &data, &size);
        }
    } else {
        add(out, data, size);
    }
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), ==, 0);
    nbd_server_add_client(server, fds[1]);
    while (nbd_server_clients(server)) {
        if (open && sent < out->len) {
            ssize_t n = send(fds[0], out->data + sent, out->len - sent, MSG_NOSIGNAL);

            sent = n > 0 ? sent + (size_t)n : n < 0 && errno != EAGAIN ? out->len : sent;
        }
        if (open && sent == out->len) {
            shutdown(fds[0], SHUT_WR);
            open = false;
        }
        for (ssize_t n; got < OUT_MOST && (n = recv(fds[0], waste, sizeof(waste), 0)) > 0;) {
            got += (uint64_t)n;
        }
        if (got >= OUT_MOST) { /* enough was answered: the client goes away without a word */
            shutdown(fds[0], SHUT_RDWR);
        }
        loop_iterate(loop, false);
    }
    close(fds[0]);
    return 0;
}
