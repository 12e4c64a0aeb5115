/*
 * The xHCI's rings: events to the driver (4.9.4), transfers from it (4.9.2, 4.11). Source: eXtensible Host
 * Controller Interface for Universal Serial Bus, revision 1.1.
 *
 * A transfer descriptor is read as a whole, run as far as its device goes, and read anew when the device has
 * more: between two times nothing of it is kept but how many bytes are done. So the guest may change it at
 * any time, which harms but its own transfer. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/usb/xhci_internal.h"

#include "base/log.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(xhci_event, "type %u code %u parameter 0x%x slot %u endpoint %u");
TRACE_EVENT(xhci_transfer, "slot %u endpoint %u size %u done %u status %d");

#define IMAN_PENDING 1u
#define IMAN_ENABLE  2u
#define ERDP_BUSY    8u
#define USBCMD_INTE  4u
#define STS_EVENT    8u
#define LINK_LIMIT   32 /* links after each other */
#define STEP_BYTES   65536u
#define RUN_LIMIT    1024 /* descriptors of an endpoint at a time */

/* ---- events ---- */

void xhci_update_irq(XhciState *s)
{
    if (pci_msix_enabled(&s->parent_obj) || pci_msi_enabled(&s->parent_obj)) {
        return;
    }
    XhciInterrupter *i = &s->interrupters[0];
    pci_set_irq(&s->parent_obj,
                (i->iman & IMAN_PENDING) && (i->iman & IMAN_ENABLE) && (s->usbcmd & USBCMD_INTE));
}

static void raise_interrupter(XhciState *s, unsigned n)
{
    XhciInterrupter *i = &s->interrupters[n];
    bool was_pending = i->iman & IMAN_PENDING;

    i->iman |= IMAN_PENDING;
    i->erdp |= ERDP_BUSY;
    s->usbsts |= STS_EVENT;
    if (!was_pending && (i->iman & IMAN_ENABLE) && (s->usbcmd & USBCMD_INTE)) {
        if (pci_msix_enabled(&s->parent_obj)) {
            i->iman &= ~IMAN_PENDING; /* the message carries it */
            pci_msix_notify(&s->parent_obj, n);
        } else if (pci_msi_enabled(&s->parent_obj)) {
            i->iman &= ~IMAN_PENDING;
            pci_msi_notify(&s->parent_obj, 0);
        }
    }
    xhci_update_irq(s);
}

void xhci_event(XhciState *s, unsigned n, uint64_t parameter, uint32_t status, uint32_t control)
{
    XhciInterrupter *i = &s->interrupters[n < XHCI_INTERRUPTERS ? n : 0];

    n = n < XHCI_INTERRUPTERS ? n : 0;
    if (!i->size) {
        return;
    }
    uint64_t next = i->segment + 16 * ((i->at + 1) % i->size);
    if (next == (i->erdp & ~15ull)) {
        LOG(LOG_GUEST_ERROR, "xhci: event ring %u is full", n);
        return;
    }
    TRACE(xhci_event, control >> 10 & 63, status >> 24, (unsigned)parameter, control >> 24,
          control >> 16 & 31);
    uint32_t words[4] = { GUINT32_TO_LE((uint32_t)parameter), GUINT32_TO_LE((uint32_t)(parameter >> 32)),
                          GUINT32_TO_LE(status), GUINT32_TO_LE((control & ~1u) | i->cycle) };
    uint64_t at = i->segment + 16ull * i->at;
    /* The word with the cycle bit comes last: the driver polls it. */
    if (!xhci_write(s, at, words, 12) || !xhci_write(s, at + 12, &words[3], 4)) {
        xhci_host_error(s, "the event ring is not in memory");
        return;
    }
    if (++i->at == i->size) {
        i->at = 0;
        i->cycle = !i->cycle;
    }
    raise_interrupter(s, n);
}

static void transfer_event(XhciState *s, unsigned slot, unsigned endpoint, const XhciTrb *trb,
                           uint64_t parameter, unsigned code, uint32_t length, bool event_data)
{
    xhci_event(s, trb->status >> 22, parameter, code << 24 | (length & 0xffffff),
               slot << 24 | endpoint << 16 | TRB_TRANSFER_EVENT << 10 | (event_data ? 4 : 0));
}

