/*
 * Network back ends (-netdev) and the card that a device puts on top of one.
 *
 * A NetClient is the host end (user, tap, stream); it lives in a NetRegistry, which belongs to the virtual
 * machine. A NetNic is the guest end, embedded in a device's state; its property connects it to a client (one
 * card per client). A frame is an iovec of Ethernet bytes, without CRC; with a virtio-net header of the
 * agreed length in front of it once net_nic_set_vnet_header() said so.
 *
 * Threads: a NetNic's handlers run in its loop's thread (by default the client's) with its HomeLock held;
 * sends and wake-ups may come from any thread, also with that lock held. The rest is control plane: main
 * loop's thread. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_NET_NET_H
#define RHEA_NET_NET_H

#include "io/fd_table.h"
#include "loop/loop.h"
#include "object/property.h"
#include "qapi/qapi_types.h"

#include <sys/uio.h>

typedef struct NetClient NetClient;
typedef struct NetRegistry NetRegistry;

#define NET_MAX_FRAME  (65536 + 64) /* an Ethernet frame with the largest segment and a virtio-net header */
#define NET_MAX_QUEUES 16

typedef struct MacAddr {
    uint8_t a[6];
} MacAddr;

/* What a card may ask of frames that it receives, as tap's TUN_F_* and virtio-net's guest features have it.
 */
enum {
    NET_OFFLOAD_CSUM = 1u << 0, /* partial checksums are fine */
    NET_OFFLOAD_TSO4 = 1u << 1,
    NET_OFFLOAD_TSO6 = 1u << 2,
    NET_OFFLOAD_ECN = 1u << 3,
    NET_OFFLOAD_UFO = 1u << 4,
    NET_OFFLOAD_USO4 = 1u << 5,
    NET_OFFLOAD_USO6 = 1u << 6,
};

typedef struct NetNicOps {
    /* Whether receive would take a frame on this queue now. NULL: always. */
    bool (*can_receive)(void *opaque, int queue);
    /* A frame for the guest. Returns its size when taken (or dropped by the card's own filter), 0 when there
     * is no buffer: the client keeps it and stops until net_nic_accept_input(). */
    ssize_t (*receive)(void *opaque, int queue, const struct iovec *iov, int iov_count);
    void (*link_changed)(void *opaque, bool up); /* may be NULL */
    /* The client takes frames again after net_nic_send() gave 0. */
    void (*writable)(void *opaque, int queue);
} NetNicOps;

/* Embedded in its owner's state; all zero is "not connected". The property sets client; realize calls
 * net_nic_init. */
typedef struct NetNic {
    NetClient *client; /* NULL: no back end; sends are thrown away */
    const NetNicOps *ops;
    void *opaque;
    HomeLock *lock;
    char *model; /* "virtio-net-pci", for info network */
    char *name;  /* the device's id or a made-up one */
    MacAddr mac;
    NetRegistry *registry;
    bool link_down;
    uint32_t want_write; /* a bit per queue that waits for writable */
    int active_queues;   /* that frames come in on: 0 is 1. Atomic */
    int header_bytes;    /* of the virtio-net header */
    uint8_t *flows;      /* queue + 1 by a flow's hash, where the client has no queues of its own; atomic */
} NetNic;

/* After the properties are set: names the card and gives it its handlers (ops borrowed for ever). No frame
 * comes in before it. Returns false where the client cannot serve (for instance too many queues asked). */
bool net_nic_init(NetNic *nic, const NetNicOps *ops, void *opaque, HomeLock *lock, const MacAddr *mac,
                  const char *model, const char *name, GError **error);
/* Disconnects; no handler runs after it returns. Not with the lock held. Harmless on a zero one. */
void net_nic_deinit(NetNic *nic);
/* A card without a chosen address gets 52:54:00:12:34:56 and up, one per card of the machine. */
void net_macaddr_default_if_unset(MacAddr *mac);
/* For info network: "queue 0 ..." text is made from the card's fields. */
void net_nic_set_mac(NetNic *nic, const MacAddr *mac);

