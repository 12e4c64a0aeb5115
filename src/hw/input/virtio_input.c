/*
 * virtio-input: a keyboard, a mouse and a tablet. Source: VIRTIO 1.2, section 5.8; Linux'
 * input-event-codes.h for the codes of events.
 *
 * What the registry of input gives is kept in a backlog until the driver has buffers for a whole group (its
 * events and the SYN_REPORT that ends them). A group is taken as a whole or not at all; presses and motion
 * leave room for the release of all that can be down, so that a driver which stands still loses events, but
 * nothing sticks. Left out on purpose: force feedback, keys' repeat (drivers do it).
 *
 * Threads: the main loop's. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "hw/virtio/virtio_device.h"
#include "input/input.h"
#include "trace/trace.h"

#include <linux/input-event-codes.h>
#include <string.h>

TRACE_EVENT(virtio_input_event, "type %u code %u value %d");
TRACE_EVENT(virtio_input_lost, "%u events");

#define TYPE_VIRTIO_INPUT "virtio-input-device" /* abstract */
#define QUEUE_SIZE        64
#define BACKLOG           1024u
#define RELEASE_ROOM      600u /* of it: 256 keys and some buttons, each with its SYN_REPORT */
#define GROUP_MAX         8u
#define CONFIG_DATA       128
#define BUS_VIRTUAL_ID    6
#define VENDOR            0x0627
#define BITMAP_SIZE       (KEY_CNT / 8)

/* What the configuration's select field chooses (5.8.4). */
enum {
    CFG_UNSET = 0x00,
    CFG_ID_NAME = 0x01,
    CFG_ID_SERIAL = 0x02,
    CFG_ID_DEVIDS = 0x03,
    CFG_EV_BITS = 0x11,
    CFG_ABS_INFO = 0x12,
};

typedef struct WireEvent {
    uint16_t type, code; /* little-endian, as the driver sees them */
    uint32_t value;
} WireEvent;

typedef struct VirtioInputKind {
    const char *name;
    uint16_t product;
    const InputHandlerOps *input;
    bool keys, relative, absolute;
} VirtioInputKind;

typedef struct VirtioInputClass {
    VirtioDeviceClass parent_class;
    const VirtioInputKind *kind;
} VirtioInputClass;
#define VIRTIO_INPUT_GET_CLASS(obj) OBJECT_GET_CLASS(VirtioInputClass, obj)

typedef struct VirtioInput {
    VirtioDevice parent_obj;
    /* saved */
    uint8_t select, subselect;
    uint8_t leds;
    uint8_t down[BITMAP_SIZE]; /* keys and buttons as the driver was told or will be */
    uint32_t backlog_count;
    uint32_t backlog_type[BACKLOG]; /* type << 16 | code */
    int32_t backlog_value[BACKLOG];
    /* from properties */
    char *serial;
    /* derived */
    InputHandler *handler;
    VirtQueue *events, *status;
    WireEvent group[GROUP_MAX]; /* of the moment that is being told; in the host's byte order */
    unsigned group_count;
    bool group_releases;
} VirtioInput;
#define VIRTIO_INPUT(obj) OBJECT_CHECK(VirtioInput, obj, TYPE_VIRTIO_INPUT)

/* ---- events to the driver ---- */

