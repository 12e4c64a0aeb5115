/*
 * usb-tablet, usb-mouse and usb-kbd. Sources: Device Class Definition for Human Interface Devices (HID) 1.11,
 * with its appendix B for boot keyboards and mice; HID Usage Tables 1.12.
 *
 * One interrupt endpoint tells reports. What happens between two polls is queued: a keyboard's events one by
 * one, so that a quick press is seen; a pointer's motion adds up while the buttons stay the same. Presses
 * leave room for releases, so that nothing sticks. Left out on purpose: physical units, idle rates other than
 * "when something changed".
 *
 * Threads: the controller's. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/usb/usb.h"

#include "base/error.h"
#include "input/input.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(usb_hid_report, "%s %02x %02x %02x %02x");

#define TYPE_USB_HID "usb-hid" /* abstract */
#define QUEUE_SIZE   512u
#define PRESS_LIMIT  256u /* of the queue; the rest is for releases */
#define ENDPOINT     1
#define KEY_REPORT   8
#define KEYS_DOWN    6 /* that a report has room for */
#define REPORT_MAX   8

enum {
    HID_GET_REPORT = 0x01,
    HID_GET_IDLE = 0x02,
    HID_GET_PROTOCOL = 0x03,
    HID_SET_REPORT = 0x09,
    HID_SET_IDLE = 0x0a,
    HID_SET_PROTOCOL = 0x0b,
};
enum { DESCRIPTOR_HID = 0x21, DESCRIPTOR_REPORT = 0x22, GET_DESCRIPTOR = 6 };
enum { LED_NUM_LOCK = 1, LED_CAPS_LOCK = 2, LED_SCROLL_LOCK = 4 };

/* A state of a pointer's that is to be told. */
typedef struct PointerState {
    uint8_t buttons;
    int32_t x, y, wheel;
} PointerState;

typedef struct UsbHidKind {
    const InputHandlerOps *input;
    const uint8_t *report_descriptor;
    UsbDescriptors descriptors;
    uint8_t report_size;
    bool keyboard, absolute;
} UsbHidKind;

typedef struct UsbHidClass {
    UsbDeviceClass parent_class;
    const UsbHidKind *kind;
} UsbHidClass;
#define USB_HID_GET_CLASS(obj) OBJECT_GET_CLASS(UsbHidClass, obj)

typedef struct UsbHid {
    UsbDevice parent_obj;
    /* saved */
    uint8_t idle, protocol, leds;
    uint32_t head, count; /* of the queue */
    uint8_t usages[QUEUE_SIZE], presses[QUEUE_SIZE];
    uint32_t known[256 / 32]; /* keys that are down at the queue's end */
    uint32_t down[256 / 32];  /* and those that the guest was told of */
    uint8_t states_buttons[QUEUE_SIZE];
    int32_t states_x[QUEUE_SIZE], states_y[QUEUE_SIZE], states_wheel[QUEUE_SIZE];
    uint8_t last_buttons; /* of the last report */
    int32_t last_x, last_y;
    uint8_t buttons; /* as they are */
    int32_t x, y;    /* of an absolute pointer, as they are */
    /* derived */
    InputHandler *handler;
} UsbHid;
#define USB_HID(obj) OBJECT_CHECK(UsbHid, obj, TYPE_USB_HID)

/* ---- input ---- */

static bool get_bit(const uint32_t *bits, unsigned n)
{
    return bits[n / 32] >> (n % 32) & 1;
}

static void put_bit(uint32_t *bits, unsigned n, bool on)
{
    uint32_t bit = 1u << (n % 32);

    bits[n / 32] = on ? bits[n / 32] | bit : bits[n / 32] & ~bit;
}

