/*
 * "rtl8139": Realtek's RTL8139C+ Fast Ethernet card on PCI. Sources: RTL8139C(L)+ data sheet (chapters 5
 * registers, 6 EEPROM, 9 descriptors), RTL8139D(L) data sheet (the ring of the older mode).
 *
 * Both of its modes: four transmit buffers and a receive ring, or (C+) descriptors with checksums, TCP
 * segmentation and VLAN tags. Negotiation of the link ends at once. Left out on purpose: receive checksums
 * (descriptors say that nothing was looked at), the high priority transmit ring, wake-up, power management,
 * the boot ROM's registers, early receive and multiple interrupts, writes to the EEPROM.
 *
 * Threads: registers in vCPUs' threads; sending in a bottom half of the main loop, receiving in the back
 * end's loop; all under the HomeLock. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "base/log.h"
#include "hw/net/eeprom93c46.h"
#include "hw/net/ethernet.h"
#include "hw/pci/pci.h"
#include "net/net.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(rtl8139_read, "offset 0x%02x size %u value 0x%x");
TRACE_EVENT(rtl8139_write, "offset 0x%02x size %u value 0x%x");
TRACE_EVENT(rtl8139_receive, "size %zu at 0x%x");
TRACE_EVENT(rtl8139_drop, "size %zu: %s");
TRACE_EVENT(rtl8139_send, "size %zu result %zd");

#define TYPE_RTL8139  "rtl8139"
#define REGISTERS     256
#define PACKET_MAX    (65536 + 64)
#define TX_BURST      64
#define RX_MAX        4096 /* the longest frame that it takes */
#define RX_RETRY_NS   1000000
#define CLOCK_HZ      33000000ull
#define NS_PER_SECOND 1000000000ull
#define TAGGED        0x10000u

enum { /* offsets (5) */
       IDR0 = 0x00,
       MAR0 = 0x08,
       TSD0 = 0x10,
       DTCCR = 0x10, /* in C+ mode */
       TSAD0 = 0x20,
       TNPDS = 0x20, /* in C+ mode */
       RBSTART = 0x30,
       ERBCR = 0x34,
       ERSR = 0x36,
       CR = 0x37,
       CAPR = 0x38,
       CBR = 0x3a,
       IMR = 0x3c,
       ISR = 0x3e,
       TCR = 0x40,
       RCR = 0x44,
       TCTR = 0x48,
       MPC = 0x4c,
       CR9346 = 0x50,
       CONFIG0 = 0x51,
       CONFIG1 = 0x52,
       TIMER_INT = 0x54,
       MSR = 0x58,
       CONFIG3 = 0x59,
       CONFIG4 = 0x5a,
       MULINT = 0x5c,
       RERID = 0x5e,
       TSAD = 0x60,
       BMCR = 0x62,
       BMSR = 0x64,
       ANAR = 0x66,
       ANLPAR = 0x68,
       ANER = 0x6a,
       CSCR = 0x74,
       TPPOLL = 0xd9,
       CPCR = 0xe0,
       RDSAR = 0xe4,
       ETTHR = 0xec,
};
enum { CR_RST = 0x10, CR_RE = 0x08, CR_TE = 0x04, CR_BUFE = 0x01 };
enum {
    INT_ROK = 1u << 0,
    INT_TOK = 1u << 2,
    INT_RXOVW = 1u << 4, /* C+: no receive descriptor */
    INT_LINK = 1u << 5,
    INT_FOVW = 1u << 6,
    INT_TDU = 1u << 7,
    INT_SW = 1u << 8,
    INT_TIMER = 1u << 14,
};
enum { TSD_SIZE = 0x1fff, TSD_OWN = 1u << 13, TSD_TOK = 1u << 15, TSD_THRESHOLD = 0x3fu << 16 };
enum { RCR_AAP = 0x01, RCR_APM = 0x02, RCR_AM = 0x04, RCR_AB = 0x08, RCR_WRAP = 0x80 };
enum { TCR_LOOPBACK = 3u << 17, TCR_VERSION = 0x74800000, TCR_WRITABLE = 0x030607f0 };
enum { RX_ROK = 0x0001, RX_BAR = 0x2000, RX_PAM = 0x4000, RX_MAR = 0x8000 };
enum { EE_MODE = 0xc0, EE_AUTOLOAD = 0x40, EE_PROGRAM = 0x80, EE_CONFIG = 0xc0 };
enum { EE_CS = 8, EE_SK = 4, EE_DI = 2, EE_DO = 1 };
enum { MSR_LINK_FAIL = 4 };
enum { BMCR_RESET = 0x8000, BMCR_ANEG = 0x1000, BMCR_RESTART = 0x0200, BMCR_WRITABLE = 0x3100 };
enum { BMSR_CAPABLE = 0x7849, BMSR_DONE = 0x20, BMSR_LINK = 4 };
enum { CPCR_TX = 1, CPCR_RX = 2, CPCR_RX_VLAN = 0x40, CPCR_WRITABLE = 0x7b };
enum { TPPOLL_HPQ = 0x80, TPPOLL_NPQ = 0x40, TPPOLL_SWINT = 0x01 };
/* Descriptors (9) */
#define D_OWN (1u << 31)
enum {
    D_EOR = 1u << 30,
    D_FS = 1u << 29,
    D_LS = 1u << 28,
    D_LARGE = 1u << 27,
    D_IPCS = 1u << 18,
    D_UDPCS = 1u << 17,
    D_TCPCS = 1u << 16,
    D_TX_SIZE = 0xffff,
    D_RX_SIZE = 0x1fff,
    D_MSS = 0x7ff,
    D_MAR = 1u << 26,
    D_PAM = 1u << 25,
    D_BAR = 1u << 24,
    D_TAG_IN = 1u << 17, /* of the second word: put a tag in; one was taken out */
    D_TAG_OUT = 1u << 16,
    D_RES = 1u << 20, /* a receive error: the buffer is too small */
};
#define RING_MAX 1024 /* of C+ descriptors, 9.2 has 64: a ring without an end ends here */

