/*
 * The DMA controllers of a PC: two 8237A, the first with 8-bit channels 0 to 3, the second with 16-bit
 * channels 5 to 7 (4 cascades the first), and the page registers. Sources: Intel 8237A data sheet; 82371SB
 * (PIIX3) data sheet 290550, chapter 2.5.1.
 *
 * Left out on purpose: memory-to-memory transfers, demand timing (a device moves what it has at once),
 * extended pages.
 *
 * Threads: ports in vCPUs' threads; transfers from the device's; all under the HomeLock, which comes after a
 * device's own. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/isa/i8257.h"

#include "base/error.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(i8257_write, "controller %u register %u value 0x%02x");
TRACE_EVENT(i8257_transfer, "channel %u address 0x%06x size %u");

enum { CONTROLLERS = 2, CHANNELS = 4, PAGES = 16, CASCADE = 4 };
enum {
    REG_STATUS = 8, /* read; the command register when written */
    REG_REQUEST = 9,
    REG_MASK_ONE = 10,
    REG_MODE = 11,
    REG_CLEAR_FLIP_FLOP = 12,
    REG_MASTER_CLEAR = 13,
    REG_CLEAR_MASK = 14,
    REG_MASK_ALL = 15,
};
enum { COMMAND_DISABLE = 0x04, MODE_TRANSFER = 0x0c, MODE_WRITE = 0x04, MODE_READ = 0x08 };
enum { MODE_AUTO = 0x10, MODE_DOWN = 0x20 };

typedef struct DmaController {
    uint16_t base_address[CHANNELS], base_count[CHANNELS], address[CHANNELS], count[CHANNELS];
    uint8_t mode[CHANNELS];
    uint8_t command, status, mask;
    bool high; /* the next byte of an address or count is its high one */
} DmaController;

typedef struct I8257State {
    Device parent_obj;
    /* saved */
    DmaController controllers[CONTROLLERS];
    uint8_t pages[PAGES];
    /* derived */
    MemoryRegion first, second, page_io;
} I8257State;
#define I8257(obj) OBJECT_CHECK(I8257State, obj, TYPE_I8257)

/* Which page register extends a channel's address. */
static const uint8_t page_of[CONTROLLERS * CHANNELS] = { 7, 3, 1, 2, 15, 11, 9, 10 };

/* ---- registers ---- */

static void controller_clear(DmaController *c)
{
    c->command = c->status = 0;
    c->mask = 15;
    c->high = false;
}

static uint8_t controller_read(DmaController *c, unsigned reg)
{
    if (reg < REG_STATUS) {
        uint16_t value = reg & 1 ? c->count[reg / 2] : c->address[reg / 2];
        uint8_t byte = (uint8_t)(c->high ? value >> 8 : value);
        c->high = !c->high;
        return byte;
    }
    if (reg == REG_STATUS) {
        uint8_t status = c->status;
        c->status &= 0xf0; /* terminal counts are cleared by reading */
        return status;
    }
    return reg == REG_MASK_ALL ? (uint8_t)(c->mask | 0xf0) : 0;
}

static void set_byte(uint16_t *value, bool high, uint8_t byte)
{
    *value = (uint16_t)(high ? (*value & 0x00ff) | byte << 8 : (*value & 0xff00) | byte);
}

