/*
 * Interrupt lines between devices and controllers. A line has one sink; setting it calls the sink's handler
 * at once, in the caller's thread, with the caller's locks held: handlers take only locks later in the order
 * (device -> routing -> 8259, I/O APIC -> local APIC). SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_CORE_IRQ_H
#define RHEA_HW_CORE_IRQ_H

#include <stdbool.h>

typedef void IrqHandler(void *opaque, int n, bool level);

typedef struct IrqLine {
    IrqHandler *handler; /* NULL: not connected */
    void *opaque;
    int n; /* the sink's input number */
} IrqLine;

/* A new line into input n of a sink; the caller owns it. */
IrqLine *irq_new(IrqHandler *handler, void *opaque, int n);
void irq_free(IrqLine *line);
/* line may be NULL (not connected). */
static inline void irq_set(const IrqLine *line, bool level)
{
    if (line && line->handler) {
        line->handler(line->opaque, line->n, level);
    }
}
static inline void irq_pulse(const IrqLine *line)
{
    irq_set(line, true);
    irq_set(line, false);
}
static inline void irq_raise(const IrqLine *line)
{
    irq_set(line, true);
}
static inline void irq_lower(const IrqLine *line)
{
    irq_set(line, false);
}

#endif
