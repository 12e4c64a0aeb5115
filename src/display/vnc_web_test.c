/* The page's server, asked as browsers and worse clients do. SPDX-License-Identifier: GPL-2.0-or-later */
#include "display/vnc_web.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct Fixture {
    Loop *loop;
    VncWeb *web;
    char *directory;
    int upgraded; /* the connection that was handed over; -1: none */
} Fixture;

static void on_upgrade(void *opaque, int fd)
{
    ((Fixture *)opaque)->upgraded = fd;
}

static void setup(Fixture *f)
{
    GError *error = NULL;
    f->upgraded = -1;
    f->loop = loop_new(NULL, NULL);
    f->directory = g_dir_make_tmp("rhea-web-XXXXXX", NULL);
    g_assert_null(vnc_web_new(f->loop, f->directory, on_upgrade, f, &error));
    g_assert_nonnull(strstr(error->message, f->directory));
    g_clear_error(&error);
    g_autofree char *page = g_build_filename(f->directory, "vnc.html", NULL);
    g_assert_true(g_file_set_contents(page, "<p>hello", -1, NULL));
    f->web = vnc_web_new(f->loop, f->directory, on_upgrade, f, &error);
    g_assert_no_error(error);
}

static void teardown(Fixture *f)
{
    g_autofree char *page = g_build_filename(f->directory, "vnc.html", NULL);
    vnc_web_free(f->web);
    loop_free(f->loop);
    g_unlink(page);
    g_rmdir(f->directory);
    g_free(f->directory);
}

/* Sends parts of a request one after the other and gives the answer, up to the end of the connection. */
static char *ask(Fixture *f, const char *first, const char *second)
{
    int fds[2];
    GString *answer = g_string_new(NULL);
    char buffer[4096];
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), ==, 0);
    vnc_web_accept(f->web, fds[0]);
    const char *parts[] = { first, second };
    for (int i = 0; i < 2; i++) {
        if (*parts[i]) {
            g_assert_cmpint(send(fds[1], parts[i], strlen(parts[i]), MSG_NOSIGNAL), >, 0);
        }
        for (int n = 0; n < 20; n++) {
            loop_iterate(f->loop, false);
        }
    }
    ssize_t got;
    while ((got = recv(fds[1], buffer, sizeof(buffer), 0)) > 0) {
        g_string_append_len(answer, buffer, got);
    }
    close(fds[1]);
    for (int n = 0; n < 20; n++) { /* what is left of the connection goes with its peer */
        loop_iterate(f->loop, false);
    }
    return g_string_free(answer, FALSE);
}

static void expect_answer(Fixture *f, const char *first, const char *second, const char *start,
                          const char *part)
{
    g_autofree char *text = ask(f, first, second);
    if (!g_str_has_prefix(text, start) || !strstr(text, part)) {
        g_error("'%s' is answered by '%s'", first, text);
    }
}

static void test_pages(void)
{
    Fixture f;
    setup(&f);
    expect_answer(&f, "GET /vnc.html HTTP/1.1\r\nHo", "st: x\r\n\r\n", "HTTP/1.1 200 OK\r\n",
                  "\r\n\r\n<p>hello");
    expect_answer(&f, "GET /vnc.html?a=b HTTP/1.1\r\n\r\n", "", "HTTP/1.1 200 OK\r\n", "text/html");
    expect_answer(&f, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "", "HTTP/1.1 302 ",
                  "Location: /vnc.html?autoconnect=true");
    g_autofree char *head = ask(&f, "HEAD /vnc.html HTTP/1.1\r\n\r\n", "");
    g_assert_true(g_str_has_suffix(head, "\r\n\r\n"));
    g_assert_nonnull(strstr(head, "Content-Length: 8\r\n"));
    g_assert_cmpint(f.upgraded, ==, -1);
    teardown(&f);
}

static void test_hostile(void)
{
    static const char *const paths[] = { "/../etc/passwd",     "/..",      "/.hidden", "//etc/passwd",
                                         "/%2e%2e/etc/passwd", "vnc.html", "/no",      "/vnc.html\\",
                                         "http://x/vnc.html" };
    Fixture f;
    setup(&f);
    for (size_t i = 0; i < G_N_ELEMENTS(paths); i++) {
        g_autofree char *request = g_strdup_printf("GET %s HTTP/1.1\r\n\r\n", paths[i]);
        expect_answer(&f, request, "", "HTTP/1.1 404 ", "no such page");
    }
    expect_answer(&f, "POST /vnc.html HTTP/1.1\r\n\r\n", "", "HTTP/1.1 405 ", "");
    expect_answer(&f, "GET /vnc.html\r\n\r\n", "", "HTTP/1.1 400 ", "");
    expect_answer(&f, "\r\n\r\n", "", "HTTP/1.1 400 ", "");
    g_autofree char *large = g_strnfill(9000, 'x');
    expect_answer(&f, large, "", "HTTP/1.1 431 ", "");
    g_autofree char *nothing = ask(&f, "GET /vnc.html HT", "");
    g_assert_cmpstr(nothing, ==, "");
    teardown(&f);
}

static void test_upgrade(void)
{
    static const char request[] = "GET /websockify HTTP/1.1\r\nHost: vm:5700\r\nupgrade: WebSocket\r\n"
                                  "Origin: http://vm:5700\r\n\r\n";
    Fixture f;
    char got[sizeof(request)];
    setup(&f);
    expect_answer(&f, "GET /websockify HTTP/1.1\r\nHost: vm:5700\r\nUpgrade: websocket\r\n",
                  "Origin: http://elsewhere\r\n\r\n", "HTTP/1.1 403 ", "");
    g_assert_cmpint(f.upgraded, ==, -1);
    g_autofree char *answer = ask(&f, request, "");
    g_assert_cmpstr(answer, ==, "");
    g_assert_cmpint(f.upgraded, >=, 0);
    /* All of it is still there to be read. */
    g_assert_cmpint(recv(f.upgraded, got, sizeof(got), 0), ==, sizeof(request) - 1);
    g_assert_cmpmem(got, sizeof(request) - 1, request, sizeof(request) - 1);
    close(f.upgraded);
    teardown(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vnc-web/pages", test_pages);
    g_test_add_func("/vnc-web/hostile", test_hostile);
    g_test_add_func("/vnc-web/upgrade", test_upgrade);
    return g_test_run();
}
