/*
 * "ramfb": a screen in guest memory, whose place firmware writes into the file "etc/ramfb" of fw_cfg. Source:
 * QEMU's documentation (docs/specs/standard-vga does not tell; the layout is that of OVMF's QemuRamfbDxe and
 * SeaBIOS's vgasrc/ramfb.c), and Linux's drm_fourcc.h for the names of pixel formats.
 *
 * There is no register and no interrupt: an operating system keeps what its loader found (efifb). The picture
 * is read from guest memory whenever somebody looks. For SeaBIOS there is Debian's vgabios-ramfb.bin, where
 * it is installed.
 *
 * Threads: rendering in the main loop's. The file is fw_cfg's, which saves it: this device has no state of
 * its own. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "base/error.h"
#include "base/log.h"
#include "display/display.h"
#include "hw/core/device.h"
#include "hw/core/firmware_file.h"
#include "hw/firmware/fw_cfg.h"
#include "trace/trace.h"

#include <string.h>

TRACE_EVENT(ramfb_mode, "gpa 0x%" G_GINT64_MODIFIER "x fourcc 0x%08x %ux%u stride %u shown %d");

#define TYPE_RAMFB   "ramfb"
#define RAMFB_FILE   "etc/ramfb"
#define ROM_NAME     "vgabios-ramfb.bin"
#define ROM_MAX      (128u << 10)
#define MAX_PIXELS   (1u << 25) /* 8K, and little more */
#define BLANK_WIDTH  640
#define BLANK_HEIGHT 480
#define FOURCC(s)    ((uint32_t)(s)[0] | (uint32_t)(s)[1] << 8 | (uint32_t)(s)[2] << 16 | (uint32_t)(s)[3] << 24)

/* The file: big-endian. */
typedef struct __attribute__((packed)) RamfbFile {
    uint64_t gpa;
    uint32_t fourcc, flags, width, height, stride;
} RamfbFile;

/* Where the colours of a little-endian pixel are. */
typedef struct RamfbFormat {
    const char *fourcc;
    uint8_t bytes;
    uint8_t red, green, blue;                /* lowest bits */
    uint8_t red_bits, green_bits, blue_bits; /* widths */
} RamfbFormat;
static const RamfbFormat formats[] = {
    { "XR24", 4, 16, 8, 0, 8, 8, 8 }, { "AR24", 4, 16, 8, 0, 8, 8, 8 }, { "XB24", 4, 0, 8, 16, 8, 8, 8 },
    { "AB24", 4, 0, 8, 16, 8, 8, 8 }, { "RG24", 3, 16, 8, 0, 8, 8, 8 }, { "BG24", 3, 0, 8, 16, 8, 8, 8 },
    { "RG16", 2, 11, 5, 0, 5, 6, 5 }, { "XR15", 2, 10, 5, 0, 5, 5, 5 },
};

/* What is to be shown, checked. */
typedef struct RamfbMode {
    const RamfbFormat *format; /* NULL: nothing */
    uint64_t gpa;
    uint32_t width, height, stride;
} RamfbMode;

typedef struct RamfbState {
    Device parent_obj;
    RamfbMode mode; /* of the last rendering */
    DisplayConsole *console;
} RamfbState;
#define RAMFB(obj) OBJECT_CHECK(RamfbState, obj, TYPE_RAMFB)

static const RamfbFormat *format_find(uint32_t fourcc)
{
    for (size_t i = 0; i < G_N_ELEMENTS(formats); i++) {
        if (FOURCC(formats[i].fourcc) == fourcc) {
            return &formats[i];
        }
    }
    return NULL;
}

/* What the guest asks for, or a mode without format where that cannot be. */
static RamfbMode mode_check(const RamfbFile *file)
{
    uint32_t fourcc = GUINT32_FROM_BE(file->fourcc);
    RamfbMode m = { format_find(fourcc), GUINT64_FROM_BE(file->gpa), GUINT32_FROM_BE(file->width),
                    GUINT32_FROM_BE(file->height), GUINT32_FROM_BE(file->stride) };
    bool ok = m.format && m.width && m.height && m.width <= DISPLAY_MAX_WIDTH &&
              m.height <= DISPLAY_MAX_HEIGHT && (uint64_t)m.width * m.height <= MAX_PIXELS;
    if (ok && !m.stride) {
        m.stride = m.width * m.format->bytes;
    }
    /* Lines do not overlap: a picture is not larger than the memory that it is in. */
    ok = ok && m.stride >= m.width * m.format->bytes && m.gpa <= UINT64_MAX - (uint64_t)m.stride * m.height;
    if (!ok) {
        m.format = NULL;
    }
    return m;
}

static uint8_t widen(uint32_t pixel, unsigned shift, unsigned bits)
{
    uint32_t value = pixel >> shift & ((1u << bits) - 1);
    return (uint8_t)(value * 255 / ((1u << bits) - 1));
}

