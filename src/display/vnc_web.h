/*
 * The page that shows a screen in a browser: serves noVNC's files and hands WebSocket requests to the VNC
 * server. See vnc_web.c. Main loop's thread. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_DISPLAY_VNC_WEB_H
#define RHEA_DISPLAY_VNC_WEB_H

#include "loop/loop.h"

typedef struct VncWeb VncWeb;
/* Takes over a connection whose first bytes, not yet read, ask for a WebSocket. */
typedef void VncWebUpgrade(void *opaque, int fd);

/* directory: noVNC's; NULL: where Debian's package has it. NULL on error. */
VncWeb *vnc_web_new(Loop *loop, const char *directory, VncWebUpgrade *upgrade, void *opaque, GError **error);
void vnc_web_free(VncWeb *web);
/* Takes over a new connection (non-blocking). */
void vnc_web_accept(VncWeb *web, int fd);

#endif
