/*
 * "VGA": the standard PC video card: a VGA with the Bochs display interface for linear modes. Sources: IBM
 * VGA Technical Reference; QEMU's documentation "Standard VGA" (docs/specs/standard-vga) for the PCI
 * function and the interface's registers.
 *
 * BAR 0 is the memory; BAR 2 has the ports from 0x3c0 at 0x400, the interface's registers at 0x500. The old
 * memory window 0xa0000 to 0xbffff and the old ports are there whatever the command register says.
 * Left out on purpose: retrace interrupts, EDID, big-endian frame buffers, panning by single dots.
 *
 * Threads: ports and the window in vCPUs' threads under the HomeLock, rendering under it in the main loop's;
 * BAR 0 is plain memory. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/display/vga.h"

#include "base/error.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(vga_port_write, "port 0x%03x value 0x%02x");
TRACE_EVENT(vga_dispi_write, "register %u value 0x%04x");

#define NS_PER_SECOND  1000000000ll
#define FRAME_NS       (NS_PER_SECOND / 60)
#define LINE_NS        (FRAME_NS / 525)
#define BLINK_NS       266666666ll
#define WINDOW_START   0xa0000u
#define WINDOW_SIZE    0x20000u
#define PORTS_START    0x3b0u
#define PORTS_COUNT    0x30u
#define DISPI_PORT     0x1ceu
#define MMIO_SIZE      0x1000u
#define MMIO_PORTS     0x400u
#define MMIO_DISPI     0x500u
#define DISPI_VERSION  0xb0c5u
#define DISPI_VERSIONS 0xb0c0u
#define MIN_MEMORY_MB  1u
#define MAX_MEMORY_MB  256u

enum {
    PORT_CRTC_INDEX_MONO = 0x3b4,
    PORT_STATUS_MONO = 0x3ba,
    PORT_ATTRIBUTE = 0x3c0,
    PORT_ATTRIBUTE_READ = 0x3c1,
    PORT_MISC_WRITE = 0x3c2,
    PORT_SEQUENCER_INDEX = 0x3c4,
    PORT_DAC_MASK = 0x3c6,
    PORT_DAC_READ_INDEX = 0x3c7,
    PORT_DAC_WRITE_INDEX = 0x3c8,
    PORT_DAC_DATA = 0x3c9,
    PORT_MISC_READ = 0x3cc,
    PORT_GRAPHICS_INDEX = 0x3ce,
    PORT_CRTC_INDEX = 0x3d4,
    PORT_STATUS = 0x3da,
};
enum { MISC_COLOUR = 0x01 };
enum { SR_MAP_MASK = 2, SR_MEMORY = 4, MEMORY_NO_ODD_EVEN = 0x04, MEMORY_CHAIN4 = 0x08 };
enum {
    GR_SET_RESET = 0,
    GR_ENABLE_SET_RESET = 1,
    GR_COLOUR_COMPARE = 2,
    GR_ROTATE = 3,
    GR_READ_MAP = 4,
    GR_MODE = 5,
    GR_MISC = 6,
    GR_COLOUR_CARE = 7,
    GR_BIT_MASK = 8,
    MODE_READ_COMPARE = 0x08,
    MODE_ODD_EVEN = 0x10,
};
enum { ATTRIBUTE_PALETTE_ON = 0x20, CRTC_PROTECT = 0x80 };

typedef struct VgaState {
    PciDevice parent_obj;
    VgaCore core;
    MemoryRegion mmio;
    DisplayConsole *console;
} VgaState;
#define VGA(obj) OBJECT_CHECK(VgaState, obj, TYPE_VGA)

/* ---- ports ---- */

static int64_t now_ns(const VgaCore *s)
{
    return clock_now_ns(s->dev->env->clocks, CLOCK_TYPE_VIRTUAL);
}

/* Input status 1: vertical retrace in the last 8 % of a frame, "no display" then and at each line's end. */
static uint8_t input_status(VgaCore *s)
{
    int64_t in_frame = now_ns(s) % FRAME_NS;
    bool vertical = in_frame >= FRAME_NS - FRAME_NS / 12, horizontal = in_frame % LINE_NS >= LINE_NS * 4 / 5;

    s->attribute_data = false;
    return (uint8_t)((vertical ? 8 : 0) | (vertical || horizontal ? 1 : 0));
}

