/* The standard video card, and its core for cards that are more than that: see vga.c.
 * SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_DISPLAY_VGA_H
#define RHEA_HW_DISPLAY_VGA_H

#include "display/display.h"
#include "hw/pci/pci.h"

#define TYPE_VGA "VGA"

enum { VGA_SEQUENCER_COUNT = 5, VGA_CRTC_COUNT = 25, VGA_GRAPHICS_COUNT = 9, VGA_ATTRIBUTE_COUNT = 21 };

/* The Bochs display interface's registers. */
enum {
    DISPI_ID,
    DISPI_XRES,
    DISPI_YRES,
    DISPI_BPP,
    DISPI_ENABLE,
    DISPI_BANK,
    DISPI_VIRTUAL_WIDTH,
    DISPI_VIRTUAL_HEIGHT,
    DISPI_X_OFFSET,
    DISPI_Y_OFFSET,
    DISPI_MEMORY_64K,
    DISPI_COUNT,
};
enum {
    DISPI_ENABLED = 0x01,
    DISPI_GET_CAPS = 0x02,
    DISPI_8BIT_DAC = 0x20,
    DISPI_LFB = 0x40,
    DISPI_NO_CLEAR = 0x80
};

/* What decides on the picture. Planes are interleaved: byte n of plane p is memory[4 * n + p]. */
typedef struct VgaRegisters {
    uint8_t misc, sequencer[VGA_SEQUENCER_COUNT], crtc[VGA_CRTC_COUNT], graphics[VGA_GRAPHICS_COUNT],
        attribute[VGA_ATTRIBUTE_COUNT];
    bool attribute_on; /* bit 5 of the attribute index: the palette feeds the screen */
    uint8_t palette[256 * 3];
    uint16_t dispi[DISPI_COUNT];
} VgaRegisters;

/* What of it is in every card: embedded in a PCI function's state, whose lock guards it and whose table saves
 * it. */
typedef struct VgaCore {
    /* saved */
    VgaRegisters regs;
    uint8_t sequencer_index, crtc_index, graphics_index, attribute_index, dac_mask, dac_state;
    uint8_t dac_read, dac_write, dac_component;
    bool attribute_data; /* the next write to 0x3c0 is data */
    uint32_t latch;
    uint16_t dispi_index;
    /* derived and configured */
    uint32_t memory_mb, memory_size; /* memory_mb: of the owner's property */
    Device *dev;
    MemoryRegion *mmio;
    MemoryRegion memory, mmio_ports, mmio_dispi, window, ports, dispi_io;
} VgaCore;
extern const VmState vga_core_vmstate;
extern const DisplayConsoleOps vga_console_ops; /* opaque: the VgaCore */

/* At realize: memory becomes BAR 0, ports and the old window are mapped, and mmio gets the registers at 0x400
 * and 0x500. */
bool vga_core_init(VgaCore *core, PciDevice *pci, MemoryRegion *mmio, GError **error);
void vga_core_destroy(VgaCore *core);
/* With the device's lock held. */
void vga_core_reset(VgaCore *core);

/* Draws the present picture. phase: 0 or 1, the blinking's. Hostile registers give a picture, never a read
 * outside memory[0..size). size is a power of two. */
void vga_draw(const VgaRegisters *r, const uint8_t *memory, uint32_t size, unsigned phase,
              DisplaySurface *surface);
/* The lines of a text mode, or NULL. Caller frees. */
char *vga_text(const VgaRegisters *r, const uint8_t *memory, uint32_t size);

#endif
