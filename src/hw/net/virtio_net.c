/*
 * virtio-net: a network card. Source: VIRTIO 1.2, section 5.1.
 *
 * Queue pairs, as many as the back end has queues, and the control queue; mergeable receive buffers; checksum
 * and segmentation offload as far as the back end's virtio-net header goes (partial checksums of the guest
 * always: they are completed here where the back end cannot). Left out: hash reports and receive-side
 * scaling, notification coalescing, standby (failover).
 *
 * Runs in the main loop: queues and the back end's frames, all with the home lock held.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "base/log.h"
#include "hw/virtio/virtio_device.h"
#include "net/net.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(virtio_net_receive, "size %zu buffers %u")
TRACE_EVENT(virtio_net_drop, "size %zu: %s")
TRACE_EVENT(virtio_net_send, "size %zu result %zd")
TRACE_EVENT(virtio_net_control, "class %u command %u size %zu ack %u")

#define TYPE_VIRTIO_NET "virtio-net-device"

/* Feature bits (5.1.3). */
enum {
    F_CSUM = 0,
    F_GUEST_CSUM = 1,
    F_CTRL_GUEST_OFFLOADS = 2,
    F_MTU = 3,
    F_MAC = 5,
    F_GUEST_TSO4 = 7,
    F_GUEST_TSO6 = 8,
    F_GUEST_ECN = 9,
    F_GUEST_UFO = 10,
    F_HOST_TSO4 = 11,
    F_HOST_TSO6 = 12,
    F_HOST_ECN = 13,
    F_HOST_UFO = 14,
    F_MRG_RXBUF = 15,
    F_STATUS = 16,
    F_CTRL_VQ = 17,
    F_CTRL_RX = 18,
    F_CTRL_VLAN = 19,
    F_CTRL_RX_EXTRA = 20,
    F_GUEST_ANNOUNCE = 21,
    F_MQ = 22,
    F_CTRL_MAC_ADDR = 23,
    F_GUEST_USO4 = 54,
    F_GUEST_USO6 = 55,
    F_HOST_USO = 56,
    F_SPEED_DUPLEX = 63,
};

/* The control queue (5.1.6.5). */
enum { CTRL_RX = 0, CTRL_MAC = 1, CTRL_VLAN = 2, CTRL_ANNOUNCE = 3, CTRL_MQ = 4, CTRL_OFFLOADS = 5 };
enum { RX_PROMISC, RX_ALLMULTI, RX_ALLUNI, RX_NOMULTI, RX_NOUNI, RX_NOBCAST, RX_MODES };
enum { ACK_OK = 0, ACK_ERR = 1 };

enum { STATUS_LINK_UP = 1, STATUS_ANNOUNCE = 2 };
enum { HDR_F_NEEDS_CSUM = 1 };

#define HEADER_SIZE     12
#define LEGACY_HEADER   10 /* without num_buffers (5.1.6.1) */
#define MAC_TABLE_MAX   64
#define VLANS           4096
#define CONTROL_ENTRIES 64
#define TX_BURST        256
#define CONTROL_MAX     4096 /* bytes of a command: two MAC tables fit */

typedef struct __attribute__((packed)) NetHeader {
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
} NetHeader;
G_STATIC_ASSERT(sizeof(NetHeader) == HEADER_SIZE);

/* Configuration space (5.1.4). */
typedef struct __attribute__((packed)) NetConfig {
    uint8_t mac[6];
    uint16_t status, max_virtqueue_pairs, mtu;
    uint32_t speed;
    uint8_t duplex, unused[3];
} NetConfig;
G_STATIC_ASSERT(sizeof(NetConfig) == 20);

typedef struct VirtioNet {
    VirtioDevice parent_obj;
    /* saved */
    uint8_t mac[6]; /* as the guest has set it */
    uint16_t status;
    uint8_t rx_mode[RX_MODES];
    uint8_t unicast[MAC_TABLE_MAX][6], multicast[MAC_TABLE_MAX][6];
    uint32_t unicast_count, multicast_count;
    uint8_t unicast_overflow, multicast_overflow;
    uint8_t vlans[VLANS / 8];
    uint64_t offloads; /* feature bits of what the guest takes; may be switched by the guest */
    uint16_t active_pairs;
    /* from properties */
    NetNic nic;
    MacAddr own_mac;
    uint64_t wanted; /* feature bits that may be offered */
    uint16_t rx_queue_size, tx_queue_size;
    uint16_t mtu;
    int32_t speed, bootindex;
    char *duplex, *tx;
    /* derived */
    uint16_t pairs;                               /* that there are queues for */
    bool vnet_header;                             /* frames to and from the back end begin with a NetHeader */
    VirtQueueElement *tx_waiting[NET_MAX_QUEUES]; /* by pair: the back end was busy */
    bool announce;                                /* the card may be elsewhere on its network now */
} VirtioNet;
#define VIRTIO_NET(obj) OBJECT_CHECK(VirtioNet, obj, TYPE_VIRTIO_NET)

