/*
 * "e1000" (82540EM), "e1000-82544gc", "e1000-82545em": Intel's gigabit Ethernet cards on PCI.
 * Source: PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual (8254x), chapters 3
 * (descriptors, offloads, filters), 5 (EEPROM), 8 (PHY), 13 (registers).
 *
 * Legacy, context and data descriptors with checksum and TCP segmentation offload, VLAN tags put in and taken
 * out, address and VLAN filters, interrupt throttling, both statistics kinds (clear on read), MAC loopback.
 * Negotiation of the link ends at once. Left out on purpose: receive checksums (every descriptor says
 * "ignore"), delays of interrupts other than ITR, flow control, wake-up and manageability, writes to the
 * EEPROM.
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

TRACE_EVENT(e1000_read, "register 0x%05x value 0x%08x");
TRACE_EVENT(e1000_write, "register 0x%05x value 0x%08x");
TRACE_EVENT(e1000_receive, "size %zu descriptors from %u");
TRACE_EVENT(e1000_drop, "size %zu: %s");
TRACE_EVENT(e1000_send, "size %zu result %zd");

#define TYPE_E1000_BASE "e1000-base"
#define MMIO_SIZE       0x20000
#define IO_SIZE         0x40
#define REGISTERS       (0x5a00 / 4)
#define TX_BURST        256   /* descriptors; then others have their turn */
#define RX_MAX          16384 /* without its check sequence */
#define ITR_UNIT_NS     256
#define TAGGED          0x10000u

enum { /* byte offsets (13.3) */
       CTRL = 0x00000,
       CTRL_ALIAS = 0x00004,
       STATUS = 0x00008,
       EECD = 0x00010,
       EERD = 0x00014,
       CTRL_EXT = 0x00018,
       MDIC = 0x00020,
       FCAL = 0x00028,
       FCAH = 0x0002c,
       FCT = 0x00030,
       VET = 0x00038,
       ICR = 0x000c0,
       ITR = 0x000c4,
       ICS = 0x000c8,
       IMS = 0x000d0,
       IMC = 0x000d8,
       RCTL = 0x00100,
       FCTTV = 0x00170,
       TXCW = 0x00178,
       RXCW = 0x00180,
       TCTL = 0x00400,
       TIPG = 0x00410,
       AIT = 0x00458,
       LEDCTL = 0x00e00,
       PBA = 0x01000,
       FCRTL = 0x02160,
       FCRTH = 0x02168,
       RDBAL = 0x02800,
       RDBAH = 0x02804,
       RDLEN = 0x02808,
       RDH = 0x02810,
       RDT = 0x02818,
       RDTR = 0x02820,
       RXDCTL = 0x02828,
       RADV = 0x0282c,
       RSRPD = 0x02c00,
       TDBAL = 0x03800,
       TDBAH = 0x03804,
       TDLEN = 0x03808,
       TDH = 0x03810,
       TDT = 0x03818,
       TIDV = 0x03820,
       TXDCTL = 0x03828,
       TADV = 0x0382c,
       TSPMT = 0x03830,
       STATISTICS = 0x04000,
       MPC = 0x04010,
       PRC64 = 0x0405c,
       GPRC = 0x04074,
       BPRC = 0x04078,
       MPRC = 0x0407c,
       GPTC = 0x04080,
       GORCL = 0x04088,
       GOTCL = 0x04090,
       RNBC = 0x040a0,
       RUC = 0x040a4,
       ROC = 0x040ac,
       TORL = 0x040c0,
       TOTL = 0x040c8,
       TPR = 0x040d0,
       TPT = 0x040d4,
       PTC64 = 0x040d8,
       MPTC = 0x040f0,
       BPTC = 0x040f4,
       TSCTC = 0x040f8,
       STATISTICS_END = 0x04128,
       RXCSUM = 0x05000,
       MTA = 0x05200,
       MTA_END = 0x05400,
       RA = 0x05400,
       RA_END = 0x05480,
       VFTA = 0x05600,
       VFTA_END = 0x05800,
       WUC = 0x05800,
       WUFC = 0x05808,
       WUS = 0x05810,
       MANC = 0x05820,
       IPAV = 0x05838,
       WUPL = 0x05900,
};
enum { CTRL_FD = 1u << 0, CTRL_SLU = 1u << 6, CTRL_RST = 1u << 26, CTRL_VME = 1u << 30 };
#define CTRL_PHY_RST (1u << 31)
enum { STATUS_FD = 1u << 0, STATUS_LU = 1u << 1, STATUS_1000 = 2u << 6, STATUS_ASDV_1000 = 2u << 8 };
enum {
    EECD_SK = 1u << 0,
    EECD_CS = 1u << 1,
    EECD_DI = 1u << 2,
    EECD_DO = 1u << 3,
    EECD_FWE = 3u << 4,
    EECD_REQ = 1u << 6,
    EECD_GNT = 1u << 7,
    EECD_PRES = 1u << 8,
    EECD_WRITABLE = EECD_SK | EECD_CS | EECD_DI | EECD_FWE | EECD_REQ,
};
enum { EERD_START = 1u << 0, EERD_DONE = 1u << 4 };
enum { MDIC_WRITE = 1u << 26, MDIC_READ = 2u << 26, MDIC_READY = 1u << 28, MDIC_INT = 1u << 29 };
#define MDIC_ERROR (1u << 30)
enum {
    INT_TXDW = 1u << 0,
    INT_TXQE = 1u << 1,
    INT_LSC = 1u << 2,
    INT_RXDMT0 = 1u << 4,
    INT_RXO = 1u << 6,
    INT_RXT0 = 1u << 7,
    INT_MDAC = 1u << 9,
    INT_ALL = 0x1ffff,
};
enum {
    RCTL_EN = 1u << 1,
    RCTL_UPE = 1u << 3,
    RCTL_MPE = 1u << 4,
    RCTL_LPE = 1u << 5,
    RCTL_LOOPBACK = 3u << 6,
    RCTL_BAM = 1u << 15,
    RCTL_VFE = 1u << 18,
    RCTL_BSEX = 1u << 25,
    RCTL_SECRC = 1u << 26,
};
enum { TCTL_EN = 1u << 1 };
#define RAH_VALID (1u << 31)
enum { RXD_DD = 1, RXD_EOP = 2, RXD_IXSM = 4, RXD_VP = 8 };
enum { CMD_EOP = 1, CMD_TSE = 4, CMD_IC = 4, CMD_RS = 8, CMD_RPS = 0x10, CMD_DEXT = 0x20, CMD_VLE = 0x40 };
enum { CONTEXT_TCP = 1, CONTEXT_IP = 2 }; /* of a context's TUCMD */
enum { POPTS_IXSM = 1, POPTS_TXSM = 2 };
enum { DTYP_CONTEXT = 0, DTYP_DATA = 1 };
enum { TXD_DD = 1 };

