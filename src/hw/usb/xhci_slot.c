/*
 * The xHCI's commands (4.6): slots, addresses, endpoints, in the driver's contexts (6.2).
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/usb/xhci_internal.h"

#include "base/log.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(xhci_command, "type %u slot %u code %u");

#define CONTEXT_SIZE  32u
#define COMMAND_LIMIT 256
#define DECONFIGURE   0x200u
#define NEC_FIRMWARE  0x3021u

typedef struct InputControl {
    uint32_t drop, add;
} InputControl;

static bool read_words(XhciState *s, uint64_t address, uint32_t *words, unsigned count)
{
    if (!xhci_read(s, address, words, count * 4)) {
        return false;
    }
    for (unsigned i = 0; i < count; i++) {
        words[i] = GUINT32_FROM_LE(words[i]);
    }
    return true;
}

static bool write_words(XhciState *s, uint64_t address, const uint32_t *words, unsigned count)
{
    uint32_t le[8];

    for (unsigned i = 0; i < count; i++) {
        le[i] = GUINT32_TO_LE(words[i]);
    }
    return xhci_write(s, address, le, count * 4);
}

static uint64_t slot_context(const XhciState *s, unsigned slot)
{
    return s->slots[slot].context;
}

static uint64_t endpoint_context(const XhciState *s, unsigned slot, unsigned endpoint)
{
    return s->slots[slot].context + CONTEXT_SIZE * endpoint;
}

void xhci_write_endpoint(XhciState *s, unsigned slot, unsigned endpoint)
{
    const XhciEndpoint *ep = &s->slots[slot].endpoints[endpoint];
    uint64_t address = endpoint_context(s, slot, endpoint);
    uint32_t words[4];

    if (read_words(s, address, words, 4)) {
        words[0] = (words[0] & ~7u) | ep->state;
        words[2] = (uint32_t)ep->dequeue | ep->cycle;
        words[3] = (uint32_t)(ep->dequeue >> 32);
        write_words(s, address, words, 4);
    }
}

static void write_slot_state(XhciState *s, unsigned slot, unsigned state, unsigned address)
{
    uint64_t at = slot_context(s, slot) + 12;
    uint32_t word = state << 27 | address;

    s->slots[slot].state = (uint8_t)state;
    write_words(s, at, &word, 1);
}

static void disable_endpoint(XhciState *s, unsigned slot, unsigned endpoint)
{
    XhciEndpoint *ep = &s->slots[slot].endpoints[endpoint];

    if (ep->state != EP_DISABLED) {
        memset(ep, 0, sizeof(*ep));
        xhci_write_endpoint(s, slot, endpoint);
    }
}

static bool enable_endpoint(XhciState *s, unsigned slot, unsigned endpoint, uint32_t words[8])
{
    XhciEndpoint *ep = &s->slots[slot].endpoints[endpoint];
    unsigned type = words[1] >> 3 & 7;

    /* Odd numbers are IN, but for endpoint 0, which is both. */
    if (!type || (endpoint == 1) != (type == 4) || (endpoint > 1 && (type >= 5) != (endpoint & 1))) {
        return false;
    }
    *ep = (XhciEndpoint){ .state = EP_RUNNING,
                          .type = (uint8_t)type,
                          .cycle = words[2] & 1,
                          .dequeue = (words[2] & ~15ull) | (uint64_t)words[3] << 32 };
    words[0] = (words[0] & ~7u) | EP_RUNNING;
    return write_words(s, endpoint_context(s, slot, endpoint), words, 8);
}

/* ---- commands ---- */

static unsigned enable_slot(XhciState *s, unsigned *slot)
{
    for (unsigned n = 1; n <= MIN(s->config & 0xff, XHCI_SLOTS); n++) {
        if (!s->slots[n].enabled) {
            memset(&s->slots[n], 0, sizeof(s->slots[n]));
            s->slots[n].enabled = true;
            *slot = n;
            return CC_SUCCESS;
        }
    }
    *slot = 0;
    return CC_NO_SLOTS;
}

void xhci_slot_disable(XhciState *s, unsigned slot)
{
    memset(&s->slots[slot], 0, sizeof(s->slots[slot]));
}

static bool read_input(XhciState *s, const XhciTrb *t, InputControl *ic)
{
    uint32_t words[2];

    if (!read_words(s, t->parameter & ~15ull, words, 2)) {
        return false;
    }
    *ic = (InputControl){ words[0], words[1] };
    return true;
}

static uint64_t input_context(const XhciTrb *t, unsigned index)
{
    return (t->parameter & ~15ull) + CONTEXT_SIZE * (index + 1);
}

