/*
 * Tests of TLS sessions between two ends of a socket pair, with PSK and anonymous credentials (certificates
 * are tested with the programs, tests/block/storage_test.py), and of authorization. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "io/tls.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static Object *root;

static void make(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
static void make(const char *fmt, ...)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    user_creatable_add_text(root, text, &error);
    g_assert_no_error(error);
}

static void refused(const char *text, const char *reason)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(user_creatable_add_text(root, text, &error));
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, reason));
}

static TlsSession *session(const char *id, bool server, int fd)
{
    g_autoptr(GError) error = NULL;
    TlsCreds *creds = tls_creds_find(root, id, server, &error);
    TlsSession *s;

    g_assert_no_error(error);
    s = tls_session_new(creds, fd, NULL, &error);
    g_assert_no_error(error);
    return s;
}

/* Both ends in turn; true: both are through. */
static bool shake(TlsSession *a, TlsSession *b, GError **error)
{
    bool wants_write;
    int da = 0, db = 0;

    for (int i = 0; i < 1000 && da >= 0 && db >= 0 && !(da && db); i++) {
        da = da ? da : tls_handshake(a, &wants_write, error);
        db = db || da < 0 ? db : tls_handshake(b, &wants_write, error);
    }
    return da == 1 && db == 1;
}

static void pair(int fds[2])
{
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), ==, 0);
}

static void test_sessions(void)
{
    g_autofree char *dir = g_dir_make_tmp("rhea-tls-XXXXXX", NULL),
                    *keys = g_build_filename(dir, "keys.psk", NULL);
    static const char *const ids[] = { "psk", "anon" };

    root = object_root_new();
    g_assert_true(g_file_set_contents(keys, "alice:00112233445566778899aabbccddeeff\nqemu:ffeeddccbbaa9988\n",
                                      -1, NULL));
    make("tls-creds-psk,id=psk-server,endpoint=server,dir=%s", dir);
    make("tls-creds-psk,id=psk-client,endpoint=client,dir=%s,username=alice", dir);
    make("tls-creds-anon,id=anon-server,endpoint=server");
    make("tls-creds-anon,id=anon-client,endpoint=client,priority=NORMAL:-VERS-TLS1.3");
    for (size_t i = 0; i < G_N_ELEMENTS(ids); i++) {
        g_autofree char *server_id = g_strconcat(ids[i], "-server", NULL),
                        *client_id = g_strconcat(ids[i], "-client", NULL);
        g_autofree uint8_t *sent = g_malloc(100000), *got = g_malloc(100000);
        g_autoptr(GError) error = NULL;
        TlsSession *server, *client;
        size_t out = 0, in = 0;
        int fds[2];

        pair(fds);
        server = session(server_id, true, fds[0]);
        client = session(client_id, false, fds[1]);
        g_assert_true(shake(client, server, &error));
        g_assert_no_error(error);
        g_assert_cmpstr(tls_peer_name(server), ==, i == 0 ? "alice" : NULL);
        for (size_t k = 0; k < 100000; k++) {
            sent[k] = (uint8_t)(k * 7 + k / 256);
        }
        while (in < 100000) { /* in pieces, with a socket that is full now and then */
            ssize_t n;

            if (out < 100000) {
                size_t first = MIN(100000 - out, 13);
                struct iovec iov[2] = { { sent + out, first }, { sent + out + first, 100000 - out - first } };

                n = tls_sendv(client, iov, 2);
                g_assert_true(n > 0 || n == -EAGAIN);
                out += n > 0 ? (size_t)n : 0;
            }
            n = tls_recv(server, got + in, 7777);
            g_assert_true(n == -EAGAIN || n > 0);
            in += n > 0 ? (size_t)n : 0;
            g_assert_cmpuint(in, <=, 100000);
        }
        g_assert_cmpmem(sent, 100000, got, 100000);
        tls_session_free(client);
        g_assert_cmpint(tls_recv(server, got, 1), ==, 0);
        tls_session_free(server);
        close(fds[0]);
        close(fds[1]);
    }
    /* Another key, a client that speaks no TLS, and one that goes away. */
    g_assert_true(g_file_set_contents(keys, "alice:00112233445566778899aabbccddee00\n", -1, NULL));
    make("tls-creds-psk,id=liar,endpoint=client,dir=%s,username=alice", dir);
    g_assert_true(g_file_set_contents(keys, "alice:00112233445566778899aabbccddeeff\n", -1, NULL));
    g_autoptr(GError) error = NULL;
    int fds[2];
    pair(fds);
    TlsSession *server = session("psk-server", true, fds[0]), *client = session("liar", false, fds[1]);
    g_assert_false(shake(client, server, &error));
    g_test_message("%s", error->message);
    g_clear_error(&error);
    tls_session_free(client);
    tls_session_free(server);
    close(fds[0]);
    close(fds[1]);
    pair(fds);
    server = session("psk-server", true, fds[0]);
    bool wants_write;
    g_assert_cmpint(tls_handshake(server, &wants_write, &error), ==, 0);
    g_assert_false(wants_write);
    g_assert_cmpint(write(fds[1], "IHAVEOPT IHAVEOPT IHAVEOPT IHAVEOPT", 35), ==, 35);
    g_assert_cmpint(tls_handshake(server, &wants_write, &error), ==, -1);
    g_assert_nonnull(error);
    g_clear_error(&error);
    tls_session_free(server);
    close(fds[0]);
    close(fds[1]);

    g_assert_null(tls_creds_find(root, "psk-server", false, &error));
    g_clear_error(&error);
    g_assert_null(tls_creds_find(root, "nosuch", true, &error));
    g_clear_error(&error);
    refused("tls-creds-psk,id=x,endpoint=server", "Missing 'dir'");
    refused("tls-creds-psk,id=x,endpoint=server,dir=/nonexistent", "Unable to access credentials");
    refused("tls-creds-x509,id=x,endpoint=client,dir=/nonexistent", "/nonexistent/ca-cert.pem");
    g_autofree char *stranger = g_strdup_printf("tls-creds-psk,id=x,dir=%s,username=bob", dir);
    refused(stranger, "Username bob not found");
    object_unref(root);
    unlink(keys);
    rmdir(dir);
}