static void key_event(void *opaque, const InputEvent *event)
{
    UsbHid *s = opaque;
    const InputKey *key = input_key_find(event->code);

    if (!key || !key->hid || get_bit(s->known, key->hid) == !!event->value ||
        s->count >= (event->value ? PRESS_LIMIT : QUEUE_SIZE)) {
        return;
    }
    uint32_t at = (s->head + s->count++) % QUEUE_SIZE;
    s->usages[at] = key->hid;
    s->presses[at] = event->value != 0;
    put_bit(s->known, key->hid, event->value);
}

static void take_state(UsbHid *s, uint32_t at, PointerState *state)
{
    *state = (PointerState){ s->states_buttons[at], s->states_x[at], s->states_y[at], s->states_wheel[at] };
}

static void put_state(UsbHid *s, uint32_t at, const PointerState *state)
{
    s->states_buttons[at] = state->buttons;
    s->states_x[at] = state->x;
    s->states_y[at] = state->y;
    s->states_wheel[at] = state->wheel;
}

/* The state at the queue's end, which motion is added to; a new one where the buttons differ. */
static void pointer_event(void *opaque, const InputEvent *event)
{
    UsbHid *s = opaque;
    bool absolute = USB_HID_GET_CLASS(s)->kind->absolute;
    PointerState state = { 0 };
    int32_t dx = 0, dy = 0, wheel = 0;

    if (event->kind == INPUT_REL || event->kind == INPUT_ABS) {
        int32_t *to = absolute ? (event->code == INPUT_AXIS_X ? &s->x : &s->y)
                               : (event->code == INPUT_AXIS_X ? &dx : &dy);
        *to = CLAMP(event->value, absolute ? 0 : -INPUT_ABS_MAX, INPUT_ABS_MAX);
    } else if (event->code == INPUT_BUTTON_WHEEL_UP || event->code == INPUT_BUTTON_WHEEL_DOWN) {
        wheel = !event->value ? 0 : event->code == INPUT_BUTTON_WHEEL_UP ? 1 : -1;
        if (!wheel) {
            return;
        }
    } else if (event->code <= INPUT_BUTTON_EXTRA) {
        /* Left, right, middle, side, extra: in that order from bit 0. */
        static const uint8_t bits[] = { [INPUT_BUTTON_LEFT] = 1,
                                        [INPUT_BUTTON_RIGHT] = 2,
                                        [INPUT_BUTTON_MIDDLE] = 4,
                                        [INPUT_BUTTON_SIDE] = 8,
                                        [INPUT_BUTTON_EXTRA] = 16 };
        uint8_t bit = bits[event->code];
        s->buttons = event->value ? s->buttons | bit : s->buttons & (uint8_t)~bit;
    } else {
        return;
    }
    uint32_t last = (s->head + s->count - 1) % QUEUE_SIZE;
    if (s->count) {
        take_state(s, last, &state);
    }
    if (!s->count || (state.buttons != s->buttons && s->count < QUEUE_SIZE)) {
        last = (s->head + s->count++) % QUEUE_SIZE;
        state = (PointerState){ 0 };
    } /* a full queue's end takes all that comes: buttons are right in the end */
    state.buttons = s->buttons;
    state.x = absolute ? s->x : CLAMP(state.x + dx, -INPUT_ABS_MAX, INPUT_ABS_MAX);
    state.y = absolute ? s->y : CLAMP(state.y + dy, -INPUT_ABS_MAX, INPUT_ABS_MAX);
    state.wheel = CLAMP(state.wheel + wheel, -INPUT_ABS_MAX, INPUT_ABS_MAX);
    put_state(s, last, &state);
}

static void input_sync(void *opaque)
{
    UsbHid *s = opaque;

    if (s->count) {
        usb_wakeup(&s->parent_obj, ENDPOINT, true);
    }
}

/* ---- reports ---- */

static void key_report(UsbHid *s, uint8_t *report)
{
    unsigned count = 0;

    memset(report, 0, KEY_REPORT);
    report[0] = (uint8_t)s->down[0xe0 / 32]; /* modifiers are 0xe0 to 0xe7, in the report's order */
    for (unsigned usage = 4; usage < 0xe0; usage++) {
        if (get_bit(s->down, usage)) {
            if (count < KEYS_DOWN) {
                report[2 + count] = (uint8_t)usage;
            }
            count++;
        }
    }
    if (count > KEYS_DOWN) {
        memset(report + 2, 1, KEYS_DOWN); /* too many to tell */
    }
}

