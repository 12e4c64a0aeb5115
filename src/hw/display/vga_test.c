/* The standard VGA: ports, the window's write modes, pictures of each kind. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "tests/machine/test_board.h"

#include "hw/display/vga.h"
#include "hw/pci/i440fx.h"

typedef struct Bench {
    TestBoard *b;
    MemoryRegion pci_memory;
    Device *host, *vga;
    DisplayRegistry *displays;
    DisplaySurface surface;
} Bench;

static const char *card = TYPE_VGA;

static void bench_new(Bench *n)
{
    GError *error = NULL;
    memset(n, 0, sizeof(*n));
    n->b = test_board_new();
    n->displays = display_registry_new();
    n->b->env.displays = n->displays;
    memory_region_init(&n->pci_memory, NULL, "pci", UINT64_MAX);
    memory_region_add_overlap(&n->b->memory_root, 0, &n->pci_memory, -1);
    n->host = device_new_unattached(n->b->root, TYPE_I440FX_HOST, NULL);
    i440fx_set_memory(n->host, &n->b->ram, &n->pci_memory, NULL);
    device_realize(n->host, NULL, &n->b->env, &error);
    g_assert_no_error(error);
    n->vga = test_board_add(n->b, card, BUS(i440fx_bus(n->host)), "addr", "02.0", "vgamem_mb", "2", NULL);
    pci_bus_assign_resources(i440fx_bus(n->host), 0xc000, 0x10000, 0xe0000000, 0xfea00000, NULL);
    display_surface_init(&n->surface);
}

static void bench_free(Bench *n)
{
    display_surface_clear(&n->surface);
    device_unrealize_all(n->b->root);
    display_registry_free(n->displays);
    test_board_free(n->b);
    memory_region_destroy(&n->pci_memory);
}

static void indexed(Bench *n, uint16_t port, uint8_t index, uint8_t value)
{
    test_outb(n->b, port, index);
    test_outb(n->b, port + 1, value);
}

static void attribute(Bench *n, uint8_t index, uint8_t value)
{
    test_inb(n->b, 0x3da);
    test_outb(n->b, 0x3c0, index);
    test_outb(n->b, 0x3c0, value);
    test_outb(n->b, 0x3c0, 0x20);
}

static uint32_t pixel(Bench *n, unsigned x, unsigned y)
{
    DisplayConsole *console = display_console_find(n->displays, NULL, NULL);
    display_console_render(console, &n->surface);
    g_assert_cmpuint(x, <, n->surface.width);
    g_assert_cmpuint(y, <, n->surface.height);
    return n->surface.pixels[y * n->surface.width + x];
}

/* 80x25 text with 16-line characters, a font in plane 2 whose every line is the code's own bits. */
static void text_setup(Bench *n)
{
    test_outb(n->b, 0x3c2, 0x67);
    indexed(n, 0x3c4, 4, 0x06); /* planes apart, for the font */
    indexed(n, 0x3c4, 2, 0x04);
    indexed(n, 0x3ce, 5, 0x00);
    indexed(n, 0x3ce, 6, 0x04);
    for (unsigned code = 0; code < 256; code++) {
        for (unsigned y = 0; y < 16; y++) {
            test_write(n->b, 0xa0000 + code * 32 + y, 1, code);
        }
    }
    indexed(n, 0x3c4, 1, 0x01);
    indexed(n, 0x3c4, 2, 0x03);
    indexed(n, 0x3c4, 4, 0x02);
    indexed(n, 0x3ce, 5, 0x10);
    indexed(n, 0x3ce, 6, 0x0e);
    indexed(n, 0x3d4, 0x01, 79);
    indexed(n, 0x3d4, 0x07, 0x1f);
    indexed(n, 0x3d4, 0x09, 0x4f);
    indexed(n, 0x3d4, 0x0a, 0x20); /* no cursor */
    indexed(n, 0x3d4, 0x12, 0x8f);
    indexed(n, 0x3d4, 0x13, 40);
    indexed(n, 0x3d4, 0x17, 0xa3);
    for (unsigned i = 0; i < 16; i++) {
        attribute(n, i, i);
    }
    test_outb(n->b, 0x3c8, 0);
    for (unsigned i = 0; i < 16; i++) {
        test_outb(n->b, 0x3c9, i);
        test_outb(n->b, 0x3c9, 2 * i);
        test_outb(n->b, 0x3c9, 4 * i);
    }
}

