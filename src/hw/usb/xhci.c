/*
 * "qemu-xhci" and "nec-usb-xhci": the USB 3 controller. Source: eXtensible Host Controller Interface for
 * Universal Serial Bus, revision 1.1; chapter 5 for registers, 4.19 for ports.
 *
 * xhci.c has registers, ports and life, xhci_slot.c commands, xhci_ring.c events and transfers. Contexts have
 * 32 bytes, there are no scratchpads, streams or isochronous transfers, an event ring has one segment, and
 * interrupts are not moderated. All that the guest's memory says is read once, checked, and bounded.
 *
 * Threads: registers in vCPUs' threads, devices' wake-ups in the main loop's, under the HomeLock.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/usb/xhci_internal.h"

#include "base/error.h"
#include "base/log.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(xhci_write, "offset 0x%04x size %u value 0x%x");
TRACE_EVENT(xhci_port, "port %u status 0x%08x");

#define MEM_SIZE      0x4000u
#define MSIX_BAR      2 /* where the table and pending bits are; the registers' BAR takes two */
#define OPERATIONAL   0x40u
#define PORTS_AT      (OPERATIONAL + 0x400)
#define RUNTIME       0x1000u
#define DOORBELLS     0x2000u
#define EXTENDED      0x20u
#define MICROFRAME_NS 125000
#define FRAMES_MASK   0x3fffu

enum {
    CMD_RUN = 1,
    CMD_RESET = 2,
    CMD_INTE = 4,
    CMD_HSEE = 8,
    CMD_SAVE = 0x100,
    CMD_RESTORE = 0x200,
    CMD_WRITABLE = 0xc0f
};
enum {
    STS_HALTED = 1,
    STS_SYSTEM_ERROR = 4,
    STS_EVENT = 8,
    STS_PORT = 0x10,
    STS_SAVE_ERROR = 0x400,
    STS_CONTROLLER_ERROR = 0x1000
};
#define PORT_CONNECTED   (1u << 0)
#define PORT_ENABLED     (1u << 1)
#define PORT_RESETTING   (1u << 4)
#define PORT_LINK_SHIFT  5
#define PORT_LINK        (15u << PORT_LINK_SHIFT)
#define PORT_POWER       (1u << 9)
#define PORT_SPEED_SHIFT 10
#define PORT_SPEED       (15u << PORT_SPEED_SHIFT)
#define PORT_LINK_WRITE  (1u << 16)
#define PORT_CHANGES     (0x7fu << 17)
#define PORT_CSC         (1u << 17)
#define PORT_PEC         (1u << 18)
#define PORT_PRC         (1u << 21)
#define PORT_PLC         (1u << 22)
#define PORT_WAKE        (7u << 25)
enum { LINK_U0 = 0, LINK_U3 = 3, LINK_RX_DETECT = 5, LINK_POLLING = 7, LINK_RESUME = 15 };

void xhci_host_error(XhciState *s, const char *what)
{
    LOG(LOG_GUEST_ERROR, "xhci: %s", what);
    s->usbsts |= STS_CONTROLLER_ERROR | STS_HALTED;
    s->usbcmd &= ~CMD_RUN;
}

/* ---- ports ---- */

static void port_changed(XhciState *s, unsigned port, uint32_t changes)
{
    bool fresh = changes & ~s->portsc[port];

    s->portsc[port] |= changes;
    TRACE(xhci_port, port + 1, s->portsc[port]);
    if (fresh && (s->usbcmd & CMD_RUN)) {
        s->usbsts |= STS_PORT;
        xhci_event(s, 0, (uint64_t)(port + 1) << 24, CC_SUCCESS << 24, TRB_PORT_EVENT << 10);
    }
}

static void port_update(XhciState *s, unsigned port, bool tell)
{
    UsbDevice *dev = port < XHCI_PORTS ? usb_bus_port(s->bus, port) : NULL;
    static const uint8_t speeds[] = { [USB_SPEED_LOW] = 2, [USB_SPEED_FULL] = 1, [USB_SPEED_HIGH] = 3 };
    uint32_t old = s->portsc[port];

    s->portsc[port] =
        (old & PORT_CHANGES) | PORT_POWER | (dev ? LINK_POLLING : LINK_RX_DETECT) << PORT_LINK_SHIFT;
    if (dev) {
        s->portsc[port] |= PORT_CONNECTED | (uint32_t)speeds[dev->speed] << PORT_SPEED_SHIFT;
    }
    if (tell || dev) {
        port_changed(s, port, PORT_CSC);
    }
}