static void pointer_report(UsbHid *s, const PointerState *state, uint8_t *report)
{
    int8_t wheel = (int8_t)CLAMP(state->wheel, -127, 127);

    report[0] = state->buttons;
    if (USB_HID_GET_CLASS(s)->kind->absolute) {
        report[1] = (uint8_t)state->x;
        report[2] = (uint8_t)(state->x >> 8);
        report[3] = (uint8_t)state->y;
        report[4] = (uint8_t)(state->y >> 8);
        report[5] = (uint8_t)wheel;
    } else {
        report[1] = (uint8_t)(int8_t)CLAMP(state->x, -127, 127);
        report[2] = (uint8_t)(int8_t)CLAMP(state->y, -127, 127);
        report[3] = (uint8_t)wheel;
    }
}

/* What a report could not hold of relative motion stays for the next. */
static bool left_over(UsbHid *s, PointerState *state)
{
    bool absolute = USB_HID_GET_CLASS(s)->kind->absolute;

    state->x -= absolute ? 0 : CLAMP(state->x, -127, 127);
    state->y -= absolute ? 0 : CLAMP(state->y, -127, 127);
    state->wheel -= CLAMP(state->wheel, -127, 127);
    return state->wheel || (!absolute && (state->x || state->y));
}

/* The next report of the queue, or (again) the present state; how many bytes. */
static unsigned make_report(UsbHid *s, uint8_t *report, bool take)
{
    const UsbHidKind *kind = USB_HID_GET_CLASS(s)->kind;

    if (kind->keyboard) {
        if (take && s->count) {
            put_bit(s->down, s->usages[s->head], s->presses[s->head]);
            s->head = (s->head + 1) % QUEUE_SIZE;
            s->count--;
        }
        key_report(s, report);
    } else {
        PointerState state = { s->last_buttons, kind->absolute ? s->last_x : 0,
                               kind->absolute ? s->last_y : 0, 0 };
        if (take && s->count) {
            take_state(s, s->head, &state);
            s->last_buttons = state.buttons;
            s->last_x = state.x;
            s->last_y = state.y;
            pointer_report(s, &state, report);
            if (left_over(s, &state)) {
                put_state(s, s->head, &state);
            } else {
                s->head = (s->head + 1) % QUEUE_SIZE;
                s->count--;
            }
        } else {
            pointer_report(s, &state, report);
        }
    }
    return kind->report_size;
}

/* ---- the device ---- */

static void set_leds(UsbHid *s, uint8_t leds)
{
    s->leds = leds;
    input_handler_set_leds(s->handler, (leds & LED_NUM_LOCK ? INPUT_LED_NUM : 0) |
                                           (leds & LED_CAPS_LOCK ? INPUT_LED_CAPS : 0) |
                                           (leds & LED_SCROLL_LOCK ? INPUT_LED_SCROLL : 0));
}

static uint16_t report_descriptor_size(const UsbHidKind *kind)
{
    const uint8_t *hid = kind->descriptors.configuration + 18; /* behind configuration and interface */

    return (uint16_t)(hid[7] | hid[8] << 8);
}