/* Receive and transmit queue of a pair (5.1.2). */
static VirtQueue *rx_of(VirtioNet *s, int pair)
{
    return &s->parent_obj.queues[2 * pair];
}

static VirtQueue *tx_of(VirtioNet *s, int pair)
{
    return &s->parent_obj.queues[2 * pair + 1];
}

static size_t header_size(const VirtioNet *s)
{
    const VirtioDevice *vdev = &s->parent_obj;
    return virtio_is_legacy(vdev) && !virtio_has_feature(vdev, F_MRG_RXBUF) ? LEGACY_HEADER : HEADER_SIZE;
}

/* ---- to the host ---- */

/* The frame behind the header; linear only where its checksum is finished here. 0: the back end is busy. */
static ssize_t send_frame(VirtioNet *s, int pair, VirtQueueElement *e)
{
    NetHeader header = { 0 };
    size_t skip = header_size(s), size = e->out_size - skip;
    struct iovec iov[VIRTQUEUE_MAX_SG];
    iov_read(e->out, e->out_count, 0, &header, skip);
    if (s->vnet_header) {
        return net_nic_send(&s->nic, pair, e->out, (int)e->out_count);
    }
    if (header.gso_type) {
        TRACE(virtio_net_drop, size, "segmentation that was not offered");
        return (ssize_t)size;
    }
    if (header.flags & HDR_F_NEEDS_CSUM) {
        g_autofree uint8_t *frame = g_malloc(size);
        iov_read(e->out, e->out_count, skip, frame, size);
        if (!net_finish_checksum(frame, size, header.csum_start, header.csum_offset)) {
            TRACE(virtio_net_drop, size, "checksum outside of the frame");
            return (ssize_t)size;
        }
        return net_nic_send(&s->nic, pair, &(struct iovec){ frame, size }, 1);
    }
    unsigned count = 0;
    for (unsigned i = 0; i < e->out_count; i++) {
        if (skip >= e->out[i].iov_len) {
            skip -= e->out[i].iov_len;
            continue;
        }
        iov[count++] = (struct iovec){ (uint8_t *)e->out[i].iov_base + skip, e->out[i].iov_len - skip };
        skip = 0;
    }
    return net_nic_send(&s->nic, pair, iov, (int)count);
}

/* Sends what waits; false where the back end is busy or the device broke. */
static bool flush_tx(VirtioNet *s, int pair, unsigned burst)
{
    VirtioDevice *vdev = &s->parent_obj;
    VirtQueue *vq = tx_of(s, pair);
    bool pushed = false, busy = false;
    if (!virtio_device_active(vdev)) {
        return false;
    }
    while (burst--) {
        VirtQueueElement *e = g_steal_pointer(&s->tx_waiting[pair]);
        if (!e) {
            e = virtqueue_pop(vq, sizeof(*e));
        }
        if (!e) {
            break;
        }
        if (e->out_size <= header_size(s) || e->in_size) {
            virtio_device_error(vdev, "transmit queue: %zu bytes out and %zu in", e->out_size, e->in_size);
            virtqueue_discard(e);
            return false;
        }
        if (e->out_size <= NET_MAX_FRAME) {
            ssize_t result = send_frame(s, pair, e);
            TRACE(virtio_net_send, e->out_size, result);
            if (result == 0) {
                s->tx_waiting[pair] = e;
                busy = true;
                break;
            }
        } else {
            TRACE(virtio_net_drop, e->out_size, "too long to send");
        }
        virtqueue_push(vq, e, 0);
        pushed = true;
    }
    if (pushed) {
        virtqueue_notify(vq);
    }
    return !busy;
}

static void handle_tx(VirtioNet *s, int pair)
{
    VirtQueue *vq = tx_of(s, pair);
    if (s->tx_waiting[pair]) {
        return; /* the back end says when to go on */
    }
    virtqueue_set_notification(vq, false);
    if (!flush_tx(s, pair, TX_BURST)) {
        return;
    }
    virtqueue_set_notification(vq, true);
    if (!virtqueue_empty(vq)) {
        event_notifier_set(&vq->notifier); /* others' turn first */
    }
}

static void nic_writable(void *opaque, int queue)
{
    VirtioNet *s = opaque;
    VirtQueue *vq = tx_of(s, queue);
    if (queue < s->pairs && flush_tx(s, queue, TX_BURST)) {
        virtqueue_set_notification(vq, true);
        if (!virtqueue_empty(vq)) {
            event_notifier_set(&vq->notifier);
        }
    }
}

static void drop_waiting(VirtioNet *s)
{
    for (unsigned i = 0; i < NET_MAX_QUEUES; i++) {
        if (s->tx_waiting[i]) {
            virtqueue_discard(g_steal_pointer(&s->tx_waiting[i]));
        }
    }
}

/* ---- from the host ---- */

static bool in_table(uint8_t table[][6], uint32_t count, const uint8_t *mac)
{
    for (uint32_t i = 0; i < count; i++) {
        if (memcmp(table[i], mac, 6) == 0) {
            return true;
        }
    }
    return false;
}