static void convert_line(const RamfbFormat *f, const uint8_t *from, uint32_t *to, uint32_t width)
{
    for (uint32_t x = 0; x < width; x++, from += f->bytes) {
        uint32_t pixel = 0;
        memcpy(&pixel, from, f->bytes);
        to[x] = (uint32_t)widen(pixel, f->red, f->red_bits) << 16 |
                (uint32_t)widen(pixel, f->green, f->green_bits) << 8 | widen(pixel, f->blue, f->blue_bits);
    }
}

static bool same_mode(const RamfbMode *a, const RamfbMode *b)
{
    return a->format == b->format && a->gpa == b->gpa && a->width == b->width && a->height == b->height &&
           a->stride == b->stride;
}

static RamfbMode current_mode(RamfbState *s)
{
    RamfbFile file = { 0 };
    fw_cfg_read_file(DEVICE(s)->env->fw_cfg, RAMFB_FILE, &file, sizeof(file));
    RamfbMode m = mode_check(&file);
    if (!same_mode(&m, &s->mode)) {
        TRACE(ramfb_mode, m.gpa, GUINT32_FROM_BE(file.fourcc), m.width, m.height, m.stride, m.format != NULL);
        if (!m.format && file.fourcc) {
            LOG(LOG_GUEST_ERROR, "ramfb: %ux%u in format 0x%08x, %u bytes a line, cannot be shown", m.width,
                m.height, GUINT32_FROM_BE(file.fourcc), m.stride);
        }
        s->mode = m;
    }
    return m;
}

static void ramfb_render(void *opaque, DisplaySurface *surface)
{
    RamfbState *s = opaque;
    AddressSpace *as = DEVICE(s)->env->memory;
    RamfbMode m = current_mode(s);

    if (!m.format) {
        display_surface_resize(surface, BLANK_WIDTH, BLANK_HEIGHT);
        memset(surface->pixels, 0, (size_t)BLANK_WIDTH * BLANK_HEIGHT * sizeof(uint32_t));
        return;
    }
    display_surface_resize(surface, m.width, m.height);
    size_t bytes = (size_t)m.width * m.format->bytes;
    g_autofree uint8_t *line = g_malloc(bytes);
    for (uint32_t y = 0; y < m.height; y++) {
        if (address_space_read(as, m.gpa + (uint64_t)y * m.stride, MEMTXATTRS_DMA, line, bytes) != MEMTX_OK) {
            memset(line, 0, bytes); /* no RAM there */
        }
        convert_line(m.format, line, surface->pixels + (size_t)y * m.width, m.width);
    }
}

static const DisplayConsoleOps ramfb_console_ops = { .render = ramfb_render };

/* ---- life ---- */

/* A start through SeaBIOS shows nothing without it; OVMF brings its own. */
static bool add_rom(const DeviceEnv *env, GError **error)
{
    g_autoptr(GByteArray) rom =
        env->firmware ? firmware_file_load(env->firmware_dirs, ROM_NAME, ROM_MAX, NULL) : NULL;
    return !rom || fw_cfg_add_file(env->fw_cfg, "vgaroms/" ROM_NAME, rom->data, rom->len, error);
}

static bool ramfb_realize(Device *dev, GError **error)
{
    RamfbState *s = RAMFB(dev);
    const DeviceEnv *env = dev->env;
    const RamfbFile off = { 0 };

    if (!env || !env->memory || !env->fw_cfg) {
        return error_set(error, "%s needs fw_cfg, which this machine has not", TYPE_RAMFB);
    }
    if (!fw_cfg_add_writable_file(env->fw_cfg, RAMFB_FILE, &off, sizeof(off), error)) {
        error_append_hint(error, "A machine has one %s at most.", TYPE_RAMFB);
        return false;
    }
    if (!add_rom(env, error)) {
        return false;
    }
    if (env->displays) {
        s->console = display_console_new(env->displays, OBJECT(dev), &ramfb_console_ops, s);
    }
    return true;
}

static void ramfb_unrealize(Device *dev)
{
    RamfbState *s = RAMFB(dev);
    display_console_free(s->console);
    s->console = NULL;
}

static void ramfb_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    dc->realize = ramfb_realize;
    dc->unrealize = ramfb_unrealize;
    dc->category = "Display";
    dc->user_creatable = true;
    dc->hotpluggable = false;
}

static const TypeInfo ramfb_info = {
    .name = TYPE_RAMFB,
    .parent = TYPE_DEVICE,
    .description = "a screen in guest memory, as firmware sets it up",
    .instance_size = sizeof(RamfbState),
    .class_init = ramfb_class_init,
};
TYPE_REGISTER(ramfb_info);