/* What the driver asks for with DTCCR, as it lies in memory. */
typedef struct __attribute__((packed)) Rtl8139Tally {
    uint64_t tx_ok, rx_ok, tx_error;
    uint32_t rx_error;
    uint16_t rx_missed, alignment;
    uint32_t tx_one_collision, tx_collisions;
    uint64_t rx_physical, rx_broadcast;
    uint32_t rx_multicast;
    uint16_t tx_abort, tx_underrun;
} Rtl8139Tally;
G_STATIC_ASSERT(sizeof(Rtl8139Tally) == 64);

typedef struct Rtl8139 {
    PciDevice parent_obj;
    /* saved */
    uint8_t reg[REGISTERS];
    Eeprom93c46 eeprom;
    uint8_t tx_next; /* the buffer of the old mode whose turn it is */
    uint32_t tx_index, rx_index;
    Rtl8139Tally tally;
    EthPacket packet;
    uint32_t tx_options, tx_tag; /* of the packet's first descriptor */
    uint32_t tx_sent, tx_number; /* what of its payload went out, in how many frames */
    bool tx_complete;            /* waits for the back end */
    bool tx_too_long;
    int64_t timer_base_ns;
    Timer timer;
    /* from properties */
    NetNic nic;
    MacAddr mac;
    int32_t bootindex;
    /* derived */
    MemoryRegion io, mmio;
    BottomHalf *send_bh;
    Timer retry; /* looks for receive descriptors: nothing tells of new ones */
    bool link_up;
} Rtl8139;
#define RTL8139(obj) OBJECT_CHECK(Rtl8139, obj, TYPE_RTL8139)

static uint16_t get16(const Rtl8139 *s, unsigned at)
{
    return pci_get_word(s->reg + at);
}
static uint32_t get32(const Rtl8139 *s, unsigned at)
{
    return pci_get_long(s->reg + at);
}
static void set16(Rtl8139 *s, unsigned at, uint16_t value)
{
    pci_set_word(s->reg + at, value);
}
static void set32(Rtl8139 *s, unsigned at, uint32_t value)
{
    pci_set_long(s->reg + at, value);
}
static uint64_t get64(const Rtl8139 *s, unsigned at)
{
    return get32(s, at) | (uint64_t)get32(s, at + 4) << 32;
}

static bool dma_read(Rtl8139 *s, uint64_t gpa, void *data, size_t size)
{
    return address_space_read(s->parent_obj.dma_as, gpa, MEMTXATTRS_DMA, data, size) == MEMTX_OK;
}
static bool dma_write(Rtl8139 *s, uint64_t gpa, const void *data, size_t size)
{
    return address_space_write(s->parent_obj.dma_as, gpa, MEMTXATTRS_DMA, data, size) == MEMTX_OK;
}

/* ---- interrupts ---- */

static void update_irq(Rtl8139 *s)
{
    pci_set_irq(&s->parent_obj, (get16(s, ISR) & get16(s, IMR)) != 0);
}

static void set_cause(Rtl8139 *s, unsigned cause)
{
    set16(s, ISR, (uint16_t)(get16(s, ISR) | cause));
    update_irq(s);
}

/* ---- the timer: counts the PCI clock from the last write to TCTR on ---- */

static uint32_t ticks_now(Rtl8139 *s)
{
    int64_t passed = clock_now_ns(DEVICE(s)->env->clocks, CLOCK_TYPE_VIRTUAL) - s->timer_base_ns;

    return (uint32_t)((unsigned __int128)MAX(passed, 0) * CLOCK_HZ / NS_PER_SECOND);
}

static void arm_timer(Rtl8139 *s)
{
    uint32_t want = get32(s, TIMER_INT);

    if (!want) {
        timer_cancel(&s->timer);
        return;
    }
    uint32_t left = want - ticks_now(s);
    int64_t ns =
        (int64_t)(((unsigned __int128)(left ? left : 1ull << 32) * NS_PER_SECOND + CLOCK_HZ - 1) / CLOCK_HZ);
    timer_set(&s->timer, clock_now_ns(DEVICE(s)->env->clocks, CLOCK_TYPE_VIRTUAL) + ns);
}

static void on_timer(void *opaque)
{
    Rtl8139 *s = opaque;

    set_cause(s, INT_TIMER);
    arm_timer(s);
}

/* ---- the link ---- */

static void update_link(Rtl8139 *s)
{
    s->link_up = net_nic_link_up(&s->nic);
    s->reg[MSR] = (uint8_t)((s->reg[MSR] & ~MSR_LINK_FAIL) | (s->link_up ? 0 : MSR_LINK_FAIL));
    set16(s, BMSR, (uint16_t)(BMSR_CAPABLE | (s->link_up ? BMSR_DONE | BMSR_LINK : 0)));
    set16(s, ANLPAR, s->link_up ? 0x45e1 : 0);
}