enum { EEPROM_CHECKSUM = EEPROM93C46_WORDS - 1, EEPROM_SUM = 0xbaba };

/* The PHY's registers (8.5). */
enum {
    PHY_CTRL,
    PHY_STATUS,
    PHY_ID1,
    PHY_ID2,
    PHY_ANA,
    PHY_LPA,
    PHY_ANE,
    PHY_1000_CTRL = 9,
    PHY_1000_STATUS,
    PHY_PSCON = 16,
    PHY_PSSTAT,
    PHY_EXT_CTRL = 20,
    PHY_REGISTERS = 32,
};
enum { BMCR_RESET = 0x8000, BMCR_LOOPBACK = 0x4000, BMCR_ANEG = 0x1000, BMCR_RESTART = 0x0200 };
enum { BMSR_CAPABLE = 0x7949, BMSR_ANEG_DONE = 0x20, BMSR_LINK = 4 };
enum { PSSTAT_1000_FULL = 0xa000, PSSTAT_RESOLVED = 0x0800, PSSTAT_LINK = 0x0400 };

/* What a context descriptor says (3.3.7). */
typedef struct E1000Context {
    uint8_t ipcss, ipcso, tucss, tucso, header, command;
    uint16_t ipcse, tucse, mss;
    uint32_t payload;
} E1000Context;

typedef struct E1000 {
    PciDevice parent_obj;
    /* saved */
    uint32_t reg[REGISTERS];
    uint32_t io_address;
    uint16_t phy[PHY_REGISTERS];
    Eeprom93c46 eeprom;
    E1000Context context, segment_context; /* for checksums alone, for segmentation */
    /* The packet under way: its bytes, what its descriptors said, how much of its payload was sent. */
    EthPacket packet;
    uint32_t tx_sent, tx_number;
    uint32_t tx_tag; /* with TAGGED: the VLAN tag to put in */
    uint8_t tx_popts;
    bool tx_data, tx_segment, tx_too_long;
    bool tx_complete; /* waits for the back end */
    Timer throttle;
    /* from properties */
    NetNic nic;
    MacAddr mac;
    int32_t bootindex;
    bool mitigation, autonegotiation;
    /* derived */
    MemoryRegion mmio, io;
    BottomHalf *send_bh;
} E1000;
#define E1000(obj) OBJECT_CHECK(E1000, obj, TYPE_E1000_BASE)

typedef struct E1000Model {
    uint16_t device_id, phy_id2;
} E1000Model;

static uint32_t *reg(E1000 *s, unsigned offset)
{
    return &s->reg[offset / 4];
}

static const E1000Model *model_of(E1000 *s)
{
    return OBJECT(s)->klass->type->class_data;
}

/* ---- interrupts (13.4.17 on) ---- */

/* Drives INTx. With throttling the line rises no earlier than ITR after it rose last. */
static void update_irq(E1000 *s)
{
    bool level = (*reg(s, ICR) & *reg(s, IMS)) != 0;

    if (!level) {
        pci_set_irq(&s->parent_obj, false);
        return;
    }
    if (timer_pending(&s->throttle)) {
        return; /* up already, or when it ends */
    }
    pci_set_irq(&s->parent_obj, true);
    if (s->mitigation && *reg(s, ITR)) {
        timer_set(&s->throttle, clock_now_ns(DEVICE(s)->env->clocks, CLOCK_TYPE_VIRTUAL) +
                                    (int64_t)(*reg(s, ITR) & 0xffff) * ITR_UNIT_NS);
    }
}

static void set_cause(E1000 *s, uint32_t cause)
{
    *reg(s, ICR) |= cause & INT_ALL;
    update_irq(s);
}

static void on_throttle(void *opaque)
{
    update_irq(opaque);
}

/* ---- the PHY and the link ---- */

static void update_link(E1000 *s)
{
    bool up = net_nic_link_up(&s->nic);

    *reg(s, STATUS) = (*reg(s, STATUS) & ~(uint32_t)STATUS_LU) | (up ? STATUS_LU : 0);
    s->phy[PHY_STATUS] = BMSR_CAPABLE | (up ? BMSR_LINK | BMSR_ANEG_DONE : 0);
    s->phy[PHY_PSSTAT] = PSSTAT_1000_FULL | (up ? PSSTAT_RESOLVED | PSSTAT_LINK : 0);
    s->phy[PHY_LPA] = up ? 0xcde1 : 0;
    s->phy[PHY_1000_STATUS] = up ? 0x3c00 : 0;
}

static void phy_reset(E1000 *s)
{
    memset(s->phy, 0, sizeof(s->phy));
    s->phy[PHY_CTRL] = 0x1140; /* negotiates; 1000 Mbit/s, full duplex */
    s->phy[PHY_ID1] = 0x0141;
    s->phy[PHY_ID2] = model_of(s)->phy_id2;
    s->phy[PHY_ANA] = 0x0de1;
    s->phy[PHY_1000_CTRL] = 0x0e00;
    s->phy[PHY_PSCON] = 0x0360;
    s->phy[PHY_EXT_CTRL] = 0x0d60;
    update_link(s);
}