static bool lets_in(const char *id, const char *name)
{
    g_autoptr(GError) error = NULL;
    bool allowed = authz_allows(root, id, name, &error);

    g_assert_true(allowed == !error);
    return allowed;
}

static void test_authz(void)
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("rhea-authz-XXXXXX", &path, NULL);

    root = object_root_new();
    close(fd);
    make("authz-simple,id=one,identity=CN=alice");
    g_assert_true(lets_in("one", "CN=alice"));
    g_assert_false(lets_in("one", "CN=alic") || lets_in("one", NULL) || lets_in("none", "CN=alice"));
    make("{\"qom-type\":\"authz-list\",\"id\":\"list\",\"rules\":[{\"match\":\"CN=eve\",\"policy\":\"deny\"},"
         "{\"match\":\"CN=*\",\"policy\":\"allow\",\"format\":\"glob\"}]}");
    g_assert_true(lets_in("list", "CN=bob"));
    g_assert_false(lets_in("list", "CN=eve") || lets_in("list", "O=x"));
    refused("authz-simple,id=x", "identity");
    g_assert_true(g_file_set_contents(path, "{\"policy\":\"allow\",\"rules\":[]}", -1, NULL));
    make("authz-list-file,id=file,filename=%s", path);
    g_assert_true(lets_in("file", "CN=bob"));
    g_assert_true(g_file_set_contents(path, "{\"rules\":[]}", -1, NULL));
    g_assert_false(lets_in("file", "CN=bob")); /* read again */
    g_assert_true(g_file_set_contents(path, "[]", -1, NULL));
    g_assert_false(lets_in("file", "CN=bob"));
    g_autofree char *bad = g_strdup_printf("authz-list-file,id=x,filename=%s", path);
    refused(bad, "JSON object");
    object_unref(root);
    unlink(path);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/tls/sessions", test_sessions);
    g_test_add_func("/tls/authz", test_authz);
    return g_test_run();
}
