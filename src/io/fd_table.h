/*
 * File descriptors that a manager handed over: by number on the command line (fd=25), by name over the
 * monitor (getfd), or as a set behind /dev/fdset/N (add-fd). One table per virtual machine; control plane
 * only. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_IO_FD_TABLE_H
#define RHEA_IO_FD_TABLE_H

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct FdTable FdTable;

FdTable *fd_table_new(void);
/* Closes what is left in it. */
void fd_table_free(FdTable *table);

/* getfd: takes ownership of fd; an older one of that name is closed. The name must not begin with a digit. */
bool fd_table_put(FdTable *table, const char *name, int fd, GError **error);
/* closefd. */
bool fd_table_close(FdTable *table, const char *name, GError **error);
/* The descriptor that "25" (an inherited one, checked to be open) or "tapfd-net0" (taken out of the table)
 * means; the caller owns it. table may be NULL: numbers only. -1 on error. */
int fd_table_take(FdTable *table, const char *name_or_number, GError **error);

/* add-fd: puts fd (owned) into set `set_id` (-1: the first free number) with opaque text (may be NULL).
 * Returns the set's number, or -1 on error. */
int64_t fd_table_set_add(FdTable *table, int64_t set_id, int fd, const char *opaque, GError **error);
/* remove-fd: fd -1 takes the whole set away. */
bool fd_table_set_remove(FdTable *table, int64_t set_id, int fd, GError **error);
/* query-fdsets. Caller owns the value. */
json_object *fd_table_set_query(FdTable *table);

/* open(2) that also understands /dev/fdset/N: gives a duplicate of the set's descriptor with the same access
 * mode. Close-on-exec is set. -1 with errno set on failure. table may be NULL. */
int fd_table_open(FdTable *table, const char *path, int flags, unsigned mode);

#endif
