/*
 * The I/O APIC. Sources: Intel 82093AA data sheet (290566); the EOI register and version 0x20 as in Intel's
 * 82801 (ICH) data sheets.
 *
 * Left out on purpose: pin polarity (devices here drive "asserted", whatever the wire), the arbitration
 * register's rotation.
 *
 * Threads: pins from any thread, registers from vCPUs, EOIs from vCPUs; all under the HomeLock. Messages
 * leave with it held; the local APIC bus is a leaf.
 *
 * Invariant: remote IRR is set exactly between the delivery of a level-triggered message and its EOI.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/intc/ioapic.h"

#include "arch/x86/chips.h"
#include "base/error.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(ioapic_input, "pin %d level %d");
TRACE_EVENT(ioapic_deliver, "pin %d vector 0x%02x destination 0x%02x mode %u level %d");
TRACE_EVENT(ioapic_eoi, "vector 0x%02x");
TRACE_EVENT(ioapic_write, "register 0x%02x value 0x%08x");

enum { IOREGSEL = 0x00, IOWIN = 0x10, IOEOI = 0x40, IOAPIC_REGION_SIZE = 0x1000 };
enum { IOAPICID = 0x00, IOAPICVER = 0x01, IOAPICARB = 0x02, IOREDTBL = 0x10 };
enum { IOAPIC_VERSION = 0x20, IOAPIC_ID_SHIFT = 24, IOAPIC_ID_MASK = 0x0f };
#define REDIR_VECTOR          0xffull
#define REDIR_MODE_SHIFT      8
#define REDIR_LOGICAL         (1ull << 11)
#define REDIR_DELIVERY_STATUS (1ull << 12)
#define REDIR_REMOTE_IRR      (1ull << 14)
#define REDIR_LEVEL           (1ull << 15)
#define REDIR_MASKED          (1ull << 16)
#define REDIR_DEST_SHIFT      56
#define REDIR_READ_ONLY       (REDIR_REMOTE_IRR | REDIR_DELIVERY_STATUS)
#define REDIR_WRITABLE        (0xff0000000001afffull)

typedef struct IoapicState {
    Device parent_obj;
    /* saved */
    uint64_t redir[IOAPIC_PINS];
    uint32_t levels; /* of the pins */
    uint8_t id, select;
    /* derived and configured */
    MemoryRegion region;
    uint32_t address;
    uint8_t reset_id;
    const X86Chips *remote; /* an accelerator models it; all but levels is a copy while it is looked at */
} IoapicState;
#define IOAPIC(obj) OBJECT_CHECK(IoapicState, obj, TYPE_IOAPIC)

G_STATIC_ASSERT(IOAPIC_PINS == X86_IOAPIC_PINS);

/* ---- logic; the lock is held ---- */
static bool pull(IoapicState *s)
{
    IoapicChip chip = { .levels = s->levels };
    if (!s->remote) {
        return true;
    }
    if (!s->remote->ioapic_get(s->remote->opaque, &chip)) {
        return false;
    }
    memcpy(s->redir, chip.redir, sizeof(s->redir));
    s->id = chip.id;
    s->select = chip.select;
    return true;
}

static bool push(IoapicState *s)
{
    IoapicChip chip = { .levels = s->levels, .id = s->id, .select = s->select };
    memcpy(chip.redir, s->redir, sizeof(chip.redir));
    return !s->remote || s->remote->ioapic_put(s->remote->opaque, &chip, s->address);
}

static ApicMessage message_of(uint64_t entry)
{
    return (ApicMessage){
        .destination = entry >> REDIR_DEST_SHIFT,
        .logical = entry & REDIR_LOGICAL,
        .mode = (entry >> REDIR_MODE_SHIFT) & 7,
        .vector = entry & REDIR_VECTOR,
        .level = entry & REDIR_LEVEL,
        .assert_ = true,
    };
}

/* Local APICs that are not modelled here have to know of which vectors an EOI is wanted. */
static void announce(IoapicState *s, int pin)
{
    ApicBus *bus = s->parent_obj.env ? s->parent_obj.env->apic_bus : NULL;
    const ApicMessage message = message_of(s->redir[pin]);

    if (bus && !s->remote) {
        apic_bus_pin(bus, (unsigned)pin, s->redir[pin] & REDIR_MASKED ? NULL : &message);
    }
}