/* Whole groups, as many as the driver has buffers for. */
static void flush(VirtioInput *s)
{
    unsigned sent = 0;
    bool pushed = false;

    while (virtio_device_active(&s->parent_obj) && sent < s->backlog_count) {
        VirtQueueElement *taken[GROUP_MAX];
        unsigned length = 0, got = 0;
        while (sent + length < s->backlog_count && length < GROUP_MAX) {
            if (s->backlog_type[sent + length++] == (uint32_t)(EV_SYN << 16 | SYN_REPORT)) {
                break;
            }
        }
        while (got < length && (taken[got] = virtqueue_pop(s->events, sizeof(VirtQueueElement)))) {
            got++;
        }
        if (got < length) {
            while (got) {
                virtqueue_unpop(s->events, taken[--got]);
            }
            break;
        }
        for (unsigned i = 0; i < length; i++) {
            uint32_t type = s->backlog_type[sent + i];
            WireEvent event = { GUINT16_TO_LE(type >> 16), GUINT16_TO_LE(type & 0xffff),
                                GUINT32_TO_LE((uint32_t)s->backlog_value[sent + i]) };
            size_t written = iov_write(taken[i]->in, taken[i]->in_count, 0, &event, sizeof(event));
            virtqueue_push(s->events, taken[i], written);
        }
        sent += length;
        pushed = true;
    }
    s->backlog_count -= sent;
    memmove(s->backlog_type, s->backlog_type + sent, s->backlog_count * sizeof(s->backlog_type[0]));
    memmove(s->backlog_value, s->backlog_value + sent, s->backlog_count * sizeof(s->backlog_value[0]));
    if (pushed) {
        virtqueue_notify(s->events);
    }
}

static void group_add(VirtioInput *s, uint16_t type, uint16_t code, int32_t value)
{
    if (s->group_count < GROUP_MAX - 1) {
        s->group[s->group_count++] = (WireEvent){ type, code, (uint32_t)value };
    }
}

/* The moment is complete: into the backlog with it. */
static void group_end(VirtioInput *s)
{
    uint32_t limit = s->group_releases ? BACKLOG : BACKLOG - RELEASE_ROOM;

    if (s->group_count && s->backlog_count + s->group_count + 1 <= limit) {
        s->group[s->group_count++] = (WireEvent){ EV_SYN, SYN_REPORT, 0 };
        for (unsigned i = 0; i < s->group_count; i++) {
            const WireEvent *e = &s->group[i];
            TRACE(virtio_input_event, e->type, e->code, (int)e->value);
            s->backlog_type[s->backlog_count] = (uint32_t)e->type << 16 | e->code;
            s->backlog_value[s->backlog_count++] = (int32_t)e->value;
            if (e->type == EV_KEY) {
                uint8_t bit = (uint8_t)(1 << (e->code % 8));
                uint8_t *byte = &s->down[e->code / 8];
                *byte = e->value ? *byte | bit : *byte & (uint8_t)~bit;
            }
        }
    } else if (s->group_count) {
        TRACE(virtio_input_lost, s->group_count);
    }
    s->group_count = 0;
    s->group_releases = false;
    flush(s);
}

/* A key or button is a group of its own, so that its press and release have room or not for themselves. */
static void tell_key(VirtioInput *s, uint16_t code, bool down)
{
    bool is_down = s->down[code / 8] >> (code % 8) & 1;

    if (down == is_down) {
        return;
    }
    if (s->group_count) {
        group_end(s);
    }
    group_add(s, EV_KEY, code, down);
    s->group_releases = !down;
    group_end(s);
}

static void tell_button(VirtioInput *s, const InputEvent *event)
{
    static const uint16_t codes[] = {
        [INPUT_BUTTON_LEFT] = BTN_LEFT, [INPUT_BUTTON_MIDDLE] = BTN_MIDDLE, [INPUT_BUTTON_RIGHT] = BTN_RIGHT,
        [INPUT_BUTTON_SIDE] = BTN_SIDE, [INPUT_BUTTON_EXTRA] = BTN_EXTRA,
    };

    switch (event->code) {
    case INPUT_BUTTON_WHEEL_UP:
    case INPUT_BUTTON_WHEEL_DOWN:
        if (event->value) {
            group_add(s, EV_REL, REL_WHEEL, event->code == INPUT_BUTTON_WHEEL_UP ? 1 : -1);
        }
        break;
    case INPUT_BUTTON_WHEEL_LEFT:
    case INPUT_BUTTON_WHEEL_RIGHT:
        if (event->value) {
            group_add(s, EV_REL, REL_HWHEEL, event->code == INPUT_BUTTON_WHEEL_RIGHT ? 1 : -1);
        }
        break;
    default:
        if (event->code < G_N_ELEMENTS(codes) && codes[event->code]) {
            tell_key(s, codes[event->code], event->value);
        }
        break;
    }
}

