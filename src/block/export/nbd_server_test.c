/*
 * The NBD server against a client that speaks the bytes of the protocol itself: negotiation, requests,
 * errors, and input that breaks the rules. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/export/nbd_server.h"

#include "base/error.h"
#include "block/export/nbd_proto.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SIZE (1u << 20)

static Loop *loop;
static BlockGraph *graph;
static NbdServer *server;
static BlockNode *node;
static NbdExport *exported;
static char *path;
static int client; /* the other end of a connection */

static void connect_client(void)
{
    int fds[2];
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), ==, 0);
    client = fds[0];
    nbd_server_add_client(server, fds[1]);
}

static void begin(bool writable)
{
    loop = loop_new(NULL, NULL);
    loop_make_current(loop);
    graph = block_graph_new(loop, NULL);
    server = nbd_server_new(graph);
    int fd = g_file_open_tmp("rhea-nbd-XXXXXX", &path, NULL);
    g_assert_cmpint(ftruncate(fd, SIZE), ==, 0);
    uint8_t block[65536];
    memset(block, 0x5a, sizeof(block));
    g_assert_cmpint(pwrite(fd, block, sizeof(block), 131072), ==, sizeof(block));
    close(fd);
    json_object *options = json_object_new_object();
    json_object_object_add(options, "driver", json_object_new_string("raw"));
    g_autoptr(GError) error = NULL;
    node = block_node_open_image(graph, path, options, 0, &error);
    g_assert_no_error(error);
    json_object_put(options);
    NbdExportOptions o = {
        .name = "disk", .description = "a disk", .writable = writable, .allocation_depth = true
    };
    exported = nbd_export_new(server, node, &o, &error);
    g_assert_no_error(error);
    connect_client();
}

static void end(void)
{
    close(client);
    nbd_server_free(server);
    block_graph_free(graph);
    loop_make_current(NULL);
    loop_free(loop);
    unlink(path);
    g_clear_pointer(&path, g_free);
}

static void put(const void *bytes, size_t size)
{
    const uint8_t *p = bytes;
    while (size > 0) {
        ssize_t n = send(client, p, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            loop_iterate(loop, false);
            continue;
        }
        if (n < 0) {
            return; /* the server had enough */
        }
        p += n;
        size -= (size_t)n;
    }
}

/* Exactly size bytes, or false at the end of the connection. */
static bool try_get(void *bytes, size_t size)
{
    uint8_t *p = bytes;
    gint64 deadline = g_get_monotonic_time() + 5000000;
    while (size > 0) {
        ssize_t n = recv(client, p, size, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN)) {
            return false;
        }
        if (n < 0) {
            g_assert_cmpint(g_get_monotonic_time(), <, deadline);
            loop_iterate(loop, false);
            continue;
        }
        p += n;
        size -= (size_t)n;
    }
    return true;
}

static void get(void *bytes, size_t size)
{
    g_assert_true(try_get(bytes, size));
}

static bool at_end(void)
{
    uint8_t byte;
    return !try_get(&byte, 1);
}

static void hello(uint32_t flags)
{
    uint8_t greeting[18], answer[4];
    get(greeting, sizeof(greeting));
    g_assert_cmpuint(nbd_get64(greeting), ==, NBD_MAGIC);
    g_assert_cmpuint(nbd_get64(greeting + 8), ==, NBD_OPTION_MAGIC);
    g_assert_cmpuint(nbd_get16(greeting + 16), ==, 3);
    nbd_put32(answer, flags);
    put(answer, sizeof(answer));
}

static void option(uint32_t number, const void *data, uint32_t length)
{
    uint8_t head[16] = { 0 };
    nbd_put64(head, NBD_OPTION_MAGIC);
    nbd_put32(head + 8, number);
    nbd_put32(head + 12, length);
    put(head, sizeof(head));
    put(data, length);
}