/* Whether the guest wants a frame (5.1.6.5.1 and on); head: its first 18 bytes, less for short ones. */
static bool wanted(VirtioNet *s, const uint8_t *head, size_t size)
{
    static const uint8_t broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
    if (s->rx_mode[RX_PROMISC]) {
        return true;
    }
    if (size < 14) {
        return false;
    }
    if (size >= 18 && head[12] == 0x81 && head[13] == 0 && virtio_has_feature(&s->parent_obj, F_CTRL_VLAN)) {
        unsigned id = (head[14] << 8 | head[15]) & 0xfff;
        if (!(s->vlans[id / 8] & (1u << (id % 8)))) {
            return false;
        }
    }
    if (head[0] & 1) {
        if (memcmp(head, broadcast, 6) == 0) {
            return !s->rx_mode[RX_NOBCAST];
        }
        if (s->rx_mode[RX_NOMULTI]) {
            return false;
        }
        return s->rx_mode[RX_ALLMULTI] || s->multicast_overflow ||
               in_table(s->multicast, s->multicast_count, head);
    }
    if (s->rx_mode[RX_NOUNI]) {
        return false;
    }
    return s->rx_mode[RX_ALLUNI] || s->unicast_overflow || memcmp(head, s->mac, 6) == 0 ||
           in_table(s->unicast, s->unicast_count, head);
}

static bool nic_can_receive(void *opaque, int queue)
{
    VirtioNet *s = opaque;
    return virtio_device_active(&s->parent_obj) &&
           !virtqueue_empty(rx_of(s, queue < s->active_pairs ? queue : 0));
}

/* Copies `size` bytes at `offset` of the whole (header, then frame) into a chain. */
static void place(const VirtQueueElement *e, const NetHeader *header, size_t header_bytes,
                  const struct iovec *iov, unsigned iov_count, size_t frame_skip, size_t offset, size_t size)
{
    size_t at = 0;
    uint8_t bounce[2048];
    while (size) {
        size_t part;
        if (offset < header_bytes) {
            part = MIN(header_bytes - offset, size);
            memcpy(bounce, (const uint8_t *)header + offset, part);
        } else {
            part = MIN(size, sizeof(bounce));
            iov_read(iov, iov_count, frame_skip + offset - header_bytes, bounce, part);
        }
        iov_write(e->in, e->in_count, at, bounce, part);
        at += part;
        offset += part;
        size -= part;
    }
}

/* No buffers: asks the guest to tell of new ones. True where some came at that very moment. */
static bool wait_for_buffers(VirtQueue *vq, size_t size)
{
    virtqueue_set_notification(vq, true);
    if (!virtqueue_has_room(vq, size)) {
        return false;
    }
    virtqueue_set_notification(vq, false);
    return true;
}

static ssize_t nic_receive(void *opaque, int queue, const struct iovec *iov, int iov_count)
{
    VirtioNet *s = opaque;
    VirtioDevice *vdev = &s->parent_obj;
    VirtQueue *vq = rx_of(s, queue < s->active_pairs ? queue : 0);
    size_t header_bytes = header_size(s);
    size_t given = iov_total(iov, (unsigned)iov_count), skip = s->vnet_header ? header_bytes : 0;
    uint8_t head[18] = { 0 };
    NetHeader header = { 0 };
    if (!virtio_device_active(vdev) || !virtqueue_ready(vq)) {
        return 0;
    }
    if (given <= skip || given > NET_MAX_FRAME) {
        return (ssize_t)given;
    }
    size_t frame = given - skip, total = frame + header_bytes;
    iov_read(iov, (unsigned)iov_count, 0, &header, skip);
    iov_read(iov, (unsigned)iov_count, skip, head, sizeof(head));
    if (!wanted(s, head, frame)) {
        TRACE(virtio_net_drop, frame, "filter");
        return (ssize_t)given;
    }
    bool mergeable = virtio_has_feature(vdev, F_MRG_RXBUF);
    if (!virtqueue_has_room(vq, mergeable ? total : 1) && !wait_for_buffers(vq, mergeable ? total : 1)) {
        return vdev->broken ? (ssize_t)given : 0;
    }
    VirtQueueElement *chains[VIRTQUEUE_MAX_SIZE];
    unsigned count = 0;
    size_t room = 0;
    while (room < total && count < vq->size && (mergeable || count == 0)) {
        VirtQueueElement *e = virtqueue_pop(vq, sizeof(*e));
        if (!e) {
            break;
        }
        chains[count++] = e;
        room += e->in_size;
        if (e->in_size == 0 || e->out_size || (count == 1 && e->in_size < header_bytes)) {
            virtio_device_error(vdev, "receive queue: buffer with %zu bytes out and %zu in", e->out_size,
                                e->in_size);
            break;
        }
    }
    if (vdev->broken || room < total) {
        /* Broken, changed under our feet, or one buffer that is too small: the frame is lost. */
        while (count) {
            virtqueue_unpop(vq, chains[--count]);
        }
        TRACE(virtio_net_drop, frame, "no room");
        return (ssize_t)given;
    }
    header.num_buffers = (uint16_t)(mergeable ? count : 1);
    size_t offset = 0;
    for (unsigned i = 0; i < count; i++) {
        size_t part = MIN(chains[i]->in_size, total - offset);
        place(chains[i], &header, header_bytes, iov, (unsigned)iov_count, skip, offset, part);
        virtqueue_fill(vq, chains[i], part);
        offset += part;
    }
    virtqueue_flush(vq);
    virtqueue_notify(vq);
    TRACE(virtio_net_receive, frame, count);
    return (ssize_t)given;
}

