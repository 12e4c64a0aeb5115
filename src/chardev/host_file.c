/*
 * Chardevs on a pair of host descriptors: stdio, file, pipe, serial (a tty of the host).
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "chardev/chardev_internal.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

typedef struct HostFile {
    Chardev chr;
    int in_fd, out_fd; /* -1: none */
    LoopFd *in;
    bool at_end;             /* of the input */
    bool restore;            /* the terminal, when it is closed */
    int in_flags, out_flags; /* of descriptors that were made non-blocking, -1: leave them */
} HostFile;

/* ---- the terminal: one in the process, so its old state is one too ---- */

static struct termios terminal_before;
static int terminal_saved; /* atomic */

static void terminal_set(const struct termios *t)
{
    sigset_t ttou, old;

    /* A background process that sets its terminal would be stopped. */
    sigemptyset(&ttou);
    sigaddset(&ttou, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &ttou, &old);
    tcsetattr(STDIN_FILENO, TCSANOW, t);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void terminal_restore(void)
{
    if (__atomic_exchange_n(&terminal_saved, 0, __ATOMIC_SEQ_CST)) {
        terminal_set(&terminal_before);
    }
}

static void terminal_raw(bool signals)
{
    static bool at_exit;
    struct termios t;

    if (tcgetattr(STDIN_FILENO, &t) < 0) {
        return;
    }
    terminal_before = t;
    __atomic_store_n(&terminal_saved, 1, __ATOMIC_SEQ_CST);
    if (!at_exit) {
        at_exit = true;
        atexit(terminal_restore);
    }
    t.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    t.c_oflag |= OPOST; /* our own lines end in \n only */
    t.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | IEXTEN);
    if (!signals) {
        t.c_lflag &= ~(tcflag_t)ISIG;
    }
    t.c_cflag = (t.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8;
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    terminal_set(&t);
}

/* ---- descriptors ---- */

/* A non-blocking descriptor for one of the standard ones. The flag belongs to the open file, which other
 * processes share: so open it anew where that means the same file, and only else set the flag (and take it
 * back at the end). */
static int private_copy(int fd, int mode, int *old_flags)
{
    char path[32];
    struct stat st;
    int copy;

    *old_flags = -1;
    if (fstat(fd, &st) < 0) {
        return -1;
    }
    if (S_ISREG(st.st_mode)) { /* shares its offset with others, and never blocks */
        return fcntl(fd, F_DUPFD_CLOEXEC, 3);
    }
    if (S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode)) {
        g_snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        copy = open(path, mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (copy >= 0) {
            return copy;
        }
    }
    copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy >= 0) {
        *old_flags = fcntl(copy, F_GETFL);
        fcntl(copy, F_SETFL, *old_flags | O_NONBLOCK);
    }
    return copy;
}

static void on_input(void *opaque)
{
    HostFile *f = opaque;
    ssize_t n = chardev_read_fd(&f->chr, f->in_fd, NULL);

    if (n == -EBUSY) {
        loop_fd_set(f->in, NULL, NULL);
    } else if (n == 0 || (n < 0 && n != -EAGAIN)) {
        f->at_end = true;
        loop_remove_fd(f->in);
        f->in = NULL;
    }
}

static void file_update_input(Chardev *chr)
{
    HostFile *f = (HostFile *)chr;
    bool wants = chardev_wants_input(chr);

    if (f->in_fd < 0 || f->at_end) {
        return;
    }
    if (f->in) {
        loop_fd_set(f->in, wants ? on_input : NULL, NULL);
    } else if (wants) {
        f->in = loop_add_fd(chr->loop, f->in_fd, on_input, NULL, NULL, f, NULL);
    }
}

static ssize_t file_write(Chardev *chr, const uint8_t *data, size_t size)
{
    HostFile *f = (HostFile *)chr;

    return f->out_fd < 0 ? (ssize_t)size : chardev_write_fd(f->out_fd, data, size);
}

static int file_write_fd(Chardev *chr)
{
    return ((HostFile *)chr)->out_fd;
}

static void file_close(Chardev *chr)
{
    HostFile *f = (HostFile *)chr;

    loop_remove_fd(f->in);
    chardev_unwatch_output(chr);
    if (f->restore) {
        terminal_restore();
    }
    if (f->in_fd >= 0) {
        if (f->in_flags >= 0) {
            fcntl(f->in_fd, F_SETFL, f->in_flags);
        }
        close(f->in_fd);
    }
    if (f->out_fd >= 0 && f->out_fd != f->in_fd) {
        if (f->out_flags >= 0) {
            fcntl(f->out_fd, F_SETFL, f->out_flags);
        }
        close(f->out_fd);
    }
    f->in_fd = f->out_fd = -1;
}

static void file_opened(HostFile *f)
{
    f->chr.be_open = true;
}

/* ---- stdio ---- */

static bool stdio_open(Chardev *chr, const QapiChardevBackend *backend, GError **error)
{
    HostFile *f = (HostFile *)chr;
    const QapiChardevStdio *o = backend->u_stdio->data;

    f->in_fd = f->out_fd = f->in_flags = f->out_flags = -1;
    if (__atomic_load_n(&terminal_saved, __ATOMIC_SEQ_CST)) {
        return error_set(error, "%s: standard input is in use by another chardev", chr->what);
    }
    f->in_fd = private_copy(STDIN_FILENO, O_RDONLY, &f->in_flags);
    f->out_fd = private_copy(STDOUT_FILENO, O_WRONLY, &f->out_flags);
    if (isatty(STDIN_FILENO)) {
        f->restore = true;
        terminal_raw(!o->has_signal || o->signal);
    }
    file_opened(f);
    return true;
}

