/*
 * The USB 1.1 controllers of the PIIX3 and the ICH9. Source: Universal Host Controller Interface (UHCI)
 * Design Guide 1.1, with the parts' data sheets for their ids.
 *
 * Once a millisecond of guest time the schedule of one frame is walked: its list, queue heads, transfer
 * descriptors. All of that is the guest's: each frame has a budget of descriptors, and a queue that comes
 * again without any transfer having been done in between ends it. Left out on purpose: legacy keyboard
 * emulation (0xc0), isochronous devices (there are none), resume signalling by devices.
 *
 * Threads: ports in vCPUs' threads, frames in the main loop's, under the HomeLock.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/usb/usb.h"

#include "base/error.h"
#include "base/log.h"
#include "hw/pci/pci.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(uhci_write, "offset 0x%02x size %u value 0x%x");
TRACE_EVENT(uhci_transfer, "address %u endpoint %u pid 0x%02x size %u gives %d, %u bytes");

#define TYPE_UHCI     "uhci" /* abstract */
#define PORTS         2u
#define IO_SIZE       0x20
#define UHCI_BAR      4
#define FRAME_NS      1000000
#define FRAME_BUDGET  256u
#define MAX_LATE      32 /* frames that are made up for at once */
#define MAX_PACKET    1280u
#define PCI_SBRN      0x60
#define PCI_LEGACY    0xc0
#define LEGACY_PRESET 0x2000

enum {
    REG_CMD = 0x00,
    REG_STS = 0x02,
    REG_INTR = 0x04,
    REG_FRNUM = 0x06,
    REG_FLBASE = 0x08,
    REG_SOF = 0x0c,
    REG_PORT = 0x10
};
enum { CMD_RUN = 0x01, CMD_HCRESET = 0x02, CMD_GRESET = 0x04 };
enum {
    STS_USBINT = 0x01,
    STS_ERROR = 0x02,
    STS_RESUME = 0x04,
    STS_SYSTEM_ERROR = 0x08,
    STS_PROCESS_ERROR = 0x10,
    STS_HALTED = 0x20
};
enum { INTR_TIMEOUT = 1, INTR_RESUME = 2, INTR_IOC = 4, INTR_SHORT = 8 };
enum {
    PORT_CONNECTED = 0x01,
    PORT_CONNECT_CHANGE = 0x02,
    PORT_ENABLED = 0x04,
    PORT_ENABLE_CHANGE = 0x08,
    PORT_ALWAYS = 0x80,
    PORT_LOW_SPEED = 0x100,
    PORT_RESET = 0x200,
    PORT_SUSPEND = 0x1000,
    PORT_WRITABLE = PORT_ENABLED | 0x40 | PORT_RESET | PORT_SUSPEND
};
enum { LINK_END = 1, LINK_QH = 2, LINK_DEPTH = 4 };
#define TD_SPD     (1u << 29)
#define TD_IOC     (1u << 24)
#define TD_ACTIVE  (1u << 23)
#define TD_STALLED (1u << 22)
#define TD_BABBLE  (1u << 20)
#define TD_NAK     (1u << 19)
#define TD_TIMEOUT (1u << 18)
#define TD_LENGTH  0x7ffu

typedef struct UhciTd {
    uint32_t link, control, token, buffer;
} UhciTd;

typedef struct UhciState {
    PciDevice parent_obj;
    /* saved */
    uint16_t cmd, sts, intr, frnum;
    uint8_t sof, causes; /* why USBINT is set: 1 completion, 2 short packet */
    uint32_t frame_list;
    uint16_t port[PORTS];
    int64_t next_frame_ns;
    Timer frame_timer;
    /* derived */
    bool firmware_preset;
    MemoryRegion io;
    UsbBus *bus;
} UhciState;
#define UHCI(obj) OBJECT_CHECK(UhciState, obj, TYPE_UHCI)

/* ---- interrupts ---- */

static void update_irq(UhciState *s)
{
    bool level = ((s->causes & 1) && (s->intr & INTR_IOC)) || ((s->causes & 2) && (s->intr & INTR_SHORT)) ||
                 ((s->sts & STS_ERROR) && (s->intr & INTR_TIMEOUT)) ||
                 ((s->sts & STS_RESUME) && (s->intr & INTR_RESUME)) ||
                 (s->sts & (STS_SYSTEM_ERROR | STS_PROCESS_ERROR));

    pci_set_irq(&s->parent_obj, level);
}

/* ---- guest memory ---- */