static void handle_rx(VirtioNet *s, int pair)
{
    virtqueue_set_notification(rx_of(s, pair), false);
    net_nic_accept_input(&s->nic, pair);
}

static void nic_link_changed(void *opaque, bool up)
{
    VirtioNet *s = opaque;
    uint16_t status = up ? s->status | STATUS_LINK_UP : s->status & (uint16_t)~STATUS_LINK_UP;
    if (status != s->status) {
        s->status = status;
        virtio_notify_config(&s->parent_obj);
    }
}

static const NetNicOps nic_ops = {
    .can_receive = nic_can_receive,
    .receive = nic_receive,
    .link_changed = nic_link_changed,
    .writable = nic_writable,
};

/* ---- control ---- */

static void apply_offloads(VirtioNet *s)
{
    static const struct {
        unsigned feature;
        uint32_t offload;
    } map[] = {
        { F_GUEST_CSUM, NET_OFFLOAD_CSUM }, { F_GUEST_TSO4, NET_OFFLOAD_TSO4 },
        { F_GUEST_TSO6, NET_OFFLOAD_TSO6 }, { F_GUEST_ECN, NET_OFFLOAD_ECN },
        { F_GUEST_UFO, NET_OFFLOAD_UFO },   { F_GUEST_USO4, NET_OFFLOAD_USO4 },
        { F_GUEST_USO6, NET_OFFLOAD_USO6 },
    };
    uint32_t mask = 0;
    for (size_t i = 0; i < G_N_ELEMENTS(map); i++) {
        mask |= (s->offloads >> map[i].feature) & 1 ? map[i].offload : 0;
    }
    if (s->vnet_header) {
        net_nic_set_offloads(&s->nic, mask);
    }
}

#define OFFLOAD_FEATURES                                                              \
    (VIRTIO_BIT(F_GUEST_CSUM) | VIRTIO_BIT(F_GUEST_TSO4) | VIRTIO_BIT(F_GUEST_TSO6) | \
     VIRTIO_BIT(F_GUEST_ECN) | VIRTIO_BIT(F_GUEST_UFO) | VIRTIO_BIT(F_GUEST_USO4) |   \
     VIRTIO_BIT(F_GUEST_USO6))

/* One of the two tables of MAC_TABLE_SET; false where the command is too short. */
static bool take_table(const uint8_t **data, size_t *size, uint8_t table[][6], uint32_t *count,
                       uint8_t *overflow)
{
    uint32_t entries;
    if (*size < 4) {
        return false;
    }
    memcpy(&entries, *data, 4);
    *data += 4;
    *size -= 4;
    if (entries > *size / 6) {
        return false;
    }
    *overflow = entries > MAC_TABLE_MAX;
    *count = *overflow ? 0 : entries;
    memcpy(table, *data, 6u * *count);
    *data += 6u * entries;
    *size -= 6u * entries;
    return true;
}

static bool control_rx(VirtioNet *s, uint8_t command, const uint8_t *data, size_t size)
{
    if (command >= RX_MODES || size != 1 || !virtio_has_feature(&s->parent_obj, F_CTRL_RX) ||
        (command > RX_ALLMULTI && !virtio_has_feature(&s->parent_obj, F_CTRL_RX_EXTRA))) {
        return false;
    }
    s->rx_mode[command] = data[0] != 0;
    return true;
}

static bool control_mac(VirtioNet *s, uint8_t command, const uint8_t *data, size_t size)
{
    if (command == 1) {
        if (size != 6 || !virtio_has_feature(&s->parent_obj, F_CTRL_MAC_ADDR)) {
            return false;
        }
        memcpy(s->mac, data, 6);
        MacAddr mac;
        memcpy(mac.a, data, 6);
        net_nic_set_mac(&s->nic, &mac);
        return true;
    }
    return command == 0 && virtio_has_feature(&s->parent_obj, F_CTRL_RX) &&
           take_table(&data, &size, s->unicast, &s->unicast_count, &s->unicast_overflow) &&
           take_table(&data, &size, s->multicast, &s->multicast_count, &s->multicast_overflow) && size == 0;
}

static bool control_vlan(VirtioNet *s, uint8_t command, const uint8_t *data, size_t size)
{
    if (size != 2 || command > 1 || !virtio_has_feature(&s->parent_obj, F_CTRL_VLAN)) {
        return false;
    }
    unsigned id = data[0] | data[1] << 8;
    if (id >= VLANS) {
        return false;
    }
    if (command == 0) {
        s->vlans[id / 8] |= (uint8_t)(1u << (id % 8));
    } else {
        s->vlans[id / 8] &= (uint8_t) ~(1u << (id % 8));
    }
    return true;
}

