/*
 * Invariants: `handlers` is in the order of preference, and changes under `order_lock` alone; a handler is
 * freed in the main loop's thread, which is also where events are sent, so that a handler found there stays.
 * keys_down has the keys that key_target was told to be down, and no others.
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "input/input.h"

#include "base/error.h"

#include <string.h>

#define QUEUE_LIMIT 1024u
#define NS_PER_MS   1000000ll

struct InputHandler {
    InputRegistry *registry;
    const InputHandlerOps *ops;
    void *opaque;
    HomeLock *lock;
    int number;
    bool ready; /* under order_lock */
    unsigned leds;
    bool touched; /* got events since its last sync */
};

typedef struct QueuedKey {
    uint16_t code;
    bool down;
    unsigned pause_ms; /* before the next one */
} QueuedKey;

struct InputRegistry {
    ClockSet *clocks;
    GMutex order_lock;   /* a leaf */
    GPtrArray *handlers; /* of InputHandler *, the preferred first */
    int next_number;
    bool running;
    InputHandler *key_target, *button_target;
    uint32_t keys_down[INPUT_KEY_COUNT / 32];
    uint32_t buttons_down;
    GQueue queue; /* of QueuedKey * */
    Timer timer;
};

static void queue_run(void *opaque);

InputRegistry *input_registry_new(Loop *loop, ClockSet *clocks)
{
    InputRegistry *reg = g_new0(InputRegistry, 1);

    reg->clocks = clocks;
    reg->handlers = g_ptr_array_new();
    reg->running = true;
    g_mutex_init(&reg->order_lock);
    g_queue_init(&reg->queue);
    timer_init(&reg->timer, loop, clocks, CLOCK_TYPE_VIRTUAL, queue_run, reg, NULL);
    return reg;
}

void input_registry_free(InputRegistry *reg)
{
    if (reg) {
        g_assert(!reg->handlers->len);
        timer_destroy(&reg->timer);
        g_queue_clear_full(&reg->queue, g_free);
        g_ptr_array_unref(reg->handlers);
        g_mutex_clear(&reg->order_lock);
        g_free(reg);
    }
}

void input_registry_set_running(InputRegistry *reg, bool running)
{
    reg->running = running;
}

InputHandler *input_handler_new(InputRegistry *reg, const InputHandlerOps *ops, void *opaque, HomeLock *lock,
                                bool ready)
{
    if (!reg) {
        return NULL;
    }
    InputHandler *h = g_new0(InputHandler, 1);
    *h = (InputHandler){ .registry = reg, .ops = ops, .opaque = opaque, .lock = lock, .ready = ready };
    g_mutex_lock(&reg->order_lock);
    h->number = ++reg->next_number;
    g_ptr_array_insert(reg->handlers, 0, h);
    g_mutex_unlock(&reg->order_lock);
    return h;
}

void input_handler_free(InputHandler *h)
{
    if (!h) {
        return;
    }
    InputRegistry *reg = h->registry;
    g_mutex_lock(&reg->order_lock);
    g_ptr_array_remove(reg->handlers, h);
    g_mutex_unlock(&reg->order_lock);
    if (reg->key_target == h) {
        reg->key_target = NULL;
        memset(reg->keys_down, 0, sizeof(reg->keys_down));
    }
    if (reg->button_target == h) {
        reg->button_target = NULL;
        reg->buttons_down = 0;
    }
    g_free(h);
}

static void set_ready(InputHandler *h, bool ready)
{
    if (!h) {
        return;
    }
    g_mutex_lock(&h->registry->order_lock);
    h->ready = ready;
    if (ready) {
        g_ptr_array_remove(h->registry->handlers, h);
        g_ptr_array_insert(h->registry->handlers, 0, h);
    }
    g_mutex_unlock(&h->registry->order_lock);
}

void input_handler_activate(InputHandler *h)
{
    set_ready(h, true);
}

void input_handler_deactivate(InputHandler *h)
{
    set_ready(h, false);
}

