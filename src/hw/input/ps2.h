/*
 * A PS/2 keyboard and a PS/2 mouse, as the keyboard controller has them: see ps2.c. All functions run with
 * the controller's lock held. SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_HW_INPUT_PS2_H
#define RHEA_HW_INPUT_PS2_H

#include "hw/core/device.h"
#include "input/input.h"

#define PS2_QUEUE_SIZE 256

/* Bytes on their way to the controller. */
typedef struct Ps2Queue {
    uint8_t bytes[PS2_QUEUE_SIZE];
    uint8_t head;
    uint16_t count;
} Ps2Queue;

typedef struct Ps2Keyboard {
    /* saved */
    Ps2Queue queue;
    uint8_t argument_of; /* the command that waits for its argument; 0: none */
    bool scanning;
    uint8_t scan_set, rate, leds;
    bool repeats, breaks; /* of set 3, for all keys */
    uint8_t print_as; /* how the print key that is down was told: 0 plain, 1 with Alt, 2 with Ctrl or Shift */
    uint16_t repeat_code; /* the key that repeats; 0: none */
    uint8_t down[INPUT_KEY_COUNT / 8];
    Timer repeat;
    /* derived */
    void (*changed)(void *opaque); /* bytes are there, sent by the repeat timer */
    void *opaque;
} Ps2Keyboard;

typedef struct Ps2Mouse {
    Ps2Queue queue;
    uint8_t argument_of;
    bool scanning, remote, wrap, scaling;
    uint8_t rate, resolution, id;
    uint8_t knock;                 /* how much of the rates that ask for a wheel came */
    uint8_t buttons, sent_buttons; /* mask of 1 << InputButton, without wheels */
    int32_t dx, dy, dz;            /* what is not sent yet */
} Ps2Mouse;

bool ps2_queue_take(Ps2Queue *q, uint8_t *byte);

/* changed: called with lock held when the keyboard sends bytes of its own. */
void ps2_keyboard_init(Ps2Keyboard *k, const DeviceEnv *env, HomeLock *lock, void (*changed)(void *opaque),
                       void *opaque);
void ps2_keyboard_fini(Ps2Keyboard *k);
void ps2_keyboard_reset(Ps2Keyboard *k);
void ps2_keyboard_write(Ps2Keyboard *k, uint8_t value);
void ps2_keyboard_key(Ps2Keyboard *k, unsigned code, bool down);

void ps2_mouse_reset(Ps2Mouse *m);
void ps2_mouse_write(Ps2Mouse *m, uint8_t value);
void ps2_mouse_event(Ps2Mouse *m, const InputEvent *event);
/* Makes packets of what happened, as far as the guest keeps up. */
void ps2_mouse_flush(Ps2Mouse *m);

extern const VmState ps2_keyboard_vmstate, ps2_mouse_vmstate;

#endif