static bool port_taken(XhciState *s, unsigned slot, unsigned port)
{
    for (unsigned n = 1; n <= XHCI_SLOTS; n++) {
        if (n != slot && s->slots[n].enabled && s->slots[n].port == port) {
            return true;
        }
    }
    return false;
}

static unsigned address_device(XhciState *s, unsigned slot, const XhciTrb *t)
{
    XhciSlot *o = &s->slots[slot];
    uint32_t words[8], ep0[8], pointer[2];
    InputControl ic;

    if (!read_input(s, t, &ic) || ic.drop || ic.add != 3 || !read_words(s, input_context(t, 0), words, 8) ||
        !read_words(s, input_context(t, 1), ep0, 8) || !read_words(s, s->dcbaap + 8 * slot, pointer, 2)) {
        return CC_PARAMETER;
    }
    unsigned port = words[1] >> 16 & 0xff;
    if (port < 1 || port > XHCI_PORTS || port_taken(s, slot, port) || (words[0] & 0xfffff)) {
        return CC_PARAMETER;
    }
    o->context = (pointer[0] & ~63ull) | (uint64_t)pointer[1] << 32;
    o->port = (uint8_t)port;
    o->interrupter = (uint8_t)(words[2] >> 22 & 0xff);
    UsbDevice *dev = xhci_slot_device(s, slot);
    if (!dev) {
        o->port = 0;
        return CC_TRANSACTION;
    }
    bool block = t->control & TRB_BLOCK_ADDRESS;
    usb_device_bus_reset(dev);
    if (!block) {
        const uint8_t setup[] = { 0, 5, (uint8_t)slot, 0, 0, 0, 0, 0 };
        uint32_t actual;
        usb_device_control(dev, setup, NULL, &actual);
    }
    words[3] = (block ? SLOT_DEFAULT : SLOT_ADDRESSED) << 27 | (block ? 0 : slot);
    o->state = block ? SLOT_DEFAULT : SLOT_ADDRESSED;
    if (!write_words(s, o->context, words, 8) || !enable_endpoint(s, slot, 1, ep0)) {
        return CC_PARAMETER;
    }
    return CC_SUCCESS;
}

static unsigned configure_endpoint(XhciState *s, unsigned slot, const XhciTrb *t)
{
    XhciSlot *o = &s->slots[slot];
    InputControl ic;
    uint32_t words[8], last;

    if (o->state < SLOT_ADDRESSED) {
        return CC_CONTEXT_STATE;
    }
    if (t->control & DECONFIGURE) {
        for (unsigned n = 2; n < XHCI_ENDPOINTS; n++) {
            disable_endpoint(s, slot, n);
        }
        write_slot_state(s, slot, SLOT_ADDRESSED, slot);
        return CC_SUCCESS;
    }
    if (!read_input(s, t, &ic) || (ic.drop & 3) || (ic.add & 3) != 1) {
        return CC_PARAMETER;
    }
    for (unsigned n = 2; n < XHCI_ENDPOINTS; n++) {
        if ((ic.drop | ic.add) >> n & 1) {
            disable_endpoint(s, slot, n);
        }
        if (ic.add >> n & 1 &&
            (!read_words(s, input_context(t, n), words, 8) || !enable_endpoint(s, slot, n, words))) {
            return CC_PARAMETER;
        }
    }
    /* The number of contexts in use comes from the input; the state is ours. */
    if (!read_words(s, input_context(t, 0), words, 1) || !read_words(s, o->context, &last, 1)) {
        return CC_PARAMETER;
    }
    last = (last & 0x07ffffff) | (words[0] & 0xf8000000);
    write_words(s, o->context, &last, 1);
    write_slot_state(s, slot, SLOT_CONFIGURED, slot);
    return CC_SUCCESS;
}

static unsigned evaluate_context(XhciState *s, unsigned slot, const XhciTrb *t)
{
    XhciSlot *o = &s->slots[slot];
    InputControl ic;
    uint32_t words[8], own[8];

    if (!read_input(s, t, &ic) || ic.drop || (ic.add & ~3u)) {
        return CC_PARAMETER;
    }
    if (ic.add & 1) { /* exit latency, interrupter */
        if (!read_words(s, input_context(t, 0), words, 8) || !read_words(s, o->context, own, 8)) {
            return CC_PARAMETER;
        }
        own[1] = (own[1] & ~0xffffu) | (words[1] & 0xffff);
        own[2] = (own[2] & ~0xffc00000u) | (words[2] & 0xffc00000u);
        write_words(s, o->context, own, 8);
    }
    if (ic.add & 2) { /* the largest packet */
        if (!read_words(s, input_context(t, 1), words, 8) ||
            !read_words(s, endpoint_context(s, slot, 1), own, 8)) {
            return CC_PARAMETER;
        }
        own[1] = (own[1] & 0xffff) | (words[1] & 0xffff0000u);
        write_words(s, endpoint_context(s, slot, 1), own, 8);
    }
    return CC_SUCCESS;
}