static void phy_write(E1000 *s, unsigned number, uint16_t value)
{
    switch (number) {
    case PHY_CTRL:
        if (value & BMCR_RESET) {
            phy_reset(s);
            return;
        }
        s->phy[PHY_CTRL] = value & (uint16_t) ~(BMCR_RESTART | 0x3f);
        if ((value & BMCR_ANEG) && (value & BMCR_RESTART)) {
            update_link(s);
            set_cause(s, INT_LSC);
        }
        return;
    case PHY_STATUS:
    case PHY_ID1:
    case PHY_ID2:
    case PHY_LPA:
    case PHY_ANE:
    case PHY_1000_STATUS:
    case PHY_PSSTAT:
        return;
    default:
        s->phy[number] = value;
    }
}

static void mdic_write(E1000 *s, uint32_t value)
{
    unsigned number = value >> 16 & 0x1f, phy = value >> 21 & 0x1f;
    uint32_t result = (value & ~(uint32_t)MDIC_ERROR) | MDIC_READY;

    if (phy != 1) {
        result |= MDIC_ERROR;
    } else if (value & MDIC_READ) {
        result = (result & 0xffff0000u) | s->phy[number];
    } else if (value & MDIC_WRITE) {
        phy_write(s, number, (uint16_t)value);
    } else {
        result |= MDIC_ERROR;
    }
    *reg(s, MDIC) = result;
    if (value & MDIC_INT) {
        set_cause(s, INT_MDAC);
    }
}

/* ---- the EEPROM (5.6): a 93C46 on four wires ---- */

static void eeprom_fill(E1000 *s)
{
    uint16_t sum = 0;

    memset(s->eeprom.words, 0, sizeof(s->eeprom.words));
    for (int i = 0; i < 3; i++) {
        s->eeprom.words[i] = (uint16_t)(s->mac.a[2 * i] | s->mac.a[2 * i + 1] << 8);
    }
    s->eeprom.words[0x03] = 0xffff;
    s->eeprom.words[0x05] = 0xffff;
    s->eeprom.words[0x08] = 0x3000; /* printed board assembly */
    s->eeprom.words[0x09] = 0x1000;
    s->eeprom.words[0x0a] = 0x6403; /* initialization control 1: subsystem ids are loaded */
    s->eeprom.words[0x0b] = 0x1100;
    s->eeprom.words[0x0c] = 0x1af4;
    s->eeprom.words[0x0d] = model_of(s)->device_id;
    s->eeprom.words[0x0e] = 0x8086;
    s->eeprom.words[0x0f] = 0x3040; /* initialization control 2 */
    s->eeprom.words[0x21] = 0x7061;
    for (int i = 0; i < EEPROM_CHECKSUM; i++) {
        sum = (uint16_t)(sum + s->eeprom.words[i]);
    }
    s->eeprom.words[EEPROM_CHECKSUM] = (uint16_t)(EEPROM_SUM - sum);
}

static void eecd_write(E1000 *s, uint32_t value)
{
    bool out = eeprom93c46_drive(&s->eeprom, value & EECD_CS, value & EECD_SK, value & EECD_DI);

    *reg(s, EECD) =
        (value & EECD_WRITABLE) | EECD_PRES | (value & EECD_REQ ? EECD_GNT : 0) | (out ? EECD_DO : 0);
}

/* ---- statistics: all stay at their largest value, and reading clears them ---- */

static void count(E1000 *s, unsigned offset)
{
    *reg(s, offset) += *reg(s, offset) != UINT32_MAX;
}

static void count_bytes(E1000 *s, unsigned low, size_t size)
{
    uint64_t total = (uint64_t)*reg(s, low + 4) << 32 | *reg(s, low);

    total = total > UINT64_MAX - size ? UINT64_MAX : total + size;
    *reg(s, low) = (uint32_t)total;
    *reg(s, low + 4) = (uint32_t)(total >> 32);
}

static void count_size(E1000 *s, unsigned first, size_t size)
{
    static const uint16_t ends[] = { 64, 127, 255, 511, 1023, UINT16_MAX };

    for (unsigned i = 0; i < G_N_ELEMENTS(ends); i++) {
        if (size <= ends[i]) {
            count(s, first + 4 * i);
            return;
        }
    }
}

/* ---- rings ---- */

static uint64_t ring_base(E1000 *s, unsigned low)
{
    return ((uint64_t)*reg(s, low + 4) << 32 | *reg(s, low)) & ~0xfull;
}

static uint32_t ring_entries(E1000 *s, unsigned length)
{
    return (*reg(s, length) & 0xfff80) / 16;
}

static bool dma_read(E1000 *s, uint64_t gpa, void *data, size_t size)
{
    return address_space_read(s->parent_obj.dma_as, gpa, MEMTXATTRS_DMA, data, size) == MEMTX_OK;
}

static bool dma_write(E1000 *s, uint64_t gpa, const void *data, size_t size)
{
    return address_space_write(s->parent_obj.dma_as, gpa, MEMTXATTRS_DMA, data, size) == MEMTX_OK;
}

/* ---- receiving ---- */

static uint32_t buffer_size(uint32_t rctl)
{
    unsigned shift = rctl >> 16 & 3;

    if (rctl & RCTL_BSEX) {
        return shift ? 32768u >> shift : 2048;
    }
    return 2048u >> shift;
}

static uint32_t free_descriptors(E1000 *s)
{
    uint32_t entries = ring_entries(s, RDLEN), head = *reg(s, RDH), tail = *reg(s, RDT);

    if (!entries || head >= entries || tail >= entries) {
        return 0;
    }
    return tail >= head ? tail - head : entries - head + tail;
}

static bool in_exact_filter(E1000 *s, const uint8_t *mac)
{
    for (unsigned at = RA; at < RA_END; at += 8) {
        uint32_t low = *reg(s, at), high = *reg(s, at + 4);
        uint8_t own[6] = { (uint8_t)low,         (uint8_t)(low >> 8), (uint8_t)(low >> 16),
                           (uint8_t)(low >> 24), (uint8_t)high,       (uint8_t)(high >> 8) };
        if ((high & RAH_VALID) && !(high >> 16 & 3) && memcmp(mac, own, 6) == 0) {
            return true;
        }
    }
    return false;
}

