/*
 * The inside of chardevs: what a driver implements.
 *
 * Locks: `lock` protects the output buffer and the descriptors against writers of other threads; it is a
 * leaf. Reading and events happen in the loop's thread only, with the front end's HomeLock and without
 * `lock`. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_CHARDEV_CHARDEV_INTERNAL_H
#define RHEA_CHARDEV_CHARDEV_INTERNAL_H

#include "chardev/chardev.h"

#include "base/section.h"

#define CHARDEV_BUFFER_BYTES  65536
#define CHARDEV_BUFFER_MAX    (16 * 1024 * 1024)
#define CHARDEV_READ_BYTES    4096
#define CHARDEV_MUX_FRONTENDS 8

typedef struct ChardevDriver {
    const char *name;
    size_t instance_size;
    /* Opens the host's side as the driver's branch of backend says. chr->what names it in messages. */
    bool (*open)(Chardev *chr, const QapiChardevBackend *backend, GError **error);
    void (*close)(Chardev *chr);
    /* With the lock held: takes what goes without blocking; 0 when nothing does, negative errno when the
     * other side is gone. Never called while the other side is not open. */
    ssize_t (*write)(Chardev *chr, const uint8_t *data, size_t size);
    /* With the lock held, while the other side is not open (a pty looks whether that is still so). May be
     * NULL. */
    void (*write_closed)(Chardev *chr);
    /* In the loop: the front end takes input again, or handlers were set or taken. */
    void (*update_input)(Chardev *chr);
    /* In the loop: the write descriptor to watch for room, or -1. */
    int (*write_fd)(Chardev *chr);
    void (*disconnect)(Chardev *chr); /* in the loop; may be NULL */
    char *(*filename)(Chardev *chr);  /* NULL: the driver's name */
    void (*send_break)(Chardev *chr); /* may be NULL */
    void (*set_line)(Chardev *chr, const ChardevLine *line);
    int (*take_fd)(Chardev *chr);
} ChardevDriver;
#define CHARDEV_DRIVER(driver) SECTION_ENTRY(rhea_chardev_drivers, const ChardevDriver, driver)

/* Drivers embed this first. */
struct Chardev {
    const ChardevDriver *driver;
    ChardevRegistry *reg;
    Loop *loop;
    char *id;
    char *what;          /* "chardev 'ID'" */
    ChardevFrontend *fe; /* the one front end; of a mux: the one in focus */
    pthread_mutex_t lock;
    GByteArray *out;
    size_t out_head; /* bytes of `out` that were written */
    BottomHalf *bh;
    LoopFd *out_watch;
    int out_watch_fd;
    int log_fd;
    bool be_open;          /* atomic: the other side is there */
    bool input_paused;     /* atomic: reading waits for accept_input */
    bool disconnect_asked; /* atomic */
    bool internal;         /* under a mux */
};

/* For drivers, in the loop's thread. */
void chardev_set_open(Chardev *chr, bool open); /* and tells the front end */
void chardev_event(Chardev *chr, ChardevEvent event);
/* Reads from fd as much as the front end takes and gives it that. Returns the bytes, 0 at the end of the
 * stream, -EAGAIN when there is none, -EBUSY when the front end takes none now (input is paused). read_fn may
 * be NULL: read(2). */
ssize_t chardev_read_fd(Chardev *chr, int fd,
                        ssize_t (*read_fn)(Chardev *chr, int fd, void *buf, size_t size));
/* Gives bytes to the front end, as far as it takes them. Returns how many. */
size_t chardev_deliver(Chardev *chr, const uint8_t *data, size_t size);
bool chardev_wants_input(const Chardev *chr); /* there is a front end with handlers that has not refused */
/* With the lock held: forgets what is buffered. */
void chardev_drop_output(Chardev *chr);
/* The descriptors changed: watch the new one, or none. */
void chardev_unwatch_output(Chardev *chr);
ssize_t chardev_write_fd(int fd, const uint8_t *data, size_t size);

FdTable *chardev_registry_fds(ChardevRegistry *reg);
void chardev_registry_quit(ChardevRegistry *reg);
int chardev_registry_escape(ChardevRegistry *reg);

/* mux.c: sits on a base chardev. */
Chardev *chardev_mux_new(ChardevRegistry *reg, const char *id, Chardev *base);
bool chardev_mux_attach(Chardev *mux, ChardevFrontend *fe, GError **error);
void chardev_mux_detach(Chardev *mux, ChardevFrontend *fe);
void chardev_mux_focus(Chardev *mux, ChardevFrontend *fe);
Chardev *chardev_mux_base(Chardev *mux);
void chardev_mux_run(Chardev *mux); /* the bottom half's part: gives what waits, tells events */
size_t chardev_mux_write(Chardev *mux, const void *data, size_t size, bool all);
extern const ChardevDriver chardev_mux_driver;

/* With fe's lock held where it has one. */
void chardev_fe_lock(ChardevFrontend *fe, bool *locked);
void chardev_fe_unlock(ChardevFrontend *fe, bool locked);
/* Common to creation: a chardev of that driver, opened and registered. backend NULL: it needs none. */
Chardev *chardev_create(ChardevRegistry *reg, const ChardevDriver *driver, const char *id,
                        const QapiChardevBackend *backend, bool internal, GError **error);
/* options.c. NULL on error; the caller owns it. */
QapiChardevBackend *chardev_backend_from_options(const QapiChardevOptions *options, GError **error);
/* pty.c: the terminal's name. */
extern const ChardevDriver chardev_pty_driver;
const char *chardev_pty_path(const Chardev *chr);

#endif
