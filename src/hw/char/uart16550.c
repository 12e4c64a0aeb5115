/*
 * The 16550A UART, which ISA and PCI cards carry. Source: National Semiconductor PC16550D data sheet;
 * TL16C550C data sheet (SLLS177) for the interrupt table.
 *
 * Characters leave as fast as the host takes them: the transmitter is empty again at once, unless the host is
 * slow. Left out on purpose: bit timing of what is sent, parity and framing errors, DMA mode of the FIFOs,
 * OUT2 as interrupt gate.
 *
 * Threads: ports in vCPUs' threads; input, room and time-outs in the main loop; all under the HomeLock of the
 * card. Writing to the chardev never blocks; what it does not take waits in the transmit FIFO.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/char/uart16550.h"

#include "base/error.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(serial_read, "register %u value 0x%02x");
TRACE_EVENT(serial_write, "register %u value 0x%02x");
TRACE_EVENT(serial_receive, "%zu bytes");
TRACE_EVENT(serial_irq, "iir 0x%02x level %d");

enum { UART_DATA, UART_IER, UART_IIR_FCR, UART_LCR, UART_MCR, UART_LSR, UART_MSR, UART_SCR };
enum { IER_RDA = 1, IER_THRE = 2, IER_RLS = 4, IER_MSI = 8, IER_MASK = 0x0f };
enum {
    IIR_NONE = 0x01,
    IIR_MSI = 0x00,
    IIR_THRE = 0x02,
    IIR_RDA = 0x04,
    IIR_RLS = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFOS = 0xc0
};
enum { FCR_ENABLE = 0x01, FCR_CLEAR_RX = 0x02, FCR_CLEAR_TX = 0x04, FCR_TRIGGER_SHIFT = 6, FCR_KEPT = 0xc9 };
enum { LCR_STOP2 = 0x04, LCR_PARITY = 0x08, LCR_EVEN = 0x10, LCR_BREAK = 0x40, LCR_DLAB = 0x80 };
enum { MCR_DTR = 0x01, MCR_RTS = 0x02, MCR_OUT1 = 0x04, MCR_OUT2 = 0x08, MCR_LOOP = 0x10, MCR_MASK = 0x1f };
enum {
    LSR_DR = 0x01,
    LSR_OE = 0x02,
    LSR_PE = 0x04,
    LSR_FE = 0x08,
    LSR_BI = 0x10,
    LSR_THRE = 0x20,
    LSR_TEMT = 0x40
};
enum { LSR_ERRORS = LSR_OE | LSR_PE | LSR_FE | LSR_BI };
enum {
    MSR_DCTS = 0x01,
    MSR_DDSR = 0x02,
    MSR_TERI = 0x04,
    MSR_DDCD = 0x08,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80
};
enum { MSR_DELTAS = 0x0f, MSR_LINES = 0xf0 };
#define BAUD_BASE     115200
#define NS_PER_SECOND 1000000000ll

/* ---- FIFOs ---- */
static void fifo_clear(UartFifo *f)
{
    f->head = f->count = 0;
}

static bool fifo_push(UartFifo *f, uint8_t byte)
{
    if (f->count == UART_FIFO_SIZE) {
        return false;
    }
    f->data[(f->head + f->count++) % UART_FIFO_SIZE] = byte;
    return true;
}

static uint8_t fifo_pop(UartFifo *f)
{
    uint8_t byte = f->data[f->head];
    f->head = (f->head + 1) % UART_FIFO_SIZE;
    f->count--;
    return byte;
}

static bool fifos_on(const Uart16550 *s)
{
    return s->fcr & FCR_ENABLE;
}

static unsigned rx_capacity(const Uart16550 *s)
{
    return fifos_on(s) ? UART_FIFO_SIZE : 1;
}

static unsigned rx_trigger(const Uart16550 *s)
{
    static const uint8_t levels[] = { 1, 4, 8, 14 };
    return fifos_on(s) ? levels[s->fcr >> FCR_TRIGGER_SHIFT] : 1;
}

/* ---- interrupts ---- */
static uint8_t pending_interrupt(const Uart16550 *s)
{
    if ((s->ier & IER_RLS) && (s->lsr & LSR_ERRORS)) {
        return IIR_RLS;
    }
    if ((s->ier & IER_RDA) && s->rx.count >= rx_trigger(s)) {
        return IIR_RDA;
    }
    if ((s->ier & IER_RDA) && s->timeout_pending) {
        return IIR_TIMEOUT;
    }
    if ((s->ier & IER_THRE) && s->thre_pending) {
        return IIR_THRE;
    }
    if ((s->ier & IER_MSI) && (s->msr & MSR_DELTAS)) {
        return IIR_MSI;
    }
    return IIR_NONE;
}