static bool control_offloads(VirtioNet *s, uint8_t command, const uint8_t *data, size_t size)
{
    uint64_t offloads;
    if (command != 0 || size != 8 || !virtio_has_feature(&s->parent_obj, F_CTRL_GUEST_OFFLOADS)) {
        return false;
    }
    memcpy(&offloads, data, 8);
    if (offloads & ~(s->parent_obj.driver_features & OFFLOAD_FEATURES)) {
        return false;
    }
    s->offloads = offloads;
    apply_offloads(s);
    return true;
}

static void set_active_pairs(VirtioNet *s, uint16_t pairs)
{
    s->active_pairs = pairs;
    net_nic_set_active_queues(&s->nic, pairs);
    for (int i = 0; i < pairs; i++) { /* frames may wait for its buffers */
        net_nic_accept_input(&s->nic, i);
    }
}

static bool control_mq(VirtioNet *s, uint8_t command, const uint8_t *data, size_t size)
{
    if (command != 0 || size != 2 || !virtio_has_feature(&s->parent_obj, F_MQ)) {
        return false;
    }
    unsigned pairs = data[0] | data[1] << 8;
    if (pairs < 1 || pairs > s->pairs) {
        return false;
    }
    set_active_pairs(s, (uint16_t)pairs);
    return true;
}

static bool control(VirtioNet *s, uint8_t class, uint8_t command, const uint8_t *data, size_t size)
{
    switch (class) {
    case CTRL_RX:
        return control_rx(s, command, data, size);
    case CTRL_MAC:
        return control_mac(s, command, data, size);
    case CTRL_VLAN:
        return control_vlan(s, command, data, size);
    case CTRL_ANNOUNCE:
        if (command == 0 && size == 0 && (s->status & STATUS_ANNOUNCE)) {
            s->status &= (uint16_t)~STATUS_ANNOUNCE;
            return true;
        }
        return false;
    case CTRL_MQ:
        return control_mq(s, command, data, size);
    case CTRL_OFFLOADS:
        return control_offloads(s, command, data, size);
    }
    return false;
}

static void handle_control(VirtioDevice *vdev, VirtQueue *vq)
{
    VirtioNet *s = VIRTIO_NET(vdev);
    VirtQueueElement *e;
    while ((e = virtqueue_pop(vq, sizeof(*e)))) {
        uint8_t command[CONTROL_MAX];
        if (e->out_size < 2 || e->in_size < 1) {
            virtio_device_error(vdev, "control queue: %zu bytes out and %zu in", e->out_size, e->in_size);
            virtqueue_discard(e);
            return;
        }
        uint8_t ack = ACK_ERR;
        if (e->out_size <= sizeof(command)) {
            size_t size = iov_read(e->out, e->out_count, 0, command, sizeof(command));
            ack = control(s, command[0], command[1], command + 2, size - 2) ? ACK_OK : ACK_ERR;
            TRACE(virtio_net_control, command[0], command[1], size - 2, ack);
        }
        iov_write(e->in, e->in_count, 0, &ack, 1);
        virtqueue_push(vq, e, 1);
        virtqueue_notify(vq);
    }
}

/* Which queue does what depends on what was agreed (5.1.2): the control queue is behind the last pair that
 * could be used. */
static void handle_queue(VirtioDevice *vdev, VirtQueue *vq)
{
    VirtioNet *s = VIRTIO_NET(vdev);
    unsigned pairs = virtio_has_feature(vdev, F_MQ) ? s->pairs : 1;
    if (vq->index < 2 * pairs) {
        (vq->index % 2 ? handle_tx : handle_rx)(s, vq->index / 2);
    } else if (vq->index == 2 * pairs && virtio_has_feature(vdev, F_CTRL_VQ)) {
        handle_control(vdev, vq);
    }
}

/* ---- features and configuration ---- */

