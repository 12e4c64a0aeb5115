/*
 * -netdev user: a network of the guest's own behind network address translation, by libslirp.
 *
 * libslirp is not thread-safe: all calls are made in the client's loop. A card's frames are queued by
 * whichever thread sends them, and go in from a bottom half; what comes out is queued, and delivered with no
 * call into libslirp on the stack. Its sockets are watched by the loop; when one is ready, one poll(2) tells
 * libslirp about all. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "base/log.h"
#include "host/library.h"
#include "net/net_internal.h"
#include "rhea_config.h"

#include <arpa/inet.h>
#include <libslirp.h>
#include <poll.h>
#include <string.h>

/* Loaded when the first such network is made. */
/* clang-format off */
#define SLIRP_SYMBOLS(X, P)                                                                          \
    X(P, add_hostfwd) X(P, cleanup) X(P, connection_info) X(P, input) X(P, new) X(P, pollfds_fill)   \
    X(P, pollfds_poll) X(P, remove_hostfwd)
/* clang-format on */
LIBRARY_TABLE(slirp, slirp_, SLIRP_SYMBOLS, SONAME_SLIRP, "libslirp0", "User networking");

typedef struct Watch {
    int fd;
    int events; /* POLLIN and POLLOUT as wanted now */
    bool seen;
    LoopFd *lfd;
    struct UserState *owner;
} Watch;

typedef struct UserTimer {
    Timer timer;
    SlirpTimerCb callback;
    void *opaque;
    struct UserState *owner;
} UserTimer;

typedef struct UserState {
    NetClient *nc;
    Slirp *slirp;
    NetQueue to_slirp, to_card;
    GBytes *held; /* the frame that the card refused */
    BottomHalf *work_bh;
    Timer timeout;
    GHashTable *watches; /* fd -> Watch *, owned */
    bool ready;          /* a watched descriptor is: poll at the next work */
    bool restricted;
    struct in_addr network, mask, host;
} UserState;

/* What a forward's rule says (hostfwd). */
typedef struct Forward {
    bool udp;
    struct in_addr host, guest;
    uint16_t host_port, guest_port;
} Forward;

static void schedule(UserState *s)
{
    bh_schedule(s->work_bh);
}

/* ---- libslirp's callbacks ---- */

static ssize_t on_frame(const void *data, size_t size, void *opaque)
{
    UserState *s = opaque;
    const struct iovec iov = { .iov_base = (void *)data, .iov_len = size };
    net_queue_push(&s->to_card, &iov, 1); /* full: dropped, as a network does */
    schedule(s);
    return (ssize_t)size;
}

static void on_guest_error(const char *message, void *opaque)
{
    LOG(LOG_GUEST_ERROR, "user network: %s", message);
}

static int64_t on_clock(void *opaque)
{
    return clock_now_ns(NULL, CLOCK_TYPE_REALTIME);
}

static void timer_fired(void *opaque)
{
    UserTimer *t = opaque;
    t->callback(t->opaque);
    schedule(t->owner);
}

static void *on_timer_new(SlirpTimerCb callback, void *callback_opaque, void *opaque)
{
    UserState *s = opaque;
    UserTimer *t = g_new0(UserTimer, 1);
    t->callback = callback;
    t->opaque = callback_opaque;
    t->owner = s;
    timer_init(&t->timer, net_client_loop(s->nc), NULL, CLOCK_TYPE_REALTIME, timer_fired, t, NULL);
    return t;
}

static void on_timer_free(void *timer, void *opaque)
{
    UserTimer *t = timer;
    timer_destroy(&t->timer);
    g_free(t);
}

static void on_timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
    timer_set(&((UserTimer *)timer)->timer, expire_ms * 1000000);
}

static void on_register_fd(int fd, void *opaque)
{
}

/* It is about to be closed. */
static void on_unregister_fd(int fd, void *opaque)
{
    UserState *s = opaque;
    g_hash_table_remove(s->watches, GINT_TO_POINTER(fd));
}

