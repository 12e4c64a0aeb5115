/*
 * Where keys and pointers go: devices make handlers; who has input (a VNC client, the monitor) hands events
 * to the registry, which gives each to the handler that was made or activated last among those that take its
 * kind.
 *
 * Threads: everything in the main loop's thread, but for input_handler_activate and its kin, which devices
 * call from any thread. A handler's functions run with its HomeLock held. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#ifndef RHEA_INPUT_INPUT_H
#define RHEA_INPUT_INPUT_H

#include "input/keys.h"
#include "loop/loop.h"

typedef enum InputKind { INPUT_KEY, INPUT_BUTTON, INPUT_REL, INPUT_ABS, INPUT_KIND_COUNT } InputKind;
typedef enum InputButton {
    INPUT_BUTTON_LEFT,
    INPUT_BUTTON_MIDDLE,
    INPUT_BUTTON_RIGHT,
    INPUT_BUTTON_WHEEL_UP,
    INPUT_BUTTON_WHEEL_DOWN,
    INPUT_BUTTON_SIDE,
    INPUT_BUTTON_EXTRA,
    INPUT_BUTTON_WHEEL_LEFT,
    INPUT_BUTTON_WHEEL_RIGHT,
    INPUT_BUTTON_COUNT,
} InputButton;
typedef enum InputAxis { INPUT_AXIS_X, INPUT_AXIS_Y } InputAxis;
#define INPUT_ABS_MAX 0x7fff /* of an absolute axis; it begins with 0 */

typedef struct InputEvent {
    InputKind kind;
    uint16_t code; /* KEY: KEY_...; BUTTON: InputButton; REL, ABS: InputAxis */
    int32_t value; /* KEY, BUTTON: 1 pressed, 0 released; REL: a distance; ABS: a place */
} InputEvent;

/* What a keyboard shows; bits as USB's LED page and PS/2's order differ, so these are our own. */
enum { INPUT_LED_SCROLL = 1, INPUT_LED_NUM = 2, INPUT_LED_CAPS = 4 };

typedef struct InputRegistry InputRegistry;
typedef struct InputHandler InputHandler;

typedef struct InputHandlerOps {
    const char *name; /* for query-mice */
    unsigned kinds;   /* mask of 1 << InputKind */
    void (*event)(void *opaque, const InputEvent *event);
    void (*sync)(void *opaque); /* the events of one moment are complete; may be NULL */
} InputHandlerOps;

/* The clock counts the pauses of input_type_keys. */
InputRegistry *input_registry_new(Loop *loop, ClockSet *clocks);
/* No handler may be left. */
void input_registry_free(InputRegistry *reg);
/* While off (the guest is paused), presses and motion are dropped; releases of what is down still come. */
void input_registry_set_running(InputRegistry *reg, bool running);

/* reg NULL: gives NULL, and the other functions do nothing with that. ready: takes events at once; else when
 * activated. lock: taken around calls. */
InputHandler *input_handler_new(InputRegistry *reg, const InputHandlerOps *ops, void *opaque, HomeLock *lock,
                                bool ready);
void input_handler_free(InputHandler *h);
/* Its driver is there: events go to it from now on. [any thread] */
void input_handler_activate(InputHandler *h);
/* Its driver is gone: it gets none. [any thread] */
void input_handler_deactivate(InputHandler *h);
/* What its lamps show. [any thread] */
void input_handler_set_leds(InputHandler *h, unsigned leds);

/* Events of one moment. Numbers that no device knows are dropped. */
void input_send(InputRegistry *reg, const InputEvent *events, size_t count);
void input_send_key(InputRegistry *reg, unsigned code, bool down);
/* Presses keys in order and releases them in reverse order, with hold_ms after each. false: too many wait. */
bool input_type_keys(InputRegistry *reg, const uint16_t *codes, size_t count, unsigned hold_ms,
                     GError **error);
/* Whether pointers are to be told places (a tablet takes them), not distances. */
bool input_pointer_is_absolute(InputRegistry *reg);
/* INPUT_LED_... of the keyboard that gets keys. */
unsigned input_leds(InputRegistry *reg);

/* Pointing devices for query-mice and mouse_set: the index is the handler's number, which stays. */
typedef struct InputPointerInfo {
    int index;
    const char *name;
    bool current, absolute;
} InputPointerInfo;
/* Of InputPointerInfo; caller frees. */
GArray *input_pointers(InputRegistry *reg);
bool input_pointer_select(InputRegistry *reg, int index, GError **error);

#endif