static void test_text(void)
{
    Bench n;
    bench_new(&n);
    text_setup(&n);
    test_write(n.b, 0xb8000, 2, 0x1f41); /* 'A', white on blue */
    test_write(n.b, 0xb8000 + 2 * 81, 2, 0x0742);
    g_assert_cmphex(test_read(n.b, 0xb8000, 2), ==, 0x1f41);
    g_assert_cmphex(pixel(&n, 1, 0), ==, 0x3c79f3);  /* bit 6 of 0x41: colour 15 */
    g_assert_cmphex(pixel(&n, 0, 15), ==, 0x040810); /* bit 7: colour 1 */
    g_assert_cmpuint(n.surface.width, ==, 640);
    g_assert_cmpuint(n.surface.height, ==, 400);
    g_autofree char *text = display_console_text(display_console_find(n.displays, NULL, NULL));
    g_assert_true(g_str_has_prefix(text, "A"));
    char **lines = g_strsplit(text, "\n", -1);
    g_assert_cmpuint(g_strv_length(lines), ==, 26);
    g_assert_nonnull(strchr(lines[1], 'B'));
    g_strfreev(lines);
    indexed(&n, 0x3d4, 0x0a, 0x00); /* the cursor, all lines of cell 2 */
    indexed(&n, 0x3d4, 0x0b, 0x0f);
    indexed(&n, 0x3d4, 0x0f, 2);
    test_write(n.b, 0xb8004, 2, 0x0400);
    g_assert_cmphex(pixel(&n, 16, 3), ==, 0x102041);
    bench_free(&n);
}

static void planar_setup(Bench *n)
{
    text_setup(n);
    indexed(n, 0x3c4, 4, 0x06);
    indexed(n, 0x3c4, 2, 0x0f);
    indexed(n, 0x3ce, 5, 0x00);
    indexed(n, 0x3ce, 6, 0x05);
    indexed(n, 0x3d4, 0x07, 0x3e);
    indexed(n, 0x3d4, 0x09, 0x40);
    indexed(n, 0x3d4, 0x12, 0xdf);
    indexed(n, 0x3d4, 0x17, 0xe3);
    indexed(n, 0x3d4, 0x18, 0xff);
    attribute(n, 0x12, 0x0f);
    indexed(n, 0x3ce, 8, 0xff);
}

static void test_planar(void)
{
    Bench n;
    bench_new(&n);
    planar_setup(&n);
    /* Mode 2: the byte's low bits are a colour; the mask chooses pixels. */
    test_write(n.b, 0xa0000 + 80, 1, 0); /* what text mode has left there */
    indexed(&n, 0x3ce, 5, 0x02);
    indexed(&n, 0x3ce, 8, 0x20);
    test_read(n.b, 0xa0000 + 80, 1); /* fills the latches */
    test_write(n.b, 0xa0000 + 80, 1, 9);
    g_assert_cmphex(pixel(&n, 2, 1), ==, 0x244992);
    g_assert_cmphex(pixel(&n, 3, 1), ==, 0);
    g_assert_cmpuint(n.surface.height, ==, 480);
    /* Reads by plane, and by colour. */
    indexed(&n, 0x3ce, 5, 0x00);
    indexed(&n, 0x3ce, 4, 3);
    g_assert_cmphex(test_read(n.b, 0xa0000 + 80, 1), ==, 0x20);
    indexed(&n, 0x3ce, 4, 1);
    g_assert_cmphex(test_read(n.b, 0xa0000 + 80, 1), ==, 0x00);
    indexed(&n, 0x3ce, 5, 0x08);
    indexed(&n, 0x3ce, 2, 9);
    indexed(&n, 0x3ce, 7, 15);
    g_assert_cmphex(test_read(n.b, 0xa0000 + 80, 1), ==, 0x20);
    /* Mode 1 copies latches; mode 3 masks set/reset; mode 0 rotates and xors. */
    indexed(&n, 0x3ce, 5, 0x01);
    test_write(n.b, 0xa0000 + 81, 1, 0x55);
    g_assert_cmphex(pixel(&n, 10, 1), ==, 0x244992);
    indexed(&n, 0x3ce, 5, 0x03);
    indexed(&n, 0x3ce, 0, 5);
    indexed(&n, 0x3ce, 8, 0xff);
    test_write(n.b, 0xa0000 + 81, 1, 0x80);
    g_assert_cmphex(pixel(&n, 8, 1), ==, 0x142851);
    indexed(&n, 0x3ce, 5, 0x00);
    indexed(&n, 0x3ce, 3, 0x18 | 1);
    indexed(&n, 0x3ce, 4, 0);
    test_read(n.b, 0xa0000 + 81, 1);
    test_write(n.b, 0xa0000 + 81, 1, 0x01);
    g_assert_cmphex(test_read(n.b, 0xa0000 + 81, 1), ==, 0x20); /* 0xa0 xor 0x80 in plane 0 */
    bench_free(&n);
}