void input_handler_set_leds(InputHandler *h, unsigned leds)
{
    if (h) {
        g_mutex_lock(&h->registry->order_lock);
        h->leds = leds;
        g_mutex_unlock(&h->registry->order_lock);
    }
}

/* The handler that gets events of one of these kinds. */
static InputHandler *find_target(InputRegistry *reg, unsigned kinds)
{
    InputHandler *found = NULL;

    g_mutex_lock(&reg->order_lock);
    for (guint i = 0; i < reg->handlers->len && !found; i++) {
        InputHandler *h = reg->handlers->pdata[i];
        found = h->ready && (h->ops->kinds & kinds) ? h : NULL;
    }
    g_mutex_unlock(&reg->order_lock);
    return found;
}

static void deliver(InputHandler *h, const InputEvent *event)
{
    if (h) {
        home_lock(h->lock);
        h->ops->event(h->opaque, event);
        home_unlock(h->lock);
        h->touched = true;
    }
}

/* A handler that got events since its last sync; from now on it did not. */
static InputHandler *take_touched(InputRegistry *reg)
{
    InputHandler *found = NULL;

    g_mutex_lock(&reg->order_lock);
    for (guint i = 0; i < reg->handlers->len && !found; i++) {
        InputHandler *h = reg->handlers->pdata[i];
        found = h->touched ? h : NULL;
    }
    g_mutex_unlock(&reg->order_lock);
    if (found) {
        found->touched = false;
    }
    return found;
}

static void sync_handlers(InputRegistry *reg)
{
    InputHandler *h;

    while ((h = take_touched(reg))) {
        if (h->ops->sync) {
            home_lock(h->lock);
            h->ops->sync(h->opaque);
            home_unlock(h->lock);
        }
    }
}

/* Another keyboard gets keys from now on: none stays down at the last one. */
static void retarget_keys(InputRegistry *reg, InputHandler *target)
{
    if (reg->key_target == target) {
        return;
    }
    for (unsigned code = 0; code < INPUT_KEY_COUNT; code++) {
        if (reg->keys_down[code / 32] >> (code % 32) & 1) {
            deliver(reg->key_target, &(InputEvent){ INPUT_KEY, (uint16_t)code, 0 });
        }
    }
    memset(reg->keys_down, 0, sizeof(reg->keys_down));
    reg->key_target = target;
}

static void retarget_buttons(InputRegistry *reg, InputHandler *target)
{
    if (reg->button_target == target) {
        return;
    }
    for (unsigned button = 0; button < INPUT_BUTTON_COUNT; button++) {
        if (reg->buttons_down >> button & 1) {
            deliver(reg->button_target, &(InputEvent){ INPUT_BUTTON, (uint16_t)button, 0 });
        }
    }
    reg->buttons_down = 0;
    reg->button_target = target;
}

static void send_key(InputRegistry *reg, const InputEvent *event)
{
    if (event->code >= INPUT_KEY_COUNT) {
        return;
    }
    retarget_keys(reg, find_target(reg, 1u << INPUT_KEY));
    uint32_t *word = &reg->keys_down[event->code / 32], bit = 1u << (event->code % 32);
    if (event->value ? !reg->running : !(*word & bit)) {
        return;
    }
    *word = event->value ? *word | bit : *word & ~bit;
    deliver(reg->key_target, event);
}

/* Buttons go where motion goes, so that a click is where the pointer is. */
static void send_button(InputRegistry *reg, const InputEvent *event)
{
    if (event->code >= INPUT_BUTTON_COUNT) {
        return;
    }
    retarget_buttons(reg, find_target(reg, 1u << INPUT_REL | 1u << INPUT_ABS));
    uint32_t bit = 1u << event->code;
    if (event->value ? !reg->running : !(reg->buttons_down & bit)) {
        return;
    }
    reg->buttons_down = event->value ? reg->buttons_down | bit : reg->buttons_down & ~bit;
    deliver(reg->button_target, event);
}