static bool colour_ports(const VgaCore *s)
{
    return s->regs.misc & MISC_COLOUR;
}

/* The CRT controller is at 0x3b4 or 0x3d4, as the miscellaneous register says. */
static bool absent(const VgaCore *s, unsigned port)
{
    return colour_ports(s) ? port < 0x3c0 : port >= 0x3d0;
}

static uint8_t dac_read(VgaCore *s)
{
    uint8_t value = s->regs.palette[3 * s->dac_read + s->dac_component];

    if (++s->dac_component == 3) {
        s->dac_component = 0;
        s->dac_read++;
    }
    return value;
}

static void dac_write(VgaCore *s, uint8_t value)
{
    s->regs.palette[3 * s->dac_write + s->dac_component] = value;
    if (++s->dac_component == 3) {
        s->dac_component = 0;
        s->dac_write++;
    }
}

static uint8_t port_read(VgaCore *s, unsigned port)
{
    if (absent(s, port)) {
        return 0xff;
    }
    switch (port) {
    case PORT_ATTRIBUTE:
        return s->attribute_data ? 0 : s->attribute_index;
    case PORT_ATTRIBUTE_READ: {
        unsigned index = s->attribute_index & 31;
        return index < VGA_ATTRIBUTE_COUNT ? s->regs.attribute[index] : 0;
    }
    case PORT_MISC_WRITE: /* input status 0 */
        return 0;
    case PORT_SEQUENCER_INDEX:
        return s->sequencer_index;
    case PORT_SEQUENCER_INDEX + 1:
        return s->sequencer_index < VGA_SEQUENCER_COUNT ? s->regs.sequencer[s->sequencer_index] : 0;
    case PORT_DAC_MASK:
        return s->dac_mask;
    case PORT_DAC_READ_INDEX:
        return s->dac_state;
    case PORT_DAC_WRITE_INDEX:
        return s->dac_write;
    case PORT_DAC_DATA:
        return dac_read(s);
    case PORT_MISC_READ:
        return s->regs.misc;
    case PORT_GRAPHICS_INDEX:
        return s->graphics_index;
    case PORT_GRAPHICS_INDEX + 1:
        return s->graphics_index < VGA_GRAPHICS_COUNT ? s->regs.graphics[s->graphics_index] : 0;
    case PORT_CRTC_INDEX_MONO:
    case PORT_CRTC_INDEX:
        return s->crtc_index;
    case PORT_CRTC_INDEX_MONO + 1:
    case PORT_CRTC_INDEX + 1:
        return s->crtc_index < VGA_CRTC_COUNT ? s->regs.crtc[s->crtc_index] : 0;
    case PORT_STATUS_MONO:
    case PORT_STATUS:
        return input_status(s);
    default:
        return 0;
    }
}

static void attribute_write(VgaCore *s, uint8_t value)
{
    static const uint8_t masks[VGA_ATTRIBUTE_COUNT - 16] = { 0xef, 0xff, 0x3f, 0x0f, 0x0f };
    unsigned index = s->attribute_index & 31;

    if (!s->attribute_data) {
        s->attribute_index = value & 63;
        s->regs.attribute_on = value & ATTRIBUTE_PALETTE_ON;
    } else if (index < 16) {
        s->regs.attribute[index] = value & 63;
    } else if (index < VGA_ATTRIBUTE_COUNT) {
        s->regs.attribute[index] = value & masks[index - 16];
    }
    s->attribute_data = !s->attribute_data;
}

static void crtc_write(VgaCore *s, uint8_t value)
{
    unsigned index = s->crtc_index;

    if (index >= VGA_CRTC_COUNT) {
        return;
    }
    if (index <= 7 && (s->regs.crtc[0x11] & CRTC_PROTECT)) {
        if (index == 7) { /* of the locked ones, line compare's bit 8 can be written */
            s->regs.crtc[7] = (uint8_t)((s->regs.crtc[7] & ~0x10) | (value & 0x10));
        }
        return;
    }
    s->regs.crtc[index] = value;
}

