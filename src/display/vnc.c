/*
 * VNC servers: options, listening sockets, passwords, who is connected, and what clients type. The protocol
 * itself is LibVNCServer's, in a thread for each client (vnc_client.c); everything here runs in the main
 * loop's thread and waits for nobody.
 *
 * Left out on purpose: TLS and SASL, which the library's server side has not (a unix socket or a tunnel
 * protects as well), reverse connections, audio, clipboards. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "display/vnc_internal.h"

#include "base/error.h"
#include "base/log.h"
#include "display/vnc_web.h"
#include "io/options.h"
#include "io/socket.h"
#include "object/secret.h"
#include "qapi/visitor.h"
#include "rhea_config.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/input-event-codes.h>
#include <netdb.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FIRST_PORT           5900
#define FIRST_WEBSOCKET_PORT 5700
#define DEFAULT_CLIENTS      32
#define MAX_CLIENTS          256
#define HANDSHAKE_US         (60 * G_TIME_SPAN_SECOND)
#define NS_PER_SECOND        1000000000ll

typedef struct VncListener {
    VncServer *server;
    int fd;
    LoopFd *watch;
    bool websocket;
    char *path; /* of a unix socket: removed in the end */
} VncListener;

struct VncServer {
    VncSet *set;
    char *id, *desktop_name;
    GPtrArray *listeners; /* of VncListener *, owned */
    GPtrArray *clients;   /* of VncClient *, owned */
    VncShared shared;
    DisplayMirror *mirror;
    VncWeb *web; /* NULL: websocket ports answer no browser's plain requests */
    bool password_required;
    VncShare share;
    guint max_clients;
    BottomHalf *bh;
    Timer tick; /* while there are clients */
};

struct VncSet {
    VncEnv env;
    GPtrArray *servers; /* of VncServer *, owned */
};

/* ---- who is there ---- */

static json_object *address_json(int fd, bool peer, bool websocket)
{
    struct sockaddr_storage address = { .ss_family = AF_UNSPEC };
    socklen_t size = sizeof(address);
    char host[NI_MAXHOST] = "", service[NI_MAXSERV] = "";
    json_object *info = json_object_new_object();
    const char *family = "unknown";

    (peer ? getpeername : getsockname)(fd, (struct sockaddr *)&address, &size);
    if (address.ss_family == AF_INET || address.ss_family == AF_INET6) {
        family = address.ss_family == AF_INET ? "ipv4" : "ipv6";
        getnameinfo((struct sockaddr *)&address, size, host, sizeof(host), service, sizeof(service),
                    NI_NUMERICHOST | NI_NUMERICSERV);
    } else if (address.ss_family == AF_UNIX) {
        family = "unix";
        const struct sockaddr_un *un = (const struct sockaddr_un *)&address;
        if (size > offsetof(struct sockaddr_un, sun_path)) {
            g_strlcpy(service, un->sun_path, MIN(sizeof(service), sizeof(un->sun_path)));
        }
    }
    json_object_object_add(info, "host", json_object_new_string(host));
    json_object_object_add(info, "service", json_object_new_string(service));
    json_object_object_add(info, "family", json_object_new_string(family));
    json_object_object_add(info, "websocket", json_object_new_boolean(websocket));
    return info;
}

static const char *auth_name(const VncServer *s)
{
    return s->password_required ? "vnc" : "none";
}

static void emit(VncServer *s, const char *event, VncClient *c)
{
    const VncEnv *env = &s->set->env;
    json_object *data = json_object_new_object(), *server = address_json(c->fd, false, c->websocket);

    if (!env->emit_event) {
        json_object_put(data);
        json_object_put(server);
        return;
    }
    json_object_object_add(server, "auth", json_object_new_string(auth_name(s)));
    json_object_object_add(data, "server", server);
    json_object_object_add(data, "client", json_object_get(c->info));
    env->emit_event(env->opaque, event, data);
}

/* ---- the picture ---- */

static void mark_tiles(VncClient *c, const DisplayRect *r)
{
    uint32_t columns = vnc_tiles(c->width), rows = vnc_tiles(c->height);

    for (uint32_t y = r->y / VNC_TILE; y < MIN(rows, vnc_tiles(r->y + r->height)); y++) {
        for (uint32_t x = r->x / VNC_TILE; x < MIN(columns, vnc_tiles(r->x + r->width)); x++) {
            c->tiles[(size_t)y * columns + x] = 1;
            c->any_dirty = true;
        }
    }
}