static bool read_words(UhciState *s, uint32_t address, uint32_t *words, unsigned count)
{
    if (address_space_read(s->parent_obj.dma_as, address, MEMTXATTRS_DMA, words, count * 4) != MEMTX_OK) {
        s->sts |= STS_SYSTEM_ERROR | STS_HALTED;
        s->cmd &= ~CMD_RUN;
        LOG(LOG_GUEST_ERROR, "uhci: the schedule at 0x%x is not in memory", address);
        return false;
    }
    for (unsigned i = 0; i < count; i++) {
        words[i] = GUINT32_FROM_LE(words[i]);
    }
    return true;
}

static void write_word(UhciState *s, uint32_t address, uint32_t value)
{
    address_space_store(s->parent_obj.dma_as, address, 4, value, MEMTXATTRS_DMA);
}

/* ---- transfers ---- */

typedef enum TdResult {
    TD_DONE,    /* the queue goes on with the next descriptor */
    TD_AGAIN,   /* not now: the next queue */
    TD_STOPPED, /* it is for the driver: the next queue */
    TD_FATAL,
} TdResult;

static UsbDevice *find_device(UhciState *s, unsigned address)
{
    for (unsigned i = 0; i < PORTS; i++) {
        UsbDevice *dev = s->port[i] & PORT_ENABLED ? usb_bus_port(s->bus, i) : NULL;
        if (dev && dev->address == address) {
            return dev;
        }
    }
    return NULL;
}

static TdResult complete_td(UhciState *s, UhciTd *td, UsbStatus status, UsbPacket *p)
{
    if (status == USB_NAK) {
        td->control |= TD_NAK;
        return TD_AGAIN;
    }
    td->control &= ~(TD_ACTIVE | TD_NAK);
    s->causes |= td->control & TD_IOC ? 1 : 0;
    if (status == USB_STALL) {
        td->control |= TD_STALLED;
        s->sts |= STS_ERROR;
        return TD_STOPPED;
    }
    td->control = (td->control & ~TD_LENGTH) | ((p->actual - 1) & TD_LENGTH);
    if (p->pid == USB_PID_IN) {
        address_space_write(s->parent_obj.dma_as, td->buffer, MEMTXATTRS_DMA, p->data, p->actual);
        if (p->actual < p->size && (td->control & TD_SPD)) {
            s->causes |= 2;
            return TD_STOPPED;
        }
    }
    return TD_DONE;
}

/* One transfer descriptor; its status goes back to memory. */
static TdResult run_td(UhciState *s, uint32_t address, UhciTd *td)
{
    uint8_t data[MAX_PACKET] = { 0 };
    UsbPacket p = { .pid = td->token & 0xff,
                    .endpoint = td->token >> 15 & 15,
                    .data = data,
                    .size = ((td->token >> 21) + 1) & TD_LENGTH };
    uint32_t before = td->control;

    if (!(td->control & TD_ACTIVE)) {
        return TD_STOPPED;
    }
    if ((p.pid != USB_PID_IN && p.pid != USB_PID_OUT && p.pid != USB_PID_SETUP) || p.size > MAX_PACKET) {
        s->sts |= STS_PROCESS_ERROR | STS_HALTED;
        s->cmd &= ~CMD_RUN;
        LOG(LOG_GUEST_ERROR, "uhci: a transfer with pid 0x%02x of %u bytes", p.pid, p.size);
        return TD_FATAL;
    }
    UsbDevice *dev = find_device(s, td->token >> 8 & 0x7f);
    TdResult result;
    if (!dev) {
        td->control = (td->control & ~TD_ACTIVE) | TD_TIMEOUT | TD_STALLED;
        s->sts |= STS_ERROR;
        s->causes |= td->control & TD_IOC ? 1 : 0;
        result = TD_STOPPED;
    } else {
        if (p.pid != USB_PID_IN && p.size) {
            address_space_read(s->parent_obj.dma_as, td->buffer, MEMTXATTRS_DMA, data, p.size);
        }
        UsbStatus status = usb_device_packet(dev, &p);
        TRACE(uhci_transfer, dev->address, p.endpoint, p.pid, p.size, status, p.actual);
        result = complete_td(s, td, status, &p);
    }
    if (td->control != before) {
        write_word(s, address + 4, td->control);
    }
    return result;
}

/* ---- frames ---- */

