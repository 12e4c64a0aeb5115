/*
 * Character devices: the host end of a serial line, console, channel or monitor.
 *
 * A Chardev (back end) lives in a ChardevRegistry, which belongs to the virtual machine. What uses it holds a
 * ChardevFrontend embedded in its own state; a chardev has one front end, a mux has several of which one is
 * in focus.
 *
 * Threads: handlers run in the registry's loop with the front end's HomeLock held. chardev_fe_write and
 * chardev_fe_accept_input may be called from any thread, also with the front end's HomeLock held (the
 * chardev's own lock is below every device lock). Everything else is control plane: the loop's thread only.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_CHARDEV_CHARDEV_H
#define RHEA_CHARDEV_CHARDEV_H

#include "io/fd_table.h"
#include "loop/loop.h"
#include "object/property.h"
#include "qapi/qapi_types.h"

typedef struct Chardev Chardev;
typedef struct ChardevRegistry ChardevRegistry;

typedef enum ChardevEvent {
    CHARDEV_EVENT_BREAK,  /* a break condition on the line */
    CHARDEV_EVENT_OPENED, /* the other side is there; also given at once to a front end that attaches while it
                             is */
    CHARDEV_EVENT_CLOSED, /* the other side went */
    CHARDEV_EVENT_MUX_IN, /* this front end got the focus of its mux */
    CHARDEV_EVENT_MUX_OUT, /* ... or lost it */
} ChardevEvent;

typedef struct ChardevFrontendOps {
    /* How many bytes receive would take now. After an answer of 0 nothing is read from the host until
     * chardev_fe_accept_input(). NULL: any number. */
    size_t (*can_receive)(void *opaque);
    /* Input, at most as much as can_receive said. NULL: input is thrown away. */
    void (*receive)(void *opaque, const uint8_t *data, size_t size);
    void (*event)(void *opaque, ChardevEvent event); /* may be NULL */
    /* There is room again after a short chardev_fe_write. May be NULL. */
    void (*writable)(void *opaque);
} ChardevFrontendOps;

/* Embedded in its owner's state; all zero is "no chardev". The property sets chr, realize sets the handlers.
 */
typedef struct ChardevFrontend {
    Chardev *chr;
    const ChardevFrontendOps *ops;
    void *opaque;
    HomeLock *lock;
    bool open;           /* what chardev_fe_set_open said */
    bool want_write;     /* a short write waits for the writable call */
    bool opened_pending; /* OPENED is still to be told */
    bool
        yields_focus; /* on a mux: anybody else gets the focus before it; set between init and set_handlers */
    int mux_index;
} ChardevFrontend;

/* Connects fe to chr. Fails where chr has a front end already (a mux takes up to 8). */
bool chardev_fe_init(ChardevFrontend *fe, Chardev *chr, GError **error);
/* Disconnects; the handlers do not run after it returns. Harmless on one without a chardev. */
void chardev_fe_deinit(ChardevFrontend *fe);
/* Sets who gets input and events. ops is borrowed for ever; NULL takes the handlers away. If the other side
 * is open, the event OPENED follows from the loop. lock: the owner's (NULL: none). Not with that lock held.
 */
void chardev_fe_set_handlers(ChardevFrontend *fe, const ChardevFrontendOps *ops, void *opaque,
                             HomeLock *lock);
bool chardev_fe_connected(const ChardevFrontend *fe);    /* whether it has a chardev at all */
bool chardev_fe_backend_open(const ChardevFrontend *fe); /* whether the other side is there. [any thread] */
/* Tells the other side (query-chardev's frontend-open) whether the guest uses the line. */
void chardev_fe_set_open(ChardevFrontend *fe, bool open);

/* Writes without ever blocking: what the host does not take at once is buffered (up to 64 KiB). Returns how
 * many bytes were taken, which is less than size only where the buffer is full; ops->writable is called when
 * there is room again. Where nobody is on the other side, bytes are thrown away and count as taken. [any
 * thread] */
size_t chardev_fe_write(ChardevFrontend *fe, const void *data, size_t size);
/* The same for output that must not be lost (a monitor's replies): buffers without that limit, up to 16 MiB,
 * beyond which it returns false, having taken nothing. [any thread] */
bool chardev_fe_write_all(ChardevFrontend *fe, const void *data, size_t size);
/* How many bytes wait in the buffer. [any thread] */
size_t chardev_fe_pending(const ChardevFrontend *fe);
/* can_receive is no longer 0. Cheap to call at any time. [any thread] */
void chardev_fe_accept_input(ChardevFrontend *fe);
/* Sends a break where the back end can. [any thread] */
void chardev_fe_break(ChardevFrontend *fe);
/* Line parameters (a real serial port's): remembered and ignored by back ends without a line. */
typedef struct ChardevLine {
    int speed, data_bits, stop_bits;
    char parity; /* 'N', 'E', 'O' */
} ChardevLine;
void chardev_fe_set_line(ChardevFrontend *fe, const ChardevLine *line);
/* A descriptor that came with the input (SCM_RIGHTS on unix sockets), oldest first; the caller owns it. -1:
 * none. */
