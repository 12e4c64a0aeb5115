/*
 * The wiring of a PC's interrupt lines: ISA interrupt n reaches input n of the 8259 pair and pin n of the I/O
 * APIC (interrupt 0: pin 2, as the MADT's override says); global system interrupts 16 to 23 reach the I/O
 * APIC only.
 *
 *     GsiLines *lines = gsi_lines_new();         the board, first of all
 *     env.isa_irqs = lines->isa; env.gsi = lines->gsi;
 *     ... realize the controllers with that env ...
 *     gsi_lines_connect(lines, pic, ioapic);     either may be NULL
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_INTC_GSI_H
#define RHEA_HW_INTC_GSI_H

#include "hw/core/device.h"

#define GSI_COUNT 24

typedef struct GsiLines {
    IrqLine *isa[16], *gsi[GSI_COUNT]; /* owned */
    Device *pic, *ioapic;              /* borrowed */
} GsiLines;

GsiLines *gsi_lines_new(void);
void gsi_lines_free(GsiLines *lines);
void gsi_lines_connect(GsiLines *lines, Device *pic, Device *ioapic);

#endif