static void port_reset(XhciState *s, unsigned port)
{
    UsbDevice *dev = port < XHCI_PORTS ? usb_bus_port(s->bus, port) : NULL;

    if (dev) {
        usb_device_bus_reset(dev);
        s->portsc[port] = (s->portsc[port] & ~PORT_LINK) | PORT_ENABLED;
        port_changed(s, port, PORT_PRC);
    }
}

static void port_write(XhciState *s, unsigned port, uint32_t value)
{
    uint32_t *p = &s->portsc[port];

    *p &= ~(value & PORT_CHANGES);
    *p = (*p & ~PORT_WAKE) | (value & PORT_WAKE);
    if (value & (PORT_RESETTING | 1u << 31)) {
        port_reset(s, port);
        return;
    }
    if (value & PORT_ENABLED) { /* a one disables */
        *p &= ~PORT_ENABLED;
    }
    if (value & PORT_LINK_WRITE) {
        unsigned link = value >> PORT_LINK_SHIFT & 15, old = *p >> PORT_LINK_SHIFT & 15;
        if ((link == LINK_U0 || link == LINK_U3) && link != old && (*p & PORT_ENABLED)) {
            *p = (*p & ~PORT_LINK) | link << PORT_LINK_SHIFT;
            if (link == LINK_U0) {
                port_changed(s, port, PORT_PLC);
            }
        }
    }
}

static void bus_attached(void *opaque, unsigned port)
{
    port_update(opaque, port, true);
}

/* What the slot of a port waited for never comes: its endpoints stop by themselves when they are rung. */
static void bus_detached(void *opaque, unsigned port)
{
    port_update(opaque, port, true);
}

static void run_kicks(void *opaque)
{
    XhciState *s = opaque;

    for (unsigned port = 0; port < XHCI_PORTS; port++) {
        uint64_t kicks = s->kicks[port];
        s->kicks[port] = 0;
        for (unsigned n = 1; n <= XHCI_SLOTS && kicks; n++) {
            for (unsigned e = 1; s->slots[n].enabled && s->slots[n].port == port + 1 && e < XHCI_ENDPOINTS;
                 e++) {
                if (kicks >> e & 1) {
                    xhci_run_endpoint(s, n, e);
                }
            }
        }
    }
}

/* Devices call from inside of their functions: the transfer goes on a little later. */
static void bus_wakeup(void *opaque, unsigned port, unsigned endpoint, bool in)
{
    XhciState *s = opaque;

    s->kicks[port] |= 1ull << (2 * endpoint + in);
    bh_schedule(s->kick);
}

static const UsbBusOps bus_ops = { bus_attached, bus_detached, bus_wakeup };

/* ---- registers ---- */

static void controller_reset(XhciState *s)
{
    s->usbcmd = 0;
    s->usbsts = STS_HALTED;
    s->dnctrl = s->config = 0;
    s->crcr = s->dcbaap = s->command_dequeue = 0;
    s->command_cycle = false;
    memset(s->slots, 0, sizeof(s->slots));
    memset(s->interrupters, 0, sizeof(s->interrupters));
    memset(s->kicks, 0, sizeof(s->kicks));
    for (unsigned i = 0; i < XHCI_ALL_PORTS; i++) {
        s->portsc[i] = 0;
        port_update(s, i, false);
        if (i < XHCI_PORTS && usb_bus_port(s->bus, i)) {
            usb_device_bus_reset(usb_bus_port(s->bus, i));
        }
    }
    for (unsigned i = 0; i < XHCI_INTERRUPTERS; i++) {
        s->interrupters[i].imod = 4000;
    }
    s->mfindex_base_ns = clock_now_ns(DEVICE(s)->env->clocks, CLOCK_TYPE_VIRTUAL);
    xhci_update_irq(s);
}

