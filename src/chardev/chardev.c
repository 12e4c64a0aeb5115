/*
 * Chardevs: the registry, the front end's side, and the output buffer.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "chardev/chardev_internal.h"

#include "base/error.h"
#include "base/log.h"
#include "base/nearest.h"
#include "io/options.h"
#include "qapi/visitor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

SECTION_DECLARE(rhea_chardev_drivers, const ChardevDriver);

struct ChardevRegistry {
    Loop *loop;
    FdTable *fds;
    GPtrArray *list; /* of Chardev *, in the order they were made */
    void (*quit)(void *opaque);
    void *quit_opaque;
    int escape;
};

static ChardevRegistry *property_registry; /* see chardev_property_set_registry */

/* ---- the front end's lock ---- */

void chardev_fe_lock(ChardevFrontend *fe, bool *locked)
{
    *locked = fe->lock && home_lock_enter(fe->lock);
}

void chardev_fe_unlock(ChardevFrontend *fe, bool locked)
{
    if (locked) {
        home_unlock(fe->lock);
    }
}

/* ---- input ---- */

bool chardev_wants_input(const Chardev *chr)
{
    return chr->fe && chr->fe->ops && !__atomic_load_n(&chr->input_paused, __ATOMIC_SEQ_CST);
}

ssize_t chardev_read_fd(Chardev *chr, int fd,
                        ssize_t (*read_fn)(Chardev *chr, int fd, void *buf, size_t size))
{
    ChardevFrontend *fe = chr->fe;
    uint8_t buf[CHARDEV_READ_BYTES];
    size_t room = sizeof(buf);
    ssize_t n;
    bool locked;

    if (!fe || !fe->ops) {
        return -EBUSY;
    }
    chardev_fe_lock(fe, &locked);
    if (fe->ops->can_receive) {
        room = MIN(room, fe->ops->can_receive(fe->opaque));
    }
    if (!room) {
        __atomic_store_n(&chr->input_paused, true, __ATOMIC_SEQ_CST);
        chardev_fe_unlock(fe, locked);
        return -EBUSY;
    }
    do {
        n = read_fn ? read_fn(chr, fd, buf, room) : read(fd, buf, room);
    } while (n < 0 && errno == EINTR);
    if (n > 0 && fe->ops && fe->ops->receive) {
        fe->ops->receive(fe->opaque, buf, (size_t)n);
    }
    chardev_fe_unlock(fe, locked);
    return n < 0 ? -errno : n;
}

size_t chardev_deliver(Chardev *chr, const uint8_t *data, size_t size)
{
    ChardevFrontend *fe = chr->fe;
    size_t room = size;
    bool locked;

    if (!fe || !fe->ops) {
        return 0;
    }
    chardev_fe_lock(fe, &locked);
    if (fe->ops->can_receive) {
        room = MIN(room, fe->ops->can_receive(fe->opaque));
    }
    if (!room) {
        __atomic_store_n(&chr->input_paused, true, __ATOMIC_SEQ_CST);
    } else if (fe->ops->receive) {
        fe->ops->receive(fe->opaque, data, room);
    }
    chardev_fe_unlock(fe, locked);
    return room;
}

void chardev_event(Chardev *chr, ChardevEvent event)
{
    ChardevFrontend *fe = chr->fe;
    bool locked;

    if (fe && fe->ops && fe->ops->event) {
        chardev_fe_lock(fe, &locked);
        fe->ops->event(fe->opaque, event);
        chardev_fe_unlock(fe, locked);
    }
}

void chardev_set_open(Chardev *chr, bool open)
{
    if (chr->be_open == open) {
        return;
    }
    __atomic_store_n(&chr->be_open, open, __ATOMIC_SEQ_CST);
    if (chr->fe) {
        chr->fe->opened_pending = false;
    }
    chardev_event(chr, open ? CHARDEV_EVENT_OPENED : CHARDEV_EVENT_CLOSED);
}

/* ---- output ---- */

ssize_t chardev_write_fd(int fd, const uint8_t *data, size_t size)
{
    ssize_t n;

    do {
        n = write(fd, data, size);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
    }
    return n;
}

