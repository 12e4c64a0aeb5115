/*
 * -netdev tap: a tap interface of the host, by name or by a descriptor that was handed over. Frames carry a
 * virtio-net header where the kernel allows it, so that checksums and segmentation are left to the host
 * (Linux Documentation/networking/tuntap.rst; include/uapi/linux/if_tun.h). SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "base/error.h"
#include "net/net_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define TAP_DEVICE "/dev/net/tun"

/* A queue of the interface, which the host's kernel has one descriptor for. */
typedef struct TapQueue {
    NetClient *nc;
    int number, fd;
    LoopFd *lfd;
    bool want_write; /* atomic */
    bool attached;   /* the kernel gives it frames */
    BottomHalf *write_bh;
    size_t held; /* bytes of a frame in buffer that the card refused */
    uint8_t buffer[NET_MAX_FRAME];
} TapQueue;

typedef struct TapState {
    NetClient *nc;
    char name[IFNAMSIZ];
    TapQueue *queues[NET_MAX_QUEUES];
    int queue_count;
    int header_bytes;        /* agreed with the card */
    int kernel_header_bytes; /* what the descriptors have now */
    char *down_script;
} TapState;

static void tap_watch(TapQueue *q);

/* Hands over what was read; false: the card has no room. */
static bool tap_deliver(TapQueue *q, size_t size)
{
    const TapState *s = q->nc->state;
    /* The kernel puts a header on every frame once it was opened so; a card that wants none gets none. */
    size_t skip = s->header_bytes == 0 ? MIN(size, (size_t)s->kernel_header_bytes) : 0;
    const struct iovec iov = { .iov_base = q->buffer + skip, .iov_len = size - skip };
    if (iov.iov_len > 0 && net_client_deliver_queue(q->nc, q->number, &iov, 1) == 0) {
        q->held = size;
        return false;
    }
    q->held = 0;
    return true;
}

static void tap_readable(void *opaque)
{
    TapQueue *q = opaque;
    /* A burst at a time, so that others get their turn. */
    for (int i = 0; i < 64; i++) {
        ssize_t got = read(q->fd, q->buffer, sizeof(q->buffer));
        if (got <= 0) {
            return;
        }
        if (!tap_deliver(q, (size_t)got)) {
            tap_watch(q);
            return;
        }
    }
}

static void tap_writable(void *opaque)
{
    TapQueue *q = opaque;
    __atomic_store_n(&q->want_write, false, __ATOMIC_SEQ_CST);
    tap_watch(q);
    net_client_writable(q->nc);
}

static void tap_watch(TapQueue *q)
{
    loop_fd_set(q->lfd, q->held ? NULL : tap_readable,
                __atomic_load_n(&q->want_write, __ATOMIC_SEQ_CST) ? tap_writable : NULL);
}

static void tap_write_later(void *opaque)
{
    tap_watch(opaque);
}

static void tap_accept_input(NetClient *nc)
{
    TapState *s = nc->state;
    for (int i = 0; i < s->queue_count; i++) {
        TapQueue *q = s->queues[i];
        if (q->held == 0 || tap_deliver(q, q->held)) {
            tap_watch(q);
        }
    }
}

static ssize_t tap_send(NetClient *nc, int queue, const struct iovec *iov, int iov_count)
{
    TapState *s = nc->state;
    TapQueue *q = s->queues[queue < s->queue_count ? queue : 0];
    static const uint8_t no_header[12];
    g_autofree struct iovec *with_header = NULL;
    size_t size = 0;
    for (int i = 0; i < iov_count; i++) {
        size += iov[i].iov_len;
    }
    if (s->header_bytes == 0 && s->kernel_header_bytes) {
        with_header = g_new(struct iovec, iov_count + 1);
        with_header[0] = (struct iovec){ .iov_base = (void *)no_header, .iov_len = s->kernel_header_bytes };
        memcpy(with_header + 1, iov, sizeof(*iov) * iov_count);
        iov = with_header;
        iov_count++;
    }
    ssize_t sent;
    do {
        sent = writev(q->fd, iov, iov_count);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0 && errno == EAGAIN) {
        __atomic_store_n(&q->want_write, true, __ATOMIC_SEQ_CST);
        bh_schedule(q->write_bh);
        return 0;
    }
    return (ssize_t)size; /* what the host refuses is lost, as on a wire */
}

static bool tap_set_vnet_header(NetClient *nc, int header_bytes, GError **error)
{
    TapState *s = nc->state;
    for (int i = 0; header_bytes != 0 && i < s->queue_count; i++) {
        if (ioctl(s->queues[i]->fd, TUNSETVNETHDRSZ, &header_bytes) < 0) {
            return error_set_errno(error, errno, "netdev '%s': a virtio-net header of %d bytes", nc->id,
                                   header_bytes);
        }
    }
    if (header_bytes != 0) {
        s->kernel_header_bytes = header_bytes;
    }
    s->header_bytes = header_bytes;
    return true;
}