static void all_dirty(VncClient *c)
{
    size_t tiles = (size_t)vnc_tiles(c->shared->width) * vnc_tiles(c->shared->height);

    c->width = c->shared->width;
    c->height = c->shared->height;
    c->tiles = g_realloc(c->tiles, tiles);
    memset(c->tiles, 1, tiles);
    c->any_dirty = true;
}

static void picture_changed(void *opaque, const DisplaySurface *surface, bool resized,
                            const DisplayRect *rects, size_t count)
{
    VncServer *s = opaque;
    VncShared *shared = &s->shared;

    g_mutex_lock(&shared->lock);
    if (resized || !shared->pixels) {
        shared->width = MIN(surface->width, VNC_MAX_WIDTH);
        shared->height = MIN(surface->height, VNC_MAX_HEIGHT);
        g_free(shared->pixels);
        shared->pixels = g_malloc_n((gsize)shared->width * shared->height, sizeof(uint32_t));
    }
    for (size_t i = 0; i < count; i++) {
        const DisplayRect *r = &rects[i];
        uint32_t end = MIN(r->y + r->height, shared->height);
        uint32_t width = r->x < shared->width ? MIN(r->width, shared->width - r->x) : 0;
        for (uint32_t y = r->y; y < end; y++) {
            memcpy(shared->pixels + (size_t)y * shared->width + r->x,
                   surface->pixels + (size_t)y * surface->width + r->x, width * sizeof(uint32_t));
        }
    }
    for (guint n = 0; n < s->clients->len; n++) {
        VncClient *c = s->clients->pdata[n];
        if (resized) {
            all_dirty(c);
        }
        for (size_t i = 0; i < count && !resized; i++) {
            mark_tiles(c, &rects[i]);
        }
        event_notifier_set(&c->wake);
    }
    g_mutex_unlock(&shared->lock);
}

/* ---- what clients type ---- */

static bool client_holds(const VncClient *c, unsigned code)
{
    return c->keys_down[code / 32] >> (code % 32) & 1;
}

static void press(VncServer *s, VncClient *c, unsigned code, bool down)
{
    uint32_t bit = 1u << (code % 32);

    if (code >= INPUT_KEY_COUNT) {
        return;
    }
    c->keys_down[code / 32] = down ? c->keys_down[code / 32] | bit : c->keys_down[code / 32] & ~bit;
    input_send_key(s->set->env.inputs, code, down);
}

/* A client that tells characters may have another keyboard than the guest thinks: shift is made to fit. */
static void press_character(VncServer *s, VncClient *c, const InputKey *key, uint32_t keysym, bool shift)
{
    InputRegistry *inputs = s->set->env.inputs;
    bool left = client_holds(c, KEY_LEFTSHIFT), right = client_holds(c, KEY_RIGHTSHIFT);
    bool letter = keysym < 0x80 && g_ascii_isalpha((char)keysym);
    bool shortcut = client_holds(c, KEY_LEFTCTRL) || client_holds(c, KEY_RIGHTCTRL) ||
                    client_holds(c, KEY_LEFTALT) || client_holds(c, KEY_RIGHTALT) ||
                    client_holds(c, KEY_LEFTMETA) || client_holds(c, KEY_RIGHTMETA);

    if (letter && (input_leds(inputs) & INPUT_LED_CAPS)) {
        shift = !shift;
    }
    if (shortcut || shift == (left || right) || key->code == KEY_SPACE) {
        press(s, c, key->code, true);
    } else if (shift) {
        input_send_key(inputs, KEY_LEFTSHIFT, true);
        press(s, c, key->code, true);
        input_send_key(inputs, KEY_LEFTSHIFT, false);
    } else {
        if (left) {
            input_send_key(inputs, KEY_LEFTSHIFT, false);
        }
        if (right) {
            input_send_key(inputs, KEY_RIGHTSHIFT, false);
        }
        press(s, c, key->code, true);
        if (left) {
            input_send_key(inputs, KEY_LEFTSHIFT, true);
        }
        if (right) {
            input_send_key(inputs, KEY_RIGHTSHIFT, true);
        }
    }
}

static void on_keysym(VncServer *s, VncClient *c, const VncInput *in)
{
    bool printable, shift = false;
    const InputKey *key = input_key_by_keysym(in->code, &printable, &shift);

    if (!key) {
        return;
    }
    if (in->down && printable && !client_holds(c, key->code)) {
        press_character(s, c, key, in->code, shift);
    } else {
        press(s, c, key->code, in->down);
    }
}