/* The type of the next reply; its data into buf. */
static uint32_t reply(uint32_t number, uint8_t *buf, size_t room, uint32_t *length)
{
    uint8_t head[20] = { 0 };
    get(head, sizeof(head));
    g_assert_cmpuint(nbd_get64(head), ==, NBD_OPTION_REPLY_MAGIC);
    g_assert_cmpuint(nbd_get32(head + 8), ==, number);
    *length = nbd_get32(head + 16);
    g_assert_cmpuint(*length, <=, room);
    get(buf, *length);
    return nbd_get32(head + 12);
}

static size_t name_data(uint8_t *data, const char *name)
{
    nbd_put32(data, (uint32_t)strlen(name));
    memcpy(data + 4, name, strlen(name));
    return 4 + strlen(name);
}

static void go(const char *contexts)
{
    uint8_t data[256], buf[512] = { 0 };
    uint32_t length;
    hello(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    if (contexts) {
        option(NBD_OPT_STRUCTURED_REPLY, NULL, 0);
        g_assert_cmpuint(reply(NBD_OPT_STRUCTURED_REPLY, buf, sizeof(buf), &length), ==, NBD_REP_ACK);
        size_t n = name_data(data, "disk");
        nbd_put32(data + n, 1);
        n += 4;
        n += name_data(data + n, contexts);
        option(NBD_OPT_SET_META_CONTEXT, data, (uint32_t)n);
        g_assert_cmpuint(reply(NBD_OPT_SET_META_CONTEXT, buf, sizeof(buf), &length), ==,
                         NBD_REP_META_CONTEXT);
        g_assert_cmpuint(reply(NBD_OPT_SET_META_CONTEXT, buf, sizeof(buf), &length), ==, NBD_REP_ACK);
    }
    size_t n = name_data(data, "disk");
    nbd_put16(data + n, 0);
    option(NBD_OPT_GO, data, (uint32_t)n + 2);
    uint32_t type;
    bool seen = false;
    while ((type = reply(NBD_OPT_GO, buf, sizeof(buf), &length)) == NBD_REP_INFO) {
        g_assert_cmpuint(length, >=, 2);
        if (nbd_get16(buf) == NBD_INFO_EXPORT) {
            seen = true;
            g_assert_cmpuint(nbd_get64(buf + 2), ==, SIZE);
        }
    }
    g_assert_cmpuint(type, ==, NBD_REP_ACK);
    g_assert_true(seen);
}

static void request(uint16_t flags, uint16_t type, uint64_t cookie, uint64_t offset, uint32_t length)
{
    uint8_t head[28] = { 0 };
    nbd_put32(head, NBD_REQUEST_MAGIC);
    nbd_put16(head + 4, flags);
    nbd_put16(head + 6, type);
    nbd_put64(head + 8, cookie);
    nbd_put64(head + 16, offset);
    nbd_put32(head + 24, length);
    put(head, sizeof(head));
}

static uint32_t simple_reply(uint64_t cookie)
{
    uint8_t head[16] = { 0 };
    get(head, sizeof(head));
    g_assert_cmpuint(nbd_get32(head), ==, NBD_SIMPLE_REPLY_MAGIC);
    g_assert_cmpuint(nbd_get64(head + 8), ==, cookie);
    return nbd_get32(head + 4);
}

/* ---- tests ---- */

static void test_negotiation(void)
{
    uint8_t buf[512], data[64];
    uint32_t length;
    begin(true);
    hello(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    option(NBD_OPT_LIST, NULL, 0);
    g_assert_cmpuint(reply(NBD_OPT_LIST, buf, sizeof(buf), &length), ==, NBD_REP_SERVER);
    g_assert_cmpuint(length, ==, 4 + 4 + 6);
    g_assert_cmpmem(buf + 4, 10, "diska disk", 10);
    g_assert_cmpuint(reply(NBD_OPT_LIST, buf, sizeof(buf), &length), ==, NBD_REP_ACK);
    option(NBD_OPT_LIST, "x", 1);
    g_assert_cmpuint(reply(NBD_OPT_LIST, buf, sizeof(buf), &length), ==, NBD_REP_ERR_INVALID);
    option(99, "x", 1);
    g_assert_cmpuint(reply(99, buf, sizeof(buf), &length), ==, NBD_REP_ERR_UNSUP);
    option(NBD_OPT_STARTTLS, NULL, 0);
    g_assert_cmpuint(reply(NBD_OPT_STARTTLS, buf, sizeof(buf), &length), ==, NBD_REP_ERR_POLICY);
    /* Contexts without structured replies; an export that is not there; a name that is longer than its
     * option. */
    size_t n = name_data(data, "disk");
    nbd_put32(data + n, 0);
    option(NBD_OPT_LIST_META_CONTEXT, data, (uint32_t)n + 4);
    g_assert_cmpuint(reply(NBD_OPT_LIST_META_CONTEXT, buf, sizeof(buf), &length), ==, NBD_REP_ERR_INVALID);
    n = name_data(data, "nothing");
    nbd_put16(data + n, 0);
    option(NBD_OPT_INFO, data, (uint32_t)n + 2);
    g_assert_cmpuint(reply(NBD_OPT_INFO, buf, sizeof(buf), &length), ==, NBD_REP_ERR_UNKNOWN);
    nbd_put32(data, 1000);
    option(NBD_OPT_GO, data, (uint32_t)n + 2);
    g_assert_cmpuint(reply(NBD_OPT_GO, buf, sizeof(buf), &length), ==, NBD_REP_ERR_INVALID);
    /* Too long, but skipped. */
    g_autofree uint8_t *big = g_malloc0(NBD_MAX_OPTION_DATA + 1);
    option(NBD_OPT_INFO, big, NBD_MAX_OPTION_DATA + 1);
    g_assert_cmpuint(reply(NBD_OPT_INFO, buf, sizeof(buf), &length), ==, NBD_REP_ERR_TOO_BIG);
    option(NBD_OPT_ABORT, NULL, 0);
    g_assert_cmpuint(reply(NBD_OPT_ABORT, buf, sizeof(buf), &length), ==, NBD_REP_ACK);
    g_assert_true(at_end());
    end();
}

static void test_export_name(void)
{
    uint8_t answer[134];
    begin(false);
    hello(0); /* not even fixed newstyle */
    option(NBD_OPT_EXPORT_NAME, "disk", 4);
    get(answer, sizeof(answer));
    g_assert_cmpuint(nbd_get64(answer), ==, SIZE);
    g_assert_true(nbd_get16(answer + 8) & NBD_FLAG_READ_ONLY);
    request(0, NBD_CMD_READ, 7, 131072, 4096);
    g_assert_cmpuint(simple_reply(7), ==, 0);
    uint8_t data[4096];
    get(data, sizeof(data));
    g_assert_cmpuint(data[0], ==, 0x5a);
    g_assert_cmpuint(data[4095], ==, 0x5a);
    /* What changes a read-only export is refused, with its data taken off the stream. */
    request(0, NBD_CMD_WRITE, 8, 0, sizeof(data));
    put(data, sizeof(data));
    g_assert_cmpuint(simple_reply(8), ==, NBD_EPERM);
    request(0, NBD_CMD_TRIM, 9, 0, 4096);
    g_assert_cmpuint(simple_reply(9), ==, NBD_EPERM);
    request(0, NBD_CMD_DISC, 10, 0, 0);
    g_assert_true(at_end());
    end();
}

static void test_requests(void)
{
    uint8_t data[8192], back[8192];
    begin(true);
    go(NULL);
    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)(i * 7);
    }
    request(NBD_CMD_FLAG_FUA, NBD_CMD_WRITE, 1, 1001, sizeof(data));
    put(data, sizeof(data));
    g_assert_cmpuint(simple_reply(1), ==, 0);
    request(0, NBD_CMD_READ, 2, 1001, sizeof(back));
    g_assert_cmpuint(simple_reply(2), ==, 0);
    get(back, sizeof(back));
    g_assert_cmpmem(data, sizeof(data), back, sizeof(back));
    request(0, NBD_CMD_WRITE_ZEROES, 3, 0, 65536);
    g_assert_cmpuint(simple_reply(3), ==, 0);
    request(0, NBD_CMD_READ, 4, 1001, 16);
    g_assert_cmpuint(simple_reply(4), ==, 0);
    get(back, 16);
    g_assert_true(block_buffer_is_zero(back, 16));
    request(0, NBD_CMD_FLUSH, 5, 0, 0);
    g_assert_cmpuint(simple_reply(5), ==, 0);
    request(0, NBD_CMD_TRIM, 6, 131072, 65536);
    g_assert_cmpuint(simple_reply(6), ==, 0);

    /* Behind the end, past 2^64, unknown commands and flags. */
    static const struct {
        uint16_t flags, type;
        uint64_t offset;
        uint32_t length, error;
    } bad[] = {
        { 0, NBD_CMD_READ, SIZE, 1, NBD_EINVAL },
        { 0, NBD_CMD_READ, SIZE - 1, 2, NBD_EINVAL },
        { 0, NBD_CMD_READ, UINT64_MAX, 2, NBD_EINVAL },
        { 0, NBD_CMD_WRITE_ZEROES, SIZE - 4096, 8192, NBD_ENOSPC },
        { 0, NBD_CMD_TRIM, UINT64_MAX - 1, UINT32_MAX, NBD_EINVAL },
        { 0, 77, 0, 0, NBD_EINVAL },
        { 0x8000, NBD_CMD_READ, 0, 512, NBD_EINVAL },
        { NBD_CMD_FLAG_DF, NBD_CMD_READ, 0, 512, NBD_EINVAL }, /* without structured replies */
        { 0, NBD_CMD_BLOCK_STATUS, 0, 512, NBD_EINVAL },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_test_message("bad request %zu", i);
        request(bad[i].flags, bad[i].type, 100 + i, bad[i].offset, bad[i].length);
        g_assert_cmpuint(simple_reply(100 + i), ==, bad[i].error);
    }
    request(0, NBD_CMD_WRITE, 200, SIZE - 4096, sizeof(data));
    put(data, sizeof(data));
    g_assert_cmpuint(simple_reply(200), ==, NBD_ENOSPC);
    /* More data than one request may have ends the connection. */
    request(0, NBD_CMD_WRITE, 201, 0, NBD_MAX_REQUEST + 1);
    g_assert_true(at_end());
    end();
}