static void nic_link_changed(void *opaque, bool up)
{
    Rtl8139 *s = opaque;

    update_link(s);
    set_cause(s, INT_LINK);
}

/* ---- receiving ---- */

enum { UNWANTED = 0 };

/* Which of RX_MAR, RX_PAM and RX_BAR describes a frame that is wanted; RX_ROK: none, but promiscuous;
 * UNWANTED. */
static unsigned classify(Rtl8139 *s, const uint8_t *frame)
{
    static const uint8_t broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
    uint32_t rcr = get32(s, RCR);

    if (memcmp(frame, broadcast, 6) == 0) {
        return rcr & (RCR_AB | RCR_AAP) ? RX_BAR : UNWANTED;
    }
    if (frame[0] & 1) {
        unsigned hash = eth_multicast_hash(frame);
        bool in_filter = (rcr & RCR_AM) && (s->reg[MAR0 + hash / 8] >> (hash % 8) & 1);
        return in_filter || (rcr & RCR_AAP) ? RX_MAR : UNWANTED;
    }
    if (memcmp(frame, s->reg + IDR0, 6) == 0) {
        return rcr & (RCR_APM | RCR_AAP) ? RX_PAM : UNWANTED;
    }
    return rcr & RCR_AAP ? RX_ROK : UNWANTED;
}

static uint32_t ring_size(Rtl8139 *s)
{
    return 8192u << (get32(s, RCR) >> 11 & 3);
}

/* The ring's bytes that the driver has read. One is kept free: full is not empty. */
static uint32_t ring_room(Rtl8139 *s)
{
    uint32_t size = ring_size(s);
    uint32_t read = ((uint32_t)get16(s, CAPR) + 16) % size, written = get16(s, CBR) % size;

    return (read + size - written - 1) % size;
}

static bool ring_empty(Rtl8139 *s)
{
    return ring_room(s) == ring_size(s) - 1;
}

static void ring_put(Rtl8139 *s, uint32_t at, const void *data, size_t bytes, bool wraps)
{
    uint32_t size = ring_size(s);
    size_t first = wraps && bytes > size - at ? size - at : bytes;

    dma_write(s, (uint64_t)get32(s, RBSTART) + at, data, first);
    dma_write(s, get32(s, RBSTART), (const uint8_t *)data + first, bytes - first);
}

/* The old mode: a header, the frame and its check sequence, then aligned to four bytes. */
static bool receive_ring(Rtl8139 *s, const uint8_t *frame, size_t size, unsigned what)
{
    uint32_t ring = ring_size(s), at = get16(s, CBR) % ring;
    size_t total = (4 + size + 3) & ~(size_t)3;
    bool wraps = !(get32(s, RCR) & RCR_WRAP) || ring == 65536;

    if (total > ring_room(s)) {
        set_cause(s, INT_RXOVW);
        return false;
    }
    uint32_t header = RX_ROK | what | (uint32_t)size << 16;
    ring_put(s, (at + 4) % ring, frame, size, wraps);
    ring_put(s, at, &header, sizeof(header), true);
    set16(s, CBR, (uint16_t)((at + total) % ring));
    TRACE(rtl8139_receive, size, at);
    return true;
}

static uint64_t rx_descriptor(Rtl8139 *s)
{
    return (get64(s, RDSAR) & ~0xffull) + (uint64_t)s->rx_index * 16;
}

static bool rx_descriptor_ready(Rtl8139 *s)
{
    uint32_t status;

    return dma_read(s, rx_descriptor(s), &status, sizeof(status)) && (status & D_OWN);
}

static bool receive_descriptor(Rtl8139 *s, uint8_t *frame, size_t size, unsigned what)
{
    uint32_t d[4], check;
    uint64_t gpa = rx_descriptor(s);

    if (!dma_read(s, gpa, d, sizeof(d)) || !(d[0] & D_OWN)) {
        set_cause(s, INT_RXOVW);
        return false;
    }
    uint32_t second = d[1] & ~(uint32_t)(D_TAG_OUT | 0xffff), room = d[0] & D_RX_SIZE;
    memcpy(&check, frame + size - ETH_FCS, ETH_FCS);
    if ((get16(s, CPCR) & CPCR_RX_VLAN) && eth_get16(frame + 12) == ETH_VLAN_TYPE) {
        second |= D_TAG_OUT | frame[14] | (uint32_t)frame[15] << 8;
        memmove(frame + 12, frame + 16, size - 16);
        size -= 4;
    }
    uint32_t status = (d[0] & D_EOR) | D_FS | D_LS | (what & RX_MAR ? D_MAR : 0) |
                      (what & RX_PAM ? D_PAM : 0) | (what & RX_BAR ? D_BAR : 0);
    if (size > room) {
        LOG(LOG_GUEST_ERROR, "rtl8139: a receive buffer of %u bytes for a frame of %zu", room, size);
        status |= D_RES;
        size = room;
    }
    dma_write(s, d[2] | (uint64_t)d[3] << 32, frame, size);
    status |= (uint32_t)size;
    dma_write(s, gpa + 4, &second, sizeof(second));
    dma_write(s, gpa, &status, sizeof(status));
    TRACE(rtl8139_receive, size, s->rx_index);
    s->rx_index = (d[0] & D_EOR) || s->rx_index + 1 >= RING_MAX ? 0 : s->rx_index + 1;
    return true;
}

static bool receiving(Rtl8139 *s)
{
    return (s->reg[CR] & CR_RE) && s->parent_obj.bus_master;
}