static void on_buttons(VncServer *s, VncClient *c, uint32_t mask)
{
    static const uint8_t order[] = { INPUT_BUTTON_LEFT,       INPUT_BUTTON_MIDDLE,
                                     INPUT_BUTTON_RIGHT,      INPUT_BUTTON_WHEEL_UP,
                                     INPUT_BUTTON_WHEEL_DOWN, INPUT_BUTTON_WHEEL_LEFT,
                                     INPUT_BUTTON_WHEEL_RIGHT };

    for (unsigned i = 0; i < G_N_ELEMENTS(order); i++) {
        if ((mask ^ c->buttons) >> i & 1) {
            input_send(s->set->env.inputs, &(InputEvent){ INPUT_BUTTON, order[i], (int32_t)(mask >> i & 1) },
                       1);
        }
    }
    c->buttons = mask;
}

static void on_pointer(VncServer *s, VncClient *c, const VncInput *in)
{
    InputRegistry *inputs = s->set->env.inputs;
    int width = (int)MAX(s->shared.width, 2u), height = (int)MAX(s->shared.height, 2u);
    int x = CLAMP(in->x, 0, width - 1), y = CLAMP(in->y, 0, height - 1);

    if (in->kind == VNC_POINTER_RELATIVE) {
        InputEvent move[] = { { INPUT_REL, INPUT_AXIS_X, in->x }, { INPUT_REL, INPUT_AXIS_Y, in->y } };
        input_send(inputs, move, in->x || in->y ? 2 : 0);
    } else if (input_pointer_is_absolute(inputs)) {
        InputEvent move[] = { { INPUT_ABS, INPUT_AXIS_X, x * INPUT_ABS_MAX / (width - 1) },
                              { INPUT_ABS, INPUT_AXIS_Y, y * INPUT_ABS_MAX / (height - 1) } };
        input_send(inputs, move, 2);
    } else if (c->has_last && (x != c->last_x || y != c->last_y)) {
        InputEvent move[] = { { INPUT_REL, INPUT_AXIS_X, x - c->last_x },
                              { INPUT_REL, INPUT_AXIS_Y, y - c->last_y } };
        input_send(inputs, move, 2);
    }
    if (in->kind == VNC_POINTER) {
        c->last_x = x;
        c->last_y = y;
        c->has_last = true;
    }
    on_buttons(s, c, in->code);
}

static void handle_input(VncServer *s, VncClient *c, const VncInput *in)
{
    const InputKey *key;

    switch (in->kind) {
    case VNC_KEYSYM:
        on_keysym(s, c, in);
        break;
    case VNC_KEY_NUMBER:
        key = input_key_by_number(in->code);
        if (key) {
            press(s, c, key->code, in->down);
        }
        break;
    default:
        on_pointer(s, c, in);
        break;
    }
}

/* Nothing stays down of what somebody pressed who is gone. */
static void release_all(VncServer *s, VncClient *c)
{
    for (unsigned code = 0; code < INPUT_KEY_COUNT; code++) {
        if (client_holds(c, code)) {
            press(s, c, code, false);
        }
    }
    on_buttons(s, c, 0);
}

/* ---- clients ---- */

static void client_stop(VncClient *c)
{
    g_mutex_lock(&c->shared->lock);
    c->stop = true;
    g_mutex_unlock(&c->shared->lock);
    vnc_client_interrupt(c);
}

static void client_free(VncClient *c)
{
    if (c->thread) {
        g_thread_join(c->thread);
    }
    close(c->fd);
    event_notifier_destroy(&c->wake);
    g_array_unref(c->inputs);
    json_object_put(c->info);
    g_free(c->tiles);
    g_free(c);
}

static VncState client_state(VncClient *c, bool *exclusive)
{
    g_mutex_lock(&c->shared->lock);
    VncState state = c->state;
    *exclusive = c->exclusive;
    g_mutex_unlock(&c->shared->lock);
    return state;
}

static void update_listeners(VncServer *s);

static void reap(VncServer *s, VncClient *c)
{
    release_all(s, c);
    emit(s, "VNC_DISCONNECTED", c);
    g_mutex_lock(&s->shared.lock);
    g_ptr_array_remove(s->clients, c);
    g_mutex_unlock(&s->shared.lock);
    client_free(c);
    if (!s->clients->len) {
        display_mirror_set_watched(s->mirror, false);
        timer_cancel(&s->tick);
    }
    update_listeners(s);
}

