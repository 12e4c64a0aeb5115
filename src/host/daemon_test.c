/* Going to the background, and PID files. SPDX-License-Identifier: GPL-2.0-or-later */
#include "host/daemon.h"

#include "base/error.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int status_of(pid_t child)
{
    int status;

    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    g_assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* In a process of its own, whose status is what the shell would see. */
static int run_daemon(bool fails, const char *path)
{
    pid_t child = fork();

    if (child == 0) {
        int fd = daemon_start(NULL);

        if (fd < 0 || fails) {
            _exit(EXIT_FAILURE);
        }
        if (daemon_write_pidfile(path, NULL) < 0) {
            _exit(EXIT_FAILURE);
        }
        daemon_ready(fd);
        sleep(30); /* ended by the test */
        _exit(EXIT_SUCCESS);
    }
    return status_of(child);
}

static void test_background(void)
{
    g_autofree char *dir = g_dir_make_tmp("rhea-daemon-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "pid", NULL), *text = NULL, *cwd = NULL, *link = NULL;
    g_autoptr(GError) error = NULL;

    g_assert_cmpint(run_daemon(true, path), ==, EXIT_FAILURE);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    g_assert_cmpint(run_daemon(false, path), ==, EXIT_SUCCESS);
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    int pid = atoi(text);
    g_assert_cmpint(pid, >, 1);
    link = g_strdup_printf("/proc/%d/cwd", pid);
    cwd = g_file_read_link(link, NULL);
    g_assert_cmpstr(cwd, ==, "/");
    /* Another one cannot have the file while it lives. */
    g_assert_cmpint(daemon_write_pidfile(path, &error), ==, -1);
    g_assert_nonnull(strstr(error->message, "Cannot lock pid file"));
    g_assert_nonnull(strstr(error->message, path));
    g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
    int fd = -1;
    for (int i = 0; i < 1000 && fd < 0; i++) {
        g_usleep(10000);
        fd = daemon_write_pidfile(path, NULL);
    }
    g_assert_cmpint(fd, >=, 0);
    g_clear_pointer(&text, g_free);
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpint(atoi(text), ==, getpid());
    close(fd);
    unlink(path);
    rmdir(dir);
}

static void test_errors(void)
{
    g_autoptr(GError) error = NULL;

    g_assert_cmpint(daemon_write_pidfile("/nonexistent/pid", &error), ==, -1);
    g_assert_nonnull(strstr(error->message, "cannot create PID file"));
    g_assert_nonnull(strstr(error->message, "/nonexistent/pid"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/host/daemon/background", test_background);
    g_test_add_func("/host/daemon/errors", test_errors);
    return g_test_run();
}
