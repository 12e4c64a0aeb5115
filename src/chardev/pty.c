/*
 * A pseudo-terminal. Whether somebody has opened its other end can only be asked (POLLHUP on ours), so while
 * nobody has, it is looked at twice a second and at each write. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "chardev/chardev_internal.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#define LOOK_NS INT64_C(500000000)

typedef struct Pty {
    Chardev chr;
    int fd;
    char name[64];
    char *link; /* path=: a symbolic link to it */
    LoopFd *in;
    Timer look;
} Pty;

static bool somebody_there(Pty *p)
{
    struct pollfd pfd = { .fd = p->fd, .events = POLLOUT };

    return poll(&pfd, 1, 0) >= 0 && !(pfd.revents & POLLHUP);
}

static void pty_update_input(Chardev *chr);

static void pty_look(void *opaque)
{
    Pty *p = opaque;

    if (somebody_there(p)) {
        chardev_set_open(&p->chr, true);
        pty_update_input(&p->chr);
    } else {
        timer_set(&p->look, clock_now_ns(NULL, CLOCK_TYPE_REALTIME) + LOOK_NS);
    }
}

static void pty_gone(Pty *p)
{
    pthread_mutex_lock(&p->chr.lock);
    chardev_drop_output(&p->chr);
    pthread_mutex_unlock(&p->chr.lock);
    loop_remove_fd(p->in); /* it would report the hang-up for ever */
    p->in = NULL;
    chardev_unwatch_output(&p->chr);
    chardev_set_open(&p->chr, false);
    timer_set(&p->look, clock_now_ns(NULL, CLOCK_TYPE_REALTIME) + LOOK_NS);
}

static void on_input(void *opaque)
{
    Pty *p = opaque;
    ssize_t n = chardev_read_fd(&p->chr, p->fd, NULL);

    if (n == -EBUSY) {
        loop_fd_set(p->in, NULL, NULL);
    } else if (n <= 0 && n != -EAGAIN) {
        pty_gone(p);
    }
}

static void pty_update_input(Chardev *chr)
{
    Pty *p = (Pty *)chr;
    bool wants = chr->be_open && chardev_wants_input(chr);

    if (!chr->be_open) {
        if (!timer_pending(&p->look)) {
            pty_look(p);
        }
    } else if (p->in) {
        loop_fd_set(p->in, wants ? on_input : NULL, NULL);
    } else if (wants) {
        p->in = loop_add_fd(chr->loop, p->fd, on_input, NULL, NULL, p, NULL);
    }
}

static ssize_t pty_write(Chardev *chr, const uint8_t *data, size_t size)
{
    Pty *p = (Pty *)chr;
    ssize_t n = chardev_write_fd(p->fd, data, size);

    if (n == 0 && !somebody_there(p)) { /* a full buffer that nobody will ever empty */
        return -EIO;
    }
    return n;
}

static void pty_write_closed(Chardev *chr)
{
    Pty *p = (Pty *)chr;

    if (somebody_there(p)) { /* the loop tells the front end; this write is lost */
        timer_set(&p->look, 0);
    }
}

static int pty_write_fd(Chardev *chr)
{
    return chr->be_open ? ((Pty *)chr)->fd : -1;
}

const char *chardev_pty_path(const Chardev *chr)
{
    return ((const Pty *)chr)->name;
}

static char *pty_filename(Chardev *chr)
{
    return g_strconcat("pty:", ((Pty *)chr)->name, NULL);
}

static bool pty_open(Chardev *chr, const QapiChardevBackend *backend, GError **error)
{
    Pty *p = (Pty *)chr;
    const char *path = backend->u_pty->data->path;
    struct termios t;
    int slave;

    p->fd = -1;
    timer_init(&p->look, chr->loop, NULL, CLOCK_TYPE_REALTIME, pty_look, p, NULL);
    if (openpty(&p->fd, &slave, NULL, NULL, NULL) < 0) {
        p->fd = -1;
        return error_set_errno(error, errno, "%s: cannot create a pseudo-terminal", chr->what);
    }
    tcgetattr(slave, &t);
    cfmakeraw(&t);
    tcsetattr(slave, TCSAFLUSH, &t);
    if (ttyname_r(slave, p->name, sizeof(p->name)) != 0) {
        g_strlcpy(p->name, "?", sizeof(p->name));
    }
    close(slave);
    fcntl(p->fd, F_SETFD, FD_CLOEXEC);
    fcntl(p->fd, F_SETFL, O_RDWR | O_NONBLOCK);
    if (path) {
        if (symlink(p->name, path) < 0) {
            return error_set_errno(error, errno, "%s: cannot make the link '%s' to %s", chr->what, path,
                                   p->name);
        }
        p->link = g_strdup(path);
    }
    timer_set(&p->look, clock_now_ns(NULL, CLOCK_TYPE_REALTIME) + LOOK_NS);
    return true;
}

static void pty_close(Chardev *chr)
{
    Pty *p = (Pty *)chr;

    loop_remove_fd(p->in);
    chardev_unwatch_output(chr);
    timer_destroy(&p->look);
    if (p->fd >= 0) {
        close(p->fd);
    }
    if (p->link) {
        unlink(p->link);
        g_free(p->link);
    }
}

const ChardevDriver chardev_pty_driver = {
    .name = "pty",
    .instance_size = sizeof(Pty),
    .open = pty_open,
    .close = pty_close,
    .write = pty_write,
    .write_closed = pty_write_closed,
    .write_fd = pty_write_fd,
    .update_input = pty_update_input,
    .filename = pty_filename,
};
CHARDEV_DRIVER(chardev_pty_driver);