static void on_notify(void *opaque)
{
    schedule(opaque);
}

static const SlirpCb callbacks = {
    .send_packet = on_frame,
    .guest_error = on_guest_error,
    .clock_get_ns = on_clock,
    .timer_new = on_timer_new,
    .timer_free = on_timer_free,
    .timer_mod = on_timer_mod,
    .register_poll_fd = on_register_fd,
    .unregister_poll_fd = on_unregister_fd,
    .notify = on_notify,
};

/* ---- polling ---- */

static void watch_ready(void *opaque)
{
    Watch *w = opaque;
    w->owner->ready = true;
    /* Once is enough: it is watched again after the work. */
    loop_fd_set(w->lfd, NULL, NULL);
    w->events = 0;
    schedule(w->owner);
}

static void watch_free(void *opaque)
{
    Watch *w = opaque;
    loop_remove_fd(w->lfd);
    g_free(w);
}

static int to_poll(int events)
{
    return (events & SLIRP_POLL_IN ? POLLIN : 0) | (events & SLIRP_POLL_OUT ? POLLOUT : 0) |
           (events & SLIRP_POLL_PRI ? POLLPRI : 0) | (events & SLIRP_POLL_ERR ? POLLERR : 0) |
           (events & SLIRP_POLL_HUP ? POLLHUP : 0);
}

static int from_poll(int events)
{
    return (events & POLLIN ? SLIRP_POLL_IN : 0) | (events & POLLOUT ? SLIRP_POLL_OUT : 0) |
           (events & POLLPRI ? SLIRP_POLL_PRI : 0) | (events & POLLERR ? SLIRP_POLL_ERR : 0) |
           (events & POLLHUP ? SLIRP_POLL_HUP : 0);
}

static int collect(int fd, int events, void *opaque)
{
    GArray *fds = opaque;
    const struct pollfd entry = { .fd = fd, .events = (short)to_poll(events) };
    g_array_append_val(fds, entry);
    return (int)fds->len - 1;
}

static int result_of(int index, void *opaque)
{
    GArray *fds = opaque;
    return index >= 0 && (guint)index < fds->len ? from_poll(g_array_index(fds, struct pollfd, index).revents)
                                                 : 0;
}

static gboolean unseen(gpointer key, gpointer value, gpointer opaque)
{
    return !((Watch *)value)->seen;
}

/* Makes the loop watch what libslirp wants to hear of, and arms its time-out. */
static void update_watches(UserState *s)
{
    uint32_t timeout_ms = UINT32_MAX;
    g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(struct pollfd));
    slirp.pollfds_fill(s->slirp, &timeout_ms, collect, fds);

    GHashTableIter it;
    gpointer value;
    g_hash_table_iter_init(&it, s->watches);
    while (g_hash_table_iter_next(&it, NULL, &value)) {
        ((Watch *)value)->seen = false;
    }
    for (guint i = 0; i < fds->len; i++) {
        const struct pollfd *want = &g_array_index(fds, struct pollfd, i);
        int events = (want->events & (POLLIN | POLLPRI | POLLHUP) ? POLLIN : 0) | (want->events & POLLOUT);
        Watch *w = g_hash_table_lookup(s->watches, GINT_TO_POINTER(want->fd));
        if (w && w->seen) {
            events |= w->events;
        }
        LoopFdHandler *on_read = events & POLLIN ? watch_ready : NULL;
        LoopFdHandler *on_write = events & POLLOUT ? watch_ready : NULL;
        if (!w) {
            w = g_new0(Watch, 1);
            w->fd = want->fd;
            w->owner = s;
            w->lfd = loop_add_fd(net_client_loop(s->nc), want->fd, on_read, on_write, NULL, w, NULL);
            g_hash_table_insert(s->watches, GINT_TO_POINTER(want->fd), w);
        } else if (w->events != events) {
            loop_fd_set(w->lfd, on_read, on_write);
        }
        w->events = events;
        w->seen = true;
    }
    g_hash_table_foreach_remove(s->watches, unseen, NULL);
    if (timeout_ms != UINT32_MAX) {
        timer_set(&s->timeout, clock_now_ns(NULL, CLOCK_TYPE_REALTIME) + (int64_t)timeout_ms * 1000000);
    } else {
        timer_cancel(&s->timeout);
    }
}