static void port_write(VgaCore *s, unsigned port, uint8_t value)
{
    static const uint8_t sequencer_masks[VGA_SEQUENCER_COUNT] = { 0x03, 0x3d, 0x0f, 0x3f, 0x0e };
    static const uint8_t graphics_masks[VGA_GRAPHICS_COUNT] = { 0x0f, 0x0f, 0x0f, 0x1f, 0x03,
                                                                0x7b, 0x0f, 0x0f, 0xff };

    TRACE(vga_port_write, port, value);
    if (absent(s, port)) {
        return;
    }
    switch (port) {
    case PORT_ATTRIBUTE:
        attribute_write(s, value);
        break;
    case PORT_MISC_WRITE:
        s->regs.misc = value & 0xef;
        break;
    case PORT_SEQUENCER_INDEX:
        s->sequencer_index = value & 7;
        break;
    case PORT_SEQUENCER_INDEX + 1:
        if (s->sequencer_index < VGA_SEQUENCER_COUNT) {
            s->regs.sequencer[s->sequencer_index] = value & sequencer_masks[s->sequencer_index];
        }
        break;
    case PORT_DAC_MASK:
        s->dac_mask = value;
        break;
    case PORT_DAC_READ_INDEX:
        s->dac_read = value;
        s->dac_component = 0;
        s->dac_state = 3;
        break;
    case PORT_DAC_WRITE_INDEX:
        s->dac_write = value;
        s->dac_component = 0;
        s->dac_state = 0;
        break;
    case PORT_DAC_DATA:
        dac_write(s, value);
        break;
    case PORT_GRAPHICS_INDEX:
        s->graphics_index = value & 15;
        break;
    case PORT_GRAPHICS_INDEX + 1:
        if (s->graphics_index < VGA_GRAPHICS_COUNT) {
            s->regs.graphics[s->graphics_index] = value & graphics_masks[s->graphics_index];
        }
        break;
    case PORT_CRTC_INDEX_MONO:
    case PORT_CRTC_INDEX:
        s->crtc_index = value & 31;
        break;
    case PORT_CRTC_INDEX_MONO + 1:
    case PORT_CRTC_INDEX + 1:
        crtc_write(s, value);
        break;
    default:
        break;
    }
}

static uint64_t ports_read(void *opaque, hwaddr offset, unsigned size)
{
    return port_read(opaque, PORTS_START + (unsigned)offset);
}

static void ports_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    port_write(opaque, PORTS_START + (unsigned)offset, (uint8_t)value);
}

static const MemoryRegionOps ports_ops = {
    .read = ports_read,
    .write = ports_write,
    .valid = { .min = 1, .max = 4, .unaligned = true },
    .impl = { .min = 1, .max = 1 },
};

static uint64_t mmio_ports_read(void *opaque, hwaddr offset, unsigned size)
{
    return port_read(opaque, PORT_ATTRIBUTE + (unsigned)offset);
}

static void mmio_ports_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    port_write(opaque, PORT_ATTRIBUTE + (unsigned)offset, (uint8_t)value);
}

static const MemoryRegionOps mmio_ports_ops = {
    .read = mmio_ports_read,
    .write = mmio_ports_write,
    .valid = { .min = 1, .max = 4, .unaligned = true },
    .impl = { .min = 1, .max = 1 },
};

/* ---- the display interface ---- */

static uint16_t dispi_get(const VgaCore *s, unsigned index)
{
    if (s->regs.dispi[DISPI_ENABLE] & DISPI_GET_CAPS) {
        switch (index) {
        case DISPI_XRES:
            return 16000;
        case DISPI_YRES:
            return 12000;
        case DISPI_BPP:
            return 32;
        }
    }
    if (index == DISPI_MEMORY_64K) {
        return (uint16_t)MIN(s->memory_size >> 16, 0xffffu);
    }
    return index < DISPI_COUNT ? s->regs.dispi[index] : 0;
}