static size_t pending_locked(const Chardev *chr)
{
    return chr->out->len - chr->out_head;
}

void chardev_drop_output(Chardev *chr)
{
    g_byte_array_set_size(chr->out, 0);
    chr->out_head = 0;
}

/* With the lock held: writes what is buffered as far as it goes. */
static void flush_locked(Chardev *chr)
{
    while (pending_locked(chr)) {
        ssize_t n = chr->driver->write(chr, chr->out->data + chr->out_head, pending_locked(chr));

        if (n < 0) { /* nobody reads it any more */
            chardev_drop_output(chr);
            return;
        }
        if (n == 0) {
            break;
        }
        chr->out_head += (size_t)n;
    }
    if (!pending_locked(chr)) {
        chardev_drop_output(chr);
    } else if (chr->out_head > CHARDEV_BUFFER_BYTES) {
        g_byte_array_remove_range(chr->out, 0, (guint)chr->out_head);
        chr->out_head = 0;
    }
}

static void tell_writable(Chardev *chr)
{
    ChardevFrontend *fe = chr->fe;
    bool locked;

    if (fe && fe->ops && __atomic_exchange_n(&fe->want_write, false, __ATOMIC_SEQ_CST) && fe->ops->writable) {
        chardev_fe_lock(fe, &locked);
        fe->ops->writable(fe->opaque);
        chardev_fe_unlock(fe, locked);
    }
}

void chardev_unwatch_output(Chardev *chr)
{
    if (chr->out_watch) {
        loop_remove_fd(chr->out_watch);
        chr->out_watch = NULL;
    }
}

static void on_output_room(void *opaque);

static void update_output(Chardev *chr)
{
    size_t pending;
    int fd;

    pthread_mutex_lock(&chr->lock);
    if (pending_locked(chr) && chr->be_open) {
        flush_locked(chr);
    }
    pending = pending_locked(chr);
    pthread_mutex_unlock(&chr->lock);
    fd = pending && chr->driver->write_fd ? chr->driver->write_fd(chr) : -1;
    if (chr->out_watch && (fd < 0 || fd != chr->out_watch_fd)) {
        chardev_unwatch_output(chr);
    }
    if (fd >= 0 && !chr->out_watch) {
        chr->out_watch_fd = fd;
        chr->out_watch = loop_add_fd(chr->loop, fd, NULL, on_output_room, NULL, chr, NULL);
    }
    if (pending < CHARDEV_BUFFER_BYTES / 2) {
        tell_writable(chr);
    }
}

static void on_output_room(void *opaque)
{
    update_output(opaque);
}

static void log_output(Chardev *chr, const uint8_t *data, size_t size)
{
    while (chr->log_fd >= 0 && size) {
        ssize_t n = write(chr->log_fd, data, size);

        if (n < 0 && errno != EINTR) {
            return;
        }
        if (n > 0) {
            data += n;
            size -= (size_t)n;
        }
    }
}

/* Buffers at most up to limit. Returns what was taken. */
static size_t chardev_write(Chardev *chr, const uint8_t *data, size_t size, size_t limit, bool whole)
{
    size_t taken = 0;
    bool arm = false;

    pthread_mutex_lock(&chr->lock);
    if (!chr->be_open && chr->driver->write_closed) {
        chr->driver->write_closed(chr);
    }
    if (!chr->be_open) {
        log_output(chr, data, size);
        pthread_mutex_unlock(&chr->lock);
        return size;
    }
    if (whole && pending_locked(chr) + size > limit) {
        pthread_mutex_unlock(&chr->lock);
        return 0;
    }
    while (!pending_locked(chr) && taken < size) {
        ssize_t n = chr->driver->write(chr, data + taken, size - taken);

        if (n < 0) {
            taken = size;
        } else if (n == 0) {
            break;
        } else {
            taken += (size_t)n;
        }
    }
    if (taken < size) {
        size_t room = limit > pending_locked(chr) ? limit - pending_locked(chr) : 0;
        size_t n = MIN(size - taken, room);

        g_byte_array_append(chr->out, data + taken, (guint)n);
        taken += n;
        arm = true;
    }
    log_output(chr, data, taken);
    pthread_mutex_unlock(&chr->lock);
    if (arm) {
        bh_schedule(chr->bh);
    }
    return taken;
}

