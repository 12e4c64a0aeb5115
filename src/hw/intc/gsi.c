/* The wiring of a PC's interrupt lines: see gsi.h. SPDX-License-Identifier: GPL-2.0-or-later */
#include "hw/intc/gsi.h"

#include "hw/intc/i8259.h"
#include "hw/intc/ioapic.h"

static void set_isa(void *opaque, int n, bool level)
{
    GsiLines *lines = opaque;
    if (lines->pic) {
        i8259_set_input(lines->pic, n, level);
    }
    if (lines->ioapic) {
        ioapic_set_input(lines->ioapic, n == 0 ? 2 : n, level);
    }
}

static void set_gsi(void *opaque, int n, bool level)
{
    GsiLines *lines = opaque;
    /* Below 16 a system interrupt is an ISA interrupt, but for number 2, which is ISA 0, and 0, which nobody
     * drives. */
    if (n == 2) {
        set_isa(opaque, 0, level);
    } else if (n < 16) {
        set_isa(opaque, n, level);
    } else if (lines->ioapic) {
        ioapic_set_input(lines->ioapic, n, level);
    }
}

GsiLines *gsi_lines_new(void)
{
    GsiLines *lines = g_new0(GsiLines, 1);
    for (int i = 0; i < 16; i++) {
        lines->isa[i] = irq_new(set_isa, lines, i);
    }
    for (int i = 0; i < GSI_COUNT; i++) {
        lines->gsi[i] = irq_new(set_gsi, lines, i);
    }
    return lines;
}

void gsi_lines_free(GsiLines *lines)
{
    for (int i = 0; i < 16; i++) {
        irq_free(lines->isa[i]);
    }
    for (int i = 0; i < GSI_COUNT; i++) {
        irq_free(lines->gsi[i]);
    }
    g_free(lines);
}

void gsi_lines_connect(GsiLines *lines, Device *pic, Device *ioapic)
{
    lines->pic = pic;
    lines->ioapic = ioapic;
}
