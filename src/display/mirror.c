/*
 * A console's picture for those who show it from afar: rendered while somebody looks, compared with what they
 * have, and told as rectangles of what changed. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "display/display_internal.h"

#include <string.h>

#define NS_PER_MS    1000000ll
#define FASTEST_MS   30
#define SLOWEST_MS   240
#define TILE_LINES   16u
#define TILE_COLUMNS 64u
#define MAX_RECTS    512u

struct DisplayMirror {
    DisplayRegistry *registry;
    DisplayConsole *console; /* NULL: the machine has none, or it is gone */
    DisplayMirrorChanged *changed;
    void *opaque;
    DisplaySurface shown, scratch;
    Timer timer;
    unsigned interval_ms; /* 0: nobody looks */
    DisplayRect rects[MAX_RECTS];
    size_t count;
};

static void add_rect(DisplayMirror *m, uint32_t x, uint32_t y, uint32_t width, uint32_t height)
{
    DisplayRect *last = m->count ? &m->rects[m->count - 1] : NULL;

    if (last && last->x == x && last->width == width && last->y + last->height == y) {
        last->height += height;
    } else if (m->count < MAX_RECTS) {
        m->rects[m->count++] = (DisplayRect){ x, y, width, height };
    } else { /* more are not worth telling apart */
        m->rects[0] = (DisplayRect){ 0, 0, m->shown.width, m->shown.height };
        m->count = 1;
    }
}

static bool tile_differs(const DisplaySurface *a, const DisplaySurface *b, uint32_t x, uint32_t y,
                         uint32_t width, uint32_t height)
{
    for (uint32_t line = y; line < y + height; line++) {
        size_t at = (size_t)line * a->width + x;
        if (memcmp(a->pixels + at, b->pixels + at, width * sizeof(uint32_t)) != 0) {
            return true;
        }
    }
    return false;
}

/* Neighbouring tiles of a row that differ are one rectangle. */
static void compare_row(DisplayMirror *m, uint32_t y, uint32_t height)
{
    uint32_t width = m->shown.width, start = UINT32_MAX;

    for (uint32_t x = 0; x < width; x += TILE_COLUMNS) {
        bool differs = tile_differs(&m->shown, &m->scratch, x, y, MIN(TILE_COLUMNS, width - x), height);
        if (differs && start == UINT32_MAX) {
            start = x;
        } else if (!differs && start != UINT32_MAX) {
            add_rect(m, start, y, x - start, height);
            start = UINT32_MAX;
        }
    }
    if (start != UINT32_MAX) {
        add_rect(m, start, y, width - start, height);
    }
}

static void compare(DisplayMirror *m)
{
    m->count = 0;
    for (uint32_t y = 0; y < m->shown.height; y += TILE_LINES) {
        compare_row(m, y, MIN(TILE_LINES, m->shown.height - y));
    }
}

void display_mirror_refresh(DisplayMirror *m)
{
    if (m->console) {
        display_console_render(m->console, &m->scratch);
    } else { /* black */
        display_surface_resize(&m->scratch, 640, 480);
        memset(m->scratch.pixels, 0, 640 * 480 * sizeof(uint32_t));
    }
    bool resized = m->scratch.width != m->shown.width || m->scratch.height != m->shown.height;
    if (resized) {
        m->rects[0] = (DisplayRect){ 0, 0, m->scratch.width, m->scratch.height };
        m->count = 1;
    } else {
        compare(m);
    }
    /* The old picture becomes the next one's paper. */
    DisplaySurface old = m->shown;
    m->shown = m->scratch;
    m->scratch = old;
    if (m->interval_ms) {
        m->interval_ms = m->count ? FASTEST_MS : MIN(m->interval_ms + 10, SLOWEST_MS);
    }
    if (m->count) {
        m->changed(m->opaque, &m->shown, resized, m->rects, m->count);
    }
}

static void arm(DisplayMirror *m)
{
    timer_set(&m->timer, clock_now_ns(NULL, CLOCK_TYPE_REALTIME) + m->interval_ms * NS_PER_MS);
}

static void on_timer(void *opaque)
{
    DisplayMirror *m = opaque;

    display_mirror_refresh(m);
    if (m->interval_ms) {
        arm(m);
    }
}

DisplayMirror *display_mirror_new(DisplayRegistry *reg, Loop *loop, DisplayConsole *console,
                                  DisplayMirrorChanged *changed, void *opaque)
{
    DisplayMirror *m = g_new0(DisplayMirror, 1);

    m->registry = reg;
    m->console = console;
    m->changed = changed;
    m->opaque = opaque;
    display_surface_init(&m->shown);
    display_surface_init(&m->scratch);
    timer_init(&m->timer, loop, NULL, CLOCK_TYPE_REALTIME, on_timer, m, NULL);
    display_registry_add_mirror(reg, m);
    return m;
}

void display_mirror_free(DisplayMirror *m)
{
    if (m) {
        display_registry_remove_mirror(m->registry, m);
        timer_destroy(&m->timer);
        display_surface_clear(&m->shown);
        display_surface_clear(&m->scratch);
        g_free(m);
    }
}

void display_mirror_console_gone(DisplayMirror *m, DisplayConsole *console)
{
    if (m->console == console) {
        m->console = NULL;
        display_surface_clear(&m->scratch);
    }
}

void display_mirror_set_watched(DisplayMirror *m, bool watched)
{
    if (watched) {
        m->interval_ms = FASTEST_MS;
        arm(m);
    } else {
        m->interval_ms = 0;
        timer_cancel(&m->timer);
    }
}

const DisplaySurface *display_mirror_surface(const DisplayMirror *m)
{
    return &m->shown;
}