static void poll_now(UserState *s)
{
    uint32_t timeout_ms = UINT32_MAX;
    g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(struct pollfd));
    slirp.pollfds_fill(s->slirp, &timeout_ms, collect, fds);
    int status = poll((struct pollfd *)fds->data, fds->len, 0);
    slirp.pollfds_poll(s->slirp, status < 0, result_of, fds);
}

static void deliver(UserState *s)
{
    while (true) {
        GBytes *frame = s->held ? g_steal_pointer(&s->held) : net_queue_pop(&s->to_card);
        if (!frame) {
            return;
        }
        struct iovec iov;
        iov.iov_base = (void *)g_bytes_get_data(frame, &iov.iov_len);
        if (net_client_deliver(s->nc, &iov, 1) == 0 && iov.iov_len > 0) {
            s->held = frame;
            return;
        }
        g_bytes_unref(frame);
    }
}

static void work(void *opaque)
{
    UserState *s = opaque;
    GBytes *frame;
    while ((frame = net_queue_pop(&s->to_slirp)) != NULL) {
        gsize size;
        const uint8_t *data = g_bytes_get_data(frame, &size);
        slirp.input(s->slirp, data, (int)size);
        g_bytes_unref(frame);
    }
    if (s->ready) {
        s->ready = false;
        poll_now(s);
    }
    update_watches(s);
    deliver(s);
    if (net_queue_take_refused(&s->to_slirp)) {
        net_client_writable(s->nc);
    }
}

static void timed_out(void *opaque)
{
    UserState *s = opaque;
    s->ready = true; /* libslirp does its periodic work inside the poll call */
    schedule(s);
}

/* ---- the client ---- */

static ssize_t user_send(NetClient *nc, int queue, const struct iovec *iov, int iov_count)
{
    UserState *s = nc->state;
    size_t size = 0;
    for (int i = 0; i < iov_count; i++) {
        size += iov[i].iov_len;
    }
    bool taken = net_queue_push(&s->to_slirp, iov, iov_count);
    schedule(s);
    return taken ? (ssize_t)size : 0;
}

static void user_accept_input(NetClient *nc)
{
    deliver(nc->state);
}

static bool parse_address(const char *text, const char *what, const char *name, struct in_addr *address,
                          GError **error)
{
    if (text && inet_pton(AF_INET, text, address) != 1) {
        return error_set(error, "%s: '%s=%s' is not an IPv4 address", what, name, text);
    }
    return true;
}

/* "10.0.2.0/24" or "10.0.2.0/255.255.255.0" */
static bool parse_network(const char *what, const char *text, struct in_addr *network, struct in_addr *mask,
                          GError **error)
{
    g_auto(GStrv) parts = g_strsplit(text, "/", 2);
    guint64 bits = 24;
    bool ok = inet_pton(AF_INET, parts[0], network) == 1;
    if (ok && parts[1] && strchr(parts[1], '.')) {
        ok = inet_pton(AF_INET, parts[1], mask) == 1;
    } else {
        ok = ok && (!parts[1] || g_ascii_string_to_unsigned(parts[1], 10, 1, 30, &bits, NULL));
        mask->s_addr = htonl(UINT32_MAX << (32 - bits));
    }
    if (!ok) {
        return error_set(error, "%s: 'net=%s' is not a network like 10.0.2.0/24", what, text);
    }
    network->s_addr &= mask->s_addr;
    return true;
}