static void test_pipelined(void)
{
    begin(true);
    go(NULL);
    /* All at once, answered in any order, each once. */
    enum { COUNT = 300 };
    for (unsigned i = 0; i < COUNT; i++) {
        request(0, NBD_CMD_READ, i, (i % 200) * 4096, 4096);
    }
    bool seen[COUNT] = { false };
    for (unsigned i = 0; i < COUNT; i++) {
        uint8_t head[16], data[4096];
        get(head, sizeof(head));
        get(data, sizeof(data));
        uint64_t cookie = nbd_get64(head + 8);
        g_assert_cmpuint(cookie, <, COUNT);
        g_assert_false(seen[cookie]);
        seen[cookie] = true;
        bool in_block = cookie % 200 * 4096 >= 131072 && cookie % 200 * 4096 < 196608;
        g_assert_cmpuint(data[0], ==, in_block ? 0x5a : 0);
    }
    end();
}

static void chunk(uint64_t cookie, uint16_t *flags, uint16_t *type, uint8_t *buf, size_t room,
                  uint32_t *length)
{
    uint8_t head[20] = { 0 };
    get(head, sizeof(head));
    g_assert_cmpuint(nbd_get32(head), ==, NBD_STRUCTURED_REPLY_MAGIC);
    g_assert_cmpuint(nbd_get64(head + 8), ==, cookie);
    *flags = nbd_get16(head + 4);
    *type = nbd_get16(head + 6);
    *length = nbd_get32(head + 16);
    g_assert_cmpuint(*length, <=, room);
    get(buf, *length);
}