static bool valid_bpp(uint16_t bpp)
{
    return bpp == 4 || bpp == 8 || bpp == 15 || bpp == 16 || bpp == 24 || bpp == 32;
}

/* Bytes of a line of a mode. */
static uint32_t line_bytes(const VgaCore *s, uint32_t pixels)
{
    uint16_t bpp = s->regs.dispi[DISPI_BPP];

    return bpp == 4 ? pixels / 2 : pixels * ((bpp + 7u) / 8);
}

/* Makes a mode's numbers fit each other and the memory. */
static void dispi_settle(VgaCore *s)
{
    uint16_t *d = s->regs.dispi;

    d[DISPI_BPP] = valid_bpp(d[DISPI_BPP]) ? d[DISPI_BPP] : 8;
    d[DISPI_XRES] = (uint16_t)(CLAMP(d[DISPI_XRES], 8, 16000) & ~7);
    d[DISPI_VIRTUAL_WIDTH] = MAX(d[DISPI_VIRTUAL_WIDTH], d[DISPI_XRES]);
    if (line_bytes(s, d[DISPI_VIRTUAL_WIDTH]) > s->memory_size) {
        d[DISPI_VIRTUAL_WIDTH] = d[DISPI_XRES];
    }
    uint32_t lines = s->memory_size / MAX(line_bytes(s, d[DISPI_VIRTUAL_WIDTH]), 1u);
    d[DISPI_YRES] = (uint16_t)CLAMP(d[DISPI_YRES], 1, MIN(lines, 12000u));
    d[DISPI_VIRTUAL_HEIGHT] = (uint16_t)MIN(lines, 0xffffu);
    if (d[DISPI_X_OFFSET] > d[DISPI_VIRTUAL_WIDTH] - d[DISPI_XRES]) {
        d[DISPI_X_OFFSET] = (uint16_t)(d[DISPI_VIRTUAL_WIDTH] - d[DISPI_XRES]);
    }
}

static void dispi_enable(VgaCore *s, uint16_t value)
{
    uint16_t *d = s->regs.dispi;
    bool rose = (value & DISPI_ENABLED) && !(d[DISPI_ENABLE] & DISPI_ENABLED);

    d[DISPI_ENABLE] = value;
    if (!rose) {
        return;
    }
    d[DISPI_VIRTUAL_WIDTH] = d[DISPI_X_OFFSET] = d[DISPI_Y_OFFSET] = d[DISPI_BANK] = 0;
    dispi_settle(s);
    if (!(value & DISPI_NO_CLEAR)) {
        uint64_t bytes = (uint64_t)d[DISPI_YRES] * line_bytes(s, d[DISPI_XRES]);
        bytes = MIN(bytes, s->memory_size);
        memset(s->memory.ram->host, 0, bytes);
        ram_written(s->memory.ram, 0, bytes);
    }
}

static void dispi_set(VgaCore *s, unsigned index, uint16_t value)
{
    uint16_t *d = s->regs.dispi;
    bool enabled = d[DISPI_ENABLE] & DISPI_ENABLED;

    TRACE(vga_dispi_write, index, value);
    switch (index) {
    case DISPI_ID:
        if (value >= DISPI_VERSIONS && value <= DISPI_VERSION) {
            d[DISPI_ID] = value;
        }
        break;
    case DISPI_XRES:
    case DISPI_YRES:
    case DISPI_BPP:
        if (!enabled) {
            d[index] = value;
        }
        break;
    case DISPI_ENABLE:
        dispi_enable(s, value);
        break;
    case DISPI_BANK:
        d[DISPI_BANK] = (uint16_t)MIN(value, (s->memory_size >> 16) - 1);
        break;
    case DISPI_VIRTUAL_WIDTH:
    case DISPI_X_OFFSET:
    case DISPI_Y_OFFSET:
        d[index] = value;
        if (enabled) {
            dispi_settle(s);
        }
        break;
    default:
        break;
    }
}

static uint64_t dispi_io_read(void *opaque, hwaddr offset, unsigned size)
{
    VgaCore *s = opaque;

    return offset == 0 ? s->dispi_index : dispi_get(s, s->dispi_index);
}