/* [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport */
static bool parse_forward(const char *rule, Forward *f, GError **error)
{
    *f = (Forward){ 0 };
    const char *dash = strrchr(rule, '-');
    g_autofree char *left = dash ? g_strndup(rule, dash - rule) : NULL;
    g_auto(GStrv) host = g_strsplit(left ? left : "", ":", -1);
    g_auto(GStrv) guest = g_strsplit(dash ? dash + 1 : "", ":", -1);
    guint64 host_port = 0, guest_port = 0;
    bool ok = dash && g_strv_length(host) == 3 && g_strv_length(guest) == 2 &&
              (strcmp(host[0], "tcp") == 0 || strcmp(host[0], "udp") == 0 || *host[0] == '\0') &&
              (*host[1] == '\0' || inet_pton(AF_INET, host[1], &f->host) == 1) &&
              g_ascii_string_to_unsigned(host[2], 10, 0, 65535, &host_port, NULL) &&
              (*guest[0] == '\0' || inet_pton(AF_INET, guest[0], &f->guest) == 1) &&
              g_ascii_string_to_unsigned(guest[1], 10, 1, 65535, &guest_port, NULL);
    if (!ok) {
        error_set(error, "Invalid host forwarding rule '%s'", rule);
        error_append_hint(error, "A rule reads [tcp|udp]:[HOSTADDRESS]:HOSTPORT-[GUESTADDRESS]:GUESTPORT, "
                                 "for instance tcp::2222-:22.");
        return false;
    }
    f->udp = strcmp(host[0], "udp") == 0;
    f->host_port = (uint16_t)host_port;
    f->guest_port = (uint16_t)guest_port;
    return true;
}

bool net_user_forward(NetClient *nc, const char *rule, bool add, GError **error)
{
    UserState *s = nc->state;
    Forward f;
    if (!add && !strchr(rule, '-')) {
        /* Removal names the host's side only. */
        g_autofree char *whole = g_strconcat(rule, "-:1", NULL);
        if (!parse_forward(whole, &f, error)) {
            return false;
        }
    } else if (!parse_forward(rule, &f, error)) {
        return false;
    }
    if (add ? slirp.add_hostfwd(s->slirp, f.udp, f.host, f.host_port, f.guest, f.guest_port) < 0
            : slirp.remove_hostfwd(s->slirp, f.udp, f.host, f.host_port) < 0) {
        if (!add) {
            return error_set(error, "There is no host forwarding '%s'", rule);
        }
        error_set(error, "Could not set up host forwarding rule '%s'", rule);
        error_append_hint(error, "Is port %u in use on this host?", f.host_port);
        return false;
    }
    schedule(s);
    return true;
}

char *net_user_info(NetClient *nc)
{
    UserState *s = nc->state;
    char *text = slirp.connection_info(s->slirp);
    char *copy = g_strdup(text);
    free(text);
    return copy;
}

static bool add_forwards(NetClient *nc, const GPtrArray *rules, GError **error)
{
    for (guint i = 0; rules && i < rules->len; i++) {
        if (!net_user_forward(nc, ((const QapiString *)rules->pdata[i])->str, true, error)) {
            return false;
        }
    }
    return true;
}

/* NULL-terminated; the strings are borrowed. NULL: none. Free the array. */
static const char **search_list(const GPtrArray *domains)
{
    const char **list = domains ? g_new0(const char *, domains->len + 1) : NULL;
    for (guint i = 0; domains && i < domains->len; i++) {
        list[i] = ((const QapiString *)domains->pdata[i])->str;
    }
    return list;
}

static void user_close(NetClient *nc)
{
    UserState *s = nc->state;
    bh_free(s->work_bh);
    if (s->slirp) {
        slirp.cleanup(s->slirp);
    }
    timer_destroy(&s->timeout);
    g_hash_table_unref(s->watches);
    g_clear_pointer(&s->held, g_bytes_unref);
    net_queue_destroy(&s->to_slirp);
    net_queue_destroy(&s->to_card);
}

