/* The 16550A that serial cards carry: see uart16550.c. SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef RHEA_HW_CHAR_UART16550_H
#define RHEA_HW_CHAR_UART16550_H

#include "chardev/chardev.h"
#include "hw/core/device.h"

#define UART_FIFO_SIZE 16
#define UART_REGISTERS 8

typedef struct UartFifo {
    uint8_t data[UART_FIFO_SIZE];
    uint8_t head, count;
} UartFifo;

/* Embedded in its card's state; the card's "chardev" property sets chr. */
typedef struct Uart16550 {
    /* saved: uart16550_vmstate */
    uint16_t divisor;
    uint8_t ier, fcr, lcr, mcr, lsr, msr, scr;
    bool thre_pending, timeout_pending;
    UartFifo rx, tx;
    Timer timeout;
    /* derived and configured */
    Device *owner; /* the card, under whose lock all of this is */
    void (*set_irq)(Device *owner, bool level);
    MemoryRegion ports; /* its eight registers */
    ChardevFrontend chr;
} Uart16550;

/* Makes the ports, which the card then maps, and the state after a reset. Fails where the board has no clock.
 */
bool uart16550_realize(Uart16550 *s, Device *owner, void (*set_irq)(Device *, bool), GError **error);
/* The card can do no wrong any more: input may come. */
void uart16550_connect(Uart16550 *s);
/* After uart16550_realize() alone, too; the ports are no longer mapped. */
void uart16550_unrealize(Uart16550 *s);
/* The card's lock is held. */
void uart16550_reset(Uart16550 *s);

extern const VmState uart16550_vmstate;

#endif