static void dispi_io_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    VgaCore *s = opaque;

    if (offset == 0) {
        s->dispi_index = (uint16_t)value;
    } else {
        dispi_set(s, s->dispi_index, (uint16_t)value);
    }
}

/* Index at 0x1ce, data at 0x1cf: words at neighbouring ports, and also at 0x1d0. */
static const MemoryRegionOps dispi_io_ops = {
    .read = dispi_io_read,
    .write = dispi_io_write,
    .valid = { .min = 1, .max = 2, .unaligned = true },
    .impl = { .min = 1, .max = 2, .unaligned = true },
};

static uint64_t mmio_dispi_read(void *opaque, hwaddr offset, unsigned size)
{
    return dispi_get(opaque, (unsigned)offset / 2);
}

static void mmio_dispi_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    dispi_set(opaque, (unsigned)offset / 2, (uint16_t)value);
}

static const MemoryRegionOps mmio_dispi_ops = {
    .read = mmio_dispi_read,
    .write = mmio_dispi_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 2, .max = 2 },
};

static uint64_t mmio_read(void *opaque, hwaddr offset, unsigned size)
{
    return UINT64_MAX; /* no EDID, no registers beyond the two parts */
}

static void mmio_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
}

static const MemoryRegionOps mmio_ops = {
    .read = mmio_read,
    .write = mmio_write,
    .valid = { .min = 1, .max = 4 },
    .impl = { .min = 1, .max = 4 },
};

/* ---- the window ---- */

/* Where in the window's mapping an address is: bank and size by the graphics controller. */
static bool window_address(const VgaCore *s, hwaddr offset, uint32_t *address)
{
    uint32_t at = (uint32_t)offset;

    switch (s->regs.graphics[GR_MISC] >> 2 & 3) {
    case 0:
        break;
    case 1:
        if (at >= 0x10000) {
            return false;
        }
        at += (uint32_t)s->regs.dispi[DISPI_BANK] << 16;
        break;
    case 2:
        if (at < 0x10000 || at >= 0x18000) {
            return false;
        }
        at -= 0x10000;
        break;
    default:
        if (at < 0x18000) {
            return false;
        }
        at -= 0x18000;
    }
    *address = at;
    return true;
}

static void touch(VgaCore *s, uint32_t at, uint32_t length)
{
    ram_written(s->memory.ram, at, length);
}

static bool chain4(const VgaCore *s)
{
    return s->regs.sequencer[SR_MEMORY] & MEMORY_CHAIN4;
}

static uint64_t window_read(void *opaque, hwaddr offset, unsigned size)
{
    VgaCore *s = opaque;
    const uint8_t *memory = s->memory.ram->host;
    uint32_t mask = s->memory_size - 1, at;

    if (!window_address(s, offset, &at)) {
        return 0xff;
    }
    if (chain4(s)) {
        return memory[at & mask];
    }
    if (s->regs.graphics[GR_MODE] & MODE_ODD_EVEN) {
        unsigned plane = (s->regs.graphics[GR_READ_MAP] & 2) | (at & 1);
        return memory[((at & ~1u) << 1 | plane) & mask];
    }
    memcpy(&s->latch, memory + ((at * 4) & mask & ~3u), 4);
    if (!(s->regs.graphics[GR_MODE] & MODE_READ_COMPARE)) {
        return s->latch >> (8 * (s->regs.graphics[GR_READ_MAP] & 3)) & 0xff;
    }
    uint8_t differ = 0;
    for (unsigned plane = 0; plane < 4; plane++) {
        if (s->regs.graphics[GR_COLOUR_CARE] >> plane & 1) {
            uint8_t wanted = s->regs.graphics[GR_COLOUR_COMPARE] >> plane & 1 ? 0xff : 0;
            differ |= (uint8_t)(s->latch >> (8 * plane)) ^ wanted;
        }
    }
    return (uint8_t)~differ;
}