static void became_active(VncServer *s, VncClient *c, bool exclusive)
{
    c->told_active = true;
    emit(s, "VNC_INITIALIZED", c);
    for (guint i = 0; exclusive && s->share == VNC_SHARE_EXCLUSIVE && i < s->clients->len; i++) {
        VncClient *other = s->clients->pdata[i];
        if (other != c && other->told_active) {
            client_stop(other);
        }
    }
}

static void on_clients(void *opaque)
{
    VncServer *s = opaque;
    bool typed = false;

    for (guint i = s->clients->len; i-- > 0;) {
        VncClient *c = s->clients->pdata[i];
        bool exclusive;
        g_mutex_lock(&s->shared.lock);
        GArray *inputs = c->inputs;
        c->inputs = g_array_new(false, false, sizeof(VncInput));
        g_mutex_unlock(&s->shared.lock);
        for (guint n = 0; n < inputs->len; n++) {
            handle_input(s, c, &g_array_index(inputs, VncInput, n));
        }
        typed |= inputs->len > 0;
        g_array_unref(inputs);
        VncState state = client_state(c, &exclusive);
        if (state != VNC_HANDSHAKE && !c->told_active && state != VNC_DONE) {
            became_active(s, c, exclusive);
        }
        if (state == VNC_DONE) {
            reap(s, c);
        }
    }
    if (typed && s->clients->len) { /* what they typed is soon to be seen */
        display_mirror_set_watched(s->mirror, true);
    }
}

static void on_tick(void *opaque)
{
    VncServer *s = opaque;
    InputRegistry *inputs = s->set->env.inputs;
    unsigned leds = input_leds(inputs);
    bool relative = !input_pointer_is_absolute(inputs);

    for (guint i = 0; i < s->clients->len; i++) {
        VncClient *c = s->clients->pdata[i];
        bool exclusive;
        if (client_state(c, &exclusive) == VNC_HANDSHAKE &&
            g_get_monotonic_time() - c->connected_us > HANDSHAKE_US) {
            client_stop(c);
        }
        g_mutex_lock(&s->shared.lock);
        bool differs = c->leds != leds || c->relative != relative;
        c->leds = leds;
        c->relative = relative;
        g_mutex_unlock(&s->shared.lock);
        if (differs) {
            event_notifier_set(&c->wake);
        }
    }
    update_listeners(s);
    timer_set(&s->tick, clock_now_ns(NULL, CLOCK_TYPE_REALTIME) + NS_PER_SECOND);
}

static void start_client(VncServer *s, int fd, bool websocket)
{
    VncClient *c = g_new0(VncClient, 1);

    c->server = s;
    c->shared = &s->shared;
    c->fd = -1;
    c->rfb_fd = fd;
    c->websocket = websocket;
    c->auth = s->password_required;
    c->desktop_name = s->desktop_name;
    c->bh = s->bh;
    c->connected_us = g_get_monotonic_time();
    c->relative = !input_pointer_is_absolute(s->set->env.inputs);
    c->leds = input_leds(s->set->env.inputs);
    c->inputs = g_array_new(false, false, sizeof(VncInput));
    c->wake.fd = -1;
    if (fd >= FD_SETSIZE || (c->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0)) < 0 ||
        !event_notifier_init(&c->wake, NULL)) {
        log_warning("vnc: a client was turned away: too many open files");
        close(fd);
        if (c->fd >= 0) {
            close(c->fd);
        }
        g_array_unref(c->inputs);
        g_free(c);
        return;
    }
    c->info = address_json(fd, true, websocket);
    display_mirror_refresh(s->mirror); /* the first one needs a picture */
    g_mutex_lock(&s->shared.lock);
    all_dirty(c);
    g_ptr_array_add(s->clients, c);
    g_mutex_unlock(&s->shared.lock);
    display_mirror_set_watched(s->mirror, true);
    if (!timer_pending(&s->tick)) {
        timer_set(&s->tick, clock_now_ns(NULL, CLOCK_TYPE_REALTIME) + NS_PER_SECOND);
    }
    emit(s, "VNC_CONNECTED", c);
    c->thread = g_thread_new("vnc client", vnc_client_main, c);
    update_listeners(s);
}

/* ---- sockets ---- */

static void on_websocket_request(void *opaque, int fd)
{
    start_client(opaque, fd, true);
}

