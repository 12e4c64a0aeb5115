/*
 * The IDE controller of the 82371SB (PIIX3), function 1: two channels at their old ports, and bus mastering.
 * Sources: Intel 82371FB/82371SB data sheet (290550), chapters 2.3 and 2.7; "Programming Interface for Bus
 * Master IDE Controller" 1.0; PCI IDE Controller Specification 1.0.
 *
 * Left out on purpose: timing (the registers hold what is written), native mode.
 *
 * Threads: ports and configuration in vCPUs' threads under the HomeLock, which the drives share; requests and
 * with them bus mastering in the main loop. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/storage/piix3_ide.h"

#include "base/error.h"
#include "hw/storage/ide.h"
#include "trace/trace.h"

#include <errno.h>
#include <string.h>

TRACE_EVENT(piix3_ide_bus_master, "channel %u register %u value 0x%08x");

enum { IDETIM = 0x40, IDETIM_DECODE = 0x8000 }; /* a word for each channel */
enum { BM_COMMAND = 0, BM_STATUS = 2, BM_TABLE = 4, BM_CHANNEL_SIZE = 8 };
enum { COMMAND_START = 0x01, COMMAND_TO_MEMORY = 0x08, COMMAND_MASK = 0x09 };
enum { STATUS_ACTIVE = 0x01, STATUS_ERROR = 0x02, STATUS_IRQ = 0x04, STATUS_CAPABLE = 0x60 };
enum { PRD_SIZE = 8, PRD_LAST = 0x80 };
#define BM_BAR   4
#define CHANNELS 2

static const uint16_t command_ports[CHANNELS] = { 0x1f0, 0x170 }, control_ports[CHANNELS] = { 0x3f6, 0x376 };
static const uint8_t channel_irqs[CHANNELS] = { 14, 15 };

typedef struct Channel {
    /* saved */
    uint8_t select, control;
    bool irq;
    uint8_t bm_command, bm_status;
    uint32_t bm_table;
    uint32_t prd_next; /* address of the descriptor that comes next */
    uint32_t prd_at, prd_left;
    bool prd_last;
    /* derived */
    struct Piix3Ide *owner;
    IdeBus *bus;
    MemoryRegion command_io, control_io;
} Channel;

typedef struct Piix3Ide {
    PciDevice parent_obj;
    Channel channels[CHANNELS];
    MemoryRegion bm;
    bool firmware_preset;
} Piix3Ide;
#define PIIX3_IDE(obj) OBJECT_CHECK(Piix3Ide, obj, TYPE_PIIX3_IDE)

/* ---- for the drives ---- */

static void channel_set_irq(void *opaque, unsigned n, bool level)
{
    Piix3Ide *s = opaque;
    const DeviceEnv *env = DEVICE(s)->env;

    if (level) {
        s->channels[n].bm_status |= STATUS_IRQ;
    }
    if (env && env->isa_irqs) {
        irq_set(env->isa_irqs[channel_irqs[n]], level);
    }
}

static bool channel_dma_started(void *opaque, unsigned n)
{
    Piix3Ide *s = opaque;

    return s->channels[n].bm_command & COMMAND_START;
}

/* The next descriptor: address, byte count (0: 64 KiB), end mark in bit 31. */
static bool next_descriptor(Piix3Ide *s, Channel *c)
{
    uint8_t prd[PRD_SIZE];

    if (c->prd_last ||
        address_space_read(s->parent_obj.dma_as, c->prd_next, MEMTXATTRS_DMA, prd, sizeof(prd)) != MEMTX_OK) {
        return false;
    }
    c->prd_next += PRD_SIZE;
    c->prd_at = pci_get_long(prd) & ~1u;
    c->prd_left = pci_get_word(prd + 4) & 0xfffe;
    c->prd_left = c->prd_left ? c->prd_left : 0x10000;
    c->prd_last = prd[7] & PRD_LAST;
    return true;
}