static bool wanted(E1000 *s, const uint8_t *frame, size_t size)
{
    static const uint8_t mo_shift[4] = { 4, 3, 2, 0 };
    static const uint8_t broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
    uint32_t rctl = *reg(s, RCTL);

    if ((rctl & RCTL_VFE) && size >= 16 && eth_get16(frame + 12) == (*reg(s, VET) & 0xffff)) {
        unsigned id = eth_get16(frame + 14) & 0xfff;
        if (!(*reg(s, VFTA + id / 32 * 4) >> (id % 32) & 1)) {
            return false;
        }
    }
    if ((frame[0] & 1 ? rctl & RCTL_MPE : rctl & RCTL_UPE) || in_exact_filter(s, frame)) {
        return true;
    }
    if (!(frame[0] & 1)) {
        return false;
    }
    if (memcmp(frame, broadcast, 6) == 0) {
        return rctl & RCTL_BAM;
    }
    unsigned hash = (unsigned)(frame[5] << 8 | frame[4]) >> mo_shift[rctl >> 12 & 3] & 0xfff;
    return *reg(s, MTA + hash / 32 * 4) >> (hash % 32) & 1;
}

static bool nic_can_receive(void *opaque, int queue)
{
    E1000 *s = opaque;

    return (*reg(s, RCTL) & RCTL_EN) && s->parent_obj.bus_master && free_descriptors(s) > 0;
}

static void count_received(E1000 *s, const uint8_t *frame, size_t size)
{
    static const uint8_t broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

    count(s, TPR);
    count(s, GPRC);
    count_bytes(s, TORL, size);
    count_bytes(s, GORCL, size);
    count_size(s, PRC64, size);
    if (frame[0] & 1) {
        count(s, memcmp(frame, broadcast, 6) == 0 ? BPRC : MPRC);
    }
}

/* Puts a whole frame (padded, with its check sequence where the guest wants it) into as many buffers as it
 * takes. False: there are not enough. */
static bool place_frame(E1000 *s, const uint8_t *data, size_t size, uint8_t status, uint16_t special)
{
    uint32_t room = buffer_size(*reg(s, RCTL)), entries = ring_entries(s, RDLEN);
    uint64_t base = ring_base(s, RDBAL);

    if ((size + room - 1) / room > free_descriptors(s)) {
        return false;
    }
    TRACE(e1000_receive, size, *reg(s, RDH));
    for (size_t at = 0; at < size;) {
        uint8_t d[16];
        uint64_t address, gpa = base + (uint64_t)*reg(s, RDH) * sizeof(d);
        size_t part = MIN(size - at, room);
        if (!dma_read(s, gpa, d, sizeof(d))) {
            LOG(LOG_GUEST_ERROR, "e1000: no receive descriptor at 0x%" PRIx64, gpa);
            return true;
        }
        memcpy(&address, d, 8);
        if (address) {
            dma_write(s, address, data + at, part);
        }
        at += part;
        d[8] = (uint8_t)part;
        d[9] = (uint8_t)(part >> 8);
        d[10] = d[11] = d[13] = 0;
        d[12] = (uint8_t)(RXD_DD | RXD_IXSM | status | (at == size ? RXD_EOP : 0));
        d[14] = (uint8_t)special;
        d[15] = (uint8_t)(special >> 8);
        /* The status byte last: a driver that polls must find the rest written. */
        uint8_t done = d[12];
        d[12] = 0;
        dma_write(s, gpa, d, sizeof(d));
        dma_write(s, gpa + 12, &done, 1);
        *reg(s, RDH) = (*reg(s, RDH) + 1) % entries;
    }
    return true;
}

/* frame has room for RX_MAX bytes, padding and check sequence. */
static ssize_t receive_frame(E1000 *s, uint8_t *frame, size_t size)
{
    uint32_t rctl = *reg(s, RCTL);
    uint16_t special = 0;
    uint8_t status = 0;
    size_t given = size;

    if (!(rctl & RCTL_EN) || !s->parent_obj.bus_master) {
        return 0;
    }
    if (size < 14 || !wanted(s, frame, size)) {
        TRACE(e1000_drop, size, "filter");
        return (ssize_t)given;
    }
    if (size > ETH_MAX_FRAME + 4 && !(rctl & RCTL_LPE)) {
        TRACE(e1000_drop, size, "too long");
        count(s, ROC);
        return (ssize_t)given;
    }
    if (size < ETH_MIN_FRAME) {
        memset(frame + size, 0, ETH_MIN_FRAME - size);
        size = ETH_MIN_FRAME;
    }
    uint8_t check[ETH_FCS];
    uint32_t fcs = eth_fcs(frame, size);
    for (unsigned i = 0; i < ETH_FCS; i++) {
        check[i] = (uint8_t)(fcs >> (8 * i));
    }
    uint8_t head[14];
    memcpy(head, frame, sizeof(head));
    size_t wire = size + ETH_FCS;
    if ((*reg(s, CTRL) & CTRL_VME) && eth_get16(frame + 12) == (*reg(s, VET) & 0xffff)) {
        special = eth_get16(frame + 14);
        status |= RXD_VP;
        size -= 4;
        memmove(frame + 12, frame + 16, size - 12);
    }
    if (!(rctl & RCTL_SECRC)) {
        memcpy(frame + size, check, ETH_FCS);
        size += ETH_FCS;
    }
    if (!place_frame(s, frame, size, status, special)) {
        count(s, RNBC);
        set_cause(s, INT_RXO);
        return 0;
    }
    count_received(s, head, wire);
    uint32_t threshold = ring_entries(s, RDLEN) >> ((rctl >> 8 & 3) + 1);
    set_cause(s, INT_RXT0 | (free_descriptors(s) <= threshold ? INT_RXDMT0 : 0));
    return (ssize_t)given;
}