static void update_irq(Uart16550 *s)
{
    uint8_t iir = pending_interrupt(s);
    TRACE(serial_irq, iir, iir != IIR_NONE);
    s->set_irq(s->owner, iir != IIR_NONE);
}

static int64_t character_ns(const Uart16550 *s)
{
    unsigned bits = 1 + 5 + (s->lcr & 3) + (s->lcr & LCR_PARITY ? 1 : 0) + (s->lcr & LCR_STOP2 ? 2 : 1);
    unsigned divisor = s->divisor ? s->divisor : 1;
    return (int64_t)bits * divisor * NS_PER_SECOND / BAUD_BASE;
}

/* Four characters' time without traffic, with something in the FIFO, is an interrupt of its own. */
static void restart_timeout(Uart16550 *s)
{
    s->timeout_pending = false;
    if (fifos_on(s) && s->rx.count) {
        const DeviceEnv *env = s->owner->env;
        timer_set(&s->timeout, clock_now_ns(env->clocks, CLOCK_TYPE_VIRTUAL) + 4 * character_ns(s));
    } else {
        timer_cancel(&s->timeout);
    }
}

static void timed_out(void *opaque)
{
    Uart16550 *s = opaque;
    if (s->rx.count) {
        s->timeout_pending = true;
        update_irq(s);
    }
}

/* ---- receiving ---- */
static void receive_byte(Uart16550 *s, uint8_t byte)
{
    if (s->rx.count >= rx_capacity(s)) {
        s->lsr |= LSR_OE;
        if (!fifos_on(s)) { /* the holding register is overwritten; a full FIFO keeps what it has */
            fifo_clear(&s->rx);
            fifo_push(&s->rx, byte);
        }
    } else {
        fifo_push(&s->rx, byte);
    }
    s->lsr |= LSR_DR;
    restart_timeout(s);
}

static size_t serial_can_receive(void *opaque)
{
    Uart16550 *s = opaque;
    return s->mcr & MCR_LOOP ? 0 : rx_capacity(s) - MIN(s->rx.count, rx_capacity(s));
}

static void serial_receive(void *opaque, const uint8_t *data, size_t size)
{
    Uart16550 *s = opaque;
    TRACE(serial_receive, size);
    for (size_t i = 0; i < size; i++) {
        receive_byte(s, data[i]);
    }
    update_irq(s);
}

static void serial_event(void *opaque, ChardevEvent event)
{
    Uart16550 *s = opaque;
    if (event == CHARDEV_EVENT_BREAK && !(s->mcr & MCR_LOOP)) {
        s->lsr |= LSR_BI;
        receive_byte(s, 0);
        update_irq(s);
    }
}

/* ---- sending ---- */
static void transmit(Uart16550 *s)
{
    while (s->tx.count) {
        /* The FIFO's bytes in the order of their going, as one piece where they lie so. */
        size_t run = MIN((size_t)s->tx.count, (size_t)UART_FIFO_SIZE - s->tx.head);
        size_t sent = chardev_fe_write(&s->chr, s->tx.data + s->tx.head, run);
        sent = MIN(sent, run);
        s->tx.head = (s->tx.head + sent) % UART_FIFO_SIZE;
        s->tx.count -= sent;
        if (sent < run) {
            break; /* serial_writable() goes on */
        }
    }
    if (!s->tx.count && !(s->lsr & LSR_THRE)) {
        s->lsr |= LSR_THRE | LSR_TEMT;
        s->thre_pending = true;
    }
}

static void serial_writable(void *opaque)
{
    Uart16550 *s = opaque;
    transmit(s);
    update_irq(s);
}

static void write_data(Uart16550 *s, uint8_t value)
{
    s->thre_pending = false;
    if (s->mcr & MCR_LOOP) {
        receive_byte(s, value);
        s->lsr |= LSR_THRE | LSR_TEMT;
        s->thre_pending = true;
    } else {
        s->lsr &= ~(LSR_THRE | LSR_TEMT);
        if (!fifos_on(s) && s->tx.count) {
            fifo_clear(&s->tx); /* the holding register is overwritten */
        }
        fifo_push(&s->tx, value); /* a full FIFO drops it */
        transmit(s);
    }
    update_irq(s);
}

static const ChardevFrontendOps chardev_ops = {
    .can_receive = serial_can_receive,
    .receive = serial_receive,
    .event = serial_event,
    .writable = serial_writable,
};

/* ---- modem lines ---- */
static void set_modem_lines(Uart16550 *s, uint8_t lines)
{
    uint8_t changed = (s->msr ^ lines) & MSR_LINES;
    uint8_t deltas = changed >> 4 & (MSR_DCTS | MSR_DDSR | MSR_DDCD);
    if ((changed & MSR_RI) && !(lines & MSR_RI)) {
        deltas |= MSR_TERI; /* the ring indicator tells of its trailing edge only */
    }
    s->msr = (s->msr & MSR_DELTAS) | (lines & MSR_LINES) | deltas;
}

