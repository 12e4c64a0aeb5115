/*
 * Between a VNC server (vnc.c, main loop) and the thread of each of its clients (vnc_client.c).
 *
 * What both touch is under `lock`, which neither holds while it waits for anything: the picture and each
 * client's dirty tiles (written by the server, taken by the client), the client's input (the other way), its
 * state and its names. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_DISPLAY_VNC_INTERNAL_H
#define RHEA_DISPLAY_VNC_INTERNAL_H

#include "display/vnc.h"

#include <pthread.h>

/* A line must fit the library's buffer of 32 KiB in the widest pixels; what is beyond is not shown. */
#define VNC_MAX_WIDTH  7680u
#define VNC_MAX_HEIGHT 4320u
#define VNC_TILE       32u
/* Events that wait for the main loop; a client that has more is cut off. */
#define VNC_INPUT_LIMIT 1024u

typedef struct VncServer VncServer;
typedef struct VncClient VncClient;

typedef enum VncInputKind { VNC_KEYSYM, VNC_KEY_NUMBER, VNC_POINTER, VNC_POINTER_RELATIVE } VncInputKind;
typedef struct VncInput {
    VncInputKind kind;
    uint32_t code; /* keysym, key number, or the mask of buttons */
    bool down;
    int x, y;
} VncInput;

typedef enum VncState { VNC_HANDSHAKE, VNC_ACTIVE, VNC_DONE } VncState;

typedef enum VncShare { VNC_SHARE_EXCLUSIVE, VNC_SHARE_FORCE, VNC_SHARE_IGNORE } VncShare;

/* What a client's thread may see of its server. */
typedef struct VncShared {
    GMutex lock;
    /* The picture, cropped to the limits. */
    uint32_t width, height;
    uint32_t *pixels;
    char password[9]; /* the protocol's 8 characters */
    bool password_set;
    int64_t password_expires; /* seconds since 1970; 0: never */
} VncShared;

struct VncClient {
    VncServer *server;
    VncShared *shared;
    GThread *thread;
    int fd;     /* our own name of the connection; the library has another */
    int rfb_fd; /* that one, until the thread gives it to the library */
    bool websocket, auth;
    const char *desktop_name;
    EventNotifier wake; /* rung for the thread */
    BottomHalf *bh;     /* scheduled for the main loop; the server's */
    int64_t connected_us;
    json_object *info; /* who is there, for query-vnc; main loop's */
    /* Of the main loop: what it pressed. */
    uint32_t keys_down[INPUT_KEY_COUNT / 32];
    uint32_t buttons;
    int last_x, last_y;
    bool has_last, told_active;
    /* Under shared->lock: */
    VncState state;
    bool stop; /* the thread is to end */
    bool has_thread_id;
    pthread_t thread_id; /* valid until its state is VNC_DONE */
    bool exclusive;      /* it asked to be alone */
    bool relative;       /* it is to tell motion, if it can */
    unsigned leds;
    uint32_t width, height; /* of what its tiles are */
    uint8_t *tiles;         /* a byte each: dirty */
    bool any_dirty;
    GArray *inputs; /* of VncInput */
};

static inline uint32_t vnc_tiles(uint32_t pixels)
{
    return (pixels + VNC_TILE - 1) / VNC_TILE;
}

/* The thread of a client; ends when the connection does or it is told to stop. */
gpointer vnc_client_main(gpointer opaque);
/* Loads the library and readies it. Before the first client; once more is fine. */
bool vnc_library_init(GError **error);
/* Ends its waits: the connection is shut down. Main loop's thread; no lock held. */
void vnc_client_interrupt(VncClient *c);

#endif