static uint64_t net_get_features(VirtioDevice *vdev)
{
    VirtioNet *s = VIRTIO_NET(vdev);
    uint64_t features = s->wanted | VIRTIO_BIT(F_MAC);
    uint32_t can = s->vnet_header ? net_nic_offloads(&s->nic) : 0;
    static const struct {
        uint64_t bits;
        uint32_t needs;
    } offloads[] = {
        { VIRTIO_BIT(F_GUEST_CSUM) | VIRTIO_BIT(F_CTRL_GUEST_OFFLOADS), NET_OFFLOAD_CSUM },
        { VIRTIO_BIT(F_GUEST_TSO4) | VIRTIO_BIT(F_HOST_TSO4), NET_OFFLOAD_TSO4 },
        { VIRTIO_BIT(F_GUEST_TSO6) | VIRTIO_BIT(F_HOST_TSO6), NET_OFFLOAD_TSO6 },
        { VIRTIO_BIT(F_GUEST_ECN) | VIRTIO_BIT(F_HOST_ECN), NET_OFFLOAD_ECN },
        { VIRTIO_BIT(F_GUEST_UFO) | VIRTIO_BIT(F_HOST_UFO), NET_OFFLOAD_UFO },
        { VIRTIO_BIT(F_GUEST_USO4) | VIRTIO_BIT(F_HOST_USO), NET_OFFLOAD_USO4 },
        { VIRTIO_BIT(F_GUEST_USO6), NET_OFFLOAD_USO6 },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(offloads); i++) {
        if (!(can & offloads[i].needs)) {
            features &= ~offloads[i].bits;
        }
    }
    if (!(features & VIRTIO_BIT(F_CTRL_VQ))) {
        features &= ~(VIRTIO_BIT(F_CTRL_RX) | VIRTIO_BIT(F_CTRL_VLAN) | VIRTIO_BIT(F_CTRL_RX_EXTRA) |
                      VIRTIO_BIT(F_GUEST_ANNOUNCE) | VIRTIO_BIT(F_MQ) | VIRTIO_BIT(F_CTRL_MAC_ADDR) |
                      VIRTIO_BIT(F_CTRL_GUEST_OFFLOADS));
    }
    if (s->mtu) {
        features |= VIRTIO_BIT(F_MTU);
    }
    if (s->speed >= 0 || s->duplex) {
        features |= VIRTIO_BIT(F_SPEED_DUPLEX);
    }
    return features;
}

/* 5.1.3.1: what needs what. */
static bool net_validate_features(VirtioDevice *vdev, uint64_t features)
{
    static const uint8_t needs[][2] = {
        { F_GUEST_TSO4, F_GUEST_CSUM },  { F_GUEST_TSO6, F_GUEST_CSUM },
        { F_GUEST_UFO, F_GUEST_CSUM },   { F_HOST_TSO4, F_CSUM },
        { F_HOST_TSO6, F_CSUM },         { F_HOST_UFO, F_CSUM },
        { F_CTRL_RX, F_CTRL_VQ },        { F_CTRL_VLAN, F_CTRL_VQ },
        { F_GUEST_ANNOUNCE, F_CTRL_VQ }, { F_MQ, F_CTRL_VQ },
        { F_CTRL_MAC_ADDR, F_CTRL_VQ },  { F_CTRL_GUEST_OFFLOADS, F_CTRL_VQ },
    };
    for (size_t i = 0; i < G_N_ELEMENTS(needs); i++) {
        if ((features & VIRTIO_BIT(needs[i][0])) && !(features & VIRTIO_BIT(needs[i][1]))) {
            return false;
        }
    }
    return true;
}

static void net_get_config(VirtioDevice *vdev, uint8_t *config)
{
    VirtioNet *s = VIRTIO_NET(vdev);
    NetConfig c = {
        .status = s->status,
        .max_virtqueue_pairs = s->pairs,
        .mtu = s->mtu,
        .speed = (uint32_t)s->speed,
        .duplex = !s->duplex ? 0xff : strcmp(s->duplex, "full") == 0,
    };
    memcpy(c.mac, s->mac, sizeof(c.mac));
    memcpy(config, &c, sizeof(c));
}

/* A legacy driver without CTRL_MAC_ADDR writes the address here, byte by byte (5.1.4.3). */
static void net_set_config(VirtioDevice *vdev, uint32_t offset, const uint8_t *data, unsigned size)
{
    VirtioNet *s = VIRTIO_NET(vdev);
    if (!virtio_is_legacy(vdev) || !vdev->bus->legacy || virtio_has_feature(vdev, F_CTRL_MAC_ADDR) ||
        offset + size > sizeof(s->mac)) {
        return;
    }
    memcpy(s->mac + offset, data, size);
    MacAddr mac;
    memcpy(mac.a, s->mac, sizeof(mac.a));
    net_nic_set_mac(&s->nic, &mac);
}

/* The back end puts as much in front of a frame as the driver expects. */
static void agree_on_header(VirtioNet *s)
{
    g_autoptr(GError) error = NULL;
    if (s->vnet_header && !net_nic_set_vnet_header(&s->nic, (int)header_size(s), &error)) {
        LOG(LOG_UNIMP, "virtio-net: %s", error->message);
    }
}

static void net_start(VirtioDevice *vdev)
{
    VirtioNet *s = VIRTIO_NET(vdev);
    agree_on_header(s);
    s->offloads = vdev->driver_features & OFFLOAD_FEATURES;
    apply_offloads(s);
}

/* The machine runs again. After its state was loaded the guest is asked to make its address known
 * (5.1.6.2.2): switches may think that it is where it was. */
static void net_resume(VirtioDevice *vdev)
{
    VirtioNet *s = VIRTIO_NET(vdev);
    if (s->announce && virtio_has_feature(vdev, F_GUEST_ANNOUNCE)) {
        s->status |= STATUS_ANNOUNCE;
        virtio_notify_config(vdev);
    }
    s->announce = false;
}