int chardev_fe_take_fd(ChardevFrontend *fe);
/* Gives this front end the focus of its mux. Without it the first one that set handlers has it,
 * those that yield it last. */
void chardev_fe_take_focus(ChardevFrontend *fe);
/* Whether input goes to this front end: false only for one on a mux that another one has the focus of. */
bool chardev_fe_has_focus(const ChardevFrontend *fe);
/* Drops the connection of a socket (the peer misbehaves); CLOSED follows from the loop. [any thread] */
void chardev_fe_disconnect(ChardevFrontend *fe);

/* ---- the registry ---- */
/* fds: where fd= names are looked up; borrowed, may be NULL. The loop must outlive the registry. */
ChardevRegistry *chardev_registry_new(Loop *loop, FdTable *fds);
/* Frees every chardev: flushes output for at most 200 ms, restores the terminal, removes socket files. */
void chardev_registry_free(ChardevRegistry *reg);
/* The registry that the chardev property of devices looks ids up in; set once when the Vm is made (NULL: back
 * to none). A device is not in the composition tree yet when its properties are set, so it cannot find it
 * there. */
void chardev_property_set_registry(ChardevRegistry *reg);
/* What Ctrl-A x (quit) and a terminating signal's clean-up do; called in the loop. */
void chardev_registry_set_quit(ChardevRegistry *reg, void (*quit)(void *opaque), void *opaque);
/* How often Ctrl-A's command key is pressed instead of Ctrl-A: its code (-echr). */
void chardev_registry_set_escape(ChardevRegistry *reg, int code);
/* VSERPORT_CHANGE and the like are the devices' own; this one tells of a chardev's other side coming and
 * going. */

/* A chardev as chardev-add describes it. Where a socket listens and wait is on, blocks until a client came.
 * NULL on error. Borrowed result (the registry owns it). */
Chardev *chardev_add(ChardevRegistry *reg, const char *id, const QapiChardevBackend *backend, GError **error);
/* The same from -chardev's flat names. */
Chardev *chardev_add_options(ChardevRegistry *reg, const QapiChardevOptions *options, GError **error);
/* -chardev's text ("socket,id=c0,path=/tmp/s,server=on,wait=off") or JSON. */
Chardev *chardev_add_text(ChardevRegistry *reg, const char *text, GError **error);
/* -serial, -monitor, ...: "stdio", "mon:stdio", "pty", "null", "file:F", "pipe:P",
 * "tcp:HOST:PORT,server=on,wait=off", "unix:PATH,...", "telnet:" is refused, "chardev:ID" gives that one.
 * "none" gives NULL without an error. "mon:X" makes X with a mux; *wants_monitor (may be NULL) then says that
 * a monitor belongs on it too. */
Chardev *chardev_add_legacy(ChardevRegistry *reg, const char *id, const char *text, bool *wants_monitor,
                            GError **error);
Chardev *chardev_find(ChardevRegistry *reg, const char *id);
/* Fails while a front end uses it. */
bool chardev_remove(ChardevRegistry *reg, const char *id, GError **error);
bool chardev_send_break(ChardevRegistry *reg, const char *id, GError **error);
const char *chardev_id(const Chardev *chr);
bool chardev_is_mux(const Chardev *chr);
/* "/dev/pts/3", or NULL where it is no pty. Borrowed. */
const char *chardev_pty_name(const Chardev *chr);
/* "pty:/dev/pts/3", "unix:/tmp/s,server=on", "disconnected:tcp:...": what query-chardev calls filename.
 * Caller frees. */
char *chardev_filename(Chardev *chr);
/* query-chardev and query-chardev-backends: JSON lists that the caller owns. */
json_object *chardev_query(ChardevRegistry *reg);
json_object *chardev_query_backends(void);
/* ringbuf-read / ringbuf-write. Caller frees the text. */
char *chardev_ringbuf_read(ChardevRegistry *reg, const char *id, size_t size, size_t *read, GError **error);
bool chardev_ringbuf_write(ChardevRegistry *reg, const char *id, const void *data, size_t size,
                           GError **error);

/* A device's "chardev" property; the field is a ChardevFrontend:
 *     PROP_TYPED("chardev", SerialState, chr, property_type_chardev, "host end of the line") */
extern const PropertyType property_type_chardev;

#endif
