/* Consoles and image files. SPDX-License-Identifier: GPL-2.0-or-later */
#include "display/display.h"

#include <string.h>
#include <zlib.h>

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
}

static void fill(DisplaySurface *s)
{
    display_surface_init(s);
    display_surface_resize(s, 3, 2);
    for (unsigned i = 0; i < 6; i++) {
        s->pixels[i] = 0x10203 * (i + 1);
    }
}

static void test_ppm(void)
{
    DisplaySurface s;
    fill(&s);
    GByteArray *image = display_surface_encode(&s, DISPLAY_IMAGE_PPM);
    g_assert_cmpuint(image->len, ==, 11 + 18);
    g_assert_cmpmem(image->data, 11, "P6\n3 2\n255\n", 11);
    g_assert_cmphex(image->data[11 + 15], ==, 6);
    g_assert_cmphex(image->data[11 + 17], ==, 18);
    g_byte_array_unref(image);
    display_surface_clear(&s);
}

static void test_png(void)
{
    DisplaySurface s;
    fill(&s);
    GByteArray *image = display_surface_encode(&s, DISPLAY_IMAGE_PNG);
    const uint8_t *p = image->data;
    g_assert_cmphex(be32(p), ==, 0x89504e47);
    g_assert_cmpmem(p + 12, 4, "IHDR", 4);
    g_assert_cmpuint(be32(p + 16), ==, 3);
    g_assert_cmpuint(be32(p + 20), ==, 2);
    g_assert_cmphex(be32(p + 29), ==, crc32(0, p + 12, 17));
    g_assert_cmpmem(p + 37, 4, "IDAT", 4);
    uint8_t raw[20];
    uLongf size = sizeof(raw);
    g_assert_cmpint(uncompress(raw, &size, p + 41, be32(p + 33)), ==, Z_OK);
    g_assert_cmpuint(size, ==, 20);
    static const uint8_t second_line[] = { 0, 4, 8, 12, 5, 10, 15, 6, 12, 18 };
    g_assert_cmpmem(raw + 10, 10, second_line, 10);
    g_byte_array_unref(image);
    display_surface_clear(&s);
}

static void test_sizes(void)
{
    DisplaySurface s;
    display_surface_init(&s);
    display_surface_resize(&s, 0, 0);
    g_assert_cmpuint(s.width, ==, 1);
    display_surface_resize(&s, 1u << 30, 1);
    g_assert_cmpuint(s.width, ==, DISPLAY_MAX_WIDTH);
    display_surface_clear(&s);
}

static void render_red(void *opaque, DisplaySurface *surface)
{
    display_surface_resize(surface, 2, 2);
    surface->pixels[3] = *(uint32_t *)opaque;
}

static void test_consoles(void)
{
    static const DisplayConsoleOps ops = { .render = render_red };
    Object *root = object_root_new();
    DisplayRegistry *reg = display_registry_new();
    GError *error = NULL;
    uint32_t red = 0xff0000;
    g_assert_null(display_console_find(reg, NULL, &error));
    g_assert_nonnull(error);
    g_clear_error(&error);
    Object *device = container_get(root, "/machine/peripheral/screen");
    DisplayConsole *console = display_console_new(reg, device, &ops, &red);
    g_assert_true(display_console_find(reg, NULL, &error) == console);
    g_assert_true(display_console_find(reg, "screen", &error) == console);
    g_assert_null(display_console_find(reg, "other", &error));
    g_assert_nonnull(strstr(error->message, "other"));
    g_clear_error(&error);
    DisplayConsole *second = display_console_new(reg, device, &ops, &red);
    g_assert_true(display_console_find_head(reg, "screen", 0, &error) == console);
    g_assert_true(display_console_find_head(reg, NULL, 1, &error) == second);
    g_assert_null(display_console_find_head(reg, NULL, 2, &error));
    g_assert_nonnull(strstr(error->message, "no head 2"));
    g_clear_error(&error);
    g_assert_null(display_console_find_head(reg, NULL, -1, &error));
    g_clear_error(&error);
    display_console_free(second);
    DisplaySurface s;
    display_surface_init(&s);
    display_console_render(console, &s);
    g_assert_cmphex(s.pixels[3], ==, 0xff0000);
    g_assert_null(display_console_text(console));
    display_surface_clear(&s);
    display_console_free(console);
    display_registry_free(reg);
    object_unref(root);
}

