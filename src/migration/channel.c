/* Ends of a state stream: see channel.h. SPDX-License-Identifier: GPL-2.0-or-later */
#include "migration/channel.h"

#include "base/error.h"
#include "io/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define BUFFER_SIZE (256u << 10)

struct Channel {
    char *uri;
    bool incoming;
    int fd;                 /* -1: not connected yet */
    int listen_fd;          /* -1: none */
    int cancel_fd;          /* readable once cancelled */
    SocketAddress *address; /* to connect to */
    pid_t child;            /* of exec: 0: none, or ended */
    bool cancelled;         /* atomic */
    uint8_t *buffer;        /* what was read ahead, or is to be written */
    size_t fill, at;
};

/* ---- opening ---- */

static bool open_file(Channel *ch, const char *path, GError **error)
{
    int flags = ch->incoming ? O_RDONLY : O_WRONLY | O_CREAT | O_TRUNC;

    if (!*path) {
        return error_set(error, "migration: '%s' names no file", ch->uri);
    }
    ch->fd = open(path, flags | O_CLOEXEC, 0600);
    if (ch->fd < 0) {
        return error_set_errno(error, errno, "migration: cannot open '%s'", path);
    }
    return true;
}

/* In a process group of its own, so that all of a pipeline can be ended. */
static bool open_command(Channel *ch, const char *command, GError **error)
{
    extern char **environ;
    char *argv[] = { (char *)"/bin/sh", (char *)"-c", (char *)(uintptr_t)command, NULL };
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, pipe_only;
    int ends[2];

    if (!*command) {
        return error_set(error, "migration: '%s' names no command", ch->uri);
    }
    if (pipe2(ends, O_CLOEXEC) < 0) {
        return error_set_errno(error, errno, "migration: cannot make a pipe");
    }
    int ours = ch->incoming ? ends[0] : ends[1], its = ch->incoming ? ends[1] : ends[0];
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, its, ch->incoming ? STDOUT_FILENO : STDIN_FILENO);
    posix_spawnattr_init(&attr);
    sigemptyset(&none);
    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &pipe_only);
    posix_spawnattr_setpgroup(&attr, 0);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    int result = posix_spawn(&ch->child, argv[0], &actions, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    close(its);
    if (result) {
        close(ours);
        ch->child = 0;
        return error_set_errno(error, result, "migration: cannot run '%s'", command);
    }
    ch->fd = ours;
    return true;
}

static bool open_socket(Channel *ch, SocketAddress *address, FdTable *fds, GError **error)
{
    ch->address = address;
    if (ch->incoming) {
        ch->listen_fd = socket_listen(address, fds, error);
        return ch->listen_fd >= 0;
    }
    return true;
}

static SocketAddress *parse_tcp(const char *uri, const char *text, GError **error)
{
    const char *colon = strrchr(text, ':');
    g_autofree char *port = colon ? g_strdup(colon + 1) : NULL;
    g_autofree char *host = colon ? g_strndup(text, (gsize)(colon - text)) : NULL;
    char *comma = port ? strchr(port, ',') : NULL;

    if (comma) {
        *comma = '\0'; /* ",to=..." and the like are not for migration */
    }
    if (!port || !*port || comma) {
        error_set(error, "migration: '%s' is not tcp:HOST:PORT", uri);
        return NULL;
    }
    size_t length = strlen(host);
    if (length > 1 && host[0] == '[' && host[length - 1] == ']') {
        memmove(host, host + 1, length - 2);
        host[length - 2] = '\0';
    }
    SocketAddress *address = socket_address_new();
    address->kind = SOCKET_KIND_INET;
    address->host = g_steal_pointer(&host);
    address->port = g_steal_pointer(&port);
    return address;
}

