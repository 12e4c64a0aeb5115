/* Going to the background: see daemon.h. SPDX-License-Identifier: GPL-2.0-or-later */
#include "host/daemon.h"

#include "base/error.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int daemon_start(GError **error)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0) {
        error_set_errno(error, errno, "cannot make a pipe");
        return -1;
    }
    pid_t child = fork();
    if (child < 0) {
        error_set_errno(error, errno, "cannot go to the background");
        return -1;
    }
    if (child > 0) {
        char status = 1;
        ssize_t n;
        close(ends[1]);
        do {
            n = read(ends[0], &status, 1);
        } while (n < 0 && errno == EINTR);
        _exit(n == 1 && status == 0 ? EXIT_SUCCESS : EXIT_FAILURE);
    }
    close(ends[0]);
    setsid();
    umask(027);
    return ends[1];
}

void daemon_ready(int fd)
{
    char status = 0;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (chdir("/") < 0 || null < 0) {
        log_warning("cannot leave the directory or open /dev/null: %s", g_strerror(errno));
    }
    for (int i = 0; null >= 0 && i < 3; i++) {
        dup2(null, i);
    }
    if (null >= 0) {
        close(null);
    }
    while (write(fd, &status, 1) < 0 && errno == EINTR) {}
    close(fd);
}

int daemon_write_pidfile(const char *path, GError **error)
{
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    char text[32];

    if (fd < 0) {
        error_set_errno(error, errno, "cannot create PID file: Cannot open pid file '%s'", path);
        return -1;
    }
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    if (fcntl(fd, F_SETLK, &lock) < 0) {
        error_set_errno(error, errno, "cannot create PID file: Cannot lock pid file '%s'", path);
        close(fd);
        return -1;
    }
    int length = g_snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) < 0 || write(fd, text, length) != length) {
        error_set_errno(error, errno, "cannot create PID file: Failed to write '%s'", path);
        close(fd);
        return -1;
    }
    return fd;
}