static uint32_t capability_read(unsigned offset)
{
    switch (offset) {
    case 0x00: /* where the operational registers are, version 1.0 */
        return 0x01000000 | OPERATIONAL;
    case 0x04:
        return XHCI_ALL_PORTS << 24 | XHCI_INTERRUPTERS << 8 | XHCI_SLOTS;
    case 0x08:
        return 0x0000000f; /* one segment in an event ring, no scratchpads */
    case 0x10:
        return (EXTENDED / 4) << 16 | 1; /* addresses of 64 bits, contexts of 32 bytes */
    case 0x14:
        return DOORBELLS;
    case 0x18:
        return RUNTIME;
    case EXTENDED: /* supported protocols: USB 2 ports from 1 on */
        return 0x02000402;
    case EXTENDED + 0x04:
    case EXTENDED + 0x14:
        return 0x20425355; /* "USB " */
    case EXTENDED + 0x08:
        return XHCI_PORTS << 8 | 1;
    case EXTENDED + 0x10: /* USB 3 ports behind them */
        return 0x03000002;
    case EXTENDED + 0x18:
        return (XHCI_ALL_PORTS - XHCI_PORTS) << 8 | (XHCI_PORTS + 1);
    default:
        return 0;
    }
}

static uint32_t operational_read(const XhciState *s, unsigned offset)
{
    if (offset >= 0x400) {
        unsigned port = (offset - 0x400) / 16;
        return port < XHCI_ALL_PORTS && !(offset & 15) ? s->portsc[port] : 0;
    }
    switch (offset) {
    case 0x00:
        return s->usbcmd;
    case 0x04:
        return s->usbsts;
    case 0x08:
        return 1; /* pages of 4 KiB */
    case 0x14:
        return s->dnctrl;
    case 0x18:
        return (uint32_t)s->crcr & 8; /* the pointer reads as zero */
    case 0x30:
        return (uint32_t)s->dcbaap;
    case 0x34:
        return (uint32_t)(s->dcbaap >> 32);
    case 0x38:
        return s->config;
    default:
        return 0;
    }
}

static void write_half(uint64_t *to, bool high, uint32_t value)
{
    *to = high ? (*to & 0xffffffff) | (uint64_t)value << 32 : (*to & ~0xffffffffull) | value;
}

static void write_usbcmd(XhciState *s, uint32_t value)
{
    bool ran = s->usbcmd & CMD_RUN;

    if (value & CMD_RESET) {
        controller_reset(s);
        return;
    }
    s->usbcmd = value & CMD_WRITABLE;
    if (value & CMD_RESTORE) { /* nothing is kept outside of the device: the driver starts anew */
        s->usbsts |= STS_SAVE_ERROR;
    }
    if (!ran && (value & CMD_RUN)) {
        s->usbsts &= ~STS_HALTED;
        for (unsigned i = 0; i < XHCI_ALL_PORTS; i++) { /* what changed while it stood still */
            if (s->portsc[i] & PORT_CHANGES) {
                s->usbsts |= STS_PORT;
                xhci_event(s, 0, (uint64_t)(i + 1) << 24, CC_SUCCESS << 24, TRB_PORT_EVENT << 10);
            }
        }
    } else if (!(value & CMD_RUN)) {
        s->usbsts |= STS_HALTED;
        s->crcr &= ~8ull;
    }
    xhci_update_irq(s);
}

static void operational_write(XhciState *s, unsigned offset, uint32_t value)
{
    if (offset >= 0x400) {
        unsigned port = (offset - 0x400) / 16;
        if (port < XHCI_ALL_PORTS && !(offset & 15)) {
            port_write(s, port, value);
        }
        return;
    }
    switch (offset) {
    case 0x00:
        write_usbcmd(s, value);
        break;
    case 0x04:
        s->usbsts &= ~(value & (STS_SYSTEM_ERROR | STS_EVENT | STS_PORT | STS_SAVE_ERROR));
        break;
    case 0x14:
        s->dnctrl = value & 0xffff;
        break;
    case 0x18:
    case 0x1c:
        if (!(s->crcr & 8)) { /* while it runs its pointer stays */
            write_half(&s->command_dequeue, offset == 0x1c, offset == 0x18 ? value & ~63u : value);
            s->command_cycle = offset == 0x18 ? value & 1 : s->command_cycle;
        }
        if (offset == 0x18 && (value & 6)) { /* stop, abort: commands are done at once */
            s->crcr &= ~8ull;
            xhci_event(s, 0, s->command_dequeue, 24u << 24, TRB_COMMAND_EVENT << 10);
        }
        break;
    case 0x30:
    case 0x34:
        write_half(&s->dcbaap, offset == 0x34, offset == 0x30 ? value & ~63u : value);
        break;
    case 0x38:
        s->config = value & 0xff;
        break;
    default:
        break;
    }
}

