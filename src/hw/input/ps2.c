/*
 * A PS/2 keyboard (scan code sets 1 to 3, typematic repeat, lamps) and a PS/2 mouse (plain, with a wheel,
 * with five buttons). Sources: IBM PS/2 Hardware Interface Technical Reference, the chapters on keyboard and
 * mouse; Microsoft "PS/2 mouse" notes for the wheel's and buttons' ids; Intel "Keyboard scan code
 * specification" for the special keys.
 * Left out on purpose: shift codes that keyboards put around the grey keys while Num Lock is on, key types
 * for single keys in set 3, the mouse's sample rate (packets come as fast as the guest reads them).
 *
 * Invariant: a sequence is queued as a whole or not at all, and a key's press only where there is also room
 * to release every key that is down. So a guest that does not read loses presses, but no key of it sticks.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "hw/input/ps2.h"

#include "base/error.h"
#include "trace/trace.h"

#include <linux/input-event-codes.h>
#include <string.h>

TRACE_EVENT(ps2_key, "key %u down %d set %u");
TRACE_EVENT(ps2_key_lost, "key %u");
TRACE_EVENT(ps2_mouse_packet, "buttons %u dx %d dy %d dz %d");

enum {
    PS2_ACK = 0xfa,
    PS2_RESEND = 0xfe,
    PS2_SELF_TEST_OK = 0xaa,
    PS2_ECHO = 0xee,
    PS2_BREAK = 0xf0,
};
#define ANSWER_ROOM      16 /* of the queue, for answers to commands */
#define LONGEST_SEQUENCE 8
#define REPEAT_BACKLOG   8 /* with more bytes unread than that, the guest gets no repeats */
#define NS_PER_MS        1000000ll
#define MOTION_LIMIT     100000

/* ---- the queue ---- */

static void queue_put(Ps2Queue *q, uint8_t byte)
{
    if (q->count < PS2_QUEUE_SIZE) { /* a guest that sends commands and never reads loses answers */
        q->bytes[(q->head + q->count++) % PS2_QUEUE_SIZE] = byte;
    }
}

bool ps2_queue_take(Ps2Queue *q, uint8_t *byte)
{
    if (!q->count) {
        return false;
    }
    *byte = q->bytes[q->head];
    q->head = (uint8_t)((q->head + 1) % PS2_QUEUE_SIZE);
    q->count--;
    return true;
}

static void queue_clear(Ps2Queue *q)
{
    q->head = 0;
    q->count = 0;
}

/* ---- scan codes ---- */

typedef struct Sequence {
    uint8_t bytes[LONGEST_SEQUENCE];
    unsigned count;
} Sequence;

static void add(Sequence *s, uint8_t byte)
{
    if (s->count < LONGEST_SEQUENCE) {
        s->bytes[s->count++] = byte;
    }
}

/* One code of set 1 (below 0x80, or 0xe0xx) as the set has it. */
static void add_code(Sequence *s, unsigned set, unsigned set1, bool down)
{
    uint8_t byte = set1 & 0x7f;

    if (set1 & 0xff00) {
        add(s, (uint8_t)(set1 >> 8));
    }
    if (set == 1) {
        add(s, byte | (down ? 0 : 0x80));
    } else {
        if (!down) {
            add(s, PS2_BREAK);
        }
        add(s, byte == 0x54 ? 0x84 : input_set2_of_set1(byte));
    }
}

static bool is_down(const Ps2Keyboard *k, unsigned code)
{
    return k->down[code / 8] >> (code % 8) & 1;
}

static void pause_sequence(const Ps2Keyboard *k, Sequence *s)
{
    if (is_down(k, KEY_LEFTCTRL) || is_down(k, KEY_RIGHTCTRL)) {
        add_code(s, k->scan_set, 0xe046, true);
        add_code(s, k->scan_set, 0xe046, false);
    } else {
        add_code(s, k->scan_set, 0xe11d, true);
        add_code(s, k->scan_set, 0x45, true);
        add_code(s, k->scan_set, 0xe11d, false);
        add_code(s, k->scan_set, 0x45, false);
    }
}