static UsbStatus hid_control(UsbDevice *dev, const UsbSetup *setup, uint8_t *data, uint32_t *actual)
{
    UsbHid *s = USB_HID(dev);
    const UsbHidKind *kind = USB_HID_GET_CLASS(s)->kind;
    uint8_t report[REPORT_MAX];
    unsigned size;

    switch (setup->request_type << 8 | setup->request) {
    case 0x8100 | GET_DESCRIPTOR:
        if (setup->value >> 8 == DESCRIPTOR_REPORT) {
            *actual = MIN(setup->length, report_descriptor_size(kind));
            memcpy(data, kind->report_descriptor, *actual);
            return USB_OK;
        }
        if (setup->value >> 8 == DESCRIPTOR_HID) {
            *actual = MIN(setup->length, 9u);
            memcpy(data, kind->descriptors.configuration + 18, *actual);
            return USB_OK;
        }
        return USB_STALL;
    case 0xa100 | HID_GET_REPORT:
        size = make_report(s, report, false);
        *actual = MIN(setup->length, size);
        memcpy(data, report, *actual);
        return USB_OK;
    case 0xa100 | HID_GET_IDLE:
    case 0xa100 | HID_GET_PROTOCOL:
        *actual = MIN(setup->length, 1u);
        data[0] = setup->request == HID_GET_IDLE ? s->idle : s->protocol;
        return USB_OK;
    case 0x2100 | HID_SET_REPORT:
        if (kind->keyboard && setup->length >= 1) {
            set_leds(s, data[0]);
        }
        return kind->keyboard ? USB_OK : USB_STALL;
    case 0x2100 | HID_SET_IDLE:
        s->idle = (uint8_t)(setup->value >> 8);
        return USB_OK;
    case 0x2100 | HID_SET_PROTOCOL:
        s->protocol = setup->value & 1;
        return USB_OK;
    default:
        return USB_STALL;
    }
}

static UsbStatus hid_transfer(UsbDevice *dev, UsbPacket *p)
{
    UsbHid *s = USB_HID(dev);
    uint8_t report[REPORT_MAX] = { 0 };

    if (p->pid != USB_PID_IN || p->endpoint != ENDPOINT) {
        return USB_STALL;
    }
    if (!s->count) {
        return USB_NAK;
    }
    unsigned size = make_report(s, report, true);
    p->actual = MIN(size, p->size);
    memcpy(p->data, report, p->actual);
    TRACE(usb_hid_report, object_get_typename(OBJECT(dev)), report[0], report[1], report[2], report[3]);
    return USB_OK;
}

static void hid_reset(UsbDevice *dev)
{
    UsbHid *s = USB_HID(dev);

    input_handler_deactivate(s->handler);
    s->idle = 0;
    s->protocol = 1; /* reports, not the boot protocol */
    s->head = s->count = 0;
    memset(s->known, 0, sizeof(s->known));
    memset(s->down, 0, sizeof(s->down));
    s->buttons = s->last_buttons = 0;
    s->x = s->y = s->last_x = s->last_y = 0;
    set_leds(s, 0);
}

static void hid_configured(UsbDevice *dev)
{
    UsbHid *s = USB_HID(dev);

    if (dev->configuration) {
        input_handler_activate(s->handler);
    } else {
        input_handler_deactivate(s->handler);
    }
}

static const UsbDescriptors *hid_descriptors(UsbDevice *dev)
{
    return &USB_HID_GET_CLASS(dev)->kind->descriptors;
}

static bool hid_realize(UsbDevice *dev, GError **error)
{
    UsbHid *s = USB_HID(dev);

    s->protocol = 1;
    s->handler = input_handler_new(DEVICE(dev)->env->inputs, USB_HID_GET_CLASS(s)->kind->input, s,
                                   dev->bus->home, false);
    return true;
}

static void hid_unrealize(UsbDevice *dev)
{
    UsbHid *s = USB_HID(dev);

    input_handler_free(s->handler);
    s->handler = NULL;
}

static bool hid_post_load(void *opaque, int version, GError **error)
{
    UsbHid *s = opaque;

    if (s->head >= QUEUE_SIZE || s->count > QUEUE_SIZE) {
        s->head = s->count = 0;
        return error_set(error, "usb-hid: impossible queue");
    }
    for (unsigned i = 0; i < QUEUE_SIZE; i++) { /* sums of these must not overflow */
        s->states_x[i] = CLAMP(s->states_x[i], -INPUT_ABS_MAX, INPUT_ABS_MAX);
        s->states_y[i] = CLAMP(s->states_y[i], -INPUT_ABS_MAX, INPUT_ABS_MAX);
        s->states_wheel[i] = CLAMP(s->states_wheel[i], -INPUT_ABS_MAX, INPUT_ABS_MAX);
    }
    hid_configured(&s->parent_obj);
    set_leds(s, s->leds);
    return true;
}

