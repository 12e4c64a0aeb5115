/*
 * Where a state goes to or comes from: file:PATH, exec:COMMAND, unix:PATH, tcp:HOST:PORT, fd:NAME.
 *
 * Opened in the main loop's thread, so that mistakes in the name are told at once; connected and used in
 * another one, which may wait, until channel_cancel(). SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_MIGRATION_CHANNEL_H
#define RHEA_MIGRATION_CHANNEL_H

#include "io/fd_table.h"

#include <stddef.h>

typedef struct Channel Channel;

/* NULL on error. fds: of fd:NAME; may be NULL. */
Channel *channel_open(const char *uri, bool incoming, FdTable *fds, GError **error);
void channel_free(Channel *ch);
/* Whether the other end has to be waited for. */
bool channel_must_connect(const Channel *ch);
/* The address that a tcp: or unix: channel listens on ("tcp:127.0.0.1:4444"), or NULL. Caller frees. */
char *channel_listening(const Channel *ch);

/* ---- the thread that works with it ---- */
bool channel_connect(Channel *ch, GError **error);
/* All of it, or an error: "ends too early" where the other end is gone. */
bool channel_write(Channel *ch, const void *data, size_t size, GError **error);
bool channel_read(Channel *ch, void *data, size_t size, GError **error);
/* After the last byte: a file is made stable, a command must have ended well. */
bool channel_finish(Channel *ch, GError **error);
/* Waits, but not after a cancel: returns whether to go on. */
bool channel_sleep_ms(Channel *ch, int ms);

/* Ends whatever the thread waits for, now and later; a command is killed. [any thread] */
void channel_cancel(Channel *ch);
bool channel_cancelled(const Channel *ch); /* [any thread] */

#endif