/* ---- the bottom half: everything that other threads asked for ---- */

static void chardev_bh(void *opaque)
{
    Chardev *chr = opaque;
    ChardevFrontend *fe = chr->fe;

    if (chr->driver == &chardev_mux_driver) {
        chardev_mux_run(chr);
        return;
    }
    if (__atomic_exchange_n(&chr->disconnect_asked, false, __ATOMIC_SEQ_CST) && chr->driver->disconnect) {
        chr->driver->disconnect(chr);
    }
    if (fe && fe->opened_pending) {
        fe->opened_pending = false;
        if (chr->be_open) {
            chardev_event(chr, CHARDEV_EVENT_OPENED);
        }
    }
    if (chr->driver->update_input) {
        chr->driver->update_input(chr);
    }
    update_output(chr);
}

/* ---- front ends ---- */

bool chardev_fe_init(ChardevFrontend *fe, Chardev *chr, GError **error)
{
    if (chr->driver == &chardev_mux_driver) {
        memset(fe, 0, sizeof(*fe));
        if (!chardev_mux_attach(chr, fe, error)) {
            return false;
        }
    } else if (chr->fe || chr->internal) {
        return error_set(error, "Chardev '%s' is already in use", chr->id);
    } else {
        memset(fe, 0, sizeof(*fe));
        chr->fe = fe;
    }
    fe->chr = chr;
    return true;
}

void chardev_fe_deinit(ChardevFrontend *fe)
{
    Chardev *chr = fe->chr;

    if (!chr) {
        return;
    }
    chardev_fe_set_handlers(fe, NULL, NULL, NULL);
    if (chr->driver == &chardev_mux_driver) {
        chardev_mux_detach(chr, fe);
    } else {
        chr->fe = NULL;
    }
    fe->chr = NULL;
}

void chardev_fe_set_handlers(ChardevFrontend *fe, const ChardevFrontendOps *ops, void *opaque, HomeLock *lock)
{
    Chardev *chr = fe->chr;

    if (!chr) {
        return;
    }
    fe->ops = ops;
    fe->opaque = opaque;
    fe->lock = lock;
    fe->opened_pending = ops && chardev_fe_backend_open(fe);
    if (chr->driver == &chardev_mux_driver && ops && chr->fe != fe &&
        (!chr->fe || !chr->fe->ops || (chr->fe->yields_focus && !fe->yields_focus))) {
        chardev_mux_focus(chr, fe);
    }
    __atomic_store_n(&chr->input_paused, false, __ATOMIC_SEQ_CST);
    bh_schedule(chr->bh);
}

bool chardev_fe_connected(const ChardevFrontend *fe)
{
    return fe->chr != NULL;
}

bool chardev_fe_backend_open(const ChardevFrontend *fe)
{
    Chardev *chr = fe->chr;

    if (!chr) {
        return false;
    }
    if (chr->driver == &chardev_mux_driver) {
        chr = chardev_mux_base(chr);
    }
    return __atomic_load_n(&chr->be_open, __ATOMIC_SEQ_CST);
}

void chardev_fe_set_open(ChardevFrontend *fe, bool open)
{
    fe->open = open;
}

size_t chardev_fe_write(ChardevFrontend *fe, const void *data, size_t size)
{
    size_t taken;

    if (!fe->chr) {
        return size;
    }
    if (fe->chr->driver == &chardev_mux_driver) {
        taken = chardev_mux_write(fe->chr, data, size, false);
    } else {
        taken = chardev_write(fe->chr, data, size, CHARDEV_BUFFER_BYTES, false);
    }
    if (taken < size) {
        __atomic_store_n(&fe->want_write, true, __ATOMIC_SEQ_CST);
        bh_schedule(fe->chr->bh); /* there may be room again already */
    }
    return taken;
}