static const ChardevDriver stdio_driver = {
    .name = "stdio",
    .instance_size = sizeof(HostFile),
    .open = stdio_open,
    .close = file_close,
    .write = file_write,
    .write_fd = file_write_fd,
    .update_input = file_update_input,
};
CHARDEV_DRIVER(stdio_driver);

/* ---- file ---- */

static bool file_open(Chardev *chr, const QapiChardevBackend *backend, GError **error)
{
    HostFile *f = (HostFile *)chr;
    const QapiChardevFile *o = backend->u_file->data;
    const char *path = o->out, *in_path = o->in_;
    FdTable *fds = chardev_registry_fds(chr->reg);
    bool append = o->has_append && o->append;

    f->in_fd = f->out_fd = f->in_flags = f->out_flags = -1;
    f->out_fd =
        fd_table_open(fds, path, O_WRONLY | O_CREAT | O_NONBLOCK | (append ? O_APPEND : O_TRUNC), 0666);
    if (f->out_fd < 0) {
        return error_set_errno(error, errno, "%s: cannot open '%s'", chr->what, path);
    }
    if (in_path) {
        f->in_fd = fd_table_open(fds, in_path, O_RDONLY | O_NONBLOCK, 0);
        if (f->in_fd < 0) {
            return error_set_errno(error, errno, "%s: cannot open '%s'", chr->what, in_path);
        }
    }
    file_opened(f);
    return true;
}

static const ChardevDriver file_driver = {
    .name = "file",
    .instance_size = sizeof(HostFile),
    .open = file_open,
    .close = file_close,
    .write = file_write,
    .write_fd = file_write_fd,
    .update_input = file_update_input,
};
CHARDEV_DRIVER(file_driver);

/* ---- pipe: PATH.in and PATH.out, or one at PATH ---- */

static bool pipe_open(Chardev *chr, const QapiChardevBackend *backend, GError **error)
{
    HostFile *f = (HostFile *)chr;
    const char *path = backend->u_pipe->data->device;
    g_autofree char *in_path = NULL, *out_path = NULL;

    f->in_fd = f->out_fd = f->in_flags = f->out_flags = -1;
    in_path = g_strconcat(path, ".in", NULL);
    out_path = g_strconcat(path, ".out", NULL);
    /* For reading and writing, so that neither end waits for, or loses, a partner. */
    f->in_fd = open(in_path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    f->out_fd = open(out_path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (f->in_fd < 0 && f->out_fd < 0) {
        f->in_fd = f->out_fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    }
    if (f->in_fd < 0 || f->out_fd < 0) {
        return error_set_errno(error, errno, "%s: cannot open '%s.in' and '%s.out', or '%s'", chr->what, path,
                               path, path);
    }
    file_opened(f);
    return true;
}

static const ChardevDriver pipe_driver = {
    .name = "pipe",
    .instance_size = sizeof(HostFile),
    .open = pipe_open,
    .close = file_close,
    .write = file_write,
    .write_fd = file_write_fd,
    .update_input = file_update_input,
};
CHARDEV_DRIVER(pipe_driver);

/* ---- serial: a tty of the host ---- */

static bool serial_open(Chardev *chr, const QapiChardevBackend *backend, GError **error)
{
    HostFile *f = (HostFile *)chr;
    const char *path = backend->u_serial->data->device;
    struct termios t;

    f->in_fd = f->out_fd = f->in_flags = f->out_flags = -1;
    f->in_fd = f->out_fd = open(path, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (f->in_fd < 0) {
        return error_set_errno(error, errno, "%s: cannot open '%s'", chr->what, path);
    }
    if (tcgetattr(f->in_fd, &t) == 0) {
        cfmakeraw(&t);
        cfsetspeed(&t, B115200);
        tcsetattr(f->in_fd, TCSANOW, &t);
    }
    file_opened(f);
    return true;
}

static void serial_break(Chardev *chr)
{
    tcsendbreak(((HostFile *)chr)->out_fd, 0);
}

static void serial_set_line(Chardev *chr, const ChardevLine *line)
{
    static const struct {
        int rate;
        speed_t speed;
    } speeds[] = { { 50, B50 },       { 300, B300 },     { 600, B600 },      { 1200, B1200 },
                   { 2400, B2400 },   { 4800, B4800 },   { 9600, B9600 },    { 19200, B19200 },
                   { 38400, B38400 }, { 57600, B57600 }, { 115200, B115200 } };
    static const tcflag_t sizes[] = { CS5, CS6, CS7, CS8 };
    int fd = ((HostFile *)chr)->in_fd;
    struct termios t;

    if (tcgetattr(fd, &t) < 0) {
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(speeds); i++) { /* the nearest below, within a tenth */
        if (line->speed >= speeds[i].rate - speeds[i].rate / 10) {
            cfsetspeed(&t, speeds[i].speed);
        }
    }
    t.c_cflag &= ~(tcflag_t)(CSIZE | PARENB | PARODD | CSTOPB);
    t.c_cflag |= sizes[CLAMP(line->data_bits, 5, 8) - 5];
    t.c_cflag |= line->parity == 'E' ? PARENB : line->parity == 'O' ? PARENB | PARODD : 0;
    t.c_cflag |= line->stop_bits > 1 ? CSTOPB : 0;
    tcsetattr(fd, TCSANOW, &t);
}

static const ChardevDriver serial_driver = {
    .name = "serial",
    .instance_size = sizeof(HostFile),
    .open = serial_open,
    .close = file_close,
    .write = file_write,
    .write_fd = file_write_fd,
    .update_input = file_update_input,
    .send_break = serial_break,
    .set_line = serial_set_line,
};
CHARDEV_DRIVER(serial_driver);