/* The queue at a link; *link becomes what follows it. False: the frame is over. */
static bool run_queue(UhciState *s, uint32_t *link, unsigned *budget, bool *moved)
{
    uint32_t head = *link & ~15u, qh[2];

    if (!read_words(s, head, qh, 2)) {
        return false;
    }
    while (!(qh[1] & LINK_END) && *budget > 0) {
        if (qh[1] & LINK_QH) { /* a queue in a queue: it takes over */
            *link = qh[1];
            return true;
        }
        UhciTd td;
        uint32_t address = qh[1] & ~15u;
        (*budget)--;
        if (!read_words(s, address, &td.link, 4)) {
            return false;
        }
        TdResult result = run_td(s, address, &td);
        if (result == TD_FATAL) {
            return false;
        }
        if (result != TD_DONE) {
            break;
        }
        *moved = true;
        qh[1] = td.link;
        write_word(s, head + 4, td.link);
        if (!(td.link & LINK_DEPTH)) { /* breadth first: one of each queue in turn */
            break;
        }
    }
    *link = qh[0];
    return true;
}

static void run_frame(UhciState *s)
{
    uint32_t link, first_queue = LINK_END;
    unsigned budget = FRAME_BUDGET;
    bool moved = false;

    if (!read_words(s, s->frame_list + 4 * (s->frnum & 1023u), &link, 1)) {
        return;
    }
    while (!(link & LINK_END) && budget > 0) {
        budget--;
        if (link & LINK_QH) {
            /* Queues may form a ring, to use what time is left: once around without a transfer is enough. */
            if ((link & ~15u) == first_queue) {
                if (!moved) {
                    break;
                }
                moved = false;
            } else if (first_queue == LINK_END) {
                first_queue = link & ~15u;
            }
            if (!run_queue(s, &link, &budget, &moved)) {
                return;
            }
        } else {
            UhciTd td;
            uint32_t address = link & ~15u;
            if (!read_words(s, address, &td.link, 4) || run_td(s, address, &td) == TD_FATAL) {
                return;
            }
            link = td.link;
        }
    }
}

static int64_t now_ns(const UhciState *s)
{
    return clock_now_ns(DEVICE(s)->env->clocks, CLOCK_TYPE_VIRTUAL);
}

static void on_frame(void *opaque)
{
    UhciState *s = opaque;
    int64_t now = now_ns(s);

    if (now - s->next_frame_ns > MAX_LATE * FRAME_NS) { /* the guest stood still, or the host is too slow */
        s->next_frame_ns = now;
    }
    while ((s->cmd & CMD_RUN) && s->next_frame_ns <= now) {
        uint8_t causes = s->causes;
        s->causes = 0;
        run_frame(s);
        s->frnum = (s->frnum + 1) & 0x7ff;
        s->next_frame_ns += FRAME_NS;
        s->sts |= s->causes ? STS_USBINT : 0;
        s->causes |= causes;
    }
    update_irq(s);
    if (s->cmd & CMD_RUN) {
        timer_set(&s->frame_timer, s->next_frame_ns);
    }
}

/* ---- ports ---- */

static void connect_port(UhciState *s, unsigned n)
{
    UsbDevice *dev = usb_bus_port(s->bus, n);
    uint16_t old = s->port[n];

    s->port[n] &= ~(PORT_CONNECTED | PORT_ENABLED | PORT_LOW_SPEED);
    if (dev) {
        s->port[n] |= PORT_CONNECTED | (dev->speed == USB_SPEED_LOW ? PORT_LOW_SPEED : 0);
    }
    s->port[n] |= (old ^ s->port[n]) & PORT_CONNECTED ? PORT_CONNECT_CHANGE : 0;
    s->port[n] |= (old ^ s->port[n]) & PORT_ENABLED ? PORT_ENABLE_CHANGE : 0;
}

static void bus_attached(void *opaque, unsigned port)
{
    connect_port(opaque, port);
}

static void bus_detached(void *opaque, unsigned port)
{
    connect_port(opaque, port);
}

static const UsbBusOps bus_ops = { bus_attached, bus_detached, NULL };

static void write_port(UhciState *s, unsigned n, uint16_t value)
{
    uint16_t old = s->port[n];
    UsbDevice *dev = usb_bus_port(s->bus, n);

    if ((value & PORT_RESET) && !(old & PORT_RESET) && dev) {
        usb_device_bus_reset(dev);
    }
    if ((value & PORT_RESET) || !dev) {
        value &= ~PORT_ENABLED;
    }
    s->port[n] = (uint16_t)((old & ~PORT_WRITABLE) | (value & PORT_WRITABLE));
    s->port[n] &= ~(value & (PORT_CONNECT_CHANGE | PORT_ENABLE_CHANGE));
}

/* ---- registers ---- */

