/* Lists what an NBD server exports: a small client of the negotiation. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "base/error.h"
#include "base/log.h"
#include "block/export/nbd_proto.h"
#include "img/tool.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define EXPORTS_MAX 65536

typedef struct Listed {
    char *name, *description;
    uint64_t size;
    uint16_t flags;
    uint32_t sizes[3];
    bool has_sizes;
    GPtrArray *contexts;
} Listed;

typedef struct Reply {
    uint32_t type, length;
    uint8_t *data; /* with a zero behind it */
} Reply;

/* The connection; tls NULL: in the clear. */
typedef struct Line {
    int fd;
    TlsSession *tls;
} Line;

static bool transfer(const Line *line, void *buf, size_t size, bool out)
{
    uint8_t *p = buf;
    while (size > 0) {
        ssize_t n;
        if (line->tls) {
            n = out ? tls_sendv(line->tls, &(struct iovec){ p, size }, 1) : tls_recv(line->tls, p, size);
            if (n == -EINTR || n == -EAGAIN) {
                continue;
            }
        } else {
            n = out ? write(line->fd, p, size) : read(line->fd, p, size);
        }
        if (n < 0 && !line->tls && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        p += n;
        size -= (size_t)n;
    }
    return true;
}

static bool send_option(const Line *line, uint32_t option, const void *data, uint32_t length)
{
    g_autofree uint8_t *message = g_malloc(16 + length);
    nbd_put64(message, NBD_OPTION_MAGIC);
    nbd_put32(message + 8, option);
    nbd_put32(message + 12, length);
    if (length) {
        memcpy(message + 16, data, length);
    }
    return transfer(line, message, 16 + length, true);
}

static bool receive_reply(const Line *line, uint32_t option, Reply *r)
{
    uint8_t head[20];
    g_clear_pointer(&r->data, g_free);
    if (!transfer(line, head, sizeof(head), false) || nbd_get64(head) != NBD_OPTION_REPLY_MAGIC ||
        nbd_get32(head + 8) != option) {
        return false;
    }
    r->type = nbd_get32(head + 12);
    r->length = nbd_get32(head + 16);
    if (r->length > NBD_MAX_REQUEST) {
        return false;
    }
    r->data = g_malloc0(r->length + 1);
    return transfer(line, r->data, r->length, false);
}

static void listed_free(void *opaque)
{
    Listed *l = opaque;
    g_free(l->name);
    g_free(l->description);
    g_ptr_array_unref(l->contexts);
    g_free(l);
}

static bool list_names(const Line *line, GPtrArray *list)
{
    Reply r = { 0 };
    bool ok = send_option(line, NBD_OPT_LIST, NULL, 0);
    while (ok) {
        ok = receive_reply(line, NBD_OPT_LIST, &r) && list->len < EXPORTS_MAX;
        if (!ok || r.type == NBD_REP_ACK) {
            break;
        }
        uint32_t name = r.type == NBD_REP_SERVER && r.length >= 4 ? nbd_get32(r.data) : UINT32_MAX;
        if (r.type & (1u << 31)) {
            log_error("the server refuses to list its exports");
            ok = false;
        } else if (name > NBD_MAX_NAME || name > r.length - 4) {
            ok = false;
        } else {
            Listed *l = g_new0(Listed, 1);
            l->name = g_strndup((char *)r.data + 4, name);
            l->description = g_strndup((char *)r.data + 4 + name, r.length - 4 - name);
            l->contexts = g_ptr_array_new_with_free_func(g_free);
            g_ptr_array_add(list, l);
        }
    }
    g_free(r.data);
    return ok;
}

static uint8_t *name_message(const char *name, size_t room, size_t *length)
{
    size_t n = strlen(name);
    uint8_t *data = g_malloc0(4 + n + room);
    nbd_put32(data, (uint32_t)n);
    memcpy(data + 4, name, n);
    *length = 4 + n;
    return data;
}

static bool query_export(const Line *line, Listed *l)
{
    size_t length;
    Reply r = { 0 };
    g_autofree uint8_t *data = name_message(l->name, 4, &length);
    nbd_put16(data + length, 1);
    nbd_put16(data + length + 2, NBD_INFO_BLOCK_SIZE);
    bool ok = send_option(line, NBD_OPT_INFO, data, (uint32_t)length + 4);
    while (ok && (ok = receive_reply(line, NBD_OPT_INFO, &r)) && r.type == NBD_REP_INFO) {
        uint16_t info = r.length >= 2 ? nbd_get16(r.data) : UINT16_MAX;
        if (info == NBD_INFO_EXPORT && r.length == 12) {
            l->size = nbd_get64(r.data + 2);
            l->flags = nbd_get16(r.data + 10);
        } else if (info == NBD_INFO_BLOCK_SIZE && r.length == 14) {
            l->has_sizes = true;
            for (int i = 0; i < 3; i++) {
                l->sizes[i] = nbd_get32(r.data + 2 + 4 * i);
            }
        }
    }
    g_free(r.data);
    return ok;
}

static bool query_contexts(const Line *line, Listed *l)
{
    size_t length;
    Reply r = { 0 };
    g_autofree uint8_t *data = name_message(l->name, 4, &length);
    bool ok = send_option(line, NBD_OPT_LIST_META_CONTEXT, data, (uint32_t)length + 4);
    while (ok && (ok = receive_reply(line, NBD_OPT_LIST_META_CONTEXT, &r)) &&
           r.type == NBD_REP_META_CONTEXT) {
        if (r.length >= 4 && l->contexts->len < EXPORTS_MAX) {
            g_ptr_array_add(l->contexts, g_strndup((char *)r.data + 4, r.length - 4));
        }
    }
    g_free(r.data);
    return ok;
}

static bool handshake(Line *line, TlsCreds *creds, const char *hostname, GError **error)
{
    bool wants_write;
    int done = 0;
    line->tls = tls_session_new(creds, line->fd, hostname, error);
    while (line->tls && done == 0) { /* the socket waits */
        done = tls_handshake(line->tls, &wants_write, error);
    }
    return done == 1;
}

static bool greet(Line *line, TlsCreds *creds, const char *hostname, bool *structured, GError **error)
{
    uint8_t hello[18], flags[4];
    if (!transfer(line, hello, sizeof(hello), false) || nbd_get64(hello) != NBD_MAGIC ||
        nbd_get64(hello + 8) != NBD_OPTION_MAGIC || !(nbd_get16(hello + 16) & NBD_FLAG_FIXED_NEWSTYLE)) {
        return false;
    }
    nbd_put32(flags, NBD_FLAG_FIXED_NEWSTYLE | (nbd_get16(hello + 16) & NBD_FLAG_NO_ZEROES));
    Reply r = { 0 };
    bool ok = transfer(line, flags, sizeof(flags), true);
    if (ok && creds) {
        ok = send_option(line, NBD_OPT_STARTTLS, NULL, 0) && receive_reply(line, NBD_OPT_STARTTLS, &r);
        if (ok && r.type != NBD_REP_ACK) {
            error_set(error, "Server does not support TLS: %s", (char *)r.data);
            ok = false;
        }
        ok = ok && handshake(line, creds, hostname, error);
    }
    ok = ok && send_option(line, NBD_OPT_STRUCTURED_REPLY, NULL, 0) &&
         receive_reply(line, NBD_OPT_STRUCTURED_REPLY, &r);
    *structured = ok && r.type == NBD_REP_ACK;
    g_free(r.data);
    return ok;
}

static void print_listed(const Listed *l)
{
    static const char *const flag_names[] = { NULL,         "readonly", "flush",  "fua",
                                              "rotational", "trim",     "zeroes", "df",
                                              "multi",      "resize",   "cache",  "fast-zero" };
    printf(" export: '%s'\n", l->name);
    if (*l->description) {
        printf("  description: %s\n", l->description);
    }
    if (l->flags & NBD_FLAG_HAS_FLAGS) {
        printf("  size:  %" PRIu64 "\n  flags: 0x%x (", l->size, l->flags);
        for (size_t bit = 0; bit < G_N_ELEMENTS(flag_names); bit++) {
            if (flag_names[bit] && l->flags & (1u << bit)) {
                printf(" %s", flag_names[bit]);
            }
        }
        printf(" )\n");
    }
    if (l->has_sizes && l->sizes[0]) {
        printf("  min block: %u\n  opt block: %u\n  max block: %u\n", l->sizes[0], l->sizes[1], l->sizes[2]);
    }
    if (l->contexts->len) {
        printf("  available meta contexts: %u\n", l->contexts->len);
        for (guint i = 0; i < l->contexts->len; i++) {
            printf("   %s\n", (const char *)l->contexts->pdata[i]);
        }
    }
}

bool img_nbd_list(int fd, TlsCreds *creds, const char *hostname)
{
    g_autoptr(GError) error = NULL;
    Line line = { .fd = fd };
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(listed_free);
    bool structured = false,
         ok = greet(&line, creds, hostname, &structured, &error) && list_names(&line, list);
    for (guint i = 0; i < list->len && ok; i++) {
        ok = query_export(&line, list->pdata[i]) && (!structured || query_contexts(&line, list->pdata[i]));
    }
    if (ok) {
        send_option(&line, NBD_OPT_ABORT, NULL, 0);
        printf("exports available: %u\n", list->len);
        for (guint i = 0; i < list->len; i++) {
            print_listed(list->pdata[i]);
        }
    } else if (error) {
        error_report(error);
    } else {
        log_error("the server does not answer as an NBD server with fixed newstyle negotiation does");
    }
    tls_session_free(line.tls);
    close(fd);
    return ok;
}