static void print_sequence(Ps2Keyboard *k, Sequence *s, bool down)
{
    if (down) {
        k->print_as = is_down(k, KEY_LEFTALT) || is_down(k, KEY_RIGHTALT) ? 1
                      : is_down(k, KEY_LEFTCTRL) || is_down(k, KEY_RIGHTCTRL) || is_down(k, KEY_LEFTSHIFT) ||
                              is_down(k, KEY_RIGHTSHIFT)
                          ? 2
                          : 0;
    }
    if (k->print_as == 1) {
        add_code(s, k->scan_set, 0x54, down);
    } else if (k->print_as == 2) {
        add_code(s, k->scan_set, 0xe037, down);
    } else {
        add_code(s, k->scan_set, down ? 0xe02a : 0xe037, down);
        add_code(s, k->scan_set, down ? 0xe037 : 0xe02a, down);
    }
}

static void key_sequence(Ps2Keyboard *k, const InputKey *key, bool down, Sequence *s)
{
    if (k->scan_set == 3) {
        if (key->set3 && (down || k->breaks)) {
            if (!down) {
                add(s, PS2_BREAK);
            }
            add(s, key->set3);
        }
    } else if (key->code == KEY_PAUSE) {
        if (down) {
            pause_sequence(k, s);
        }
    } else if (key->code == KEY_SYSRQ) {
        print_sequence(k, s, down);
    } else {
        add_code(s, k->scan_set, key->set1, down);
    }
}

/* ---- the keyboard's keys ---- */

static unsigned keys_down(const Ps2Keyboard *k)
{
    unsigned count = 0;

    for (size_t i = 0; i < sizeof(k->down); i++) {
        count += (unsigned)__builtin_popcount(k->down[i]);
    }
    return count;
}

static bool send_sequence(Ps2Keyboard *k, const Sequence *s, unsigned reserve)
{
    if (k->queue.count + s->count + reserve > PS2_QUEUE_SIZE - ANSWER_ROOM) {
        return false;
    }
    for (unsigned i = 0; i < s->count; i++) {
        queue_put(&k->queue, s->bytes[i]);
    }
    return true;
}

/* Bits 0 to 4: the period, 5 and 6: the delay (Technical Reference, "Set Typematic Rate/Delay"). */
static int64_t repeat_period_ns(const Ps2Keyboard *k)
{
    return (int64_t)((8u + (k->rate & 7)) << (k->rate >> 3 & 3)) * 4170000;
}

static int64_t repeat_delay_ns(const Ps2Keyboard *k)
{
    return (1 + (k->rate >> 5 & 3)) * 250 * NS_PER_MS;
}

static void arm_repeat(Ps2Keyboard *k, int64_t in_ns)
{
    timer_set(&k->repeat, clock_now_ns(k->repeat.clocks, CLOCK_TYPE_VIRTUAL) + in_ns);
}

static void stop_repeat(Ps2Keyboard *k)
{
    k->repeat_code = 0;
    if (k->repeat.loop) {
        timer_cancel(&k->repeat);
    }
}

static void on_repeat(void *opaque)
{
    Ps2Keyboard *k = opaque;
    const InputKey *key = input_key_find(k->repeat_code);

    if (!key || !is_down(k, k->repeat_code)) {
        k->repeat_code = 0;
        return;
    }
    if (k->queue.count <= REPEAT_BACKLOG) {
        Sequence s = { .count = 0 };
        key_sequence(k, key, true, &s);
        if (send_sequence(k, &s, keys_down(k) * LONGEST_SEQUENCE)) {
            k->changed(k->opaque);
        }
    }
    arm_repeat(k, repeat_period_ns(k));
}