/* A bit for each plane as a byte for each. */
static uint32_t spread(unsigned bits)
{
    uint32_t bytes = 0;

    for (unsigned plane = 0; plane < 4; plane++) {
        bytes |= bits >> plane & 1 ? 0xffu << (8 * plane) : 0;
    }
    return bytes;
}

static uint32_t combine(const VgaCore *s, uint32_t value)
{
    switch (s->regs.graphics[GR_ROTATE] >> 3 & 3) {
    case 1:
        return value & s->latch;
    case 2:
        return value | s->latch;
    case 3:
        return value ^ s->latch;
    default:
        return value;
    }
}

/* The graphics controller's write modes 0 to 3. */
static uint32_t write_value(const VgaCore *s, uint8_t byte)
{
    const uint8_t *g = s->regs.graphics;
    unsigned rotate = g[GR_ROTATE] & 7;
    uint8_t rotated = (uint8_t)(byte >> rotate | byte << ((8 - rotate) & 7));
    uint32_t bit_mask = g[GR_BIT_MASK] * 0x01010101u, set = spread(g[GR_SET_RESET]), value;

    switch (g[GR_MODE] & 3) {
    case 1:
        return s->latch;
    case 2:
        value = combine(s, spread(byte & 15));
        break;
    case 3:
        bit_mask &= rotated * 0x01010101u;
        value = combine(s, set);
        break;
    default: {
        uint32_t enable = spread(g[GR_ENABLE_SET_RESET]);
        value = combine(s, (rotated * 0x01010101u & ~enable) | (set & enable));
    }
    }
    return (value & bit_mask) | (s->latch & ~bit_mask);
}

static void window_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    VgaCore *s = opaque;
    uint8_t *memory = s->memory.ram->host;
    uint32_t mask = s->memory_size - 1, at;
    unsigned map = s->regs.sequencer[SR_MAP_MASK];

    if (!window_address(s, offset, &at)) {
        return;
    }
    if (chain4(s)) {
        if (map >> (at & 3) & 1) {
            memory[at & mask] = (uint8_t)value;
            touch(s, at & mask, 1);
        }
        return;
    }
    if (s->regs.graphics[GR_MODE] & MODE_ODD_EVEN && !(s->regs.sequencer[SR_MEMORY] & MEMORY_NO_ODD_EVEN)) {
        unsigned plane = at & 1;
        for (unsigned p = plane; p < 4; p += 2) { /* planes 0 and 2, or 1 and 3 */
            if (map >> p & 1) {
                uint32_t to = ((at & ~1u) << 1 | p) & mask;
                memory[to] = (uint8_t)value;
                touch(s, to, 1);
            }
        }
        return;
    }
    uint32_t to = (at * 4) & mask & ~3u, planes = spread(map), old;
    memcpy(&old, memory + to, 4);
    old = (write_value(s, (uint8_t)value) & planes) | (old & ~planes);
    memcpy(memory + to, &old, 4);
    touch(s, to, 4);
}

static const MemoryRegionOps window_ops = {
    .read = window_read,
    .write = window_write,
    .valid = { .min = 1, .max = 8, .unaligned = true },
    .impl = { .min = 1, .max = 1 },
};

/* ---- the screen ---- */

static void console_render(void *opaque, DisplaySurface *surface)
{
    VgaCore *s = opaque;

    home_lock(&s->dev->lock);
    vga_draw(&s->regs, s->memory.ram->host, s->memory_size, (unsigned)(now_ns(s) / BLINK_NS & 1), surface);
    home_unlock(&s->dev->lock);
}

static char *console_text(void *opaque)
{
    VgaCore *s = opaque;

    home_lock(&s->dev->lock);
    char *text = vga_text(&s->regs, s->memory.ram->host, s->memory_size);
    home_unlock(&s->dev->lock);
    return text;
}

const DisplayConsoleOps vga_console_ops = { .render = console_render, .text = console_text };