typedef struct Told {
    unsigned calls;
    bool resized;
    DisplayRect rects[8];
    size_t count;
} Told;

static void on_changed(void *opaque, const DisplaySurface *surface, bool resized, const DisplayRect *rects,
                       size_t count)
{
    Told *told = opaque;
    told->calls++;
    told->resized = resized;
    told->count = count;
    memcpy(told->rects, rects, MIN(count, 8) * sizeof(*rects));
}

static DisplaySurface picture;

static void render_picture(void *opaque, DisplaySurface *surface)
{
    display_surface_resize(surface, picture.width, picture.height);
    memcpy(surface->pixels, picture.pixels, (size_t)picture.width * picture.height * 4);
}

static void expect_rect(const Told *told, size_t i, uint32_t x, uint32_t y, uint32_t width, uint32_t height)
{
    g_assert_cmpuint(i, <, told->count);
    g_assert_cmpuint(told->rects[i].x, ==, x);
    g_assert_cmpuint(told->rects[i].y, ==, y);
    g_assert_cmpuint(told->rects[i].width, ==, width);
    g_assert_cmpuint(told->rects[i].height, ==, height);
}

static void test_mirror(void)
{
    static const DisplayConsoleOps ops = { .render = render_picture };
    Told told = { 0 };
    Object *root = object_root_new();
    DisplayRegistry *reg = display_registry_new();
    Loop *loop = loop_new(NULL, NULL);
    DisplayConsole *console =
        display_console_new(reg, container_get(root, "/machine/peripheral/screen"), &ops, NULL);
    display_surface_init(&picture);
    display_surface_resize(&picture, 200, 50);
    DisplayMirror *m = display_mirror_new(reg, loop, console, on_changed, &told);
    display_mirror_refresh(m);
    g_assert_true(told.resized);
    expect_rect(&told, 0, 0, 0, 200, 50);
    display_mirror_refresh(m); /* nothing changed: nothing is told */
    g_assert_cmpuint(told.calls, ==, 1);
    picture.pixels[0] = 1;              /* the first tile */
    picture.pixels[47 * 200 + 70] = 2;  /* the second of the third row */
    picture.pixels[49 * 200 + 199] = 3; /* the last one, cut off at both edges */
    display_mirror_refresh(m);
    g_assert_false(told.resized);
    g_assert_cmpuint(told.count, ==, 3);
    expect_rect(&told, 0, 0, 0, 64, 16);
    expect_rect(&told, 1, 64, 32, 64, 16);
    expect_rect(&told, 2, 192, 48, 8, 2);
    picture.pixels[20 * 200] = picture.pixels[40 * 200] = 4; /* one below the other: one rectangle */
    display_mirror_refresh(m);
    g_assert_cmpuint(told.count, ==, 1);
    expect_rect(&told, 0, 0, 16, 64, 32);
    g_assert_cmphex(display_mirror_surface(m)->pixels[40 * 200], ==, 4);
    /* While it is watched the loop does it. */
    unsigned calls = told.calls;
    picture.pixels[5] = 5;
    display_mirror_set_watched(m, true);
    int64_t end = g_get_monotonic_time() + 5 * G_TIME_SPAN_SECOND;
    while (told.calls == calls && g_get_monotonic_time() < end) {
        loop_iterate(loop, true);
    }
    g_assert_cmpuint(told.calls, ==, calls + 1);
    display_mirror_set_watched(m, false);
    display_console_free(console);
    display_mirror_refresh(m); /* its console is gone: black */
    g_assert_true(told.resized);
    calls = told.calls;
    display_mirror_refresh(m);
    g_assert_cmpuint(told.calls, ==, calls);
    display_mirror_free(m);
    display_surface_clear(&picture);
    display_registry_free(reg);
    loop_free(loop);
    object_unref(root);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/display/ppm", test_ppm);
    g_test_add_func("/display/png", test_png);
    g_test_add_func("/display/sizes", test_sizes);
    g_test_add_func("/display/consoles", test_consoles);
    g_test_add_func("/display/mirror", test_mirror);
    return g_test_run();
}