static void test_structured(void)
{
    g_autofree uint8_t *buf = g_malloc(SIZE + 64);
    uint16_t flags, type;
    uint32_t length;
    begin(true);
    go("base:allocation");
    request(0, NBD_CMD_BLOCK_STATUS, 1, 0, SIZE);
    chunk(1, &flags, &type, buf, SIZE, &length);
    g_assert_cmpuint(type, ==, NBD_REPLY_TYPE_BLOCK_STATUS);
    g_assert_cmpuint(flags, ==, NBD_REPLY_FLAG_DONE);
    g_assert_cmpuint(nbd_get32(buf), ==, 0);
    uint64_t sum = 0, data = 0;
    for (uint32_t at = 4; at < length; at += 8) {
        sum += nbd_get32(buf + at);
        data += nbd_get32(buf + at + 4) == 0 ? nbd_get32(buf + at) : 0;
    }
    g_assert_cmpuint(sum, ==, SIZE);
    g_assert_cmpuint(data, >=, 65536); /* a file system may have larger blocks, or no holes */
    request(NBD_CMD_FLAG_REQ_ONE, NBD_CMD_BLOCK_STATUS, 2, 0, SIZE);
    chunk(2, &flags, &type, buf, SIZE, &length);
    g_assert_cmpuint(length, ==, 12);

    /* A long read, put together from data and holes. */
    g_autofree uint8_t *disk = g_malloc(SIZE);
    memset(disk, 0xee, SIZE);
    request(0, NBD_CMD_READ, 3, 0, SIZE);
    do {
        chunk(3, &flags, &type, buf, SIZE + 64, &length);
        uint64_t offset = nbd_get64(buf);
        if (type == NBD_REPLY_TYPE_OFFSET_HOLE) {
            memset(disk + offset, 0, nbd_get32(buf + 8));
        } else {
            g_assert_cmpuint(type, ==, NBD_REPLY_TYPE_OFFSET_DATA);
            memcpy(disk + offset, buf + 8, length - 8);
        }
    } while (!(flags & NBD_REPLY_FLAG_DONE));
    for (unsigned i = 0; i < SIZE; i++) {
        g_assert_cmpuint(disk[i], ==, i >= 131072 && i < 196608 ? 0x5a : 0);
    }
    /* Do not fragment: one piece. */
    request(NBD_CMD_FLAG_DF, NBD_CMD_READ, 4, 0, SIZE);
    chunk(4, &flags, &type, buf, SIZE + 64, &length);
    g_assert_cmpuint(type, ==, NBD_REPLY_TYPE_OFFSET_DATA);
    g_assert_cmpuint(length, ==, SIZE + 8);
    request(0, NBD_CMD_READ, 5, SIZE, 512);
    chunk(5, &flags, &type, buf, SIZE, &length);
    g_assert_cmpuint(type, ==, NBD_REPLY_TYPE_ERROR);
    g_assert_cmpuint(nbd_get32(buf), ==, NBD_EINVAL);
    end();
}