/* ---- rings of the driver's ---- */

bool xhci_fetch(XhciState *s, uint64_t *address, bool *cycle, XhciTrb *trb)
{
    for (int links = 0; links < LINK_LIMIT; links++) {
        uint32_t words[4];
        if (!xhci_read(s, *address, words, sizeof(words))) {
            xhci_host_error(s, "a ring is not in memory");
            return false;
        }
        *trb = (XhciTrb){ GUINT32_FROM_LE(words[0]) | (uint64_t)GUINT32_FROM_LE(words[1]) << 32,
                          GUINT32_FROM_LE(words[2]), GUINT32_FROM_LE(words[3]), *address };
        if ((trb->control & TRB_CYCLE) != *cycle) {
            return false;
        }
        if (TRB_TYPE(trb->control) != TRB_LINK) {
            *address += 16;
            return true;
        }
        *address = trb->parameter & ~15ull;
        *cycle ^= (trb->control & TRB_TOGGLE) != 0;
    }
    LOG(LOG_GUEST_ERROR, "xhci: a ring of links alone");
    return false;
}

UsbDevice *xhci_slot_device(XhciState *s, unsigned slot)
{
    unsigned port = s->slots[slot].port;

    return port >= 1 && port <= XHCI_PORTS ? usb_bus_port(s->bus, port - 1) : NULL;
}

/* ---- transfer descriptors ---- */

typedef struct Descriptor {
    XhciTrb trbs[XHCI_MAX_TD];
    unsigned count;
    uint32_t size; /* bytes of its data */
    uint64_t next; /* what is behind it */
    bool next_cycle;
    bool in, control;
    uint8_t setup[USB_SETUP_SIZE];
} Descriptor;

static uint32_t data_of(const XhciTrb *t)
{
    unsigned type = TRB_TYPE(t->control);

    return type == TRB_NORMAL || type == TRB_DATA || type == TRB_ISOCH ? t->status & 0x1ffff : 0;
}

/* Reads the descriptor at an endpoint's dequeue pointer: TRBs up to one without a chain bit; of a control
 * endpoint from SETUP to STATUS. False: it is not complete, or none at all (then `bad`). */
static bool read_descriptor(XhciState *s, const XhciEndpoint *ep, Descriptor *d, bool *bad)
{
    uint64_t address = ep->dequeue;
    bool cycle = ep->cycle, more = true;

    *bad = false;
    d->count = 0;
    d->size = 0;
    d->control = ep->type == 4;
    d->in = ep->type >= 5;
    while (more) {
        XhciTrb *t = &d->trbs[d->count];
        if (d->count == XHCI_MAX_TD || !xhci_fetch(s, &address, &cycle, t)) {
            *bad = d->count == XHCI_MAX_TD;
            return false;
        }
        unsigned type = TRB_TYPE(t->control);
        if (d->control && d->count == 0 && type != TRB_SETUP && type != TRB_NOOP) {
            *bad = true;
            d->count = 1;
            d->next = address;
            d->next_cycle = cycle;
            return false;
        }
        if (type == TRB_SETUP) {
            memcpy(d->setup, &(uint64_t){ GUINT64_TO_LE(t->parameter) }, USB_SETUP_SIZE);
        } else if (type == TRB_DATA) {
            d->in = t->control & TRB_DIR_IN;
        }
        d->size += data_of(t);
        d->count++;
        if (d->size > XHCI_MAX_TRANSFER) {
            *bad = true;
        }
        more = (t->control & TRB_CHAIN) || (d->control && type != TRB_STATUS && type != TRB_NOOP &&
                                            !(type == TRB_EVENT_DATA && d->count > 1 &&
                                              TRB_TYPE(d->trbs[d->count - 2].control) == TRB_STATUS));
    }
    d->next = address;
    d->next_cycle = cycle;
    return !*bad;
}