static void test_packed(void)
{
    Bench n;
    bench_new(&n);
    planar_setup(&n);
    indexed(&n, 0x3c4, 4, 0x0e);
    indexed(&n, 0x3ce, 5, 0x40);
    indexed(&n, 0x3d4, 0x07, 0x1f);
    indexed(&n, 0x3d4, 0x09, 0x41);
    indexed(&n, 0x3d4, 0x12, 0x8f);
    for (unsigned i = 0; i < 320; i++) {
        test_write(n.b, 0xa0000 + 320 + i, 1, i & 15);
    }
    g_assert_cmphex(pixel(&n, 2 * 7, 2), ==, 0x1c3871);
    g_assert_cmphex(pixel(&n, 2 * 7 + 1, 3), ==, 0x1c3871);
    g_assert_cmphex(test_read(n.b, 0xa0000 + 327, 1), ==, 7);
    g_assert_cmpuint(n.surface.height, ==, 400);
    bench_free(&n);
}

static void dispi(Bench *n, uint16_t index, uint16_t value)
{
    test_out(n->b, 0x1ce, 2, index);
    test_out(n->b, 0x1cf, 2, value);
}

static uint16_t dispi_read(Bench *n, uint16_t index)
{
    test_out(n->b, 0x1ce, 2, index);
    return test_in(n->b, 0x1cf, 2);
}

static void test_linear(void)
{
    Bench n;
    bench_new(&n);
    PciDevice *pci = PCI_DEVICE(n.vga);
    uint64_t lfb = pci->regions[0].addr, mmio = pci->regions[2].addr;
    g_assert_cmphex(dispi_read(&n, DISPI_ID), ==, 0xb0c5);
    g_assert_cmpuint(dispi_read(&n, DISPI_MEMORY_64K), ==, 32);
    dispi(&n, DISPI_XRES, 320);
    dispi(&n, DISPI_YRES, 200);
    dispi(&n, DISPI_BPP, 32);
    dispi(&n, DISPI_ENABLE, DISPI_ENABLED | DISPI_LFB);
    test_write(n.b, lfb + 4 * (320 * 10 + 5), 4, 0x123456);
    g_assert_cmphex(pixel(&n, 5, 10), ==, 0x123456);
    g_assert_cmpuint(n.surface.width, ==, 320);
    dispi(&n, DISPI_Y_OFFSET, 10);
    g_assert_cmphex(pixel(&n, 5, 0), ==, 0x123456);
    dispi(&n, DISPI_ENABLE, 0);
    dispi(&n, DISPI_BPP, 16);
    dispi(&n, DISPI_ENABLE, DISPI_ENABLED | DISPI_LFB | DISPI_NO_CLEAR);
    test_write(n.b, lfb, 2, 0xf81f);
    g_assert_cmphex(pixel(&n, 0, 0), ==, 0xff00ff);
    /* The same registers and the ports in BAR 2. */
    g_assert_cmpuint(test_read(n.b, mmio + 0x500 + 2 * DISPI_XRES, 2), ==, 320);
    test_write(n.b, mmio + 0x40c + 2, 1, 8); /* 0x3ce */
    test_write(n.b, mmio + 0x40c + 3, 1, 0x5a);
    test_outb(n.b, 0x3ce, 8);
    g_assert_cmphex(test_inb(n.b, 0x3cf), ==, 0x5a);
    /* What does not fit is made to. */
    dispi(&n, DISPI_ENABLE, 0);
    dispi(&n, DISPI_XRES, 0xffff);
    dispi(&n, DISPI_YRES, 0xffff);
    dispi(&n, DISPI_BPP, 77);
    dispi(&n, DISPI_ENABLE, DISPI_ENABLED | DISPI_LFB);
    g_assert_cmpuint(dispi_read(&n, DISPI_XRES) * dispi_read(&n, DISPI_YRES), <=, 2 << 20);
    pixel(&n, 0, 0);
    bench_free(&n);
}