static ssize_t nic_receive(void *opaque, int queue, const struct iovec *iov, int iov_count)
{
    E1000 *s = opaque;
    uint8_t frame[RX_MAX + ETH_MIN_FRAME + ETH_FCS];
    size_t size = 0;

    for (int i = 0; i < iov_count; i++) {
        size_t part = MIN(iov[i].iov_len, RX_MAX - size);
        if (part < iov[i].iov_len) {
            TRACE(e1000_drop, size + iov[i].iov_len, "longer than the card can take");
            size = 0;
            for (i = 0; i < iov_count; i++) {
                size += iov[i].iov_len;
            }
            count(s, ROC);
            return (ssize_t)size;
        }
        memcpy(frame + size, iov[i].iov_base, part);
        size += part;
    }
    return receive_frame(s, frame, size);
}

/* ---- sending ---- */

static void count_sent(E1000 *s, const uint8_t *frame, size_t size)
{
    static const uint8_t broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
    size_t wire = MAX(size, ETH_MIN_FRAME) + ETH_FCS;

    count(s, TPT);
    count(s, GPTC);
    count_bytes(s, TOTL, wire);
    count_bytes(s, GOTCL, wire);
    count_size(s, PTC64, wire);
    if (size >= 6 && (frame[0] & 1)) {
        count(s, memcmp(frame, broadcast, 6) == 0 ? BPTC : MPTC);
    }
}

/* One frame onto the wire, or back into the card, with the VLAN tag that its descriptor asks for. False: the
 * back end is busy. */
static bool put_frame(E1000 *s, uint8_t *frame, size_t size)
{
    uint8_t tag[4];
    struct iovec iov[] = { { frame, size }, { tag, sizeof(tag) }, { frame + 12, size - 12 } };
    int pieces = s->tx_tag & TAGGED ? 3 : 1;
    ssize_t result = (ssize_t)size;

    if (pieces == 3) {
        eth_put16(tag, (uint16_t)*reg(s, VET));
        eth_put16(tag + 2, (uint16_t)s->tx_tag);
        iov[0].iov_len = 12;
    }
    if ((*reg(s, RCTL) & RCTL_LOOPBACK) == RCTL_LOOPBACK || (s->phy[PHY_CTRL] & BMCR_LOOPBACK)) {
        nic_receive(s, 0, iov, pieces);
    } else {
        result = net_nic_send(&s->nic, 0, iov, pieces);
    }
    TRACE(e1000_send, size, result);
    if (result != 0) {
        count_sent(s, frame, size + (pieces == 3 ? sizeof(tag) : 0));
    }
    return result != 0;
}

/* Checksums where the packet's options ask for them, by the context (3.5). An end of 0: to the frame's. */
static void put_checksums(E1000 *s, const E1000Context *c, uint8_t *frame, size_t size)
{
    if (s->tx_popts & POPTS_TXSM) {
        eth_put_checksum(frame, size, c->tucss, c->tucse ? (size_t)c->tucse + 1 : size, c->tucso);
    }
    if (s->tx_popts & POPTS_IXSM) {
        eth_put_checksum(frame, size, c->ipcss, c->ipcse ? (size_t)c->ipcse + 1 : size, c->ipcso);
    }
}

/* The packet's frames, from where the last call had to stop. False: the back end is busy. */
static bool send_packet(E1000 *s)
{
    const E1000Context *c = &s->segment_context;

    if (!s->tx_segment) {
        if (s->tx_data && s->tx_sent == 0) {
            put_checksums(s, &s->context, s->packet.bytes, s->packet.size);
            s->tx_popts = 0; /* not twice, where this frame must wait */
        }
        return put_frame(s, s->packet.bytes, s->packet.size);
    }
    if (!c->mss || c->header < 14 || c->header > s->packet.size) {
        LOG(LOG_GUEST_ERROR, "e1000: segments of %u bytes with %u bytes of headers out of %u", c->mss,
            c->header, s->packet.size);
        return true;
    }
    uint8_t frame[UINT16_MAX + UINT8_MAX + 1];
    uint32_t payload = s->packet.size - c->header;
    do {
        EthSegment segment = {
            .header = c->header,
            .ip = c->ipcss,
            .transport = c->tucss,
            .ipv4 = c->command & CONTEXT_IP,
            .tcp = c->command & CONTEXT_TCP,
            .payload_at = s->tx_sent,
            .bytes = MIN(c->mss, payload - s->tx_sent),
            .number = s->tx_number,
            .last = payload - s->tx_sent <= c->mss,
        };
        size_t size = eth_segment(s->packet.bytes, s->packet.size, &segment, frame);
        if (!size) {
            LOG(LOG_GUEST_ERROR, "e1000: headers of a packet to be segmented are cut off");
            return true;
        }
        /* The driver's checksum of the pseudo header lacks the length, which differs by segment. */
        if ((s->tx_popts & POPTS_TXSM) && (size_t)c->tucso + 2 <= size) {
            uint8_t *sum = frame + c->tucso;
            uint8_t length[2];
            eth_put16(length, (uint16_t)(size - c->tucss));
            eth_put16(sum, eth_sum(length, 2, eth_get16(sum)));
        }
        put_checksums(s, c, frame, size);
        if (!put_frame(s, frame, size)) {
            return false;
        }
        s->tx_sent += (uint32_t)segment.bytes;
        s->tx_number++;
    } while (s->tx_sent < payload);
    count(s, TSCTC);
    return true;
}

static void packet_done(E1000 *s)
{
    s->packet.size = s->tx_sent = s->tx_number = s->tx_tag = 0;
    s->tx_popts = 0;
    s->tx_data = s->tx_segment = s->tx_too_long = s->tx_complete = false;
}

static void take_context(E1000 *s, const uint8_t *d)
{
    uint32_t words[4];
    memcpy(words, d, 16);
    E1000Context c = {
        .ipcss = d[0],
        .ipcso = d[1],
        .ipcse = (uint16_t)(words[0] >> 16),
        .tucss = d[4],
        .tucso = d[5],
        .tucse = (uint16_t)(words[1] >> 16),
        .payload = words[2] & 0xfffff,
        .command = d[11],
        .header = d[13],
        .mss = (uint16_t)(words[3] >> 16),
    };
    *(c.command & CMD_TSE ? &s->segment_context : &s->context) = c;
}