static void tap_set_offloads(NetClient *nc, uint32_t offloads)
{
    TapState *s = nc->state;
    /* NET_OFFLOAD_* have the values of TUN_F_*; USO came with Linux 6.2. */
    unsigned long wanted = offloads & (NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 |
                                       NET_OFFLOAD_ECN | NET_OFFLOAD_UFO);
    if (!(wanted & NET_OFFLOAD_CSUM)) {
        wanted = 0;
    }
    /* Of the interface, whichever descriptor it is told by. */
    if (ioctl(s->queues[0]->fd, TUNSETOFFLOAD, wanted) < 0) {
        ioctl(s->queues[0]->fd, TUNSETOFFLOAD, wanted & ~(unsigned long)NET_OFFLOAD_UFO);
    }
}

/* The kernel spreads flows over the queues that are attached. */
static void tap_set_active_queues(NetClient *nc, int queues)
{
    TapState *s = nc->state;
    for (int i = 0; s->queue_count > 1 && i < s->queue_count; i++) {
        bool attach = i < queues;
        struct ifreq request = { .ifr_flags = attach ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };
        if (attach != s->queues[i]->attached && ioctl(s->queues[i]->fd, TUNSETQUEUE, &request) == 0) {
            s->queues[i]->attached = attach;
        }
    }
}

/* Runs "SCRIPT INTERFACE" and waits for it. */
static bool run_script(const char *script, const char *name, GError **error)
{
    char *argv[] = { (char *)script, (char *)name, NULL };
    int status = 0;
    if (!g_spawn_sync(NULL, argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, NULL, NULL, &status, error)) {
        error_prefix(error, "network script %s: ", script);
        return false;
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        return error_set(error, "network script %s failed with status %d", script, status);
    }
    return true;
}

static int tap_open_interface(const char *what, const char *name, bool vnet_header, bool several,
                              char *real_name, GError **error)
{
    int fd = open(TAP_DEVICE, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        int reason = errno;
        error_set_errno(error, reason, "%s: could not open %s", what, TAP_DEVICE);
        error_append_hint(error, reason == ENOENT ? "Load the module: modprobe tun. Or use -netdev user."
                                                  : "Use a tap interface that is yours, or -netdev user.");
        return -1;
    }
    struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | (vnet_header ? IFF_VNET_HDR : 0) |
                                          (several ? IFF_MULTI_QUEUE : 0) };
    if (name) {
        if (strlen(name) >= IFNAMSIZ) {
            error_set(error, "%s: interface name '%s' is too long", what, name);
            close(fd);
            return -1;
        }
        memcpy(request.ifr_name, name, strlen(name) + 1);
    }
    if (ioctl(fd, TUNSETIFF, &request) < 0) {
        int reason = errno;
        error_set_errno(error, reason, "%s: could not set up interface '%s'", what, name ? name : "tap%d");
        if (reason == EPERM) {
            error_append_hint(error, "Make it yours first: ip tuntap add dev %s mode tap user $USER",
                              name ? name : "tap0");
        } else if (reason == EINVAL && several) {
            error_append_hint(error,
                              "Was it made for several queues? ip tuntap add dev %s mode tap multi_queue",
                              name ? name : "tap0");
        } else if (reason == EBUSY) {
            error_append_hint(error, "Another program has it open.");
        }
        close(fd);
        return -1;
    }
    memcpy(real_name, request.ifr_name, IFNAMSIZ);
    real_name[IFNAMSIZ - 1] = 0;
    return fd;
}

static void tap_close(NetClient *nc)
{
    TapState *s = nc->state;
    if (s->down_script) {
        g_autoptr(GError) error = NULL;
        if (!run_script(s->down_script, s->name, &error)) {
            error_report(error);
        }
        g_free(s->down_script);
    }
    for (int i = 0; i < s->queue_count; i++) {
        TapQueue *q = s->queues[i];
        if (q->lfd) {
            loop_remove_fd(q->lfd);
            bh_free(q->write_bh);
        }
        close(q->fd);
        g_free(q);
    }
    s->queue_count = 0;
}

static void add_queue(NetClient *nc, int fd)
{
    TapState *s = nc->state;
    TapQueue *q = g_new0(TapQueue, 1);
    q->nc = nc;
    q->fd = fd;
    q->number = s->queue_count;
    q->attached = true;
    s->queues[s->queue_count++] = q;
}

