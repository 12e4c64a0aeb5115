/* virtio-gpu as a driver uses it, and as one that means harm does; what EDID says. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "hw/virtio/virtio_test.h"

#include "hw/display/edid.h"
#include "hw/display/virtio_gpu.h"

#define CONTROL 0
#define CURSOR  1
#define OK      0x1100u
enum { UNSPEC = 0x1200, NO_MEMORY, BAD_SCANOUT, BAD_RESOURCE, BAD_CONTEXT, BAD_PARAMETER };

static VirtioTest t;
static DisplayRegistry *displays;
static DisplaySurface surface;
static uint8_t response[1200];

static void setup(const char *hostmem, const char *outputs)
{
    g_autoptr(GError) error = NULL;
    Object *dev = vt_new(&t, TYPE_VIRTIO_GPU);
    displays = display_registry_new();
    t.env.displays = displays;
    display_surface_init(&surface);
    g_assert_true(object_property_parse(dev, "max_hostmem", hostmem, NULL));
    g_assert_true(object_property_parse(dev, "max_outputs", outputs, NULL));
    g_assert_true(object_property_parse(dev, "xres", "640", NULL));
    g_assert_true(object_property_parse(dev, "yres", "480", NULL));
    g_assert_true(vt_realize(&t, &error));
    vt_start(&t, VIRTIO_BIT(1), 2);
}

static void teardown(void)
{
    display_surface_clear(&surface);
    vt_free(&t);
    display_registry_free(displays);
}

/* One command of words: the header, then `words` of them; the response's type. */
static uint32_t command(unsigned queue, uint32_t type, const uint32_t *body, unsigned words)
{
    uint32_t request[64] = { type, 1, 0x1234, 0x5678, 0, 0 };
    for (unsigned i = 0; i < words; i++) {
        request[6 + i] = body[i];
    }
    t.data_next = VT_DATA;
    VtBuffer buffers[2] = { { vt_alloc(&t, request, 24 + words * 4), 24 + words * 4, false },
                            { vt_alloc(&t, NULL, sizeof(response)), sizeof(response), true } };
    uint32_t written;
    vt_add(&t, queue, 0, buffers, 2);
    vt_kick(&t, queue);
    vt_take(&t, queue, &written);
    g_assert_cmpuint(written, <=, sizeof(response));
    address_space_read(t.as, buffers[1].addr, MEMTXATTRS_NONE, response, sizeof(response));
    uint32_t head[4];
    memcpy(head, response, sizeof(head));
    g_assert_cmphex(head[1], ==, 1); /* the fence is back */
    g_assert_cmphex(head[2], ==, 0x1234);
    g_assert_cmphex(head[3], ==, 0x5678);
    return head[0];
}
#define COMMAND(type, ...) \
    command(CONTROL, type, (const uint32_t[]){ __VA_ARGS__ }, sizeof((const uint32_t[]){ __VA_ARGS__ }) / 4)

static uint32_t get32(const uint8_t *p)
{
    uint32_t value;
    memcpy(&value, p, 4);
    return value;
}

static void render(unsigned head)
{
    display_console_render(display_console_find_head(displays, NULL, head, NULL), &surface);
}

#define PICTURE 0x200000u /* in guest memory */

/* 8 by 4 pixels in two pieces, pixel n being n in blue. */
static void make_picture(void)
{
    for (unsigned i = 0; i < 32; i++) {
        vt_set_ram(&t, (i < 10 ? PICTURE : PICTURE + 0x1000 - 40) + 4 * i, 4, 0xaa000000 | i);
    }
    g_assert_cmphex(COMMAND(0x101, 7, 2, 8, 4), ==, OK);
    g_assert_cmphex(COMMAND(0x106, 7, 2, PICTURE, 0, 40, 0, PICTURE + 0x1000, 0, 88, 0), ==, OK);
}