static void test_depth(void)
{
    g_autofree uint8_t *buf = g_malloc(SIZE);
    uint16_t flags, type;
    uint32_t length;
    begin(true);
    go("qemu:allocation-depth");
    request(0, NBD_CMD_BLOCK_STATUS, 1, 0, SIZE);
    chunk(1, &flags, &type, buf, SIZE, &length);
    g_assert_cmpuint(nbd_get32(buf), ==, 1);
    for (uint32_t at = 4; at < length; at += 8) {
        g_assert_cmpuint(nbd_get32(buf + at + 4), ==, 1);
    }
    end();
}

/* Bytes at random behind each stage: the server must neither crash nor keep the connection for ever. */
static void test_garbage(void)
{
    for (int round = 0; round < 200; round++) {
        begin(true);
        uint8_t junk[512];
        for (size_t i = 0; i < sizeof(junk); i++) {
            junk[i] = (uint8_t)g_test_rand_int();
        }
        if (round % 4 == 1) {
            hello(NBD_FLAG_FIXED_NEWSTYLE);
        } else if (round % 4 == 2) {
            go(NULL);
        } else if (round % 4 == 3) {
            go("base:allocation");
            for (int i = 0; i < 10; i++) { /* valid heads, wild fields; no data follows a write */
                request((uint16_t)(junk[i] & 31), (uint16_t)(junk[i + 16] % 9 == 1 ? 0 : junk[i + 16] % 9), i,
                        nbd_get64(junk + 32 + i) >> (junk[i] % 64),
                        nbd_get32(junk + 64 + i) >> (junk[i] % 32));
            }
        }
        put(junk, sizeof(junk));
        shutdown(client, SHUT_WR);
        uint8_t sink[4096];
        gint64 deadline = g_get_monotonic_time() + 5000000;
        while (nbd_server_clients(server) > 0) {
            g_assert_cmpint(g_get_monotonic_time(), <, deadline);
            loop_iterate(loop, false);
            while (recv(client, sink, sizeof(sink), 0) > 0) {}
        }
        end();
    }
}