/* Whatever the registers hold, a picture comes out and nothing is read beyond the memory. */
static void test_random(void)
{
    g_autofree uint8_t *memory = g_malloc0(1 << 16);
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    DisplaySurface surface;
    display_surface_init(&surface);
    for (int i = 0; i < 40; i++) {
        VgaRegisters r;
        uint8_t *bytes = (uint8_t *)&r;
        for (size_t k = 0; k < sizeof(r); k++) {
            bytes[k] = g_rand_int(rand);
        }
        r.crtc[1] &= i % 8 ? 31 : 255; /* mostly narrow, for the time it takes */
        r.attribute_on = i & 1;
        r.dispi[DISPI_ENABLE] = i % 10 == 0;
        r.dispi[DISPI_XRES] %= 2000;
        r.dispi[DISPI_YRES] %= 1000;
        vga_draw(&r, memory, 1 << 16, i & 1, &surface);
        g_free(vga_text(&r, memory, 1 << 16));
    }
    display_surface_clear(&surface);
}

static void test_retrace(void)
{
    Bench n;
    bench_new(&n);
    test_outb(n.b, 0x3c2, 0x67);
    unsigned seen = 0;
    for (int i = 0; i < 40; i++) {
        seen |= 1u << (test_inb(n.b, 0x3da) & 9);
        test_board_advance(n.b, 1000003);
    }
    g_assert_true(seen & 1u << 0 && seen & 1u << 9);
    bench_free(&n);
}

/* The card that is virtio-gpu, too: a VGA while nobody drives it, and where firmware and driver look for
 * their parts. */
static void test_virtio(void)
{
    Bench n;
    card = "virtio-vga";
    test_text();
    test_linear();
    bench_new(&n);
    const PciDevice *pci = PCI_DEVICE(n.vga);
    g_assert_cmphex(pci_get_word(pci->config + PCI_VENDOR_ID), ==, 0x1af4);
    g_assert_cmphex(pci_get_word(pci->config + PCI_DEVICE_ID), ==, 0x1050);
    uint64_t bar = pci->regions[2].addr;
    g_assert_cmphex(test_read(n.b, bar + 0x500, 2), ==, 0xb0c5);
    g_assert_cmphex(test_read(n.b, bar + 0x1000 + 0x12, 2), ==, 2); /* queues */
    g_assert_cmphex(test_read(n.b, bar + 0x2000 + 8, 4), ==, 1);    /* screens */
    bench_free(&n);
    card = TYPE_VGA;
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vga/text", test_text);
    g_test_add_func("/vga/planar", test_planar);
    g_test_add_func("/vga/packed", test_packed);
    g_test_add_func("/vga/linear", test_linear);
    g_test_add_func("/vga/random", test_random);
    g_test_add_func("/vga/retrace", test_retrace);
    g_test_add_func("/vga/virtio", test_virtio);
    return g_test_run();
}