static void test_screen(void)
{
    setup("2M", "2");
    g_assert_cmpuint(vt_config(&t, 8, 4), ==, 2);
    g_assert_cmphex(command(CONTROL, 0x100, NULL, 0), ==, 0x1101);
    g_assert_cmpuint(get32(response + 24 + 8), ==, 640);
    g_assert_cmpuint(get32(response + 24 + 12), ==, 480);
    g_assert_cmpuint(get32(response + 24 + 24 + 16), ==,
                     1); /* the second one is on, the third is not there */
    g_assert_cmpuint(get32(response + 24 + 48 + 16), ==, 0);
    render(0);
    g_assert_cmpuint(surface.width, ==, 640); /* blank */
    make_picture();
    g_assert_cmphex(COMMAND(0x105, 0, 0, 8, 4, 0, 0, 7, 0), ==, OK);
    g_assert_cmphex(COMMAND(0x103, 0, 0, 8, 4, 0, 7), ==, OK);
    g_assert_cmphex(COMMAND(0x104, 0, 0, 8, 4, 7, 0), ==, OK);
    render(0);
    g_assert_cmpuint(surface.width, ==, 8);
    g_assert_cmpuint(surface.height, ==, 4);
    for (unsigned i = 0; i < 32; i++) {
        g_assert_cmphex(surface.pixels[i], ==, i);
    }
    /* A part of the picture is changed, and a part of it shown on the other screen. */
    vt_set_ram(&t, PICTURE + 0x1000 + 4 * (2 * 8 + 3 - 10), 4, 0x00ff8040);
    g_assert_cmphex(COMMAND(0x105, 3, 2, 1, 1, 4 * (2 * 8 + 3), 0, 7, 0), ==, OK);
    g_assert_cmphex(COMMAND(0x103, 2, 1, 3, 2, 1, 7), ==, OK);
    render(1);
    g_assert_cmpuint(surface.width, ==, 3);
    static const uint32_t part[6] = { 10, 11, 12, 18, 0xff8040, 20 };
    g_assert_cmpmem(surface.pixels, sizeof(part), part, sizeof(part));
    g_assert_cmphex(COMMAND(0x102, 7, 0), ==, OK); /* goes: both screens are blank */
    render(1);
    g_assert_cmpuint(surface.width, ==, 640);
    teardown();
}

static void test_formats(void)
{
    static const struct {
        uint32_t format;
        uint8_t bytes[4];
    } cases[] = { { 1, { 3, 2, 1, 9 } },   { 2, { 3, 2, 1, 9 } },  { 3, { 9, 1, 2, 3 } },
                  { 4, { 9, 1, 2, 3 } },   { 67, { 1, 2, 3, 9 } }, { 68, { 9, 3, 2, 1 } },
                  { 121, { 9, 3, 2, 1 } }, { 134, { 1, 2, 3, 9 } } };
    setup("2M", "1");
    for (uint32_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        vt_set_ram(&t, PICTURE, 4, get32(cases[i].bytes));
        g_assert_cmphex(COMMAND(0x101, i + 1, cases[i].format, 1, 1), ==, OK);
        g_assert_cmphex(COMMAND(0x106, i + 1, 1, PICTURE, 0, 4, 0), ==, OK);
        g_assert_cmphex(COMMAND(0x105, 0, 0, 1, 1, 0, 0, i + 1, 0), ==, OK);
        g_assert_cmphex(COMMAND(0x103, 0, 0, 1, 1, 0, i + 1), ==, OK);
        render(0);
        g_assert_cmphex(surface.pixels[0], ==, 0x010203);
    }
    teardown();
}

static void test_cursor(void)
{
    setup("2M", "1");
    make_picture();
    g_assert_cmphex(COMMAND(0x103, 0, 0, 8, 4, 0, 7), ==, OK);
    g_assert_cmphex(COMMAND(0x101, 9, 1, 64, 64), ==, OK);
    vt_set_ram(&t, PICTURE, 4, 0xff112233);     /* opaque */
    vt_set_ram(&t, PICTURE + 4, 4, 0x80400000); /* half, premultiplied */
    g_assert_cmphex(COMMAND(0x106, 9, 1, PICTURE, 0, 16384, 0), ==, OK);
    g_assert_cmphex(COMMAND(0x105, 0, 0, 64, 1, 0, 0, 9, 0), ==, OK);
    const uint32_t update[] = { 0, 3, 3, 0, 9, 1, 2, 0 }, bad[] = { 0, 0, 0, 0, 7, 0, 0, 0 },
                   far[] = { 0, 0xffffffff, 5, 0, 9, 0, 0, 0 };
    g_assert_cmphex(command(CURSOR, 0x300, update, 8), ==, OK);
    render(0);
    g_assert_cmphex(surface.pixels[1 * 8 + 2], ==, 0x112233); /* 3 - 1, 3 - 2 */
    g_assert_cmphex(surface.pixels[1 * 8 + 3], ==, 0x400000);
    const uint32_t move[] = { 0, 1, 2, 0, 0, 0, 0, 0 };
    g_assert_cmphex(command(CURSOR, 0x301, move, 8), ==, OK);
    render(0);
    g_assert_cmphex(surface.pixels[0], ==, 0x112233);
    g_assert_cmphex(command(CURSOR, 0x301, far, 8), ==, OK);
    render(0);
    g_assert_cmphex(command(CURSOR, 0x300, bad, 8), ==, BAD_PARAMETER); /* no 64 by 64 */
    const uint32_t none[] = { 0, 0, 0, 0, 0, 0, 0, 0 }, lost[] = { 1, 0, 0, 0, 0, 0, 0, 0 };
    g_assert_cmphex(command(CURSOR, 0x300, none, 8), ==, OK);
    g_assert_cmphex(command(CURSOR, 0x300, lost, 8), ==, BAD_SCANOUT);
    g_assert_cmphex(command(CURSOR, 0x101, none, 8), ==, UNSPEC);
    teardown();
}