static void deliver(IoapicState *s, int pin)
{
    ApicBus *bus = s->parent_obj.env ? s->parent_obj.env->apic_bus : NULL;
    const ApicMessage message = message_of(s->redir[pin]);
    TRACE(ioapic_deliver, pin, message.vector, message.destination, message.mode, message.level);
    if (bus) {
        apic_bus_deliver(bus, &message);
    }
}

/* A level-triggered pin that is high, unmasked, and not waiting for an EOI sends. */
static void service_level(IoapicState *s, int pin)
{
    uint64_t *entry = &s->redir[pin];
    if (!s->remote && (*entry & REDIR_LEVEL) && !(*entry & (REDIR_MASKED | REDIR_REMOTE_IRR)) &&
        (s->levels & (1u << pin))) {
        *entry |= REDIR_REMOTE_IRR;
        deliver(s, pin);
    }
}

void ioapic_set_input(void *dev, int pin, bool level)
{
    IoapicState *s = IOAPIC(dev);
    if (pin < 0 || pin >= IOAPIC_PINS) {
        return;
    }
    TRACE(ioapic_input, pin, level);
    home_lock(&s->parent_obj.lock);
    uint32_t bit = 1u << pin;
    bool rising = level && !(s->levels & bit);
    s->levels = level ? s->levels | bit : s->levels & ~bit;
    if (s->remote) {
        s->remote->ioapic_input(s->remote->opaque, (unsigned)pin, level);
    } else if (s->redir[pin] & REDIR_LEVEL) {
        service_level(s, pin);
    } else if (rising && !(s->redir[pin] & REDIR_MASKED)) {
        deliver(s, pin); /* an edge on a masked pin is lost, says the data sheet */
    }
    home_unlock(&s->parent_obj.lock);
}

static void end_of_interrupt(IoapicState *s, uint8_t vector)
{
    TRACE(ioapic_eoi, vector);
    for (int pin = 0; pin < IOAPIC_PINS; pin++) {
        if ((s->redir[pin] & REDIR_VECTOR) == vector && (s->redir[pin] & REDIR_REMOTE_IRR)) {
            s->redir[pin] &= ~REDIR_REMOTE_IRR;
            service_level(s, pin);
        }
    }
}

/* From a local APIC, no locks held. */
static void on_eoi(void *opaque, uint8_t vector)
{
    IoapicState *s = opaque;
    home_lock(&s->parent_obj.lock);
    end_of_interrupt(s, vector);
    home_unlock(&s->parent_obj.lock);
}

static void redir_write(IoapicState *s, int pin, unsigned shift, uint32_t value)
{
    uint64_t *entry = &s->redir[pin];
    uint64_t mask = (0xffffffffull << shift) & REDIR_WRITABLE;
    *entry = (*entry & ~mask) | (((uint64_t)value << shift) & mask);
    if (!(*entry & REDIR_LEVEL)) {
        *entry &= ~REDIR_REMOTE_IRR; /* how systems get rid of a stuck one */
    }
    announce(s, pin);
    service_level(s, pin);
}

static uint32_t register_read(IoapicState *s)
{
    switch (s->select) {
    case IOAPICID:
    case IOAPICARB:
        return (uint32_t)s->id << IOAPIC_ID_SHIFT;
    case IOAPICVER:
        return IOAPIC_VERSION | (IOAPIC_PINS - 1) << 16;
    default:
        if (s->select >= IOREDTBL && s->select < IOREDTBL + 2 * IOAPIC_PINS) {
            return s->redir[(s->select - IOREDTBL) / 2] >> (s->select & 1 ? 32 : 0);
        }
        return 0;
    }
}

static void register_write(IoapicState *s, uint32_t value)
{
    TRACE(ioapic_write, s->select, value);
    if (s->select == IOAPICID) {
        s->id = (value >> IOAPIC_ID_SHIFT) & IOAPIC_ID_MASK;
    } else if (s->select >= IOREDTBL && s->select < IOREDTBL + 2 * IOAPIC_PINS) {
        redir_write(s, (s->select - IOREDTBL) / 2, s->select & 1 ? 32 : 0, value);
    }
}