static void on_input(void *opaque, const InputEvent *event)
{
    VirtioInput *s = opaque;

    switch (event->kind) {
    case INPUT_KEY:
        tell_key(s, event->code, event->value);
        break;
    case INPUT_BUTTON:
        tell_button(s, event);
        break;
    case INPUT_REL:
        group_add(s, EV_REL, event->code == INPUT_AXIS_X ? REL_X : REL_Y, event->value);
        break;
    default:
        group_add(s, EV_ABS, event->code == INPUT_AXIS_X ? ABS_X : ABS_Y, event->value);
        break;
    }
}

static void on_sync(void *opaque)
{
    group_end(opaque);
}

static void handle_events(VirtioDevice *vdev, VirtQueue *vq)
{
    flush(VIRTIO_INPUT(vdev));
}

/* ---- lamps ---- */

static void set_led(VirtioInput *s, unsigned led, bool on)
{
    static const uint8_t bits[] = {
        [LED_NUML] = INPUT_LED_NUM, [LED_CAPSL] = INPUT_LED_CAPS, [LED_SCROLLL] = INPUT_LED_SCROLL
    };

    if (led < G_N_ELEMENTS(bits)) {
        s->leds = on ? s->leds | bits[led] : s->leds & (uint8_t)~bits[led];
        input_handler_set_leds(s->handler, s->leds);
    }
}

static void handle_status(VirtioDevice *vdev, VirtQueue *vq)
{
    VirtioInput *s = VIRTIO_INPUT(vdev);
    VirtQueueElement *e;
    bool pushed = false;

    while (virtio_device_active(vdev) && (e = virtqueue_pop(vq, sizeof(*e)))) {
        WireEvent event;
        if (iov_read(e->out, e->out_count, 0, &event, sizeof(event)) == sizeof(event) &&
            GUINT16_FROM_LE(event.type) == EV_LED) {
            set_led(s, GUINT16_FROM_LE(event.code), event.value);
        }
        virtqueue_push(vq, e, 0);
        pushed = true;
    }
    if (pushed) {
        virtqueue_notify(vq);
    }
}

/* ---- configuration ---- */

static void set_bit(uint8_t *bits, unsigned bit)
{
    bits[bit / 8] |= (uint8_t)(1 << (bit % 8));
}

/* The codes of one type of event; how many bytes are in use. */
static uint8_t event_bits(const VirtioInputKind *kind, unsigned type, uint8_t *bits)
{
    memset(bits, 0, CONFIG_DATA);
    if (type == EV_KEY) {
        for (unsigned code = 0; kind->keys && code < INPUT_KEY_COUNT; code++) {
            if (input_key_find(code)) {
                set_bit(bits, code);
            }
        }
        for (unsigned code = BTN_LEFT; !kind->keys && code <= BTN_EXTRA; code++) {
            set_bit(bits, code);
        }
    } else if (type == EV_REL && !kind->keys) {
        if (kind->relative) {
            set_bit(bits, REL_X);
            set_bit(bits, REL_Y);
        }
        set_bit(bits, REL_WHEEL);
        set_bit(bits, REL_HWHEEL);
    } else if (type == EV_ABS && kind->absolute) {
        set_bit(bits, ABS_X);
        set_bit(bits, ABS_Y);
    } else if (type == EV_LED && kind->keys) {
        set_bit(bits, LED_NUML);
        set_bit(bits, LED_CAPSL);
        set_bit(bits, LED_SCROLLL);
    } else if (type == EV_REP && kind->keys) {
        set_bit(bits, REP_DELAY);
        set_bit(bits, REP_PERIOD);
    }
    uint8_t size = CONFIG_DATA;
    while (size && !bits[size - 1]) {
        size--;
    }
    return size;
}