int net_nic_queues(const NetNic *nic); /* queue pairs the client has; 1 without a client */
/* The guest uses the first `queues` pairs (1 until this is called): frames come in on these. A client without
 * queues of its own gives a flow's frames to the queue that the flow was last sent on. Home lock held. */
void net_nic_set_active_queues(NetNic *nic, int queues);
/* Sends a frame. Returns its size once it is taken or dropped (also where the link is down), or 0 where the
 * client is busy: ops->writable follows. Never blocks. [any thread] */
ssize_t net_nic_send(NetNic *nic, int queue, const struct iovec *iov, int iov_count);
/* There are receive buffers again after can_receive or receive refused. Cheap. [any thread] */
void net_nic_accept_input(NetNic *nic, int queue);
bool net_nic_link_up(const NetNic *nic); /* the client's and the card's own link. [any thread] */

/* Whether frames may carry a virtio-net header (checksum and segmentation offload in both directions). */
bool net_nic_has_vnet_header(const NetNic *nic);
/* Whether the client can do these offloads (mask of NET_OFFLOAD_*). */
uint32_t net_nic_offloads(const NetNic *nic);
/* From now on frames in both directions begin with a header of that many bytes: 0, 10 or 12. */
bool net_nic_set_vnet_header(NetNic *nic, int header_bytes, GError **error);
/* What the guest accepts in frames that it receives. */
void net_nic_set_offloads(NetNic *nic, uint32_t offloads);

/* ---- the registry ---- */
/* Clients run in loop; fds (borrowed, may be NULL) resolves fd= names. */
NetRegistry *net_registry_new(Loop *loop, FdTable *fds);
void net_registry_free(NetRegistry *reg);
/* The registry that the netdev property of devices looks ids up in; set once when the Vm is made. */
void net_property_set_registry(NetRegistry *reg);
/* -netdev's text ("user,id=n0,hostfwd=tcp::2222-:22", repeated keys make lists) or JSON (netdev_add's
 * arguments). Borrowed result. */
NetClient *net_client_add_text(NetRegistry *reg, const char *text, GError **error);
NetClient *net_client_add(NetRegistry *reg, const QapiNetdev *options, GError **error);
/* netdev_del: a card on it loses its link and keeps working without a back end. */
bool net_client_remove(NetRegistry *reg, const char *id, GError **error);
NetClient *net_client_find(NetRegistry *reg, const char *id);
const char *net_client_id(const NetClient *client);
/* The client's card, or NULL. */
NetNic *net_client_nic(const NetClient *client);
/* set_link: name is a client's or a card's. */
bool net_set_link(NetRegistry *reg, const char *name, bool up, GError **error);
/* The text of `info network`, and of `info usernet`. Caller frees. */
char *net_info(NetRegistry *reg);
char *net_info_usernet(NetRegistry *reg);
/* query-rx-filter is the cards' own. hostfwd_add / hostfwd_remove; id NULL: the only user client. */
bool net_hostfwd_add(NetRegistry *reg, const char *id, const char *rule, GError **error);
bool net_hostfwd_remove(NetRegistry *reg, const char *id, const char *rule, GError **error);
/* Names of the kinds that this build has, NULL-terminated ("user", "tap", "stream"). */
const char *const *net_client_types(void);

/* Parses "52:54:00:12:34:56" (also with dashes). */
bool net_parse_mac(const char *text, MacAddr *mac, GError **error);
char *net_format_mac(const MacAddr *mac); /* caller frees */

/* Ends the checksum that a frame's virtio-net header leaves to the hardware; frame begins behind the header.
 * False where start and offset are outside of the frame. */
bool net_finish_checksum(uint8_t *frame, size_t size, uint16_t csum_start, uint16_t csum_offset);

/* PROP_TYPED("netdev", State, nic, property_type_netdev, ...): the field is a NetNic.
 * PROP_TYPED("mac", State, mac, property_type_macaddr, ...): the field is a MacAddr. */
extern const PropertyType property_type_netdev, property_type_macaddr;

#endif