static bool nic_can_receive(void *opaque, int queue)
{
    Rtl8139 *s = opaque;

    if (!receiving(s)) {
        return false;
    }
    if (get16(s, CPCR) & CPCR_RX) {
        if (rx_descriptor_ready(s)) {
            return true;
        }
        timer_set(&s->retry, clock_now_ns(DEVICE(s)->env->clocks, CLOCK_TYPE_VIRTUAL) + RX_RETRY_NS);
        return false;
    }
    return ring_room(s) >= ETH_MAX_FRAME + 4 + ETH_FCS + 4;
}

static void on_retry(void *opaque)
{
    Rtl8139 *s = opaque;

    net_nic_accept_input(&s->nic, 0);
}

/* iov's bytes, padded and with their check sequence, in out; 0: too many. */
static size_t gather(const struct iovec *iov, int iov_count, uint8_t *out, size_t *given)
{
    size_t size = 0;
    bool fits = true;

    *given = 0;
    for (int i = 0; i < iov_count; i++) {
        *given += iov[i].iov_len;
        fits = fits && iov[i].iov_len <= RX_MAX - size;
        if (fits) {
            memcpy(out + size, iov[i].iov_base, iov[i].iov_len);
            size += iov[i].iov_len;
        }
    }
    if (!fits || size < 14) {
        return 0;
    }
    if (size < ETH_MIN_FRAME) {
        memset(out + size, 0, ETH_MIN_FRAME - size);
        size = ETH_MIN_FRAME;
    }
    uint32_t fcs = GUINT32_TO_LE(eth_fcs(out, size));
    memcpy(out + size, &fcs, ETH_FCS);
    return size + ETH_FCS;
}

static ssize_t nic_receive(void *opaque, int queue, const struct iovec *iov, int iov_count)
{
    Rtl8139 *s = opaque;
    uint8_t frame[RX_MAX + ETH_MIN_FRAME + ETH_FCS];
    size_t given, size = gather(iov, iov_count, frame, &given);

    if (!receiving(s)) {
        return 0;
    }
    unsigned what = size ? classify(s, frame) : UNWANTED;
    if (what == UNWANTED) {
        TRACE(rtl8139_drop, given, size ? "filter" : "no frame has this size");
        return (ssize_t)given;
    }
    what &= ~(unsigned)RX_ROK;
    bool taken = get16(s, CPCR) & CPCR_RX ? receive_descriptor(s, frame, size, what)
                                          : receive_ring(s, frame, size, what);
    if (!taken) {
        return 0;
    }
    s->tally.rx_ok++;
    s->tally.rx_physical += what == RX_PAM;
    s->tally.rx_broadcast += what == RX_BAR;
    s->tally.rx_multicast += what == RX_MAR;
    set_cause(s, INT_ROK);
    return (ssize_t)given;
}

/* ---- sending ---- */

static bool put_frame(Rtl8139 *s, uint8_t *frame, size_t size, uint32_t tag)
{
    uint8_t tag_bytes[4] = { ETH_VLAN_TYPE >> 8, ETH_VLAN_TYPE & 0xff, (uint8_t)tag, (uint8_t)(tag >> 8) };
    struct iovec iov[] = { { frame, size }, { tag_bytes, sizeof(tag_bytes) }, { frame + 12, size - 12 } };
    int pieces = tag & TAGGED ? 3 : 1;
    ssize_t result = (ssize_t)size;

    if (pieces == 3) {
        iov[0].iov_len = 12;
    }
    if ((get32(s, TCR) & TCR_LOOPBACK) == TCR_LOOPBACK) {
        nic_receive(s, 0, iov, pieces);
    } else {
        result = net_nic_send(&s->nic, 0, iov, pieces);
    }
    TRACE(rtl8139_send, size, result);
    s->tally.tx_ok += result != 0;
    return result != 0;
}

/* Where the headers of an IP packet lie. */
typedef struct Headers {
    bool ipv4, tcp, udp;
    size_t ip, transport, payload, end;
} Headers;

/* False: no IPv4 packet with whole headers. (The card knows no IPv6.) */
static bool find_headers(const uint8_t *frame, size_t size, Headers *h)
{
    size_t ip = 14;

    if (size < ip + 20 || eth_get16(frame + 12) != 0x0800 || frame[ip] >> 4 != 4) {
        return false;
    }
    size_t ip_size = (size_t)(frame[ip] & 15) * 4;
    *h = (Headers){ .ipv4 = true,
                    .tcp = frame[ip + 9] == 6,
                    .udp = frame[ip + 9] == 17,
                    .ip = ip,
                    .transport = ip + ip_size,
                    .end = ip + eth_get16(frame + ip + 2) };
    if (ip_size < 20 || h->transport > size) {
        return false;
    }
    if (h->tcp) {
        if (size < h->transport + 20) {
            return false;
        }
        h->payload = h->transport + (size_t)(frame[h->transport + 12] >> 4) * 4;
        return h->payload >= h->transport + 20 && h->payload <= size;
    }
    h->payload = h->transport + 8;
    return !h->udp || h->payload <= size;
}