static void key_pressed(Ps2Keyboard *k, const InputKey *key)
{
    Sequence s = { .count = 0 };
    uint8_t print_as = k->print_as;

    key_sequence(k, key, true, &s);
    /* A release takes 6 bytes at most. */
    if (!send_sequence(k, &s, (keys_down(k) + 1) * 6)) {
        TRACE(ps2_key_lost, key->code);
        k->print_as = print_as;
        return;
    }
    k->down[key->code / 8] |= (uint8_t)(1 << (key->code % 8));
    stop_repeat(k);
    if (s.count && key->code != KEY_PAUSE && (k->scan_set != 3 || k->repeats) && k->repeat.loop) {
        k->repeat_code = key->code;
        arm_repeat(k, repeat_delay_ns(k));
    }
}

void ps2_keyboard_key(Ps2Keyboard *k, unsigned code, bool down)
{
    const InputKey *key = input_key_find(code);

    if (!key || !k->scanning) {
        return;
    }
    TRACE(ps2_key, code, down, k->scan_set);
    if (down && !is_down(k, code)) { /* one that is down repeats by itself */
        key_pressed(k, key);
    } else if (!down && is_down(k, code)) {
        Sequence s = { .count = 0 };
        key_sequence(k, key, false, &s);
        send_sequence(k, &s, 0);
        k->down[code / 8] &= (uint8_t) ~(1 << (code % 8));
        if (k->repeat_code == code) {
            stop_repeat(k);
        }
    }
}

/* ---- the keyboard's commands ---- */

static void keyboard_defaults(Ps2Keyboard *k)
{
    k->scan_set = 2;
    k->rate = 0x2b;
    k->argument_of = 0;
    k->scanning = true;
    k->repeats = k->breaks = true;
    k->print_as = 0;
    memset(k->down, 0, sizeof(k->down));
    stop_repeat(k);
}

static void keyboard_argument(Ps2Keyboard *k, uint8_t value)
{
    uint8_t command = k->argument_of;

    if (command < 0xfb) { /* those take a list of codes, up to the next command */
        k->argument_of = 0;
    }
    queue_put(&k->queue, PS2_ACK);
    if (command == 0xed) {
        k->leds = value & 7;
    } else if (command == 0xf3) {
        k->rate = value & 0x7f;
    } else if (command == 0xf0) {
        if (value == 0) {
            queue_put(&k->queue, k->scan_set);
        } else if (value <= 3) {
            k->scan_set = value;
            queue_clear(&k->queue);
            queue_put(&k->queue, PS2_ACK);
        }
    }
}

void ps2_keyboard_write(Ps2Keyboard *k, uint8_t value)
{
    if (k->argument_of && value < 0xed) {
        keyboard_argument(k, value);
        return;
    }
    k->argument_of = 0;
    switch (value) {
    case 0xed: /* LEDs */
    case 0xf0: /* scan code set */
    case 0xf3: /* typematic rate */
    case 0xfb: /* key types of set 3, by key */
    case 0xfc:
    case 0xfd:
        k->argument_of = value;
        queue_put(&k->queue, PS2_ACK);
        break;
    case 0xee:
        queue_put(&k->queue, PS2_ECHO);
        break;
    case 0xf2: /* identify: MF2 */
        queue_put(&k->queue, PS2_ACK);
        queue_put(&k->queue, 0xab);
        queue_put(&k->queue, 0x83);
        break;
    case 0xf4:
    case 0xf5:
    case 0xf6:
        queue_clear(&k->queue);
        if (value != 0xf4) {
            keyboard_defaults(k);
        }
        k->scanning = value != 0xf5;
        queue_put(&k->queue, PS2_ACK);
        break;
    case 0xf7: /* set 3, all keys: typematic; make and break; make; all three */
    case 0xf8:
    case 0xf9:
    case 0xfa:
        k->repeats = value == 0xf7 || value == 0xfa;
        k->breaks = value == 0xf8 || value == 0xfa;
        queue_put(&k->queue, PS2_ACK);
        break;
    case 0xff:
        queue_clear(&k->queue);
        keyboard_defaults(k);
        k->leds = 0;
        queue_put(&k->queue, PS2_ACK);
        queue_put(&k->queue, PS2_SELF_TEST_OK);
        break;
    default:
        queue_put(&k->queue, PS2_RESEND);
        break;
    }
}