static void on_connection(void *opaque)
{
    VncListener *l = opaque;
    VncServer *s = l->server;
    int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0) {
        return;
    }
    if (fd >= FD_SETSIZE) { /* the library's limit: perhaps a lower number is free */
        int low = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        close(fd);
        fd = low;
    }
    if (l->websocket && s->web) {
        vnc_web_accept(s->web, fd);
    } else {
        start_client(s, fd, l->websocket);
    }
}

/* A full house: connections wait in the kernel, and who has not said the password for longest makes room. */
static void update_listeners(VncServer *s)
{
    bool full = s->clients->len >= s->max_clients;

    for (guint i = 0; i < s->listeners->len; i++) {
        VncListener *l = s->listeners->pdata[i];
        loop_fd_set(l->watch, full ? NULL : on_connection, NULL);
    }
    for (guint i = 0; full && i < s->clients->len; i++) {
        VncClient *c = s->clients->pdata[i];
        bool exclusive;
        if (client_state(c, &exclusive) == VNC_HANDSHAKE &&
            g_get_monotonic_time() - c->connected_us > G_TIME_SPAN_SECOND) {
            client_stop(c);
            break;
        }
    }
}

static void listener_free(void *opaque)
{
    VncListener *l = opaque;

    loop_remove_fd(l->watch);
    close(l->fd);
    if (l->path) {
        unlink(l->path);
    }
    g_free(l->path);
    g_free(l);
}

static bool add_listener(VncServer *s, const SocketAddress *address, bool websocket, GError **error)
{
    int fd = socket_listen(address, s->set->env.fds, error);

    if (fd < 0) {
        return false;
    }
    VncListener *l = g_new0(VncListener, 1);
    l->server = s;
    l->fd = fd;
    l->websocket = websocket;
    l->path = address->kind == SOCKET_KIND_UNIX ? g_strdup(address->path) : NULL;
    l->watch = loop_add_fd(s->set->env.loop, fd, on_connection, NULL, NULL, l, NULL);
    g_ptr_array_add(s->listeners, l);
    return true;
}

/* ---- options ---- */

static bool parse_number(const char *text, unsigned max, unsigned *value)
{
    guint64 number;

    if (!text || !g_ascii_string_to_unsigned(text, 10, 0, max, &number, NULL)) {
        return false;
    }
    *value = (unsigned)number;
    return true;
}

/* "HOST:NUMBER", the host perhaps in brackets; base is added to the number. */
static bool parse_host(SocketAddress *address, const char *text, unsigned base, GError **error)
{
    const char *colon = strrchr(text, ':');
    unsigned number;

    if (!colon || !parse_number(colon + 1, 65535 - base, &number)) {
        error_set(error, "'%s' is not HOST:NUMBER", text);
        error_append_hint(error, "Display D is port %d+D; 127.0.0.1:0 is reached from this host only.",
                          FIRST_PORT);
        return false;
    }
    address->kind = SOCKET_KIND_INET;
    address->host = g_strndup(text, (gsize)(colon - text));
    size_t length = strlen(address->host);
    if (length >= 2 && address->host[0] == '[' && address->host[length - 1] == ']') {
        address->host[length - 1] = 0;
        memmove(address->host, address->host + 1, length - 1);
    }
    address->port = g_strdup_printf("%u", base + number);
    return true;
}

static bool family_of(json_object *options, SocketAddress *address, GError **error)
{
    bool ipv4 = true, ipv6 = true;

    if (!options_bool(options, "vnc", "ipv4", &ipv4, error) ||
        !options_bool(options, "vnc", "ipv6", &ipv6, error)) {
        return false;
    }
    if (!ipv4 && !ipv6) {
        return error_set(error, "ipv4=off,ipv6=off leaves no way to listen");
    }
    bool four = options_contains(options, "ipv4") && ipv4, six = options_contains(options, "ipv6") && ipv6;
    address->family = four == six ? (ipv4 == ipv6 ? AF_UNSPEC
                                     : ipv4       ? AF_INET
                                                  : AF_INET6)
                                  : (four ? AF_INET : AF_INET6);
    return true;
}

static bool listen_main(VncServer *s, json_object *options, const char *where, GError **error)
{
    g_autoptr(SocketAddress) address = socket_address_new();
    int64_t to = 0;

    if (g_str_has_prefix(where, "unix:")) {
        address->kind = SOCKET_KIND_UNIX;
        address->path = g_strdup(where + strlen("unix:"));
        return add_listener(s, address, false, error);
    }
    if (strcmp(where, "none") == 0) { /* browsers only */
        return true;
    }
    if (!parse_host(address, where, FIRST_PORT, error) || !family_of(options, address, error) ||
        !options_int(options, "vnc", "to", 0, 65535 - FIRST_PORT, &to, error)) {
        return false;
    }
    address->port_end = to ? (uint16_t)(FIRST_PORT + to) : 0;
    return add_listener(s, address, false, error);
}