static bool open_uri(Channel *ch, FdTable *fds, GError **error)
{
    const char *uri = ch->uri, *rest = strchr(uri, ':');

    rest = rest ? rest + 1 : uri;
    if (g_str_has_prefix(uri, "file:")) {
        return open_file(ch, rest, error);
    }
    if (g_str_has_prefix(uri, "exec:")) {
        return open_command(ch, rest, error);
    }
    if (g_str_has_prefix(uri, "fd:")) {
        ch->fd = fd_table_take(fds, rest, error);
        return ch->fd >= 0;
    }
    if (g_str_has_prefix(uri, "unix:")) {
        if (!*rest) {
            return error_set(error, "migration: '%s' names no socket", uri);
        }
        SocketAddress *address = socket_address_new();
        address->kind = SOCKET_KIND_UNIX;
        address->path = g_strdup(rest);
        return open_socket(ch, address, fds, error);
    }
    if (g_str_has_prefix(uri, "tcp:")) {
        SocketAddress *address = parse_tcp(uri, rest, error);
        return address && open_socket(ch, address, fds, error);
    }
    error_set(error, "unknown migration protocol: %s", uri);
    error_append_hint(error, "Known are file:PATH, exec:COMMAND, unix:PATH, tcp:HOST:PORT and fd:NAME.");
    return false;
}