static void put_checksums(uint8_t *frame, size_t size, const Headers *h, bool ip, bool transport)
{
    size_t end = h->end >= h->payload && h->end <= size ? h->end : size;

    if (ip) {
        eth_put16(frame + h->ip + 10, 0);
        eth_put_checksum(frame, size, h->ip, h->transport, h->ip + 10);
    }
    if (transport && (h->tcp || h->udp)) {
        uint8_t pseudo[12];
        size_t at = h->transport + (h->tcp ? 16 : 6);
        memcpy(pseudo, frame + h->ip + 12, 8);
        pseudo[8] = 0;
        pseudo[9] = frame[h->ip + 9];
        eth_put16(pseudo + 10, (uint16_t)(end - h->transport));
        eth_put16(frame + at, 0);
        uint16_t sum =
            (uint16_t)~eth_sum(frame + h->transport, end - h->transport, eth_sum(pseudo, sizeof(pseudo), 0));
        eth_put16(frame + at, h->udp && sum == 0 ? 0xffff : sum);
    }
}

/* A large packet in segments, from where the last call stopped. False: the back end is busy. */
static bool send_segments(Rtl8139 *s, const Headers *h)
{
    uint8_t frame[512 + D_MSS];
    uint32_t mss = s->tx_options >> 16 & D_MSS, payload = s->packet.size - (uint32_t)h->payload;

    do {
        EthSegment segment = {
            .header = h->payload,
            .ip = h->ip,
            .transport = h->transport,
            .ipv4 = true,
            .tcp = true,
            .payload_at = s->tx_sent,
            .bytes = MIN(mss, payload - s->tx_sent),
            .number = s->tx_number,
            .last = payload - s->tx_sent <= mss,
        };
        size_t size = eth_segment(s->packet.bytes, s->packet.size, &segment, frame);
        if (!size) {
            return true;
        }
        Headers its = *h;
        its.end = size;
        put_checksums(frame, size, &its, true, true);
        if (!put_frame(s, frame, size, s->tx_tag)) {
            return false;
        }
        s->tx_sent += (uint32_t)segment.bytes;
        s->tx_number++;
    } while (s->tx_sent < payload);
    return true;
}

static bool send_packet(Rtl8139 *s)
{
    Headers h;
    bool ip = find_headers(s->packet.bytes, s->packet.size, &h);

    if (s->tx_options & D_LARGE) {
        if (!ip || !h.tcp || !(s->tx_options >> 16 & D_MSS)) {
            LOG(LOG_GUEST_ERROR, "rtl8139: a large packet that is not TCP over IPv4, or segments of 0 bytes");
            return true;
        }
        return send_segments(s, &h);
    }
    if (ip) {
        bool transport = h.tcp ? s->tx_options & D_TCPCS : h.udp && (s->tx_options & D_UDPCS);
        put_checksums(s->packet.bytes, s->packet.size, &h, s->tx_options & D_IPCS, transport);
    }
    return put_frame(s, s->packet.bytes, s->packet.size, s->tx_tag);
}

static void packet_done(Rtl8139 *s)
{
    s->packet.size = s->tx_sent = s->tx_number = s->tx_options = s->tx_tag = 0;
    s->tx_complete = s->tx_too_long = false;
}

/* The old mode: the four buffers in turn. */
static void send_buffers(Rtl8139 *s)
{
    for (unsigned i = 0; i < 4; i++) {
        unsigned at = TSD0 + 4u * s->tx_next;
        uint32_t status = get32(s, at), size = status & TSD_SIZE;
        if (status & TSD_OWN) {
            return;
        }
        if (!s->tx_complete) {
            memset(s->packet.bytes, 0, ETH_MIN_FRAME);
            if (!dma_read(s, get32(s, TSAD0 + 4u * s->tx_next), s->packet.bytes, size)) {
                memset(s->packet.bytes, 0, size);
                LOG(LOG_GUEST_ERROR, "rtl8139: no memory to send from at 0x%x",
                    get32(s, TSAD0 + 4u * s->tx_next));
            }
            s->packet.size = MAX(size, ETH_MIN_FRAME);
            s->tx_complete = true;
        }
        if (!put_frame(s, s->packet.bytes, s->packet.size, 0)) {
            return;
        }
        packet_done(s);
        set32(s, at, status | TSD_OWN | TSD_TOK);
        s->tx_next = (s->tx_next + 1) & 3;
        set_cause(s, INT_TOK);
    }
}

static void take_bytes(Rtl8139 *s, const uint32_t *d)
{
    uint32_t size = d[0] & D_TX_SIZE;

    if (d[0] & D_FS) {
        packet_done(s);
        s->tx_options = d[0];
        s->tx_tag = d[1] & D_TAG_IN ? TAGGED | (d[1] & 0xffff) : 0;
    }
    if (s->tx_too_long || size > PACKET_MAX - s->packet.size) {
        s->tx_too_long = true;
        return;
    }
    if (!dma_read(s, d[2] | (uint64_t)d[3] << 32, s->packet.bytes + s->packet.size, size)) {
        memset(s->packet.bytes + s->packet.size, 0, size);
    }
    s->packet.size += size;
}

/* The packet is complete. False: it waits. */
static bool end_packet(Rtl8139 *s)
{
    if (s->tx_too_long || s->packet.size < 14) {
        TRACE(rtl8139_drop, (size_t)s->packet.size, "no frame has this size");
    } else {
        s->tx_complete = true;
        if (!send_packet(s)) {
            return false;
        }
    }
    packet_done(s);
    return true;
}