/* Copies between a descriptor's buffers, from offset on, and linear memory. */
static bool copy_data(XhciState *s, const Descriptor *d, uint32_t offset, uint8_t *buffer, uint32_t size,
                      bool to_guest)
{
    uint32_t at = 0;

    for (unsigned i = 0; i < d->count && size; i++) {
        const XhciTrb *t = &d->trbs[i];
        uint32_t length = data_of(t), skip = MIN(length, offset - MIN(at, offset));
        uint32_t chunk = MIN(length - skip, size);
        at += length;
        if (!chunk || at <= offset) {
            continue;
        }
        if (t->control & TRB_IMMEDIATE) {
            uint64_t value = GUINT64_TO_LE(t->parameter);
            if (to_guest || skip + chunk > sizeof(value)) {
                return false;
            }
            memcpy(buffer, (uint8_t *)&value + skip, chunk);
        } else if (!(to_guest ? xhci_write(s, t->parameter + skip, buffer, chunk)
                              : xhci_read(s, t->parameter + skip, buffer, chunk))) {
            return false;
        }
        buffer += chunk;
        offset += chunk;
        size -= chunk;
    }
    return true;
}

/* The events that its TRBs ask for, `done` bytes having been moved (4.10.1). */
static void report(XhciState *s, unsigned slot, unsigned endpoint, const Descriptor *d, uint32_t done,
                   unsigned code)
{
    uint32_t left = done, moved = 0;
    bool is_short = false, told = false;

    for (unsigned i = 0; i < d->count; i++) {
        const XhciTrb *t = &d->trbs[i];
        unsigned type = TRB_TYPE(t->control);
        uint32_t length = data_of(t), chunk = MIN(length, left);
        left -= chunk;
        moved += chunk;
        if (type == TRB_SETUP || type == TRB_STATUS) {
            told = is_short = false; /* stages are told of each for itself */
        }
        bool ends_here = chunk < length;
        is_short |= ends_here && code == CC_SUCCESS;
        bool failed = code != CC_SUCCESS && (ends_here || i + 1 == d->count || (left == 0 && length));
        if (!told && ((t->control & TRB_IOC) || (is_short && (t->control & TRB_ISP)) || failed)) {
            unsigned own = failed ? code : is_short ? CC_SHORT_PACKET : CC_SUCCESS;
            bool event_data = type == TRB_EVENT_DATA;
            transfer_event(s, slot, endpoint, t, event_data ? t->parameter : t->address, own,
                           event_data ? moved : length - chunk, event_data);
            told = is_short || failed;
            moved = event_data ? 0 : moved;
            if (failed) {
                return;
            }
        }
    }
}

typedef enum RunResult { RUN_DONE, RUN_WAITS, RUN_STALLED, RUN_BROKEN } RunResult;

static RunResult run_control(XhciState *s, UsbDevice *dev, const Descriptor *d, XhciEndpoint *ep)
{
    uint8_t data[USB_CONTROL_MAX];
    uint32_t length = d->setup[6] | (uint32_t)d->setup[7] << 8, actual;
    bool in = d->setup[0] & 0x80;

    if (d->trbs[0].control & TRB_IMMEDIATE && TRB_TYPE(d->trbs[0].control) == TRB_NOOP) {
        return RUN_DONE;
    }
    if (length > sizeof(data) || (d->size && d->in != in)) {
        return RUN_STALLED;
    }
    if (!in && (d->size < length || !copy_data(s, d, 0, data, length, false))) {
        return RUN_BROKEN;
    }
    /* SET_ADDRESS is the controller's own business: a driver's would break it. */
    if (d->setup[0] == 0 && d->setup[1] == 5) {
        return RUN_STALLED;
    }
    if (usb_device_control(dev, d->setup, data, &actual) != USB_OK) {
        return RUN_STALLED;
    }
    ep->done = in ? MIN(actual, d->size) : length;
    return !in || copy_data(s, d, 0, data, ep->done, true) ? RUN_DONE : RUN_BROKEN;
}