bool chardev_fe_write_all(ChardevFrontend *fe, const void *data, size_t size)
{
    if (!fe->chr || !size) {
        return true;
    }
    if (fe->chr->driver == &chardev_mux_driver) {
        return chardev_mux_write(fe->chr, data, size, true) == size;
    }
    return chardev_write(fe->chr, data, size, CHARDEV_BUFFER_MAX, true) == size;
}

size_t chardev_fe_pending(const ChardevFrontend *fe)
{
    Chardev *chr = fe->chr;
    size_t pending;

    if (!chr) {
        return 0;
    }
    if (chr->driver == &chardev_mux_driver) {
        chr = chardev_mux_base(chr);
    }
    pthread_mutex_lock(&chr->lock);
    pending = pending_locked(chr);
    pthread_mutex_unlock(&chr->lock);
    return pending;
}

void chardev_fe_accept_input(ChardevFrontend *fe)
{
    if (fe->chr && __atomic_exchange_n(&fe->chr->input_paused, false, __ATOMIC_SEQ_CST)) {
        bh_schedule(fe->chr->bh);
    }
}

static Chardev *fe_line(ChardevFrontend *fe)
{
    return fe->chr && fe->chr->driver == &chardev_mux_driver ? chardev_mux_base(fe->chr) : fe->chr;
}

void chardev_fe_break(ChardevFrontend *fe)
{
    Chardev *chr = fe_line(fe);

    if (chr && chr->driver->send_break) {
        chr->driver->send_break(chr);
    }
}

void chardev_fe_set_line(ChardevFrontend *fe, const ChardevLine *line)
{
    Chardev *chr = fe_line(fe);

    if (chr && chr->driver->set_line) {
        chr->driver->set_line(chr, line);
    }
}

int chardev_fe_take_fd(ChardevFrontend *fe)
{
    Chardev *chr = fe_line(fe);

    return chr && chr->driver->take_fd ? chr->driver->take_fd(chr) : -1;
}

void chardev_fe_take_focus(ChardevFrontend *fe)
{
    if (fe->chr && fe->chr->driver == &chardev_mux_driver) {
        chardev_mux_focus(fe->chr, fe);
        bh_schedule(fe->chr->bh);
    }
}

bool chardev_fe_has_focus(const ChardevFrontend *fe)
{
    return fe->chr && (fe->chr->driver != &chardev_mux_driver || fe->chr->fe == fe);
}

void chardev_fe_disconnect(ChardevFrontend *fe)
{
    Chardev *chr = fe_line(fe);

    if (chr) {
        __atomic_store_n(&chr->disconnect_asked, true, __ATOMIC_SEQ_CST);
        bh_schedule(chr->bh);
    }
}

/* ---- the registry ---- */

ChardevRegistry *chardev_registry_new(Loop *loop, FdTable *fds)
{
    ChardevRegistry *reg = g_new0(ChardevRegistry, 1);

    reg->loop = loop;
    reg->fds = fds;
    reg->list = g_ptr_array_new();
    reg->escape = 1; /* Ctrl-A */
    return reg;
}

static void chardev_free(Chardev *chr)
{
    if (chr->fe && chr->driver != &chardev_mux_driver) {
        chr->fe->ops = NULL;
        chr->fe->chr = NULL;
    }
    if (chr->driver->close) {
        chr->driver->close(chr);
    }
    chardev_unwatch_output(chr);
    bh_free(chr->bh);
    if (chr->log_fd >= 0) {
        close(chr->log_fd);
    }
    g_byte_array_unref(chr->out);
    pthread_mutex_destroy(&chr->lock);
    g_free(chr->what);
    g_free(chr->id);
    g_free(chr);
}

/* The last words of a guest or a monitor should still be seen. */
static void last_flush(Chardev *chr)
{
    for (int i = 0; i < 20; i++) {
        size_t pending = 0;
        int fd;

        pthread_mutex_lock(&chr->lock);
        if (chr->be_open && chr->driver->write) {
            flush_locked(chr);
            pending = pending_locked(chr);
        }
        pthread_mutex_unlock(&chr->lock);
        fd = chr->driver->write_fd ? chr->driver->write_fd(chr) : -1;
        if (!pending || fd < 0) {
            return;
        }
        poll(&(struct pollfd){ .fd = fd, .events = POLLOUT }, 1, 10);
    }
}