static void send_descriptors(Rtl8139 *s)
{
    unsigned cause = 0;

    for (unsigned i = 0;; i++) {
        uint32_t d[4];
        uint64_t gpa = (get64(s, TNPDS) & ~0xffull) + (uint64_t)s->tx_index * sizeof(d);
        if (i == TX_BURST) {
            bh_schedule(s->send_bh);
            break;
        }
        if (!dma_read(s, gpa, d, sizeof(d)) || !(d[0] & D_OWN)) {
            s->reg[TPPOLL] &= (uint8_t)~TPPOLL_NPQ;
            cause |= cause ? INT_TDU : 0;
            break;
        }
        if (!s->tx_complete) {
            take_bytes(s, d);
        }
        if ((d[0] & D_LS) && !end_packet(s)) {
            break;
        }
        uint32_t status = d[0] & (D_EOR | D_FS | D_LS);
        dma_write(s, gpa, &status, sizeof(status));
        cause |= d[0] & D_LS ? INT_TOK : 0;
        s->tx_index = (d[0] & D_EOR) || s->tx_index + 1 >= RING_MAX ? 0 : s->tx_index + 1;
    }
    if (cause) {
        set_cause(s, cause);
    }
}

static void send_all(void *opaque)
{
    Rtl8139 *s = opaque;

    if (!(s->reg[CR] & CR_TE) || !s->parent_obj.bus_master) {
        return;
    }
    if (!(get16(s, CPCR) & CPCR_TX)) {
        send_buffers(s);
    } else if (s->reg[TPPOLL] & TPPOLL_NPQ) {
        send_descriptors(s);
    }
}

static void nic_writable(void *opaque, int queue)
{
    send_all(opaque);
}

static const NetNicOps nic_ops = {
    .can_receive = nic_can_receive,
    .receive = nic_receive,
    .link_changed = nic_link_changed,
    .writable = nic_writable,
};

/* ---- registers ---- */

static void eeprom_fill(Rtl8139 *s)
{
    uint16_t *w = s->eeprom.words;

    memset(w, 0, sizeof(s->eeprom.words));
    w[0] = 0x8129;
    w[1] = 0x10ec;
    w[2] = 0x8139;
    w[3] = 0x1100;
    w[4] = 0x1af4;
    w[5] = 0x0040;
    for (unsigned i = 0; i < 3; i++) {
        w[7 + i] = (uint16_t)(s->mac.a[2 * i] | s->mac.a[2 * i + 1] << 8);
    }
}

/* What CR.RST and power-on set; the address comes from the EEPROM. */
static void reset_registers(Rtl8139 *s, bool power_on)
{
    uint8_t kept[16];

    memcpy(kept, s->reg, sizeof(kept));
    timer_cancel(&s->timer);
    timer_cancel(&s->retry);
    memset(s->reg, 0, sizeof(s->reg));
    if (power_on) {
        memcpy(s->reg + IDR0, s->mac.a, 6);
    } else {
        memcpy(s->reg, kept, sizeof(kept)); /* a software reset keeps address and filter */
    }
    packet_done(s);
    eeprom93c46_reset(&s->eeprom);
    s->tx_next = 0;
    s->tx_index = s->rx_index = 0;
    s->timer_base_ns = clock_now_ns(DEVICE(s)->env->clocks, CLOCK_TYPE_VIRTUAL);
    for (unsigned i = 0; i < 4; i++) {
        set32(s, TSD0 + 4 * i, TSD_OWN);
    }
    set16(s, CAPR, 0xfff0);
    set32(s, TCR, TCR_VERSION);
    s->reg[CONFIG1] = 0x0c; /* memory and port mapping */
    s->reg[CONFIG3] = 0x01; /* fast back to back */
    s->reg[RERID] = 0x10;
    set16(s, BMCR, BMCR_ANEG | 0x2100);
    set16(s, ANAR, 0x05e1);
    set16(s, CSCR, 0x0300);
    update_link(s);
    update_irq(s);
}

/* 1: the guest may write this byte, which only keeps it. */
static bool plain(Rtl8139 *s, unsigned at)
{
    if (at == CONFIG1 || at == CONFIG3 || at == CONFIG4) {
        return (s->reg[CR9346] & EE_MODE) == EE_CONFIG;
    }
    return at < TSD0 || (at >= TSAD0 && at < ERBCR) || (at >= CAPR && at < CBR) || (at >= IMR && at < ISR) ||
           (at >= RCR && at < TCTR) || (at >= TIMER_INT && at < MSR) || (at >= MULINT && at < RERID) ||
           (at >= ANAR && at < ANLPAR) || (at >= RDSAR && at < ETTHR + 1);
}

static void cr_write(Rtl8139 *s, uint8_t value)
{
    uint8_t old = s->reg[CR];

    if (value & CR_RST) {
        reset_registers(s, false);
        return;
    }
    s->reg[CR] = value & (CR_RE | CR_TE);
    if (s->reg[CR] & ~old & CR_RE) {
        s->rx_index = 0;
        set16(s, CBR, 0);
    }
    if (s->reg[CR] & ~old & CR_TE) {
        s->tx_index = 0;
        s->tx_next = 0;
        packet_done(s);
    }
    bh_schedule(s->send_bh);
    net_nic_accept_input(&s->nic, 0);
}

static void cr9346_write(Rtl8139 *s, uint8_t value)
{
    bool out = false;

    if ((value & EE_MODE) == EE_AUTOLOAD) {
        memcpy(s->reg + IDR0, s->mac.a, 6);
        s->reg[CR9346] = 0;
        return;
    }
    if ((value & EE_MODE) == EE_PROGRAM) {
        out = eeprom93c46_drive(&s->eeprom, value & EE_CS, value & EE_SK, value & EE_DI);
    } else {
        eeprom93c46_reset(&s->eeprom);
    }
    s->reg[CR9346] = (uint8_t)((value & ~EE_DO) | (out ? EE_DO : 0));
}