/* ---- the core ---- */
void vga_core_reset(VgaCore *s)
{
    memset(&s->regs, 0, sizeof(s->regs));
    s->regs.graphics[GR_COLOUR_CARE] = 0x0f;
    s->regs.graphics[GR_BIT_MASK] = 0xff;
    s->regs.sequencer[0] = 3;
    s->regs.dispi[DISPI_ID] = DISPI_VERSION;
    s->sequencer_index = s->crtc_index = s->graphics_index = s->attribute_index = 0;
    s->dac_mask = 0xff;
    s->dac_state = s->dac_read = s->dac_write = s->dac_component = 0;
    s->attribute_data = false;
    s->latch = 0;
    s->dispi_index = 0;
}

bool vga_core_init(VgaCore *s, PciDevice *pci, MemoryRegion *mmio, GError **error)
{
    Device *device = DEVICE(pci);
    const DeviceEnv *env = device->env;
    PciBus *bus = PCI_BUS(device->bus);
    if (!env || !env->system_io || !env->clocks || !bus->memory) {
        return error_set(error, "%s needs memory, I/O ports and a clock", object_get_typename(OBJECT(pci)));
    }
    if (s->memory_mb < MIN_MEMORY_MB || s->memory_mb > MAX_MEMORY_MB || (s->memory_mb & (s->memory_mb - 1))) {
        return error_set(error, "Property 'vgamem_mb' must be a power of two from %u to %u, not %u",
                         MIN_MEMORY_MB, MAX_MEMORY_MB, s->memory_mb);
    }
    s->dev = device;
    s->mmio = mmio;
    s->memory_size = s->memory_mb << 20;
    if (!memory_region_init_ram(&s->memory, pci, "vga.vram", s->memory_size, error)) {
        return false;
    }
    memory_region_init_io(&s->mmio_ports, pci, &mmio_ports_ops, s, "vga ioports remapped", 0x20,
                          &device->lock);
    memory_region_init_io(&s->mmio_dispi, pci, &mmio_dispi_ops, s, "bochs dispi interface", 2 * DISPI_COUNT,
                          &device->lock);
    memory_region_add_overlap(mmio, MMIO_PORTS, &s->mmio_ports, 1);
    memory_region_add_overlap(mmio, MMIO_DISPI, &s->mmio_dispi, 1);
    memory_region_init_io(&s->window, pci, &window_ops, s, "vga-lowmem", WINDOW_SIZE, &device->lock);
    memory_region_init_io(&s->ports, pci, &ports_ops, s, "vga", PORTS_COUNT, &device->lock);
    memory_region_init_io(&s->dispi_io, pci, &dispi_io_ops, s, "vbe", 3, &device->lock);
    memory_region_add_overlap(bus->memory, WINDOW_START, &s->window, 1);
    memory_region_add(env->system_io, PORTS_START, &s->ports);
    memory_region_add(env->system_io, DISPI_PORT, &s->dispi_io);
    pci_register_bar(pci, 0, PCI_BAR_MEM32 | PCI_BAR_PREFETCH, &s->memory);
    return true;
}

void vga_core_destroy(VgaCore *s)
{
    const DeviceEnv *env = s->dev->env;
    memory_region_del(PCI_BUS(s->dev->bus)->memory, &s->window);
    memory_region_del(env->system_io, &s->ports);
    memory_region_del(env->system_io, &s->dispi_io);
    memory_region_del(s->mmio, &s->mmio_ports);
    memory_region_del(s->mmio, &s->mmio_dispi);
    MemoryRegion *all[] = { &s->window, &s->ports, &s->dispi_io, &s->mmio_ports, &s->mmio_dispi, &s->memory };
    for (size_t i = 0; i < G_N_ELEMENTS(all); i++) {
        memory_region_destroy(all[i]);
    }
}

static bool vga_core_post_load(void *opaque, int version, GError **error)
{
    VgaCore *s = opaque;
    if (s->dac_component > 2) {
        s->dac_component = 0;
        return error_set(error, "VGA: impossible state of the palette's index");
    }
    if (s->regs.dispi[DISPI_ENABLE] & DISPI_ENABLED) {
        dispi_settle(s);
    }
    s->regs.dispi[DISPI_BANK] = (uint16_t)MIN(s->regs.dispi[DISPI_BANK], (s->memory_size >> 16) - 1);
    return true;
}

