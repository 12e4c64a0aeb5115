/*
 * A small HTTP/1.1 server of static files: GET and HEAD, one request a connection, nothing but names of plain
 * letters below noVNC's directory. What asks for a WebSocket is looked at without being read, since the VNC
 * library answers it. Sources: RFC 9110, RFC 9112, RFC 6455 (section 4.2.1 for the request, 10.2 for
 * origins).
 *
 * Whoever connects is hostile: a request has 8 KiB and 10 seconds, 64 connections are served at a time, and a
 * page of another origin gets no WebSocket. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "display/vnc_web.h"

#include "base/error.h"
#include "trace/trace.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

TRACE_EVENT(vnc_web_request, "%s %s");

#define NOVNC_DIRECTORY "/usr/share/novnc"
#define START_PAGE      "/vnc.html"
#define REQUEST_LIMIT   8192
#define MAX_CONNECTIONS 64
#define TIMEOUT_NS      10000000000ll
#define MAX_FILE_BYTES  (16u << 20)

struct VncWeb {
    Loop *loop;
    char *directory;
    VncWebUpgrade *upgrade;
    void *opaque;
    GPtrArray *connections; /* of Connection *, owned */
};

typedef struct Connection {
    VncWeb *web;
    int fd;
    LoopFd *watch;
    Timer deadline;
    GByteArray *out; /* the answer; NULL: the request is being read */
    size_t sent;
} Connection;

static void connection_free(void *opaque)
{
    Connection *c = opaque;

    loop_remove_fd(c->watch);
    timer_destroy(&c->deadline);
    if (c->fd >= 0) {
        close(c->fd);
    }
    if (c->out) {
        g_byte_array_unref(c->out);
    }
    g_free(c);
}

static void drop(Connection *c)
{
    g_ptr_array_remove_fast(c->web->connections, c);
}

static void on_deadline(void *opaque)
{
    drop(opaque);
}

/* ---- answers ---- */