static void test_refused(void)
{
    setup("2M", "1");
    g_assert_cmphex(COMMAND(0x101, 0, 1, 1, 1), ==, BAD_RESOURCE);
    g_assert_cmphex(COMMAND(0x101, 1, 5, 1, 1), ==, BAD_PARAMETER);
    g_assert_cmphex(COMMAND(0x101, 1, 1, 0, 1), ==, BAD_PARAMETER);
    g_assert_cmphex(COMMAND(0x101, 1, 1, 1, 16385), ==, BAD_PARAMETER);
    g_assert_cmphex(COMMAND(0x101, 1, 1, 16384, 16384), ==, NO_MEMORY);
    g_assert_cmphex(COMMAND(0x101, 1, 1, 512, 500), ==, OK);
    g_assert_cmphex(COMMAND(0x101, 1, 1, 1, 1), ==, BAD_RESOURCE); /* there already */
    g_assert_cmphex(COMMAND(0x101, 2, 1, 512, 540), ==, NO_MEMORY);
    g_assert_cmphex(COMMAND(0x102, 1, 0), ==, OK); /* and its memory is free again */
    g_assert_cmphex(COMMAND(0x101, 2, 1, 512, 540), ==, OK);
    g_assert_cmphex(COMMAND(0x102, 1, 0), ==, BAD_RESOURCE);
    g_assert_cmphex(COMMAND(0x103, 0, 0, 1, 1, 1, 2), ==, BAD_SCANOUT);
    g_assert_cmphex(COMMAND(0x103, 0, 0, 1, 1, 0, 1), ==, BAD_RESOURCE);
    g_assert_cmphex(COMMAND(0x103, 0, 0, 513, 1, 0, 2), ==, BAD_PARAMETER);
    g_assert_cmphex(COMMAND(0x103, 1, 0, 0xffffffff, 1, 0, 2), ==, BAD_PARAMETER);
    g_assert_cmphex(COMMAND(0x103, 0, 0, 0, 0, 0, 2), ==, BAD_PARAMETER);
    g_assert_cmphex(COMMAND(0x104, 0, 540, 1, 1, 2, 0), ==, BAD_PARAMETER);
    g_assert_cmphex(COMMAND(0x105, 0, 0, 1, 1, 0, 0, 2, 0), ==, UNSPEC); /* no backing */
    g_assert_cmphex(COMMAND(0x107, 2, 0), ==, UNSPEC);
    g_assert_cmphex(COMMAND(0x106, 2, 0), ==, UNSPEC);
    g_assert_cmphex(COMMAND(0x106, 2, 16385), ==, UNSPEC);
    g_assert_cmphex(COMMAND(0x106, 2, 2, 0, 0, 4, 0), ==, BAD_PARAMETER); /* an entry is missing */
    g_assert_cmphex(COMMAND(0x106, 2, 2, PICTURE, 0, 4, 0, 0, 0xfffff, 0xffffffff, 0), ==, OK);
    g_assert_cmphex(COMMAND(0x106, 2, 1, PICTURE, 0, 4, 0), ==, UNSPEC); /* there is one */
    g_assert_cmphex(COMMAND(0x105, 0, 0, 1, 1, 0, 0, 2, 0), ==, OK);
    g_assert_cmphex(COMMAND(0x105, 0, 0, 2, 1, 0, 0, 2, 0), ==, UNSPEC); /* no RAM behind the second piece */
    g_assert_cmphex(COMMAND(0x105, 0, 0, 1, 1, 0xffffffff, 0xffffffff, 2, 0), ==, UNSPEC);
    g_assert_cmphex(COMMAND(0x105, 0, 0, 1, 1, 8, 1, 2, 0), ==, UNSPEC);
    g_assert_cmphex(COMMAND(0x105, 0, 0, 513, 1, 0, 0, 2, 0), ==, BAD_PARAMETER);
    g_assert_cmphex(COMMAND(0x105, 0, 0, 1), ==, BAD_PARAMETER); /* cut off */
    g_assert_cmphex(COMMAND(0x107, 2, 0), ==, OK);
    g_assert_cmphex(COMMAND(0x107, 2, 0), ==, UNSPEC);
    g_assert_cmphex(COMMAND(0x10c, 0), ==, UNSPEC); /* blobs are not offered */
    g_assert_cmphex(COMMAND(0x10a, 1, 0), ==, BAD_PARAMETER);
    /* A request without a whole header, and one with no room for the answer, come back. */
    VtBuffer tiny = { vt_alloc(&t, NULL, 16), 7, false };
    vt_add(&t, CONTROL, 0, &tiny, 1);
    vt_kick(&t, CONTROL);
    uint32_t written;
    vt_take(&t, CONTROL, &written);
    g_assert_cmpuint(written, ==, 0);
    teardown();
}