void chardev_registry_free(ChardevRegistry *reg)
{
    if (!reg) {
        return;
    }
    if (property_registry == reg) {
        property_registry = NULL;
    }
    for (guint i = reg->list->len; i-- > 0;) { /* a mux goes before its base: it was made after it */
        Chardev *chr = g_ptr_array_index(reg->list, i);

        last_flush(chr);
        chardev_free(chr);
    }
    g_ptr_array_unref(reg->list);
    g_free(reg);
}

void chardev_property_set_registry(ChardevRegistry *reg)
{
    property_registry = reg;
}

void chardev_registry_set_quit(ChardevRegistry *reg, void (*quit)(void *opaque), void *opaque)
{
    reg->quit = quit;
    reg->quit_opaque = opaque;
}

void chardev_registry_set_escape(ChardevRegistry *reg, int code)
{
    reg->escape = code;
}

FdTable *chardev_registry_fds(ChardevRegistry *reg)
{
    return reg->fds;
}

int chardev_registry_escape(ChardevRegistry *reg)
{
    return reg->escape;
}

void chardev_registry_quit(ChardevRegistry *reg)
{
    if (reg->quit) {
        reg->quit(reg->quit_opaque);
    }
}

Chardev *chardev_find(ChardevRegistry *reg, const char *id)
{
    for (guint i = 0; i < reg->list->len; i++) {
        Chardev *chr = g_ptr_array_index(reg->list, i);

        if (!chr->internal && strcmp(chr->id, id) == 0) {
            return chr;
        }
    }
    return NULL;
}

bool chardev_remove(ChardevRegistry *reg, const char *id, GError **error)
{
    Chardev *chr = chardev_find(reg, id), *base = NULL;

    if (!chr) {
        return error_set(error, "Chardev '%s' not found", id);
    }
    if (chr->fe) {
        return error_set(error, "Chardev '%s' is busy", id);
    }
    if (chr->driver == &chardev_mux_driver && chardev_mux_base(chr)->internal) {
        base = chardev_mux_base(chr); /* was made for it */
    }
    g_ptr_array_remove(reg->list, chr);
    chardev_free(chr);
    if (base) {
        g_ptr_array_remove(reg->list, base);
        chardev_free(base);
    }
    return true;
}

bool chardev_send_break(ChardevRegistry *reg, const char *id, GError **error)
{
    Chardev *chr = chardev_find(reg, id);

    if (!chr) {
        return error_set(error, "Chardev '%s' not found", id);
    }
    chardev_event(chr, CHARDEV_EVENT_BREAK);
    return true;
}

const char *chardev_id(const Chardev *chr)
{
    return chr->id;
}

bool chardev_is_mux(const Chardev *chr)
{
    return chr->driver == &chardev_mux_driver;
}

const char *chardev_pty_name(const Chardev *chr)
{
    return chr->driver == &chardev_pty_driver ? chardev_pty_path(chr) : NULL;
}

char *chardev_filename(Chardev *chr)
{
    if (chr->driver == &chardev_mux_driver) {
        return chardev_filename(chardev_mux_base(chr));
    }
    return chr->driver->filename ? chr->driver->filename(chr) : g_strdup(chr->driver->name);
}

json_object *chardev_query(ChardevRegistry *reg)
{
    json_object *list = json_object_new_array();

    for (guint i = 0; i < reg->list->len; i++) {
        Chardev *chr = g_ptr_array_index(reg->list, i);
        g_autofree char *filename = NULL;
        json_object *o;

        if (chr->internal) {
            continue;
        }
        filename = chardev_filename(chr);
        o = json_object_new_object();
        json_object_object_add(o, "frontend-open", json_object_new_boolean(chr->fe && chr->fe->open));
        json_object_object_add(o, "filename", json_object_new_string(filename));
        json_object_object_add(o, "label", json_object_new_string(chr->id));
        json_object_array_add(list, o);
    }
    return list;
}