static void on_writable(void *opaque)
{
    Connection *c = opaque;
    ssize_t sent = send(c->fd, c->out->data + c->sent, c->out->len - c->sent, MSG_NOSIGNAL);

    if (sent < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    c->sent += sent > 0 ? (size_t)sent : 0;
    if (sent <= 0) {
        drop(c);
    } else if (c->sent == c->out->len) {
        shutdown(c->fd, SHUT_WR);
        drop(c);
    }
}

static void answer(Connection *c, const char *status, const char *type, const char *more, const void *body,
                   size_t size, bool head)
{
    g_autofree char *top = g_strdup_printf("HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
                                           "Connection: close\r\nCache-Control: no-cache\r\n"
                                           "X-Content-Type-Options: nosniff\r\n"
                                           "Content-Security-Policy: frame-ancestors 'none'\r\n%s\r\n",
                                           status, type, size, more);

    c->out = g_byte_array_new();
    g_byte_array_append(c->out, (const guint8 *)top, (guint)strlen(top));
    if (!head && size) {
        g_byte_array_append(c->out, body, (guint)size);
    }
    loop_fd_set(c->watch, NULL, on_writable);
}

static void refuse(Connection *c, const char *status, const char *text)
{
    g_autofree char *body = g_strdup_printf("%s\n", text);

    answer(c, status, "text/plain; charset=utf-8", "", body, strlen(body), false);
}

static const char *content_type(const char *path)
{
    static const char *const types[][2] = {
        { ".html", "text/html; charset=utf-8" },
        { ".js", "text/javascript; charset=utf-8" },
        { ".css", "text/css; charset=utf-8" },
        { ".json", "application/json" },
        { ".svg", "image/svg+xml" },
        { ".png", "image/png" },
        { ".ico", "image/x-icon" },
        { ".mp3", "audio/mpeg" },
        { ".oga", "audio/ogg" },
        { ".woff", "font/woff" },
        { ".ttf", "font/ttf" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(types); i++) {
        if (g_str_has_suffix(path, types[i][0])) {
            return types[i][1];
        }
    }
    return "application/octet-stream";
}

/* Plain letters, and no part that begins with a dot. */
static bool name_ok(const char *path)
{
    return path[0] == '/' &&
           strspn(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/") ==
               strlen(path) &&
           !strstr(path, "/.") && !strstr(path, "//");
}

static void serve_file(Connection *c, const char *path, bool head)
{
    g_autofree char *file = g_build_filename(c->web->directory, path, NULL), *content = NULL;
    struct stat info;
    gsize size;

    if (!name_ok(path) || stat(file, &info) < 0 || !S_ISREG(info.st_mode) || info.st_size > MAX_FILE_BYTES ||
        !g_file_get_contents(file, &content, &size, NULL)) {
        refuse(c, "404 Not Found", "There is no such page.");
        return;
    }
    answer(c, "200 OK", content_type(path), "", content, size, head);
}

/* ---- requests ---- */

/* The value of a header field in what follows the request line; NULL: it is not there. Caller frees. */
static char *header(const char *fields, const char *name)
{
    size_t length = strlen(name);

    for (const char *line = fields; line && *line;
         line = strstr(line, "\r\n"), line = line ? line + 2 : NULL) {
        if (g_ascii_strncasecmp(line, name, length) == 0 && line[length] == ':') {
            const char *value = line + length + 1;
            return g_strstrip(g_strndup(value, strcspn(value, "\r\n")));
        }
    }
    return NULL;
}

/* A browser tells where the page came from that asks for the socket: only from here. */
static bool same_origin(const char *fields)
{
    g_autofree char *origin = header(fields, "Origin"), *host = header(fields, "Host");
    const char *own = origin ? strstr(origin, "://") : NULL;

    return !origin || (own && host && g_ascii_strcasecmp(own + 3, host) == 0);
}

static void handle_request(Connection *c, char *request)
{
    char *fields = strstr(request, "\r\n");
    g_autofree char *line = g_strndup(request, (gsize)(fields - request));
    g_auto(GStrv) words = g_strsplit(line, " ", 4);

    if (g_strv_length(words) != 3 || !g_str_has_prefix(words[2], "HTTP/1.")) {
        refuse(c, "400 Bad Request", "That is no HTTP/1.1 request.");
        return;
    }
    TRACE(vnc_web_request, words[0], words[1]);
    bool head = strcmp(words[0], "HEAD") == 0;
    if (!head && strcmp(words[0], "GET") != 0) {
        refuse(c, "405 Method Not Allowed", "Only GET and HEAD are answered.");
        return;
    }
    words[1][strcspn(words[1], "?#")] = 0;
    if (strcmp(words[1], "/") == 0) {
        answer(c, "302 Found", "text/plain",
               "Location: " START_PAGE "?autoconnect=true&resize=scale&reconnect=true\r\n", "", 0, head);
    } else {
        serve_file(c, words[1], head);
    }
}

static bool is_upgrade(const char *request)
{
    const char *fields = strstr(request, "\r\n");
    g_autofree char *upgrade = header(fields + 2, "Upgrade");

    return upgrade && g_ascii_strcasecmp(upgrade, "websocket") == 0 && g_str_has_prefix(request, "GET ");
}

static void hand_over(Connection *c)
{
    VncWeb *web = c->web;
    int fd = c->fd;

    c->fd = -1;
    drop(c);
    web->upgrade(web->opaque, fd);
}

static void on_readable(void *opaque)
{
    Connection *c = opaque;
    char request[REQUEST_LIMIT + 1];
    ssize_t got = recv(c->fd, request, REQUEST_LIMIT, MSG_PEEK);

    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got <= 0) {
        drop(c);
        return;
    }
    request[got] = 0;
    char *end = strstr(request, "\r\n\r\n");
    if (!end && (got == REQUEST_LIMIT || strlen(request) != (size_t)got)) {
        refuse(c, "431 Request Header Fields Too Large", "The request is too large.");
        return;
    }
    /* More must come before it is worth looking again. */
    int wanted = end ? 1 : (int)got + 1;
    setsockopt(c->fd, SOL_SOCKET, SO_RCVLOWAT, &wanted, sizeof(wanted));
    if (!end) {
        /* A peer that closed in between would be readable for ever. */
        char byte;
        if (recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
            drop(c);
        }
        return;
    }
    end[2] = 0;
    if (is_upgrade(request)) {
        if (same_origin(strstr(request, "\r\n") + 2)) {
            hand_over(c);
        } else {
            refuse(c, "403 Forbidden", "That page is of another origin.");
        }
        return;
    }
    handle_request(c, request);
    if (recv(c->fd, request, (size_t)(end - request) + 4, 0) < 0) {
        drop(c);
    }
}

void vnc_web_accept(VncWeb *web, int fd)
{
    if (web->connections->len >= MAX_CONNECTIONS) {
        close(fd);
        return;
    }
    Connection *c = g_new0(Connection, 1);
    c->web = web;
    c->fd = fd;
    c->watch = loop_add_fd(web->loop, fd, on_readable, NULL, NULL, c, NULL);
    timer_init(&c->deadline, web->loop, NULL, CLOCK_TYPE_REALTIME, on_deadline, c, NULL);
    timer_set(&c->deadline, clock_now_ns(NULL, CLOCK_TYPE_REALTIME) + TIMEOUT_NS);
    g_ptr_array_add(web->connections, c);
}

VncWeb *vnc_web_new(Loop *loop, const char *directory, VncWebUpgrade *upgrade, void *opaque, GError **error)
{
    g_autofree char *page = NULL;

    directory = directory ? directory : NOVNC_DIRECTORY;
    page = g_build_filename(directory, START_PAGE, NULL);
    if (access(page, R_OK) < 0) {
        error_set_errno(error, errno, "There is no noVNC in '%s'", directory);
        error_append_hint(error,
                          "Install it (Debian's package 'novnc'), or name its directory with web=DIRECTORY.");
        return NULL;
    }
    VncWeb *web = g_new0(VncWeb, 1);
    web->loop = loop;
    web->directory = g_strdup(directory);
    web->upgrade = upgrade;
    web->opaque = opaque;
    web->connections = g_ptr_array_new_with_free_func(connection_free);
    return web;
}

void vnc_web_free(VncWeb *web)
{
    if (web) {
        g_ptr_array_unref(web->connections);
        g_free(web->directory);
        g_free(web);
    }
}