static void net_reset(VirtioDevice *vdev)
{
    VirtioNet *s = VIRTIO_NET(vdev);
    s->announce = false;
    drop_waiting(s);
    memcpy(s->mac, s->own_mac.a, sizeof(s->mac));
    memset(s->rx_mode, 0, sizeof(s->rx_mode));
    s->rx_mode[RX_PROMISC] = 1; /* until the driver says what it wants */
    s->unicast_count = s->multicast_count = 0;
    s->unicast_overflow = s->multicast_overflow = 0;
    memset(s->vlans, 0, sizeof(s->vlans));
    s->status = net_nic_link_up(&s->nic) ? STATUS_LINK_UP : 0;
    s->offloads = 0;
    apply_offloads(s);
    set_active_pairs(s, 1);
}

/* ---- life ---- */

static bool power_of_two_in(uint16_t value, unsigned min, unsigned max)
{
    return value >= min && value <= max && !(value & (value - 1));
}

static bool net_realize(VirtioDevice *vdev, GError **error)
{
    VirtioNet *s = VIRTIO_NET(vdev);
    Device *proxy = vdev->bus->parent_obj.owner;
    if (!power_of_two_in(s->rx_queue_size, 256, VIRTQUEUE_MAX_SIZE) ||
        !power_of_two_in(s->tx_queue_size, 256, VIRTQUEUE_MAX_SIZE)) {
        return error_set(error, "rx_queue_size and tx_queue_size must be powers of two between 256 and %u",
                         VIRTQUEUE_MAX_SIZE);
    }
    if (s->duplex && strcmp(s->duplex, "half") != 0 && strcmp(s->duplex, "full") != 0) {
        return error_set(error, "'duplex' must be 'half' or 'full'");
    }
    if (s->speed < -1) {
        return error_set(error, "'speed' must be between 0 and INT_MAX");
    }
    net_macaddr_default_if_unset(&s->own_mac);
    memcpy(s->mac, s->own_mac.a, sizeof(s->mac));
    const Device *shown = proxy ? proxy : DEVICE(vdev);
    if (!net_nic_init(&s->nic, &nic_ops, s, vdev->home, &s->own_mac, object_get_typename(OBJECT(shown)),
                      shown->id, error)) {
        return false;
    }
    s->vnet_header = net_nic_has_vnet_header(&s->nic);
    if (s->vnet_header && !net_nic_set_vnet_header(&s->nic, HEADER_SIZE, error)) {
        net_nic_deinit(&s->nic);
        return false;
    }
    vdev->config_size = sizeof(NetConfig);
    s->pairs = (uint16_t)((s->wanted & VIRTIO_BIT(F_MQ)) && (s->wanted & VIRTIO_BIT(F_CTRL_VQ))
                              ? net_nic_queues(&s->nic)
                              : 1);
    s->active_pairs = 1;
    for (unsigned i = 0; i < s->pairs; i++) {
        virtio_queue_add(vdev, s->rx_queue_size, handle_queue, NULL);
        virtio_queue_add(vdev, s->tx_queue_size, handle_queue, NULL);
    }
    if (s->wanted & VIRTIO_BIT(F_CTRL_VQ)) {
        virtio_queue_add(vdev, CONTROL_ENTRIES, handle_queue, NULL);
    }
    s->rx_mode[RX_PROMISC] = 1;
    s->status = net_nic_link_up(&s->nic) ? STATUS_LINK_UP : 0;
    return true;
}

static void net_unrealize(VirtioDevice *vdev)
{
    VirtioNet *s = VIRTIO_NET(vdev);
    net_nic_deinit(&s->nic);
    drop_waiting(s);
}