/* Takes a data or legacy descriptor's bytes into the packet. */
static void take_bytes(E1000 *s, const uint8_t *d, bool legacy)
{
    uint64_t address;
    uint32_t size = (uint32_t)d[8] | (uint32_t)d[9] << 8 | (legacy ? 0 : (uint32_t)(d[10] & 0xf) << 16);

    memcpy(&address, d, 8);
    if (!legacy && !s->packet.size) { /* the first one says what is done with the packet */
        s->tx_data = true;
        s->tx_popts = d[13];
        s->tx_segment = d[11] & CMD_TSE;
    }
    if (s->tx_too_long || size > ETH_PACKET_MAX - s->packet.size) {
        s->tx_too_long = true;
        return;
    }
    if (size && !dma_read(s, address, s->packet.bytes + s->packet.size, size)) {
        memset(s->packet.bytes + s->packet.size, 0, size);
    }
    s->packet.size += size;
}

/* A packet's last descriptor: sends it. False: it waits, and so does its descriptor. */
static bool end_packet(E1000 *s, const uint8_t *d, bool legacy)
{
    if (!s->tx_complete) {
        if (s->tx_too_long || s->packet.size < 14) {
            TRACE(e1000_drop, (size_t)s->packet.size, "no frame has this size");
            packet_done(s);
            return true;
        }
        if (legacy && (d[11] & CMD_IC)) { /* the sum from CSS to the end goes to CSO */
            eth_put_checksum(s->packet.bytes, s->packet.size, d[13], s->packet.size, d[10]);
        }
        if ((d[11] & CMD_VLE) && (*reg(s, CTRL) & CTRL_VME)) {
            s->tx_tag = TAGGED | (uint32_t)d[14] | (uint32_t)d[15] << 8;
        }
        s->tx_complete = true;
    }
    if (!send_packet(s)) {
        return false;
    }
    packet_done(s);
    return true;
}

/* Writes back that a descriptor is done, where it asks for that. */
static uint32_t descriptor_done(E1000 *s, uint64_t gpa, const uint8_t *d)
{
    if (!(d[11] & (CMD_RS | CMD_RPS))) {
        return 0;
    }
    uint8_t status = (uint8_t)((d[12] & 0xf0) | TXD_DD);
    dma_write(s, gpa + 12, &status, 1);
    return INT_TXDW;
}

static void send_ring(void *opaque)
{
    E1000 *s = opaque;
    uint32_t cause = 0, entries = ring_entries(s, TDLEN);

    if (!(*reg(s, TCTL) & TCTL_EN) || !entries || *reg(s, TDH) >= entries || *reg(s, TDT) >= entries) {
        return;
    }
    for (unsigned i = 0; *reg(s, TDH) != *reg(s, TDT); i++) {
        uint8_t d[16];
        uint64_t gpa = ring_base(s, TDBAL) + (uint64_t)*reg(s, TDH) * sizeof(d);
        if (i == TX_BURST) {
            bh_schedule(s->send_bh);
            break;
        }
        if (!dma_read(s, gpa, d, sizeof(d))) {
            LOG(LOG_GUEST_ERROR, "e1000: no transmit descriptor at 0x%" PRIx64, gpa);
            break;
        }
        bool legacy = !(d[11] & CMD_DEXT);
        if (!legacy && d[10] >> 4 == DTYP_CONTEXT) {
            take_context(s, d);
        } else if (legacy || d[10] >> 4 == DTYP_DATA) {
            if (!s->tx_complete) {
                take_bytes(s, d, legacy);
            }
            if ((d[11] & CMD_EOP) && !end_packet(s, d, legacy)) {
                break;
            }
        }
        cause |= descriptor_done(s, gpa, d);
        *reg(s, TDH) = (*reg(s, TDH) + 1) % entries;
        cause |= *reg(s, TDH) == *reg(s, TDT) ? INT_TXQE : 0;
    }
    if (cause) {
        set_cause(s, cause);
    }
}

static void nic_writable(void *opaque, int queue)
{
    send_ring(opaque);
}

static void nic_link_changed(void *opaque, bool up)
{
    E1000 *s = opaque;

    update_link(s);
    set_cause(s, INT_LSC);
}

static const NetNicOps nic_ops = {
    .can_receive = nic_can_receive,
    .receive = nic_receive,
    .link_changed = nic_link_changed,
    .writable = nic_writable,
};

/* ---- registers ---- */

/* What CTRL.RST and power-on set (13.3). */
static void reset_registers(E1000 *s)
{
    timer_cancel(&s->throttle);
    memset(s->reg, 0, sizeof(s->reg));
    memset(&s->context, 0, sizeof(s->context));
    memset(&s->segment_context, 0, sizeof(s->segment_context));
    packet_done(s);
    eeprom93c46_reset(&s->eeprom);
    *reg(s, CTRL) = CTRL_FD | 2u << 8 | CTRL_SLU;
    *reg(s, STATUS) = STATUS_FD | STATUS_1000 | STATUS_ASDV_1000;
    *reg(s, EECD) = EECD_PRES | EECD_DO;
    *reg(s, LEDCTL) = 0x07068302;
    *reg(s, PBA) = 0x00100030;
    *reg(s, VET) = ETH_VLAN_TYPE;
    *reg(s, TXDCTL) = 1u << 22;
    *reg(s, MANC) = 0x00002000; /* ARP requests go to the host */
    *reg(s, RA) = (uint32_t)s->mac.a[0] | (uint32_t)s->mac.a[1] << 8 | (uint32_t)s->mac.a[2] << 16 |
                  (uint32_t)s->mac.a[3] << 24;
    *reg(s, RA + 4) = (uint32_t)s->mac.a[4] | (uint32_t)s->mac.a[5] << 8 | RAH_VALID;
    update_link(s);
    update_irq(s);
}

/* Registers that only hold what was written; the mask is what they keep. 0: there is none, or it is handled.
 */
