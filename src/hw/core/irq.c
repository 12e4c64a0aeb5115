/* Interrupt lines: see irq.h. SPDX-License-Identifier: GPL-2.0-or-later */
#include "hw/core/irq.h"

#include <glib.h>

IrqLine *irq_new(IrqHandler *handler, void *opaque, int n)
{
    IrqLine *line = g_new0(IrqLine, 1);
    line->handler = handler;
    line->opaque = opaque;
    line->n = n;
    return line;
}

void irq_free(IrqLine *line)
{
    g_free(line);
}