static void test_exports(void)
{
    g_autoptr(GError) error = NULL;
    begin(true);
    NbdExportOptions same = { .name = "disk" };
    g_assert_null(nbd_export_new(server, node, &same, &error));
    g_assert_cmpstr(error->message, ==, "NBD server already has export named 'disk'");
    g_clear_error(&error);
    NbdExportOptions far = { .name = "far", .offset = SIZE + 1 };
    g_assert_null(nbd_export_new(server, node, &far, &error));
    g_assert_nonnull(error);
    g_clear_error(&error);
    const char *names[] = { "none", NULL };
    NbdExportOptions bitmap = { .name = "bitmap", .bitmaps = names };
    g_assert_null(nbd_export_new(server, node, &bitmap, &error));
    g_assert_cmpstr(error->message, ==, "Bitmap 'none' is not found");
    g_clear_error(&error);
    NbdExportOptions part = { .name = "part", .offset = 131072, .size = 65536 };
    NbdExport *second = nbd_export_new(server, node, &part, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(nbd_export_size(second), ==, 65536);
    /* An export that goes takes its clients with it. */
    go(NULL);
    nbd_export_free(exported);
    g_assert_null(nbd_export_find(server, "disk"));
    g_assert_true(at_end());
    end();
}

static unsigned gone;

static void count_gone(void *opaque)
{
    gone++;
}

static void test_clients(void)
{
    begin(true);
    nbd_server_set_client_hook(server, count_gone, NULL);
    go(NULL);
    g_assert_cmpuint(nbd_server_clients(server), ==, 1);
    close(client);
    while (nbd_server_clients(server) > 0) {
        loop_iterate(loop, true);
    }
    g_assert_cmpuint(gone, ==, 1);
    connect_client(); /* one that goes before it chose an export does not count */
    close(client);
    while (nbd_server_clients(server) > 0) {
        loop_iterate(loop, true);
    }
    g_assert_cmpuint(gone, ==, 1);
    connect_client();
    end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nbd-server/negotiation", test_negotiation);
    g_test_add_func("/nbd-server/export-name", test_export_name);
    g_test_add_func("/nbd-server/requests", test_requests);
    g_test_add_func("/nbd-server/pipelined", test_pipelined);
    g_test_add_func("/nbd-server/structured", test_structured);
    g_test_add_func("/nbd-server/depth", test_depth);
    g_test_add_func("/nbd-server/garbage", test_garbage);
    g_test_add_func("/nbd-server/exports", test_exports);
    g_test_add_func("/nbd-server/clients", test_clients);
    return g_test_run();
}