static int64_t channel_dma_move(void *opaque, unsigned n, uint8_t *buffer, uint32_t size, bool to_memory)
{
    Piix3Ide *s = opaque;
    Channel *c = &s->channels[n];
    AddressSpace *as = s->parent_obj.dma_as;
    uint32_t done = 0;

    if (!as || !(c->bm_command & COMMAND_START) || to_memory != !!(c->bm_command & COMMAND_TO_MEMORY)) {
        return -EIO;
    }
    while (done < size) {
        if (!c->prd_left && !next_descriptor(s, c)) {
            break;
        }
        uint32_t part = MIN(c->prd_left, size - done);
        MemTxResult result = to_memory
                                 ? address_space_write(as, c->prd_at, MEMTXATTRS_DMA, buffer + done, part)
                                 : address_space_read(as, c->prd_at, MEMTXATTRS_DMA, buffer + done, part);
        if (result != MEMTX_OK) {
            return -EIO;
        }
        done += part;
        c->prd_at += part;
        c->prd_left -= part;
    }
    return done;
}

static void channel_dma_end(void *opaque, unsigned n, bool ok)
{
    Piix3Ide *s = opaque;
    Channel *c = &s->channels[n];

    /* A list that is longer than the transfer leaves the engine active (1.2 of the programming interface). */
    if (!ok) {
        c->bm_status |= STATUS_ERROR;
    }
    if (!ok || (c->prd_last && !c->prd_left)) {
        c->bm_status &= (uint8_t)~STATUS_ACTIVE;
    }
}

static const IdeBusOps channel_ops = {
    .set_irq = channel_set_irq,
    .dma_started = channel_dma_started,
    .dma_move = channel_dma_move,
    .dma_end = channel_dma_end,
};

/* ---- ports ---- */

static uint64_t command_read(void *opaque, hwaddr offset, unsigned size)
{
    Channel *c = opaque;

    if (offset == 0) {
        return ide_bus_read(c->bus, 0, size);
    }
    uint64_t value = 0;
    for (unsigned i = 0; i < size && offset + i < 8; i++) {
        value |= (uint64_t)(ide_bus_read(c->bus, (unsigned)offset + i, 1) & 0xff) << (8 * i);
    }
    return value;
}

static void command_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    Channel *c = opaque;

    if (offset == 0) {
        ide_bus_write(c->bus, 0, value, size);
        return;
    }
    for (unsigned i = 0; i < size && offset + i < 8; i++) {
        ide_bus_write(c->bus, (unsigned)offset + i, (value >> (8 * i)) & 0xff, 1);
    }
}

static const MemoryRegionOps command_ops = {
    .read = command_read,
    .write = command_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};

static uint64_t control_read(void *opaque, hwaddr offset, unsigned size)
{
    return ide_bus_alternate_status(((Channel *)opaque)->bus);
}

static void control_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    ide_bus_control_write(((Channel *)opaque)->bus, value);
}

static const MemoryRegionOps control_ops = {
    .read = control_read,
    .write = control_write,
    .valid = { .min = 1, .max = 1 },
    .impl = { .min = 1, .max = 1 },
};

static uint64_t bm_read(void *opaque, hwaddr offset, unsigned size)
{
    Piix3Ide *s = opaque;
    const Channel *c = &s->channels[(offset / BM_CHANNEL_SIZE) % CHANNELS];
    unsigned reg = offset % BM_CHANNEL_SIZE;

    if (reg == BM_COMMAND) {
        return c->bm_command;
    }
    if (reg == BM_STATUS) {
        return c->bm_status;
    }
    return reg >= BM_TABLE ? (c->bm_table >> (8 * (reg - BM_TABLE))) & 0xff : 0;
}

static void bm_command_write(Channel *c, uint8_t value)
{
    bool was = c->bm_command & COMMAND_START, now = value & COMMAND_START;

    c->bm_command = value & COMMAND_MASK;
    if (now && !was) {
        c->bm_status |= STATUS_ACTIVE;
        c->prd_next = c->bm_table;
        c->prd_left = 0;
        c->prd_last = false;
        ide_bus_dma_changed(c->bus, true);
    } else if (was && !now) {
        c->bm_status &= (uint8_t)~STATUS_ACTIVE;
        ide_bus_dma_changed(c->bus, false);
    }
}

