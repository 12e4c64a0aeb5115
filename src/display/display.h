/*
 * Screens: devices register a console each, host ends (screendump, a VNC server) ask it to render into a
 * surface. Main loop's thread, but for what a console's own lock guards. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#ifndef RHEA_DISPLAY_DISPLAY_H
#define RHEA_DISPLAY_DISPLAY_H

#include "loop/loop.h"
#include "object/object.h"

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Whatever a guest asks for, a screen has at most so many pixels each way. */
#define DISPLAY_MAX_WIDTH  16384u
#define DISPLAY_MAX_HEIGHT 12288u

/* Pixels are 0x00RRGGBB in the host's order, without gaps between lines. */
typedef struct DisplaySurface {
    uint32_t width, height;
    uint32_t *pixels;
} DisplaySurface;

void display_surface_init(DisplaySurface *surface);
/* Makes it that large; what it showed is lost if the size changes. Sizes are clamped to 1 and the largest. */
void display_surface_resize(DisplaySurface *surface, uint32_t width, uint32_t height);
void display_surface_clear(DisplaySurface *surface);

typedef struct DisplayConsole DisplayConsole;
typedef struct DisplayRegistry DisplayRegistry;

typedef struct DisplayConsoleOps {
    /* Draws what the guest shows now, resizing the surface as needed; takes the device's lock itself. */
    void (*render)(void *opaque, DisplaySurface *surface);
    /* What is on it as lines of UTF-8, or NULL while it shows graphics; may be NULL. Caller frees. */
    char *(*text)(void *opaque);
} DisplayConsoleOps;

DisplayRegistry *display_registry_new(void);
/* No console may be left. */
void display_registry_free(DisplayRegistry *reg);
/* device: the console's, borrowed until display_console_free. */
DisplayConsole *display_console_new(DisplayRegistry *reg, Object *device, const DisplayConsoleOps *ops,
                                    void *opaque);
void display_console_free(DisplayConsole *console);
/* The first console, or that of a device's id or path; NULL with an error. Borrowed. */
DisplayConsole *display_console_find(DisplayRegistry *reg, const char *device, GError **error);
/* The same, of a device with several: head counts them from 0. */
DisplayConsole *display_console_find_head(DisplayRegistry *reg, const char *device, int64_t head,
                                          GError **error);
void display_console_render(DisplayConsole *console, DisplaySurface *surface);
char *display_console_text(DisplayConsole *console);

/* ---- mirrors: a picture that is kept up to date while somebody looks (a VNC server) ---- */

typedef struct DisplayRect {
    uint32_t x, y, width, height;
} DisplayRect;
typedef struct DisplayMirror DisplayMirror;
/* Called in the main loop's thread with what is shown now and which parts of it differ from before (all of it
 * where its size changed). */
typedef void DisplayMirrorChanged(void *opaque, const DisplaySurface *surface, bool resized,
                                  const DisplayRect *rects, size_t count);
/* console: borrowed, may be NULL (a black picture) and may go before the mirror does. */
DisplayMirror *display_mirror_new(DisplayRegistry *reg, Loop *loop, DisplayConsole *console,
                                  DisplayMirrorChanged *changed, void *opaque);
void display_mirror_free(DisplayMirror *mirror);
/* Whether it is rendered by a timer: quickly after changes and after this call, slower where nothing changes.
 */
void display_mirror_set_watched(DisplayMirror *mirror, bool watched);
/* Renders and tells at once. */
void display_mirror_refresh(DisplayMirror *mirror);
/* What it shows; 0 by 0 before the first refresh. */
const DisplaySurface *display_mirror_surface(const DisplayMirror *mirror);

/* A surface as an image file's bytes; the caller owns them. */
typedef enum DisplayImageFormat { DISPLAY_IMAGE_PPM, DISPLAY_IMAGE_PNG } DisplayImageFormat;
GByteArray *display_surface_encode(const DisplaySurface *surface, DisplayImageFormat format);

#endif