static const VmStateField hid_fields[] = {
    VMS_STRUCT(parent_obj, UsbHid, usb_device_vmstate),
    VMS_UINT8(idle, UsbHid),
    VMS_UINT8(protocol, UsbHid),
    VMS_UINT8(leds, UsbHid),
    VMS_UINT32(head, UsbHid),
    VMS_UINT32(count, UsbHid),
    VMS_BUFFER(usages, UsbHid),
    VMS_BUFFER(presses, UsbHid),
    VMS_UINT32(known, UsbHid),
    VMS_UINT32(down, UsbHid),
    VMS_BUFFER(states_buttons, UsbHid),
    VMS_INT32(states_x, UsbHid),
    VMS_INT32(states_y, UsbHid),
    VMS_INT32(states_wheel, UsbHid),
    VMS_UINT8(last_buttons, UsbHid),
    VMS_INT32(last_x, UsbHid),
    VMS_INT32(last_y, UsbHid),
    VMS_UINT8(buttons, UsbHid),
    VMS_INT32(x, UsbHid),
    VMS_INT32(y, UsbHid),
    VMS_END,
};
static const VmState hid_vmstate = {
    .name = TYPE_USB_HID,
    .version = 1,
    .minimum_version = 1,
    .fields = hid_fields,
    .post_load = hid_post_load,
};

static void hid_class_init(ObjectClass *klass, const void *data)
{
    UsbDeviceClass *uc = USB_DEVICE_CLASS(klass);
    DEVICE_CLASS(klass)->vmstate = &hid_vmstate;
    DEVICE_CLASS(klass)->category = "Input";
    uc->speed = USB_SPEED_FULL;
    uc->realize = hid_realize;
    uc->unrealize = hid_unrealize;
    uc->descriptors = hid_descriptors;
    uc->reset = hid_reset;
    uc->configured = hid_configured;
    uc->control = hid_control;
    uc->transfer = hid_transfer;
}

static const TypeInfo hid_info = {
    .name = TYPE_USB_HID,
    .parent = TYPE_USB_DEVICE,
    .abstract = true,
    .instance_size = sizeof(UsbHid),
    .class_size = sizeof(UsbHidClass),
    .class_init = hid_class_init,
};
TYPE_REGISTER(hid_info);

/* ---- descriptors ---- */

/* clang-format off */
#define POINTER_START                                                                        \
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00, /* mouse: a pointer */       \
    0x05, 0x09, 0x19, 0x01, 0x29, 0x05, 0x15, 0x00, 0x25, 0x01, /* buttons 1 to 5 */         \
    0x95, 0x05, 0x75, 0x01, 0x81, 0x02, 0x95, 0x01, 0x75, 0x03, 0x81, 0x01
