/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "io/fd_table.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

typedef struct SetFd {
    int fd;
    char *opaque;
} SetFd;

typedef struct FdSet {
    int64_t id;
    GPtrArray *fds; /* of SetFd * */
} FdSet;

struct FdTable {
    GHashTable *by_name; /* name -> fd + 1 */
    GPtrArray *sets;     /* of FdSet *, by rising id */
};

static void set_fd_free(gpointer p)
{
    SetFd *f = p;

    close(f->fd);
    g_free(f->opaque);
    g_free(f);
}

static void fd_set_free(gpointer p)
{
    FdSet *set = p;

    g_ptr_array_unref(set->fds);
    g_free(set);
}

static void close_value(gpointer p)
{
    close(GPOINTER_TO_INT(p) - 1);
}

FdTable *fd_table_new(void)
{
    FdTable *table = g_new0(FdTable, 1);

    table->by_name = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, close_value);
    table->sets = g_ptr_array_new_with_free_func(fd_set_free);
    return table;
}

void fd_table_free(FdTable *table)
{
    if (table) {
        g_hash_table_unref(table->by_name);
        g_ptr_array_unref(table->sets);
        g_free(table);
    }
}

bool fd_table_put(FdTable *table, const char *name, int fd, GError **error)
{
    if (!*name || g_ascii_isdigit(*name)) {
        close(fd);
        return error_set(error, "Parameter 'fdname' expects a name not starting with a digit");
    }
    g_hash_table_replace(table->by_name, g_strdup(name), GINT_TO_POINTER(fd + 1));
    return true;
}

bool fd_table_close(FdTable *table, const char *name, GError **error)
{
    return g_hash_table_remove(table->by_name, name) ||
           error_set(error, "File descriptor named '%s' not found", name);
}

int fd_table_take(FdTable *table, const char *name, GError **error)
{
    gpointer key, value;

    if (g_ascii_isdigit(*name)) {
        char *end;
        gint64 fd = g_ascii_strtoll(name, &end, 10);

        if (*end || fd > G_MAXINT || fcntl((int)fd, F_GETFD) < 0) {
            error_set(error, "File descriptor '%s' is not open", name);
            return -1;
        }
        fcntl((int)fd, F_SETFD, FD_CLOEXEC);
        return (int)fd;
    }
    if (!table || !g_hash_table_steal_extended(table->by_name, name, &key, &value)) {
        error_set(error, "File descriptor named '%s' not found", name);
        return -1;
    }
    g_free(key);
    return GPOINTER_TO_INT(value) - 1;
}

static FdSet *find_set(FdTable *table, int64_t id, guint *place)
{
    guint i;

    for (i = 0; i < table->sets->len; i++) {
        FdSet *set = g_ptr_array_index(table->sets, i);

        if (set->id == id) {
            *place = i;
            return set;
        }
        if (set->id > id) {
            break;
        }
    }
    *place = i;
    return NULL;
}

int64_t fd_table_set_add(FdTable *table, int64_t id, int fd, const char *opaque, GError **error)
{
    FdSet *set;
    SetFd *f;
    guint place;

    if (id < -1) {
        close(fd);
        error_set(error, "Parameter 'fdset-id' expects a non-negative value");
        return -1;
    }
    if (id == -1) {
        for (id = 0; find_set(table, id, &place); id++) {}
    }
    set = find_set(table, id, &place);
    if (!set) {
        set = g_new0(FdSet, 1);
        set->id = id;
        set->fds = g_ptr_array_new_with_free_func(set_fd_free);
        g_ptr_array_insert(table->sets, (int)place, set);
    }
    f = g_new0(SetFd, 1);
    f->fd = fd;
    f->opaque = g_strdup(opaque);
    g_ptr_array_add(set->fds, f);
    return id;
}

bool fd_table_set_remove(FdTable *table, int64_t id, int fd, GError **error)
{
    guint place;
    FdSet *set = find_set(table, id, &place);
    bool found = false;

    for (guint i = set ? set->fds->len : 0; i-- > 0;) {
        SetFd *f = g_ptr_array_index(set->fds, i);

        if (fd < 0 || f->fd == fd) {
            g_ptr_array_remove_index(set->fds, i);
            found = true;
        }
    }
    if (!found) {
        return error_set(error, "File descriptor named 'fdset-id:%" G_GINT64_FORMAT "' not found", id);
    }
    if (!set->fds->len) {
        g_ptr_array_remove_index(table->sets, place);
    }
    return true;
}

json_object *fd_table_set_query(FdTable *table)
{
    json_object *list = json_object_new_array();

    for (guint i = 0; i < table->sets->len; i++) {
        FdSet *set = g_ptr_array_index(table->sets, i);
        json_object *s = json_object_new_object(), *fds = json_object_new_array();

        for (guint k = 0; k < set->fds->len; k++) {
            SetFd *f = g_ptr_array_index(set->fds, k);
            json_object *o = json_object_new_object();

            json_object_object_add(o, "fd", json_object_new_int(f->fd));
            if (f->opaque) {
                json_object_object_add(o, "opaque", json_object_new_string(f->opaque));
            }
            json_object_array_add(fds, o);
        }
        json_object_object_add(s, "fds", fds);
        json_object_object_add(s, "fdset-id", json_object_new_int64(set->id));
        json_object_array_add(list, s);
    }
    return list;
}

int fd_table_open(FdTable *table, const char *path, int flags, unsigned mode)
{
    const char *number = path + strlen("/dev/fdset/");
    char *end;
    gint64 id;
    guint place;
    FdSet *set;

    if (!g_str_has_prefix(path, "/dev/fdset/")) {
        int fd;

        do {
            fd = open(path, flags | O_CLOEXEC, mode);
        } while (fd < 0 && errno == EINTR);
        return fd;
    }
    id = g_ascii_strtoll(number, &end, 10);
    set = table && *number && !*end ? find_set(table, id, &place) : NULL;
    if (!set) {
        errno = ENOENT;
        return -1;
    }
    for (guint i = 0; i < set->fds->len; i++) {
        SetFd *f = g_ptr_array_index(set->fds, i);
        int have = fcntl(f->fd, F_GETFL);

        if (have >= 0 && (have & O_ACCMODE) == (flags & O_ACCMODE)) {
            int fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 0);

            if (fd >= 0 && ((have ^ flags) & (O_DIRECT | O_NONBLOCK | O_APPEND))) {
                fcntl(fd, F_SETFL,
                      (have & ~(O_DIRECT | O_NONBLOCK | O_APPEND)) |
                          (flags & (O_DIRECT | O_NONBLOCK | O_APPEND)));
            }
            return fd;
        }
    }
    errno = EACCES;
    return -1;
}
