/*
 * A program that goes to the background, and its PID file. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HOST_DAEMON_H
#define RHEA_HOST_DAEMON_H

#include <glib.h>

/* Forks. The parent waits until the child is ready (or has failed), so that sockets and the PID file are
 * there when it ends; it does not return. Gives the child's end of the pipe between them, -1 on error. Before
 * any thread is made. */
int daemon_start(GError **error);
/* The child is ready: it leaves the directory and the standard streams, and the parent ends. Takes fd. */
void daemon_ready(int fd);
/* Writes the process' number into a file, which is locked while the process lives, as users of PID files
 * expect. Gives its descriptor, -1 on error; whoever ends the process removes the file. */
int daemon_write_pidfile(const char *path, GError **error);

#endif
