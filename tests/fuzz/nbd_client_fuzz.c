/*
 * What a server sends to the NBD client: the right greeting and answers with fields that are not, then
 * replies to requests; or bytes of any kind from some point on. What the server says of its disk (size, block
 * sizes, flags) and of its extents must not bring the client down. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "block/export/nbd_proto.h"
#include "block/graph/graph.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MOST (128u << 10) /* less than a socket takes without a reader */

static Loop *loop;
static BlockGraph *graph;

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

static void add(GByteArray *out, const void *bytes, size_t size)
{
    g_byte_array_append(out, bytes, (guint)size);
}

static void option_reply(GByteArray *out, uint32_t option, uint32_t type, const void *data, uint32_t length)
{
    uint8_t head[20];

    nbd_put64(head, NBD_OPTION_REPLY_MAGIC);
    nbd_put32(head + 8, option);
    nbd_put32(head + 12, type);
    nbd_put32(head + 16, length);
    add(out, head, sizeof(head));
    add(out, data, length);
}

/* A number near what is allowed, or far from it. */
static uint64_t odd_number(Input *in)
{
    static const uint64_t some[] = {
        0, 1, 511, 512, 4096, 1u << 20, UINT32_MAX, INT64_MAX, UINT64_MAX, UINT64_C(1) << 62, (1u << 20) - 1
    };
    uint8_t n = take(in);

    return n < 128 ? 1u << 20 : some[n % G_N_ELEMENTS(some)];
}

