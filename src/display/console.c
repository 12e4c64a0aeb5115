/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "display/display_internal.h"

#include "base/error.h"

#include <inttypes.h>
#include <string.h>

struct DisplayConsole {
    DisplayRegistry *registry;
    Object *device;
    const DisplayConsoleOps *ops;
    void *opaque;
};

struct DisplayRegistry {
    GPtrArray *consoles; /* of DisplayConsole *, in the order of their making */
    GPtrArray *mirrors;  /* of DisplayMirror * */
};

void display_surface_init(DisplaySurface *surface)
{
    memset(surface, 0, sizeof(*surface));
}

void display_surface_resize(DisplaySurface *surface, uint32_t width, uint32_t height)
{
    width = CLAMP(width, 1, DISPLAY_MAX_WIDTH);
    height = CLAMP(height, 1, DISPLAY_MAX_HEIGHT);
    if (surface->pixels && surface->width == width && surface->height == height) {
        return;
    }
    g_free(surface->pixels);
    surface->pixels = g_malloc0_n((gsize)width * height, sizeof(uint32_t));
    surface->width = width;
    surface->height = height;
}

void display_surface_clear(DisplaySurface *surface)
{
    g_clear_pointer(&surface->pixels, g_free);
    surface->width = surface->height = 0;
}

DisplayRegistry *display_registry_new(void)
{
    DisplayRegistry *reg = g_new0(DisplayRegistry, 1);
    reg->consoles = g_ptr_array_new();
    reg->mirrors = g_ptr_array_new();
    return reg;
}

void display_registry_free(DisplayRegistry *reg)
{
    if (reg) {
        g_assert(!reg->consoles->len && !reg->mirrors->len);
        g_ptr_array_unref(reg->consoles);
        g_ptr_array_unref(reg->mirrors);
        g_free(reg);
    }
}

DisplayConsole *display_console_new(DisplayRegistry *reg, Object *device, const DisplayConsoleOps *ops,
                                    void *opaque)
{
    DisplayConsole *console = g_new0(DisplayConsole, 1);
    *console = (DisplayConsole){ reg, device, ops, opaque };
    g_ptr_array_add(reg->consoles, console);
    return console;
}

void display_console_free(DisplayConsole *console)
{
    if (console) {
        GPtrArray *mirrors = console->registry->mirrors;
        for (guint i = 0; i < mirrors->len; i++) {
            display_mirror_console_gone(mirrors->pdata[i], console);
        }
        g_ptr_array_remove(console->registry->consoles, console);
        g_free(console);
    }
}

void display_registry_add_mirror(DisplayRegistry *reg, DisplayMirror *mirror)
{
    g_ptr_array_add(reg->mirrors, mirror);
}

void display_registry_remove_mirror(DisplayRegistry *reg, DisplayMirror *mirror)
{
    g_ptr_array_remove(reg->mirrors, mirror);
}

DisplayConsole *display_console_find(DisplayRegistry *reg, const char *device, GError **error)
{
    for (guint i = 0; i < reg->consoles->len; i++) {
        DisplayConsole *console = reg->consoles->pdata[i];
        g_autofree char *path = object_get_canonical_path(console->device);
        const char *name = path ? strrchr(path, '/') : NULL;
        if (!device || g_strcmp0(path, device) == 0 || (name && strcmp(name + 1, device) == 0)) {
            return console;
        }
    }
    if (device) {
        error_set(error, "Device '%s' is no display device", device);
    } else {
        error_set(error, "There is no console to take a screendump from");
        error_append_hint(error, "The machine has no video card; -vga std adds one.");
    }
    return NULL;
}

DisplayConsole *display_console_find_head(DisplayRegistry *reg, const char *device, int64_t head,
                                          GError **error)
{
    const DisplayConsole *first = display_console_find(reg, device, error);
    int64_t number = 0;
    for (guint i = 0; first && i < reg->consoles->len; i++) {
        DisplayConsole *console = reg->consoles->pdata[i];
        if (console->device == first->device && number++ == head) {
            return console;
        }
    }
    if (first) {
        error_set(error, "There is no head %" PRId64 ": this video card has %" PRId64, head, number);
    }
    return NULL;
}

void display_console_render(DisplayConsole *console, DisplaySurface *surface)
{
    console->ops->render(console->opaque, surface);
}

char *display_console_text(DisplayConsole *console)
{
    return console->ops->text ? console->ops->text(console->opaque) : NULL;
}