/* Descriptors that were handed over: all of one interface. */
static bool take_descriptors(NetClient *nc, const char *what, const char *list, bool *vnet_header,
                             GError **error)
{
    TapState *s = nc->state;
    g_auto(GStrv) names = g_strsplit(list, ":", -1);
    if (!net_client_set_queues(nc, g_strv_length(names), error)) {
        return false;
    }
    for (char **name = names; *name; name++) {
        int fd = fd_table_take(net_client_fds(nc), *name, error);
        if (fd < 0) {
            error_prefix(error, "%s: ", what);
            return false;
        }
        add_queue(nc, fd);
        struct ifreq request = { 0 };
        if (ioctl(fd, TUNGETIFF, &request) < 0) {
            return error_set(error, "%s: descriptor '%s' is not a tap interface", what, *name);
        }
        bool header = request.ifr_flags & IFF_VNET_HDR;
        if (s->queue_count > 1 &&
            (header != *vnet_header || strncmp(request.ifr_name, s->name, IFNAMSIZ) != 0)) {
            return error_set(error, "%s: descriptor '%s' is not a queue of interface '%s'", what, *name,
                             s->name);
        }
        *vnet_header = header;
        memcpy(s->name, request.ifr_name, IFNAMSIZ - 1);
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    }
    return true;
}

/* An interface by name, or a new one. */
static bool open_descriptors(NetClient *nc, const char *what, const QapiNetdevTapOptions *o, bool vnet_header,
                             GError **error)
{
    TapState *s = nc->state;
    if (o->has_queues && !net_client_set_queues(nc, o->queues, error)) {
        return false;
    }
    for (int i = 0; i < nc->queues; i++) {
        int fd =
            tap_open_interface(what, i ? s->name : o->ifname, vnet_header, nc->queues > 1, s->name, error);
        if (fd < 0) {
            return false;
        }
        add_queue(nc, fd);
    }
    const char *up = o->script, *down = o->downscript;
    if (up && *up && strcmp(up, "no") != 0 && !run_script(up, s->name, error)) {
        return false;
    }
    if (down && *down && strcmp(down, "no") != 0) {
        s->down_script = g_strdup(down);
    }
    return true;
}

static bool set_send_buffer(const TapState *s, const char *what, uint64_t size, GError **error)
{
    /* 0 means "no limit", as in the kernel the largest number does. */
    int bytes = size == 0 || size > INT_MAX ? INT_MAX : (int)size;
    if (ioctl(s->queues[0]->fd, TUNSETSNDBUF, &bytes) < 0) {
        return error_set_errno(error, errno, "%s: could not set 'sndbuf'", what);
    }
    return true;
}

static bool open_queues(NetClient *nc, const char *what, const QapiNetdevTapOptions *o, bool *vnet_header,
                        GError **error)
{
    const char *fds = o->fd ? o->fd : o->fds;
    if (fds && (o->ifname || o->script || o->downscript || o->has_queues || (o->fd && o->fds))) {
        return error_set(
            error, "%s: 'ifname', 'script', 'downscript' and 'queues' do not go with 'fd' or 'fds'", what);
    }
    if (!(fds ? take_descriptors(nc, what, fds, vnet_header, error)
              : open_descriptors(nc, what, o, *vnet_header, error))) {
        return false;
    }
    return !o->has_sndbuf || set_send_buffer(nc->state, what, o->sndbuf, error);
}

static bool tap_open(NetClient *nc, const QapiNetdev *options, GError **error)
{
    TapState *s = nc->state;
    const QapiNetdevTapOptions *o = options->u_tap;
    g_autofree char *what = g_strdup_printf("netdev '%s'", nc->id);
    bool vnet_header = !o->has_vnet_hdr || o->vnet_hdr;

    if (o->has_vhost && o->vhost) {
        return error_set(error, "%s: vhost is not supported yet", what);
    }
    s->nc = nc;
    if (!open_queues(nc, what, o, &vnet_header, error)) {
        g_clear_pointer(&s->down_script, g_free);
        tap_close(nc);
        return false;
    }
    nc->has_vnet_header = vnet_header;
    if (vnet_header) {
        int bytes = 10;
        ioctl(s->queues[0]->fd, TUNGETVNETHDRSZ, &bytes);
        s->kernel_header_bytes = bytes;
        nc->offloads = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN;
        ioctl(s->queues[0]->fd, TUNSETOFFLOAD, 0);
    }
    for (int i = 0; i < s->queue_count; i++) {
        TapQueue *q = s->queues[i];
        q->write_bh = bh_new(net_client_loop(nc), tap_write_later, q, NULL);
        q->lfd = loop_add_fd(net_client_loop(nc), q->fd, tap_readable, NULL, NULL, q, NULL);
    }
    tap_set_active_queues(nc, 1);
    return true;
}

static void tap_describe(NetClient *nc, GString *out)
{
    const TapState *s = nc->state;
    g_string_append_printf(out, "ifname=%s", s->name);
    if (s->queue_count > 1) {
        g_string_append_printf(out, ",queues=%d", s->queue_count);
    }
}

const NetClientType net_client_tap = {
    .name = "tap",
    .state_size = sizeof(TapState),
    .open = tap_open,
    .close = tap_close,
    .send = tap_send,
    .accept_input = tap_accept_input,
    .set_vnet_header = tap_set_vnet_header,
    .set_offloads = tap_set_offloads,
    .set_active_queues = tap_set_active_queues,
    .describe = tap_describe,
};