static void update_modem(Uart16550 *s)
{
    if (s->mcr & MCR_LOOP) {
        set_modem_lines(s, (s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) |
                               (s->mcr & MCR_OUT1 ? MSR_RI : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0));
    } else {
        set_modem_lines(s, MSR_CTS | MSR_DSR | MSR_DCD);
    }
}

static void update_line(Uart16550 *s)
{
    ChardevLine line = {
        .speed = BAUD_BASE / (s->divisor ? s->divisor : 1),
        .data_bits = 5 + (s->lcr & 3),
        .stop_bits = s->lcr & LCR_STOP2 ? 2 : 1,
        .parity = !(s->lcr & LCR_PARITY) ? 'N'
                  : s->lcr & LCR_EVEN    ? 'E'
                                         : 'O',
    };
    chardev_fe_set_line(&s->chr, &line);
}

/* ---- registers ---- */
static uint8_t read_data(Uart16550 *s)
{
    uint8_t value = 0;
    if (s->rx.count) {
        value = fifo_pop(&s->rx);
        if (!s->rx.count) {
            s->lsr &= ~(LSR_DR | LSR_BI);
        }
        restart_timeout(s);
        update_irq(s);
    }
    if (!(s->mcr & MCR_LOOP)) {
        chardev_fe_accept_input(&s->chr);
    }
    return value;
}

static uint8_t read_iir(Uart16550 *s)
{
    uint8_t iir = pending_interrupt(s);
    if (iir == IIR_THRE) {
        s->thre_pending = false;
        update_irq(s);
    }
    return iir | (fifos_on(s) ? IIR_FIFOS : 0);
}

static void write_fcr(Uart16550 *s, uint8_t value)
{
    bool toggled = (value ^ s->fcr) & FCR_ENABLE;
    if (toggled) {
        value |= FCR_CLEAR_RX | FCR_CLEAR_TX;
    }
    if (value & FCR_CLEAR_RX) {
        fifo_clear(&s->rx);
        s->lsr &= ~(LSR_DR | LSR_BI);
        s->timeout_pending = false;
        timer_cancel(&s->timeout);
    }
    if ((value & FCR_CLEAR_TX) && !(s->lsr & LSR_THRE)) {
        fifo_clear(&s->tx);
        s->lsr |= LSR_THRE | LSR_TEMT;
        s->thre_pending = true;
    }
    s->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
    update_irq(s);
    chardev_fe_accept_input(&s->chr);
}

static void write_ier(Uart16550 *s, uint8_t value)
{
    uint8_t turned_on = value & ~s->ier;
    s->ier = value & IER_MASK;
    if ((turned_on & IER_THRE) && (s->lsr & LSR_THRE)) {
        s->thre_pending = true; /* enabling it while the register is empty interrupts at once */
    }
    update_irq(s);
}

static uint64_t serial_read(void *opaque, hwaddr offset, unsigned size)
{
    Uart16550 *s = opaque;
    uint8_t value = 0;
    bool dlab = s->lcr & LCR_DLAB;
    switch (offset) {
    case UART_DATA:
        value = dlab ? s->divisor & 0xff : read_data(s);
        break;
    case UART_IER:
        value = dlab ? s->divisor >> 8 : s->ier;
        break;
    case UART_IIR_FCR:
        value = read_iir(s);
        break;
    case UART_LCR:
        value = s->lcr;
        break;
    case UART_MCR:
        value = s->mcr;
        break;
    case UART_LSR:
        value = s->lsr;
        s->lsr &= ~LSR_ERRORS;
        if (value & LSR_ERRORS) {
            update_irq(s);
        }
        break;
    case UART_MSR:
        value = s->msr;
        if (value & MSR_DELTAS) {
            s->msr &= ~MSR_DELTAS;
            update_irq(s);
        }
        break;
    default:
        value = s->scr;
        break;
    }
    TRACE(serial_read, (unsigned)offset, value);
    return value;
}