json_object *chardev_query_backends(void)
{
    json_object *list = json_object_new_array();

    SECTION_FOREACH(rhea_chardev_drivers, const ChardevDriver, it)
    {
        json_object *o = json_object_new_object();

        json_object_object_add(o, "name", json_object_new_string((*it)->name));
        json_object_array_add(list, o);
    }
    return list;
}

/* ---- creation ---- */

static const ChardevDriver *driver_find(const char *name, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    SECTION_FOREACH(rhea_chardev_drivers, const ChardevDriver, it)
    {
        if (strcmp((*it)->name, name) == 0) {
            return *it;
        }
        g_ptr_array_add(names, (void *)(*it)->name);
    }
    g_ptr_array_add(names, NULL);
    error_set(error, "'%s' is not a supported chardev backend", name);
    nearest_hint(error, name, (const char *const *)names->pdata);
    return NULL;
}

/* What every kind has; NULL for none. */
static const QapiChardevCommon *common_options(const QapiChardevBackend *b)
{
    switch (b->type) {
    case QAPI_CHARDEV_BACKEND_KIND_FILE:
        return qapi_ChardevFile_base(b->u_file->data);
    case QAPI_CHARDEV_BACKEND_KIND_SERIAL:
        return qapi_ChardevHostdev_base(b->u_serial->data);
    case QAPI_CHARDEV_BACKEND_KIND_PIPE:
        return qapi_ChardevHostdev_base(b->u_pipe->data);
    case QAPI_CHARDEV_BACKEND_KIND_SOCKET:
        return qapi_ChardevSocket_base(b->u_socket->data);
    case QAPI_CHARDEV_BACKEND_KIND_PTY:
        return qapi_ChardevPty_base(b->u_pty->data);
    case QAPI_CHARDEV_BACKEND_KIND_NULL:
        return b->u_null->data;
    case QAPI_CHARDEV_BACKEND_KIND_MUX:
        return qapi_ChardevMux_base(b->u_mux->data);
    case QAPI_CHARDEV_BACKEND_KIND_STDIO:
        return qapi_ChardevStdio_base(b->u_stdio->data);
    case QAPI_CHARDEV_BACKEND_KIND_RINGBUF:
        return qapi_ChardevRingbuf_base(b->u_ringbuf->data);
    case QAPI_CHARDEV_BACKEND_KIND_MEMORY:
        return qapi_ChardevRingbuf_base(b->u_memory->data);
    default:
        return NULL;
    }
}

static bool open_log(Chardev *chr, const QapiChardevCommon *common, GError **error)
{
    if (!common || !common->logfile) {
        return true;
    }
    bool append = common->has_logappend && common->logappend;
    chr->log_fd = fd_table_open(chr->reg->fds, common->logfile,
                                O_WRONLY | O_CREAT | (append ? O_APPEND : O_TRUNC), 0666);
    return chr->log_fd >= 0 ||
           error_set_errno(error, errno, "%s: cannot open the log file '%s'", chr->what, common->logfile);
}

Chardev *chardev_create(ChardevRegistry *reg, const ChardevDriver *driver, const char *id,
                        const QapiChardevBackend *backend, bool internal, GError **error)
{
    Chardev *chr = g_malloc0(MAX(driver->instance_size, sizeof(Chardev)));

    chr->driver = driver;
    chr->reg = reg;
    chr->loop = reg->loop;
    chr->id = g_strdup(id);
    chr->what = g_strdup_printf("chardev '%s'", id);
    pthread_mutex_init(&chr->lock, NULL);
    chr->out = g_byte_array_new();
    chr->bh = bh_new(reg->loop, chardev_bh, chr, NULL);
    chr->log_fd = -1;
    chr->internal = internal;
    /* The driver first: its close expects that its open has run. */
    if ((driver->open && !driver->open(chr, backend, error)) ||
        (backend && !open_log(chr, common_options(backend), error))) {
        chardev_free(chr);
        return NULL;
    }
    g_ptr_array_add(reg->list, chr);
    return chr;
}