static void controller_reset(UhciState *s)
{
    s->cmd = 0;
    s->sts = STS_HALTED;
    s->intr = s->frnum = 0;
    s->causes = 0;
    s->sof = 64;
    s->frame_list = 0;
    timer_cancel(&s->frame_timer);
    for (unsigned i = 0; i < PORTS; i++) {
        s->port[i] = PORT_ALWAYS;
        connect_port(s, i);
        if (usb_bus_port(s->bus, i)) {
            usb_device_bus_reset(usb_bus_port(s->bus, i));
        }
    }
    update_irq(s);
}

static void write_cmd(UhciState *s, uint16_t value)
{
    bool start = (value & CMD_RUN) && !(s->cmd & CMD_RUN);

    if (value & CMD_HCRESET) {
        controller_reset(s);
        return;
    }
    if ((value & CMD_GRESET) && !(s->cmd & CMD_GRESET)) {
        for (unsigned i = 0; i < PORTS; i++) {
            if (usb_bus_port(s->bus, i)) {
                usb_device_bus_reset(usb_bus_port(s->bus, i));
            }
        }
    }
    s->cmd = value & 0xff;
    if (start) {
        s->sts &= ~STS_HALTED;
        s->next_frame_ns = now_ns(s) + FRAME_NS;
        timer_set(&s->frame_timer, s->next_frame_ns);
    } else if (!(value & CMD_RUN)) {
        s->sts |= STS_HALTED;
        timer_cancel(&s->frame_timer);
    }
}

static uint64_t io_read(void *opaque, hwaddr offset, unsigned size)
{
    UhciState *s = opaque;

    switch (offset) {
    case REG_CMD:
        return s->cmd;
    case REG_STS:
        return s->sts;
    case REG_INTR:
        return s->intr;
    case REG_FRNUM:
        return s->frnum;
    case REG_FLBASE:
        return s->frame_list & 0xffff;
    case REG_FLBASE + 2:
        return s->frame_list >> 16;
    case REG_SOF:
        return s->sof;
    case REG_PORT:
    case REG_PORT + 2:
        return s->port[(offset - REG_PORT) / 2];
    default:
        return offset >= REG_PORT ? 0xff7f : 0; /* no more ports */
    }
}

static void io_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    UhciState *s = opaque;

    TRACE(uhci_write, (unsigned)offset, size, (unsigned)value);
    switch (offset) {
    case REG_CMD:
        write_cmd(s, (uint16_t)value);
        break;
    case REG_STS:
        s->sts &= ~(value & 0x1f);
        s->causes = value & STS_USBINT ? 0 : s->causes;
        break;
    case REG_INTR:
        s->intr = value & 15;
        break;
    case REG_FRNUM:
        if (!(s->cmd & CMD_RUN)) {
            s->frnum = value & 0x7ff;
        }
        break;
    case REG_FLBASE:
        s->frame_list = (s->frame_list & 0xffff0000u) | (value & 0xf000);
        break;
    case REG_FLBASE + 2:
        s->frame_list = (s->frame_list & 0xffff) | (uint32_t)(value << 16);
        break;
    case REG_SOF:
        s->sof = value & 0x7f;
        break;
    case REG_PORT:
    case REG_PORT + 2:
        write_port(s, (unsigned)(offset - REG_PORT) / 2, (uint16_t)value);
        break;
    default:
        break;
    }
    update_irq(s);
}

static const MemoryRegionOps io_ops = {
    .read = io_read,
    .write = io_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 2, .max = 2 },
};

/* ---- life ---- */

static void uhci_reset(Device *device)
{
    UhciState *s = UHCI(device);

    pci_device_reset(device);
    controller_reset(s);
}

static bool uhci_realize(PciDevice *dev, GError **error)
{
    UhciState *s = UHCI(dev);
    Device *device = DEVICE(dev);

    if (!device->env || !device->env->clocks || !dev->dma_as) {
        return error_set(error, "%s needs memory and a clock", object_get_typename(OBJECT(dev)));
    }
    dev->config[PCI_CLASS_PROG] = 0; /* UHCI */
    dev->config[PCI_INTERRUPT_PIN] = (uint8_t)(1 + (PCI_FUNC(dev->devfn) == 2 && PCI_SLOT(dev->devfn) == 1
                                                        ? 3 /* the PIIX3's is wired to D */
                                                        : PCI_FUNC(dev->devfn) & 3));
    dev->config[PCI_SBRN] = 0x10;
    pci_set_word(dev->config + PCI_LEGACY, LEGACY_PRESET);
    pci_set_word(dev->wmask + PCI_LEGACY, 0xbf);
    memory_region_init_io(&s->io, s, &io_ops, s, "uhci", IO_SIZE, &device->lock);
    pci_register_bar(dev, UHCI_BAR, PCI_BAR_IO, &s->io);
    timer_init(&s->frame_timer, device->env->loop, device->env->clocks, CLOCK_TYPE_VIRTUAL, on_frame, s,
               &device->lock);
    s->bus = usb_bus_new(device, device->env, PORTS, USB_SPEED_FULL, &bus_ops, s, &device->lock);
    for (unsigned i = 0; i < PORTS; i++) {
        s->port[i] = PORT_ALWAYS;
    }
    return true;
}