static void controller_write(DmaController *c, unsigned reg, uint8_t value)
{
    unsigned channel = value & 3;
    uint8_t bit = (uint8_t)(1u << channel);

    switch (reg) {
    case REG_STATUS:
        c->command = value;
        break;
    case REG_REQUEST:
        c->status = (uint8_t)(value & 4 ? c->status | bit << 4 : c->status & ~(bit << 4));
        break;
    case REG_MASK_ONE:
        c->mask = (uint8_t)(value & 4 ? c->mask | bit : c->mask & ~bit);
        break;
    case REG_MODE:
        c->mode[channel] = value & 0xfc;
        break;
    case REG_CLEAR_FLIP_FLOP:
        c->high = false;
        break;
    case REG_MASTER_CLEAR:
        controller_clear(c);
        break;
    case REG_CLEAR_MASK:
        c->mask = 0;
        break;
    case REG_MASK_ALL:
        c->mask = value & 15;
        break;
    default:
        channel = reg / 2;
        set_byte(reg & 1 ? &c->base_count[channel] : &c->base_address[channel], c->high, value);
        c->count[channel] = c->base_count[channel];
        c->address[channel] = c->base_address[channel];
        c->high = !c->high;
    }
}

static uint64_t first_read(void *opaque, hwaddr offset, unsigned size)
{
    return controller_read(&((I8257State *)opaque)->controllers[0], (unsigned)offset);
}

static void first_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    TRACE(i8257_write, 0u, (unsigned)offset, (unsigned)value);
    controller_write(&((I8257State *)opaque)->controllers[0], (unsigned)offset, (uint8_t)value);
}

/* The second's registers are at even ports. */
static uint64_t second_read(void *opaque, hwaddr offset, unsigned size)
{
    return offset & 1 ? 0xff : controller_read(&((I8257State *)opaque)->controllers[1], (unsigned)offset / 2);
}

static void second_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    if (!(offset & 1)) {
        TRACE(i8257_write, 1u, (unsigned)offset / 2, (unsigned)value);
        controller_write(&((I8257State *)opaque)->controllers[1], (unsigned)offset / 2, (uint8_t)value);
    }
}

static uint64_t page_read(void *opaque, hwaddr offset, unsigned size)
{
    return ((I8257State *)opaque)->pages[offset];
}

static void page_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    ((I8257State *)opaque)->pages[offset] = (uint8_t)value;
}

#define BYTE_OPS(name)                          \
    static const MemoryRegionOps name##_ops = { \
        .read = name##_read,                    \
        .write = name##_write,                  \
        .valid = { .min = 1, .max = 4 },        \
        .impl = { .min = 1, .max = 1 },         \
    }
BYTE_OPS(first);
BYTE_OPS(second);
BYTE_OPS(page);

/* ---- transfers ---- */

/* One unit (a byte or a word) at the channel's address; counts on. true: that was the last. */
static bool step(DmaController *c, unsigned n)
{
    bool down = c->mode[n] & MODE_DOWN;

    c->address[n] = (uint16_t)(c->address[n] + (down ? -1 : 1));
    if (c->count[n]-- != 0) {
        return false;
    }
    c->status |= (uint8_t)(1u << n);
    if (c->mode[n] & MODE_AUTO) {
        c->address[n] = c->base_address[n];
        c->count[n] = c->base_count[n];
    } else {
        c->mask |= (uint8_t)(1u << n);
    }
    return true;
}

uint32_t i8257_transfer(Device *dev, unsigned channel, uint8_t *buffer, uint32_t size, bool *done)
{
    I8257State *s = I8257(dev);
    uint32_t moved = 0;

    *done = false;
    g_assert(channel < CONTROLLERS * CHANNELS && channel != CASCADE);
    home_lock(&dev->lock);
    DmaController *c = &s->controllers[channel / CHANNELS];
    unsigned n = channel % CHANNELS, wide = channel > CASCADE;
    uint8_t kind = c->mode[n] & MODE_TRANSFER;
    uint32_t unit = wide ? 2 : 1;
    TRACE(i8257_transfer, channel, (unsigned)s->pages[page_of[channel]] << 16 | c->address[n], size);
    while (moved + unit <= size && !*done && !(c->command & COMMAND_DISABLE) && !(c->mask >> n & 1)) {
        /* A word channel's address counts words, and bit 0 of its page is not used. */
        uint8_t page = s->pages[page_of[channel]];
        uint32_t gpa = wide ? (uint32_t)(page & 0xfe) << 16 | (uint32_t)c->address[n] << 1
                            : (uint32_t)page << 16 | c->address[n];
        if (kind == MODE_WRITE) {
            address_space_write(dev->env->memory, gpa, MEMTXATTRS_DMA, buffer + moved, unit);
        } else if (kind == MODE_READ) {
            address_space_read(dev->env->memory, gpa, MEMTXATTRS_DMA, buffer + moved, unit);
        } /* else "verify": counts only */
        moved += unit;
        *done = step(c, n);
    }
    home_unlock(&dev->lock);
    return moved;
}