static const uint8_t mouse_report[] = {
    POINTER_START,
    0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x09, 0x38, /* x, y, wheel: distances */
    0x15, 0x81, 0x25, 0x7f, 0x75, 0x08, 0x95, 0x03, 0x81, 0x06, 0xc0, 0xc0,
};
static const uint8_t tablet_report[] = {
    POINTER_START,
    0x05, 0x01, 0x09, 0x30, 0x09, 0x31, /* x, y: places up to 0x7fff */
    0x15, 0x00, 0x26, 0xff, 0x7f, 0x35, 0x00, 0x46, 0xff, 0x7f, 0x75, 0x10, 0x95, 0x02, 0x81, 0x02,
    0x05, 0x01, 0x09, 0x38, 0x15, 0x81, 0x25, 0x7f, 0x35, 0x00, 0x45, 0x00, 0x75, 0x08, 0x95, 0x01, 0x81, 0x06,
    0xc0, 0xc0,
};
static const uint8_t keyboard_report[] = {
    0x05, 0x01, 0x09, 0x06, 0xa1, 0x01,
    0x75, 0x01, 0x95, 0x08, 0x05, 0x07, 0x19, 0xe0, 0x29, 0xe7, 0x15, 0x00, 0x25, 0x01, 0x81, 0x02, /* modifiers */
    0x95, 0x01, 0x75, 0x08, 0x81, 0x01,
    0x95, 0x05, 0x75, 0x01, 0x05, 0x08, 0x19, 0x01, 0x29, 0x05, 0x91, 0x02, 0x95, 0x01, 0x75, 0x03, 0x91, 0x01, /* lamps */
    0x95, 0x06, 0x75, 0x08, 0x15, 0x00, 0x26, 0xff, 0x00, 0x05, 0x07, 0x19, 0x00, 0x29, 0xff, 0x81, 0x00, 0xc0, /* keys */
};

#define DEVICE_DESCRIPTOR(product) \
    { 18, 1, 0x00, 0x02, 0, 0, 0, 8, 0x27, 0x06, product, 0x00, 0x00, 0x00, 1, 2, 3, 1 }
/* Configuration 1, its interface with the HID descriptor, and the interrupt endpoint. */
#define CONFIGURATION(subclass, protocol, report, packet, interval)                            \
    { 9, 2, 34, 0, 1, 1, 0, 0xa0, 50, 9, 4, 0, 0, 1, 3, subclass, protocol, 0,                 \
      9, 0x21, 0x01, 0x01, 0, 1, 0x22, sizeof(report), 0, 7, 5, 0x81, 3, packet, 0, interval }
/* clang-format on */

#define HID_TYPE(x, x_name, x_text, x_product, x_subclass, x_protocol, x_size, x_packet, x_interval, \
                 x_kinds, x_event, ...)                                                              \
    static const uint8_t x##_device[] = DEVICE_DESCRIPTOR(x_product);                                \
    static const uint8_t x##_configuration[] =                                                       \
        CONFIGURATION(x_subclass, x_protocol, x##_report, x_packet, x_interval);                     \
    static const char *const x##_strings[] = { "QEMU", "QEMU USB " x_text, "1", NULL };              \
    static const InputHandlerOps x##_input = { "USB " x_name, x_kinds, x_event, input_sync };        \
    static const UsbHidKind x##_kind = { &x##_input,                                                 \
                                         x##_report,                                                 \
                                         { x##_device, x##_configuration, sizeof(x##_configuration), \
                                           x##_strings },                                            \
                                         x_size,                                                     \
                                         __VA_ARGS__ };                                              \
    static const TypeInfo x##_info = {                                                               \
        .name = "usb-" x_name,                                                                       \
        .parent = TYPE_USB_HID,                                                                      \
        .description = "USB " x_name,                                                                \
        .class_init = kind_class_init,                                                               \
        .class_data = &x##_kind,                                                                     \
    };                                                                                               \
    TYPE_REGISTER(x##_info)

static void kind_class_init(ObjectClass *klass, const void *data)
{
    ((UsbHidClass *)klass)->kind = data;
}

HID_TYPE(mouse, "mouse", "Mouse", 0x01, 1, 2, 4, 4, 10, 1u << INPUT_REL | 1u << INPUT_BUTTON, pointer_event);
HID_TYPE(tablet, "tablet", "Tablet", 0x01, 0, 0, 6, 8, 10, 1u << INPUT_ABS | 1u << INPUT_BUTTON,
         pointer_event, .absolute = true);
HID_TYPE(keyboard, "kbd", "Keyboard", 0x01, 1, 1, KEY_REPORT, 8, 10, 1u << INPUT_KEY, key_event,
         .keyboard = true);