static uint32_t runtime_read(const XhciState *s, unsigned offset)
{
    if (offset < 0x20) {
        int64_t now = clock_now_ns(DEVICE(s)->env->clocks, CLOCK_TYPE_VIRTUAL);
        return offset == 0 ? (uint32_t)((now - s->mfindex_base_ns) / MICROFRAME_NS) & FRAMES_MASK : 0;
    }
    unsigned n = (offset - 0x20) / 32;
    if (n >= XHCI_INTERRUPTERS) {
        return 0;
    }
    const XhciInterrupter *i = &s->interrupters[n];
    switch (offset & 31) {
    case 0x00:
        return i->iman;
    case 0x04:
        return i->imod;
    case 0x08:
        return i->erstsz;
    case 0x10:
        return (uint32_t)i->erstba;
    case 0x14:
        return (uint32_t)(i->erstba >> 32);
    case 0x18:
        return (uint32_t)i->erdp;
    case 0x1c:
        return (uint32_t)(i->erdp >> 32);
    default:
        return 0;
    }
}

/* The segment table was written: the ring begins anew. */
static void event_ring_set(XhciState *s, XhciInterrupter *i)
{
    uint32_t words[4];

    i->size = i->at = 0;
    i->cycle = true;
    if (i->erstsz == 0) {
        return;
    }
    if (!xhci_read(s, i->erstba & ~63ull, words, sizeof(words))) {
        xhci_host_error(s, "the event ring's table is not in memory");
        return;
    }
    uint32_t size = GUINT32_FROM_LE(words[2]) & 0xffff;
    if (size < 16 || size > 4096) {
        xhci_host_error(s, "an event ring has 16 to 4096 entries");
        return;
    }
    i->segment = (GUINT32_FROM_LE(words[0]) & ~63ull) | (uint64_t)GUINT32_FROM_LE(words[1]) << 32;
    i->size = size;
}

static void runtime_write(XhciState *s, unsigned offset, uint32_t value)
{
    unsigned n = (offset - 0x20) / 32;

    if (offset < 0x20 || n >= XHCI_INTERRUPTERS) {
        return;
    }
    XhciInterrupter *i = &s->interrupters[n];
    switch (offset & 31) {
    case 0x00:
        i->iman = (i->iman & ~(value & 1) & 1) | (value & 2);
        break;
    case 0x04:
        i->imod = value;
        break;
    case 0x08:
        i->erstsz = value & 0xffff;
        break;
    case 0x10:
        write_half(&i->erstba, false, value & ~63u);
        break;
    case 0x14:
        write_half(&i->erstba, true, value);
        event_ring_set(s, i);
        break;
    case 0x18:
        write_half(&i->erdp, false, (value & ~8u) | (value & 8 ? 0 : i->erdp & 8));
        break;
    case 0x1c:
        write_half(&i->erdp, true, value);
        break;
    default:
        break;
    }
    xhci_update_irq(s);
}

static void ring_doorbell(XhciState *s, unsigned slot, uint32_t value)
{
    unsigned endpoint = value & 0xff;

    if (!(s->usbcmd & CMD_RUN)) {
        return;
    }
    if (slot == 0 && value == 0) {
        s->crcr |= 8;
        xhci_run_commands(s);
    } else if (slot >= 1 && slot <= XHCI_SLOTS && s->slots[slot].enabled && endpoint >= 1 &&
               endpoint < XHCI_ENDPOINTS) {
        XhciEndpoint *ep = &s->slots[slot].endpoints[endpoint];
        if (ep->state == EP_STOPPED) {
            ep->state = EP_RUNNING;
            xhci_write_endpoint(s, slot, endpoint);
        }
        xhci_run_endpoint(s, slot, endpoint);
    }
}