Device *i8257_find(Bus *isa)
{
    for (guint i = 0; i < isa->children->len; i++) {
        if (object_dynamic_cast(OBJECT(isa->children->pdata[i]), TYPE_I8257)) {
            return isa->children->pdata[i];
        }
    }
    return NULL;
}

/* ---- life ---- */

static void i8257_reset(Device *dev)
{
    I8257State *s = I8257(dev);

    memset(s->controllers, 0, sizeof(s->controllers));
    memset(s->pages, 0, sizeof(s->pages));
    for (unsigned i = 0; i < CONTROLLERS; i++) {
        controller_clear(&s->controllers[i]);
    }
}

static bool i8257_realize(Device *dev, GError **error)
{
    I8257State *s = I8257(dev);
    const DeviceEnv *env = dev->env;

    if (!env || !env->memory || !env->system_io) {
        return error_set(error, "%s needs memory and I/O ports", TYPE_I8257);
    }
    memory_region_init_io(&s->first, s, &first_ops, s, "dma-chan", 16, &dev->lock);
    memory_region_init_io(&s->second, s, &second_ops, s, "dma-chan-16", 32, &dev->lock);
    memory_region_init_io(&s->page_io, s, &page_ops, s, "dma-page", PAGES, &dev->lock);
    memory_region_add(env->system_io, 0x00, &s->first);
    memory_region_add(env->system_io, 0xc0, &s->second);
    memory_region_add(env->system_io, 0x80, &s->page_io);
    return true;
}

static void i8257_unrealize(Device *dev)
{
    I8257State *s = I8257(dev);
    MemoryRegion *all[] = { &s->first, &s->second, &s->page_io };

    for (size_t i = 0; i < G_N_ELEMENTS(all); i++) {
        memory_region_del(dev->env->system_io, all[i]);
        memory_region_destroy(all[i]);
    }
}

static const VmStateField controller_fields[] = {
    VMS_UINT16(base_address, DmaController), VMS_UINT16(base_count, DmaController),
    VMS_UINT16(address, DmaController),      VMS_UINT16(count, DmaController),
    VMS_UINT8(mode, DmaController),          VMS_UINT8(command, DmaController),
    VMS_UINT8(status, DmaController),        VMS_UINT8(mask, DmaController),
    VMS_BOOL(high, DmaController),           VMS_END,
};
static const VmState controller_vmstate = { .name = "8237", .version = 1, .fields = controller_fields };

static const VmStateField i8257_fields[] = {
    VMS_STRUCT_ARRAY(controllers, I8257State, CONTROLLERS, controller_vmstate),
    VMS_UINT8(pages, I8257State),
    VMS_END,
};
static const VmState i8257_vmstate = {
    .name = TYPE_I8257,
    .version = 1,
    .minimum_version = 1,
    .fields = i8257_fields,
};

static void i8257_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = i8257_realize;
    dc->unrealize = i8257_unrealize;
    dc->reset = i8257_reset;
    dc->vmstate = &i8257_vmstate;
    dc->user_creatable = false;
}

static const TypeInfo i8257_info = {
    .name = TYPE_I8257,
    .parent = TYPE_ISA_DEVICE,
    .description = "DMA controllers",
    .instance_size = sizeof(I8257State),
    .class_init = i8257_class_init,
};
TYPE_REGISTER(i8257_info);
