/*
 * One VNC client: a thread of its own with a LibVNCServer screen of its own, which no other client shares.
 * The library waits when it reads and writes; so a client that stalls or sends nonsense holds up its own
 * thread alone, and its memory is bounded by its picture. The thread touches nothing of the guest: it copies
 * dirty tiles of the server's picture into its own, and leaves keys and pointers to the main loop.
 *
 * Sources: RFC 6143 (RFB 3.8); the community's RFB specification for QEMU's extended key event (-258) and
 * pointer motion change (-257). SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "display/vnc_internal.h"

#include "base/log.h"
#include "host/library.h"
#include "rhea_config.h"
#include "trace/trace.h"

#include <errno.h>
#include <poll.h>
#include <rfb/rfb.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Loaded with the first server: it brings libraries for TLS and pictures, 2 ms of every start and 3 MiB. */
/* clang-format off */
#define RFB_SYMBOLS(X, P)                                                                            \
    X(P, ClientConnectionGone) X(P, CloseClient) X(P, EncryptBytes) X(P, Err) X(P, GetScreen)        \
    X(P, Log) X(P, MarkRectAsModified) X(P, MaxClientWait) X(P, NewClient) X(P, NewFramebuffer)      \
    X(P, ProcessClientMessage) X(P, ReadExact) X(P, RegisterProtocolExtension) X(P, ScreenCleanup)   \
    X(P, UpdateClient) X(P, WriteExact) X(, webSocketsHasDataInBuffer)
/* clang-format on */
LIBRARY_TABLE(rfb, rfb, RFB_SYMBOLS, SONAME_VNCSERVER, "libvncserver1", "VNC");

TRACE_EVENT(vnc_library, "%s");
TRACE_EVENT(vnc_input, "kind %d code 0x%x down %d at %d,%d");

#define STALL_MS             10000 /* a client that takes or gives nothing for so long in a message is gone */
#define ENCODING_QEMU_KEY    (-258)
#define ENCODING_QEMU_MOTION (-257)
#define QEMU_MESSAGE         255
#define POKE_SIGNAL          SIGUSR2
#define RELATIVE_CENTRE      0x7fff
#define MASKED_HEADER        6 /* of a short WebSocket frame: 2 bytes and the mask */

typedef struct Session {
    VncClient *c;
    rfbScreenInfoPtr screen;
    rfbClientPtr cl;
    uint32_t *pixels;
    bool motion_known, motion_relative; /* it can tell motion; what it was told to */
} Session;

static Session *session_of(rfbClientPtr cl)
{
    return cl->screen->screenData;
}

/* ---- input ---- */

static void push_input(Session *s, const VncInput *input)
{
    VncClient *c = s->c;
    bool flood = false;

    TRACE(vnc_input, input->kind, input->code, input->down, input->x, input->y);
    g_mutex_lock(&c->shared->lock);
    VncInput *last = c->inputs->len ? &g_array_index(c->inputs, VncInput, c->inputs->len - 1) : NULL;
    if (last && input->kind == VNC_POINTER && last->kind == VNC_POINTER && last->code == input->code) {
        *last = *input; /* motion: only where it ends counts */
    } else if (c->inputs->len < VNC_INPUT_LIMIT) {
        g_array_append_val(c->inputs, *input);
    } else {
        flood = true;
    }
    g_mutex_unlock(&c->shared->lock);
    bh_schedule(c->bh);
    if (flood) {
        rfb.CloseClient(s->cl);
    }
}

static void on_key(rfbBool down, rfbKeySym keysym, rfbClientPtr cl)
{
    push_input(session_of(cl), &(VncInput){ .kind = VNC_KEYSYM, .code = keysym, .down = down });
}

static void on_pointer(int mask, int x, int y, rfbClientPtr cl)
{
    Session *s = session_of(cl);

    if (s->motion_relative) {
        push_input(s, &(VncInput){ VNC_POINTER_RELATIVE, (uint32_t)mask, false, x - RELATIVE_CENTRE,
                                   y - RELATIVE_CENTRE });
    } else {
        push_input(s, &(VncInput){ VNC_POINTER, (uint32_t)mask, false, x, y });
    }
}

static int on_leds(rfbScreenInfoPtr screen)
{
    Session *s = screen->screenData;

    g_mutex_lock(&s->c->shared->lock);
    unsigned leds = s->c->leds;
    g_mutex_unlock(&s->c->shared->lock);
    return (leds & INPUT_LED_SCROLL ? rfbKeyboardMaskScrollLock : 0) |
           (leds & INPUT_LED_NUM ? rfbKeyboardMaskNumLock : 0) |
           (leds & INPUT_LED_CAPS ? rfbKeyboardMaskCapsLock : 0);
}