/* websocket=on: port 5700 and the display's number, at the same address; else a port, or an address and one.
 */
static bool listen_websocket(VncServer *s, json_object *options, const char *where, const char *websocket,
                             GError **error)
{
    g_autoptr(SocketAddress) address = socket_address_new();
    unsigned port;

    if (strcmp(websocket, "on") == 0) {
        if (g_str_has_prefix(where, "unix:") || strcmp(where, "none") == 0) {
            return error_set(error, "websocket=on takes its port from the display's number, and there is "
                                    "none; give websocket=ADDRESS:PORT");
        }
        if (!parse_host(address, where, FIRST_WEBSOCKET_PORT, error)) {
            return false;
        }
    } else if (parse_number(websocket, 65535, &port)) {
        const char *colon = g_str_has_prefix(where, "unix:") ? NULL : strrchr(where, ':');
        g_autofree char *host = g_strndup(where, colon ? (gsize)(colon - where) : 0);
        g_autofree char *text = g_strdup_printf("%s:%u", host, port);
        if (!parse_host(address, text, 0, error)) {
            return false;
        }
    } else if (!parse_host(address, websocket, 0, error)) {
        return false;
    }
    return family_of(options, address, error) && add_listener(s, address, true, error);
}

static void set_password(VncServer *s, const char *password)
{
    g_mutex_lock(&s->shared.lock);
    explicit_bzero(s->shared.password, sizeof(s->shared.password));
    s->shared.password_set = password != NULL;
    g_strlcpy(s->shared.password, password ? password : "", sizeof(s->shared.password));
    g_mutex_unlock(&s->shared.lock);
}

static bool configure_password(VncServer *s, json_object *options, GError **error)
{
    const char *id = options_str(options, "password-secret");
    const uint8_t *value;
    size_t size;

    if (!options_bool(options, "vnc", "password", &s->password_required, error)) {
        return false;
    }
    if (!id) {
        return true;
    }
    if (options_contains(options, "password")) {
        return error_set(error, "password and password-secret exclude each other");
    }
    if (!secret_value(s->set->env.root, id, &value, &size, error)) {
        return false;
    }
    g_autofree char *text = g_strndup((const char *)value, size);
    s->password_required = true;
    set_password(s, text);
    explicit_bzero(text, strlen(text));
    return true;
}

static bool configure_share(VncServer *s, json_object *options, GError **error)
{
    static const char *const names[] = { "allow-exclusive", "force-shared", "ignore", NULL };
    const char *share = options_str(options, "share");
    int64_t clients = DEFAULT_CLIENTS;

    for (int i = 0; share && names[i]; i++) {
        if (strcmp(share, names[i]) == 0) {
            s->share = (VncShare)i;
            share = NULL;
        }
    }
    if (share) {
        return error_set(error, "share='%s' is none of allow-exclusive, force-shared, ignore", share);
    }
    if (!options_int(options, "vnc", "connections", 1, MAX_CLIENTS, &clients, error)) {
        return false;
    }
    s->max_clients = (guint)clients;
    return true;
}

static bool configure_web(VncServer *s, json_object *options, GError **error)
{
    const char *web = options_str(options, "web");

    if (!web || strcmp(web, "off") == 0) {
        return true;
    }
    if (!options_contains(options, "websocket")) {
        return error_set(error, "web=on serves its page on the websocket port; give websocket=PORT, too");
    }
    s->web =
        vnc_web_new(s->set->env.loop, strcmp(web, "on") == 0 ? NULL : web, on_websocket_request, s, error);
    return s->web != NULL;
}

static bool refused_options(json_object *options, GError **error)
{
    static const char *const unsupported[] = { "tls-creds", "tls-authz", "sasl", "sasl-authz",
                                               "reverse",   "x509",      "tls",  NULL };

    for (int i = 0; unsupported[i]; i++) {
        const char *value = options_str(options, unsupported[i]);
        if (value && strcmp(value, "off") != 0) {
            error_set(error, "'%s' is not supported by this VNC server", unsupported[i]);
            error_append_hint(
                error, "Protect it with a unix socket (-vnc unix:PATH) or a tunnel, as ssh -L makes one.");
            return false;
        }
    }
    return true;
}