static RunResult run_data(XhciState *s, UsbDevice *dev, const Descriptor *d, XhciEndpoint *ep,
                          unsigned number)
{
    g_autofree uint8_t *data = g_malloc(STEP_BYTES);

    do {
        UsbPacket p = { .pid = d->in ? USB_PID_IN : USB_PID_OUT,
                        .endpoint = (uint8_t)number,
                        .data = data,
                        .size = MIN(d->size - MIN(ep->done, d->size), STEP_BYTES) };
        if (!d->in && !copy_data(s, d, ep->done, data, p.size, false)) {
            return RUN_BROKEN;
        }
        UsbStatus status = usb_device_packet(dev, &p);
        if (d->in && p.actual && !copy_data(s, d, ep->done, data, p.actual, true)) {
            return RUN_BROKEN;
        }
        ep->done += p.actual;
        if (status != USB_OK) {
            return status == USB_NAK ? RUN_WAITS : RUN_STALLED;
        }
        if (p.actual < p.size) {
            return RUN_DONE; /* a short packet */
        }
    } while (ep->done < d->size);
    return RUN_DONE;
}

static void halt(XhciState *s, unsigned slot, unsigned endpoint, const Descriptor *d, unsigned code)
{
    XhciEndpoint *ep = &s->slots[slot].endpoints[endpoint];

    ep->state = EP_HALTED;
    report(s, slot, endpoint, d, ep->done, code);
    ep->done = 0;
    xhci_write_endpoint(s, slot, endpoint);
}

/* One descriptor; false: no more for now. */
static bool run_one(XhciState *s, unsigned slot, unsigned endpoint, Descriptor *d)
{
    XhciEndpoint *ep = &s->slots[slot].endpoints[endpoint];
    UsbDevice *dev = xhci_slot_device(s, slot);
    bool bad;

    if (!read_descriptor(s, ep, d, &bad)) {
        if (bad) {
            LOG(LOG_GUEST_ERROR, "xhci: slot %u endpoint %u: a descriptor of too many parts", slot, endpoint);
            halt(s, slot, endpoint, d, CC_TRB);
        }
        return false;
    }
    if (!dev) {
        halt(s, slot, endpoint, d, CC_TRANSACTION);
        return false;
    }
    RunResult result = TRB_TYPE(d->trbs[0].control) == TRB_NOOP ? RUN_DONE
                       : d->control                             ? run_control(s, dev, d, ep)
                                                                : run_data(s, dev, d, ep, endpoint / 2);
    TRACE(xhci_transfer, slot, endpoint, d->size, ep->done, result);
    switch (result) {
    case RUN_WAITS:
        return false;
    case RUN_STALLED:
        halt(s, slot, endpoint, d, CC_STALL);
        return false;
    case RUN_BROKEN:
        halt(s, slot, endpoint, d, CC_DATA_BUFFER);
        return false;
    default:
        report(s, slot, endpoint, d, ep->done, CC_SUCCESS);
        ep->done = 0;
        ep->dequeue = d->next;
        ep->cycle = d->next_cycle;
        return true;
    }
}

void xhci_run_endpoint(XhciState *s, unsigned slot, unsigned endpoint)
{
    XhciEndpoint *ep = &s->slots[slot].endpoints[endpoint];

    if (s->busy || !s->slots[slot].enabled) {
        return;
    }
    s->busy = true;
    Descriptor *d = g_new(Descriptor, 1);
    for (int i = 0; i < RUN_LIMIT && ep->state == EP_RUNNING && (s->usbcmd & 1); i++) {
        if (!run_one(s, slot, endpoint, d)) {
            break;
        }
    }
    g_free(d);
    s->busy = false;
}

void xhci_stop_event(XhciState *s, unsigned slot, unsigned endpoint)
{
    XhciEndpoint *ep = &s->slots[slot].endpoints[endpoint];
    uint64_t address = ep->dequeue;
    bool cycle = ep->cycle;
    XhciTrb t;

    if (xhci_fetch(s, &address, &cycle, &t)) {
        uint32_t length = data_of(&t);
        transfer_event(s, slot, endpoint, &t, t.address, CC_STOPPED, length - MIN(ep->done, length), false);
    }
    ep->done = 0;
}