static void bmcr_write(Rtl8139 *s, uint16_t value)
{
    if (value & BMCR_RESET) {
        set16(s, BMCR, BMCR_ANEG | 0x2100);
        set16(s, ANAR, 0x05e1);
    } else {
        set16(s, BMCR, value & BMCR_WRITABLE);
    }
    update_link(s);
    if (value & (BMCR_RESET | BMCR_RESTART)) {
        set_cause(s, INT_LINK);
    }
}

/* DTCCR: writes the counters to memory when asked to. */
static void dump_tally(Rtl8139 *s)
{
    if (get32(s, DTCCR) & 1) {
        memset(&s->tally, 0, sizeof(s->tally));
    }
    if (get32(s, DTCCR) & 8) {
        dma_write(s, get64(s, DTCCR) & ~0x3full, &s->tally, sizeof(s->tally));
    }
    set32(s, DTCCR, get32(s, DTCCR) & ~9u);
}

static void tsd_write(Rtl8139 *s, unsigned at, uint32_t value)
{
    set32(s, at, value & (TSD_SIZE | TSD_OWN | TSD_THRESHOLD));
    if (!(value & TSD_OWN)) {
        bh_schedule(s->send_bh);
    }
}

/* Registers that do something; each takes the whole of its value. True: done. */
static bool active_write(Rtl8139 *s, unsigned at, unsigned size, uint32_t value)
{
    bool cplus = get16(s, CPCR) & (CPCR_TX | CPCR_RX);

    if (at >= TSD0 && at < TSAD0) {
        if (cplus && at < DTCCR + 8) {
            if (size == 4) {
                set32(s, at & ~3u, value);
                if ((at & ~3u) == DTCCR) {
                    dump_tally(s);
                }
            }
        } else if (size == 4) {
            tsd_write(s, at & ~3u, value);
        }
        return true;
    }
    if (at == ISR && size >= 2) {
        set16(s, ISR, get16(s, ISR) & (uint16_t)~value);
        update_irq(s);
        net_nic_accept_input(&s->nic, 0);
        return true;
    }
    if (at == TCR && size == 4) {
        set32(s, TCR, TCR_VERSION | (value & TCR_WRITABLE));
        return true;
    }
    if (at == TCTR && size == 4) {
        s->timer_base_ns = clock_now_ns(DEVICE(s)->env->clocks, CLOCK_TYPE_VIRTUAL);
        arm_timer(s);
        return true;
    }
    if (at == MPC && size == 4) {
        set32(s, MPC, 0);
        return true;
    }
    if (at == BMCR && size >= 2) {
        bmcr_write(s, (uint16_t)value);
        return true;
    }
    if (at == CPCR && size == 2) {
        set16(s, CPCR, value & CPCR_WRITABLE);
        return true;
    }
    return false;
}

static void byte_write(Rtl8139 *s, unsigned at, uint8_t value)
{
    switch (at) {
    case CR:
        cr_write(s, value);
        break;
    case CR9346:
        cr9346_write(s, value);
        break;
    case TPPOLL:
        s->reg[TPPOLL] = (uint8_t)((s->reg[TPPOLL] | value) & TPPOLL_NPQ);
        if (value & TPPOLL_SWINT) {
            set_cause(s, INT_SW);
        }
        if (!s->tx_complete) {
            bh_schedule(s->send_bh);
        }
        break;
    default:
        if (plain(s, at)) {
            s->reg[at] = value;
        }
    }
}

static void register_write(Rtl8139 *s, unsigned at, unsigned size, uint32_t value)
{
    TRACE(rtl8139_write, at, size, value);
    if (active_write(s, at, size, value)) {
        return;
    }
    for (unsigned i = 0; i < size; i++) {
        byte_write(s, at + i, (uint8_t)(value >> (8 * i)));
    }
    unsigned end = at + size;
    if (at < RDSAR + 8 && end > RDSAR) {
        s->rx_index = 0;
    }
    if ((get16(s, CPCR) & CPCR_TX) && at < TNPDS + 8 && end > TNPDS) {
        s->tx_index = 0;
    }
    if (at < TIMER_INT + 4 && end > TIMER_INT) {
        arm_timer(s);
    }
    if (at < ISR && end > IMR) {
        update_irq(s);
    }
    if (at < TCTR && end > CAPR) {
        net_nic_accept_input(&s->nic, 0);
    }
}

static uint32_t register_read(Rtl8139 *s, unsigned at, unsigned size)
{
    uint32_t value = 0;

    if (at == TCTR && size == 4) {
        value = ticks_now(s);
    } else {
        for (unsigned i = 0; i < size && at + i < REGISTERS; i++) {
            value |= (uint32_t)s->reg[at + i] << (8 * i);
        }
        if (at <= CR && at + size > CR && ring_empty(s)) {
            value |= (uint32_t)CR_BUFE << (8 * (CR - at));
        }
        if (at == TSAD && size >= 2) { /* all four buffers at a glance */
            value &= ~0xffffu;
            for (unsigned i = 0; i < 4; i++) {
                uint32_t status = get32(s, TSD0 + 4 * i);
                value |= (status & TSD_OWN ? 1u << i : 0) | (status & TSD_TOK ? 1u << (12 + i) : 0);
            }
        }
    }
    TRACE(rtl8139_read, at, size, value);
    return value;
}

static uint64_t io_read(void *opaque, hwaddr offset, unsigned size)
{
    return register_read(opaque, (unsigned)offset, size);
}