static bool configure(VncServer *s, json_object *options, const char *where, GError **error)
{
    static const char *const known[] = { "vnc",
                                         "id",
                                         "password",
                                         "password-secret",
                                         "share",
                                         "connections",
                                         "websocket",
                                         "web",
                                         "to",
                                         "ipv4",
                                         "ipv6",
                                         "display",
                                         "head",
                                         "lossy",
                                         "non-adaptive",
                                         "key-delay-ms",
                                         "tls-creds",
                                         "tls-authz",
                                         "sasl",
                                         "sasl-authz",
                                         "reverse",
                                         "audiodev",
                                         "lock-key-sync",
                                         "power-control",
                                         "x509",
                                         "tls",
                                         NULL };
    const char *display = options_str(options, "display"), *websocket = options_str(options, "websocket");
    DisplayConsole *console = display_console_find(s->set->env.displays, display, display ? error : NULL);

    if (!options_known(options, "vnc", known, error) || !refused_options(options, error) ||
        (display && !console)) {
        return false;
    }
    s->mirror = display_mirror_new(s->set->env.displays, s->set->env.loop, console, picture_changed, s);
    return configure_share(s, options, error) && configure_password(s, options, error) &&
           configure_web(s, options, error) && listen_main(s, options, where, error) &&
           (!websocket || strcmp(websocket, "off") == 0 ||
            listen_websocket(s, options, where, websocket, error));
}

/* ---- life ---- */

static void server_free(void *opaque)
{
    VncServer *s = opaque;

    g_ptr_array_unref(s->listeners);
    vnc_web_free(s->web);
    for (guint i = 0; i < s->clients->len; i++) {
        client_stop(s->clients->pdata[i]);
    }
    for (guint i = 0; i < s->clients->len; i++) {
        VncClient *c = s->clients->pdata[i];
        release_all(s, c);
        client_free(c);
    }
    g_ptr_array_unref(s->clients);
    bh_free(s->bh);
    timer_destroy(&s->tick);
    display_mirror_free(s->mirror);
    g_mutex_clear(&s->shared.lock);
    explicit_bzero(s->shared.password, sizeof(s->shared.password));
    g_free(s->shared.pixels);
    g_free(s->desktop_name);
    g_free(s->id);
    g_free(s);
}

VncSet *vnc_set_new(const VncEnv *env)
{
    VncSet *set = g_new0(VncSet, 1);

    set->env = *env;
    set->servers = g_ptr_array_new_with_free_func(server_free);
    return set;
}

void vnc_set_free(VncSet *set)
{
    if (set) {
        g_ptr_array_unref(set->servers);
        g_free(set);
    }
}

static VncServer *find_server(VncSet *set, const char *id, GError **error)
{
    for (guint i = 0; i < set->servers->len; i++) {
        VncServer *s = set->servers->pdata[i];
        if (!id || strcmp(s->id, id) == 0) {
            return s;
        }
    }
    if (id) {
        error_set(error, "There is no VNC server '%s'", id);
    } else {
        error_set(error, "There is no VNC server; -vnc makes one");
    }
    return NULL;
}

static bool add_server(VncSet *set, json_object *options, const char *where, const char *name, GError **error)
{
    const char *id = options_str(options, "id");

    if (set->servers->len && (!id || find_server(set, id, NULL))) {
        return error_set(error, "There is a VNC server '%s' already; give another id=", id ? id : "default");
    }
    VncServer *s = g_new0(VncServer, 1);
    s->set = set;
    s->id = g_strdup(id ? id : "default");
    s->desktop_name = g_strdup_printf("Rhea%s%s", name ? ": " : "", name ? name : "");
    s->listeners = g_ptr_array_new_with_free_func(listener_free);
    s->clients = g_ptr_array_new();
    g_mutex_init(&s->shared.lock);
    s->bh = bh_new(set->env.loop, on_clients, s, NULL);
    timer_init(&s->tick, set->env.loop, NULL, CLOCK_TYPE_REALTIME, on_tick, s, NULL);
    if (!configure(s, options, where, error)) {
        server_free(s);
        return false;
    }
    g_ptr_array_add(set->servers, s);
    return true;
}