static uint64_t mem_read(void *opaque, hwaddr offset, unsigned size)
{
    const XhciState *s = opaque;
    unsigned at = (unsigned)offset;

    if (at < OPERATIONAL) {
        return capability_read(at);
    }
    if (at < RUNTIME) {
        return operational_read(s, at - OPERATIONAL);
    }
    return at < DOORBELLS ? runtime_read(s, at - RUNTIME) : 0;
}

static void mem_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    XhciState *s = opaque;
    unsigned at = (unsigned)offset;

    TRACE(xhci_write, at, size, (unsigned)value);
    if (at >= DOORBELLS) {
        ring_doorbell(s, (at - DOORBELLS) / 4, (uint32_t)value);
    } else if (at >= RUNTIME) {
        runtime_write(s, at - RUNTIME, (uint32_t)value);
    } else if (at >= OPERATIONAL) {
        operational_write(s, at - OPERATIONAL, (uint32_t)value);
    }
}

static const MemoryRegionOps mem_ops = {
    .read = mem_read,
    .write = mem_write,
    .valid = { .min = 1, .max = 8 },
    .impl = { .min = 4, .max = 4 },
};

/* ---- life ---- */

static void xhci_reset(Device *device)
{
    pci_device_reset(device);
    controller_reset(XHCI(device));
}

static bool xhci_realize(PciDevice *dev, GError **error)
{
    XhciState *s = XHCI(dev);
    Device *device = DEVICE(dev);

    if (!device->env || !device->env->clocks || !device->env->loop || !dev->dma_as) {
        return error_set(error, "%s needs memory, a clock and a loop", object_get_typename(OBJECT(dev)));
    }
    dev->config[PCI_CLASS_PROG] = 0x30; /* xHCI */
    dev->config[PCI_INTERRUPT_PIN] = 1;
    dev->config[0x60] = 0x30; /* release 3.0 */
    if (!pci_msix_init_exclusive(dev, XHCI_INTERRUPTERS, MSIX_BAR, error)) {
        return false;
    }
    memory_region_init_io(&s->mem, s, &mem_ops, s, "xhci", MEM_SIZE, &device->lock);
    pci_register_bar(dev, 0, PCI_BAR_MEM64, &s->mem);
    s->kick = bh_new(device->env->loop, run_kicks, s, &device->lock);
    s->bus = usb_bus_new(device, device->env, XHCI_PORTS, USB_SPEED_HIGH, &bus_ops, s, &device->lock);
    return true;
}

static void xhci_unrealize(PciDevice *dev)
{
    XhciState *s = XHCI(dev);

    bh_free(s->kick);
    s->kick = NULL;
    memory_region_destroy(&s->mem);
    pci_msix_uninit(dev);
}

static bool xhci_post_load(void *opaque, int version, GError **error)
{
    XhciState *s = opaque;

    for (unsigned i = 0; i < XHCI_INTERRUPTERS; i++) {
        XhciInterrupter *n = &s->interrupters[i];
        if (n->size > 4096 || (n->size && n->at >= n->size)) {
            n->size = n->at = 0;
            return error_set(error, "%s: impossible event ring", object_get_typename(OBJECT(s)));
        }
    }
    for (unsigned n = 1; n <= XHCI_SLOTS; n++) {
        XhciSlot *slot = &s->slots[n];
        if (slot->port > XHCI_PORTS || slot->state > SLOT_CONFIGURED) {
            xhci_slot_disable(s, n);
            return error_set(error, "%s: impossible slot %u", object_get_typename(OBJECT(s)), n);
        }
        for (unsigned e = 0; e < XHCI_ENDPOINTS; e++) {
            if (slot->endpoints[e].state > EP_ERROR || slot->endpoints[e].done > XHCI_MAX_TRANSFER) {
                xhci_slot_disable(s, n);
                return error_set(error, "%s: impossible endpoint %u of slot %u",
                                 object_get_typename(OBJECT(s)), e, n);
            }
        }
    }
    memset(s->kicks, 0xff, sizeof(s->kicks)); /* what waited for its device asks again */
    bh_schedule(s->kick);
    return true;
}

static const VmStateField endpoint_fields[] = {
    VMS_UINT8(state, XhciEndpoint),    VMS_UINT8(type, XhciEndpoint),  VMS_BOOL(cycle, XhciEndpoint),
    VMS_UINT64(dequeue, XhciEndpoint), VMS_UINT32(done, XhciEndpoint), VMS_END,
};
static const VmState endpoint_vmstate = { .name = "xhci-endpoint", .version = 1, .fields = endpoint_fields };