void input_send(InputRegistry *reg, const InputEvent *events, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const InputEvent *event = &events[i];
        if (event->kind == INPUT_KEY) {
            send_key(reg, event);
        } else if (event->kind == INPUT_BUTTON) {
            send_button(reg, event);
        } else if (reg->running && event->code <= INPUT_AXIS_Y && event->kind < INPUT_KIND_COUNT) {
            deliver(find_target(reg, 1u << event->kind), event);
        }
    }
    sync_handlers(reg);
}

/* ---- keys with pauses between ---- */

static void queue_run(void *opaque)
{
    InputRegistry *reg = opaque;
    QueuedKey *key = g_queue_pop_head(&reg->queue);

    if (key) {
        input_send(reg, &(InputEvent){ INPUT_KEY, key->code, key->down }, 1);
        /* The pause also follows the last one: what is sent next comes after it. */
        timer_set(&reg->timer, clock_now_ns(reg->clocks, CLOCK_TYPE_VIRTUAL) + key->pause_ms * NS_PER_MS);
        g_free(key);
    }
}

static void queue_key(InputRegistry *reg, uint16_t code, bool down, unsigned pause_ms)
{
    QueuedKey *key = g_new(QueuedKey, 1);

    *key = (QueuedKey){ code, down, pause_ms };
    g_queue_push_tail(&reg->queue, key);
}

void input_send_key(InputRegistry *reg, unsigned code, bool down)
{
    if (code >= INPUT_KEY_COUNT) {
        return;
    }
    if (timer_pending(&reg->timer)) { /* after those that wait */
        if (reg->queue.length < QUEUE_LIMIT) {
            queue_key(reg, (uint16_t)code, down, 0);
        }
        return;
    }
    input_send(reg, &(InputEvent){ INPUT_KEY, (uint16_t)code, down }, 1);
}

bool input_type_keys(InputRegistry *reg, const uint16_t *codes, size_t count, unsigned hold_ms,
                     GError **error)
{
    if (count > (QUEUE_LIMIT - MIN(reg->queue.length, QUEUE_LIMIT)) / 2) {
        error_set(error, "Too many keys wait to be typed");
        error_append_hint(error, "The guest gets one each hold-time; send fewer at once.");
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        queue_key(reg, codes[i], true, hold_ms);
    }
    for (size_t i = count; i-- > 0;) {
        queue_key(reg, codes[i], false, hold_ms);
    }
    if (!timer_pending(&reg->timer)) {
        queue_run(reg);
    }
    return true;
}

/* ---- questions ---- */

bool input_pointer_is_absolute(InputRegistry *reg)
{
    InputHandler *h = find_target(reg, 1u << INPUT_REL | 1u << INPUT_ABS);

    return h && h->ops->kinds >> INPUT_ABS & 1;
}

unsigned input_leds(InputRegistry *reg)
{
    InputHandler *h = find_target(reg, 1u << INPUT_KEY);
    unsigned leds = 0;

    g_mutex_lock(&reg->order_lock);
    leds = h ? h->leds : 0;
    g_mutex_unlock(&reg->order_lock);
    return leds;
}

GArray *input_pointers(InputRegistry *reg)
{
    GArray *list = g_array_new(false, true, sizeof(InputPointerInfo));
    unsigned kinds = 1u << INPUT_REL | 1u << INPUT_ABS;
    InputHandler *current = find_target(reg, kinds);

    g_mutex_lock(&reg->order_lock);
    for (guint i = 0; i < reg->handlers->len; i++) {
        InputHandler *h = reg->handlers->pdata[i];
        if (h->ops->kinds & kinds) {
            InputPointerInfo info = { h->number, h->ops->name, h == current, h->ops->kinds >> INPUT_ABS & 1 };
            g_array_append_val(list, info);
        }
    }
    g_mutex_unlock(&reg->order_lock);
    return list;
}

bool input_pointer_select(InputRegistry *reg, int index, GError **error)
{
    for (guint i = 0; i < reg->handlers->len; i++) {
        InputHandler *h = reg->handlers->pdata[i];
        if (h->number == index && h->ops->kinds & (1u << INPUT_REL | 1u << INPUT_ABS)) {
            input_handler_activate(h);
            return true;
        }
    }
    return error_set(error, "Mouse at index '%d' not found", index);
}