static void bm_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    Piix3Ide *s = opaque;
    unsigned n = (offset / BM_CHANNEL_SIZE) % CHANNELS, reg = offset % BM_CHANNEL_SIZE;
    Channel *c = &s->channels[n];

    TRACE(piix3_ide_bus_master, n, reg, (unsigned)value);
    if (reg == BM_COMMAND) {
        bm_command_write(c, value);
    } else if (reg == BM_STATUS) {
        c->bm_status = (uint8_t)((value & STATUS_CAPABLE) | (c->bm_status & STATUS_ACTIVE) |
                                 (c->bm_status & ~value & (STATUS_ERROR | STATUS_IRQ)));
    } else if (reg >= BM_TABLE) {
        unsigned shift = 8 * (reg - BM_TABLE);
        c->bm_table = ((c->bm_table & ~(0xffu << shift)) | (uint32_t)(value & 0xff) << shift) & ~3u;
    }
}

static const MemoryRegionOps bm_ops = {
    .read = bm_read,
    .write = bm_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 1 },
};

/* ---- configuration ---- */

static void update_decoding(Piix3Ide *s)
{
    bool io = pci_get_word(s->parent_obj.config + PCI_COMMAND) & PCI_COMMAND_IO;

    memory_transaction_begin();
    for (unsigned n = 0; n < CHANNELS; n++) {
        /* Whatever IDETIM says: OVMF does not set it, and waits long for channels that are not decoded. */
        memory_region_set_enabled(&s->channels[n].command_io, io);
        memory_region_set_enabled(&s->channels[n].control_io, io);
    }
    memory_transaction_commit();
}

static void piix3_ide_config_write(PciDevice *dev, uint32_t address, uint32_t value, unsigned size)
{
    pci_default_config_write(dev, address, value, size);
    if (address < PCI_COMMAND + 2) {
        update_decoding(PIIX3_IDE(dev));
    }
}

/* ---- life ---- */

static void piix3_ide_reset(Device *device)
{
    Piix3Ide *s = PIIX3_IDE(device);
    uint8_t *config = s->parent_obj.config;

    pci_device_reset(device);
    memset(config + PCI_CONFIG_HEADER_SIZE, 0, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER_SIZE);
    if (s->firmware_preset) {
        pci_set_word(config + IDETIM, IDETIM_DECODE);
        pci_set_word(config + IDETIM + 2, IDETIM_DECODE);
        pci_set_word(config + PCI_COMMAND, PCI_COMMAND_IO);
    }
    for (unsigned n = 0; n < CHANNELS; n++) {
        Channel *c = &s->channels[n];
        c->bm_command = c->bm_status = 0;
        c->bm_table = c->prd_next = c->prd_at = c->prd_left = 0;
        c->prd_last = false;
        ide_bus_power_reset(c->bus);
    }
    update_decoding(s);
}

static bool piix3_ide_realize(PciDevice *dev, GError **error)
{
    Piix3Ide *s = PIIX3_IDE(dev);
    Device *device = DEVICE(dev);
    const DeviceEnv *env = device->env;

    if (!env || !env->system_io || !dev->dma_as) {
        return error_set(error, "%s needs memory and I/O ports", TYPE_PIIX3_IDE);
    }
    dev->config[PCI_CLASS_PROG] = 0x80; /* bus master, both channels at their old ports */
    pci_set_word(dev->config + PCI_STATUS, PCI_STATUS_FAST_BACK | PCI_STATUS_DEVSEL_MEDIUM);
    memset(dev->wmask + PCI_CONFIG_HEADER_SIZE, 0xff, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER_SIZE);
    memory_transaction_begin();
    for (unsigned n = 0; n < CHANNELS; n++) {
        Channel *c = &s->channels[n];
        g_autofree char *name = g_strdup_printf("ide.%u", n);
        c->owner = s;
        c->bus = ide_bus_new(device, name, n, env, &channel_ops, s, &device->lock);
        memory_region_init_io(&c->command_io, s, &command_ops, c, "ide-command", 8, &device->lock);
        memory_region_init_io(&c->control_io, s, &control_ops, c, "ide-control", 1, &device->lock);
        memory_region_set_enabled(&c->command_io, false);
        memory_region_set_enabled(&c->control_io, false);
        memory_region_add(env->system_io, command_ports[n], &c->command_io);
        memory_region_add(env->system_io, control_ports[n], &c->control_io);
    }
    memory_transaction_commit();
    memory_region_init_io(&s->bm, s, &bm_ops, s, "piix-bmdma", 16, &device->lock);
    pci_register_bar(dev, BM_BAR, PCI_BAR_IO, &s->bm);
    return true;
}