void ps2_keyboard_reset(Ps2Keyboard *k)
{
    queue_clear(&k->queue);
    keyboard_defaults(k);
    k->leds = 0;
}

void ps2_keyboard_init(Ps2Keyboard *k, const DeviceEnv *env, HomeLock *lock, void (*changed)(void *opaque),
                       void *opaque)
{
    k->changed = changed;
    k->opaque = opaque;
    timer_init(&k->repeat, env->loop, env->clocks, CLOCK_TYPE_VIRTUAL, on_repeat, k, lock);
}

void ps2_keyboard_fini(Ps2Keyboard *k)
{
    timer_destroy(&k->repeat);
}

/* ---- the mouse ---- */

static void mouse_defaults(Ps2Mouse *m)
{
    m->rate = 100;
    m->resolution = 2;
    m->scaling = m->scanning = m->remote = m->wrap = false;
    m->argument_of = 0;
    m->knock = 0;
    m->dx = m->dy = m->dz = 0;
    m->sent_buttons = m->buttons;
}

/* Scaling 2:1 makes slow motion finer and fast motion faster; for packets that the mouse sends itself. */
static int scale(const Ps2Mouse *m, int distance)
{
    static const int small[] = { 0, 1, 1, 3, 6, 9 };
    int size = ABS(distance);

    if (!m->scaling || m->remote) {
        return distance;
    }
    size = size < (int)G_N_ELEMENTS(small) ? small[size] : 2 * size;
    return MIN(distance < 0 ? -size : size, 255);
}

static void mouse_packet(Ps2Mouse *m)
{
    int limit = m->scaling && !m->remote ? 127 : 255;
    int dx = CLAMP(m->dx, -limit, limit), dy = CLAMP(m->dy, -limit, limit);
    int z_limit = m->id == 4 ? 7 : 127, dz = CLAMP(m->dz, -z_limit, z_limit);
    unsigned b = m->buttons;

    m->dx -= dx;
    m->dy -= dy;
    m->dz -= dz;
    m->sent_buttons = m->buttons;
    TRACE(ps2_mouse_packet, b, dx, dy, dz);
    dx = scale(m, dx);
    dy = -scale(m, dy); /* here up is positive */
    queue_put(&m->queue,
              (uint8_t)(0x08 | (b >> INPUT_BUTTON_LEFT & 1) | (b >> INPUT_BUTTON_RIGHT & 1) << 1 |
                        (b >> INPUT_BUTTON_MIDDLE & 1) << 2 | (dx < 0 ? 0x10 : 0) | (dy < 0 ? 0x20 : 0)));
    queue_put(&m->queue, (uint8_t)dx);
    queue_put(&m->queue, (uint8_t)dy);
    if (m->id == 3) {
        queue_put(&m->queue, (uint8_t)dz);
    } else if (m->id == 4) {
        queue_put(&m->queue, (uint8_t)((dz & 0x0f) | (b >> INPUT_BUTTON_SIDE & 1) << 4 |
                                       (b >> INPUT_BUTTON_EXTRA & 1) << 5));
    } else {
        m->dz = 0;
    }
}

void ps2_mouse_flush(Ps2Mouse *m)
{
    bool again = true;

    while (again && m->scanning && !m->remote && !m->wrap) {
        bool pressed = m->buttons != m->sent_buttons;
        /* Motion waits until the last packet was read; buttons go into the queue. */
        again = pressed ? m->queue.count + 4 <= PS2_QUEUE_SIZE - ANSWER_ROOM
                        : (m->dx || m->dy || m->dz) && !m->queue.count;
        if (again) {
            mouse_packet(m);
        }
    }
}

