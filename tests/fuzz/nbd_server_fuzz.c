/*
 * What a client sends to the NBD server: bytes of any kind from the first one on, or options and requests
 * whose magic numbers are right and whose fields are not. Sometimes to a server that wants TLS: then the same
 * comes after a handshake, inside of it, or in its place. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/export/nbd_proto.h"
#include "block/export/nbd_server.h"
#include "object/object.h"

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
static NbdServer *server, *tls_server;
static TlsCreds *client_creds;
static char *path;

static void clean_up(void)
{
    unlink(path);
}

/* The clear part of a connection with TLS, as far as the bytes that start it. */
static const uint8_t start_tls[20] = { 0,   0,   0,   3,   'I', 'H', 'A', 'V',
                                       'E', 'O', 'P', 'T', 0,   0,   0,   NBD_OPT_STARTTLS };

static void begin_tls(BlockNode *node, const NbdExportOptions *o)
{
    Object *objects = object_new(TYPE_CONTAINER, NULL);
    bool ok = user_creatable_add_text(objects, "tls-creds-anon,id=s,endpoint=server,verify-peer=off", NULL) &&
              user_creatable_add_text(objects, "tls-creds-anon,id=c,endpoint=client,verify-peer=off", NULL);

    block_graph_set_objects(graph, objects);
    client_creds = ok ? tls_creds_find(objects, "c", false, NULL) : NULL;
    tls_server = nbd_server_new(graph);
    ok = client_creds &&
         nbd_server_set_tls(tls_server, tls_creds_find(objects, "s", true, NULL), NULL, NULL) &&
         nbd_export_new(tls_server, node, o, NULL);
    g_assert_true(ok);
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
    o.shared = true;
    begin_tls(node, &o);
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

typedef struct Client {
    int fd;
    TlsSession *tls; /* NULL: in the clear */
    bool open, wait; /* not done with sending; the handshake goes on */
    const uint8_t *out;
    size_t size, sent;
    uint64_t got;
} Client;

/* Sends what goes, reads what came. */
static void client_step(Client *c)
{
    static uint8_t waste[65536];
    bool wants_write;
    ssize_t n;

    if (c->wait) {
        int done = tls_handshake(c->tls, &wants_write, NULL);

        c->wait = done == 0;
        if (done < 0) {
            shutdown(c->fd, SHUT_RDWR);
            c->open = false;
        }
        return;
    }
    if (c->open && c->sent < c->size) {
        struct iovec iov = { (void *)(c->out + c->sent), c->size - c->sent };

        n = c->tls ? tls_sendv(c->tls, &iov, 1) : send(c->fd, iov.iov_base, iov.iov_len, MSG_NOSIGNAL);
        if (n < 0 && !c->tls) {
            n = -errno;
        }
        c->sent = n > 0 ? c->sent + (size_t)n : n != -EAGAIN ? c->size : c->sent;
    }
    if (c->open && c->sent == c->size) {
        shutdown(c->fd, SHUT_WR);
        c->open = false;
    }
    while (c->got < OUT_MOST &&
           (n = c->tls ? tls_recv(c->tls, waste, sizeof(waste)) : recv(c->fd, waste, sizeof(waste), 0)) > 0) {
        c->got += (uint64_t)n;
    }
    if (c->got >= OUT_MOST) { /* enough was answered: the client goes away without a word */
        shutdown(c->fd, SHUT_RDWR);
    }
}

/* Asks for TLS, and takes the server's greeting and its answer, all in the clear. */
static bool greet(int fd)
{
    uint8_t buf[18 + 20];
    size_t got = 0;

    if (send(fd, start_tls, sizeof(start_tls), MSG_NOSIGNAL) != (ssize_t)sizeof(start_tls)) {
        return false;
    }
    for (int i = 0; i < 1000 && got < sizeof(buf); i++) {
        ssize_t n = recv(fd, buf + got, sizeof(buf) - got, 0);

        got += n > 0 ? (size_t)n : 0;
        loop_iterate(loop, false);
    }
    return got == sizeof(buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    static const uint8_t plain_flags[4] = { 0, 0, 0, 3 };
    Client c = { .open = true };
    NbdServer *to;
    uint8_t mode, tls;
    int fds[2];

    if (!graph) {
        begin();
    }
    mode = take(&data, &size);
    tls = mode & 0x40 ? take(&data, &size) : 255;
    to = tls < 96 ? tls_server : server; /* under 32: with a handshake */
    if (tls >= 32 && tls < 64) {         /* anything where the handshake should be */
        add(out, start_tls, sizeof(start_tls));
    }
    if (mode % 4) {
        if (tls >= 32) {
            add(out, plain_flags, sizeof(plain_flags));
        }
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
    nbd_server_add_client(to, fds[1]);
    c.fd = fds[0];
    c.out = out->data;
    c.size = out->len;
    if (tls < 32 && greet(c.fd)) {
        c.tls = tls_session_new(client_creds, c.fd, NULL, NULL);
        c.wait = c.tls != NULL;
    }
    while (nbd_server_clients(to)) {
        client_step(&c);
        loop_iterate(loop, false);
    }
    if (c.tls) {
        tls_session_free(c.tls);
    }
    close(c.fd);
    return 0;
}
