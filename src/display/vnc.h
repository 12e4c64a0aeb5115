/*
 * VNC servers: who connects sees a console and types into it. See vnc.c. Main loop's thread.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_DISPLAY_VNC_H
#define RHEA_DISPLAY_VNC_H

#include "display/display.h"
#include "input/input.h"
#include "io/fd_table.h"

#include <json-c/json.h>

typedef struct VncSet VncSet;

typedef struct VncEnv {
    Loop *loop;
    DisplayRegistry *displays;
    InputRegistry *inputs;
    FdTable *fds;
    Object *root; /* secrets are below it */
    /* A QMP event: name and data (takes over the reference). */
    void (*emit_event)(void *opaque, const char *event, json_object *data);
    void *opaque;
} VncEnv;

/* The servers of one machine; what env names outlives them. */
VncSet *vnc_set_new(const VncEnv *env);
/* Ends connections and servers. */
void vnc_set_free(VncSet *set);
/* -vnc's text: "HOST:D[,password=on][,...]", "unix:PATH", "none". name: the desktop's, shown by clients. */
bool vnc_add_text(VncSet *set, const char *text, const char *name, GError **error);

/* password NULL: nobody gets in. id NULL: the first server. connected: "keep", "disconnect" or "fail", for
 * those who are there. */
bool vnc_set_password(VncSet *set, const char *id, const char *password, const char *connected,
                      GError **error);
/* time: "now", "never", "+SECONDS" or seconds since 1970. */
bool vnc_expire_password(VncSet *set, const char *id, const char *time, GError **error);

/* Results of query-vnc (of the first server) and query-vnc-servers. */
json_object *vnc_query(VncSet *set);
json_object *vnc_query_servers(VncSet *set);

#endif