Channel *channel_open(const char *uri, bool incoming, FdTable *fds, GError **error)
{
    Channel *ch = g_new0(Channel, 1);

    ch->uri = g_strdup(uri);
    ch->incoming = incoming;
    ch->fd = ch->listen_fd = -1;
    ch->buffer = g_malloc(BUFFER_SIZE);
    ch->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ch->cancel_fd < 0) {
        error_set_errno(error, errno, "migration: cannot make an eventfd");
        channel_free(ch);
        return NULL;
    }
    if (!open_uri(ch, fds, error)) {
        channel_free(ch);
        return NULL;
    }
    if (ch->fd >= 0) {
        struct stat st;
        /* A descriptor of a file is shared with whoever gave it: files need no such flag. */
        if (fstat(ch->fd, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
            fcntl(ch->fd, F_SETFL, fcntl(ch->fd, F_GETFL) | O_NONBLOCK);
        }
    }
    return ch;
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

static void end_child(Channel *ch)
{
    if (ch->child > 0) {
        kill(-ch->child, SIGKILL);
        while (waitpid(ch->child, NULL, 0) < 0 && errno == EINTR) {}
        ch->child = 0;
    }
}

void channel_free(Channel *ch)
{
    if (!ch) {
        return;
    }
    close_fd(&ch->fd);
    end_child(ch);
    if (ch->listen_fd >= 0 && ch->address && ch->address->kind == SOCKET_KIND_UNIX) {
        unlink(ch->address->path);
    }
    close_fd(&ch->listen_fd);
    close_fd(&ch->cancel_fd);
    socket_address_free(ch->address);
    g_free(ch->buffer);
    g_free(ch->uri);
    g_free(ch);
}

bool channel_must_connect(const Channel *ch)
{
    return ch->fd < 0;
}

char *channel_listening(const Channel *ch)
{
    if (ch->listen_fd < 0) {
        return NULL;
    }
    g_autofree char *name = socket_local_name(ch->listen_fd);
    return g_strdup_printf("%s:%s", ch->address->kind == SOCKET_KIND_UNIX ? "unix" : "tcp",
                           name ? name : "?");
}

/* ---- waiting ---- */

bool channel_cancelled(const Channel *ch)
{
    return __atomic_load_n(&ch->cancelled, __ATOMIC_ACQUIRE);
}

void channel_cancel(Channel *ch)
{
    uint64_t one = 1;

    __atomic_store_n(&ch->cancelled, true, __ATOMIC_RELEASE);
    if (write(ch->cancel_fd, &one, sizeof(one)) < 0) {
        /* it is readable already */
    }
}

static bool wait_for(Channel *ch, int fd, short events, GError **error)
{
    struct pollfd fds[2] = { { .fd = ch->cancel_fd, .events = POLLIN }, { .fd = fd, .events = events } };

    while (poll(fds, 2, -1) < 0 && errno == EINTR) {}
    return !channel_cancelled(ch) || error_set(error, "migration: cancelled");
}

bool channel_sleep_ms(Channel *ch, int ms)
{
    struct pollfd fd = { .fd = ch->cancel_fd, .events = POLLIN };

    poll(&fd, 1, ms);
    return !channel_cancelled(ch);
}

bool channel_connect(Channel *ch, GError **error)
{
    if (ch->fd >= 0) {
        return true;
    }
    if (!ch->incoming) {
        ch->fd = socket_connect(ch->address, NULL, error);
        return ch->fd >= 0;
    }
    while (ch->fd < 0) {
        if (!wait_for(ch, ch->listen_fd, POLLIN, error)) {
            return false;
        }
        ch->fd = accept4(ch->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (ch->fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
            return error_set_errno(error, errno, "migration: cannot accept a connection");
        }
    }
    return true;
}

/* ---- bytes ---- */

static bool write_all(Channel *ch, const uint8_t *data, size_t size, GError **error)
{
    while (size) {
        if (channel_cancelled(ch)) {
            return error_set(error, "migration: cancelled");
        }
        ssize_t n = write(ch->fd, data, size);
        if (n >= 0) {
            data += n;
            size -= (size_t)n;
        } else if (errno == EAGAIN) {
            if (!wait_for(ch, ch->fd, POLLOUT, error)) {
                return false;
            }
        } else if (errno != EINTR) {
            return error_set_errno(error, errno, "migration: cannot write to '%s'", ch->uri);
        }
    }
    return true;
}

static bool flush(Channel *ch, GError **error)
{
    size_t fill = ch->fill;

    ch->fill = 0;
    return write_all(ch, ch->buffer, fill, error);
}

bool channel_write(Channel *ch, const void *data, size_t size, GError **error)
{
    if (size > BUFFER_SIZE - ch->fill && !flush(ch, error)) {
        return false;
    }
    if (size >= BUFFER_SIZE / 2) {
        return flush(ch, error) && write_all(ch, data, size, error);
    }
    memcpy(ch->buffer + ch->fill, data, size);
    ch->fill += size;
    return true;
}

static ssize_t read_some(Channel *ch, void *data, size_t size, GError **error)
{
    for (;;) {
        if (channel_cancelled(ch)) {
            error_set(error, "migration: cancelled");
            return -1;
        }
        ssize_t n = read(ch->fd, data, size);
        if (n > 0) {
            return n;
        }
        if (n == 0) {
            error_set(error, "migration: the state ends too early");
            return -1;
        }
        if (errno == EAGAIN) {
            if (!wait_for(ch, ch->fd, POLLIN, error)) {
                return -1;
            }
        } else if (errno != EINTR) {
            error_set_errno(error, errno, "migration: cannot read from '%s'", ch->uri);
            return -1;
        }
    }
}

bool channel_read(Channel *ch, void *data, size_t size, GError **error)
{
    uint8_t *to = data;

    while (size) {
        size_t have = MIN(size, ch->fill - ch->at);
        memcpy(to, ch->buffer + ch->at, have);
        ch->at += have;
        to += have;
        size -= have;
        if (!size) {
            break;
        }
        bool direct = size >= BUFFER_SIZE / 2;
        ssize_t n = read_some(ch, direct ? to : ch->buffer, direct ? size : BUFFER_SIZE, error);
        if (n < 0) {
            return false;
        }
        if (direct) {
            to += n;
            size -= (size_t)n;
        } else {
            ch->at = 0;
            ch->fill = (size_t)n;
        }
    }
    return true;
}

static bool reap(Channel *ch, GError **error)
{
    int status = 0;

    while (ch->child > 0) {
        pid_t done = waitpid(ch->child, &status, WNOHANG);
        if (done == ch->child) {
            ch->child = 0;
        } else if (done < 0 && errno != EINTR) {
            ch->child = 0;
            return error_set_errno(error, errno, "migration: lost the command of '%s'", ch->uri);
        } else if (!channel_sleep_ms(ch, 5)) {
            return error_set(error, "migration: cancelled");
        }
    }
    if (WIFSIGNALED(status)) {
        return error_set(error, "migration: the command of '%s' was ended by signal %d", ch->uri,
                         WTERMSIG(status));
    }
    return WEXITSTATUS(status) == 0 ||
           error_set(error, "migration: the command of '%s' failed with status %d", ch->uri,
                     WEXITSTATUS(status));
}

bool channel_finish(Channel *ch, GError **error)
{
    struct stat st;

    if (!ch->incoming) {
        if (!flush(ch, error)) {
            return false;
        }
        if (fstat(ch->fd, &st) == 0 && S_ISREG(st.st_mode) && fdatasync(ch->fd) < 0) {
            return error_set_errno(error, errno, "migration: cannot make '%s' stable", ch->uri);
        }
    }
    close_fd(&ch->fd);
    if (ch->child && ch->incoming) {
        end_child(ch); /* the state is complete: what else the command does is its business */
        return true;
    }
    return !ch->child || reap(ch, error);
}