static void io_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    register_write(opaque, (unsigned)offset, size, (uint32_t)value);
}

static const MemoryRegionOps io_ops = {
    .read = io_read,
    .write = io_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};

/* ---- life ---- */

static void rtl8139_reset(Device *device)
{
    Rtl8139 *s = RTL8139(device);

    pci_device_reset(device);
    memset(&s->tally, 0, sizeof(s->tally));
    reset_registers(s, true);
}

static bool rtl8139_realize(PciDevice *dev, GError **error)
{
    Rtl8139 *s = RTL8139(dev);
    Device *device = DEVICE(dev);

    if (!device->env || !device->env->clocks || !device->env->loop) {
        return error_set(error, "%s needs a clock", TYPE_RTL8139);
    }
    net_macaddr_default_if_unset(&s->mac);
    if (!net_nic_init(&s->nic, &nic_ops, s, &device->lock, &s->mac, TYPE_RTL8139, device->id, error)) {
        return false;
    }
    dev->config[PCI_INTERRUPT_PIN] = 1;
    timer_init(&s->timer, device->env->loop, device->env->clocks, CLOCK_TYPE_VIRTUAL, on_timer, s,
               &device->lock);
    timer_init(&s->retry, device->env->loop, device->env->clocks, CLOCK_TYPE_VIRTUAL, on_retry, s,
               &device->lock);
    s->send_bh = bh_new(device->env->loop, send_all, s, &device->lock);
    memory_region_init_io(&s->io, s, &io_ops, s, "rtl8139-io", REGISTERS, &device->lock);
    memory_region_init_io(&s->mmio, s, &io_ops, s, "rtl8139-mmio", REGISTERS, &device->lock);
    pci_register_bar(dev, 0, PCI_BAR_IO, &s->io);
    pci_register_bar(dev, 1, PCI_BAR_MEM32, &s->mmio);
    eeprom_fill(s);
    reset_registers(s, true);
    return true;
}

static void rtl8139_unrealize(PciDevice *dev)
{
    Rtl8139 *s = RTL8139(dev);

    net_nic_deinit(&s->nic);
    bh_free(g_steal_pointer(&s->send_bh));
    timer_destroy(&s->timer);
    timer_destroy(&s->retry);
    memory_region_destroy(&s->io);
    memory_region_destroy(&s->mmio);
}

static bool rtl8139_post_load(void *opaque, int version, GError **error)
{
    Rtl8139 *s = opaque;

    if (s->tx_next > 3 || s->tx_index >= RING_MAX || s->rx_index >= RING_MAX || s->packet.size > PACKET_MAX ||
        s->tx_sent > s->packet.size || (s->tx_complete && s->packet.size < 14)) {
        reset_registers(s, true);
        return error_set(error, "%s: impossible state of its rings or packet", TYPE_RTL8139);
    }
    update_link(s);
    bh_schedule(s->send_bh);
    return true;
}

static const VmStateField rtl8139_fields[] = {
    VMS_STRUCT(parent_obj, Rtl8139, pci_device_vmstate),
    VMS_BUFFER(reg, Rtl8139),
    VMS_STRUCT(eeprom, Rtl8139, eeprom93c46_vmstate),
    VMS_UINT8(tx_next, Rtl8139),
    VMS_UINT32(tx_index, Rtl8139),
    VMS_UINT32(rx_index, Rtl8139),
    VMS_BUFFER(tally, Rtl8139),
    VMS_CUSTOM(packet, Rtl8139, eth_packet_save, eth_packet_load),
    VMS_UINT32(tx_options, Rtl8139),
    VMS_UINT32(tx_tag, Rtl8139),
    VMS_UINT32(tx_sent, Rtl8139),
    VMS_UINT32(tx_number, Rtl8139),
    VMS_BOOL(tx_complete, Rtl8139),
    VMS_BOOL(tx_too_long, Rtl8139),
    VMS_INT64(timer_base_ns, Rtl8139),
    VMS_TIMER(timer, Rtl8139),
    VMS_END,
};
static const VmState rtl8139_vmstate = { .name = TYPE_RTL8139,
                                         .version = 1,
                                         .minimum_version = 1,
                                         .fields = rtl8139_fields,
                                         .post_load = rtl8139_post_load };

static const Property rtl8139_properties[] = {
    PROP_TYPED("mac", Rtl8139, mac, property_type_macaddr, "the card's address"),
    PROP_TYPED("netdev", Rtl8139, nic, property_type_netdev, "the back end's id"),
    PROP_INT32("bootindex", Rtl8139, bootindex, -1, "place in the boot order (-1: none)"),
    PROP_END,
};

static void rtl8139_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x10ec;
    pc->device_id = 0x8139;
    pc->class_id = 0x0200;
    pc->revision = 0x20;
    pc->realize = rtl8139_realize;
    pc->unrealize = rtl8139_unrealize;
    pc->default_rom = "efi-rtl8139.rom"; /* network boot */
    dc->reset = rtl8139_reset;
    dc->vmstate = &rtl8139_vmstate;
    dc->category = "Network";
    object_class_add_properties(klass, rtl8139_properties);
}

static const TypeInfo rtl8139_info = {
    .name = TYPE_RTL8139,
    .parent = TYPE_PCI_DEVICE,
    .description = "Realtek RTL8139C+ Fast Ethernet",
    .instance_size = sizeof(Rtl8139),
    .class_init = rtl8139_class_init,
};
TYPE_REGISTER(rtl8139_info);