static void negotiation(GByteArray *out, Input *in)
{
    uint8_t hello[18], context[4 + 32], info[14];
    static const char name[] = "base:allocation";
    uint8_t how = take(in);

    nbd_put64(hello, NBD_MAGIC);
    nbd_put64(hello + 8, NBD_OPTION_MAGIC);
    nbd_put16(hello + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    add(out, hello, sizeof(hello));
    option_reply(out, NBD_OPT_STRUCTURED_REPLY, how & 1 ? NBD_REP_ERR_UNSUP : NBD_REP_ACK, NULL, 0);
    if (!(how & 1)) {
        nbd_put32(context, take(in) < 200 ? 0 : take(in));
        memcpy(context + 4, name, sizeof(name) - 1);
        option_reply(out, NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT, context, 4 + sizeof(name) - 1);
        option_reply(out, NBD_OPT_SET_META_CONTEXT, how & 2 ? NBD_REP_ERR_INVALID : NBD_REP_ACK, NULL, 0);
    }
    if (how & 4) {
        nbd_put16(info, NBD_INFO_BLOCK_SIZE);
        nbd_put32(info + 2, (uint32_t)odd_number(in));
        nbd_put32(info + 6, (uint32_t)odd_number(in));
        nbd_put32(info + 10, (uint32_t)odd_number(in));
        option_reply(out, NBD_OPT_GO, NBD_REP_INFO, info, 14);
    }
    nbd_put16(info, NBD_INFO_EXPORT);
    nbd_put64(info + 2, odd_number(in));
    nbd_put16(info + 10, (uint16_t)(take(in) << 8 | take(in)) | (how & 8 ? 0 : NBD_FLAG_HAS_FLAGS));
    option_reply(out, NBD_OPT_GO, NBD_REP_INFO, info, 12);
    option_reply(out, NBD_OPT_GO, NBD_REP_ACK, NULL, 0);
}

/* Requests are numbered from 1 on. */
static void replies(GByteArray *out, Input *in)
{
    uint8_t head[48] = { 0 };

    for (uint64_t cookie = 1; cookie < 16 && out->len < MOST; cookie++) {
        uint8_t kind = take(in);
        uint32_t length = kind & 8 ? 4096 : 512;

        if (kind & 1) { /* a simple one, with data or without */
            nbd_put32(head, NBD_SIMPLE_REPLY_MAGIC);
            nbd_put32(head + 4, kind & 2 ? take(in) : 0);
            nbd_put64(head + 8, cookie);
            add(out, head, 16);
            if (kind & 4) {
                g_byte_array_set_size(out, out->len + length);
            }
            continue;
        }
        nbd_put32(head, NBD_STRUCTURED_REPLY_MAGIC);
        nbd_put16(head + 4, kind & 16 ? 0 : NBD_REPLY_FLAG_DONE);
        nbd_put64(head + 8, cookie);
        if (kind & 2) { /* extents */
            uint32_t count = kind & 32 ? take(in) : 1;

            nbd_put16(head + 6, NBD_REPLY_TYPE_BLOCK_STATUS);
            nbd_put32(head + 16, 4 + 8 * count);
            add(out, head, 24);
            for (uint32_t i = 0; i < count; i++) {
                nbd_put32(head + 24, (uint32_t)odd_number(in));
                nbd_put32(head + 28, take(in));
                add(out, head + 24, 8);
            }
        } else if (kind & 4) {
            nbd_put16(head + 6, NBD_REPLY_TYPE_OFFSET_DATA);
            nbd_put32(head + 16, 8 + length);
            nbd_put64(head + 20, kind & 64 ? odd_number(in) : 0);
            add(out, head, 28);
            g_byte_array_set_size(out, out->len + length);
        } else {
            nbd_put16(head + 6, kind & 32 ? NBD_REPLY_TYPE_OFFSET_HOLE : NBD_REPLY_TYPE_NONE);
            nbd_put32(head + 16, kind & 32 ? 12 : 0);
            nbd_put64(head + 20, 0);
            nbd_put32(head + 28, kind & 64 ? (uint32_t)odd_number(in) : length);
            add(out, head, kind & 32 ? 32 : 20);
        }
    }
}

static void use(BlockChild *root, uint8_t what)
{
    static uint8_t buf[4096];
    uint64_t size = block_size(root), offset = what & 1 && size > 4096 ? size - 4096 : 0;
    uint64_t bytes = MIN(what & 2 ? 4096 : 512, size);
    BlockStatus st;

    blk_pread(root, offset, bytes, buf, 0);
    blk_status(root->node, offset, MIN(size, 1u << 30), &st);
    if (!root->node->read_only) {
        blk_pwrite(root, offset, bytes, buf, what & 4 ? BLOCK_REQ_FUA : 0);
        blk_pwrite_zeroes(root, offset, bytes, what & 8 ? BLOCK_REQ_MAY_UNMAP : 0);
        blk_pdiscard(root, offset, bytes);
        blk_flush(root);
    }
    blk_status_above(root->node, NULL, 0, size, &st);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    g_autofree char *number = NULL;
    Input in = { data, size };
    uint8_t plan = take(&in), what = take(&in);
    json_object *o, *server;
    BlockChild *root;
    BlockNode *node;
    int fds[2];

    if (!graph) {
        loop = loop_new(NULL, NULL);
        loop_make_current(loop);
        graph = block_graph_new(loop, NULL);
    }
    negotiation(out, &in);
    if (plan & 1) {
        replies(out, &in);
    }
    if (plan & 2) { /* from somewhere on anything */
        g_byte_array_set_size(out, out->len * (take(&in) + 1u) / 256);
    }
    add(out, in.data, MIN(in.size, 4096));
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        return 0;
    }
    for (size_t sent = 0; sent < MIN(out->len, MOST);) {
        ssize_t n = send(fds[0], out->data + sent, MIN(out->len, MOST) - sent, MSG_DONTWAIT);

        if (n <= 0) {
            break;
        }
        sent += (size_t)n;
    }
    shutdown(fds[0], SHUT_WR);
    o = json_object_new_object();
    server = json_object_new_object();
    number = g_strdup_printf("%d", fds[1]);
    json_object_object_add(server, "type", json_object_new_string("fd"));
    json_object_object_add(server, "str", json_object_new_string(number));
    json_object_object_add(o, "driver", json_object_new_string("nbd"));
    json_object_object_add(o, "server", server);
    json_object_object_add(o, plan & 4 ? "read-only" : "auto-read-only", json_object_new_string("on"));
    json_object_object_add(o, "discard", json_object_new_string("unmap"));
    node = block_node_open_image(graph, NULL, o, 0, NULL);
    json_object_put(o);
    if (node) {
        root = block_root_new(node, "fuzz",
                              BLOCK_PERM_CONSISTENT_READ | (node->read_only ? 0 : BLOCK_PERM_WRITE),
                              BLOCK_PERM_ALL, NULL, NULL, NULL);
        g_assert_nonnull(root);
        use(root, what);
        block_root_free(root);
    }
    close(fds[0]);
    return 0;
}