#define FEATURE(n, bit, on, text) PROP_BIT64(n, VirtioNet, wanted, bit, on, text)
static const Property net_properties[] = {
    PROP_TYPED("mac", VirtioNet, own_mac, property_type_macaddr, "the card's address"),
    PROP_TYPED("netdev", VirtioNet, nic, property_type_netdev, "the back end's id"),
    PROP_INT32("bootindex", VirtioNet, bootindex, -1, "place in the boot order (-1: none)"),
    FEATURE("csum", F_CSUM, true, "the guest may leave checksums to the host"),
    FEATURE("guest_csum", F_GUEST_CSUM, true, "the host may leave checksums to the guest"),
    FEATURE("guest_tso4", F_GUEST_TSO4, true, "large TCP segments over IPv4 for the guest"),
    FEATURE("guest_tso6", F_GUEST_TSO6, true, "large TCP segments over IPv6 for the guest"),
    FEATURE("guest_ecn", F_GUEST_ECN, true, "large segments with ECN for the guest"),
    FEATURE("guest_ufo", F_GUEST_UFO, true, "large UDP datagrams for the guest"),
    FEATURE("guest_uso4", F_GUEST_USO4, true, "UDP segmentation over IPv4 for the guest"),
    FEATURE("guest_uso6", F_GUEST_USO6, true, "UDP segmentation over IPv6 for the guest"),
    FEATURE("guest_announce", F_GUEST_ANNOUNCE, true, "the guest announces itself when told"),
    FEATURE("mq", F_MQ, false, "several queue pairs, as many as the back end has"),
    FEATURE("host_tso4", F_HOST_TSO4, true, "large TCP segments over IPv4 from the guest"),
    FEATURE("host_tso6", F_HOST_TSO6, true, "large TCP segments over IPv6 from the guest"),
    FEATURE("host_ecn", F_HOST_ECN, true, "large segments with ECN from the guest"),
    FEATURE("host_ufo", F_HOST_UFO, true, "large UDP datagrams from the guest"),
    FEATURE("host_uso", F_HOST_USO, true, "UDP segmentation from the guest"),
    FEATURE("mrg_rxbuf", F_MRG_RXBUF, true, "mergeable receive buffers"),
    FEATURE("status", F_STATUS, true, "the link's state is shown"),
    FEATURE("ctrl_vq", F_CTRL_VQ, true, "control queue"),
    FEATURE("ctrl_rx", F_CTRL_RX, true, "receive modes"),
    FEATURE("ctrl_vlan", F_CTRL_VLAN, true, "VLAN filter"),
    FEATURE("ctrl_rx_extra", F_CTRL_RX_EXTRA, true, "more receive modes"),
    FEATURE("ctrl_mac_addr", F_CTRL_MAC_ADDR, true, "the guest may set its address"),
    FEATURE("ctrl_guest_offloads", F_CTRL_GUEST_OFFLOADS, true, "the guest may switch offloads"),
    PROP_UINT16("rx_queue_size", VirtioNet, rx_queue_size, 256, "entries of the receive queue"),
    PROP_UINT16("tx_queue_size", VirtioNet, tx_queue_size, 256, "entries of the transmit queue"),
    PROP_UINT16("host_mtu", VirtioNet, mtu, 0, "largest packet that the network takes (0: not told)"),
    PROP_INT32("speed", VirtioNet, speed, -1, "link speed in Mbit/s (-1: not told)"),
    PROP_STR("duplex", VirtioNet, duplex, NULL, "half or full"),
    PROP_STR("tx", VirtioNet, tx, NULL, "accepted: frames always leave from a bottom half"),
    PROP_END,
};

static const VmStateField net_fields[] = {
    VMS_STRUCT(parent_obj, VirtioNet, virtio_device_vmstate),
    VMS_BUFFER(mac, VirtioNet),
    VMS_UINT16(status, VirtioNet),
    VMS_BUFFER(rx_mode, VirtioNet),
    VMS_BUFFER(unicast, VirtioNet),
    VMS_BUFFER(multicast, VirtioNet),
    VMS_UINT32(unicast_count, VirtioNet),
    VMS_UINT32(multicast_count, VirtioNet),
    VMS_UINT8(unicast_overflow, VirtioNet),
    VMS_UINT8(multicast_overflow, VirtioNet),
    VMS_BUFFER(vlans, VirtioNet),
    VMS_UINT64(offloads, VirtioNet),
    VMS_FIELD_(active_pairs, VirtioNet, VMS_KIND_UINT, .size = 2, .count = 1, .since_version = 2),
    VMS_END,
};

static bool net_post_load(void *opaque, int version, GError **error)
{
    VirtioNet *s = opaque;
    if (s->unicast_count > MAC_TABLE_MAX || s->multicast_count > MAC_TABLE_MAX ||
        (s->offloads & ~(s->parent_obj.driver_features & OFFLOAD_FEATURES))) {
        return error_set(error, "address tables or offloads are out of bounds");
    }
    if (s->active_pairs < 1 || s->active_pairs > s->pairs) {
        return error_set(error, "%u queue pairs of %u", s->active_pairs, s->pairs);
    }
    drop_waiting(s);
    agree_on_header(s);
    apply_offloads(s);
    set_active_pairs(s, s->active_pairs);
    s->announce = true;
    return true;
}

/* Version 2: several queue pairs. */
static const VmState net_vmstate = {
    .name = "virtio-net", .version = 2, .minimum_version = 1, .fields = net_fields, .post_load = net_post_load
};

static void net_class_init(ObjectClass *klass, const void *data)
{
    VirtioDeviceClass *vc = VIRTIO_DEVICE_CLASS(klass);
    DEVICE_CLASS(klass)->vmstate = &net_vmstate;
    DEVICE_CLASS(klass)->category = "Network";
    vc->virtio_id = VIRTIO_ID_NET;
    vc->realize = net_realize;
    vc->unrealize = net_unrealize;
    vc->get_features = net_get_features;
    vc->validate_features = net_validate_features;
    vc->get_config = net_get_config;
    vc->set_config = net_set_config;
    vc->start = net_start;
    vc->reset = net_reset;
    vc->resume = net_resume;
    object_class_add_properties(klass, net_properties);
}

static const TypeInfo virtio_net_info = {
    .name = TYPE_VIRTIO_NET,
    .parent = TYPE_VIRTIO_DEVICE,
    .description = "virtio network card",
    .instance_size = sizeof(VirtioNet),
    .class_init = net_class_init,
};
TYPE_REGISTER(virtio_net_info);