static uint32_t plain_mask(unsigned offset)
{
    switch (offset) {
    case CTRL_EXT:
    case FCAL:
    case TXCW:
    case TCTL:
    case TIPG:
    case LEDCTL:
    case PBA:
    case RDBAH:
    case RXDCTL:
    case TDBAH:
    case TXDCTL:
    case TSPMT:
    case WUC:
    case WUFC:
    case MANC:
    case IPAV:
    case WUPL:
        return UINT32_MAX;
    case RDBAL:
    case TDBAL:
        return ~0xfu;
    case RDLEN:
    case TDLEN:
        return 0xfff80;
    case FCAH:
    case FCT:
    case VET:
    case ITR:
    case FCTTV:
    case AIT:
    case FCRTL:
    case FCRTH:
    case RDH:
    case RDTR:
    case RADV:
    case TDH:
    case TIDV:
    case TADV:
        return 0xffff;
    case RSRPD:
        return 0xfff;
    case RXCSUM:
        return 0x7ff;
    default:
        return (offset >= MTA && offset < RA_END) || (offset >= VFTA && offset < VFTA_END) ? UINT32_MAX : 0;
    }
}

/* A register of the card may read as something else than what is kept. */
static uint32_t register_read(E1000 *s, unsigned offset)
{
    uint32_t value = offset < REGISTERS * 4 ? *reg(s, offset) : 0;

    if (offset == CTRL_ALIAS) {
        value = *reg(s, CTRL);
    } else if (offset == ICR) {
        *reg(s, ICR) = 0;
        update_irq(s);
    } else if (offset == ICS || offset == IMC) {
        value = 0; /* write only */
    } else if (offset >= STATISTICS && offset < STATISTICS_END) {
        *reg(s, offset) = 0;
    }
    TRACE(e1000_read, offset, value);
    return value;
}

static void ctrl_write(E1000 *s, uint32_t value)
{
    if (value & CTRL_RST) {
        reset_registers(s);
        return;
    }
    if (value & CTRL_PHY_RST) {
        phy_reset(s);
    }
    *reg(s, CTRL) = value & ~(uint32_t)(CTRL_RST | CTRL_PHY_RST);
}

static void register_write(E1000 *s, unsigned offset, uint32_t value)
{
    uint32_t mask = plain_mask(offset);

    TRACE(e1000_write, offset, value);
    if (mask) {
        *reg(s, offset) = value & mask;
        if (offset == TCTL) {
            bh_schedule(s->send_bh);
        }
        return;
    }
    switch (offset) {
    case CTRL:
    case CTRL_ALIAS:
        ctrl_write(s, value);
        break;
    case EECD:
        eecd_write(s, value);
        break;
    case EERD:
        if (value & EERD_START) {
            unsigned word = value >> 8 & 0xff;
            uint32_t data = word < EEPROM93C46_WORDS ? s->eeprom.words[word] : 0;
            *reg(s, EERD) = data << 16 | word << 8 | EERD_DONE;
        }
        break;
    case MDIC:
        mdic_write(s, value);
        break;
    case ICR: /* ones clear */
        *reg(s, ICR) &= ~value;
        update_irq(s);
        break;
    case ICS:
        set_cause(s, value);
        break;
    case IMS:
        *reg(s, IMS) |= value & INT_ALL;
        update_irq(s);
        break;
    case IMC:
        *reg(s, IMS) &= ~value;
        update_irq(s);
        break;
    case RCTL:
    case RDT:
        *reg(s, offset) = offset == RDT ? value & 0xffff : value & 0x07ffffff;
        net_nic_accept_input(&s->nic, 0);
        break;
    case TDT:
        *reg(s, TDT) = value & 0xffff;
        if (!s->tx_complete) {
            bh_schedule(s->send_bh); /* else the back end says when to go on */
        }
        break;
    default:
        break;
    }
}

static uint64_t mmio_read(void *opaque, hwaddr offset, unsigned size)
{
    return register_read(opaque, (unsigned)offset);
}

static void mmio_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    register_write(opaque, (unsigned)offset, (uint32_t)value);
}

static const MemoryRegionOps mmio_ops = {
    .read = mmio_read,
    .write = mmio_write,
    .valid = { .min = 1, .max = 8 },
    .impl = { .min = 4, .max = 4 },
};

/* 13.2.2: an address and a data register reach all others. */
static uint64_t io_read(void *opaque, hwaddr offset, unsigned size)
{
    E1000 *s = opaque;

    return offset == 0                                     ? s->io_address
           : offset == 4 && s->io_address + 4 <= MMIO_SIZE ? register_read(s, s->io_address & ~3u)
                                                           : 0;
}

static void io_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    E1000 *s = opaque;

    if (offset == 0) {
        s->io_address = (uint32_t)value & 0xfffff;
    } else if (offset == 4 && s->io_address + 4 <= MMIO_SIZE) {
        register_write(s, s->io_address & ~3u, (uint32_t)value);
    }
}

static const MemoryRegionOps io_ops = {
    .read = io_read,
    .write = io_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 4, .max = 4 },
};

/* ---- life ---- */

static void e1000_reset(Device *device)
{
    E1000 *s = E1000(device);

    pci_device_reset(device);
    s->io_address = 0;
    phy_reset(s);
    reset_registers(s);
}

static bool e1000_realize(PciDevice *dev, GError **error)
{
    E1000 *s = E1000(dev);
    Device *device = DEVICE(dev);

    if (!device->env || !device->env->clocks || !device->env->loop) {
        return error_set(error, "%s needs a clock", object_get_typename(OBJECT(dev)));
    }
    net_macaddr_default_if_unset(&s->mac);
    dev->config[PCI_INTERRUPT_PIN] = 1;
    timer_init(&s->throttle, device->env->loop, device->env->clocks, CLOCK_TYPE_VIRTUAL, on_throttle, s,
               &device->lock);
    s->send_bh = bh_new(device->env->loop, send_ring, s, &device->lock);
    memory_region_init_io(&s->mmio, s, &mmio_ops, s, "e1000-mmio", MMIO_SIZE, &device->lock);
    memory_region_init_io(&s->io, s, &io_ops, s, "e1000-io", IO_SIZE, &device->lock);
    pci_register_bar(dev, 0, PCI_BAR_MEM32, &s->mmio);
    pci_register_bar(dev, 1, PCI_BAR_IO, &s->io);
    eeprom_fill(s);
    if (!net_nic_init(&s->nic, &nic_ops, s, &device->lock, &s->mac, object_get_typename(OBJECT(dev)),
                      device->id, error)) {
        timer_destroy(&s->throttle);
        bh_free(g_steal_pointer(&s->send_bh));
        memory_region_destroy(&s->mmio);
        memory_region_destroy(&s->io);
        return false;
    }
    phy_reset(s);
    reset_registers(s);
    return true;
}