static bool check_id(ChardevRegistry *reg, const char *id, GError **error)
{
    if (!options_id_ok(id)) {
        error_set(error, "Parameter 'id' expects an identifier, not '%s'", id);
        error_append_hint(error,
                          "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.");
        return false;
    }
    return !chardev_find(reg, id) || error_set(error, "Chardev with id '%s' already exists", id);
}

/* A mux on a chardev that is there already. */
static Chardev *add_mux(ChardevRegistry *reg, const char *id, const char *base_id, GError **error)
{
    Chardev *base = chardev_find(reg, base_id);

    if (!base) {
        error_set(error, "chardev '%s': there is no chardev '%s' to share out", id, base_id);
        return NULL;
    }
    if (base->fe || base->driver == &chardev_mux_driver) {
        error_set(error, "chardev '%s': chardev '%s' is in use or a mux itself", id, base_id);
        return NULL;
    }
    return chardev_mux_new(reg, id, base);
}

static Chardev *add(ChardevRegistry *reg, const char *id, const QapiChardevBackend *backend, bool mux,
                    GError **error)
{
    const char *name = enum_name(&qapi_ChardevBackendKind_lookup, backend->type);
    g_autofree char *base_id = g_strconcat(id, mux ? "-base" : "", NULL);

    if (!check_id(reg, id, error)) {
        return NULL;
    }
    if (backend->type == QAPI_CHARDEV_BACKEND_KIND_MUX) {
        return add_mux(reg, id, backend->u_mux->data->chardev, error);
    }
    const ChardevDriver *driver =
        driver_find(backend->type == QAPI_CHARDEV_BACKEND_KIND_MEMORY ? "ringbuf" : name, error);
    Chardev *chr = driver ? chardev_create(reg, driver, base_id, backend, mux, error) : NULL;
    return chr && mux ? chardev_mux_new(reg, id, chr) : chr;
}

Chardev *chardev_add(ChardevRegistry *reg, const char *id, const QapiChardevBackend *backend, GError **error)
{
    return add(reg, id, backend, false, error);
}

Chardev *chardev_add_options(ChardevRegistry *reg, const QapiChardevOptions *options, GError **error)
{
    g_autoptr(QapiChardevBackend) backend = chardev_backend_from_options(options, error);

    return backend ? add(reg, options->id, backend, options->has_mux && options->mux, error) : NULL;
}

Chardev *chardev_add_text(ChardevRegistry *reg, const char *text, GError **error)
{
    g_autoptr(QapiChardevOptions) options = NULL;

    return qapi_option_chardev(text, &options, error) ? chardev_add_options(reg, options, error) : NULL;
}

/* "REST,k=v,flag" behind a prefix: moves the options behind the first comma into o. Caller frees the head. */
static char *split_options(const char *text, json_object *o, GError **error)
{
    const char *comma = strchr(text, ',');
    json_object *more;

    if (!comma) {
        return g_strdup(text);
    }
    more = keyval_parse(comma + 1, NULL, NULL, error);
    if (!more) {
        return NULL;
    }
    json_object_object_foreach(more, key, value)
    {
        json_object_object_add(o, key, json_object_get(value));
    }
    json_object_put(more);
    return g_strndup(text, (gsize)(comma - text));
}

static void put_str(json_object *o, const char *name, const char *value)
{
    json_object_object_add(o, name, json_object_new_string(value));
}