static unsigned endpoint_command(XhciState *s, unsigned slot, unsigned endpoint, const XhciTrb *t)
{
    XhciEndpoint *ep = &s->slots[slot].endpoints[endpoint];

    if (endpoint == 0 || ep->state == EP_DISABLED) {
        return CC_ENDPOINT_NOT_ENABLED;
    }
    switch (TRB_TYPE(t->control)) {
    case TRB_RESET_ENDPOINT:
        if (ep->state != EP_HALTED) {
            return CC_CONTEXT_STATE;
        }
        ep->state = EP_STOPPED;
        ep->done = 0;
        break;
    case TRB_STOP_ENDPOINT:
        if (ep->state != EP_RUNNING) {
            return CC_CONTEXT_STATE;
        }
        xhci_stop_event(s, slot, endpoint);
        ep->state = EP_STOPPED;
        break;
    default: /* set the dequeue pointer */
        if (ep->state != EP_STOPPED && ep->state != EP_ERROR) {
            return CC_CONTEXT_STATE;
        }
        ep->dequeue = t->parameter & ~15ull;
        ep->cycle = t->parameter & 1;
        ep->done = 0;
        ep->state = EP_STOPPED;
        break;
    }
    xhci_write_endpoint(s, slot, endpoint);
    return CC_SUCCESS;
}

static unsigned reset_device(XhciState *s, unsigned slot)
{
    if (s->slots[slot].state < SLOT_ADDRESSED) {
        return CC_CONTEXT_STATE;
    }
    for (unsigned n = 2; n < XHCI_ENDPOINTS; n++) {
        disable_endpoint(s, slot, n);
    }
    if (xhci_slot_device(s, slot)) {
        usb_device_bus_reset(xhci_slot_device(s, slot));
    }
    write_slot_state(s, slot, SLOT_DEFAULT, 0);
    return CC_SUCCESS;
}

static unsigned run_command(XhciState *s, const XhciTrb *t, unsigned *slot)
{
    unsigned type = TRB_TYPE(t->control);

    *slot = t->control >> 24;
    if (type == TRB_ENABLE_SLOT) {
        return enable_slot(s, slot);
    }
    if (type == TRB_NOOP_COMMAND) {
        return CC_SUCCESS;
    }
    if (type < TRB_DISABLE_SLOT || type > TRB_RESET_DEVICE) {
        return CC_TRB;
    }
    if (*slot < 1 || *slot > XHCI_SLOTS || !s->slots[*slot].enabled) {
        return CC_SLOT_NOT_ENABLED;
    }
    switch (type) {
    case TRB_DISABLE_SLOT:
        xhci_slot_disable(s, *slot);
        return CC_SUCCESS;
    case TRB_ADDRESS_DEVICE:
        return address_device(s, *slot, t);
    case TRB_CONFIGURE_ENDPOINT:
        return configure_endpoint(s, *slot, t);
    case TRB_EVALUATE_CONTEXT:
        return s->slots[*slot].state ? evaluate_context(s, *slot, t) : CC_CONTEXT_STATE;
    case TRB_RESET_DEVICE:
        return reset_device(s, *slot);
    default:
        return endpoint_command(s, *slot, t->control >> 16 & 31, t);
    }
}

void xhci_run_commands(XhciState *s)
{
    XhciTrb t;

    for (int i = 0; i < COMMAND_LIMIT && (s->usbcmd & 1); i++) {
        unsigned slot, event = TRB_COMMAND_EVENT, code, more = 0;
        if (!xhci_fetch(s, &s->command_dequeue, &s->command_cycle, &t)) {
            break;
        }
        if (TRB_TYPE(t.control) == TRB_NEC_FIRMWARE && PCI_DEVICE_GET_CLASS(s)->vendor_id == 0x1033) {
            event = TRB_NEC_EVENT;
            code = CC_SUCCESS;
            more = NEC_FIRMWARE;
            slot = 0;
        } else {
            code = run_command(s, &t, &slot);
        }
        TRACE(xhci_command, TRB_TYPE(t.control), slot, code);
        xhci_event(s, 0, t.address, code << 24 | more, event << 10 | slot << 24);
    }
}
