/* Pictures in guest memory, as a guest describes them, and descriptions that lie. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "display/display.h"
#include "hw/firmware/fw_cfg.h"

static TestBoard *b;
static FwCfg *fw_cfg;
static DisplaySurface surface;

static void setup(void)
{
    b = test_board_new();
    fw_cfg = FW_CFG(test_board_add(b, TYPE_FW_CFG_IO, NULL, NULL));
    b->env.fw_cfg = fw_cfg;
    b->env.displays = display_registry_new();
    display_surface_init(&surface);
    test_board_add(b, "ramfb", NULL, NULL);
}

static void teardown(void)
{
    display_surface_clear(&surface);
    device_unrealize_all(b->root);
    display_registry_free(b->env.displays);
    test_board_free(b);
}

static void render(void)
{
    display_console_render(display_console_find(b->env.displays, NULL, NULL), &surface);
}

static void configure(uint64_t gpa, const char *fourcc, uint32_t width, uint32_t height, uint32_t stride)
{
    uint32_t file[7] = { GUINT32_TO_BE((uint32_t)(gpa >> 32)),
                         GUINT32_TO_BE((uint32_t)gpa),
                         0,
                         0,
                         GUINT32_TO_BE(width),
                         GUINT32_TO_BE(height),
                         GUINT32_TO_BE(stride) };
    for (int i = 0; i < 4; i++) { /* its letters, the first one lowest */
        ((uint8_t *)&file[2])[3 - i] = (uint8_t)fourcc[i];
    }
    fw_cfg_write_file(fw_cfg, "etc/ramfb", file, sizeof(file));
}

static void expect_blank(void)
{
    render();
    g_assert_cmpuint(surface.width, ==, 640);
    g_assert_cmpuint(surface.height, ==, 480);
    for (unsigned i = 0; i < 640 * 480; i++) {
        g_assert_cmphex(surface.pixels[i], ==, 0);
    }
}

static void test_formats(void)
{
    static const struct {
        const char *fourcc;
        unsigned bytes;
        uint8_t pixel[4];
    } cases[] = {
        { "XR24", 4, { 0x00, 0x80, 0xff, 0x55 } }, { "AR24", 4, { 0x00, 0x80, 0xff, 0x55 } },
        { "XB24", 4, { 0xff, 0x80, 0x00, 0x55 } }, { "AB24", 4, { 0xff, 0x80, 0x00, 0x55 } },
        { "RG24", 3, { 0x00, 0x80, 0xff } },       { "BG24", 3, { 0xff, 0x80, 0x00 } },
    };
    setup();
    expect_blank();
    uint8_t *ram = b->ram.ram->host + 0x10000;
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        memset(ram, 0, 0x1000);
        memcpy(ram + 100 + cases[i].bytes * 2, cases[i].pixel, cases[i].bytes); /* (2, 1) */
        configure(0x10000, cases[i].fourcc, 5, 3, 100);
        render();
        g_assert_cmpuint(surface.width, ==, 5);
        g_assert_cmpuint(surface.height, ==, 3);
        for (unsigned n = 0; n < 15; n++) {
            g_assert_cmphex(surface.pixels[n], ==, n == 7 ? 0xff8000 : 0);
        }
    }
    memset(ram, 0, 0x1000);
    ram[1] = 0xf8; /* red of 5:6:5, at 0 */
    ram[2] = 0xe0;
    ram[3] = 0x07; /* green, at 1; no stride: lines follow each other */
    configure(0x10000, "RG16", 1, 2, 0);
    render();
    g_assert_cmphex(surface.pixels[0], ==, 0xff0000);
    g_assert_cmphex(surface.pixels[1], ==, 0x00ff00);
    device_reset_all(b->root);
    expect_blank();
    teardown();
}

static void test_hostile(void)
{
    static const struct {
        uint64_t gpa;
        const char *fourcc;
        uint32_t width, height, stride;
    } cases[] = {
        { 0x10000, "NONE", 4, 4, 16 },
        { 0x10000, "XR24", 0, 4, 16 },
        { 0x10000, "XR24", 4, 0, 16 },
        { 0x10000, "XR24", 4, 4, 15 },
        { 0x10000, "XR24", 16384, 12288, 65536 },
        { 0x10000, "XR24", 16385, 1, 65540 },
        { 0x10000, "XR24", 0x40000001, 1, 4 },
        { UINT64_MAX - 8, "XR24", 4, 4, 16 },
        { UINT64_MAX - 0x10000, "XR24", 4, 4, 0xffffffff },
    };
    setup();
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        configure(cases[i].gpa, cases[i].fourcc, cases[i].width, cases[i].height, cases[i].stride);
        expect_blank();
    }
    /* Where memory ends the picture is black. */
    memset(b->ram.ram->host + TEST_RAM_SIZE - 16, 0xff, 16);
    configure(TEST_RAM_SIZE - 16, "XR24", 4, 4, 16);
    render();
    g_assert_cmphex(surface.pixels[3], ==, 0xffffff);
    g_assert_cmphex(surface.pixels[4], ==, 0);
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ramfb/formats", test_formats);
    g_test_add_func("/ramfb/hostile", test_hostile);
    return g_test_run();
}