static bool user_open(NetClient *nc, const QapiNetdev *options, GError **error)
{
    UserState *s = nc->state;
    const QapiNetdevUserOptions *o = options->u_user;
    g_autofree char *what = g_strdup_printf("netdev '%s'", nc->id);
    struct in_addr dhcp_start = { 0 }, dns = { 0 };
    bool restricted = o->has_restrict && o->restrict_;

    inet_pton(AF_INET, "10.0.2.0", &s->network);
    inet_pton(AF_INET, "255.255.255.0", &s->mask);
    if (o->has_queues && !net_client_set_queues(nc, o->queues, error)) {
        return false;
    }
    if (o->net && !parse_network(what, o->net, &s->network, &s->mask, error)) {
        return false;
    }
    if (o->has_ipv4 && !o->ipv4) {
        return error_set(error, "%s: a network without IPv4 is not supported", what);
    }
    uint32_t base = ntohl(s->network.s_addr);
    s->host.s_addr = htonl(base | 2);
    dns.s_addr = htonl(base | 3);
    dhcp_start.s_addr = htonl(base | 15);
    if (!parse_address(o->host, what, "host", &s->host, error) ||
        !parse_address(o->dns, what, "dns", &dns, error) ||
        !parse_address(o->dhcpstart, what, "dhcpstart", &dhcp_start, error)) {
        return false;
    }
    const struct in_addr inside[] = { s->host, dns, dhcp_start };
    static const char *const names[] = { "host", "dns", "dhcpstart" };
    for (size_t i = 0; i < G_N_ELEMENTS(inside); i++) {
        if ((inside[i].s_addr & s->mask.s_addr) != s->network.s_addr) {
            return error_set(error, "%s: '%s' lies outside of the network", what, names[i]);
        }
    }
    if (!library_load(&slirp_library, error)) {
        return false;
    }
    s->nc = nc;
    s->restricted = restricted;
    g_autofree const char **search = search_list(o->dnssearch); /* libslirp copies what it needs */
    SlirpConfig config = {
        .version = 1,
        .restricted = restricted,
        .in_enabled = true,
        .vnetwork = s->network,
        .vnetmask = s->mask,
        .vhost = s->host,
        .in6_enabled = o->has_ipv6 && o->ipv6,
        .vprefix_len = 64,
        .vhostname = o->hostname,
        .vdhcp_start = dhcp_start,
        .vnameserver = dns,
        .vdnssearch = search,
        .vdomainname = o->domainname,
        .tftp_path = o->tftp,
        .bootfile = o->bootfile,
    };
    inet_pton(AF_INET6, "fec0::", &config.vprefix_addr6);
    inet_pton(AF_INET6, "fec0::2", &config.vhost6);
    inet_pton(AF_INET6, "fec0::3", &config.vnameserver6);

    net_queue_init(&s->to_slirp);
    net_queue_init(&s->to_card);
    s->watches = g_hash_table_new_full(NULL, NULL, NULL, watch_free);
    s->work_bh = bh_new(net_client_loop(nc), work, s, NULL);
    timer_init(&s->timeout, net_client_loop(nc), NULL, CLOCK_TYPE_REALTIME, timed_out, s, NULL);
    s->slirp = slirp.new(&config, &callbacks, s);
    if (!s->slirp) {
        user_close(nc);
        return error_set(error, "%s: libslirp could not start", what);
    }
    if (!add_forwards(nc, o->hostfwd, error)) {
        user_close(nc);
        return false;
    }
    schedule(s);
    return true;
}

static void user_describe(NetClient *nc, GString *out)
{
    const UserState *s = nc->state;
    char text[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &s->network, text, sizeof(text));
    g_string_append_printf(out, "net=%s,restrict=%s", text, s->restricted ? "on" : "off");
}

const NetClientType net_client_user = {
    .name = "user",
    .state_size = sizeof(UserState),
    .open = user_open,
    .close = user_close,
    .send = user_send,
    .accept_input = user_accept_input,
    .describe = user_describe,
};