/* ---- memory ---- */
static uint64_t ioapic_read(void *opaque, hwaddr offset, unsigned size)
{
    IoapicState *s = opaque;
    pull(s);
    switch (offset & 0xff) {
    case IOREGSEL:
        return s->select;
    case IOWIN:
        return register_read(s);
    default:
        return 0;
    }
}

static void ioapic_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    IoapicState *s = opaque;
    pull(s);
    switch (offset & 0xff) {
    case IOREGSEL:
        s->select = value;
        break;
    case IOWIN:
        register_write(s, value);
        break;
    case IOEOI:
        end_of_interrupt(s, value);
        break;
    default:
        break;
    }
    push(s);
}

static const MemoryRegionOps ioapic_ops = {
    .read = ioapic_read,
    .write = ioapic_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};

/* ---- life ---- */
static void ioapic_reset(Device *dev)
{
    IoapicState *s = IOAPIC(dev);
    for (int pin = 0; pin < IOAPIC_PINS; pin++) {
        s->redir[pin] = REDIR_MASKED;
        announce(s, pin);
    }
    s->id = s->reset_id & IOAPIC_ID_MASK;
    s->select = 0;
    push(s);
}

static bool ioapic_realize(Device *dev, GError **error)
{
    IoapicState *s = IOAPIC(dev);
    if (!dev->env || !dev->env->system_memory) {
        return error_set(error, "%s needs memory to be mapped into", TYPE_IOAPIC);
    }
    memory_region_init_io(&s->region, s, &ioapic_ops, s, "ioapic", IOAPIC_REGION_SIZE, &dev->lock);
    memory_region_add_overlap(dev->env->system_memory, s->address, &s->region, 1);
    s->remote = apic_bus_chips(dev->env->apic_bus);
    ioapic_reset(dev);
    if (dev->env->apic_bus) {
        apic_bus_add_eoi_handler(dev->env->apic_bus, on_eoi, s);
    }
    return true;
}

static void ioapic_unrealize(Device *dev)
{
    IoapicState *s = IOAPIC(dev);
    memory_region_del(dev->env->system_memory, &s->region);
    memory_region_destroy(&s->region);
}

static const Property ioapic_properties[] = {
    PROP_UINT32("address", IoapicState, address, IOAPIC_ADDRESS, "guest physical address"),
    PROP_UINT8("id", IoapicState, reset_id, 0, "APIC id after reset"),
    PROP_END,
};

static bool ioapic_post_load(void *opaque, int version, GError **error)
{
    IoapicState *s = opaque;
    s->levels &= (1u << IOAPIC_PINS) - 1;
    s->id &= IOAPIC_ID_MASK;
    for (int pin = 0; pin < IOAPIC_PINS; pin++) {
        s->redir[pin] &= REDIR_WRITABLE | REDIR_READ_ONLY;
        announce(s, pin);
    }
    return push(s) || error_set(error, "%s: the accelerator does not take it", TYPE_IOAPIC);
}

static bool ioapic_pre_save(void *opaque, GError **error)
{
    return pull(opaque) || error_set(error, "%s: the accelerator does not give its state", TYPE_IOAPIC);
}

static const VmStateField ioapic_fields[] = {
    VMS_UINT64(redir, IoapicState),
    VMS_UINT32(levels, IoapicState),
    VMS_UINT8(id, IoapicState),
    VMS_UINT8(select, IoapicState),
    VMS_END,
};

static const VmState ioapic_vmstate = {
    .name = "ioapic",
    .version = 1,
    .minimum_version = 1,
    .fields = ioapic_fields,
    .pre_save = ioapic_pre_save,
    .post_load = ioapic_post_load,
};

static void ioapic_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = ioapic_realize;
    dc->unrealize = ioapic_unrealize;
    dc->reset = ioapic_reset;
    dc->vmstate = &ioapic_vmstate;
    dc->hotpluggable = false;
    object_class_add_properties(klass, ioapic_properties);
}

static const TypeInfo ioapic_info = {
    .name = TYPE_IOAPIC,
    .parent = TYPE_DEVICE,
    .description = "I/O APIC",
    .instance_size = sizeof(IoapicState),
    .class_init = ioapic_class_init,
};
TYPE_REGISTER(ioapic_info);