void ps2_mouse_event(Ps2Mouse *m, const InputEvent *event)
{
    if (event->kind == INPUT_REL) {
        int32_t *to = event->code == INPUT_AXIS_X ? &m->dx : &m->dy;
        *to = (int32_t)CLAMP((int64_t)*to + event->value, -MOTION_LIMIT, MOTION_LIMIT);
    } else if (event->kind == INPUT_BUTTON && event->code == INPUT_BUTTON_WHEEL_UP) {
        m->dz = MAX(m->dz - (event->value != 0), -MOTION_LIMIT);
    } else if (event->kind == INPUT_BUTTON && event->code == INPUT_BUTTON_WHEEL_DOWN) {
        m->dz = MIN(m->dz + (event->value != 0), MOTION_LIMIT);
    } else if (event->kind == INPUT_BUTTON && event->code <= INPUT_BUTTON_EXTRA) {
        uint8_t bit = (uint8_t)(1 << event->code);
        m->buttons = event->value ? m->buttons | bit : m->buttons & (uint8_t)~bit;
        ps2_mouse_flush(m); /* what was done before it happened before it */
    }
    if (!m->scanning && !m->remote) {
        m->dx = m->dy = m->dz = 0;
        m->sent_buttons = m->buttons;
    }
}

/* The rates 200, 100, 80 ask for a wheel; 200, 200, 80 then for five buttons. */
static void mouse_rate(Ps2Mouse *m, uint8_t rate)
{
    m->rate = rate;
    if (rate == 80 && m->knock == 2) {
        m->id = 3;
    } else if (rate == 80 && m->knock == 3 && m->id == 3) {
        m->id = 4;
    }
    m->knock = rate == 200 ? (m->knock == 1 ? 3 : 1) : rate == 100 && m->knock == 1 ? 2 : 0;
}

static void mouse_status(Ps2Mouse *m)
{
    unsigned b = m->buttons;

    queue_put(&m->queue, (uint8_t)((m->remote ? 0x40 : 0) | (m->scanning ? 0x20 : 0) |
                                   (m->scaling ? 0x10 : 0) | (b >> INPUT_BUTTON_LEFT & 1) << 2 |
                                   (b >> INPUT_BUTTON_MIDDLE & 1) << 1 | (b >> INPUT_BUTTON_RIGHT & 1)));
    queue_put(&m->queue, m->resolution);
    queue_put(&m->queue, m->rate);
}

static void mouse_command(Ps2Mouse *m, uint8_t value)
{
    queue_put(&m->queue, PS2_ACK);
    switch (value) {
    case 0xe6:
    case 0xe7:
        m->scaling = value == 0xe7;
        break;
    case 0xe8: /* resolution */
    case 0xf3: /* sample rate */
        m->argument_of = value;
        break;
    case 0xe9:
        mouse_status(m);
        break;
    case 0xea:
        m->remote = false;
        break;
    case 0xeb: /* read */
        mouse_packet(m);
        break;
    case 0xee:
        m->wrap = true;
        break;
    case 0xf0:
        m->remote = true;
        break;
    case 0xf2:
        queue_put(&m->queue, m->id);
        break;
    case 0xf4:
    case 0xf5:
        m->scanning = value == 0xf4;
        m->dx = m->dy = m->dz = 0;
        m->sent_buttons = m->buttons;
        break;
    case 0xf6:
        mouse_defaults(m);
        break;
    default:
        break;
    }
}

void ps2_mouse_write(Ps2Mouse *m, uint8_t value)
{
    static const uint8_t known[] = { 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xeb, 0xec,
                                     0xee, 0xf0, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6 };

    if (m->argument_of) {
        if (m->argument_of == 0xf3) {
            mouse_rate(m, value);
        } else {
            m->resolution = value & 3;
        }
        m->argument_of = 0;
        queue_put(&m->queue, PS2_ACK);
        return;
    }
    if (value == 0xff) {
        queue_clear(&m->queue);
        m->id = 0;
        mouse_defaults(m);
        queue_put(&m->queue, PS2_ACK);
        queue_put(&m->queue, PS2_SELF_TEST_OK);
        queue_put(&m->queue, 0);
        return;
    }
    if (m->wrap) {
        m->wrap = value != 0xec;
        queue_put(&m->queue, m->wrap ? value : PS2_ACK);
        return;
    }
    queue_clear(&m->queue); /* a command ends what the mouse was saying */
    if (memchr(known, value, sizeof(known))) {
        mouse_command(m, value);
    } else {
        queue_put(&m->queue, PS2_RESEND);
    }
}