bool vnc_add_text(VncSet *set, const char *text, const char *name, GError **error)
{
    json_object *options = keyval_parse(text, "vnc", NULL, error);

    if (!options) {
        return false;
    }
    const char *where = options_str(options, "vnc");
    bool ok = true;
    if (!where) {
        ok = error_set(error, "where to listen is missing: HOST:DISPLAY or unix:PATH");
    } else if (strcmp(where, "none") != 0 || options_contains(options, "websocket")) {
#ifdef CONFIG_VNC
        ok = vnc_library_init(error) && add_server(set, options, where, name, error);
#else
        ok = error_set(error, "this program was built without VNC");
        error_append_hint(error, "Build it with LibVNCServer (Debian's libvncserver-dev) installed.");
#endif
    }
    json_object_put(options);
    return ok;
}

#ifndef CONFIG_VNC
gpointer vnc_client_main(gpointer opaque)
{
    return NULL;
}

bool vnc_library_init(GError **error)
{
    return true;
}

void vnc_client_interrupt(VncClient *c)
{
}
#endif

/* ---- control ---- */

bool vnc_set_password(VncSet *set, const char *id, const char *password, const char *connected,
                      GError **error)
{
    VncServer *s = find_server(set, id, error);

    if (!s) {
        return false;
    }
    if (connected && strcmp(connected, "fail") == 0 && s->clients->len) {
        return error_set(error, "The password stays: %u clients are connected", s->clients->len);
    }
    if (!s->password_required) {
        error_set(error, "This VNC server asks for no password");
        error_append_hint(error, "Start it with -vnc ...,password=on.");
        return false;
    }
    set_password(s, password);
    for (guint i = 0; connected && strcmp(connected, "disconnect") == 0 && i < s->clients->len; i++) {
        client_stop(s->clients->pdata[i]);
    }
    return true;
}

bool vnc_expire_password(VncSet *set, const char *id, const char *time, GError **error)
{
    VncServer *s = find_server(set, id, error);
    int64_t now = g_get_real_time() / G_USEC_PER_SEC, at = 0;
    guint64 number;

    if (!s) {
        return false;
    }
    if (strcmp(time, "now") == 0) {
        at = 1;
    } else if (strcmp(time, "never") != 0) {
        if (!g_ascii_string_to_unsigned(time + (*time == '+'), 10, 0, G_MAXINT32 * 1024ull, &number, NULL)) {
            return error_set(error, "'%s' is no time: now, never, +SECONDS or seconds since 1970", time);
        }
        at = MAX((*time == '+' ? now : 0) + (int64_t)number, 1);
    }
    g_mutex_lock(&s->shared.lock);
    s->shared.password_expires = at;
    g_mutex_unlock(&s->shared.lock);
    return true;
}

static json_object *clients_json(VncServer *s)
{
    json_object *list = json_object_new_array();

    for (guint i = 0; i < s->clients->len; i++) {
        VncClient *c = s->clients->pdata[i];
        if (c->told_active) {
            json_object_array_add(list, json_object_get(c->info));
        }
    }
    return list;
}

json_object *vnc_query(VncSet *set)
{
    VncServer *s = find_server(set, NULL, NULL);
    json_object *info = json_object_new_object();

    json_object_object_add(info, "enabled", json_object_new_boolean(s != NULL));
    if (s && s->listeners->len) {
        json_object *address = address_json(((VncListener *)s->listeners->pdata[0])->fd, false, false);
        static const char *const keys[] = { "host", "service", "family" };
        for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
            json_object_object_add(info, keys[i], json_object_get(json_object_object_get(address, keys[i])));
        }
        json_object_put(address);
        json_object_object_add(info, "auth", json_object_new_string(auth_name(s)));
        json_object_object_add(info, "clients", clients_json(s));
    }
    return info;
}

json_object *vnc_query_servers(VncSet *set)
{
    json_object *list = json_object_new_array();

    for (guint i = 0; i < set->servers->len; i++) {
        VncServer *s = set->servers->pdata[i];
        json_object *info = json_object_new_object(), *addresses = json_object_new_array();
        for (guint n = 0; n < s->listeners->len; n++) {
            const VncListener *l = s->listeners->pdata[n];
            json_object *address = address_json(l->fd, false, l->websocket);
            json_object_object_add(address, "auth", json_object_new_string(auth_name(s)));
            json_object_array_add(addresses, address);
        }
        json_object_object_add(info, "id", json_object_new_string(s->id));
        json_object_object_add(info, "server", addresses);
        json_object_object_add(info, "clients", clients_json(s));
        json_object_object_add(info, "auth", json_object_new_string(auth_name(s)));
        json_object_array_add(list, info);
    }
    return list;
}