static uint8_t put_text(uint8_t *data, const char *text)
{
    size_t size = text ? MIN(strlen(text), (size_t)CONFIG_DATA) : 0;

    memcpy(data, text ? text : "", size);
    return (uint8_t)size;
}

static void put_le16(uint8_t *to, uint16_t value)
{
    to[0] = (uint8_t)value;
    to[1] = (uint8_t)(value >> 8);
}

static uint8_t config_data(const VirtioInput *s, uint8_t *data)
{
    const VirtioInputKind *kind = VIRTIO_INPUT_GET_CLASS(s)->kind;

    switch (s->select) {
    case CFG_ID_NAME:
        return s->subselect ? 0 : put_text(data, kind->name);
    case CFG_ID_SERIAL:
        return s->subselect ? 0 : put_text(data, s->serial);
    case CFG_ID_DEVIDS:
        if (s->subselect) {
            return 0;
        }
        put_le16(data, BUS_VIRTUAL_ID);
        put_le16(data + 2, VENDOR);
        put_le16(data + 4, kind->product);
        put_le16(data + 6, 1);
        return 8;
    case CFG_EV_BITS:
        return event_bits(kind, s->subselect, data);
    case CFG_ABS_INFO: /* minimum, maximum, fuzz, flat, resolution */
        if (!kind->absolute || s->subselect > ABS_Y) {
            return 0;
        }
        memset(data, 0, 20);
        put_le16(data + 4, INPUT_ABS_MAX);
        return 20;
    default:
        return 0;
    }
}

static void input_get_config(VirtioDevice *vdev, uint8_t *config)
{
    const VirtioInput *s = VIRTIO_INPUT(vdev);

    config[0] = s->select;
    config[1] = s->subselect;
    config[2] = config_data(s, config + 8);
}

static void input_set_config(VirtioDevice *vdev, uint32_t offset, const uint8_t *data, unsigned size)
{
    VirtioInput *s = VIRTIO_INPUT(vdev);

    for (unsigned i = 0; i < size; i++) {
        if (offset + i == 0) {
            s->select = data[i];
        } else if (offset + i == 1) {
            s->subselect = data[i];
        }
    }
}

/* ---- life ---- */

static uint64_t input_get_features(VirtioDevice *vdev)
{
    return 0;
}

static void input_start(VirtioDevice *vdev)
{
    input_handler_activate(VIRTIO_INPUT(vdev)->handler);
}

static void input_reset(VirtioDevice *vdev)
{
    VirtioInput *s = VIRTIO_INPUT(vdev);

    input_handler_deactivate(s->handler);
    s->select = s->subselect = s->leds = 0;
    s->backlog_count = s->group_count = 0;
    memset(s->down, 0, sizeof(s->down));
    input_handler_set_leds(s->handler, 0);
}

static bool input_realize(VirtioDevice *vdev, GError **error)
{
    VirtioInput *s = VIRTIO_INPUT(vdev);

    if (s->serial && strlen(s->serial) > CONFIG_DATA) {
        return error_set(error, "Property 'serial' may have %d characters", CONFIG_DATA);
    }
    s->events = virtio_queue_add(vdev, QUEUE_SIZE, handle_events, NULL);
    s->status = virtio_queue_add(vdev, QUEUE_SIZE, handle_status, NULL);
    vdev->config_size = 8 + CONFIG_DATA;
    s->handler = input_handler_new(DEVICE(vdev)->env->inputs, VIRTIO_INPUT_GET_CLASS(s)->kind->input, s,
                                   vdev->home, false);
    return true;
}

static void input_unrealize(VirtioDevice *vdev)
{
    VirtioInput *s = VIRTIO_INPUT(vdev);

    input_handler_free(s->handler);
    s->handler = NULL;
}