void ps2_mouse_reset(Ps2Mouse *m)
{
    queue_clear(&m->queue);
    m->id = 0;
    m->buttons = 0;
    mouse_defaults(m);
}

/* ---- state ---- */

static bool queue_post_load(void *opaque, int version, GError **error)
{
    const Ps2Queue *q = opaque;

    return q->count <= PS2_QUEUE_SIZE || error_set(error, "ps2: a queue of %u bytes is impossible", q->count);
}

static const VmStateField queue_fields[] = {
    VMS_BUFFER(bytes, Ps2Queue),
    VMS_UINT8(head, Ps2Queue),
    VMS_UINT16(count, Ps2Queue),
    VMS_END,
};
static const VmState queue_vmstate = {
    .name = "ps2-queue",
    .version = 1,
    .minimum_version = 1,
    .fields = queue_fields,
    .post_load = queue_post_load,
};

static bool keyboard_post_load(void *opaque, int version, GError **error)
{
    const Ps2Keyboard *k = opaque;

    return (k->scan_set >= 1 && k->scan_set <= 3) ||
           error_set(error, "ps2-keyboard: there is no scan code set %u", k->scan_set);
}

static const VmStateField keyboard_fields[] = {
    VMS_STRUCT(queue, Ps2Keyboard, queue_vmstate),
    VMS_UINT8(argument_of, Ps2Keyboard),
    VMS_BOOL(scanning, Ps2Keyboard),
    VMS_UINT8(scan_set, Ps2Keyboard),
    VMS_UINT8(rate, Ps2Keyboard),
    VMS_UINT8(leds, Ps2Keyboard),
    VMS_BOOL(repeats, Ps2Keyboard),
    VMS_BOOL(breaks, Ps2Keyboard),
    VMS_UINT8(print_as, Ps2Keyboard),
    VMS_UINT16(repeat_code, Ps2Keyboard),
    VMS_BUFFER(down, Ps2Keyboard),
    VMS_TIMER(repeat, Ps2Keyboard),
    VMS_END,
};
const VmState ps2_keyboard_vmstate = {
    .name = "ps2-keyboard",
    .version = 1,
    .minimum_version = 1,
    .fields = keyboard_fields,
    .post_load = keyboard_post_load,
};

static bool mouse_post_load(void *opaque, int version, GError **error)
{
    const Ps2Mouse *m = opaque;

    return (m->id != 1 && m->id != 2 && m->id <= 4) ||
           error_set(error, "ps2-mouse: no mouse has id %u", m->id);
}

static const VmStateField mouse_fields[] = {
    VMS_STRUCT(queue, Ps2Mouse, queue_vmstate),
    VMS_UINT8(argument_of, Ps2Mouse),
    VMS_BOOL(scanning, Ps2Mouse),
    VMS_BOOL(remote, Ps2Mouse),
    VMS_BOOL(wrap, Ps2Mouse),
    VMS_BOOL(scaling, Ps2Mouse),
    VMS_UINT8(rate, Ps2Mouse),
    VMS_UINT8(resolution, Ps2Mouse),
    VMS_UINT8(id, Ps2Mouse),
    VMS_UINT8(knock, Ps2Mouse),
    VMS_UINT8(buttons, Ps2Mouse),
    VMS_UINT8(sent_buttons, Ps2Mouse),
    VMS_INT32(dx, Ps2Mouse),
    VMS_INT32(dy, Ps2Mouse),
    VMS_INT32(dz, Ps2Mouse),
    VMS_END,
};
const VmState ps2_mouse_vmstate = {
    .name = "ps2-mouse",
    .version = 1,
    .minimum_version = 1,
    .fields = mouse_fields,
    .post_load = mouse_post_load,
};