static void test_state(void)
{
    GError *error = NULL;
    setup("2M", "1");
    make_picture();
    g_assert_cmphex(COMMAND(0x105, 0, 0, 8, 4, 0, 0, 7, 0), ==, OK);
    g_assert_cmphex(COMMAND(0x103, 1, 1, 4, 2, 0, 7), ==, OK);
    const VmState *vms = DEVICE_GET_CLASS(t.device)->vmstate;
    g_autoptr(GByteArray) state = vmstate_save(vms, t.device, &error);
    g_assert_no_error(error);
    g_assert_cmphex(COMMAND(0x102, 7, 0), ==, OK);
    g_assert_true(vmstate_load(vms, t.device, state->data, state->len, &error));
    render(0);
    g_assert_cmpuint(surface.width, ==, 4);
    g_assert_cmphex(surface.pixels[0], ==, 9);
    g_autoptr(GByteArray) again = vmstate_save(vms, t.device, &error);
    g_assert_cmpmem(state->data, state->len, again->data, again->len);
    /* Whatever byte is wrong: refused, or taken, and it can be drawn. */
    for (guint i = 0; i<state->len; i += state->len> 4000 && i > 2000 && i + 2000 < state->len ? 97 : 1) {
        g_autofree uint8_t *copy = g_memdup2(state->data, state->len);
        copy[i] ^= 0x21;
        vmstate_load(vms, t.device, copy, state->len, NULL);
        render(0);
    }
    teardown();
}

static void test_edid(void)
{
    static const uint32_t sizes[][2] = {
        { 1280, 800 }, { 3840, 2160 }, { 64, 64 }, { 4096, 100 }, { 16384, 12288 }
    };
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        uint8_t e[EDID_SIZE], sum = 0;
        edid_fill(e, sizes[i][0], sizes[i][1]);
        for (unsigned n = 0; n < EDID_SIZE; n++) {
            sum = (uint8_t)(sum + e[n]);
        }
        g_assert_cmpuint(sum, ==, 0);
        g_assert_cmpmem(e, 8, "\0\xff\xff\xff\xff\xff\xff\0", 8);
        const uint8_t *d = e + 54;
        uint32_t width = d[2] | (uint32_t)(d[4] & 0xf0) << 4, height = d[5] | (uint32_t)(d[7] & 0xf0) << 4;
        uint32_t h_total = width + (d[3] | (uint32_t)(d[4] & 15) << 8),
                 v_total = height + (d[6] | (uint32_t)(d[7] & 15) << 8);
        bool fits = i < 3;
        g_assert_cmpuint(width, ==, fits ? sizes[i][0] : 1024);
        g_assert_cmpuint(height, ==, fits ? sizes[i][1] : 768);
        double hz = (d[0] | (unsigned)d[1] << 8) * 10000.0 / (h_total * (double)v_total);
        g_assert_cmpfloat(hz, >, 59);
        g_assert_cmpfloat(hz, <, 60.1);
    }
    setup("2M", "1");
    g_assert_cmphex(COMMAND(0x10a, 0, 0), ==, 0x1104);
    g_assert_cmpuint(get32(response + 24), ==, 128);
    g_assert_cmpuint(response[32 + 54 + 2], ==, 640 & 0xff);
    teardown();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/virtio-gpu/screen", test_screen);
    g_test_add_func("/virtio-gpu/formats", test_formats);
    g_test_add_func("/virtio-gpu/cursor", test_cursor);
    g_test_add_func("/virtio-gpu/refused", test_refused);
    g_test_add_func("/virtio-gpu/state", test_state);
    g_test_add_func("/virtio-gpu/edid", test_edid);
    return g_test_run();
}