static void e1000_unrealize(PciDevice *dev)
{
    E1000 *s = E1000(dev);

    net_nic_deinit(&s->nic);
    bh_free(g_steal_pointer(&s->send_bh));
    timer_destroy(&s->throttle);
    memory_region_destroy(&s->mmio);
    memory_region_destroy(&s->io);
}

static bool e1000_post_load(void *opaque, int version, GError **error)
{
    E1000 *s = opaque;
    const E1000Context *c = &s->segment_context;

    if (s->tx_sent > s->packet.size || s->packet.size > ETH_PACKET_MAX ||
        (s->tx_sent && c->header > s->packet.size - s->tx_sent)) {
        packet_done(s);
        return error_set(error, "e1000: impossible state of its packet");
    }
    update_link(s);
    bh_schedule(s->send_bh);
    return true;
}

static const VmStateField context_fields[] = {
    VMS_UINT8(ipcss, E1000Context),
    VMS_UINT8(ipcso, E1000Context),
    VMS_UINT8(tucss, E1000Context),
    VMS_UINT8(tucso, E1000Context),
    VMS_UINT8(header, E1000Context),
    VMS_UINT8(command, E1000Context),
    VMS_UINT16(ipcse, E1000Context),
    VMS_UINT16(tucse, E1000Context),
    VMS_UINT16(mss, E1000Context),
    VMS_UINT32(payload, E1000Context),
    VMS_END,
};
static const VmState context_vmstate = { .name = "e1000-context", .version = 1, .fields = context_fields };

static const VmStateField e1000_fields[] = {
    VMS_STRUCT(parent_obj, E1000, pci_device_vmstate),
    VMS_UINT32(reg, E1000),
    VMS_UINT32(io_address, E1000),
    VMS_UINT16(phy, E1000),
    VMS_STRUCT(eeprom, E1000, eeprom93c46_vmstate),
    VMS_STRUCT(context, E1000, context_vmstate),
    VMS_STRUCT(segment_context, E1000, context_vmstate),
    VMS_CUSTOM(packet, E1000, eth_packet_save, eth_packet_load),
    VMS_UINT32(tx_sent, E1000),
    VMS_UINT32(tx_number, E1000),
    VMS_UINT32(tx_tag, E1000),
    VMS_UINT8(tx_popts, E1000),
    VMS_BOOL(tx_data, E1000),
    VMS_BOOL(tx_segment, E1000),
    VMS_BOOL(tx_too_long, E1000),
    VMS_BOOL(tx_complete, E1000),
    VMS_TIMER(throttle, E1000),
    VMS_END,
};
static const VmState e1000_vmstate = {
    .name = "e1000", .version = 1, .minimum_version = 1, .fields = e1000_fields, .post_load = e1000_post_load
};

static const Property e1000_properties[] = {
    PROP_TYPED("mac", E1000, mac, property_type_macaddr, "the card's address"),
    PROP_TYPED("netdev", E1000, nic, property_type_netdev, "the back end's id"),
    PROP_INT32("bootindex", E1000, bootindex, -1, "place in the boot order (-1: none)"),
    PROP_BOOL("mitigation", E1000, mitigation, true, "the guest may throttle interrupts (ITR)"),
    PROP_BOOL("autonegotiation", E1000, autonegotiation, true, "accepted: negotiation ends at once"),
    PROP_END,
};

static void e1000_base_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x8086;
    pc->class_id = 0x0200;
    pc->revision = 3;
    pc->realize = e1000_realize;
    pc->unrealize = e1000_unrealize;
    pc->default_rom = "efi-e1000.rom"; /* network boot */
    dc->reset = e1000_reset;
    dc->vmstate = &e1000_vmstate;
    dc->category = "Network";
    object_class_add_properties(klass, e1000_properties);
}

static void e1000_class_init(ObjectClass *klass, const void *data)
{
    PCI_DEVICE_CLASS(klass)->device_id = ((const E1000Model *)data)->device_id;
}

static const E1000Model models[] = {
    { 0x100e, 0x0c20 },
    { 0x100c, 0x0c30 },
    { 0x100f, 0x0c20 },
};

static const TypeInfo e1000_base_info = {
    .name = TYPE_E1000_BASE,
    .parent = TYPE_PCI_DEVICE,
    .instance_size = sizeof(E1000),
    .abstract = true,
    .class_init = e1000_base_class_init,
};
TYPE_REGISTER(e1000_base_info);

static const TypeInfo e1000_82540em_info = {
    .name = "e1000",
    .parent = TYPE_E1000_BASE,
    .description = "Intel Gigabit Ethernet (82540EM)",
    .class_init = e1000_class_init,
    .class_data = &models[0],
};
TYPE_REGISTER(e1000_82540em_info);

static const TypeInfo e1000_82544gc_info = {
    .name = "e1000-82544gc",
    .parent = TYPE_E1000_BASE,
    .description = "Intel Gigabit Ethernet (82544GC)",
    .class_init = e1000_class_init,
    .class_data = &models[1],
};
TYPE_REGISTER(e1000_82544gc_info);

static const TypeInfo e1000_82545em_info = {
    .name = "e1000-82545em",
    .parent = TYPE_E1000_BASE,
    .description = "Intel Gigabit Ethernet (82545EM)",
    .class_init = e1000_class_init,
    .class_data = &models[2],
};
TYPE_REGISTER(e1000_82545em_info);