static void uhci_unrealize(PciDevice *dev)
{
    UhciState *s = UHCI(dev);

    timer_destroy(&s->frame_timer);
    memory_region_destroy(&s->io);
}

static bool uhci_post_load(void *opaque, int version, GError **error)
{
    UhciState *s = opaque;

    for (unsigned i = 0; i < PORTS; i++) {
        if (!!usb_bus_port(s->bus, i) != !!(s->port[i] & PORT_CONNECTED)) {
            return error_set(error, "%s: port %u has %s device here", object_get_typename(OBJECT(s)), i + 1,
                             usb_bus_port(s->bus, i) ? "a" : "no");
        }
    }
    s->frame_list &= ~4095u;
    s->frnum &= 0x7ff;
    return true;
}

static const Property uhci_properties[] = {
    PROP_BOOL("firmware-preset", UhciState, firmware_preset, false, "accepted; firmware leaves nothing here"),
    PROP_END,
};

static const VmStateField uhci_fields[] = {
    VMS_STRUCT(parent_obj, UhciState, pci_device_vmstate),
    VMS_UINT16(cmd, UhciState),
    VMS_UINT16(sts, UhciState),
    VMS_UINT16(intr, UhciState),
    VMS_UINT16(frnum, UhciState),
    VMS_UINT8(sof, UhciState),
    VMS_UINT8(causes, UhciState),
    VMS_UINT32(frame_list, UhciState),
    VMS_UINT16(port, UhciState),
    VMS_INT64(next_frame_ns, UhciState),
    VMS_TIMER(frame_timer, UhciState),
    VMS_END,
};
static const VmState uhci_vmstate = {
    .name = "uhci", .version = 1, .minimum_version = 1, .fields = uhci_fields, .post_load = uhci_post_load
};

static void uhci_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x8086;
    pc->class_id = PCI_CLASS_SERIAL_USB;
    pc->realize = uhci_realize;
    pc->unrealize = uhci_unrealize;
    dc->reset = uhci_reset;
    dc->vmstate = &uhci_vmstate;
    dc->category = "USB";
    dc->hotpluggable = false;
    object_class_add_properties(klass, uhci_properties);
}

static const TypeInfo uhci_info = {
    .name = TYPE_UHCI,
    .parent = TYPE_PCI_DEVICE,
    .abstract = true,
    .instance_size = sizeof(UhciState),
    .class_init = uhci_class_init,
};
TYPE_REGISTER(uhci_info);

typedef struct UhciKind {
    uint16_t device_id;
    uint8_t revision;
} UhciKind;

static void kind_class_init(ObjectClass *klass, const void *data)
{
    const UhciKind *kind = data;
    PCI_DEVICE_CLASS(klass)->device_id = kind->device_id;
    PCI_DEVICE_CLASS(klass)->revision = kind->revision;
}

#define UHCI_TYPE(x, x_name, x_id, x_revision)             \
    static const UhciKind x##_kind = { x_id, x_revision }; \
    static const TypeInfo x##_info = {                     \
        .name = x_name,                                    \
        .parent = TYPE_UHCI,                               \
        .description = "USB 1.1 controller",               \
        .class_init = kind_class_init,                     \
        .class_data = &x##_kind,                           \
    };                                                     \
    TYPE_REGISTER(x##_info)

UHCI_TYPE(piix3, "piix3-usb-uhci", 0x7020, 1);
UHCI_TYPE(piix4, "piix4-usb-uhci", 0x7112, 1);
UHCI_TYPE(ich9_1, "ich9-usb-uhci1", 0x2934, 3);
UHCI_TYPE(ich9_2, "ich9-usb-uhci2", 0x2935, 3);
UHCI_TYPE(ich9_3, "ich9-usb-uhci3", 0x2936, 3);
UHCI_TYPE(ich9_4, "ich9-usb-uhci4", 0x2937, 3);
UHCI_TYPE(ich9_5, "ich9-usb-uhci5", 0x2938, 3);
UHCI_TYPE(ich9_6, "ich9-usb-uhci6", 0x2939, 3);