static const VmStateField slot_fields[] = {
    VMS_BOOL(enabled, XhciSlot),
    VMS_UINT8(state, XhciSlot),
    VMS_UINT8(port, XhciSlot),
    VMS_UINT8(interrupter, XhciSlot),
    VMS_UINT64(context, XhciSlot),
    VMS_STRUCT_ARRAY(endpoints, XhciSlot, XHCI_ENDPOINTS, endpoint_vmstate),
    VMS_END,
};
static const VmState slot_vmstate = { .name = "xhci-slot", .version = 1, .fields = slot_fields };

static const VmStateField interrupter_fields[] = {
    VMS_UINT32(iman, XhciInterrupter),   VMS_UINT32(imod, XhciInterrupter),
    VMS_UINT32(erstsz, XhciInterrupter), VMS_UINT64(erstba, XhciInterrupter),
    VMS_UINT64(erdp, XhciInterrupter),   VMS_UINT64(segment, XhciInterrupter),
    VMS_UINT32(size, XhciInterrupter),   VMS_UINT32(at, XhciInterrupter),
    VMS_BOOL(cycle, XhciInterrupter),    VMS_END,
};
static const VmState interrupter_vmstate = { .name = "xhci-interrupter",
                                             .version = 1,
                                             .fields = interrupter_fields };

static const VmStateField xhci_fields[] = {
    VMS_STRUCT(parent_obj, XhciState, pci_device_vmstate),
    VMS_UINT32(usbcmd, XhciState),
    VMS_UINT32(usbsts, XhciState),
    VMS_UINT32(dnctrl, XhciState),
    VMS_UINT32(config, XhciState),
    VMS_UINT64(crcr, XhciState),
    VMS_UINT64(dcbaap, XhciState),
    VMS_UINT64(command_dequeue, XhciState),
    VMS_BOOL(command_cycle, XhciState),
    VMS_UINT32(portsc, XhciState),
    VMS_STRUCT_ARRAY(slots, XhciState, XHCI_SLOTS + 1, slot_vmstate),
    VMS_STRUCT_ARRAY(interrupters, XhciState, XHCI_INTERRUPTERS, interrupter_vmstate),
    VMS_INT64(mfindex_base_ns, XhciState),
    VMS_END,
};
static const VmState xhci_vmstate = {
    .name = "xhci", .version = 1, .minimum_version = 1, .fields = xhci_fields, .post_load = xhci_post_load
};

static const Property xhci_properties[] = {
    PROP_BOOL("firmware-preset", XhciState, firmware_preset, false, "accepted; firmware leaves nothing here"),
    PROP_END,
};

static void xhci_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->class_id = PCI_CLASS_SERIAL_USB;
    pc->realize = xhci_realize;
    pc->unrealize = xhci_unrealize;
    dc->reset = xhci_reset;
    dc->vmstate = &xhci_vmstate;
    dc->category = "USB";
    object_class_add_properties(klass, xhci_properties);
}

static const TypeInfo xhci_info = {
    .name = TYPE_XHCI,
    .parent = TYPE_PCI_DEVICE,
    .abstract = true,
    .instance_size = sizeof(XhciState),
    .class_init = xhci_class_init,
};
TYPE_REGISTER(xhci_info);

static void qemu_class_init(ObjectClass *klass, const void *data)
{
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x1b36;
    pc->device_id = 0x000d;
    pc->revision = 1;
}

static void nec_class_init(ObjectClass *klass, const void *data)
{
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x1033;
    pc->device_id = 0x0194;
    pc->revision = 3;
}

static const TypeInfo qemu_xhci_info = {
    .name = "qemu-xhci", .parent = TYPE_XHCI, .description = "USB 3 controller", .class_init = qemu_class_init
};
TYPE_REGISTER(qemu_xhci_info);
static const TypeInfo nec_xhci_info = { .name = "nec-usb-xhci",
                                        .parent = TYPE_XHCI,
                                        .description = "USB 3 controller of NEC",
                                        .class_init = nec_class_init };
TYPE_REGISTER(nec_xhci_info);