static const VmStateField vga_registers_fields[] = {
    VMS_UINT8(misc, VgaRegisters),
    VMS_UINT8(sequencer, VgaRegisters),
    VMS_UINT8(crtc, VgaRegisters),
    VMS_UINT8(graphics, VgaRegisters),
    VMS_UINT8(attribute, VgaRegisters),
    VMS_BOOL(attribute_on, VgaRegisters),
    VMS_BUFFER(palette, VgaRegisters),
    VMS_UINT16(dispi, VgaRegisters),
    VMS_END,
};
static const VmState vga_registers_vmstate = { .name = "vga", .version = 1, .fields = vga_registers_fields };
static const VmStateField vga_core_fields[] = {
    VMS_STRUCT(regs, VgaCore, vga_registers_vmstate),
    VMS_UINT8(sequencer_index, VgaCore),
    VMS_UINT8(crtc_index, VgaCore),
    VMS_UINT8(graphics_index, VgaCore),
    VMS_UINT8(attribute_index, VgaCore),
    VMS_UINT8(dac_mask, VgaCore),
    VMS_UINT8(dac_state, VgaCore),
    VMS_UINT8(dac_read, VgaCore),
    VMS_UINT8(dac_write, VgaCore),
    VMS_UINT8(dac_component, VgaCore),
    VMS_BOOL(attribute_data, VgaCore),
    VMS_UINT32(latch, VgaCore),
    VMS_UINT16(dispi_index, VgaCore),
    VMS_END,
};
const VmState vga_core_vmstate = {
    .name = "vga-core", .version = 1, .fields = vga_core_fields, .post_load = vga_core_post_load
};

/* ---- the card that has nothing else ---- */
static void vga_reset(Device *device)
{
    pci_device_reset(device);
    vga_core_reset(&VGA(device)->core);
}

static bool vga_realize(PciDevice *dev, GError **error)
{
    VgaState *s = VGA(dev);
    Device *device = DEVICE(dev);
    memory_region_init_io(&s->mmio, s, &mmio_ops, s, "vga.mmio", MMIO_SIZE, &device->lock);
    if (!vga_core_init(&s->core, dev, &s->mmio, error)) {
        memory_region_destroy(&s->mmio);
        return false;
    }
    pci_register_bar(dev, 2, PCI_BAR_MEM32, &s->mmio);
    if (device->env->displays) {
        s->console = display_console_new(device->env->displays, OBJECT(dev), &vga_console_ops, &s->core);
    }
    return true;
}

static void vga_unrealize(PciDevice *dev)
{
    VgaState *s = VGA(dev);
    display_console_free(s->console);
    s->console = NULL;
    vga_core_destroy(&s->core);
    memory_region_destroy(&s->mmio);
}

static const Property vga_properties[] = {
    PROP_UINT32("vgamem_mb", VgaState, core.memory_mb, 16, "memory in MiB, a power of two"),
    PROP_END,
};

static const VmStateField vga_fields[] = {
    VMS_STRUCT(parent_obj, VgaState, pci_device_vmstate),
    VMS_STRUCT(core, VgaState, vga_core_vmstate),
    VMS_END,
};

static const VmState vga_vmstate = {
    .name = TYPE_VGA, .version = 2, .minimum_version = 2, .fields = vga_fields
};

static void vga_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PciDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    pc->vendor_id = 0x1234;
    pc->device_id = 0x1111;
    pc->revision = 2;
    pc->class_id = PCI_CLASS_DISPLAY_VGA;
    pc->default_rom = "vgabios-stdvga.bin";
    pc->default_rom_required = true;
    pc->realize = vga_realize;
    pc->unrealize = vga_unrealize;
    dc->reset = vga_reset;
    dc->vmstate = &vga_vmstate;
    dc->category = "Display";
    dc->hotpluggable = false;
    object_class_add_properties(klass, vga_properties);
}

static const TypeInfo vga_info = {
    .name = TYPE_VGA,
    .parent = TYPE_PCI_DEVICE,
    .description = "standard VGA",
    .instance_size = sizeof(VgaState),
    .class_init = vga_class_init,
};
TYPE_REGISTER(vga_info);