static void serial_write(void *opaque, hwaddr offset, uint64_t value, unsigned size)
{
    Uart16550 *s = opaque;
    bool dlab = s->lcr & LCR_DLAB;
    TRACE(serial_write, (unsigned)offset, (unsigned)value);
    switch (offset) {
    case UART_DATA:
        if (dlab) {
            s->divisor = (s->divisor & 0xff00) | value;
            update_line(s);
        } else {
            write_data(s, value);
        }
        break;
    case UART_IER:
        if (dlab) {
            s->divisor = (s->divisor & 0x00ff) | value << 8;
            update_line(s);
        } else {
            write_ier(s, value);
        }
        break;
    case UART_IIR_FCR:
        write_fcr(s, value);
        break;
    case UART_LCR:
        if ((value & LCR_BREAK) && !(s->lcr & LCR_BREAK)) {
            chardev_fe_break(&s->chr);
        }
        s->lcr = value;
        update_line(s);
        break;
    case UART_MCR:
        s->mcr = value & MCR_MASK;
        update_modem(s);
        update_irq(s);
        if (!(s->mcr & MCR_LOOP)) {
            chardev_fe_accept_input(&s->chr);
        }
        break;
    case UART_SCR:
        s->scr = value;
        break;
    default:
        break; /* line and modem status are read-only */
    }
}

static const MemoryRegionOps serial_ops = {
    .read = serial_read,
    .write = serial_write,
    .valid = { .min = 1, .max = 4, .unaligned = true },
    .impl = { .min = 1, .max = 1 },
};

/* ---- life ---- */
void uart16550_reset(Uart16550 *s)
{
    fifo_clear(&s->rx);
    fifo_clear(&s->tx);
    s->divisor = 12; /* 9600 baud */
    s->ier = s->fcr = s->lcr = s->scr = 0;
    s->mcr = MCR_OUT2;
    s->lsr = LSR_THRE | LSR_TEMT;
    s->msr = MSR_DCD | MSR_DSR | MSR_CTS;
    s->thre_pending = s->timeout_pending = false;
    timer_cancel(&s->timeout);
    s->set_irq(s->owner, false);
    chardev_fe_accept_input(&s->chr);
}

bool uart16550_realize(Uart16550 *s, Device *owner, void (*set_irq)(Device *, bool), GError **error)
{
    if (!owner->env || !owner->env->clocks || !owner->env->loop) {
        return error_set(error, "%s needs a clock", object_get_typename(OBJECT(owner)));
    }
    s->owner = owner;
    s->set_irq = set_irq;
    memory_region_init_io(&s->ports, owner, &serial_ops, s, "serial", UART_REGISTERS, &owner->lock);
    timer_init(&s->timeout, owner->env->loop, owner->env->clocks, CLOCK_TYPE_VIRTUAL, timed_out, s,
               &owner->lock);
    home_lock(&owner->lock);
    uart16550_reset(s);
    home_unlock(&owner->lock);
    return true;
}

void uart16550_connect(Uart16550 *s)
{
    chardev_fe_set_handlers(&s->chr, &chardev_ops, s, &s->owner->lock);
    chardev_fe_set_open(&s->chr, true);
}

void uart16550_unrealize(Uart16550 *s)
{
    chardev_fe_deinit(&s->chr);
    memory_region_destroy(&s->ports);
    timer_destroy(&s->timeout);
}

static bool fifo_ok(const UartFifo *f)
{
    return f->head < UART_FIFO_SIZE && f->count <= UART_FIFO_SIZE;
}

static bool serial_post_load(void *opaque, int version, GError **error)
{
    Uart16550 *s = opaque;
    if (!fifo_ok(&s->rx) || !fifo_ok(&s->tx)) {
        return error_set(error, "serial: impossible FIFO state");
    }
    s->ier &= IER_MASK;
    s->mcr &= MCR_MASK;
    update_line(s);
    return true;
}

static const VmStateField fifo_fields[] = {
    VMS_BUFFER(data, UartFifo),
    VMS_UINT8(head, UartFifo),
    VMS_UINT8(count, UartFifo),
    VMS_END,
};
static const VmState fifo_vmstate = {
    .name = "serial-fifo",
    .version = 1,
    .minimum_version = 1,
    .fields = fifo_fields,
};

static const VmStateField serial_fields[] = {
    VMS_UINT16(divisor, Uart16550),
    VMS_UINT8(ier, Uart16550),
    VMS_UINT8(fcr, Uart16550),
    VMS_UINT8(lcr, Uart16550),
    VMS_UINT8(mcr, Uart16550),
    VMS_UINT8(lsr, Uart16550),
    VMS_UINT8(msr, Uart16550),
    VMS_UINT8(scr, Uart16550),
    VMS_BOOL(thre_pending, Uart16550),
    VMS_BOOL(timeout_pending, Uart16550),
    VMS_STRUCT(rx, Uart16550, fifo_vmstate),
    VMS_STRUCT(tx, Uart16550, fifo_vmstate),
    VMS_TIMER(timeout, Uart16550),
    VMS_END,
};
const VmState uart16550_vmstate = {
    .name = "serial",
    .version = 1,
    .minimum_version = 1,
    .fields = serial_fields,
    .post_load = serial_post_load,
};