/* ---- QEMU's extensions ---- */

static void put_be16(uint8_t *to, unsigned value)
{
    to[0] = (uint8_t)(value >> 8);
    to[1] = (uint8_t)value;
}

static uint32_t be32(const uint8_t *from)
{
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

/* An update of one pseudo rectangle, which says that an encoding is understood. */
static void acknowledge(rfbClientPtr cl, int encoding, unsigned x)
{
    uint8_t message[16] = { 0, 0, 0, 1 };

    put_be16(message + 4, x);
    put_be16(message + 8, (unsigned)cl->screen->width);
    put_be16(message + 10, (unsigned)cl->screen->height);
    put_be16(message + 12, (uint32_t)encoding >> 16);
    put_be16(message + 14, (uint32_t)encoding & 0xffff);
    if (cl->sock != RFB_INVALID_SOCKET && rfb.WriteExact(cl, (char *)message, sizeof(message)) < 0) {
        rfb.CloseClient(cl);
    }
}

static bool wants_relative(Session *s)
{
    g_mutex_lock(&s->c->shared->lock);
    bool relative = s->c->relative;
    g_mutex_unlock(&s->c->shared->lock);
    return relative;
}

static void update_motion(Session *s)
{
    if (s->motion_known && wants_relative(s) != s->motion_relative) {
        s->motion_relative = !s->motion_relative;
        acknowledge(s->cl, ENCODING_QEMU_MOTION, !s->motion_relative);
    }
}

static rfbBool enable_encoding(rfbClientPtr cl, void **data, int encoding)
{
    Session *s = session_of(cl);

    if (encoding == ENCODING_QEMU_KEY) {
        acknowledge(cl, encoding, 0);
        return TRUE;
    }
    if (encoding == ENCODING_QEMU_MOTION) {
        s->motion_known = true;
        s->motion_relative = wants_relative(s);
        acknowledge(cl, encoding, !s->motion_relative);
        return TRUE;
    }
    return FALSE;
}

static rfbBool handle_message(rfbClientPtr cl, void *data, const rfbClientToServerMsg *message)
{
    uint8_t rest[11]; /* kind, down (2), keysym (4), number (4) */

    if (message->type != QEMU_MESSAGE) {
        return FALSE;
    }
    if (rfb.ReadExact(cl, (char *)rest, 1) <= 0 || rest[0] != 0 ||
        rfb.ReadExact(cl, (char *)rest + 1, 10) <= 0) {
        rfb.CloseClient(cl); /* it went, or speaks of what was not offered */
        return TRUE;
    }
    push_input(session_of(cl),
               &(VncInput){ .kind = VNC_KEY_NUMBER, .code = be32(rest + 7), .down = rest[2] });
    return TRUE;
}

static int extension_encodings[] = { ENCODING_QEMU_KEY, ENCODING_QEMU_MOTION, 0 };
static rfbProtocolExtension extension = {
    .pseudoEncodings = extension_encodings,
    .enablePseudoEncoding = enable_encoding,
    .handleMessage = handle_message,
};

static void library_log(const char *format, ...)
{
    va_list ap;

    if (trace_event_vnc_library.enabled) {
        va_start(ap, format);
        g_autofree char *text = g_strdup_vprintf(format, ap);
        va_end(ap);
        TRACE(vnc_library, g_strchomp(text));
    }
}

static void on_poke(int number)
{
}

/* A shut unix socket whose peer reads nothing does not wake who waits to write; a signal does. */
void vnc_client_interrupt(VncClient *c)
{
    shutdown(c->fd, SHUT_RDWR);
    event_notifier_set(&c->wake);
    g_mutex_lock(&c->shared->lock);
    if (c->has_thread_id && c->state != VNC_DONE) {
        pthread_kill(c->thread_id, POKE_SIGNAL);
    }
    g_mutex_unlock(&c->shared->lock);
}

bool vnc_library_init(GError **error)
{
    static gsize once;

    if (!library_load(&rfb_library, error)) {
        return false;
    }
    if (g_once_init_enter(&once)) {
        *rfb.Log = *rfb.Err = library_log;
        *rfb.MaxClientWait = STALL_MS;
        rfb.RegisterProtocolExtension(&extension);
        struct sigaction action = { .sa_handler = on_poke };
        sigaction(POKE_SIGNAL, &action, NULL);
        g_once_init_leave(&once, 1);
    }
    return true;
}

/* ---- password ---- */

static rfbBool check_password(rfbClientPtr cl, const char *response, int length)
{
    VncShared *shared = session_of(cl)->c->shared;
    uint8_t expected[CHALLENGESIZE];
    char password[9];

    g_mutex_lock(&shared->lock);
    bool valid = shared->password_set &&
                 (!shared->password_expires || g_get_real_time() / G_USEC_PER_SEC < shared->password_expires);
    memcpy(password, shared->password, sizeof(password));
    g_mutex_unlock(&shared->lock);
    if (!valid || length != CHALLENGESIZE) {
        return FALSE;
    }
    memcpy(expected, cl->authChallenge, CHALLENGESIZE);
    rfb.EncryptBytes(expected, password);
    uint8_t differ = 0;
    for (int i = 0; i < CHALLENGESIZE; i++) { /* the time tells nothing */
        differ |= expected[i] ^ (uint8_t)response[i];
    }
    explicit_bzero(password, sizeof(password));
    return !differ;
}

/* ---- the picture ---- */

static void set_format(rfbScreenInfoPtr screen)
{
    screen->serverFormat.redShift = 16;
    screen->serverFormat.greenShift = 8;
    screen->serverFormat.blueShift = 0;
}

/* Makes the client's picture as large as the server's. */
static void resize(Session *s, uint32_t width, uint32_t height)
{
    uint32_t *pixels = g_malloc0_n((gsize)width * height, sizeof(uint32_t));

    if (s->cl->scaledScreen != s->screen) { /* the library cannot resize those that it scales down */
        rfb.CloseClient(s->cl);
    }
    rfb.NewFramebuffer(s->screen, (char *)pixels, (int)width, (int)height, 8, 3, 4);
    set_format(s->screen);
    s->screen->setTranslateFunction(s->cl);
    g_free(s->pixels);
    s->pixels = pixels;
}

/* Copies a run of dirty tiles of one row. The lock is held. */
static void copy_run(Session *s, uint32_t first, uint32_t count, uint32_t row)
{
    const VncShared *shared = s->c->shared;
    uint32_t x = first * VNC_TILE, y = row * VNC_TILE;
    uint32_t width = MIN(count * VNC_TILE, shared->width - x), end = MIN(y + VNC_TILE, shared->height);

    for (uint32_t line = y; line < end; line++) {
        size_t at = (size_t)line * shared->width + x;
        memcpy(s->pixels + at, shared->pixels + at, width * sizeof(uint32_t));
    }
    rfb.MarkRectAsModified(s->screen, (int)x, (int)y, (int)(x + width), (int)end);
}

/* Takes over what changed; false where the size did, which is for the caller. */
static bool take_dirty(Session *s)
{
    VncClient *c = s->c;
    VncShared *shared = c->shared;

    g_mutex_lock(&shared->lock);
    bool same = (uint32_t)s->screen->width == shared->width && (uint32_t)s->screen->height == shared->height;
    uint32_t columns = vnc_tiles(c->width), rows = c->any_dirty && same ? vnc_tiles(c->height) : 0;
    for (uint32_t row = 0; row < rows; row++) {
        uint8_t *tiles = c->tiles + (size_t)row * columns;
        for (uint32_t at = 0; at < columns;) {
            uint32_t count = 0;
            while (at + count < columns && tiles[at + count]) {
                tiles[at + count++] = 0;
            }
            if (count) {
                copy_run(s, at, count, row);
            }
            at += count ? count : 1;
        }
    }
    c->any_dirty = c->any_dirty && !same;
    g_mutex_unlock(&shared->lock);
    return same;
}

static void update_picture(Session *s)
{
    while (!take_dirty(s)) {
        g_mutex_lock(&s->c->shared->lock);
        uint32_t width = s->c->shared->width, height = s->c->shared->height;
        g_mutex_unlock(&s->c->shared->lock);
        resize(s, width, height);
    }
}

/* ---- the connection ---- */

/* ClientInit, of which the library does not tell: whether the client wants to be alone. It is one byte, in a
 * masked frame where it comes by WebSocket. */
static bool wants_exclusive(Session *s)
{
    uint8_t bytes[MASKED_HEADER + 1];
    ssize_t want = s->cl->wsctx ? MASKED_HEADER + 1 : 1;

    if (recv(s->c->fd, bytes, (size_t)want, MSG_PEEK | MSG_DONTWAIT) < want) {
        return false;
    }
    uint8_t shared = s->cl->wsctx ? bytes[MASKED_HEADER] ^ bytes[2] : bytes[0];
    return !shared;
}

static void set_state(VncClient *c, VncState state)
{
    g_mutex_lock(&c->shared->lock);
    c->state = state;
    g_mutex_unlock(&c->shared->lock);
    bh_schedule(c->bh);
}

static bool connected(const Session *s)
{
    return s->cl->sock != RFB_INVALID_SOCKET;
}

static void read_messages(Session *s)
{
    VncClient *c = s->c;

    do {
        if (s->cl->state == RFB_INITIALISATION) {
            g_mutex_lock(&c->shared->lock);
            c->exclusive = wants_exclusive(s);
            g_mutex_unlock(&c->shared->lock);
        }
        bool was_active = s->cl->state == RFB_NORMAL;
        rfb.ProcessClientMessage(s->cl);
        if (!was_active && s->cl->state == RFB_NORMAL && connected(s)) {
            set_state(c, VNC_ACTIVE);
        }
    } while (connected(s) && s->cl->wsctx && rfb.webSocketsHasDataInBuffer(s->cl));
}

static bool told_to_stop(VncClient *c)
{
    g_mutex_lock(&c->shared->lock);
    bool stop = c->stop;
    g_mutex_unlock(&c->shared->lock);
    return stop;
}

static void serve(Session *s)
{
    VncClient *c = s->c;

    while (connected(s) && !told_to_stop(c)) {
        struct pollfd fds[] = { { .fd = s->cl->sock, .events = POLLIN },
                                { .fd = c->wake.fd, .events = POLLIN } };
        if (poll(fds, G_N_ELEMENTS(fds), -1) < 0 && errno != EINTR) {
            break;
        }
        event_notifier_test_and_clear(&c->wake);
        if (fds[0].revents) {
            read_messages(s);
        }
        if (connected(s)) {
            update_motion(s);
        }
        if (connected(s)) {
            update_picture(s);
            rfb.UpdateClient(s->cl);
        }
    }
}

static bool session_open(Session *s)
{
    VncClient *c = s->c;

    g_mutex_lock(&c->shared->lock);
    uint32_t width = c->shared->width, height = c->shared->height;
    g_mutex_unlock(&c->shared->lock);
    s->screen = rfb.GetScreen(NULL, NULL, (int)width, (int)height, 8, 3, 4);
    if (!s->screen) {
        close(c->rfb_fd);
        return false;
    }
    s->pixels = g_malloc0_n((gsize)width * height, sizeof(uint32_t));
    s->screen->screenData = s;
    s->screen->frameBuffer = (char *)s->pixels;
    s->screen->desktopName = c->desktop_name;
    s->screen->cursor = NULL;       /* the guest draws its own */
    s->screen->alwaysShared = TRUE; /* there is nobody else on this screen; the server knows the others */
    s->screen->deferUpdateTime = 0;
    s->screen->deferPtrUpdateTime = 0;
    s->screen->maxClientWait = STALL_MS;
    s->screen->kbdAddEvent = on_key;
    s->screen->ptrAddEvent = on_pointer;
    s->screen->getKeyboardLedStateHook = on_leds;
    if (c->auth) {
        s->screen->authPasswdData = c; /* anything but NULL asks for a password */
        s->screen->passwordCheck = check_password;
    }
    set_format(s->screen);
    s->cl = rfb.NewClient(s->screen, c->rfb_fd); /* waits a moment for a WebSocket's request */
    if (!s->cl) {
        return false;
    }
    if (!!s->cl->wsctx != c->websocket) { /* browsers may not come by the port that others use */
        LOG(LOG_UNIMP, "vnc: a client that is %s WebSocket was turned away", c->websocket ? "no" : "a");
        rfb.CloseClient(s->cl);
    }
    return true;
}

gpointer vnc_client_main(gpointer opaque)
{
    VncClient *c = opaque;
    Session s = { .c = c };

    sigset_t poke;
    sigemptyset(&poke);
    sigaddset(&poke, POKE_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &poke, NULL);
    g_mutex_lock(&c->shared->lock);
    c->thread_id = pthread_self();
    c->has_thread_id = true;
    g_mutex_unlock(&c->shared->lock);
    if (session_open(&s)) {
        serve(&s);
        rfb.CloseClient(s.cl);
        for (rfbExtensionData *e; (e = s.cl->extensions);) { /* the library forgets them */
            s.cl->extensions = e->next;
            free(e);
        }
        rfb.ClientConnectionGone(s.cl);
    }
    if (s.screen) {
        s.screen->frameBuffer = NULL;
        rfb.ScreenCleanup(s.screen);
    }
    g_free(s.pixels);
    set_state(c, VNC_DONE);
    return NULL;
}