static void piix3_ide_unrealize(PciDevice *dev)
{
    Piix3Ide *s = PIIX3_IDE(dev);
    MemoryRegion *io = DEVICE(dev)->env->system_io;

    for (unsigned n = 0; n < CHANNELS; n++) {
        Channel *c = &s->channels[n];
        memory_region_del(io, &c->command_io);
        memory_region_del(io, &c->control_io);
        memory_region_destroy(&c->command_io);
        memory_region_destroy(&c->control_io);
        c->bus = NULL;
    }
    memory_region_destroy(&s->bm);
}

static const Property piix3_ide_properties[] = {
    PROP_BOOL("firmware-preset", Piix3Ide, firmware_preset, false, "reset to what PC firmware leaves"),
    PROP_END,
};

static bool piix3_ide_pre_save(void *opaque, GError **error)
{
    Piix3Ide *s = opaque;

    for (unsigned n = 0; n < CHANNELS; n++) {
        Channel *c = &s->channels[n];
        c->select = c->bus->select;
        c->control = c->bus->control;
        c->irq = c->bus->irq;
    }
    return true;
}

static bool piix3_ide_post_load(void *opaque, int version, GError **error)
{
    Piix3Ide *s = opaque;

    for (unsigned n = 0; n < CHANNELS; n++) {
        Channel *c = &s->channels[n];
        uint8_t status = c->bm_status;
        if (c->prd_left > 0x10000) {
            c->prd_left = 0;
            return error_set(error, "%s: impossible state of bus mastering", TYPE_PIIX3_IDE);
        }
        c->bm_command &= COMMAND_MASK;
        c->bm_table &= ~3u;
        c->bus->select = c->select;
        c->bus->control = c->control;
        c->bus->irq = c->irq;
        ide_bus_update_irq(c->bus);
        c->bm_status = status & (STATUS_ACTIVE | STATUS_ERROR | STATUS_IRQ | STATUS_CAPABLE);
    }
    update_decoding(s);
    return true;
}

static const VmStateField channel_fields[] = {
    VMS_UINT8(select, Channel),
    VMS_UINT8(control, Channel),
    VMS_BOOL(irq, Channel),
    VMS_UINT8(bm_command, Channel),
    VMS_UINT8(bm_status, Channel),
    VMS_UINT32(bm_table, Channel),
    VMS_UINT32(prd_next, Channel),
    VMS_UINT32(prd_at, Channel),
    VMS_UINT32(prd_left, Channel),
    VMS_BOOL(prd_last, Channel),
    VMS_END,
};
static const VmState channel_vmstate = { .name = "ide-channel", .version = 1, .fields = channel_fields };

static const VmStateField piix3_ide_fields[] = {
    VMS_STRUCT(parent_obj, Piix3Ide, pci_device_vmstate),
    VMS_STRUCT_ARRAY(channels, Piix3Ide, CHANNELS, channel_vmstate),
    VMS_END,
};

static const VmState piix3_ide_vmstate = {
    .name = TYPE_PIIX3_IDE,
    .version = 1,
    .minimum_version = 1,
    .fields = piix3_ide_fields,
    .pre_save = piix3_ide_pre_save,
    .post_load = piix3_ide_post_load,
};

static void piix3_ide_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x8086;
    pc->device_id = 0x7010;
    pc->class_id = PCI_CLASS_STORAGE_IDE;
    pc->realize = piix3_ide_realize;
    pc->unrealize = piix3_ide_unrealize;
    pc->config_write = piix3_ide_config_write;
    dc->reset = piix3_ide_reset;
    dc->vmstate = &piix3_ide_vmstate;
    dc->category = "Storage";
    dc->user_creatable = false;
    dc->hotpluggable = false;
    object_class_add_properties(klass, piix3_ide_properties);
}

static const TypeInfo piix3_ide_info = {
    .name = TYPE_PIIX3_IDE,
    .parent = TYPE_PCI_DEVICE,
    .description = "PIIX3 IDE controller",
    .instance_size = sizeof(Piix3Ide),
    .class_init = piix3_ide_class_init,
};
TYPE_REGISTER(piix3_ide_info);