Chardev *chardev_add_legacy(ChardevRegistry *reg, const char *id, const char *text, bool *wants_monitor,
                            GError **error)
{
    static const char *const plain[] = { "stdio", "pty", "null", "ringbuf" };
    const char *whole = text;
    json_object *o;
    Chardev *chr = NULL;
    bool mon = g_str_has_prefix(text, "mon:");

    if (wants_monitor) {
        *wants_monitor = mon;
    }
    text += mon ? strlen("mon:") : 0;
    if (strcmp(text, "none") == 0) {
        return NULL;
    }
    if (g_str_has_prefix(text, "chardev:")) {
        chr = chardev_find(reg, text + strlen("chardev:"));
        if (!chr) {
            error_set(error, "Chardev '%s' not found", text + strlen("chardev:"));
        }
        return chr;
    }
    o = json_object_new_object();
    put_str(o, "id", id);
    if (mon) {
        put_str(o, "mux", "on");
        if (strcmp(text, "stdio") == 0) {
            put_str(o, "signal", "off");
        }
    }
    for (size_t i = 0; i < G_N_ELEMENTS(plain); i++) {
        size_t n = strlen(plain[i]);

        if (strncmp(text, plain[i], n) == 0 && (!text[n] || text[n] == ',')) {
            g_autofree char *head = split_options(text, o, error);

            if (!head) {
                goto out;
            }
            put_str(o, "backend", head);
        }
    }
    if (json_object_object_get_ex(o, "backend", NULL)) {
        /* found above */
    } else if (g_str_has_prefix(text, "file:")) {
        put_str(o, "backend", "file");
        put_str(o, "path", text + strlen("file:"));
    } else if (g_str_has_prefix(text, "pipe:")) {
        put_str(o, "backend", "pipe");
        put_str(o, "path", text + strlen("pipe:"));
    } else if (g_str_has_prefix(text, "/dev/")) {
        put_str(o, "backend", "serial");
        put_str(o, "path", text);
    } else if (g_str_has_prefix(text, "unix:")) {
        g_autofree char *path = split_options(text + strlen("unix:"), o, error);

        if (!path) {
            goto out;
        }
        put_str(o, "backend", "socket");
        put_str(o, "path", path);
    } else if (g_str_has_prefix(text, "tcp:")) {
        g_autofree char *where = split_options(text + strlen("tcp:"), o, error);
        char *colon = where ? strrchr(where, ':') : NULL;

        if (!where) {
            goto out;
        }
        if (!colon) {
            error_set(error, "'%s': expected tcp:HOST:PORT", whole);
            goto out;
        }
        *colon = '\0';
        put_str(o, "backend", "socket");
        if (*where == '[' && colon > where && colon[-1] == ']') {
            colon[-1] = '\0';
            put_str(o, "host", where + 1);
        } else {
            put_str(o, "host", where);
        }
        put_str(o, "port", colon + 1);
    } else {
        error_set(error, "'%s' is not a valid character device", whole);
        error_append_hint(error, "Known forms: stdio, mon:stdio, pty, null, none, file:F, pipe:P, unix:PATH, "
                                 "tcp:HOST:PORT, chardev:ID.");
        goto out;
    }
    {
        g_autoptr(Visitor) v = visitor_new_input(o, true);
        g_autoptr(QapiChardevOptions) options = NULL;

        if (qapi_visit_ChardevOptions(v, NULL, &options, error)) {
            chr = chardev_add_options(reg, options, error);
        }
    }
out:
    json_object_put(o);
    return chr;
}

/* ---- the property ---- */

static bool chardev_property_get(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                                 GError **error)
{
    ChardevFrontend *fe = field;
    g_autofree char *id = g_strdup(fe->chr ? fe->chr->id : "");

    return visit_str(v, name, &id, error);
}

static bool chardev_property_set(Object *obj, Visitor *v, const char *name, const Property *prop, void *field,
                                 GError **error)
{
    ChardevFrontend *fe = field;
    g_autofree char *id = NULL;
    Chardev *chr;

    if (!visit_str(v, name, &id, error)) {
        return false;
    }
    if (fe->chr) {
        chardev_fe_deinit(fe);
    }
    if (!*id) {
        return true;
    }
    chr = property_registry ? chardev_find(property_registry, id) : NULL;
    if (!chr) {
        return error_set(error, "Property '%s.%s' can't find value '%s'", object_get_typename(obj), name, id);
    }
    if (!chardev_fe_init(fe, chr, NULL)) {
        return error_set(error, "Property '%s.%s' can't take value '%s', it's in use",
                         object_get_typename(obj), name, id);
    }
    return true;
}

static void chardev_property_release(Object *obj, const Property *prop, void *field)
{
    chardev_fe_deinit(field);
}

const PropertyType property_type_chardev = { .name = "str",
                                             .get = chardev_property_get,
                                             .set = chardev_property_set,
                                             .release = chardev_property_release };
