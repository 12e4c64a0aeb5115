/* Tests of the descriptor table and of options. SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/fd_table.h"

#include "base/error.h"
#include "io/options.h"
#include "io/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

static void test_names(void)
{
    FdTable *table = fd_table_new();
    g_autoptr(GError) error = NULL;
    int p[2], fd;

    g_assert_cmpint(pipe(p), ==, 0);
    g_assert_true(fd_table_put(table, "tap", p[0], &error));
    g_assert_false(fd_table_put(table, "9lives", dup(p[1]), &error));
    g_clear_error(&error);
    fd = fd_table_take(table, "tap", &error);
    g_assert_cmpint(fd, ==, p[0]);
    g_assert_cmpint(fd_table_take(table, "tap", &error), ==, -1);
    g_assert_error(error, RHEA_ERROR, ERROR_CLASS_GENERIC);
    g_clear_error(&error);
    g_assert_cmpint(fd_table_take(table, "99999", &error), ==, -1);
    g_clear_error(&error);
    g_assert_true(fd_table_put(table, "x", p[1], &error));
    g_assert_true(fd_table_close(table, "x", &error));
    g_assert_false(fd_table_close(table, "x", &error));
    close(p[0]);
    fd_table_free(table);
}

static void test_sets(void)
{
    FdTable *table = fd_table_new();
    g_autoptr(GError) error = NULL;
    int p[2], fd;
    char c;

    g_assert_cmpint(pipe(p), ==, 0);
    g_assert_cmpint(fd_table_set_add(table, -1, p[0], "r", &error), ==, 0);
    g_assert_cmpint(fd_table_set_add(table, 0, p[1], NULL, &error), ==, 0);
    fd = fd_table_open(table, "/dev/fdset/0", O_WRONLY, 0);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(write(fd, "z", 1), ==, 1);
    close(fd);
    fd = fd_table_open(table, "/dev/fdset/0", O_RDONLY, 0);
    g_assert_cmpint(read(fd, &c, 1), ==, 1);
    close(fd);
    g_assert_cmpint(fd_table_open(table, "/dev/fdset/0", O_RDWR, 0), ==, -1);
    g_assert_cmpint(errno, ==, EACCES);
    g_assert_cmpint(fd_table_open(table, "/dev/fdset/7", O_RDWR, 0), ==, -1);
    g_assert_true(fd_table_set_remove(table, 0, -1, &error));
    g_assert_false(fd_table_set_remove(table, 0, -1, &error));
    fd_table_free(table);
}

static void test_options(void)
{
    static const char *const known[] = { "wait", "port", NULL };
    g_autoptr(GError) error = NULL;
    json_object *o = json_object_new_object();
    bool wait = true;
    int64_t port = 0;

    json_object_object_add(o, "wait", json_object_new_string("off"));
    json_object_object_add(o, "port", json_object_new_int(70000));
    g_assert_true(options_bool(o, "t", "wait", &wait, &error));
    g_assert_false(wait);
    g_assert_false(options_int(o, "t", "port", 0, 65535, &port, &error));
    g_clear_error(&error);
    g_assert_true(options_known(o, "t", known, &error));
    json_object_object_add(o, "prot", json_object_new_int(1));
    g_assert_false(options_known(o, "t", known, &error));
    json_object_put(o);
}

static void test_socket(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(SocketAddress) addr = socket_address_new();
    int server, client;

    addr->kind = SOCKET_KIND_UNIX;
    addr->path = g_strdup_printf("%s/rhea-sock-%d", g_get_tmp_dir(), getpid());
    server = socket_listen(addr, NULL, &error);
    g_assert_no_error(error);
    client = socket_connect(addr, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpint(client, >=, 0);
    g_assert_cmpint(socket_listen(addr, NULL, &error), ==, -1); /* in use */
    g_clear_error(&error);
    close(client);
    close(server);
    server = socket_listen(addr, NULL, &error); /* a leftover file is replaced */
    g_assert_no_error(error);
    close(server);
    unlink(addr->path);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/io/fd-table/names", test_names);
    g_test_add_func("/io/fd-table/sets", test_sets);
    g_test_add_func("/io/options", test_options);
    g_test_add_func("/io/socket", test_socket);
    return g_test_run();
}