static bool input_post_load(void *opaque, int version, GError **error)
{
    VirtioInput *s = opaque;

    if (s->backlog_count > BACKLOG) {
        s->backlog_count = 0;
        return error_set(error, "virtio-input: a backlog of more than %u events is impossible", BACKLOG);
    }
    for (uint32_t i = 0; i < s->backlog_count; i++) {
        if (s->backlog_type[i] >> 16 > EV_ABS) {
            return error_set(error, "virtio-input: no event has type %u", s->backlog_type[i] >> 16);
        }
    }
    if (s->parent_obj.status & VIRTIO_STATUS_DRIVER_OK) {
        input_handler_activate(s->handler);
    }
    input_handler_set_leds(s->handler, s->leds);
    return true;
}

static const Property input_properties[] = {
    PROP_STR("serial", VirtioInput, serial, NULL, "shown to the guest as the device's serial number"),
    PROP_END,
};

static const VmStateField input_fields[] = {
    VMS_STRUCT(parent_obj, VirtioInput, virtio_device_vmstate),
    VMS_UINT8(select, VirtioInput),
    VMS_UINT8(subselect, VirtioInput),
    VMS_UINT8(leds, VirtioInput),
    VMS_BUFFER(down, VirtioInput),
    VMS_UINT32(backlog_count, VirtioInput),
    VMS_UINT32(backlog_type, VirtioInput),
    VMS_INT32(backlog_value, VirtioInput),
    VMS_END,
};
static const VmState input_vmstate = {
    .name = "virtio-input", .version = 1, .fields = input_fields, .post_load = input_post_load
};

static void input_class_init(ObjectClass *klass, const void *data)
{
    VirtioDeviceClass *vc = VIRTIO_DEVICE_CLASS(klass);
    DEVICE_CLASS(klass)->vmstate = &input_vmstate;
    DEVICE_CLASS(klass)->category = "Input";
    vc->virtio_id = VIRTIO_ID_INPUT;
    vc->realize = input_realize;
    vc->unrealize = input_unrealize;
    vc->get_features = input_get_features;
    vc->start = input_start;
    vc->get_config = input_get_config;
    vc->set_config = input_set_config;
    vc->reset = input_reset;
    object_class_add_properties(klass, input_properties);
}

static const TypeInfo input_info = {
    .name = TYPE_VIRTIO_INPUT,
    .parent = TYPE_VIRTIO_DEVICE,
    .abstract = true,
    .instance_size = sizeof(VirtioInput),
    .class_size = sizeof(VirtioInputClass),
    .class_init = input_class_init,
};
TYPE_REGISTER(input_info);

/* ---- the three types ---- */

static const InputHandlerOps keyboard_ops = { "virtio keyboard", 1u << INPUT_KEY, on_input, on_sync };
static const InputHandlerOps mouse_ops = { "virtio mouse", 1u << INPUT_REL | 1u << INPUT_BUTTON, on_input,
                                           on_sync };
static const InputHandlerOps tablet_ops = { "virtio tablet", 1u << INPUT_ABS | 1u << INPUT_BUTTON, on_input,
                                            on_sync };
static const VirtioInputKind keyboard_kind = { "QEMU Virtio Keyboard", 1, &keyboard_ops, .keys = true };
static const VirtioInputKind mouse_kind = { "QEMU Virtio Mouse", 2, &mouse_ops, .relative = true };
static const VirtioInputKind tablet_kind = { "QEMU Virtio Tablet", 3, &tablet_ops, .absolute = true };

static void kind_class_init(ObjectClass *klass, const void *data)
{
    ((VirtioInputClass *)klass)->kind = data;
}

#define VIRTIO_INPUT_TYPE(kind)            \
    static const TypeInfo kind##_info = {  \
        .name = "virtio-" #kind "-device", \
        .parent = TYPE_VIRTIO_INPUT,       \
        .description = "virtio " #kind,    \
        .class_init = kind_class_init,     \
        .class_data = &kind##_kind,        \
    };                                     \
    TYPE_REGISTER(kind##_info)

VIRTIO_INPUT_TYPE(keyboard);
VIRTIO_INPUT_TYPE(mouse);
VIRTIO_INPUT_TYPE(tablet);
