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

typedef struct TapState {
    NetClient *nc;
    int fd;
    char name[IFNAMSIZ];
    LoopFd *lfd;
    bool reading, want_write; /* loop's thread; want_write: atomic */
    BottomHalf *write_bh;
    int header_bytes;        /* agreed with the card */
    int kernel_header_bytes; /* what the descriptor has now */
    size_t held;             /* bytes of a frame in buffer that the card refused */
    char *down_script;
    uint8_t buffer[NET_MAX_FRAME];
} TapState;

static void tap_watch(TapState *s);

/* Hands over what was read; false: the card has no room. */
static bool tap_deliver(TapState *s, size_t size)
{
    /* The kernel puts a header on every frame once it was opened so; a card that wants none gets none. */
    size_t skip = s->header_bytes == 0 ? MIN(size, (size_t)s->kernel_header_bytes) : 0;
    const struct iovec iov = { .iov_base = s->buffer + skip, .iov_len = size - skip };
    if (iov.iov_len > 0 && net_client_deliver(s->nc, &iov, 1) == 0) {
        s->held = size;
        return false;
    }
    s->held = 0;
    return true;
}

static void tap_readable(void *opaque)
{
    TapState *s = opaque;
    /* A burst at a time, so that others get their turn. */
    for (int i = 0; i < 64; i++) {
        ssize_t got = read(s->fd, s->buffer, sizeof(s->buffer));
        if (got <= 0) {
            return;
        }
        if (!tap_deliver(s, (size_t)got)) {
            tap_watch(s);
            return;
        }
    }
}

static void tap_writable(void *opaque)
{
    TapState *s = opaque;
    __atomic_store_n(&s->want_write, false, __ATOMIC_SEQ_CST);
    tap_watch(s);
    net_client_writable(s->nc);
}

static void tap_watch(TapState *s)
{
    loop_fd_set(s->lfd, s->held ? NULL : tap_readable,
                __atomic_load_n(&s->want_write, __ATOMIC_SEQ_CST) ? tap_writable : NULL);
}

static void tap_write_later(void *opaque)
{
    tap_watch(opaque);
}

static void tap_accept_input(NetClient *nc)
{
    TapState *s = nc->state;
    if (s->held == 0 || tap_deliver(s, s->held)) {
        tap_watch(s);
    }
}

static ssize_t tap_send(NetClient *nc, const struct iovec *iov, int iov_count)
{
    TapState *s = nc->state;
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
        sent = writev(s->fd, iov, iov_count);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0 && errno == EAGAIN) {
        __atomic_store_n(&s->want_write, true, __ATOMIC_SEQ_CST);
        bh_schedule(s->write_bh);
        return 0;
    }
    return (ssize_t)size; /* what the host refuses is lost, as on a wire */
}

static bool tap_set_vnet_header(NetClient *nc, int header_bytes, GError **error)
{
    TapState *s = nc->state;
    if (header_bytes != 0) {
        if (ioctl(s->fd, TUNSETVNETHDRSZ, &header_bytes) < 0) {
            return error_set_errno(error, errno, "netdev '%s': a virtio-net header of %d bytes", nc->id,
                                   header_bytes);
        }
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
    if (ioctl(s->fd, TUNSETOFFLOAD, wanted) < 0) {
        ioctl(s->fd, TUNSETOFFLOAD, wanted & ~(unsigned long)NET_OFFLOAD_UFO);
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

static int tap_open_interface(const char *what, const char *name, bool vnet_header, char *real_name,
                              GError **error)
{
    int fd = open(TAP_DEVICE, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        int reason = errno;
        error_set_errno(error, reason, "%s: could not open %s", what, TAP_DEVICE);
        error_append_hint(error, reason == ENOENT ? "Load the module: modprobe tun. Or use -netdev user."
                                                  : "Use a tap interface that is yours, or -netdev user.");
        return -1;
    }
    struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | (vnet_header ? IFF_VNET_HDR : 0) };
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
    if (s->lfd) {
        loop_remove_fd(s->lfd);
    }
    if (s->write_bh) {
        bh_free(s->write_bh);
    }
    if (s->down_script) {
        g_autoptr(GError) error = NULL;
        if (!run_script(s->down_script, s->name, &error)) {
            error_report(error);
        }
        g_free(s->down_script);
    }
    close(s->fd);
}

static bool tap_open(NetClient *nc, const QapiNetdev *options, GError **error)
{
    TapState *s = nc->state;
    const QapiNetdevTapOptions *o = options->u_tap;
    g_autofree char *what = g_strdup_printf("netdev '%s'", nc->id);
    const char *fd_name = o->fd, *name = o->ifname, *script = o->script, *down_script = o->downscript;
    bool vnet_header = !o->has_vnet_hdr || o->vnet_hdr;

    if (o->has_vhost && o->vhost) {
        return error_set(error, "%s: vhost is not supported yet", what);
    }
    if ((o->has_queues && o->queues != 1) || o->fds) {
        return error_set(error, "%s: several queues are not supported yet", what);
    }
    if (fd_name) {
        if (name || script || down_script) {
            return error_set(error, "%s: 'ifname', 'script' and 'downscript' do not go with 'fd'", what);
        }
        s->fd = fd_table_take(net_client_fds(nc), fd_name, error);
        if (s->fd < 0) {
            error_prefix(error, "%s: ", what);
            return false;
        }
        struct ifreq request = { 0 };
        if (ioctl(s->fd, TUNGETIFF, &request) < 0) {
            close(s->fd);
            return error_set(error, "%s: descriptor '%s' is not a tap interface", what, fd_name);
        }
        vnet_header = request.ifr_flags & IFF_VNET_HDR;
        memcpy(s->name, request.ifr_name, IFNAMSIZ - 1);
        fcntl(s->fd, F_SETFL, fcntl(s->fd, F_GETFL) | O_NONBLOCK);
    } else {
        s->fd = tap_open_interface(what, name, vnet_header, s->name, error);
        if (s->fd < 0) {
            return false;
        }
        if (script && *script && strcmp(script, "no") != 0 && !run_script(script, s->name, error)) {
            close(s->fd);
            return false;
        }
        if (down_script && *down_script && strcmp(down_script, "no") != 0) {
            s->down_script = g_strdup(down_script);
        }
    }
    if (o->has_sndbuf) {
        /* 0 means "no limit", as in the kernel the largest number does. */
        int bytes = o->sndbuf == 0 || o->sndbuf > INT_MAX ? INT_MAX : (int)o->sndbuf;
        if (ioctl(s->fd, TUNSETSNDBUF, &bytes) < 0) {
            error_set_errno(error, errno, "%s: could not set 'sndbuf'", what);
            close(s->fd);
            g_clear_pointer(&s->down_script, g_free);
            return false;
        }
    }
    s->nc = nc;
    nc->has_vnet_header = vnet_header;
    if (vnet_header) {
        int bytes = 10;
        ioctl(s->fd, TUNGETVNETHDRSZ, &bytes);
        s->kernel_header_bytes = bytes;
        nc->offloads = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN;
        ioctl(s->fd, TUNSETOFFLOAD, 0);
    }
    s->write_bh = bh_new(net_client_loop(nc), tap_write_later, s, NULL);
    s->lfd = loop_add_fd(net_client_loop(nc), s->fd, tap_readable, NULL, NULL, s, NULL);
    return true;
}

static void tap_describe(NetClient *nc, GString *out)
{
    const TapState *s = nc->state;
    g_string_append_printf(out, "ifname=%s", s->name);
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
    .describe = tap_describe,
};
